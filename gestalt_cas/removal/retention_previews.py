"""Foreseeing what retention would remove now, and what gc would then free, to the byte.

Everything is judged in one view, by the same functions as a run (`retention_runs.py`), so the two agree unless the
store changes in between. Bytes count where nothing else reaches a payload: no version that stays, and no snapshot.

Like a run, a preview that has found something looks through the rows that say what stays before it goes on
(`soundness.py`), since a run would refuse by one that is damaged; where nothing would go, as mostly, nothing is looked
through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

from gestalt_cas.clock import now_ms
from gestalt_cas.keeping import reachability, removals, retention
from gestalt_cas.keeping.retention import Candidate, Stretch, Verdict
from gestalt_cas.objects import NULL_VERSION, ObjectKey, ObjectVersion
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.removal import horizons, soundness
from gestalt_cas.removal.retention_runs import Applied, keeps_its_place, stretches
from gestalt_cas.rows import settings, versions
from gestalt_cas.sql.sqlite import Connection

_JUDGING = "judging versions"
_AT_ONCE = 1_000
"""Versions of a key that are read at once."""


@dataclass(frozen=True, slots=True)
class Going:
    """A version that would go, or get a delete marker (`reason` "expired").

    Other reasons: "noncurrent"; "marker", a delete marker below which nothing is left; "replaced", the null version
    whose place an expired object's delete marker takes. `kept` tells that a snapshot keeps its payload.
    """

    version: ObjectVersion
    reason: str
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a run would remove now, as in Applied, and the `payloads` and bytes that gc would then free.

    `kept` is how many of the versions snapshots keep the payloads of.
    """

    versions: int
    markers: int
    bytes: int
    expired: int
    dropped: int
    kept: int
    payloads: int
    freed_bytes: int


def preview(
    parts: Parts,
    bucket: str | None,
    prefix: bytes,
    each: Callable[[Going], None] | None = None,
    progress: Progress = silent,
) -> Foreseen:
    """What `retention_runs.apply` would do now, judged in one view.

    `each` is told every version, keys in order, the oldest first, and should be quick: while the view is open the WAL
    is not shortened. `progress` may raise to stop. Raises DatabaseDamaged, before `each` is told anything, where a run
    would.
    """
    begun_ms, applied = now_ms(), Applied()
    with parts.database.read() as tx:
        sound, ledger = soundness.Once(parts, lambda: nullcontext(tx)), _Ledger(tx)
        for stretch in stretches(tx, settings.retention_rules(tx), bucket, prefix):
            progress(_JUDGING, applied.versions + applied.markers, 0)
            for number, one in enumerate(_going(tx, stretch, begun_ms, sound), 1):
                if number % _AT_ONCE == 0:
                    progress(_JUDGING, applied.versions + applied.markers, 0)
                if one.reason == "expired":
                    applied.expired += 1
                else:
                    applied.count(one.version)
                    ledger.enter(one)
                if each is not None:
                    each(one)
        progress("judging payloads", 0, 0)
        payloads, freed_bytes = ledger.freed()
        dropped = horizons.droppable(tx, begun_ms) if bucket is None else 0
        if dropped:
            sound.require()
    return Foreseen(
        applied.versions,
        applied.markers,
        applied.bytes,
        applied.expired,
        dropped,
        ledger.kept,
        payloads,
        freed_bytes,
    )


def _going(tx: Connection, stretch: Stretch, begun_ms: int, sound: soundness.Once) -> Iterator[Going]:
    """Everything that happens to the keys of a stretch; nothing comes before the rows are known to be `sound`."""
    lower: bytes | None = stretch.lower
    while lower is not None:
        found, lower = retention.candidates(tx, stretch, lower, begun_ms)
        if found:
            sound.require()
        for candidate in found:
            verdict = retention.judge(tx, candidate, stretch.rule, begun_ms)
            yield from _removed(tx, candidate, verdict)
            key = ObjectKey(candidate.bucket, candidate.key.decode())
            if verdict.expires and not keeps_its_place(tx, key):
                yield from _expired(tx, key, verdict)


def _removed(tx: Connection, candidate: Candidate, verdict: Verdict) -> Iterator[Going]:
    after = candidate.first - 1
    while found := retention.going(tx, candidate, verdict, after, _AT_ONCE):
        for version in found:
            last = verdict.bound == retention.ALL_OF_THEM and version.delete_marker
            yield Going(version, "marker" if last else "noncurrent", _is_kept(tx, version))
        after = found[-1].seq


def _expired(tx: Connection, key: ObjectKey, verdict: Verdict) -> Iterator[Going]:
    current = versions.current(tx, key)
    assert current is not None
    yield Going(current, "expired")
    replaced = versions.by_id(tx, key, NULL_VERSION) if settings.suspended(tx) else None
    if replaced is not None and replaced.seq >= verdict.bound:
        yield Going(replaced, "replaced", _is_kept(tx, replaced))


def _is_kept(tx: Connection, version: ObjectVersion) -> bool:
    """Whether a snapshot keeps the payload."""
    if version.delete_marker:
        return False
    return bool(removals.snapshots_of(tx, version.key.bucket, version.key.key.encode(), version.seq))


class _Ledger:
    """Which payloads nothing reaches any more when everything that was entered has gone."""

    def __init__(self, tx: Connection) -> None:
        self._tx = tx
        self._shared: dict[bytes, tuple[int, int]] = {}
        self._payloads = self._bytes = 0
        self.kept = 0

    def enter(self, one: Going) -> None:
        """Enter a version that goes."""
        version = one.version
        if version.delete_marker:
            return
        if one.kept:
            self.kept += 1
            return
        digest = bytes.fromhex(version.digest)
        going, _ = self._shared.get(digest, (0, 0))
        if not going and reachability.references(self._tx, digest, 2) == 1:
            self._payloads, self._bytes = self._payloads + 1, self._bytes + version.size
        else:
            self._shared[digest] = going + 1, version.size

    def freed(self) -> tuple[int, int]:
        """How many payloads and bytes that frees."""
        for digest, (going, size) in self._shared.items():
            if reachability.references(self._tx, digest) == going:
                self._payloads, self._bytes = self._payloads + 1, self._bytes + size
        return self._payloads, self._bytes
