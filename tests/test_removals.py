"""What a version that was removed for good leaves behind, and what a snapshot keeps of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

import backups
from checks import check
from driver_aids import values_of
from gestalt_cas import Store, restore
from gestalt_cas.errors import NoSuchKey, NoSuchVersion
from gestalt_cas.keeping import removals
from gestalt_cas.objects import NO_HEADERS, Headers, ListQuery, ObjectKey
from gestalt_cas.removal import releases
from gestalt_cas.removal.garbage import Collected
from gestalt_cas.rows import blob_rows, versions
from gestalt_cas.rows.version_ids import LAST_SEQUENCE
from storage import BUCKET, body, change, history, key, payloads, put, rows

GONE_COLUMNS = "seq, digest, gone_seq, gone_ms, gone_digest"


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def remove(store: Store, name: str, version_id: str = "") -> None:
    """Remove a version for good, the current one unless told."""
    store.delete(key(name), version_id=version_id or store.head(key(name)).version_id)


def gone(store: Store, name: str) -> list[tuple[Any, ...]]:
    """What stays of the removed versions of a key: sequence, digest, change, time and digest of before."""
    return rows(
        store,
        f"SELECT {GONE_COLUMNS} FROM versions WHERE key = ? AND gone_seq IS NOT NULL ORDER BY seq",
        name.encode(),
    )


def counter(store: Store) -> tuple[int, int]:
    ((seq, commit_ms),) = rows(store, "SELECT seq, commit_ms FROM counter")
    return seq, commit_ms


def kept(store: Store) -> list[tuple[str, bytes]]:
    """Key and digest of the removed versions that have their payload still."""
    found = rows(store, "SELECT key, digest FROM versions WHERE gone_seq > 0 AND digest IS NOT NULL ORDER BY key, seq")
    return [(name.decode(), named) for name, named in found]


# ---- what stays ----


def test_a_removed_version_leaves_its_row_without_its_payload(store: Store) -> None:
    made = put(store, "k", b"one", headers=Headers("text/plain"), metadata={"a": "b"})
    put(store, "k", b"two")
    before = counter(store)[0]
    remove(store, "k", made.version_id)
    seq, commit_ms = counter(store)
    assert seq == before + 1
    assert gone(store, "k") == [(made.seq, None, seq, commit_ms, digest(b"one"))]
    assert rows(store, "SELECT version_id, size, content_type, metadata FROM versions WHERE seq = ?", made.seq) == [
        (made.version_id, 3, "text/plain", '{"a": "b"}')
    ]
    assert [version.metadata for version in history(store, "k")] == [{}]
    with pytest.raises(NoSuchVersion):
        store.head(key("k"), version_id=made.version_id)
    assert store.collect_garbage() == Collected(False, files=1, bytes=3)
    assert payloads(store) == [digest(b"two").hex()]


def test_a_removed_marker_leaves_a_row_without_any_digest(store: Store) -> None:
    put(store, "k", b"one")
    marker = store.delete(key("k"))
    assert marker is not None
    remove(store, "k", marker.version_id)
    assert gone(store, "k") == [(marker.seq, None, *counter(store), None)]
    assert body(store, "k") == b"one"


def test_undelete_leaves_the_rows_of_all_markers_that_it_takes_off(store: Store) -> None:
    put(store, "k", b"one")
    markers = [store.delete(key("k")) for _ in range(3)]
    last = counter(store)[0]
    store.undelete(key("k"))
    stubs = gone(store, "k")
    assert [row[0] for row in stubs] == [marker.seq for marker in markers if marker]
    assert sorted(row[2] for row in stubs) == [last + 1, last + 2, last + 3]
    assert all(row[1] is None and row[4] is None for row in stubs)


def test_a_null_version_is_gone_with_the_change_that_replaces_it(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    made = [put(store, "k", data) for data in (b"one", b"two")]
    marker = store.delete(key("k"))
    assert marker is not None
    assert gone(store, "k") == [
        (made[0].seq, None, made[1].seq, made[1].modified_ms, digest(b"one")),
        (made[1].seq, None, marker.seq, marker.modified_ms, digest(b"two")),
    ]
    assert counter(store)[0] == marker.seq == made[0].seq + 2


def test_purging_strips_what_was_removed_before_as_well(store: Store) -> None:
    put(store, "k", b"first", headers=Headers("text/plain", "max-age=1"), metadata={"secret": "yes"})
    remove(store, "k")
    store.delete(key("k"))
    put(store, "k", b"second", metadata={"secret": "yes"})
    put(store, "other", b"third", metadata={"public": "yes"})
    remove(store, "other")
    store.purge(key("k"))
    columns = "digest, gone_digest, content_type, headers, metadata, size"
    found = rows(store, f"SELECT {columns} FROM versions WHERE key = x'6b' ORDER BY seq")
    bare = (None, b"", "", None, None)
    assert found == [(*bare, 5), (None, None, "", None, None, 0), (*bare, 6)]
    assert [row[4] for row in gone(store, "other")] == [digest(b"third")]
    assert check(store).clean


def test_what_was_removed_counts_nowhere(store: Store) -> None:
    store.set_quota(BUCKET, "", 1000)
    put(store, "k", b"12345")
    put(store, "left", b"1")
    remove(store, "k")
    store.write(ObjectKey("only stubs", "k"), [b"123"])
    where = ObjectKey("only stubs", "k")
    store.delete(where, version_id=store.head(where).version_id)
    assert store.buckets() == [BUCKET]
    used = store.usage(BUCKET)
    assert (used.objects, used.versions, used.version_bytes, used.stored_bytes) == (1, 1, 1, 1)
    assert store.usage("only stubs").versions == 0
    counts = store.stats().contents
    assert (counts.objects, counts.versions, counts.delete_markers, counts.version_bytes) == (1, 1, 0, 1)
    assert [quota.used_bytes for quota in store.quotas()] == [1]
    assert store.set_quota(BUCKET, "k", 10).used_bytes == 0
    assert store.list_versions(ListQuery("only stubs")).versions == ()
    assert [version.key.key for version in store.list_versions(ListQuery(BUCKET)).versions] == ["left"]
    with pytest.raises(NoSuchKey):
        store.undelete(key("k"))


# ---- what a snapshot keeps ----


def test_a_snapshot_keeps_what_it_shows_and_nothing_older(store: Store) -> None:
    versions_of = [put(store, "k", data) for data in (b"older", b"shown")]
    put(store, "other", b"not removed")
    store.create_snapshot("s")
    later = put(store, "k", b"later")
    for version in (*versions_of, later):
        remove(store, "k", version.version_id)
    assert kept(store) == [("k", digest(b"shown"))]
    assert store.collect_garbage() == Collected(False, files=2, bytes=10)
    with store._database.read() as tx:
        assert removals.snapshots_keeping(tx, BUCKET, b"k", -1, LAST_SEQUENCE) == ["s"]
        assert removals.snapshots_of(tx, BUCKET, b"other", versions_of[1].seq + 1) == ["s"]
        assert removals.snapshots_of(tx, BUCKET, b"k", later.seq) == []


def test_a_snapshot_that_shows_a_marker_keeps_nothing_of_the_key(store: Store) -> None:
    made = put(store, "k", b"below the marker")
    store.delete(key("k"))
    store.create_snapshot("s")
    remove(store, "k", made.version_id)
    assert kept(store) == []


def test_a_snapshot_keeps_what_an_earlier_removal_uncovered(store: Store) -> None:
    made = put(store, "k", b"uncovered")
    put(store, "k", b"removed before")
    remove(store, "k")
    store.create_snapshot("s")
    remove(store, "k", made.version_id)
    assert kept(store) == [("k", digest(b"uncovered"))]


def test_a_snapshot_keeps_a_null_version_that_is_replaced(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"one")
    store.create_snapshot("s")
    put(store, "k", b"two")
    put(store, "k", b"three")
    assert kept(store) == [("k", digest(b"one"))]


def test_of_a_version_the_snapshots_are_told_the_oldest_first(store: Store) -> None:
    made = put(store, "k", b"one")
    for name in ("b", "a"):
        store.create_snapshot(name)
    put(store, "other", b"")
    store.create_snapshot("A")
    with store._database.read() as tx:
        assert removals.snapshots_of(tx, BUCKET, b"k", made.seq) == ["a", "b", "A"]
    remove(store, "k")
    with store._database.read() as tx:
        assert removals.snapshots_keeping(tx, BUCKET, b"k", -1, LAST_SEQUENCE) == ["a", "b", "A"]


RAW_KEYS = (b"a", b"a\0", b"a\0b", b"a\xff", b"a\xff\xff", b"a\xffb", b"b", b"\0", b"\xff", b"\xff\xff")


@pytest.mark.parametrize("prefix", [b"", b"a", b"a\0", b"a\xff", b"\xff", b"a\xff\xff\xff", b"\0\0"])
@pytest.mark.parametrize("bucket", ["", BUCKET, "another"])
def test_a_snapshot_covers_the_keys_that_begin_with_its_prefix(store: Store, bucket: str, prefix: bytes) -> None:
    """Keys with bytes that no key has come in by the back door: the statement must compare bytes whatever they are."""
    put(store, "k", b"data")
    store.create_snapshot("s", bucket)
    with store._database.write() as tx:
        for seq, raw in enumerate(RAW_KEYS, 100):
            tx.execute(
                "INSERT INTO versions (bucket, key, seq, version_id, digest, size, content_type, commit_ms) "
                "SELECT bucket, ?, ?, version_id, digest, size, content_type, commit_ms FROM versions WHERE seq = 1",
                (raw, seq),
            )
        tx.execute("UPDATE snapshots SET seq = 500, prefix = ?", (prefix,))
        for seq, raw in enumerate(RAW_KEYS, 100):
            removals.leave(tx, BUCKET, raw, seq, 1000 + seq, 1)
    held = {row[0] for row in rows(store, "SELECT key FROM versions WHERE gone_seq > 0 AND digest IS NOT NULL")}
    assert held == {raw for raw in RAW_KEYS if raw.startswith(prefix) and bucket != "another"}


# ---- against a model ----

Row = dict[str, Any]
NAMES = ("a", "a\0", "a\U0010ffff", "ab", "\0", "\U0010ffff")
PREFIXES = ("", "a", "a\0", "a\U0010ffff", "\U0010ffff", "\0\0", "zz")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples of a property; each takes buckets of its own."""
    with Store.open(tmp_path_factory.mktemp("removals") / "store") as store:
        yield store


class Model:
    """Rows and snapshots as lists; what a snapshot reaches is found by looking at all of them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.snapshots: list[Row] = []

    def standing(self, bucket: str, name: str) -> list[Row]:
        return [row for row in self.rows if (row["bucket"], row["key"], row["gone"]) == (bucket, name, None)]

    def shown(self, bucket: str, name: str, at: int) -> Row | None:
        """The newest version of a key at a moment, markers included."""
        there = [row for row in self.rows if (row["bucket"], row["key"]) == (bucket, name) and row["seq"] <= at]
        there = [row for row in there if row["gone"] is None or row["gone"] > at]
        return max(there, key=lambda row: int(row["seq"]), default=None)

    def reaching(self, row: Row) -> list[str]:
        found = [
            (one["seq"], one["name"])
            for one in self.snapshots
            if one["bucket"] in ("", row["bucket"])
            and row["key"].startswith(one["prefix"])
            and self.shown(row["bucket"], row["key"], one["seq"]) is row
        ]
        return [name for _, name in sorted(found)]


class Pair:
    """A store and the model, changed alike."""

    numbers = iter(range(10**9))

    def __init__(self, tx: Any) -> None:
        self.tx, self.model = tx, Model()
        number = next(self.numbers)
        self.buckets = (f"b{number}", f"c{number}")
        self.mine = f"{number}-"

    def put(self, bucket: str, name: str, data: bytes | None, suspended: bool) -> None:
        if data is not None:
            blob_rows.keep(self.tx, digest(data), len(data), b"")
        made = versions.append(
            self.tx,
            ObjectKey(bucket, name),
            None if data is None else digest(data),
            len(data or b""),
            headers=NO_HEADERS,
            metadata={},
            suspended=suspended,
            now_ms=1,
        )
        for row in self.model.standing(bucket, name):
            if suspended and row["null"]:
                row["gone"] = made.seq
        self.model.rows.append(
            {"bucket": bucket, "key": name, "seq": made.seq, "data": data, "null": suspended, "gone": None}
        )

    def remove(self, bucket: str, name: str, pick: int) -> None:
        standing = self.model.standing(bucket, name)
        if standing:
            row = standing[pick % len(standing)]
            (version,) = (v for v in versions.everything(self.tx, ObjectKey(bucket, name)) if v.seq == row["seq"])
            versions.remove(self.tx, version, 1)
            row["gone"] = versions.draw(self.tx, 1)[0] - 1

    def snapshot(self, bucket: str, prefix: str) -> None:
        seq, _ = versions.draw(self.tx, 1)
        name = f"{self.mine}{seq}"
        self.tx.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, 1)", (name, bucket, prefix.encode(), seq))
        self.model.snapshots.append({"name": name, "bucket": bucket, "prefix": prefix, "seq": seq})

    def drop(self, pick: int) -> None:
        """A snapshot goes, and what it alone kept is let go."""
        if self.model.snapshots:
            one = self.model.snapshots.pop(pick % len(self.model.snapshots))
            self.tx.execute("DELETE FROM snapshots WHERE name = ?", (one["name"],))
        found, more = removals.to_release(self.tx)
        assert more is None
        removals.release(self.tx, found)

    def compare(self) -> None:
        for row in self.model.rows:
            where = (row["bucket"], row["key"].encode(), row["seq"])
            wanted = None if row["data"] is None else digest(row["data"])
            held = row["gone"] is None or bool(self.model.reaching(row))
            expected = (wanted, None) if held else (None, wanted)
            sql = "SELECT digest, gone_digest, gone_seq FROM versions WHERE bucket = ? AND key = ? AND seq = ?"
            assert self.tx.execute(sql, where).fetchall() == [(*expected, row["gone"])]
            if row["gone"] is None:
                assert removals.snapshots_of(self.tx, *where) == self.model.reaching(row)
        for bucket, name in {(row["bucket"], row["key"]) for row in self.model.rows}:
            removed = [row for row in self.model.rows if (row["bucket"], row["key"]) == (bucket, name) and row["gone"]]
            names = {name for row in removed if row["data"] is not None for name in self.model.reaching(row)}
            assert set(removals.snapshots_keeping(self.tx, bucket, name.encode(), -1, LAST_SEQUENCE)) == names


steps = st.lists(
    st.tuples(st.just("put"), st.integers(0, 1), st.sampled_from(NAMES), st.integers(0, 3), st.booleans())
    | st.tuples(st.just("marker"), st.integers(0, 1), st.sampled_from(NAMES), st.just(0), st.booleans())
    | st.tuples(st.just("remove"), st.integers(0, 1), st.sampled_from(NAMES), st.integers(0, 3), st.just(False))
    | st.tuples(st.just("snapshot"), st.integers(0, 2), st.sampled_from(PREFIXES), st.just(0), st.just(False))
    | st.tuples(st.just("drop"), st.just(0), st.just(""), st.integers(0, 3), st.just(False)),
    max_size=20,
)


@given(steps=steps)
def test_every_history_keeps_what_its_snapshots_reach(shared: Store, steps: list[tuple[Any, ...]]) -> None:
    with shared._database.write() as tx:
        pair = Pair(tx)
        for kind, place, name, pick, suspended in steps:
            bucket = (*pair.buckets, "")[place]
            if kind in ("put", "marker"):
                pair.put(bucket, name, bytes([pick]) if kind == "put" else None, suspended)
            elif kind == "remove":
                pair.remove(bucket, name, pick)
            elif kind == "snapshot":
                pair.snapshot(bucket, name)
            else:
                pair.drop(pick)
            pair.compare()
        tx.execute("DELETE FROM snapshots")


# ---- letting go ----


@pytest.fixture
def held(store: Store) -> Store:
    """Seven removed versions that the snapshot "s" keeps, two of them with the same bytes; two are kept by "t" too."""
    for number in range(7):
        put(store, f"k{number}", b"%d" % (number % 6))
    store.create_snapshot("s", BUCKET)
    store.create_snapshot("t", BUCKET, "k2")
    store.create_snapshot("u", BUCKET, "k5")
    for number in range(7):
        remove(store, f"k{number}")
    return store


def test_gc_lets_go_of_what_snapshots_kept_that_have_gone(held: Store) -> None:
    assert held.collect_garbage() == Collected(False)
    assert len(kept(held)) == 7
    held.delete_snapshot("s")
    assert held.collect_garbage() == Collected(False, files=4, bytes=4)
    assert kept(held) == [("k2", digest(b"2")), ("k5", digest(b"5"))]
    assert payloads(held) == sorted(digest(data).hex() for data in (b"2", b"5"))
    assert {row[4] for row in gone(held, "k0")} == {digest(b"0")}
    held.delete_snapshot("t")
    held.delete_snapshot("u")
    assert held.collect_garbage() == Collected(False, files=2, bytes=2)
    assert kept(held) == []
    assert check(held).clean


def test_the_grace_of_what_is_let_go_begins_then(held: Store) -> None:
    held.delete_snapshot("s")
    found = held.collect_garbage(grace_seconds=3600)
    assert (found.files, found.fresh_files, found.fresh_bytes) == (0, 4, 4)
    assert held.collect_garbage().files == 4


def test_a_payload_that_another_version_reaches_stays(held: Store) -> None:
    put(held, "another", b"0")
    held.delete_snapshot("s")
    assert held.collect_garbage().files == 3
    assert body(held, "another") == b"0"


def test_inlined_payloads_are_let_go_alike(store: Store) -> None:
    store.change_settings({"blobs.inlineMaxBytes": 100})
    put(store, "k", b"in a row")
    store.create_snapshot("s")
    remove(store, "k")
    assert store.collect_garbage().files == 0
    store.delete_snapshot("s")
    assert store.collect_garbage() == Collected(False, files=1, bytes=8)
    assert rows(store, "SELECT count(*) FROM inlined") == [(0,)]


@pytest.mark.parametrize("portion", [1, 2, 3, 500])
def test_what_is_let_go_is_let_go_in_portions(held: Store, portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "BATCH_ROWS", portion)
    held.delete_snapshot("s")
    told: list[int] = []
    releases.release(held._parts, told.append)
    assert told == [*range(portion, 5, portion), 5]
    assert kept(held) == [("k2", digest(b"2")), ("k5", digest(b"5"))]


def test_each_kept_version_is_looked_at_once(held: Store) -> None:
    held.delete_snapshot("s")
    changes = [gone(held, f"k{name}")[0][2] for name in range(7)]
    with held._database.read() as tx:
        found, more = removals.to_release(tx)
        assert [one.key for one in found] == [b"k%d" % at for at in (0, 1, 3, 4, 6)]
        assert more is None
        part, more = removals.to_release(tx, changes[1], 3)
        assert [one.digest for one in part] == [digest(b"3"), digest(b"4")]
        assert more == changes[4]
        assert removals.to_release(tx, changes[6]) == ([], None)
    with held._database.write() as tx:
        assert removals.release(tx, part) == 2
        assert removals.release(tx, part) == 0
        assert removals.to_release(tx)[0] == [found[0], found[1], found[4]]


def test_what_deleted_snapshots_kept_makes_the_estimate_a_lower_bound(held: Store) -> None:
    assert held.reclaimable_bytes().exact
    held.delete_snapshot("s")
    held._collector._estimate = None
    assert not held.reclaimable_bytes().exact
    held.collect_garbage()
    assert held.reclaimable_bytes().exact


def test_kept_versions_are_found_by_their_own_index(store: Store) -> None:
    sql = removals._KEPT_ROWS.sql
    with store._database.read() as tx:
        (plan,) = tx.execute(f"EXPLAIN QUERY PLAN {sql}", values_of(sql, 1)).fetchall()[:1]
    assert "USING INDEX versions_kept (gone_seq>?)" in plan[3]


def test_where_nothing_is_to_be_let_go_nothing_is_written(held: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "_let_go", None)
    held.collect_garbage()


@pytest.mark.parametrize("inlined", [0, 100])
def test_a_dry_run_counts_what_would_be_let_go(store: Store, inlined: int) -> None:
    store.change_settings({"blobs.inlineMaxBytes": inlined})
    put(store, "stays", b"shared")
    for name, data in (("one", b"twice"), ("two", b"twice"), ("three", b"shared"), ("four", b"kept by t too")):
        put(store, name, data)
    store.create_snapshot("s")
    store.create_snapshot("t", BUCKET, "f")
    for name in ("one", "two", "three", "four"):
        remove(store, name)
    assert store.collect_garbage(dry_run=True) == Collected(True)
    store.delete_snapshot("s")
    before = rows(store, "SELECT * FROM versions")
    assert store.collect_garbage(dry_run=True) == Collected(True, files=1, bytes=5)
    fresh = store.collect_garbage(dry_run=True, grace_seconds=3600)
    assert (fresh.files, fresh.fresh_files, fresh.fresh_bytes) == (0, 1, 5)
    assert rows(store, "SELECT * FROM versions") == before
    assert store.collect_garbage() == Collected(False, files=1, bytes=5)


# ---- backups ----


def test_a_backup_and_a_restored_store_have_all_of_it(held: Store, tmp_path: Path) -> None:
    put(held, "stub", b"stub")
    remove(held, "stub")
    put(held, "purged", b"purged")
    held.purge(key("purged"))
    change(held, "INSERT INTO horizons VALUES ('', 1, 2), (?, 3, 4)", BUCKET)
    held.collect_garbage()
    done = held.back_up(tmp_path / "backup")
    assert done.root == backups.root(tmp_path / "backup")
    restored = restore(tmp_path / "backup", tmp_path / "restored")
    assert restored.root == done.root == backups.root(tmp_path / "restored")
    with Store.open(tmp_path / "restored") as other:
        for table in ("versions", "horizons", "snapshots"):
            assert rows(other, f"SELECT * FROM {table}") == rows(held, f"SELECT * FROM {table}")
        assert len(kept(other)) == 7
        assert payloads(other) == payloads(held)
        assert check(other).clean
        assert other.collect_garbage() == Collected(False)
        other.delete_snapshot("s")
        assert other.collect_garbage().files == 4


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        ("gone", "UPDATE versions SET gone_digest = x'' WHERE gone_digest IS NOT NULL"),
        ("horizon", "UPDATE horizons SET seq = seq + 1"),
        ("snapshot", "UPDATE snapshots SET prefix = x'00' WHERE name = 's'"),
    ],
)
def test_each_part_of_the_history_is_in_the_root(held: Store, tmp_path: Path, table: str, statement: str) -> None:
    put(held, "stub", os.urandom(8))
    remove(held, "stub")
    change(held, "INSERT INTO horizons VALUES ('', 1, 2)")
    before = held.back_up(tmp_path / "before").root
    change(held, statement)
    after = held.back_up(tmp_path / table).root
    assert after == backups.root(tmp_path / table) != before
