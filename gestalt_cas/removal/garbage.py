"""Garbage collection: removes the payloads that no version reaches, and what dead uploads left in staging.

A payload goes in two steps. First it is recorded as unreachable, and that is committed. Then, in a later transaction
under write.lock, what is recorded and still unreachable loses its rows, the transaction is committed, and the files are
unlinked before the lock is let go. So

    - nothing an answered call relies on is removed: a write or copy that wants the payload decides about it under the
      same lock, and publishes its own bytes again when they have gone (payloads.Payloads.vouch);
    - a power cut cannot bring back a row whose file went: the commit is on the disk before the file goes. At worst it
      brings back a file without a row, which nobody trusts and the next run finds.

Payloads that are rows go the same way, and are gone with the commit. Two more things are collected: a file whose
payload is a row by now, which nobody reads, and a row of `inlined` that no payload names (`strays.py`).

The second step is in `sweeps.py`, a batch at a time, so that writers hardly wait. Grace is politeness (an unreachable
payload may be written again soon); the lock is the safety. A live pin (a running backup) keeps everything.
Design: docs/design.md, "Removing".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from gestalt_cas import sizes
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import StoreError
from gestalt_cas.files.layout import out_of_files
from gestalt_cas.keeping import pins, reachability, removals
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.remedies import command
from gestalt_cas.removal import clock_guard, releases, soundness, strays
from gestalt_cas.removal.sweeps import Sweep
from gestalt_cas.system.refusals import free_bytes

NOTE = "gc.last"
FAN_OUT = 256
_ALWAYS = 1 << 62
"""Later than any time that is recorded: without grace, what this run records goes at once."""
_LOOKING = "looking for payloads that no version reaches"
_LAST_RESORT = "remove versions for good (gestalt-cas rm --version-id, purge, retention run), or make room on the disk"
_ESTIMATE_SECONDS = 0.25
_ESTIMATE_LASTS = 5.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run removed, or in a dry run would remove. Sizes in bytes; payloads that were rows count as files.

    `fresh_*` are unreachable for less than the grace; `pinned_*` are kept by `pinned_by`, the live pins; `stuck_files`
    could not be removed, the last of them for `stuck_reason`: nothing vouches for them, and the next run tries again.
    """

    dry_run: bool
    files: int = 0
    bytes: int = 0
    fresh_files: int = 0
    fresh_bytes: int = 0
    pinned_files: int = 0
    pinned_bytes: int = 0
    pinned_by: tuple[str, ...] = ()
    staging_files: int = 0
    stuck_files: int = 0
    stuck_reason: str = ""

    @property
    def result(self) -> str:
        """The outcome in a word, for the note that the run leaves."""
        return "stuck" if self.stuck_files else "pinned" if self.pinned_files else "done"


@dataclass(frozen=True, slots=True)
class Reclaimable:
    """Bytes that collection would free; not `exact` when there was no time to look at the whole store."""

    bytes: int
    exact: bool


class Collector:
    """Collects the garbage of one store. Thread-safe; other processes may collect at the same time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._estimate_lock = threading.Lock()
        self._estimate: tuple[float, Reclaimable] | None = None

    def collect(
        self, *, grace_seconds: float = 0.0, dry_run: bool = False, progress: Progress | None = None
    ) -> Collected:
        """Remove what has been unreachable for `grace_seconds`; with `dry_run` only say what would be removed.

        Safe beside every other call, in every process. Works on a full disk. `progress` may raise to stop: what is
        removed by then stays removed, the rest waits for the next run. Raises StoreBusy, StorageFault, with a grace
        ClockSuspect, and DatabaseDamaged, with nothing removed, when rows that say what stays are none that a write
        stores.
        """
        tell, begun_ms = progress or silent, now_ms()
        until_ms = begun_ms - int(grace_seconds * 1000) if grace_seconds else _ALWAYS
        if dry_run:
            return self._foresee(until_ms, tell)
        if grace_seconds:
            clock_guard.require(self._parts, begun_ms)
        staging = self._parts.blobs.staging.clean()
        releases.release(self._parts, lambda done: tell("letting go of what deleted snapshots kept", done, 0))
        for first in range(FAN_OUT):
            self._record(first)
            tell(_LOOKING, first + 1, FAN_OUT)
        sweep = Sweep(self._parts, until_ms)
        if sweep.has_any():
            soundness.require(self._parts)
        self._sweep(sweep, tell)
        self._on_reserve(lambda: strays.collect(self._parts))
        result = self._outcome(sweep, until_ms, staging)
        note = {"at_ms": now_ms(), "result": result.result, **asdict(result)}
        self._on_reserve(lambda: self._parts.note(NOTE, note))
        self._parts.reserve.keep()
        with self._estimate_lock:
            self._estimate = None
        return result

    def sweep_now(self, digests: list[bytes], progress: Progress = silent) -> Collected:
        """Remove these payloads, which a committed transaction recorded as unreachable, without grace.

        What a version reaches, or a live pin keeps, stays.
        """
        sweep = Sweep(self._parts, _ALWAYS, only=digests)
        self._sweep(sweep, progress)
        return _removed_by(sweep)

    def reclaimable(self) -> Reclaimable:
        """What a run without grace would free, from the rows alone; takes a quarter of a second at most.

        Remembered for a few seconds, since a full disk makes every upload ask.
        """
        with self._estimate_lock:
            if self._estimate is not None and time.monotonic() - self._estimate[0] < _ESTIMATE_LASTS:
                return self._estimate[1]
            deadline = time.monotonic() + _ESTIMATE_SECONDS
            total, exact = 0, True
            for first in range(FAN_OUT):
                if time.monotonic() > deadline:
                    exact = False
                    break
                with self._parts.database.read() as tx:
                    total += reachability.unreached_bytes(tx, first)
            with self._parts.database.read() as tx:
                # What deleted snapshots kept comes on top of it.
                kept, more = removals.to_release(tx)
            found = Reclaimable(total, exact and not kept and more is None)
            self._estimate = (time.monotonic(), found)
            return found

    def advice(self) -> str:
        """What helps a full disk: the bytes free and reclaimable, and the command that frees them if any are."""
        root = self._parts.layout.root
        free = f"{sizes.told(free_bytes(root))} are free"
        if out_of_files(root):
            free += ", but the file system can hold no more files"
        try:
            found = self.reclaimable()
        except StoreError:  # the disk that has no room may fail to read, too; what failed first is what to report
            return free
        least = "" if found.exact else "at least "
        if found.exact and not found.bytes:
            return f"{free}, and gc knows of none to free: {_LAST_RESORT}"
        return f"{free}, {least}{sizes.told(found.bytes)} reclaimable with: {command('gc', root)}"

    # ---- looking ----

    def _record(self, first: int) -> None:
        """Record what is unreachable among the digests that begin with this byte, and commit that.

        Struck off is what a version has come to reach again, so that its grace begins anew, and what was recorded by a
        clock that ran ahead, which would keep it for as long.
        """
        found, before = self._look(first)
        known = {digest for digest, since_ms in before.items() if since_ms <= now_ms()}
        fresh = [garbage for garbage in found if garbage.digest not in known]
        gone = before.keys() - (known & {garbage.digest for garbage in found})
        if fresh or gone:
            self._on_reserve(lambda: self._commit_record(fresh, gone))

    def _look(self, first: int) -> tuple[list[Garbage], dict[bytes, int]]:
        """What is unreachable now, files without a row included, and what was recorded before.

        Listed before the rows are read: a file whose row is committed in between has a row then.
        """
        files = self._parts.blobs.listed(first)
        with self._parts.database.read() as tx:
            known = reachability.known(tx, first)
            found = reachability.unreached(tx, first)
            before = reachability.marked(tx, first)
        orphans = [Garbage(digest, size) for digest, size in files if digest not in known]
        return [*found, *orphans], before

    def _commit_record(self, fresh: list[Garbage], gone: set[bytes]) -> None:
        with self._parts.database.write() as tx:
            for digest in gone:
                reachability.unmark(tx, digest)
            for garbage in fresh:
                reachability.mark(tx, garbage, now_ms())

    def _foresee(self, until_ms: int, tell: Progress) -> Collected:
        staging = self._parts.blobs.staging.clean(dry_run=True)
        found, since = releases.foreseen(self._parts), dict[bytes, int]()
        for first in range(FAN_OUT):
            more, before = self._look(first)
            found += more
            since |= before
            tell(_LOOKING, first + 1, FAN_OUT)
        at = now_ms()
        ripe = [garbage for garbage in found if since.get(garbage.digest, at) <= until_ms]
        if ripe:
            soundness.require(self._parts)
        fresh = [garbage.size for garbage in found if since.get(garbage.digest, at) > until_ms]
        return self._foreseen(ripe, fresh, staging)

    def _foreseen(self, ripe: list[Garbage], fresh: list[int], staging: int) -> Collected:
        with self._parts.database.read() as tx:
            names = tuple(pin.name for pin in pins.live(tx, now_ms())) if ripe else ()
        pinned = [garbage.size for garbage in ripe] if names else []
        removed = [] if names else [garbage.size for garbage in ripe if self._has_bytes(garbage)]
        return Collected(
            True, len(removed), sum(removed), len(fresh), sum(fresh), len(pinned), sum(pinned), names, staging
        )

    def _has_bytes(self, garbage: Garbage) -> bool:
        """A row may have lost its file: then there is nothing to remove but the row."""
        return garbage.inlined or self._parts.blobs.removable(garbage.digest)

    # ---- removing ----

    def _sweep(self, sweep: Sweep, tell: Progress) -> None:
        self._on_reserve(sweep.drop_dead_pins)
        while self._on_reserve(sweep.batch):
            tell("removing payloads", sweep.files, 0)

    def _outcome(self, sweep: Sweep, until_ms: int, staging: int) -> Collected:
        with self._parts.database.read() as tx:
            ripe, fresh = reachability.standing(tx, until_ms)
        pinned = ripe if sweep.pinned_by else (0, 0)
        return replace(
            _removed_by(sweep),
            fresh_files=fresh[0],
            fresh_bytes=fresh[1],
            pinned_files=pinned[0],
            pinned_bytes=pinned[1],
            staging_files=staging,
        )

    def _on_reserve(self, step: Callable[[], Result]) -> Result:
        return self._parts.reserve.spend_on(step)


def _removed_by(sweep: Sweep) -> Collected:
    """What a sweep removed so far."""
    reason = sweep.stuck[-1] if sweep.stuck else ""
    return Collected(
        False,
        sweep.files,
        sweep.bytes,
        pinned_by=sweep.pinned_by,
        stuck_files=len(sweep.stuck),
        stuck_reason=reason,
    )
