"""Statements of the store: SQL text with named values, run on the driver's connection.

They are written out: SQLAlchemy Core would make the same texts, but importing it takes more time than a short command
has and 15 MB of memory (docs/performance.md). SQLAlchemy describes the tables (`tables.py`) and makes them
(`migrating.py`); tests have SQLite compile every statement for the tables so made.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from gestalt_cas.sqlite import Connection

_NAME = re.compile(r":([a-z]\w*)")


class Prepared:
    """A statement with `:name` for each value; a call runs it on a driver connection and returns all rows."""

    __slots__ = ("_pick", "_sql", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._sql = ""  # a process needs few of the statements, so each is taken apart when it is first asked for
        self._pick: Callable[[dict[str, Any]], tuple[Any, ...]] = _nothing

    @property
    def sql(self) -> str:
        """The statement's text, with a question mark for each value."""
        return self._sql or self._taken_apart()

    def __call__(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        return connection.execute(self._sql or self._taken_apart(), self._pick(values)).fetchall()

    def insert(self, connection: Connection, **values: Any) -> int:
        """Run what inserts one row, and return its rowid, at half the cost of RETURNING."""
        connection.execute(self.sql, self._pick(values))
        return connection.last_insert_rowid()

    def _taken_apart(self) -> str:
        # The driver looks up names more slowly than positions.
        self._pick = _picking(tuple(_NAME.findall(self._text)))
        self._sql = _NAME.sub("?", " ".join(self._text.split()))  # last: whoever sees it finds the other there
        return self._sql


def _picking(names: tuple[str, ...]) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """What takes the values of these names, in their order, out of a dictionary."""
    if len(names) > 1:
        return itemgetter(*names)
    return (lambda values: (values[names[0]],)) if names else _nothing


def _nothing(_: dict[str, Any]) -> tuple[Any, ...]:
    return ()
