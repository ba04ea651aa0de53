"""Transactions on metadata.sqlite3: one writer over all processes, many readers, group commit, and the WAL."""
