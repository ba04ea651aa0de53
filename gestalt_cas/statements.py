"""Statements written with SQLAlchemy Core, compiled once to text, and run on the driver's connection.

Through SQLAlchemy's own execution the same lookup costs several times as much (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.sql.elements import ClauseElement

from gestalt_cas.sqlite import Connection

_DIALECT = sqlite_dialect(paramstyle="qmark")


class Prepared:
    """A Core statement, compiled when it is first used; a call runs it on a driver connection and returns all rows."""

    sql: str
    _names: tuple[str, ...]
    _defaults: dict[str, Any]

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause

    def __getattr__(self, name: str) -> Any:
        """Compile when what comes of it is not there yet: a process needs few of the statements."""
        if name not in Prepared.__annotations__:
            raise AttributeError(name)
        compiled: Any = self._clause.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._defaults = {k: v for k, v in compiled.params.items() if v is not None}
        return vars(self)[name]

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        if self._defaults:
            values = {**self._defaults, **values}
        return connection.execute(self.sql, [values[name] for name in self._names]).fetchall()


def parameter(name: str, type_: Any = None) -> Any:
    """A value that a call of the statement gives under this name."""
    return bindparam(name, type_=type_)
