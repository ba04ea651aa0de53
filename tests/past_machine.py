"""The state machine of the store and of its past: moments, differences, snapshots, going back, retention."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from gestalt_cas import ByteRange, ListQuery, ObjectKey
from gestalt_cas.errors import (
    BeforeHorizon,
    DigestMismatch,
    Held,
    InvalidArgument,
    InvalidRange,
    NoSuchKey,
    NoSuchSnapshot,
    QuotaExceeded,
    SnapshotExists,
    VersionRemoved,
)
from gestalt_cas.objects import ObjectVersion
from gestalt_cas.removal import horizons
from gestalt_cas.removal.retention_previews import Going
from oracle import Name, Version
from storage import rows
from store_machine import BUCKETS, DELIMITERS, KEYS, PREFIXES, StoreMachine, expected_slice, pages, positions
from whole_history import Entry, Shown

buckets = st.sampled_from(BUCKETS)
keys = st.sampled_from(KEYS)
prefixes = st.sampled_from(PREFIXES)
moments = st.integers(0, 99)
"""See `PastMachine.moment`."""
picks = st.integers(0, 99)
FEW_KEYS = ["a", "a/b", "ab"]
FEW_PREFIXES = ["", "", "a", "a/", "nothing"]
SMALL = [b"", b"a", b"hello world"]
KINDS = (
    ["put"] * 12
    + [
        "delete",
        "remove",
        "remove",
        "remove",
        "remove",
        "snapshot",
        "snapshot",
        "drop",
        "switch",
        "look",
        "look",
        "look",
    ]
    + ["roll back", "roll back", "retain", "retain", "forget", "collect", "purge"]
    + ["hold", "hold one", "hold one", "release", "release", "release"]
)
again = st.tuples(st.sampled_from(KINDS), st.sampled_from(FEW_KEYS), st.sampled_from(SMALL), picks)
Again = tuple[str, str, bytes, int]
NAMES = ["one", "two", "three"]
LONG_MS = 31 * 86_400_000


class PastMachine(StoreMachine):
    """`StoreMachine` with rules about what was."""

    def moment(self, pick: int) -> tuple[str, int, str]:
        """A moment by its text, with the sequence that it stands for, and the snapshot that it is named by, or "".

        Some changes ago, or a snapshot, or just before or after the removal of a version.
        """
        kind, which = pick % 3, pick // 3
        if kind == 0 and self.past.snapshots:
            name = sorted(self.past.snapshots)[which % len(self.past.snapshots)]
            return name, self.past.snapshots[name].seq, name
        ends = sorted({entry.gone for entry in self.past.gone() if entry.gone is not None})
        if kind == 1 and ends:
            seq = ends[-1 - which // 2 % len(ends)] - which % 2
        else:
            seq = max(0, self.last_change() - which)
        return str(seq), seq, ""

    def unanswered(self, moment: tuple[str, int, str], bucket: str, prefix: str) -> type[Exception] | None:
        """Why a question about a moment gets no answer; None when it does."""
        _, seq, name = moment
        if name:
            return None if self.past.snapshots[name].covers(bucket, prefix) else InvalidArgument
        return BeforeHorizon if seq < self.past.horizons.get(bucket, 0) else None

    def answered(self, ask: Callable[[], Any], *refusals: type[Exception] | None) -> Any:
        """The answer, or None when it was refused, as it had to be."""
        expected = next((refusal for refusal in refusals if refusal is not None), None)
        if expected is None:
            return ask()
        with pytest.raises(expected) as raised:
            ask()
        assert type(raised.value) is expected
        return None

    # ---- changing the same keys again and again ----

    @initialize(suspended=st.booleans(), seed=st.integers(0, 1 << 32))
    def begin(self, suspended: bool, seed: int) -> None:
        """With a history from the start, by a seed: steps that are drawn seldom meet the same key twice."""
        super().begin(suspended)
        drawn = random.Random(seed)
        self.change_again(
            [
                (drawn.choice(KINDS), drawn.choice(FEW_KEYS), drawn.choice(SMALL), drawn.randrange(100))
                for _ in range(drawn.randrange(70))
            ]
        )

    @rule(again=st.lists(again, min_size=1, max_size=8))
    def change_again(self, again: list[Again]) -> None:
        """Changes of few keys, and looks between them."""
        for kind, key, data, which in again:
            name, prefix = NAMES[which % len(NAMES)], FEW_PREFIXES[which % len(FEW_PREFIXES)]
            if kind == "put":
                self.write("default", key, data, {}, "", 999)
            elif kind == "delete":
                self.delete("default", key)
            elif kind == "remove":
                self.remove_one(which)
            elif kind == "snapshot":
                self.create_snapshot(name, "default", prefix)
            elif kind == "drop":
                self.delete_snapshot(name)
            elif kind == "switch":
                self.switch(not self.oracle.suspended)
            elif kind == "roll back":
                self.roll_back("default", prefix, which * 7 % 100, which % 5 == 0)
            elif kind == "retain":
                self.retain("default", prefix, which % 3 if which % 7 else None, which % 2 == 0, which % 5 == 0)
            elif kind == "forget":
                self.forget_what_is_old()
            elif kind == "collect":
                self.collect_garbage(which % 2 == 0, 0.0)
            elif kind == "purge":
                self.purge("default", key)
            elif kind == "hold":
                self.hold("default", key)
            elif kind == "hold one":
                self.hold_version("default", key, which % 10)
            elif kind == "release":
                if self.oracle.holds:
                    self.release_hold(which)
            else:
                self.look_back([which, which * 7 % 100])
            self.every_row_is_known()

    def remove_one(self, which: int) -> None:
        """One of the versions that there are, mostly of the newest ones."""
        standing = sorted((entry.seq, entry) for entry in self.past.all() if entry.gone is None)
        if not standing:
            return
        _, entry = standing[-1 - which % 7 % len(standing)]
        assert self.oracle.find(entry.name, entry.version.version_id) is entry.version
        self.remove(entry.name, ObjectKey(*entry.name), entry.version.version_id)

    # ---- looking ----

    @rule(picked=st.lists(moments, min_size=1, max_size=4))
    def look_back(self, picked: list[int]) -> None:
        """At all that was there at some moments."""
        for pick in picked:
            for bucket, key in sorted(self.past.entries):
                self.read_then(bucket, key, pick, 0, 20)
            for bucket in ("default", "other"):
                self.list_then(bucket, "", "", 0, pick)
                self.diff(bucket, "", pick, picked[0])

    @rule(bucket=buckets, key=keys, pick=moments, start=positions, end=positions)
    def read_then(self, bucket: str, key: str, pick: int, start: int | None, end: int | None) -> None:
        name, moment = self.oracle.name(bucket, key), self.moment(pick)
        found = self.past.at(name, moment[1])
        refusal = self.unanswered(moment, *name) or self.nothing_then(found)
        where = ObjectKey(bucket, key)
        version = self.answered(lambda: self.store.head(where, as_of=moment[0]), refusal)
        if version is None:
            return
        assert found is not None
        self.same(version, found.version)
        assert version.seq == found.seq
        self.read_payload(where, moment[0], found, ByteRange(start, end))

    def nothing_then(self, found: Entry | None) -> type[Exception] | None:
        if found is None or not found.is_object:
            return NoSuchKey
        return None if found.held else VersionRemoved

    def read_payload(self, key: ObjectKey, as_of: str, found: Entry, wanted: ByteRange) -> None:
        data = found.version.data
        assert data is not None
        expected = expected_slice(data, wanted.start, wanted.end)
        try:
            with self.store.read(key, as_of=as_of, byte_range=wanted) as reader:
                assert reader.read() == expected
        except InvalidRange:
            assert expected is None
        except DigestMismatch:
            assert data in self.damaged

    @rule(bucket=buckets, prefix=prefixes, delimiter=st.sampled_from(DELIMITERS), size=pages, pick=moments)
    def list_then(self, bucket: str, prefix: str, delimiter: str, size: int, pick: int) -> None:
        home, moment = bucket or self.oracle.default_bucket, self.moment(pick)
        query = ListQuery(bucket, prefix, delimiter, max_keys=size)
        got: list[tuple[str, bool]] = []
        while True:
            page = self.answered(
                lambda asked=query: self.store.list_page(asked, as_of=moment[0]), self.unanswered(moment, home, prefix)
            )
            if page is None:
                return
            part = [(version.key.key, False) for version in page.objects]
            part += [(name, True) for name in page.common_prefixes]
            assert len(part) <= (size or 1000)
            got += sorted(part, key=lambda entry: entry[0].encode())
            for version in page.objects:
                self.as_then(version, moment[1])
            if not page.token:
                break
            query = replace(query, token=page.token)
        assert got == self.past.listing(home, prefix, delimiter, moment[1])

    def as_then(self, version: ObjectVersion, seq: int) -> None:
        found = self.past.object_at((version.key.bucket, version.key.key), seq)
        assert found is not None
        assert (version.seq, version.version_id, version.removed) == (
            found.seq,
            found.version.version_id,
            not found.held,
        )
        if not found.purged:
            self.same(version, found.version)

    @rule(bucket=buckets, prefix=prefixes, since=moments, until=moments)
    def diff(self, bucket: str, prefix: str, since: int, until: int) -> None:
        home, first, last = bucket or self.oracle.default_bucket, self.moment(since), self.moment(until)
        refusals = [self.unanswered(moment, home, prefix) for moment in (first, last)]
        found = self.answered(lambda: list(self.store.diff(bucket, prefix, since=first[0], until=last[0])), *refusals)
        if found is not None:
            expected = self.past.differences(home, prefix, first[1], last[1])
            assert [(one.key.key, one.kind) for one in found] == expected

    # ---- snapshots ----

    @rule(name=st.sampled_from(NAMES), bucket=buckets, prefix=prefixes)
    def create_snapshot(self, name: str, bucket: str, prefix: str) -> None:
        prefix = prefix if bucket else ""
        taken = SnapshotExists if name in self.past.snapshots else None
        made = self.answered(lambda: self.store.create_snapshot(name, bucket, prefix), taken)
        if made is not None:
            assert (made.name, made.bucket, made.prefix, made.seq) == (name, bucket, prefix, self.last_change())
            self.past.snapshots[name] = Shown(bucket, prefix, made.seq)
        assert {one.name: Shown(one.bucket, one.prefix, one.seq) for one in self.store.snapshots()} == (
            self.past.snapshots
        )

    @rule(name=st.sampled_from(NAMES))
    def delete_snapshot(self, name: str) -> None:
        absent = None if name in self.past.snapshots else NoSuchSnapshot
        self.answered(lambda: self.store.delete_snapshot(name), absent)
        self.past.snapshots.pop(name, None)

    # ---- going back ----

    @rule(bucket=buckets, prefix=prefixes, pick=moments, dry_run=st.booleans())
    def roll_back(self, bucket: str, prefix: str, pick: int, dry_run: bool) -> None:
        """Adds what there was and markers, one version for each key that differs, in the order of the keys."""
        home, moment = bucket or self.oracle.default_bucket, self.moment(pick)
        present = self.last_change()
        wanted = self.past.differences(home, prefix, present, moment[1])
        then = [(self.oracle.name(home, key), self.past.object_at((home, key), moment[1])) for key, _ in wanted]
        lost = VersionRemoved if any(entry is not None and not entry.held for _, entry in then) else None
        holding = set[str]().union(*(self.oracle.keeping_place(name) for name, _ in then))
        try:
            done = self.answered(
                lambda: self.store.rollback(bucket, prefix, to=moment[0], dry_run=dry_run),
                self.unanswered(moment, home, prefix),
                lost,
            )
        except QuotaExceeded:
            assert self.oracle.quotas
            assert not dry_run
            done = None
        except Held as error:
            self.held_by(error, holding)
            done = None
        else:
            assert done is None or not holding
        if done is None:
            assert self.last_change() == present
            return
        assert [(step.key.key, step.kind) for step in done.steps()] == wanted
        assert (done.seq_before, done.seq_after) == (present, present + (0 if dry_run else len(wanted)))
        for seq, (name, entry) in enumerate([] if dry_run else then, present + 1):
            self.came_back(name, entry, seq)

    def came_back(self, name: Name, entry: Entry | None, seq: int) -> None:
        ((version_id,),) = rows(self.store, "SELECT version_id FROM versions WHERE seq = ?", seq)
        made = Version(version_id, None) if entry is None else replace(entry.version, version_id=version_id)
        self.oracle.add(name, made)
        self.past.follow(self.oracle, name, seq)

    # ---- upkeep ----

    @rule(
        bucket=st.sampled_from(["default", "other"]),
        prefix=prefixes,
        keep=st.none() | st.integers(0, 3),
        markers=st.booleans(),
        exempt=st.booleans(),
    )
    def retain(self, bucket: str, prefix: str, keep: int | None, markers: bool, exempt: bool) -> None:
        """What a rule makes go, told before and done; with `exempt` an empty rule keeps what is below a/b."""
        place = f"{bucket}/{prefix}" if prefix else bucket
        terms: dict[str, object] = {"dropMarkers": markers} | ({} if keep is None else {"keepNoncurrent": keep})
        rules = {place: terms} | ({f"{bucket}/a/b": {}} if exempt else {})
        going = self.expected_to_go(bucket, prefix, keep, markers, exempt)
        self.store.change_settings({"retention.rules": rules})
        told: list[Going] = []
        before = self.to_stay()
        foreseen = self.store.preview_retention(each=told.append)
        assert [(one.version.key.key, one.version.seq) for one in told] == [(e.name[1], e.seq) for e in going]
        kept = {entry.seq for entry in going if entry.is_object and self.past.reaching(entry)}
        assert {one.version.seq for one in told if one.kept and not one.version.delete_marker} == kept
        done = self.store.apply_retention()
        first = self.last_change() - len(going)
        for number, entry in enumerate(going, 1):
            self.oracle.versions[entry.name].remove(entry.version)
            self.past.follow(self.oracle, entry.name, first + number)
        objects = [entry for entry in going if entry.is_object]
        freed = before - self.to_stay()
        for found in (foreseen, done):
            assert (found.versions, found.markers) == (len(objects), len(going) - len(objects))
            assert (found.expired, found.dropped) == (0, 0)
        assert (foreseen.kept, foreseen.payloads, foreseen.freed_bytes) == (
            len(kept),
            len(freed),
            sum(map(len, freed)),
        )
        self.store.change_settings({"retention.rules": {}})

    def to_stay(self) -> set[bytes]:
        """Every content that gc leaves: it begins with letting go of what only a snapshot kept that has gone since."""
        shown = {entry.version.data for entry in self.past.gone() if entry.held and self.past.reaching(entry)}
        return self.oracle.payloads() | {data for data in shown if data is not None}

    def expected_to_go(self, bucket: str, prefix: str, keep: int | None, markers: bool, exempt: bool) -> list[Entry]:
        """By the terms of S3's lifecycle: keys in order, of each the oldest first."""
        going: list[Entry] = []
        for name in sorted(self.past.entries, key=lambda name: name[1].encode()):
            spared = exempt and name[1].startswith("a/b") and len(prefix) <= len("a/b")
            spared = spared or bool(self.oracle.holding(name))
            if name[0] != bucket or not name[1].startswith(prefix) or spared:
                continue
            stack = [entry for entry in self.past.entries[name] if entry.gone is None]
            held = [entry for entry in stack if entry.is_object and self.oracle.holding(name, entry.version.version_id)]
            left = stack if keep is None else [*held, *stack[-keep - 1 :]]
            if markers and not any(entry.is_object for entry in left):
                left = []
            going += [entry for entry in stack if entry not in left]
        return going

    @precondition(lambda self: self.past.gone())
    @rule()
    def forget_what_is_old(self) -> None:
        """Removed versions go from the history a month later, but for those that a snapshot shows."""
        ((now_ms,),) = rows(self.store, "SELECT commit_ms FROM counter")
        found = horizons.drop(self.store._parts, now_ms + LONG_MS, lambda *_: None)
        assert found == self.past.drop()
        noted = dict(rows(self.store, "SELECT bucket, seq FROM horizons"))
        assert noted == self.past.horizons

    @precondition(lambda self: not self.damaged)
    @rule()
    def check(self) -> None:
        assert self.store.check().findings == ()
