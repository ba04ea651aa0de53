"""How long the WAL may grow, and what shortens it.

SQLite moves committed pages from the WAL into the database only up to where the oldest reader stands, and a writer
begins the WAL anew only when no reader uses it. With many short readers there may never be such a moment by chance, so
one is made: whoever holds write.lock lets no commit in, waits a little until those who read an older state have left,
and moves the rest. From then on new readers use the database alone, and when the last of those before them has left,
too, the WAL is cut. That takes twice as long as the longest of the readers at hand.

Past PASSIVE_BYTES in use the background work moves what it can. Past RELIEF_BYTES a commit that takes another
STEP_BYTES does so itself, in case there is no background work. Past RESTART_BYTES both wait as said,
FIRST_PATIENCE seconds at most, and longer after a wait in vain, since readers are slower on a busy machine. A reader
who still stands where he stood at the last wait is no short one: the waits are short then and the pauses between them
grow, so that he costs writers little however long he stays. Nothing can shorten the WAL while he does, and it is warned
of. Past LIMIT_BYTES there are pauses, too.

The file itself, and the room that is kept in it, is the subject of `wal_file.py`. Everything here but looking at it is
done under write.lock (docs/design.md, "SQLite").
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from gestalt_cas import sizes
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.system import locks
from gestalt_cas.system.refusals import longest_file
from gestalt_cas.transactions.wal_file import WalFile

log = logging.getLogger(__name__)

PASSIVE_BYTES = 8 << 20
RELIEF_BYTES = 32 << 20
RESTART_BYTES = 64 << 20
LIMIT_BYTES = 128 << 20
STEP_BYTES = 4 << 20
FIRST_PATIENCE, LONGEST_PATIENCE = 0.25, 1.0
_SMALL_COMMITS = 8
"""Commits between two looks at the length: what they can add is less than the steps in which it is acted upon."""
_TURN = 0.001
_FIRST_PAUSE, _LONGEST_PAUSE = 4.0, 32.0
_WARN_SECONDS = 60.0
_FIRST_MARK, _LAST_MARK = 123, 127
"""The bytes of the shared memory file on which readers stand (SQLite's "WAL-Index File Format")."""


class Wal:
    """The WAL of one store as one process sees it."""

    def __init__(self, path: Path, shared_memory: Path) -> None:
        self.file = WalFile(path)
        self._shared_memory = shared_memory
        self._seen = self.taken(RELIEF_BYTES)
        self._patience, self._pause = FIRST_PATIENCE, _FIRST_PAUSE
        self._stands_at = -1
        self._unseen = 0
        self._pausing = False
        self._wait_again = self._warn_again = 0.0

    def relieve(self, connection: Connection, *, small: bool = False) -> None:
        """After a commit: shorten a long WAL, once for each STEP_BYTES that it takes; `small` ones look seldom."""
        self._unseen += 1
        if small and self._unseen < _SMALL_COMMITS:
            return
        self._unseen = 0
        before, self._seen = self._seen, self.taken(RELIEF_BYTES)
        if self._seen < RELIEF_BYTES or self._seen // STEP_BYTES == before // STEP_BYTES:
            return
        if self._seen < RESTART_BYTES:
            self.move(connection)
        else:
            self._shorten(connection, wait=not self._pausing or time.monotonic() >= self._wait_again)

    def taken(self, bound: int) -> int:
        """How many bytes are in use, or, if that cannot be more than `bound`, how long the file is."""
        length = self.file.bytes
        return length if length <= bound else self.file.taken()

    def tend(self, connection: Connection) -> None:
        """For the background work: shorten the WAL as its length asks for."""
        taken = self.taken(PASSIVE_BYTES)
        if taken > RESTART_BYTES:
            self._shorten(connection, wait=time.monotonic() >= self._wait_again)
        elif taken > PASSIVE_BYTES:
            self.move(connection)

    def move(self, connection: Connection) -> bool:
        """Move pages into the database as far as readers allow; returns whether all could be moved."""
        return not _in_the_way(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0])

    def cut(self, connection: Connection, patience: float = FIRST_PATIENCE) -> bool:
        """Move all pages and cut the file; returns whether that was done within `patience` seconds."""
        return not self._cut(connection, patience)[0]

    def crowded(self) -> bool:
        """Whether a large transaction might not fit in behind what is in use, for a file may not be that long."""
        longest = longest_file()
        return longest is not None and self.taken(longest // 2) > longest // 2

    def begin_anew(self, connection: Connection) -> bool:
        """Have the next write use the room that the file has, which stays as long as it is; returns whether it will."""
        return not self._cut(connection, FIRST_PATIENCE, "RESTART")[0]

    def close(self, connection: Connection) -> None:
        """Close a connection, which may be the last one of all.

        Closing that one moves all pages. The driver lets no other thread run meanwhile, not even one that is to end the
        process in time, so the pages of a long WAL are moved by a statement first.
        """
        try:
            if self.taken(PASSIVE_BYTES) > PASSIVE_BYTES and not connection.in_transaction:
                self.move(connection)
        except DriverError as error:
            log.warning("checkpoint before closing failed: %s", error)
        finally:
            connection.close()

    def _shorten(self, connection: Connection, *, wait: bool) -> None:
        found = self._cut(connection, self._patience if wait else 0.0)
        if not found[0]:
            self._pausing, self._stands_at, self._pause = False, -1, _FIRST_PAUSE
        elif wait:
            self._plan(moved=found[2])

    def _plan(self, *, moved: int) -> None:
        """After a wait in vain, in which this many pages could be moved: decide when to wait next, and how long."""
        stands = moved == self._stands_at
        self._stands_at = moved
        self._pausing = stands or self.file.bytes > LIMIT_BYTES
        if stands:
            self._patience, self._pause = FIRST_PATIENCE, min(self._pause * 2, _LONGEST_PAUSE)
            self._warn()
        else:
            self._patience, self._pause = min(self._patience * 2, LONGEST_PATIENCE), _FIRST_PAUSE
        self._wait_again = time.monotonic() + self._pause

    def _cut(self, connection: Connection, patience: float, mode: str = "TRUNCATE") -> tuple[int, int, int]:
        """Try until it is done or patience ends, once at least; returns whether it is not, the pages, and the moved.

        The first try moves most pages, however long that takes; what it waits for afterwards are readers.
        """
        (timeout,) = connection.execute("PRAGMA busy_timeout").fetchall()[0]
        # SQLite's own waiting goes on in steps of up to 100 ms, and tries but once what moves the pages.
        sqlite.set_wait(connection, 0)
        try:
            found = _try(connection, mode)
            deadline = time.monotonic() + patience
            while found[0] and time.monotonic() < deadline:
                time.sleep(_TURN)
                found = _try(connection, mode)
            return found
        finally:
            sqlite.set_wait(connection, timeout / 1000)

    def _warn(self) -> None:
        if time.monotonic() >= self._warn_again:
            self._warn_again = time.monotonic() + _WARN_SECONDS
            log.warning(
                "the WAL has %s and cannot be shortened: %s keeps a transaction open",
                sizes.told(self.file.bytes),
                self.readers(),
            )

    def readers(self) -> str:
        """Who reads at the moment, as far as the kernel tells: "this process, process 34"."""
        try:
            inode = self._shared_memory.stat().st_ino
            pids = {
                pid
                for pid, first, last in locks.listed("POSIX", inode)
                if last != "EOF" and first <= _LAST_MARK and int(last) >= _FIRST_MARK
            }
        except (OSError, ValueError, IndexError):
            pids = set()
        names = ["this process" if pid == os.getpid() else f"process {pid}" for pid in sorted(pids)]
        return ", ".join(names) or "some process"


def _try(connection: Connection, mode: str) -> tuple[int, int, int]:
    """Move all pages if no reader bars the way; returns whether one does, the pages, and the moved."""
    found: tuple[int, int, int] = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()[0]
    return found


def _in_the_way(found: tuple[int, int, int]) -> bool:
    busy, pages, moved = found
    return bool(busy) or pages != moved
