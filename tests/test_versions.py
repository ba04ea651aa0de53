"""All SQL: S3's version rules against the oracle, sequences and commit times, ids that never repeat, and the plans."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas import Store, blob_rows, buckets, versions
from gestalt_cas.objects import NO_HEADERS, Headers, ObjectKey, ObjectVersion
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


def append(tx: Any, where: ObjectKey, data: bytes | None, *, suspended: bool = False, now_ms: int = 1) -> ObjectVersion:
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


def check(tx: Any, where: ObjectKey, oracle: Oracle) -> None:
    stack = oracle.versions.get((BUCKET, where.key), [])
    got = [v for v in versions.history(tx, BUCKET, where.key.encode(), None, 100) if v.key == where]
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
        assert [v.version_id for v in versions.history(tx, BUCKET, b"", None, 9)] == [NULL, first.version_id]
        append(tx, where, b"null again", suspended=True)
        assert [v.version_id for v in versions.history(tx, BUCKET, b"", None, 9)] == [NULL, first.version_id]
        second = append(tx, where, b"2")
        marker = append(tx, where, None, suspended=True)
        assert (marker.version_id, marker.delete_marker) == (NULL, True)
        assert [v.version_id for v in versions.history(tx, BUCKET, b"", None, 9)] == [
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


@given(clock=st.lists(st.integers(0, 2**42), min_size=1, max_size=20))
def test_commit_times_follow_the_clock_and_never_go_back(shared: Store, clock: list[int]) -> None:
    where = key(Names.fresh())
    ((last,),) = rows(shared, "SELECT commit_ms FROM counter")
    with shared._database.write() as tx:
        for now_ms in clock:
            made = append(tx, where, b"", now_ms=now_ms)
            assert made.modified_ms == max(last, now_ms)
            last = made.modified_ms
        found = versions.history(tx, BUCKET, where.key.encode(), None, len(clock))
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


def test_at_most_one_null_version_per_key_whatever_the_code_does(store: Store) -> None:
    with store._database.write() as tx:
        append(tx, key("k"), b"x", suspended=True)
    with pytest.raises(Exception, match="UNIQUE"), store._database.write() as tx:
        tx.execute(
            "INSERT INTO versions (seq, bucket, key, version_id, size, content_type, commit_ms)"
            " SELECT seq + 100, bucket, key, version_id, size, content_type, commit_ms FROM versions"
        )


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
        assert found(b"d", b"e") == []
        assert found(b"c", b"b") == []


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
            while page := versions.history(tx, BUCKET, b"", after, size):
                assert len(page) <= size
                got += [(v.key.key, v.version_id) for v in page]
                after = (page[-1].key.key.encode(), page[-1].seq)
            assert got == expected, size


def test_buckets_are_those_with_a_version(store: Store) -> None:
    with store._database.write() as tx:
        assert buckets.standing(tx) == []
        for bucket in ("b", "a", "ü", "ab", "marker only"):
            append(tx, key("k", bucket), None if bucket == "marker only" else b"x")
        made = append(tx, key("k", "gone"), b"x")
        versions.remove(tx, made, 1)
        assert buckets.standing(tx) == ["a", "ab", "b", "marker only", "ü"]


def test_totals_count_each_payload_once(store: Store) -> None:
    with store._database.write() as tx:
        for name, data in (("a", b"12345"), ("a", b"12345"), ("b", b"12345"), ("b", b"xy"), ("c", b"xy")):
            append(tx, key(name), data)
        append(tx, key("c"), None)
        append(tx, key("a", "other"), b"elsewhere")
        assert buckets.totals(tx, BUCKET, b"", None) == (2, 5, 7, 19, 7)
        assert buckets.totals(tx, BUCKET, b"b", b"c") == (1, 2, 2, 7, 7)
        assert buckets.totals(tx, BUCKET, b"c", None) == (0, 1, 0, 2, 2)
        assert buckets.totals(tx, BUCKET, b"d", None) == (0, 0, 0, 0, 0)


# ---- costs ----

STATEMENTS = {name: value for name, value in vars(versions).items() if isinstance(value, versions.Prepared)}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_a_table_or_sorts(store: Store, name: str) -> None:
    statement = STATEMENTS[name]
    with store._database.read() as tx:
        plan = tx.execute(f"EXPLAIN QUERY PLAN {statement.sql}", [None] * len(statement._names)).fetchall()
    steps = [step[3] for step in plan]
    assert not [step for step in steps if step.startswith("SCAN") and step != "SCAN counter"], steps
    assert not [step for step in steps if "TEMP B-TREE" in step or "AUTOMATIC" in step], steps


def test_finding_the_versions_of_a_payload_uses_its_index(store: Store) -> None:
    with store._database.read() as tx:
        plan = tx.execute("EXPLAIN QUERY PLAN SELECT 1 FROM versions WHERE digest = ? LIMIT 1", [b""]).fetchall()
    assert "versions_by_digest" in plan[0][3]
