"""Applying retention, and foreseeing what that removes and frees.

Candidates are looked for in short views, a stretch of rows at a time, by `retention.candidates`. What goes is then
removed in small transactions, in each of which the rules are read again and every key is judged again, so nothing goes
that has changed meanwhile. Rows are removed as any caller removes them: the history keeps what it knows, snapshots keep
their payloads, quotas are credited, and gc frees the bytes. A run that is cut off leaves whole keys or the newer part
of one; the next run does the rest. The time that versions are judged by is that of the run's beginning, when the clock
guard looked.

A transaction removes at most BATCH_ROWS versions and takes about BATCH_SECONDS: batches begin small and grow while the
machine keeps up. Works on a full disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial

from gestalt_cas import clock_guard, holds, horizons, reachability, removals, retention, settings, versions
from gestalt_cas.clock import now_ms
from gestalt_cas.objects import NO_HEADERS, NULL_VERSION, ObjectKey, ObjectVersion
from gestalt_cas.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.retention import Candidate, Rule, Stretch, Verdict
from gestalt_cas.sqlite import Connection

NOTE = "retention.last"
BATCH_ROWS = 200
FIRST_BATCH_ROWS = 16
BATCH_SECONDS = 0.05
_FORESEEN_AT_ONCE = 1_000


@dataclass(slots=True)
class Applied:
    """What a run removed. `bytes` is the size of the `versions`, whether or not payloads are shared; gc frees them.

    `versions` does not count the delete `markers` that went. `expired` objects got a delete marker. `dropped` is how
    many versions, removed longer ago than `history.keepDays`, the history no longer knows.
    """

    versions: int = 0
    markers: int = 0
    bytes: int = 0
    expired: int = 0
    dropped: int = 0

    def count(self, version: ObjectVersion) -> None:
        """Count a version or marker that went."""
        if version.delete_marker:
            self.markers += 1
        else:
            self.versions, self.bytes = self.versions + 1, self.bytes + version.size

    @property
    def anything(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


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


# ---- applying ----


def apply(parts: Parts, bucket: str | None, prefix: bytes, progress: Progress | None = None) -> Applied:
    """Remove what the rules say, and without a bucket also drop what is older than `history.keepDays`.

    With a bucket ("": the default one) only of its keys that start with `prefix`. Raises ClockSuspect, StoreBusy,
    StorageFault.
    """
    run = _Run(parts, bucket, prefix, progress or silent, now_ms())
    clock_guard.require(parts, run.now_ms)
    while not run.through():
        pass
    if bucket is None:
        run.applied.dropped = horizons.drop(parts, run.now_ms, run.tell)
        note = {"at_ms": run.now_ms, "result": "done", **asdict(run.applied)}
        parts.reserve.spend_on(lambda: parts.note(NOTE, note))
    parts.reserve.keep()
    return run.applied


class _RulesChanged(Exception):
    """The rules are others than those that the candidates were looked for by."""


class _Run:
    def __init__(self, parts: Parts, bucket: str | None, prefix: bytes, tell: Progress, begun_ms: int) -> None:
        self._parts = parts
        self._bucket = bucket
        self._prefix = prefix
        self._rules: dict[str, dict[str, object]] = {}
        self._most = FIRST_BATCH_ROWS
        self.tell = tell
        self.now_ms = begun_ms
        self.applied = Applied()

    def through(self) -> bool:
        """Apply the rules as they are now everywhere; False when they changed meanwhile."""
        with self._parts.database.read() as tx:
            self._rules = settings.retention_rules(tx)
            found = _stretches(tx, self._rules, self._bucket, self._prefix)
        try:
            for stretch in found:
                self._walk(stretch)
        except _RulesChanged:
            return False
        return True

    def _walk(self, stretch: Stretch) -> None:
        lower: bytes | None = stretch.lower
        while lower is not None:
            with self._parts.database.read() as tx:
                found, lower = retention.candidates(tx, stretch, lower, self.now_ms)
            self._tell()
            at, after = 0, -1
            while at < len(found):
                at, after = self._parts.reserve.spend_on(partial(self._batch, stretch.rule, found, at, after))
                self._tell()

    def _tell(self) -> None:
        self.tell("removing versions", self.applied.versions + self.applied.markers, 0)

    def _batch(self, rule: Rule, found: list[Candidate], at: int, after: int) -> tuple[int, int]:
        """Remove one batch of the candidates from `at` on, of the first those after the sequence `after`.

        Returns where the next batch goes on.
        """
        applied, room = Applied(), self._most
        with self._parts.database.write() as tx:
            started = time.monotonic()
            if settings.retention_rules(tx) != self._rules:
                raise _RulesChanged
            while room > 0 and at < len(found):
                count, after = self._take(tx, rule, found[at], after, room, applied)
                # A key counts even if nothing of it goes any more: judging it takes time as well.
                room -= max(1, count)
                at += after < 0
            slow = time.monotonic() - started > BATCH_SECONDS
        self._most = max(1, self._most // 2) if slow else min(BATCH_ROWS, self._most * 2)
        for field in fields(Applied):
            setattr(self.applied, field.name, getattr(self.applied, field.name) + getattr(applied, field.name))
        return at, after

    def _take(
        self, tx: Connection, rule: Rule, candidate: Candidate, after: int, room: int, applied: Applied
    ) -> tuple[int, int]:
        """Remove at most `room` versions of a key, and let its object expire when that is all.

        Returns how many, and the sequence of the last one when there are more, else -1.
        """
        verdict = retention.judge(tx, candidate, rule, self.now_ms)
        found = retention.going(tx, candidate, verdict, max(after, candidate.first - 1), room + 1)
        for version in found[:room]:
            versions.remove(tx, version, now_ms())
            applied.count(version)
        if len(found) > room:
            return room, found[room - 1].seq
        key = ObjectKey(candidate.bucket, candidate.key.decode())
        if verdict.expires and not _keeps_its_place(tx, key):
            self._expire(tx, key, applied)
        return len(found), -1

    def _expire(self, tx: Connection, key: ObjectKey, applied: Applied) -> None:
        suspended = settings.suspended(tx)
        replaced = versions.by_id(tx, key, NULL_VERSION) if suspended else None
        if replaced is not None:
            applied.count(replaced)
        versions.append(
            tx, key, None, 0, headers=NO_HEADERS, metadata={}, suspended=suspended, counted=True, now_ms=now_ms()
        )
        applied.expired += 1


def _keeps_its_place(tx: Connection, key: ObjectKey) -> bool:
    """Whether no delete marker can be added, since it would take the place of a null version that is held."""
    return settings.suspended(tx) and holds.of(tx, key.bucket, key.key.encode(), NULL_VERSION) is not None


def _stretches(tx: Connection, rules: dict[str, dict[str, object]], bucket: str | None, prefix: bytes) -> list[Stretch]:
    home = settings.default_bucket(tx) if bucket == "" else bucket
    return retention.stretches(rules, home, prefix)


# ---- foreseeing ----


def preview(parts: Parts, bucket: str | None, prefix: bytes, each: Callable[[Going], None] | None = None) -> Foreseen:
    """What `apply` would do now, judged in one view; `each` is told every version, keys in order, the oldest first.

    `each` should be quick: while the view is open the WAL is not shortened.
    """
    begun_ms, applied = now_ms(), Applied()
    with parts.database.read() as tx:
        ledger = _Ledger(tx)
        for stretch in _stretches(tx, settings.retention_rules(tx), bucket, prefix):
            for one in _going(tx, stretch, begun_ms):
                if one.reason == "expired":
                    applied.expired += 1
                else:
                    applied.count(one.version)
                    ledger.enter(one)
                if each is not None:
                    each(one)
        payloads, freed_bytes = ledger.freed()
        dropped = horizons.droppable(tx, begun_ms) if bucket is None else 0
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


def _going(tx: Connection, stretch: Stretch, begun_ms: int) -> Iterator[Going]:
    """Everything that happens to the keys of a stretch."""
    lower: bytes | None = stretch.lower
    while lower is not None:
        found, lower = retention.candidates(tx, stretch, lower, begun_ms)
        for candidate in found:
            verdict = retention.judge(tx, candidate, stretch.rule, begun_ms)
            yield from _removed(tx, candidate, verdict)
            key = ObjectKey(candidate.bucket, candidate.key.decode())
            if verdict.expires and not _keeps_its_place(tx, key):
                yield from _expired(tx, key, verdict)


def _removed(tx: Connection, candidate: Candidate, verdict: Verdict) -> Iterator[Going]:
    after = candidate.first - 1
    while found := retention.going(tx, candidate, verdict, after, _FORESEEN_AT_ONCE):
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
