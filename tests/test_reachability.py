"""Which payloads no version reaches, asked of the rows along the first byte of the digest."""

from __future__ import annotations

import pytest
from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.keeping import reachability
from gestalt_cas.keeping.reachability import Garbage
from storage import change, put, rows

FIRST = (0, 1, 127, 254, 255)


def digest(first: int, last: int = 0) -> bytes:
    return bytes([first, *bytes(30), last])


def add(store: Store, *digests: bytes, size: int = 7) -> None:
    for found in digests:
        change(store, "INSERT INTO blobs (digest, size, place, sums) VALUES (?, ?, 0, x'')", found, size)


def test_each_digest_is_within_the_bounds_of_its_first_byte_only() -> None:
    for first in range(256):
        lower, upper = reachability.bounds(first)
        assert lower <= digest(first) <= bytes([first]) + b"\xff" * 31 < upper
        if first:
            assert digest(first - 1, 255) < lower
        if first < 255:
            assert upper <= digest(first + 1)


@pytest.mark.parametrize("first", FIRST)
def test_what_no_version_reaches_is_found_in_its_place(store: Store, first: int) -> None:
    add(store, *(digest(byte, last) for byte in FIRST for last in (1, 0)))
    with store._database.read() as tx:
        assert reachability.unreached(tx, first) == [Garbage(digest(first, last), 7) for last in (0, 1)]
        assert reachability.known(tx, first) == {digest(first, 0), digest(first, 1)}
        assert reachability.unreached(tx, 77) == []
        assert reachability.known(tx, 77) == set()
        assert reachability.unreached_bytes(tx, first) == 14


def test_what_a_version_reaches_is_no_garbage(store: Store) -> None:
    version = put(store, "k", b"data")
    store.delete(version.key)  # a marker hides it, and keeps it
    found = blake3(b"data").digest()
    with store._database.read() as tx:
        assert reachability.is_reached(tx, found)
        assert reachability.unreached(tx, found[0]) == []
        assert reachability.unreached_bytes(tx, found[0]) == 0
    store.delete(version.key, version_id=version.version_id)
    with store._database.read() as tx:
        assert not reachability.is_reached(tx, found)
        assert reachability.unreached(tx, found[0]) == [Garbage(found, 4)]
        assert reachability.unreached_bytes(tx, found[0]) == 4


def test_the_first_finding_stays_on_record(store: Store) -> None:
    with store._database.write() as tx:
        for now_ms in (5, 9):
            reachability.mark(tx, Garbage(digest(3), 7), now_ms)
        reachability.mark(tx, Garbage(digest(4), 7), 6)
    with store._database.read() as tx:
        assert reachability.marked(tx, 3) == {digest(3): 5}
        assert reachability.marked(tx, 4) == {digest(4): 6}
    with store._database.write() as tx:
        reachability.unmark(tx, digest(3))
    with store._database.read() as tx:
        assert reachability.marked(tx, 3) == {}


def test_ripe_is_what_is_recorded_long_enough_and_unreachable_still(store: Store) -> None:
    put(store, "k", b"data")
    reached = Garbage(blake3(b"data").digest(), 4)
    marks = [Garbage(digest(byte), byte) for byte in (1, 2, 3, 4)]
    with store._database.write() as tx:
        reachability.mark(tx, reached, 1)
        for number, garbage in enumerate(marks):
            reachability.mark(tx, garbage, number)
    with store._database.read() as tx:
        assert reachability.ripe(tx, b"", 10, 10) == marks
        assert reachability.ripe(tx, b"", 2, 10) == marks[:3]
        assert reachability.ripe(tx, marks[0].digest, 2, 10) == marks[1:3]
        assert reachability.ripe(tx, b"", 10, 2) == marks[:2]
        assert reachability.recorded(tx, marks[0].digest) == marks[:1]
        assert reachability.recorded(tx, reached.digest) == []
        assert reachability.recorded(tx, digest(99)) == []
        assert reachability.standing(tx, 1) == ((3, 4 + 1 + 2), (2, 3 + 4))


def test_to_forget_takes_row_and_record(store: Store) -> None:
    add(store, digest(1), digest(2))
    with store._database.write() as tx:
        reachability.mark(tx, Garbage(digest(1), 7), 1)
        reachability.forget(tx, digest(1))
    assert rows(store, "SELECT digest FROM blobs") == [(digest(2),)]
    assert rows(store, "SELECT * FROM unreachable") == []


def test_what_a_version_reaches_cannot_be_forgotten(store: Store) -> None:
    """The rows themselves refuse, should a question here ever be wrong."""
    put(store, "k", b"data")
    with pytest.raises(Exception, match="FOREIGN KEY"), store._database.write() as tx:
        reachability.forget(tx, blake3(b"data").digest())
    assert rows(store, "SELECT count(*) FROM blobs") == [(1,)]


def test_recorded_files_without_rows_can_be_reclaimed_too(store: Store) -> None:
    add(store, digest(1))
    with store._database.write() as tx:
        for garbage in (Garbage(digest(1), 7), Garbage(digest(1, 1), 100), Garbage(digest(2), 1000)):
            reachability.mark(tx, garbage, 1)
    with store._database.read() as tx:
        assert reachability.unreached_bytes(tx, 1) == 107
