"""All SQL: S3's version rules against the oracle, sequences and commit times, ids that never repeat, and the plans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from driver_aids import values_of
from gestalt_cas import Store
from gestalt_cas.errors import DatabaseDamaged, Held, QuotaExceeded
from gestalt_cas.keeping import holds, quotas
from gestalt_cas.objects import NO_HEADERS, Headers, ObjectKey, ObjectVersion
from gestalt_cas.rows import blob_rows, buckets, version_walks, versions
from gestalt_cas.rows.version_walks import BEYOND, Place, Walk
from oracle import NULL, Oracle, Version
from storage import BUCKET, key, rows

SUMS = b""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples of a property; each takes keys of its own."""
    with Store.open(tmp_path_factory.mktemp("versions") / "store") as store:
        yield store


class Names:
    """Fresh keys, in an order of their own."""

    number = 0

    @classmethod
    def fresh(cls) -> str:
        cls.number += 1
        return f"{cls.number:08}"


def append(
    tx: Any, where: ObjectKey, data: bytes | None, *, suspended: bool = False, now_ms: int = 1, **options: bool
) -> ObjectVersion:
    digest = None if data is None else blake3(data).digest()
    if digest is not None:
        blob_rows.keep(tx, digest, len(data or b""), SUMS)
    return versions.append(
        tx,
        where,
        digest,
        len(data or b""),
        headers=NO_HEADERS,
        metadata={},
        suspended=suspended,
        now_ms=now_ms,
        **options,
    )


steps = st.lists(
    st.tuples(st.just("put"), st.booleans(), st.binary(max_size=2))
    | st.tuples(st.just("marker"), st.booleans(), st.none())
    | st.tuples(st.just("remove"), st.just(False), st.integers(0, 5))
    | st.tuples(st.just("remove null"), st.just(False), st.none()),
    max_size=12,
)


@given(steps=steps)
def test_any_history_is_that_of_the_oracle(shared: Store, steps: list[tuple[str, bool, Any]]) -> None:
    """Writes, deletes and removals under changing versioning: which versions there are, and which one is current."""
    where, oracle = key(Names.fresh()), Oracle()
    name = (BUCKET, where.key)
    with shared._database.write() as tx:
        for action, suspended, detail in steps:
            if action in ("put", "marker"):
                oracle.suspended = suspended
                made = append(tx, where, detail, suspended=suspended)
                oracle.add(name, Version(made.version_id, detail))
            else:
                stack = oracle.versions.get(name, [])
                picked = stack[detail % len(stack)].version_id if action == "remove" and stack else NULL
                found = versions.by_id(tx, where, picked)
                removed = oracle.remove(name, picked)
                assert (found is None) == (removed is None)
                if found is not None:
                    versions.remove(tx, found, 1)
            check(tx, where, oracle)


def history(tx: Any, bucket: str, lower: bytes, after: tuple[bytes, int] | None, limit: int) -> list[ObjectVersion]:
    """At most `limit` versions from a key on, after the one with this key and sequence."""
    walk = Walk(tx, bucket, lower, BEYOND, Place(*after, after[1] - 1) if after else None)
    found: list[ObjectVersion] = []
    while not walk.through and len(found) < limit:
        found += walk.step(limit, limit - len(found))
    return found


def check(tx: Any, where: ObjectKey, oracle: Oracle) -> None:
    stack = oracle.versions.get((BUCKET, where.key), [])
    got = [v for v in history(tx, BUCKET, where.key.encode(), None, 100) if v.key == where]
    assert [v.version_id for v in got] == [v.version_id for v in reversed(stack)]
    assert [v.delete_marker for v in got] == [v.data is None for v in reversed(stack)]
    assert [v.current for v in got] == [True, *([False] * len(got))][: len(got)]
    for shown, expected in zip(got, reversed(stack), strict=True):
        assert versions.by_id(tx, where, expected.version_id) == shown
    newest, current = versions.newest(tx, where), versions.current(tx, where)
    assert (newest.version_id if newest else None) == (stack[-1].version_id if stack else None)
    expected_current = oracle.current((BUCKET, where.key))
    assert (current.version_id if current else None) == (expected_current.version_id if expected_current else None)
    listed = versions.seek(tx, BUCKET, where.key.encode(), where.key.encode() + b"\0", 5)
    assert [row[0] for row in listed] == ([where.key.encode()] if expected_current else [])


def test_s3s_example_of_suspended_versioning(store: Store) -> None:
    """S3 user guide, "Adding objects to versioning-suspended buckets" and "Deleting objects from" them."""
    where = key("photo.gif")
    with store._database.write() as tx:
        first = append(tx, where, b"1")
        assert append(tx, where, b"null", suspended=True).version_id == NULL
        assert [v.version_id for v in history(tx, BUCKET, b"", None, 9)] == [NULL, first.version_id]
        append(tx, where, b"null again", suspended=True)
        assert [v.version_id for v in history(tx, BUCKET, b"", None, 9)] == [NULL, first.version_id]
        second = append(tx, where, b"2")
        marker = append(tx, where, None, suspended=True)
        assert (marker.version_id, marker.delete_marker) == (NULL, True)
        assert [v.version_id for v in history(tx, BUCKET, b"", None, 9)] == [
            NULL, second.version_id, first.version_id,
        ]  # fmt: skip
        assert versions.current(tx, where) is None
        null = versions.by_id(tx, where, NULL)
        assert null is not None
        versions.remove(tx, null, 1)
        undeleted = versions.current(tx, where)
        assert undeleted is not None
        assert undeleted.version_id == second.version_id


# ---- sequences, times, ids ----


def test_every_change_draws_its_sequence(store: Store) -> None:
    where = key("k")
    with store._database.write() as tx:
        assert append(tx, where, b"1").seq == 1
        assert append(tx, where, b"2", suspended=True).seq == 2
        assert append(tx, where, b"3", suspended=True).seq == 3  # and by the same change the null version is gone
        found = versions.by_id(tx, where, NULL)
        assert found is not None
        versions.remove(tx, found, 1)
        assert append(tx, where, b"4").seq == 5


def test_of_many_sequences_the_first_is_told(store: Store) -> None:
    with store._database.write() as tx:
        assert versions.draw(tx, 5) == (1, 5)
        assert versions.draw(tx, 6, 10) == (2, 6)
        assert versions.draw(tx, 7, 1) == (12, 7)


@given(clock=st.lists(st.integers(0, 2**42), min_size=1, max_size=20))
def test_commit_times_follow_the_clock_and_never_go_back(shared: Store, clock: list[int]) -> None:
    where = key(Names.fresh())
    ((last,),) = rows(shared, "SELECT commit_ms FROM counter")
    with shared._database.write() as tx:
        for now_ms in clock:
            made = append(tx, where, b"", now_ms=now_ms)
            assert made.modified_ms == max(last, now_ms)
            last = made.modified_ms
        found = history(tx, BUCKET, where.key.encode(), None, len(clock))
        assert [v.modified_ms for v in found] == sorted((v.modified_ms for v in found), reverse=True)
        versions.draw(tx, last + 5)  # a removal counts as well
        assert append(tx, where, b"", now_ms=0).modified_ms == last + 5


def test_a_store_that_was_put_back_gives_no_id_a_second_time(store: Store) -> None:
    where = key("k")
    with store._database.write() as tx:
        ids = set()
        for _ in range(200):
            tx.execute("UPDATE counter SET seq = 41")
            made = append(tx, where, b"x")
            ids.add(made.version_id)
            assert made.seq == 42
            tx.execute("DELETE FROM versions")
    assert len(ids) == 200


@pytest.mark.parametrize("seq", [-1, (1 << 48) - 1, "x", 1.5, b"5"])
def test_a_counter_that_is_no_sequence_gives_no_number(seq: object, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store, store._database.write() as tx:
        tx.execute("UPDATE counter SET seq = ?", (seq,))
        with pytest.raises(DatabaseDamaged, match=r"counter: seq holds .*, so no change can be numbered"):
            versions.draw(tx, 1)
        tx.execute("UPDATE counter SET seq = 5, commit_ms = 'x'")
        with pytest.raises(DatabaseDamaged, match="counter: commit_ms holds 'x'"):
            versions.draw(tx, 1)


def test_a_counter_without_a_row_gives_no_number(store: Store) -> None:
    with store._database.write() as tx:
        tx.execute("DELETE FROM counter")
        with pytest.raises(DatabaseDamaged, match="counter: seq is missing: the table has no row, so no change"):
            versions.draw(tx, 1)
        tx.execute("INSERT INTO counter VALUES (1, 0, 'x')")
        with pytest.raises(DatabaseDamaged, match="counter: commit_ms holds 'x'"):
            versions.draw(tx, 1)


@pytest.mark.parametrize("seq", [0, (1 << 48) - 2])
def test_the_first_and_the_last_sequence_can_be_drawn(seq: int, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store, store._database.write() as tx:
        tx.execute("UPDATE counter SET seq = ?", (seq,))
        assert versions.draw(tx, 7) == (seq + 1, 7)


def test_ids_are_opaque_text_that_suits_urls(store: Store) -> None:
    with store._database.write() as tx:
        ids = [append(tx, key(f"{number}"), b"x").version_id for number in range(50)]
    assert all(re.fullmatch("[0-9a-v]{24}", version_id) for version_id in ids)
    assert len(set(ids)) == 50


@given(text=st.text(max_size=30) | st.from_regex("[0-9a-vA-V=]{0,26}", fullmatch=True) | st.text(st.characters()))
def test_any_other_text_names_no_version(shared: Store, text: str) -> None:
    with shared._database.write() as tx:
        where = key(Names.fresh())
        made = append(tx, where, b"x")
        assert versions.by_id(tx, where, text) is None
        for spoiled in (made.version_id.upper(), made.version_id + "=", made.version_id[:-1], f" {made.version_id}"):
            assert versions.by_id(tx, where, spoiled) is None


def test_an_id_belongs_to_its_key_and_bucket(store: Store) -> None:
    with store._database.write() as tx:
        made = append(tx, key("k"), b"x")
        assert versions.by_id(tx, key("k"), made.version_id) == made
        assert versions.by_id(tx, key("l"), made.version_id) is None
        assert versions.by_id(tx, key("k", "other"), made.version_id) is None
        assert versions.by_id(tx, key("k"), NULL) is None


def test_a_version_keeps_what_it_was_given(store: Store) -> None:
    headers = Headers("text/plain", "no-store", 'attachment; filename="ü"', "gzip", "de")
    metadata = {"": "", "Case": "kept", "ü\0": "\U0010ffff"}
    with store._database.write() as tx:
        blob_rows.keep(tx, b"d" * 32, 7, b"s" * 16)
        made = versions.append(
            tx, key("ü\0"), b"d" * 32, 7, headers=headers, metadata=metadata, suspended=False, now_ms=12
        )
    with store._database.read() as tx:
        found = versions.current(tx, key("ü\0"))
    assert found == made
    assert found is not None
    assert (found.headers, dict(found.metadata), found.size, found.digest) == (headers, metadata, 7, (b"d" * 32).hex())
    with pytest.raises(TypeError):
        found.metadata["new"] = "value"  # type: ignore[index]


def test_what_is_stored_is_no_longer_than_it_must_be(store: Store) -> None:
    """Nothing is written for what was not given, and no character as an escape of six."""
    with store._database.write() as tx:
        append(tx, key("bare"), b"x")
        versions.append(
            tx,
            key("full"),
            blake3(b"x").digest(),
            1,
            headers=Headers("text/plain", content_language="\u00fc"),
            metadata={"a": "\u00fc"},
            suspended=False,
            now_ms=1,
        )
        found = tx.execute("SELECT content_type, headers, metadata FROM versions ORDER BY key").fetchall()
    assert found == [("", None, None), ("text/plain", '{"content_language": "\u00fc"}', '{"a": "\u00fc"}')]


def test_a_row_that_no_write_stores_is_damage(store: Store) -> None:
    with store._database.write() as tx:
        append(tx, key("k"), b"x")
        tx.execute("UPDATE versions SET metadata = '{'")
        with pytest.raises(DatabaseDamaged, match="a version's row in bucket 'bucket'"):
            versions.current(tx, key("k"))


def test_at_most_one_null_version_per_key_whatever_the_code_does(store: Store) -> None:
    with store._database.write() as tx:
        append(tx, key("k"), b"x", suspended=True)
    with pytest.raises(Exception, match="UNIQUE"), store._database.write() as tx:
        tx.execute(
            "INSERT INTO versions (seq, bucket, key, version_id, size, content_type, commit_ms)"
            " SELECT seq + 100, bucket, key, version_id, size, content_type, commit_ms FROM versions"
        )


# ---- the current version ----


def test_a_version_is_current_by_its_own_key_and_bucket(store: Store) -> None:
    """What is newer elsewhere, or was removed, makes no version an old one."""
    with store._database.write() as tx:
        made = append(tx, key("k"), b"x")
        null = append(tx, key("null"), b"x", suspended=True)
        append(tx, key("k", "other"), b"x")
        append(tx, key("l"), b"x")
        newer = append(tx, key("k"), b"y")
        versions.remove(tx, newer, 1)
        for version in (made, null):
            found = versions.by_id(tx, version.key, version.version_id)
            assert found is not None
            assert found.current
        assert [v.current for v in versions.everything(tx, key("k"))] == [True]
        assert [v.current for v in history(tx, BUCKET, b"", None, 9)] == [True] * 3


def test_a_marker_is_current_by_its_own_key_and_bucket(store: Store) -> None:
    with store._database.write() as tx:
        markers = [append(tx, key(name), None) for name in ("k", "covered")]
        for later in (key("k", "other"), key("l"), key("covered")):
            append(tx, later, None)
        found = [versions.by_id(tx, marker.key, marker.version_id) for marker in markers]
    assert [version is not None and version.current for version in found] == [True, False]


def test_everything_of_a_key(store: Store) -> None:
    with store._database.write() as tx:
        made = [append(tx, key("k"), data) for data in (b"1", None, b"2")]
        for elsewhere in (key("k", "other"), key("k\0"), key("j")):
            append(tx, elsewhere, b"x")
        found = versions.everything(tx, key("k"))
    assert [(v.version_id, v.delete_marker, v.current) for v in found] == [
        (made[2].version_id, False, True),
        (made[1].version_id, True, False),
        (made[0].version_id, False, False),
    ]


def test_the_default_bucket_is_looked_up_with_the_key(store: Store) -> None:
    with store._database.write() as tx:
        tx.execute("INSERT OR REPLACE INTO settings VALUES ('bucket', '\"mine\"'), ('a', '\"bucket\"'), ('z', '1')")
        mine, other = append(tx, key("k", "mine"), b"1"), append(tx, key("k"), b"2")
        append(tx, key("l", "mine"), b"3")
        append(tx, key("only here"), b"4")
        assert versions.current_of(tx, key("k", "")) == mine
        assert versions.current_of(tx, key("k")) == other
        assert versions.current_of(tx, key("only here", "")) is None
        assert versions.current_of(tx, key("none")) is None


def test_a_pointer_to_another_keys_version_shows_nothing(store: Store) -> None:
    """Damage of a row of `current` must not answer with the bytes of another key or bucket."""
    with store._database.write() as tx:
        for elsewhere in (key("l"), key("k", "other")):
            append(tx, key("k"), b"x")
            wrong = append(tx, elsewhere, b"other")
            tx.execute("DELETE FROM current WHERE seq = ?", [wrong.seq])
            tx.execute("UPDATE current SET seq = ?", [wrong.seq])
            assert versions.current(tx, key("k")) is None
            assert versions.current_run(tx, BUCKET, b"", b"z") == []
            assert buckets.totals(tx, elsewhere.bucket, b"", None)[0][0] == 0


def test_a_pointer_is_made_anew_from_the_versions(store: Store) -> None:
    where = (BUCKET, b"k")
    with store._database.write() as tx:
        assert versions.pointer(tx, *where) == (None, None)
        append(tx, key("k", "other"), b"x")
        append(tx, key("l"), b"x")
        append(tx, key("k"), b"1")
        newest = append(tx, key("k"), b"2")
        assert versions.pointer(tx, *where) == (newest.seq, newest.seq)
        before = tx.execute("SELECT * FROM current ORDER BY 1, 2").fetchall()
        for damage in ("DELETE FROM current WHERE seq = 4", "UPDATE current SET seq = 3 WHERE seq = 4"):
            tx.execute(damage)
            assert versions.pointer(tx, *where) in [(4, None), (4, 3)]
            versions.repoint(tx, *where)
            assert tx.execute("SELECT * FROM current ORDER BY 1, 2").fetchall() == before
        append(tx, key("k"), None)
        assert versions.pointer(tx, *where) == (None, None)
        tx.execute("INSERT INTO current VALUES (?, ?, 4)", where)
        assert versions.pointer(tx, *where) == (None, 4)
        versions.repoint(tx, *where)
        assert versions.pointer(tx, *where) == (None, None)
        assert len(tx.execute("SELECT * FROM current").fetchall()) == 2


def test_a_marker_takes_away_its_own_key_alone(store: Store) -> None:
    with store._database.write() as tx:
        for where in (key("k"), key("l"), key("k", "other")):
            append(tx, where, b"x")
        append(tx, key("k"), None)
        assert tx.execute("SELECT bucket, key FROM current ORDER BY 1").fetchall() == [(BUCKET, b"l"), ("other", b"k")]


# ---- quotas and holds ----


def test_what_a_change_adds_is_charged(store: Store) -> None:
    where = key("k")

    def used(tx: Any) -> int:
        return quotas.standing(tx)[0].used_bytes

    with store._database.write() as tx:
        tx.execute("INSERT INTO quotas VALUES (?, CAST('' AS BLOB), 10, 0)", [BUCKET])
        made = append(tx, where, b"123")
        append(tx, where, b"12345", suspended=True)
        assert used(tx) == 8
        append(tx, where, b"1234567", suspended=True)  # in place of the five
        assert used(tx) == 10
        append(tx, where, None)
        append(tx, where, b"not counted", counted=False)
        assert used(tx) == 10
        versions.remove(tx, made, 1)
        assert used(tx) == 7
    with pytest.raises(QuotaExceeded), store._database.write() as tx:
        append(tx, where, b"1234")


def test_a_held_null_version_is_not_replaced(store: Store) -> None:
    where = key("k")
    with store._database.write() as tx:
        holds.place(tx, BUCKET, "k", "", 1)
        append(tx, where, None, suspended=True)
        versions.refuse_replacing(tx, BUCKET, b"k")  # nothing holds a marker
        held = append(tx, where, b"1", suspended=True)
        for data in (b"2", None):
            with pytest.raises(Held):
                append(tx, where, data, suspended=True)
        with pytest.raises(Held):
            versions.refuse_replacing(tx, BUCKET, b"k")
        assert versions.newest(tx, where) == held
        versions.refuse_replacing(tx, BUCKET, b"l")
        versions.refuse_replacing(tx, "other", b"k")
        append(tx, where, b"2")
        append(tx, where, b"3", suspended=True, guarded=False)  # who says that there is no hold is not asked


def test_a_held_version_is_not_removed(store: Store) -> None:
    where = key("k")
    with store._database.write() as tx:
        made, marker = append(tx, where, b"1"), append(tx, where, None)
        other = append(tx, where, b"2")
        holds.place(tx, BUCKET, "k", made.version_id, 1)
        versions.remove(tx, other, 1)
        with pytest.raises(Held):
            versions.remove(tx, made, 1)
        assert versions.by_id(tx, where, made.version_id) is not None
        holds.place(tx, BUCKET, "k", "", 1)
        versions.remove(tx, marker, 1)  # nothing holds a marker
        assert versions.current(tx, where) == made
        versions.remove(tx, made, 1, guarded=False)
        assert versions.current(tx, where) is None


def test_what_was_removed_stays_for_the_history(store: Store) -> None:
    where = key("k")
    with store._database.write() as tx:
        append(tx, where, b"1", suspended=True, now_ms=10)
        append(tx, where, b"2", suspended=True, now_ms=20)
        made = append(tx, where, b"3", now_ms=30)
        versions.remove(tx, made, 40)
        found = tx.execute("SELECT seq, gone_seq, gone_ms, digest IS NULL FROM versions ORDER BY seq").fetchall()
    assert found == [(1, 2, 20, 1), (2, None, None, 0), (3, 4, 40, 1)]


# ---- payload rows ----


def test_a_payloads_row(store: Store) -> None:
    digest = b"d" * 32
    with store._database.write() as tx:
        assert blob_rows.row(tx, digest) is None
        blob_rows.mark_damaged(tx, digest, 5)
        assert blob_rows.row(tx, digest) is None
        blob_rows.keep(tx, digest, 7, b"sums")
        assert blob_rows.row(tx, digest) == blob_rows.BlobRow(7, 0, b"sums", damaged=False)
        blob_rows.mark_damaged(tx, digest, 5)
        blob_rows.mark_damaged(tx, digest, 6)
        assert blob_rows.row(tx, digest) == blob_rows.BlobRow(7, 0, b"sums", damaged=True)
        assert tx.execute("SELECT damaged_ms FROM blobs").fetchall() == [(5,)]
        blob_rows.keep(tx, digest, 7, b"new sums")
        assert blob_rows.row(tx, digest) == blob_rows.BlobRow(7, 0, b"new sums", damaged=False)


# ---- walking ----


def test_seek_has_an_inclusive_start_and_an_exclusive_end(store: Store) -> None:
    with store._database.write() as tx:
        for name in ("a", "b", "b\0", "c", "\U0010ffff"):
            append(tx, key(name), b"x")
            append(tx, key(name, "other"), b"x")
        append(tx, key("deleted"), b"x")
        append(tx, key("deleted"), None)

        def found(lower: bytes, upper: bytes | None, limit: int = 10) -> list[bytes]:
            return [row[0] for row in versions.seek(tx, BUCKET, lower, upper, limit)]

        assert found(b"", None) == [b"a", b"b", b"b\0", b"c", "\U0010ffff".encode()]
        assert found(b"b", b"c") == [b"b", b"b\0"]
        assert found(b"b\0", None, 2) == [b"b\0", b"c"]
        assert found(b"a", b"d", 2) == [b"a", b"b"]
        assert found(b"d", b"e") == []
        assert found(b"c", b"b") == []


def test_a_run_has_both_its_ends(store: Store) -> None:
    with store._database.write() as tx:
        for name in ("a", "b", "b\0", "c", "d"):
            append(tx, key(name), b"old")
            append(tx, key(name), name.encode())
            append(tx, key(name, "other"), b"x")
        found = versions.current_run(tx, BUCKET, b"b", b"c")
    assert [(v.key, v.size, v.current) for v in found] == [(key(name), len(name), True) for name in ("b", "b\0", "c")]


def key_among_others(tx: Any) -> list[ObjectVersion]:
    """Five versions of the key "k", of which the second was removed since, each among such of other keys."""
    made = []
    for number in range(5):
        for other in (key("j"), key("k", "another"), key("l"), key("k", "zebra")):
            append(tx, other, b"other")
        made.append(append(tx, key("k"), None if number == 3 else b"%d" % number))
    versions.remove(tx, made[1], 1)
    return made


def test_a_key_is_gone_through_in_steps(store: Store) -> None:
    """Rows of removed versions are counted; the last step has no end, since what comes meanwhile belongs to it."""
    with store._database.write() as tx:
        seqs = [version.seq for version in key_among_others(tx)]
        assert versions.step(tx, key("k"), -1, 1) == seqs[0]
        assert versions.step(tx, key("k"), -1, 2) == seqs[1]
        assert versions.step(tx, key("k"), seqs[1], 2) == seqs[3]
        assert versions.step(tx, key("k"), seqs[2], 2) is None
        assert versions.step(tx, key("k"), seqs[3], 2) is None
        assert versions.step(tx, key("k"), -1, 4) == seqs[3]
        assert versions.step(tx, key("k"), -1, 5) is None
        assert versions.step(tx, key("absent"), -1, 1) is None


def test_the_versions_between_two_sequences(store: Store) -> None:
    with store._database.write() as tx:
        made = key_among_others(tx)
        seqs = [version.seq for version in made]
        found = versions.between(tx, key("k"), -1, seqs[4])
        assert [(one.seq, one.current, one.delete_marker) for one in found] == [
            (seqs[0], False, False),
            (seqs[2], False, False),
            (seqs[3], False, True),
            (seqs[4], False, False),
        ]
        assert [one.seq for one in versions.between(tx, key("k"), seqs[0], seqs[3])] == [seqs[2], seqs[3]]
        assert versions.between(tx, key("k"), seqs[4], seqs[4]) == []


def test_of_everything_a_part(store: Store) -> None:
    with store._database.write() as tx:
        seqs = [version.seq for version in key_among_others(tx)]
        whole = versions.everything(tx, key("k"))
        assert [(one.seq, one.current) for one in whole] == [
            (seqs[4], True),
            (seqs[3], False),
            (seqs[2], False),
            (seqs[0], False),
        ]
        assert versions.everything(tx, key("k"), limit=1) == whole[:1]
        assert versions.everything(tx, key("k"), below=seqs[4], limit=2) == whole[1:3]
        assert versions.everything(tx, key("k"), below=seqs[0]) == []


def test_the_order_is_asked_for_and_no_accident(store: Store) -> None:
    """SQLite may give rows in any order where none is asked for; this pragma makes it give the other one."""
    with store._database.write() as tx:
        tx.execute("PRAGMA reverse_unordered_selects = ON")
        try:
            made = [append(tx, key(name), b"x") for name in ("a", "a", "b", "b", "c")]
            names = [b"a", b"b", b"c"]
            assert [row[0] for row in versions.seek(tx, BUCKET, b"", None, 9)] == names
            assert [row[0] for row in versions.seek(tx, BUCKET, b"", b"z", 9)] == names
            assert [v.key.key.encode() for v in versions.current_run(tx, BUCKET, b"", b"z")] == names
            newest = versions.newest(tx, key("a"))
            assert newest is not None
            assert newest.seq == made[1].seq
            order = [made[at].seq for at in (1, 0, 3, 2, 4)]
            assert [v.seq for v in history(tx, BUCKET, b"", None, 9)] == order
            assert [v.seq for v in history(tx, BUCKET, b"", None, 3)] == order[:3]
            assert [v.seq for v in history(tx, BUCKET, b"", None, 1)] == order[:1]
            assert [v.seq for v in history(tx, BUCKET, b"", (b"a", made[1].seq), 1)] == order[1:2]
            assert [v.seq for v in versions.everything(tx, key("a"))] == order[:2]
            assert [v.seq for v in versions.between(tx, key("a"), -1, made[1].seq)] == [made[0].seq, made[1].seq]
            assert versions.step(tx, key("a"), -1, 1) == made[0].seq
            walk = Walk(tx, BUCKET, b"", BEYOND, None)
            assert walk.step(2, 9) == []  # both rows are of the key that the next step has
            assert walk.place.key == b"a"
        finally:
            tx.execute("PRAGMA reverse_unordered_selects = OFF")


def test_a_listing_of_versions_begins_at_the_key_asked_for(store: Store) -> None:
    with store._database.write() as tx:
        made = {name: append(tx, key(name), b"x") for name in ("a", "b", "c")}
        append(tx, key("b", "other"), b"x")
        assert [v.key.key for v in history(tx, BUCKET, b"b", None, 9)] == ["b", "c"]
        after = (b"a", made["a"].seq)
        assert [v.key.key for v in history(tx, BUCKET, b"c", after, 9)] == ["c"]


def test_history_goes_on_within_a_key(store: Store) -> None:
    expected = []
    with store._database.write() as tx:
        for name in ("a", "a\0", "b"):
            ids = [append(tx, key(name), b"x").version_id for _ in range(3)]
            append(tx, key(name, "other"), b"x")
            expected += [(name, version_id) for version_id in reversed(ids)]
        for size in range(1, 11):
            got: list[tuple[str, str]] = []
            after = None
            while page := history(tx, BUCKET, b"", after, size):
                assert len(page) <= size
                got += [(v.key.key, v.version_id) for v in page]
                assert len(got) <= len(expected)
                after = (page[-1].key.key.encode(), page[-1].seq)
            assert got == expected, size


def test_buckets_are_those_with_a_version(store: Store) -> None:
    assert buckets.standing(store._database) == []
    with store._database.write() as tx:
        assert buckets.ever(tx) == []
        for bucket in ("b", "a", "ü", "ab", "marker only"):
            append(tx, key("k", bucket), None if bucket == "marker only" else b"x")
        made = append(tx, key("k", "gone"), b"x")
        versions.remove(tx, made, 1)
        assert buckets.ever(tx) == ["a", "ab", "b", "gone", "marker only", "ü"]
    assert buckets.standing(store._database) == ["a", "ab", "b", "marker only", "ü"]


def test_totals_count_each_payload_once(store: Store) -> None:
    with store._database.write() as tx:
        for name, data in (("a", b"12345"), ("a", b"12345"), ("b", b"12345"), ("b", b"xy"), ("c", b"xy")):
            append(tx, key(name), data)
        append(tx, key("c"), None)
        append(tx, key("a", "other"), b"elsewhere")
        versions.remove(tx, append(tx, key("b"), b"removed"), 1)
        assert buckets.totals(tx, BUCKET, b"", None)[0] == (2, 5, 7, 19, 7)
        assert buckets.totals(tx, BUCKET, b"a", b"b")[0] == (1, 2, 5, 10, 5)
        assert buckets.totals(tx, BUCKET, b"b", b"c")[0] == (1, 2, 2, 7, 7)
        assert buckets.totals(tx, BUCKET, b"c", None)[0] == (0, 1, 0, 2, 2)
        assert buckets.totals(tx, BUCKET, b"d", None)[0] == buckets.Totals() == (0, 0, 0, 0, 0)
        append(tx, key("b"), b"12345")
        assert buckets.totals(tx, BUCKET, b"b", b"c")[0] == (1, 3, 5, 12, 7)
        kept = append(tx, key("d"), b"kept by a snapshot")
        tx.execute("INSERT INTO snapshots VALUES ('s', '', CAST('' AS BLOB), ?, 1)", [kept.seq])
        versions.remove(tx, kept, 1)
        assert buckets.totals(tx, BUCKET, b"d", None)[0] == (0, 0, 0, 0, 0)
        append(tx, key("e"), b"kept by a snapshot")
        assert buckets.totals(tx, BUCKET, b"d", None)[0] == (1, 1, 18, 18, 18)


def test_totals_end_behind_the_prefix(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind is not gone through; a stretch that ends within is gone on from."""
    monkeypatch.setattr(buckets, "STRETCH", 2)
    with store._database.write() as tx:
        made = [append(tx, key(name), b"x") for name in ("a", "a", "b", "b", "c", "c")]
        counted, after = buckets.totals(tx, BUCKET, b"a", b"b")
        assert (counted.versions, after) == (2, (b"a", made[1].seq))
        counted, after = buckets.totals(tx, BUCKET, b"a", b"b", after)
        assert (counted.versions, after) == (0, None)


# ---- costs ----

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}{name}": value
    for module in (versions, version_walks, buckets)
    for name, value in vars(module).items()
    if isinstance(value, versions.Prepared)
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_a_table_or_sorts(store: Store, name: str) -> None:
    statement = STATEMENTS[name]
    with store._database.read() as tx:
        plan = tx.execute(f"EXPLAIN QUERY PLAN {statement.sql}", values_of(statement.sql)).fetchall()
    steps = [step[3] for step in plan]
    assert not [step for step in steps if step.startswith("SCAN") and step != "SCAN counter"], steps
    assert not [step for step in steps if "TEMP B-TREE" in step or "AUTOMATIC" in step], steps


@pytest.mark.parametrize(
    ("name", "seq"),
    [
        ("versions_NEWEST", 0),
        ("versions_NEXT", 1 << 62),
        ("buckets_HAS_OBJECT", 0),
        ("buckets_STANDS", 0),
        ("buckets_CAME_SINCE", 0),
    ],
)
def test_one_row_answers_what_one_row_can(store: Store, name: str, seq: int) -> None:
    values = {"bucket": BUCKET, "key": b"k", "seq": seq, "since": seq, "last_key": b"z", "last_seq": 0}
    with store._database.write() as tx:
        for where in (key("k"), key("k"), key("l")):
            append(tx, where, b"x")
        assert len(STATEMENTS[name](tx, **values)) == 1


def test_finding_the_versions_of_a_payload_uses_its_index(store: Store) -> None:
    with store._database.read() as tx:
        plan = tx.execute("EXPLAIN QUERY PLAN SELECT 1 FROM versions WHERE digest = ? LIMIT 1", [b""]).fetchall()
    assert "versions_by_digest" in plan[0][3]
