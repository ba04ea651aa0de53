"""The second step of garbage collection: payloads that are recorded as unreachable go, a batch at a time.

A batch takes what is recorded and still unreachable, under write.lock: its rows go, the transaction is committed, and
the files are unlinked before the lock is let go (`garbage.py` says why in this order). A live pin keeps everything.

The lock is held for at most BATCH_FILES files or about BATCH_SECONDS, so writers hardly wait: batches begin small and
grow while the disk keeps up.
"""

from __future__ import annotations

import logging
import time
from itertools import accumulate

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import StoreError
from gestalt_cas.keeping import pins, reachability
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.operations.parts import Parts
from gestalt_cas.sql.sqlite import Connection

log = logging.getLogger(__name__)

BATCH_FILES = 200
FIRST_BATCH_FILES = 16
BATCH_BYTES = 1 << 30
BATCH_SECONDS = 0.05


class Sweep:
    """The sweep of one run: what was recorded until `until_ms` (inclusive), or what of it is among `only`.

    `files` and `bytes` went so far; `stuck` has a reason for each file that could not be removed. `pinned_by` are the
    live pins for which nothing went.
    """

    def __init__(self, parts: Parts, until_ms: int, only: list[bytes] | None = None) -> None:
        self._parts = parts
        self._until_ms = until_ms
        self._only = only
        self._at = 0
        self._after = b""
        self._most = FIRST_BATCH_FILES
        self._were_rows: set[bytes] = set()
        self.files = self.bytes = 0
        self.stuck: list[str] = []
        self.pinned_by: tuple[str, ...] = ()

    def drop_dead_pins(self) -> bool:
        """Drop the pins of owners that were killed; returns whether there were any."""
        with self._parts.database.read() as tx:
            if all(pin.live(now_ms()) for pin in pins.standing(tx)):
                return False
        with self._parts.database.write() as tx:
            dead = pins.drop_dead(tx, now_ms())
        for pin in dead:
            log.warning("dropped the pin %s: its owner has given no sign of life", pin.name)
        return bool(dead)

    def has_any(self) -> bool:
        """Whether there is anything to remove, as far as a view can tell."""
        with self._parts.database.read() as tx:
            return bool(self._next(tx))

    def batch(self) -> bool:
        """Remove one batch; returns whether there may be more."""
        with self._parts.database.read() as tx:
            if not self._next(tx):
                return False  # without a commit: most runs find nothing
        taken: list[Garbage] = []
        with self._parts.database.write(committed=lambda: self._unlink(taken)) as tx:
            self.pinned_by = tuple(pin.name for pin in pins.live(tx, now_ms()))
            if not self.pinned_by:
                taken += self._next(tx)
            self._were_rows = {garbage.digest for garbage in taken if self._forget(tx, garbage)}
        return bool(taken)

    def _forget(self, tx: Connection, garbage: Garbage) -> bool:
        """Remove the rows, but of a payload that is a row and is reached: of that only a stray file is to go."""
        if garbage.inlined and reachability.is_reached(tx, garbage.digest):
            reachability.unmark(tx, garbage.digest)
            return False
        return reachability.forget(tx, garbage.digest)

    def _next(self, tx: Connection) -> list[Garbage]:
        """The next batch of what is recorded, unreachable still, and old enough: one file at least."""
        if self._only is None:
            found = reachability.ripe(tx, self._after, self._until_ms, self._most)
        else:
            found = self._next_of_only(tx, self._only)
        sizes = accumulate(garbage.size for garbage in found)
        return [
            garbage
            for index, (garbage, size) in enumerate(zip(found, sizes, strict=True))
            if size <= BATCH_BYTES or not index
        ]

    def _next_of_only(self, tx: Connection, only: list[bytes]) -> list[Garbage]:
        """The same of those that were named. What is passed because it is not recorded is not looked at again.

        So a batch costs what it takes, and not what was named: a purge may name hundreds of thousands.
        """
        found: list[Garbage] = []
        for index in range(self._at, len(only)):
            recorded = reachability.recorded(tx, only[index])
            if not recorded and not found:
                self._at += 1
            found += recorded
            if len(found) >= self._most:
                break
        return found[: self._most]

    def _unlink(self, taken: list[Garbage]) -> None:
        """Remove the files, after the commit and still under the lock. One that stays is an orphan of the next run."""
        started, before = time.monotonic(), len(self.stuck)
        for garbage in taken:
            self._after = garbage.digest
            try:
                removed = self._parts.blobs.remove(garbage.digest)
            except StoreError as error:
                self.stuck.append(str(error))
                continue
            if removed or garbage.digest in self._were_rows:
                self.files += 1
                self.bytes += garbage.size
        if len(self.stuck) > before:
            log.warning("%d payloads that no version reaches stay behind: %s", len(self.stuck), self.stuck[-1])
        if time.monotonic() - started > BATCH_SECONDS:
            self._most = max(1, self._most // 2)
        else:
            self._most = min(BATCH_FILES, self._most * 2)
