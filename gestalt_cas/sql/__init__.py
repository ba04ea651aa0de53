"""SQLite as this store uses it: the driver, its statements, and what is fixed of the database."""
