"""As much of Python's DB-API (PEP 249) as SQLAlchemy's SQLite dialect uses, over the driver's connections.

APSW is no DB-API module by intent: SQLite's own ways show through it. SQLAlchemy, which makes and upgrades the tables
(`migrating.py`), takes this module for its driver, and `Connection` for a connection. Transactions are the caller's:
`commit` and `rollback` end the one that is open, if any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import apsw

from gestalt_cas.sql import sqlite

paramstyle = "qmark"
Binary = bytes
sqlite_version_info = sqlite.version()
Error = apsw.Error
ProgrammingError = apsw.SQLError
"""SQLAlchemy asks whether an error of this kind says that a connection was closed; none of ours does."""


class Cursor:
    """One statement after another, with what each gave and did."""

    arraysize = 1

    def __init__(self, connection: sqlite.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._columns: list[Any] = [None]
        self._cursor.exec_trace = _noting(self._columns)
        self._before = 0

    @property
    def description(self) -> Any:
        """The columns of the last statement; None when it gives no rows."""
        return self._columns[0]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> None:
        self._before = self._connection.total_changes()
        self._cursor.execute(statement, values)

    def executemany(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        self._before = self._connection.total_changes()
        self._cursor.executemany(statement, values)

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def fetchmany(self, size: int = arraysize) -> list[Any]:
        return list(islice(self._cursor, size))

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    @property
    def lastrowid(self) -> int:
        """The rowid of the row that the connection inserted last."""
        return self._connection.last_insert_rowid()

    @property
    def rowcount(self) -> int:
        """How many rows the last statement has changed."""
        return self._connection.total_changes() - self._before

    def close(self) -> None:
        self._cursor.close()


def _noting(columns: list[Any]) -> Callable[..., bool]:
    """What a cursor of the driver calls when a statement begins, to put its columns down in the list.

    The driver tells the columns of a statement that runs; one that gave no row has ended when `execute` returns. A
    method of `Cursor` would be a cycle, and keep a statement that nobody reads to its end running until the collector
    comes by; what must not run beside one (dropping a table, a checkpoint) would fail.
    """

    def begins(cursor: Any, *_: object) -> bool:
        columns[0] = cursor.description or None
        return True

    return begins


class Connection:
    """A connection of the driver, lent: closing this leaves it open."""

    def __init__(self, lent: sqlite.Connection) -> None:
        self._lent = lent

    def cursor(self) -> Cursor:
        return Cursor(self._lent)

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        self._end("ROLLBACK")

    def _end(self, how: str) -> None:
        if self._lent.in_transaction:
            self._lent.execute(how)

    def close(self) -> None: ...

    def create_function(
        self, name: str, arguments: int, function: Callable[..., Any], *, deterministic: bool = False
    ) -> None:
        """Have SQLite call the function by this name, with so many arguments."""
        self._lent.create_scalar_function(name, function, arguments, deterministic=deterministic)
