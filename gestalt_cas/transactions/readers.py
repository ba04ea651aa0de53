"""The connections that reads are made on: one for each that runs at the moment, and a few that wait for the next.

Each shows one view of the database at a time and can change nothing. Closing the last connection of all checkpoints, so
what is closed after the store was is closed under write.lock, or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from gestalt_cas.errors import DatabaseDamaged, ShuttingDown, StoreBusy
from gestalt_cas.files.place import Place
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.system.locks import WriterLock
from gestalt_cas.transactions.connections import connect
from gestalt_cas.transactions.database_faults import Faults
from gestalt_cas.transactions.wal import Wal

Result = TypeVar("Result")
Subject = TypeVar("Subject")

_IDLE = 16
_LOCK_SECONDS = 1.0
_CACHE_KIB = 2048
"""Pages that each reader keeps. With 16 MiB lookups and listings of a million objects take as long, and upkeep that
goes through all rows fills one reader's after another's."""

_abandoned: list[Connection] = []
"""Connections that could not be closed under write.lock; kept, since collecting one closes it."""


class Readers:
    """The readers of one open database. Thread-safe."""

    def __init__(self, path: Path, writer_lock: WriterLock, faults: Faults, place: Place, wal: Wal) -> None:
        self._path = path
        self._writer_lock = writer_lock
        self._faults = faults
        self._place = place
        self._wal = wal
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def view(self) -> Iterator[Connection]:
        """One consistent view for the block. Every SELECT in it must be fetched to its end."""
        connection = self._borrow()
        try:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")
        except DriverError as error:
            self._discard(connection)
            raise self._faults.noted(error) from error
        except BaseException:
            self._give_back(connection)
            raise
        self._give_back(connection)

    def ask(self, question: Callable[[Connection, Subject], Result], subject: Subject) -> Result:
        """What one SELECT answers about `subject`: a view of its own, at half the cost of a transaction around it."""
        # As in `view`, written out: a generator around it would be a tenth of a lookup.
        connection = self._borrow()
        try:
            answer = question(connection, subject)
        except DriverError as error:
            self._discard(connection)
            raise self._faults.noted(error) from error
        except BaseException:
            self._give_back(connection)
            raise
        self._give_back(connection)
        return answer

    def close(self) -> bool:
        """Lend none from now on; returns False when it was so already. Those that wait are left to `take`."""
        with self._lock:
            before, self._closed = self._closed, True
        return not before

    def take(self) -> list[Connection]:
        """All that nobody is using; the caller closes them under write.lock."""
        with self._lock:
            taken, self._idle = self._idle, []
        return taken

    def _borrow(self) -> Connection:
        self._writer_lock.require()
        self._place.glance()
        with self._lock:
            if self._closed:
                raise ShuttingDown("the store is closed")
            if self._idle:
                return self._idle.pop()
        try:
            connection = connect(self._path, cache_kib=_CACHE_KIB)
        except DatabaseDamaged as damage:
            self._faults.suspect_damage(damage)
            raise
        try:
            connection.execute("PRAGMA query_only=ON")
        except DriverError as error:
            self._discard(connection)
            raise self._faults.noted(error) from error
        return connection

    def _give_back(self, connection: Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except DriverError as error:
                self._faults.note(error)
                self._discard(connection)
                return
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        self._discard(connection)

    def _discard(self, connection: Connection) -> None:
        """Close a reader. It is never the last connection while the writer's is open; after `close` it may be."""
        if not self._closed:
            connection.close()
            return
        try:
            with self._writer_lock.held(_LOCK_SECONDS):
                self._wal.close(connection)
        except (StoreBusy, ShuttingDown):
            abandon([connection])


def abandon(connections: list[Connection]) -> None:
    """Leave what cannot be closed under write.lock to the end of the process, without a checkpoint.

    The interpreter collects what there is at its own end, and that closes it.
    """
    for connection in connections:
        with suppress(*DriverError):  # another thread is in a statement of it
            sqlite.leave_wal(connection)
    _abandoned.extend(connections)
