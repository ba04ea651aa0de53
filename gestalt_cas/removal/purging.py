"""Purging a key: all its versions and markers, and the bytes that nothing else reaches, gone when the call returns.

DeleteObject keeps history, and removing single versions leaves their payloads to gc. Purging is for what must not be
kept at all. Quarantined copies of the payloads go too, and go first: once the versions have gone nothing leads to them.
The names are gone for good when the call returns, so their directories are synced. What stays is named: payloads that
another version shares, and those that a running backup has pinned, which the first gc after it removes. Space on the
disk is given back, not overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import NoSuchKey, Protected
from gestalt_cas.keeping import holds, reachability, removals
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.objects import ObjectKey
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.remedies import command_here
from gestalt_cas.removal.garbage import Collector
from gestalt_cas.rows import version_ids, versions
from gestalt_cas.sql.sqlite import Connection

BATCH_ROWS = 500
"""Rows of the key, those of versions that were removed before included, that one transaction goes through."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge removed: versions (markers included), payload files, their bytes, quarantined copies.

    `shared` and `pinned` count payloads that stay: another version has them, or a live pin keeps them for now;
    `stuck_files` could not be removed, the last of them for `stuck_reason`.
    """

    key: ObjectKey
    versions: int
    files: int
    bytes: int
    quarantined: int
    shared: int
    pinned: int
    stuck_files: int = 0
    stuck_reason: str = ""


def purge(parts: Parts, collector: Collector, key: ObjectKey, progress: Progress = silent) -> Purged:
    """Remove the key whole; its bucket is a real name.

    Raises NoSuchKey when it has neither version nor marker, Protected while a snapshot shows one of its versions, and
    Held while one of them is held, or whatever is below a prefix of the key: nothing was removed then, unless the
    snapshot or hold came while it was under way. No trace of that is removed.
    What earlier removals left in the history is stripped as well.

    Works on a full disk. A key of more than BATCH_ROWS rows goes in several transactions, the oldest versions first, so
    that others hardly wait and a reader sees its object until the last of them. Cut off in the midst (`progress` may
    raise for that), what was removed by then is gone, the next gc removes its payloads, and another purge does the
    rest.
    """
    run = _Removal(parts, key)
    while not parts.reserve.spend_on(run.batch):
        progress("removing versions", run.versions, 0)
    unreached = sorted(run.unreached)
    swept = collector.sweep_now(unreached, progress)
    parts.blobs.sync_removals(unreached)
    shared, pinned = _staying(parts, sorted(run.payloads))
    return Purged(
        key,
        run.versions,
        swept.files,
        swept.bytes,
        sum(run.quarantined),
        shared,
        pinned,
        swept.stuck_files,
        swept.stuck_reason,
    )


def _staying(parts: Parts, digests: list[bytes]) -> tuple[int, int]:
    """How many of these payloads another version has, and how many a live pin keeps; in short views."""
    shared = pinned = 0
    for start in range(0, len(digests), BATCH_ROWS):
        with parts.database.read() as tx:
            for digest in digests[start : start + BATCH_ROWS]:
                pinned += bool(reachability.recorded(tx, digest))
                shared += reachability.is_reached(tx, digest)
    return shared, pinned


class _Removal:
    """The removal of a key's versions, a stretch of its rows at a time, from the oldest on.

    `versions` were removed so far; `payloads` are those that they and versions removed before had, as far as they are
    not collected yet, and `unreached` those that nothing reaches now. `quarantined` says how many copies were dropped
    from quarantine, each time: that stands even if a transaction is tried again.
    """

    def __init__(self, parts: Parts, key: ObjectKey) -> None:
        self._parts, self._key, self._name = parts, key, key.key.encode()
        self._after = -1
        self._stripped = 0
        self.versions = 0
        self.payloads: set[bytes] = set()
        self.unreached: set[bytes] = set()
        self.quarantined: list[int] = []

    def batch(self) -> bool:
        """Remove one stretch, and record in the same transaction what that leaves unreachable.

        Returns whether it was the last one.
        """
        with self._parts.database.write() as tx:
            self._refuse(tx)
            until = versions.step(tx, self._key, self._after, BATCH_ROWS)
            here = self._key.bucket, self._name, self._after, version_ids.LAST_SEQUENCE if until is None else until
            found = versions.between(tx, self._key, *here[2:])
            at_ms = now_ms()
            for version in found:  # the oldest first, so that what is then the newest is found at once
                versions.remove(tx, version, at_ms)
            if names := removals.snapshots_keeping(tx, *here):
                raise self._protected(tx, names)
            payloads = dict(removals.payloads(tx, *here))
            stripped = removals.strip(tx, *here)
            if until is None and not (self.versions or self._stripped or found or stripped):
                raise NoSuchKey(f"{self._key}: nothing to purge, it has no version")
            unreached = [digest for digest in sorted(payloads) if not reachability.is_reached(tx, digest)]
            for digest in unreached:
                reachability.mark(tx, Garbage(digest, payloads[digest]), now_ms())
            self.quarantined.append(self._parts.blobs.drop_quarantined(unreached))
        self.versions, self._stripped = self.versions + len(found), self._stripped + stripped
        self.payloads |= payloads.keys()
        self.unreached.update(unreached)
        self._after = here[3]
        return until is None

    def _refuse(self, tx: Connection) -> None:
        """Raise Held or Protected, at first also for what only a later stretch would meet.

        By then something would have been removed.
        """
        holds.require_sound(tx)
        reachability.require_digests(tx)
        holds.refuse_key(tx, self._key.bucket, self._name)
        if self._after >= 0:
            return
        for version_id in holds.of_versions(tx, self._key.bucket, self._name):
            if versions.by_id(tx, self._key, version_id) is not None:
                holds.refuse(tx, self._key.bucket, self._name, version_id)
        if names := removals.snapshots_showing(tx, self._key.bucket, self._name):
            raise self._protected(tx, names)

    def _protected(self, tx: Connection, names: list[str]) -> Protected:
        listed, delete = ", ".join(names), command_here("snapshot delete NAME", tx)
        return Protected(f"{self._key} is kept by snapshots: {listed}; delete them first ({delete})")
