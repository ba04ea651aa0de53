"""Rows of `inlined` that no payload names: found whatever their number, and only those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.keeping import reachability
from gestalt_cas.removal import strays
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared
from storage import body, change, put, rows


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Store:
    """One whose payloads are rows."""
    return Store.open(tmp_path / "store", settings={"blobs.inlineMaxBytes": 1000})


def add(store: Store, place: int, data: bytes) -> None:
    change(store, "INSERT INTO inlined (id, data) VALUES (?, ?)", place, data)


def places(store: Store) -> list[int]:
    return [place for (place,) in rows(store, "SELECT id FROM inlined ORDER BY id")]


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_those_that_nobody_names_go(store: Store, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(strays, "_PAGE", page)
    put(store, "k", b"kept")
    named = places(store)
    for place in (10, 11, 70):
        add(store, place, b"stray %d" % place)
    assert strays.collect(store._parts) == 3
    assert places(store) == named
    assert strays.collect(store._parts) == 0
    assert body(store, "k") == b"kept"


def test_one_whose_bytes_a_version_needs_stays(store: Store) -> None:
    """The payload's row names another place, by damage."""
    put(store, "k", b"kept")
    digest = blake3(b"kept").digest()
    change(store, "UPDATE blobs SET place = 40 WHERE digest = ?", digest)
    before = places(store)
    assert strays.collect(store._parts) == 0
    assert places(store) == before


def test_a_place_that_no_row_can_have_is_nobodys(store: Store) -> None:
    put(store, "k", b"kept")
    put(store, "other", b"other")
    change(store, "UPDATE blobs SET place = 1 << 40 WHERE digest = ?", blake3(b"other").digest())
    add(store, 70, b"stray")
    assert strays.collect(store._parts) == 1
    assert 70 not in places(store)
    assert body(store, "k") == b"kept"


def test_a_store_without_rows_has_none(store: Store) -> None:
    assert strays.collect(store._parts) == 0


def test_what_is_named_is_not_read_whole_for_a_few(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of millions of payloads would take as much memory as its rows, while others wait for the lock."""
    for number in range(50):
        put(store, f"k{number}", b"%d" % number)
    add(store, 700, b"stray")
    found: list[int] = []
    real = Prepared.__call__

    def call(self: Prepared, connection: Connection, /, **values: object) -> list[tuple[Any, ...]]:
        found.append(len(rows := real(self, connection, **values)))
        return rows

    named = places(store)
    monkeypatch.setattr(Prepared, "__call__", call)
    with store._database.read() as tx:
        assert reachability.strays(tx, {700, named[7]}) == {700}
    assert found == [1]
