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
    """A Core statement compiled once; a call runs it on a driver connection and returns all rows."""

    def __init__(self, clause: ClauseElement) -> None:
        compiled: Any = clause.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._defaults: dict[str, Any] = {k: v for k, v in compiled.params.items() if v is not None}

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        if self._defaults:
            values = {**self._defaults, **values}
        return connection.execute(self.sql, [values[name] for name in self._names]).fetchall()


def parameter(name: str, type_: Any = None) -> Any:
    """A value that a call of the statement gives under this name."""
    return bindparam(name, type_=type_)
