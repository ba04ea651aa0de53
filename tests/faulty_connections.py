"""Connections of a store that fail where a test wants them to, and what they are asked."""

from __future__ import annotations

from typing import Any

import pytest

from driver_aids import driver_error
from gestalt_cas import Store
from gestalt_cas.transactions import database


class Faulty:
    """A driver connection whose statements that start with `sql` fail, once or `times`; `after` doing their work."""

    def __init__(self, real: Any, sql: str, error: Exception, *, after: bool = False, times: int = 1) -> None:
        self.real, self.sql, self.error, self.after, self.times = real, sql, error, after, times
        self.statements: list[str] = []
        self.closed = False

    def execute(self, sql: str, *parameters: object) -> Any:
        self.statements.append(sql)
        if not sql.startswith(self.sql) or not self.times:
            return self.real.execute(sql, *parameters)
        self.times -= 1
        if self.after:
            self.real.execute(sql, *parameters)
        raise self.error

    def executemany(self, sql: str, parameters: object) -> Any:
        return self.real.executemany(sql, parameters)

    @property
    def kept(self) -> Faulty:
        return self

    @property
    def in_transaction(self) -> bool:
        return bool(self.real.in_transaction)

    def set_busy_timeout(self, milliseconds: int) -> None:
        self.real.set_busy_timeout(milliseconds)

    def setlk_timeout(self, milliseconds: int, flags: int) -> None:
        self.real.setlk_timeout(milliseconds, flags)

    def close(self) -> None:
        self.closed = True
        self.real.close()


def break_writer(store: Store, sql: str, code: int, **options: Any) -> Faulty:
    faulty = Faulty(store._database._writer, sql, driver_error(code), **options)
    store._database._writer = faulty  # type: ignore[assignment]
    return faulty


def break_reader(store: Store, sql: str, code: int, **options: Any) -> Faulty:
    """Make the next read meet the fault."""
    store.settings()  # so that there is an idle connection
    idle = store._database._readers._idle
    idle[-1] = faulty = Faulty(idle[-1], sql, driver_error(code), **options)  # type: ignore[assignment]
    return faulty


def writer(store: Store) -> Any:
    return store._database._writer


def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checks of the database that are made from now on."""
    connect, made = database.connect, []

    class Listening(Faulty):
        def execute(self, sql: str, *parameters: object) -> Any:
            if "_check" in sql:
                made.append(sql)
            return super().execute(sql, *parameters)

    monkeypatch.setattr(database, "connect", lambda path: Listening(connect(path), "none", ValueError()))
    return made
