"""Statements of the store: SQL text with named values, run on the driver's connection.

They are written out: SQLAlchemy Core would make the same texts, but importing it takes more time than a short command
has and 15 MB of memory (docs/performance.md). SQLAlchemy describes the tables (`tables.py`) and makes them
(`migrating.py`); tests have SQLite compile every statement for the tables so made.
"""

from __future__ import annotations

from typing import Any

from gestalt_cas.sql.sqlite import Connection


class Prepared:
    """A statement with `:name` for each value; a call runs it on a driver connection and returns all rows.

    Raises KeyError for a value that is not given.
    """

    __slots__ = ("sql",)

    def __init__(self, text: str) -> None:
        self.sql = " ".join(text.split())

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        return connection.kept.execute(self.sql, values).fetchall()

    def insert(self, connection: Connection, **values: Any) -> int:
        """Run what inserts one row, and return its rowid, at half the cost of RETURNING."""
        connection.kept.execute(self.sql, values)
        return connection.last_insert_rowid()
