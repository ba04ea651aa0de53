"""A state machine of the real store, files included, and of what it holds now, against the oracle.

`past_machine.py` adds what it held before; the history that each change leaves is followed here.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gestalt_cas import Batch, ByteRange, Conditions, Headers, ListQuery, ObjectKey, ObjectVersion, Store
from gestalt_cas.errors import (
    DigestMismatch,
    Held,
    InvalidRange,
    NoSuchKey,
    NoSuchVersion,
    NotModified,
    PreconditionFailed,
    Protected,
    QuotaExceeded,
)
from gestalt_cas.operations import pages as page_limits
from gestalt_cas.rows import version_walks
from oracle import NULL, Name, Oracle, Version
from storage import change, flip, payload_path, payloads, rows, staged
from whole_history import WholeHistory

KEYS = ["a", "a/", "a/b", "a/b/c", "a\0", "ab", "b", "b//c", "é/x", "é", "\U0010ffff", "z" * 300]
BUCKETS = ["", "", "default", "other"]
CONTENTS = [b"", b"a", b"hello world", b"x" * 70_000, bytes(range(256)) * 4097, b"y" * (1 << 20)]
DELIMITERS = ["", "/", "/", "//", "b", "\0", "é"]
PREFIXES = ["", "", "a", "a/", "a/b", "é", "zz", "nothing"]
HELD = ["a/b", "a/b/", "b", "é", "z", "\U0010ffff", "nothing", "", "a\0"]

keys = st.sampled_from(KEYS)
buckets = st.sampled_from(BUCKETS)
contents = st.sampled_from(CONTENTS)
metadatas = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
positions = st.none() | st.integers(-1, 80_000)
pages = st.integers(1, 4) | st.just(0)


class StoreMachine(RuleBasedStateMachine):
    """Two openers of one directory take turns; whatever one does, the other sees at once."""

    @initialize(suspended=st.booleans())
    def begin(self, suspended: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gestalt-cas-machine-"))
        self.stores: list[Store] = []
        self.oracle = Oracle()
        self.oracle.suspended = suspended
        self.past = WholeHistory()
        self.stores.append(Store.open(self.directory, settings={"versioning": self.versioning}))
        self.turn = 0
        self.last_seq = 0
        self.damaged: set[bytes] = set()

    @property
    def versioning(self) -> str:
        return "suspended" if self.oracle.suspended else "enabled"

    @property
    def store(self) -> Store:
        self.turn += 1
        return self.stores[self.turn % len(self.stores)]

    def teardown(self) -> None:
        for store in getattr(self, "stores", []):
            store.close()
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    # ---- changing ----

    def conditions(self, name: Name, kind: str) -> tuple[Conditions, bool]:
        """Conditions on a write, and whether they hold."""
        current = self.oracle.current(name)
        if kind == "absent":
            return Conditions(if_none_match="*"), current is None
        if kind == "exists":
            return Conditions(if_match="*"), current is not None
        if kind == "same":
            etag = current.etag if current else '"0"'
            return Conditions(if_match=etag), current is not None
        if kind == "other":
            return Conditions(if_match=f'"{"0" * 64}"'), False
        if kind == "changed":
            etag = current.etag if current else '"0"'
            return Conditions(if_none_match=f"W/{etag}"), current is None
        if kind == "version":
            wanted = current.version_id if current else "nothing"
            return Conditions(current_version=wanted), current is not None
        return Conditions(), True

    kinds = st.sampled_from(["", "", "", "absent", "exists", "same", "other", "changed", "version"])

    pieces = st.sampled_from([1 << 20, 999])

    @rule(bucket=buckets, key=keys, data=contents, metadata=metadatas, kind=kinds, piece=pieces)
    def write(self, bucket: str, key: str, data: bytes, metadata: dict[str, str], kind: str, piece: int) -> None:
        name = self.oracle.name(bucket, key)
        conditions, holds = self.conditions(name, kind)
        pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
        content_type = "text/plain" if metadata else ""
        try:
            made = self.store.write(
                ObjectKey(bucket, key), pieces, headers=Headers(content_type), metadata=metadata, conditions=conditions
            )
        except PreconditionFailed:
            assert not holds
            return
        except QuotaExceeded as error:
            assert holds
            self.beyond(error, name, data)
            return
        except Held as error:
            assert holds
            self.held_by(error, self.oracle.keeping_place(name))
            return
        assert holds
        assert not self.oracle.keeping_place(name)
        assert not self.oracle.exceeded(name, len(data))
        self.damaged.discard(data)
        self.oracle.add(name, Version(made.version_id, data, content_type, metadata))
        self.made(made, name)

    @rule(bucket=buckets, key=keys, to_bucket=buckets, to_key=keys, old=st.booleans(), pick=st.integers(0, 9))
    def copy(self, bucket: str, key: str, to_bucket: str, to_key: str, old: bool, pick: int) -> None:
        source, target = self.oracle.name(bucket, key), self.oracle.name(to_bucket, to_key)
        version_id = self.some_id(source, pick) if old else ""
        found = self.oracle.find(source, version_id)
        self.brought(
            lambda: self.store.copy(ObjectKey(bucket, key), ObjectKey(to_bucket, to_key), source_version_id=version_id),
            found,
            target,
        )

    @rule(bucket=buckets, key=keys)
    def delete(self, bucket: str, key: str) -> None:
        name = self.oracle.name(bucket, key)
        made = self.unless_held(self.oracle.keeping_place(name), lambda: self.store.delete(ObjectKey(bucket, key)))
        if made is None:
            return
        assert made.delete_marker
        self.oracle.add(name, Version(made.version_id, None))
        self.made(made, name)

    @rule(bucket=buckets, key=keys, pick=st.integers(0, 9))
    def delete_version(self, bucket: str, key: str, pick: int) -> None:
        name = self.oracle.name(bucket, key)
        version_id = self.some_id(name, pick)
        self.remove(name, ObjectKey(bucket, key), version_id)

    def remove(self, name: Name, key: ObjectKey, version_id: str) -> None:
        found = self.oracle.find(name, version_id)
        if found is not None and found.data is not None and (holding := self.oracle.holding(name, version_id)):
            self.unless_held(holding, lambda: self.store.delete(key, version_id=version_id))
            return
        removed = self.store.delete(key, version_id=version_id)
        expected = self.oracle.remove(name, version_id)
        self.past.follow(self.oracle, name, self.last_change())
        assert (removed is None) == (expected is None)
        if removed is not None and expected is not None:
            assert removed.delete_marker == (expected.data is None)

    @rule(bucket=buckets, key=keys, pick=st.integers(0, 9))
    def restore_version(self, bucket: str, key: str, pick: int) -> None:
        name = self.oracle.name(bucket, key)
        version_id = self.some_id(name, pick)
        found = self.oracle.find(name, version_id)
        self.brought(lambda: self.store.restore_version(ObjectKey(bucket, key), version_id), found, name)

    @rule(bucket=buckets, key=keys)
    def undelete(self, bucket: str, key: str) -> None:
        name = self.oracle.name(bucket, key)
        stack = self.oracle.versions.get(name, [])
        gone, kept = self.oracle.current(name) is None, [one for one in stack if one.data is not None]
        try:
            back = self.store.undelete(ObjectKey(bucket, key))
        except NoSuchKey:
            assert not kept
        except PreconditionFailed:
            assert not gone
        else:
            assert gone
            before = self.last_change() - len(stack) + stack.index(kept[-1]) + 1
            while stack[-1] is not kept[-1]:
                before += 1
                stack.pop(stack.index(kept[-1]) + 1)  # the oldest of them first
                self.past.follow(self.oracle, name, before)
            assert back.version_id == kept[-1].version_id
            self.same(back, kept[-1])

    # Contents by their number: Hypothesis shows what it draws in lists whole, and some are a MiB.
    drawn = st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "create", "copy", "delete"]), keys, keys, st.integers(0, len(CONTENTS) - 1)
        ),
        max_size=5,
    )

    @rule(bucket=buckets, drawn=drawn)
    def batch(self, bucket: str, drawn: list[tuple[str, str, str, int]]) -> None:
        """All of them or none: the oracle tries them on a copy of itself, which tells which one must fail."""
        changes = [(kind, key, source, CONTENTS[content]) for kind, key, source, content in drawn]
        trial, failing = copy.deepcopy(self.oracle), 0
        for number, (kind, key, source, data) in enumerate(changes, 1):
            if not self.tried(
                trial, f"pending-{number}", kind, trial.name(bucket, key), trial.name(bucket, source), data
            ):
                failing = number
                break
        try:
            with self.store.transaction() as batch:
                for kind, key, source, data in changes:
                    self.give(batch, kind, ObjectKey(bucket, key), ObjectKey(bucket, source), data)
        except (NoSuchKey, PreconditionFailed, QuotaExceeded, Held) as error:
            self.names_change(error, failing)
            return
        assert not failing
        for done, (kind, key, source, data) in zip(batch.changes, changes, strict=True):
            name = self.oracle.name(bucket, key)
            assert done.version is not None
            self.tried(self.oracle, done.version.version_id, kind, name, self.oracle.name(bucket, source), data)
            self.made(done.version, name)

    def names_change(self, error: Exception, number: int) -> None:
        assert str(error).startswith(f"change {number} ")

    def tried(self, oracle: Oracle, version_id: str, kind: str, name: Name, source: Name, data: bytes) -> bool:
        """Make a change in the oracle; False when the store must refuse it."""
        version_id = NULL if oracle.suspended else version_id
        found = oracle.current(source) if kind == "copy" else None
        if (kind == "copy" and found is None) or (kind == "create" and oracle.current(name) is not None):
            return False
        if oracle.keeping_place(name):
            return False
        if kind == "delete":
            oracle.add(name, Version(version_id, None))
            return True
        made = Version(version_id, data) if found is None else replace(found, version_id=version_id)
        if oracle.exceeded(name, len(made.data or b"")):
            return False
        oracle.add(name, made)
        return True

    def give(self, batch: Batch, kind: str, key: ObjectKey, source: ObjectKey, data: bytes) -> None:
        if kind == "copy":
            batch.copy(source, key)
        elif kind == "delete":
            batch.delete(key)
        else:
            batch.put(key, [data], conditions=Conditions(if_none_match="*" if kind == "create" else ""))
            self.damaged.discard(data)

    @rule(bucket=buckets, prefix=st.sampled_from(PREFIXES), most=st.none() | st.sampled_from([0, 20, 100_000, 3 << 20]))
    def limit(self, bucket: str, prefix: str, most: int | None) -> None:
        place = bucket or self.oracle.default_bucket, prefix
        if most is None:
            assert self.store.remove_quota(bucket, prefix) == (place in self.oracle.quotas)
            self.oracle.quotas.pop(place, None)
            return
        self.oracle.quotas[place] = most
        assert self.store.set_quota(bucket, prefix, most).used_bytes == self.oracle.used(*place)

    @rule(bucket=buckets, prefix=st.sampled_from(HELD))
    def hold(self, bucket: str, prefix: str) -> None:
        made = self.store.hold(bucket, prefix)
        assert made.bucket == (bucket or self.oracle.default_bucket)
        self.oracle.holds.add((made.bucket, prefix, ""))

    @rule(bucket=buckets, key=keys, pick=st.integers(0, 9))
    def hold_version(self, bucket: str, key: str, pick: int) -> None:
        name = self.oracle.name(bucket, key)
        version_id = self.some_id(name, pick)
        found = self.oracle.find(name, version_id)
        try:
            self.store.hold(bucket, key, version_id=version_id)
        except NoSuchVersion:
            assert found is None or found.data is None
        else:
            assert found is not None
            assert found.data is not None
            self.oracle.holds.add((*name, version_id))

    @precondition(lambda self: self.oracle.holds)
    @rule(pick=st.integers(0, 9))
    def release_hold(self, pick: int) -> None:
        bucket, prefix, version_id = place = sorted(self.oracle.holds)[pick % len(self.oracle.holds)]
        assert self.store.release_hold(bucket, prefix, version_id=version_id)
        assert not self.store.release_hold(bucket, prefix, version_id=version_id)
        self.oracle.holds.remove(place)

    @rule(suspended=st.booleans())
    def switch(self, suspended: bool) -> None:
        self.oracle.suspended = suspended
        assert self.store.change_settings({"versioning": self.versioning}).suspended == suspended

    @rule(most=st.sampled_from([0, 0, 1, 100, 70_000, 1 << 20]))
    def inline(self, most: int) -> None:
        """Payloads from now on; each keeps the place that it has."""
        assert self.store.change_settings({"blobs.inlineMaxBytes": most}).inline_max_bytes == most

    @rule(bucket=st.sampled_from(["default", "other"]))
    def name_default_bucket(self, bucket: str) -> None:
        self.oracle.default_bucket = bucket
        self.store.change_settings({"bucket": bucket})

    @rule()
    def reopen(self) -> None:
        self.stores[0].close()
        self.stores[0] = Store.open(self.directory)

    @rule()
    def another_opener(self) -> None:
        if len(self.stores) == 1:
            self.stores.append(Store.open(self.directory, create=False))
        else:
            self.stores.pop().close()

    @rule()
    def clean_staging(self) -> None:
        assert self.store.clean_staging() == 0

    @rule(dry_run=st.booleans(), grace=st.sampled_from([0.0, 3600.0]))
    def collect_garbage(self, dry_run: bool, grace: float) -> None:
        """Without grace all goes that no version reaches, and only that; with an hour of it nothing does."""
        before, dry = self.kept(), copy.deepcopy(self.past) if dry_run else self.past
        dry.release()
        reached = {blake3(data).hexdigest() for data in self.oracle.payloads() | dry.payloads()}
        unreached = [name for name in before if name not in reached]
        found = self.store.collect_garbage(dry_run=dry_run, grace_seconds=grace)
        assert found.staging_files == found.stuck_files == found.pinned_files == 0
        if grace:
            assert (found.files, found.fresh_files) == (0, len(unreached))
        else:
            assert (found.files, found.fresh_files) == (len(unreached), 0)
        kept = before if dry_run or grace else sorted(reached)
        assert self.kept() == kept
        ((known,),) = rows(self.store, "SELECT count(*) FROM blobs")
        # Of an upload that its commit refused the file may be there until it is collected.
        assert known <= len(kept) if dry_run or grace else known == len(kept)

    @rule(bucket=buckets, key=keys)
    def purge(self, bucket: str, key: str) -> None:
        name = self.oracle.name(bucket, key)
        stack, entries = self.oracle.versions.get(name, []), self.past.entries.get(name, [])
        removed = [entry for entry in entries if entry.gone is not None and entry.is_object and not entry.purged]
        showing = {by for entry in entries if entry.is_object and entry.held for by in self.past.reaching(entry)}
        there, present = set(self.kept()), self.last_change()
        holding = self.oracle.holding(name).union(
            *(self.oracle.holding(name, version.version_id) for version in stack if version.data is not None)
        )
        earlier = {entry.version.data for entry in removed if entry.version.data is not None}
        try:
            found = self.store.purge(ObjectKey(bucket, key))
        except NoSuchKey:
            assert not stack
            assert not removed
            assert not holding
            return
        except Protected as error:
            assert not holding
            self.kept_from_purging(error, showing)
            return
        except Held as error:
            self.held_by(error, holding)
            assert self.last_change() == present
            return
        assert not showing
        assert not holding
        count, bodies = len(stack), {version.data for version in stack if version.data is not None}
        bodies |= {data for data in earlier if blake3(data).hexdigest() in there}
        first = self.last_change() - count
        for number in range(1, count + 1):
            stack.pop(0)
            self.past.follow(self.oracle, name, first + number)
        self.past.strip(name)
        shared = bodies & self.reached()
        assert (found.key.bucket, found.key.key) == name
        assert (found.versions, found.files, found.shared) == (count, len(bodies - shared), len(shared))
        assert found.bytes == sum(map(len, bodies - shared))
        left = self.kept()
        assert not {blake3(data).hexdigest() for data in bodies - shared} & set(left)

    @rule(restart=st.booleans())
    def checkpoint(self, restart: bool) -> None:
        self.store._database.checkpoint(restart=restart)

    @precondition(lambda self: self.oracle.payloads() - self.damaged - {b""})
    @rule(pick=st.integers(0, 99))
    def damage(self, pick: int) -> None:
        """A bit changes on the disk, and a read meets it; writing the same bytes heals it (see `write`)."""
        whole = sorted(self.oracle.payloads() - self.damaged - {b""})
        data = whole[pick % len(whole)]
        self.flip(data, pick * 7919 % len(data))
        self.damaged.add(data)
        for (bucket, key), stack in self.oracle.versions.items():
            for version in stack:
                if version.data == data:
                    self.read_whole(ObjectKey(bucket, key), version.version_id, data)
                    return

    # ---- looking ----

    @rule(bucket=buckets, key=keys, start=positions, end=positions, old=st.booleans(), pick=st.integers(0, 9))
    def read(self, bucket: str, key: str, start: int | None, end: int | None, old: bool, pick: int) -> None:
        name = self.oracle.name(bucket, key)
        version_id = self.some_id(name, pick) if old else ""
        found = self.oracle.find(name, version_id)
        try:
            with self.store.read(
                ObjectKey(bucket, key), version_id=version_id, byte_range=ByteRange(start, end)
            ) as reader:
                self.same(reader.version, found)
                got = reader.read()
        except NoSuchKey as error:
            self.absent(error, found, version_id)
            return
        except InvalidRange as error:
            self.unsatisfiable(error, found, start, end)
            return
        except DigestMismatch:
            assert found is not None
            assert found.data in self.damaged
            return
        assert found is not None
        assert found.data is not None
        assert got == expected_slice(found.data, start, end)

    @rule(bucket=buckets, key=keys, old=st.booleans(), pick=st.integers(0, 9), same=st.none() | st.booleans())
    def head(self, bucket: str, key: str, old: bool, pick: int, same: bool | None) -> None:
        name = self.oracle.name(bucket, key)
        version_id = self.some_id(name, pick) if old else ""
        found = self.oracle.find(name, version_id)
        etag = found.etag if found is not None and found.data is not None else '"none"'
        conditions = Conditions() if same is None else Conditions(if_none_match=etag if same else '"another"')
        try:
            version = self.store.head(ObjectKey(bucket, key), version_id=version_id, conditions=conditions)
        except NoSuchKey as error:
            self.absent(error, found, version_id)
        except NotModified:
            assert same
        else:
            assert not same
            self.same(version, found)

    @rule(bucket=buckets, prefix=st.sampled_from(PREFIXES), delimiter=st.sampled_from(DELIMITERS), size=pages)
    def list_pages(self, bucket: str, prefix: str, delimiter: str, size: int) -> None:
        got: list[tuple[str, bool]] = []
        token = ""
        while True:
            page = self.store.list_page(ListQuery(bucket, prefix, delimiter, token=token, max_keys=size))
            part = [(version.key.key, False) for version in page.objects]
            part += [(name, True) for name in page.common_prefixes]
            assert len(part) <= (size or 1000)
            got += sorted(part, key=lambda entry: entry[0].encode())
            for version in page.objects:
                self.same(version, self.oracle.current(self.oracle.name(bucket, version.key.key)))
            token = page.token
            if not token:
                break
            assert part
        assert got == self.oracle.listing(bucket or self.oracle.default_bucket, prefix, delimiter)

    @rule(
        bucket=buckets,
        prefix=st.sampled_from(PREFIXES + KEYS),
        size=pages,
        only_key=st.booleans(),
        stretch=st.sampled_from([1, 3, version_walks.STRETCH]),
    )
    def list_versions(self, bucket: str, prefix: str, size: int, only_key: bool, stretch: int) -> None:
        """Pages that end as early as they can show the same, though some may be empty."""
        got: list[tuple[str, str, bool]] = []
        token = ""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(version_walks, "STRETCH", stretch)
            patch.setattr(page_limits, "WALK_SECONDS", -1.0)
            while True:
                query = ListQuery(bucket, prefix, token=token, max_keys=size)
                page = self.store.list_versions(query, only_key=only_key)
                assert len(page.versions) <= (size or 1000)
                got += [(version.key.key, version.version_id, version.current) for version in page.versions]
                assert page.token != token or not token
                token = page.token
                if not token:
                    break
        whole = self.oracle.history(bucket or self.oracle.default_bucket, prefix)
        expected = [(key, version.version_id, newest) for key, version, newest in whole]
        assert got == [entry for entry in expected if entry[0] == prefix or not only_key]

    @rule(bucket=buckets, prefix=st.sampled_from(PREFIXES))
    def usage(self, bucket: str, prefix: str) -> None:
        name = bucket or self.oracle.default_bucket
        current = [self.oracle.current((name, key)) for key in self.oracle.keys(name, prefix)]
        whole = [v for _, v, _ in self.oracle.history(name, prefix) if v.data is not None]
        used = self.store.usage(bucket, prefix)
        assert (used.objects, used.versions) == (len(current), len(whole))
        assert used.logical_bytes == sum(len(v.data or b"") for v in current if v)
        assert used.version_bytes == sum(len(v.data or b"") for v in whole)
        assert used.stored_bytes == sum(len(data) for data in {v.data or b"" for v in whole})

    @invariant()
    def nothing_is_left_over(self) -> None:
        if not getattr(self, "stores", None):
            return
        assert staged(self.store) == []
        assert {blake3(data).hexdigest() for data in self.reached()} <= set(self.kept())
        ((named, held),) = rows(
            self.store, "SELECT (SELECT count(*) FROM blobs WHERE place > 0), (SELECT count(*) FROM inlined)"
        )
        assert named == held
        assert self.store.buckets() == self.oracle.buckets()
        counted = {(quota.bucket, quota.prefix): (quota.max_bytes, quota.used_bytes) for quota in self.store.quotas()}
        assert {(one.bucket, one.prefix, one.version_id) for one in self.store.holds()} == self.oracle.holds
        assert counted == {place: (most, self.oracle.used(*place)) for place, most in self.oracle.quotas.items()}
        ((seq, least, most),) = rows(
            self.store,
            "SELECT (SELECT seq FROM counter), (SELECT min(commit_ms) FROM versions), "
            "(SELECT max(commit_ms) FROM versions)",
        )
        assert seq >= self.last_seq
        assert (least or 0) <= (most or 0)

    @invariant()
    def every_row_is_known(self) -> None:
        """What stands, what was removed, by which change, and what keeps its payload."""
        if getattr(self, "stores", None):
            found = rows(
                self.store,
                "SELECT bucket, CAST(key AS TEXT), seq, gone_seq, version_id, lower(hex(digest)), "
                "CASE WHEN gone_digest IS NOT NULL THEN lower(hex(gone_digest)) END, digest IS NULL FROM versions",
            )
            known = [(*row[:5], None if row[7] else row[5], row[6]) for row in found]
            assert sorted(known, key=repr) == sorted((entry.row for entry in self.past.all()), key=repr)
            assert self.store.buckets_ever() == self.past.buckets()

    # ---- helpers ----

    def brought(self, make: Callable[[], ObjectVersion], found: Version | None, target: Name) -> None:
        """A version made of another one: refused where there is nothing to copy, or no room by a quota."""
        try:
            made = make()
        except NoSuchKey:
            assert found is None or found.data is None
            return
        except QuotaExceeded as error:
            assert found is not None
            self.beyond(error, target, found.data or b"")
            return
        except Held as error:
            assert found is not None
            self.held_by(error, self.oracle.keeping_place(target))
            return
        assert not self.oracle.keeping_place(target)
        assert found is not None
        assert found.data is not None
        assert not self.oracle.exceeded(target, len(found.data))
        self.oracle.add(target, Version(made.version_id, found.data, found.content_type, dict(found.metadata)))
        self.made(made, target)

    def unless_held(self, holding: set[str], change: Callable[[], ObjectVersion | None]) -> ObjectVersion | None:
        """What the change brings; None when a hold refused it, as it had to."""
        if not holding:
            return change()
        present = self.last_change()
        with pytest.raises(Held) as raised:
            change()
        assert raised.value.hold in holding
        assert self.last_change() == present
        return None

    def reached(self) -> set[bytes]:
        """Every content that a version reaches, one that stands or one that was removed and is kept."""
        return self.oracle.payloads() | self.past.payloads()

    def last_change(self) -> int:
        ((seq,),) = rows(self.store, "SELECT seq FROM counter")
        return int(seq)

    def kept(self) -> list[str]:
        """The digests of all payloads that are kept, files and rows; none is both."""
        inlined = rows(self.store, "SELECT lower(hex(digest)) FROM blobs JOIN inlined ON id = place")
        return sorted([*payloads(self.store), *(name for (name,) in inlined)])

    def flip(self, data: bytes, position: int) -> None:
        """Change a bit of the payload where it is."""
        digest = blake3(data).digest()
        ((place,),) = rows(self.store, "SELECT place FROM blobs WHERE digest = ?", digest)
        if not place:
            flip(payload_path(self.store, data), position)
            return
        wrong = bytearray(data)
        wrong[position] ^= 1
        change(self.store, "UPDATE inlined SET data = ? WHERE id = ?", bytes(wrong), place)

    def some_id(self, name: Name, pick: int) -> str:
        """The id of one of the key's versions, or one that names none."""
        ids = [version.version_id for version in self.oracle.versions.get(name, [])]
        others = sorted(self.oracle.used_ids)[:2]
        choices = [*ids, NULL, "no-such-version", *others]
        return choices[pick % len(choices)]

    def made(self, version: ObjectVersion, name: Name) -> None:
        assert (version.key.bucket, version.key.key) == name
        assert version.current
        assert version.seq > self.last_seq
        self.last_seq = version.seq
        self.past.follow(self.oracle, name, version.seq)
        self.same(version, self.oracle.newest(name))

    def same(self, version: ObjectVersion, expected: Version | None) -> None:
        assert expected is not None
        assert version.version_id == expected.version_id
        assert version.etag == expected.etag
        assert version.size == len(expected.data or b"")
        assert version.headers.content_type == expected.content_type
        assert dict(version.metadata) == expected.metadata

    def beyond(self, error: QuotaExceeded, name: Name, data: bytes) -> None:
        assert error.quota in self.oracle.exceeded(name, len(data))

    def held_by(self, error: Held, holding: set[str]) -> None:
        assert error.hold in holding

    def kept_from_purging(self, error: Protected, showing: set[str]) -> None:
        assert showing
        assert all(by in str(error) for by in showing)

    def absent(self, error: NoSuchKey, found: Version | None, version_id: str) -> None:
        assert found is None or found.data is None
        assert error.delete_marker == (found is not None)
        assert isinstance(error, NoSuchVersion) == bool(version_id)

    def unsatisfiable(self, error: InvalidRange, found: Version | None, start: int | None, end: int | None) -> None:
        assert found is not None
        assert found.data is not None
        assert error.size == len(found.data)
        assert expected_slice(found.data, start, end) is None

    def read_whole(self, key: ObjectKey, version_id: str, data: bytes) -> None:
        got: list[bytes] = []
        with self.store.read(key, version_id=version_id) as reader, pytest.raises(DigestMismatch):
            got.extend(bytes(piece) for piece in reader)
        assert data.startswith(b"".join(got))


def expected_slice(data: bytes, start: int | None, end: int | None) -> bytes | None:
    """What a range selects, both ends inclusive; None when it cannot be served."""
    if start is None and end is None:
        return data
    first, last = start or 0, len(data) - 1 if end is None else end
    if first < 0 or last < 0 or first >= len(data) or (end is not None and first > end):
        return None
    return data[first : last + 1]
