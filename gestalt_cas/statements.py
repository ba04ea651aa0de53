"""Statements written with SQLAlchemy Core, compiled once to text, and run on the driver's connection.

Through SQLAlchemy's own execution the same lookup costs several times as much (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from sqlalchemy import bindparam
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.sql.elements import ClauseElement

from gestalt_cas.sqlite import Connection

_DIALECT = sqlite_dialect(paramstyle="qmark")


class Prepared:
    """A Core statement, compiled when it is first used; a call runs it on a driver connection and returns all rows."""

    __slots__ = ("_clause", "_defaults", "_pick", "_sql")

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause
        self._sql = ""  # a process needs few of the statements, so each is compiled when it is first asked for
        self._defaults: dict[str, Any] = {}
        self._pick: Callable[[dict[str, Any]], tuple[Any, ...]] = _nothing

    @property
    def sql(self) -> str:
        """The statement's text, with a question mark for each value."""
        return self._sql or self._compiled()

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        sql = self._sql or self._compiled()
        if self._defaults:
            values = {**self._defaults, **values}
        return connection.execute(sql, self._pick(values)).fetchall()

    def insert(self, connection: Connection, **values: Any) -> int:
        """Run what inserts one row, and return its rowid, at half the cost of RETURNING."""
        cursor = connection.execute(self.sql, self._pick(values))
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def _compiled(self) -> str:
        compiled: Any = self._clause.compile(dialect=_DIALECT)
        self._pick = _picking(tuple(compiled.positiontup or ()))
        self._defaults = {k: v for k, v in compiled.params.items() if v is not None}
        self._sql = str(compiled)  # last: whoever sees it finds the others there
        return self._sql


def _picking(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """What takes the values of these names, in their order, out of a dictionary."""
    if len(names) > 1:
        return itemgetter(*names)
    return (lambda values: (values[names[0]],)) if names else _nothing


def _nothing(_: dict[str, Any]) -> tuple[Any, ...]:
    return ()


def parameter(name: str, type_: Any = None) -> Any:
    """A value that a call of the statement gives under this name."""
    return bindparam(name, type_=type_)
