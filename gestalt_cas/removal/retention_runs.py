"""Applying retention: the candidates of `retention.py` are removed, in small transactions.

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
from dataclasses import asdict, dataclass, fields
from functools import partial

from gestalt_cas.clock import now_ms
from gestalt_cas.keeping import holds, retention
from gestalt_cas.keeping.retention import Candidate, Rule, Stretch
from gestalt_cas.objects import NO_HEADERS, NULL_VERSION, ObjectKey, ObjectVersion
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.removal import clock_guard, horizons, soundness
from gestalt_cas.rows import settings, versions
from gestalt_cas.sql.sqlite import Connection

NOTE = "retention.last"
BATCH_ROWS = 200
FIRST_BATCH_ROWS = 16
BATCH_SECONDS = 0.05


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


def apply(parts: Parts, bucket: str | None, prefix: bytes, progress: Progress | None = None) -> Applied:
    """Remove what the rules say, and without a bucket also drop what is older than `history.keepDays`.

    With a bucket ("": the default one) only of its keys that start with `prefix`. Raises ClockSuspect, StoreBusy,
    StorageFault, and DatabaseDamaged when rows that say what stays are none that a write stores.
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
        self._sound = soundness.Once(parts)
        self.tell = tell
        self.now_ms = begun_ms
        self.applied = Applied()

    def through(self) -> bool:
        """Apply the rules as they are now everywhere; False when they changed meanwhile."""
        with self._parts.database.read() as tx:
            self._rules = settings.retention_rules(tx)
            found = stretches(tx, self._rules, self._bucket, self._prefix)
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
            if found:
                self._sound.require()
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
        if verdict.expires and not keeps_its_place(tx, key):
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


def keeps_its_place(tx: Connection, key: ObjectKey) -> bool:
    """Whether no delete marker can be added, since it would take the place of a null version that is held."""
    return settings.suspended(tx) and holds.of(tx, key.bucket, key.key.encode(), NULL_VERSION) is not None


def stretches(tx: Connection, rules: dict[str, dict[str, object]], bucket: str | None, prefix: bytes) -> list[Stretch]:
    """The stretches of keys that a run looks at: those of `bucket` ("": the default one; None: all)."""
    home = settings.default_bucket(tx) if bucket == "" else bucket
    return retention.stretches(rules, home, prefix)
