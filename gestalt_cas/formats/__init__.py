"""The tables of each format, and the steps from one to the next: the only users of SQLAlchemy's schema and Alembic."""
