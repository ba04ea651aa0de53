"""Dropping what the history knows of removed versions: what goes, what snapshots keep, and the horizon after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clocks import Clock, clock_fixture, set_clock  # noqa: F401
from gestalt_cas import ObjectKey, Store
from gestalt_cas.errors import BeforeHorizon, Cancelled, InvalidConfig
from gestalt_cas.removal import horizons
from storage import body, full_at_every_other_commit, key, put, rows


@pytest.fixture(name="store")
def store_fixture(clock: Clock, tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", settings={"history.keepDays": 10}) as opened:
        yield opened


def drop(store: Store) -> int:
    store.accept_clock()
    foreseen = store.preview_retention().dropped
    dropped = store.apply_retention().dropped
    assert dropped == foreseen
    return dropped


def remove(store: Store, name: str, data: bytes = b"x", bucket: str = "bucket") -> int:
    """Write a version and remove it for good; returns the change that did."""
    where = ObjectKey(bucket, name)
    store.delete(where, version_id=store.write(where, [data]).version_id)
    ((seq,),) = rows(store, "SELECT seq FROM counter")
    return int(seq)


def removed_long_ago(store: Store, clock: Clock, names: str) -> None:
    """A version of each name, removed for good so long ago that a run drops it; the clock is accepted."""
    for name in names:
        remove(store, name)
    clock.advance(11)
    store.accept_clock()


def known(store: Store) -> list[tuple[Any, ...]]:
    """What is left of removed versions: bucket, key, and the change that removed it."""
    return rows(store, "SELECT bucket, key, gone_seq FROM versions WHERE gone_seq IS NOT NULL ORDER BY gone_seq")


def horizon(store: Store) -> list[tuple[Any, ...]]:
    return rows(store, "SELECT bucket, seq, ms FROM horizons ORDER BY bucket")


def test_what_was_removed_long_enough_ago_is_dropped(store: Store, clock: Clock) -> None:
    put(store, "stays", b"data")
    first = remove(store, "a")
    removed_ms = clock.now
    clock.advance(1)
    second = remove(store, "b")
    clock.advance(9)
    assert drop(store) == 0
    assert horizon(store) == []
    clock.now += 1
    assert drop(store) == 1
    assert known(store) == [("bucket", b"b", second)]
    assert horizon(store) == [("bucket", first, removed_ms)]
    assert store.head(key("stays"), as_of=str(first)).size == 4
    with pytest.raises(BeforeHorizon):
        store.head(key("stays"), as_of=str(first - 1))
    clock.advance(1)
    assert drop(store) == 1
    assert horizon(store) == [("bucket", second, removed_ms + 86_400_000)]
    assert drop(store) == 0
    assert store.check().faults == 0


def test_each_bucket_has_its_own(store: Store, clock: Clock) -> None:
    first, second = remove(store, "a"), remove(store, "a", bucket="other")
    clock.advance(11)
    put(
        store,
        "k",
        b"untouched",
    )
    store.write(ObjectKey("third", "k"), [b"never removed"])
    assert drop(store) == 2
    assert [found[:2] for found in horizon(store)] == [("bucket", first), ("other", second)]


def test_a_horizon_never_goes_back(store: Store, clock: Clock) -> None:
    remove(store, "a")
    with store._database.write() as tx:
        tx.execute("INSERT INTO horizons VALUES ('bucket', 1000, 2000000000000)")
    clock.advance(11)
    assert drop(store) == 1
    assert horizon(store) == [("bucket", 1000, 2_000_000_000_000)]


@pytest.mark.parametrize("days", [0, 1, 36_500])
def test_how_long_is_a_setting(store: Store, clock: Clock, days: int) -> None:
    remove(store, "a")
    store.change_settings({"history.keepDays": days})
    clock.advance(3_000)
    assert drop(store) == (days == 1)
    for bad in (-1, 36_501, 1.5, True, "1", None):
        with pytest.raises(InvalidConfig, match=r"history\.keepDays: .* is not a whole number of days from 0 to 36500"):
            store.change_settings({"history.keepDays": bad})


def test_stores_without_the_setting_have_the_default(store: Store, clock: Clock) -> None:
    """Those that were made before there was one."""
    with store._database.write() as tx:
        tx.execute("DELETE FROM settings WHERE name IN ('history.keepDays', 'retention.rules')")
    remove(store, "a")
    clock.advance(30)
    assert drop(store) == 0
    clock.advance(1)
    assert drop(store) == 1


def test_what_a_snapshot_reaches_stays_until_it_is_deleted(store: Store, clock: Clock) -> None:
    """Markers too: without that of `m` the snapshot would show the version below it."""
    put(store, "a", b"shown")
    put(store, "m", b"below the marker")
    marker = store.delete(key("m"))
    assert marker is not None
    store.create_snapshot("then")
    for version in (store.head(key("a")), marker):
        store.delete(version.key, version_id=version.version_id)
    last = remove(store, "b")
    clock.advance(11)
    assert drop(store) == 1
    assert [found[1] for found in known(store)] == [b"a", b"m"]
    assert horizon(store)[0][1] == last
    store.collect_garbage()
    assert body(store, "a", as_of="then") == b"shown"
    assert [one.key.key for one in store.list_page(query(), as_of="then").objects] == ["a"]
    store.delete_snapshot("then")
    assert drop(store) == 2
    assert horizon(store)[0][1] == last
    assert store.collect_garbage().bytes == 5
    assert store.check().faults == 0


def query() -> Any:
    from gestalt_cas import ListQuery

    return ListQuery("bucket")


def test_rows_that_a_snapshot_keeps_are_passed_over(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizons, "STRETCH_ROWS", 2)
    monkeypatch.setattr(horizons, "BATCH_ROWS", 1)
    shown = [put(store, f"k{number}", b"%d" % number) for number in range(7)]
    store.create_snapshot("then")
    for version in shown:
        store.delete(version.key, version_id=version.version_id)
        remove(store, "other")
    clock.advance(11)
    assert drop(store) == 7
    assert [found[1] for found in known(store)] == [b"k%d" % number for number in range(7)]


def test_it_is_judged_again_in_the_transaction(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizons, "BATCH_ROWS", 1)
    removed_long_ago(store, clock, "abc")

    def relent(what: str, done: int, _total: int) -> None:
        if what.startswith("dropping") and done == 1:
            store.change_settings({"history.keepDays": 0})

    assert store.apply_retention(progress=relent).dropped == 1
    assert [found[1] for found in known(store)] == [b"b", b"c"]
    assert horizon(store)[0][1] == 2


def test_a_snapshot_of_the_past_that_is_made_meanwhile(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(horizons, "BATCH_ROWS", 1)
    remove(store, "a")
    version = put(store, "b", b"shown")
    store.delete(key("b"), version_id=version.version_id)
    clock.advance(11)
    store.accept_clock()

    def create(what: str, done: int, _total: int) -> None:
        if what.startswith("dropping") and done == 1:
            with store._database.write() as tx:
                tx.execute("INSERT OR IGNORE INTO snapshots VALUES ('then', '', x'', ?, 0)", (version.seq,))

    assert store.apply_retention(progress=create).dropped == 1
    assert [found[1] for found in known(store)] == [b"b"]


def test_it_stops_when_progress_raises(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizons, "BATCH_ROWS", 2)
    removed_long_ago(store, clock, "abcde")

    def stop(what: str, done: int, _total: int) -> None:
        if what.startswith("dropping"):
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        store.apply_retention(progress=stop)
    assert len(known(store)) == 3
    assert horizon(store)[0][1] == 4
    assert drop(store) == 3


def test_the_reserve_is_spent_where_there_is_no_room(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed_long_ago(store, clock, "a")
    store._parts.reserve.make()
    tried = full_at_every_other_commit(monkeypatch)
    assert store.apply_retention().dropped == 1
    assert tried[0] > 1


def test_within_a_bucket_nothing_is_dropped(store: Store, clock: Clock) -> None:
    remove(store, "a")
    clock.advance(11)
    store.accept_clock()
    assert store.apply_retention("bucket").dropped == store.preview_retention("bucket").dropped == 0
    assert len(known(store)) == 1
