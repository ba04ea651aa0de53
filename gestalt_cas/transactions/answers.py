"""What the database was asked about settings and quotas, kept for as long as nobody can have changed it.

SQLite's data_version tells whether another connection has committed since; our own transactions that may change such
answers say so. Used under the writer lock, except for `recent`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gestalt_cas.sql.sqlite import Connection

Result = TypeVar("Result")


class Answers:
    """The answers that one database's writer knows, by the function that asks."""

    def __init__(self) -> None:
        self._known: dict[Callable[[Connection], Any], Any] = {}
        self._as_of: object = None

    def settled(self, connection: Connection, question: Callable[[Connection], Result]) -> Result:
        """The answer, asked for in this transaction unless it is known."""
        answer: Result | None = self._known.get(question)
        if answer is None:  # none is known, or it is None itself
            answer = self._known[question] = question(connection)
        return answer

    def recent(self, question: Callable[[Connection], Result]) -> Result | None:
        """The last answer; None when it is not known."""
        answer: Result | None = self._known.get(question)
        return answer

    def forget(self) -> None:
        """Ask everything anew."""
        self._as_of = None
        self._known.clear()

    def may_be_old(self, connection: Connection) -> bool:
        """Whether another connection may have committed since `hold_from_now`; all answers are forgotten then."""
        if _version(connection) == self._as_of:
            return False
        self.forget()
        return True

    def hold_from_now(self, connection: Connection) -> None:
        """What is asked from now on in this transaction counts until somebody else commits."""
        self._as_of = _version(connection)


def _version(connection: Connection) -> tuple[Connection, object]:
    return connection, connection.execute("PRAGMA data_version").fetchall()[0][0]
