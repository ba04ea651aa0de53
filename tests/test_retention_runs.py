"""Runs of retention: in small transactions, each key judged again, cut off or beside others without harm."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from clocks import Clock, clock_fixture, store_fixture  # noqa: F401
from gestalt_cas import Store
from gestalt_cas.errors import Cancelled, ClockSuspect
from gestalt_cas.keeping import retention
from gestalt_cas.removal import retention_runs
from gestalt_cas.removal.retention_runs import Applied
from gestalt_cas.transactions.database import Database
from retaining import apply, left, letters, rule
from storage import Child, full_at_every_other_commit, history, key, on_a_small_disk, put


def transactions(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[int]:
    """How many versions each transaction from now on removes."""
    found: list[int] = []
    real = Database._commit

    def commit(database: Database, connection: Any) -> None:
        before = connection.execute("SELECT count(*) FROM versions WHERE gone_seq IS NOT NULL").fetchone()[0]
        real(database, connection)
        found.append(before - sum(found))

    monkeypatch.setattr(Database, "_commit", commit)
    return found


@pytest.mark.parametrize("stretch", range(1, 9))
def test_keys_are_seen_whole_wherever_a_stretch_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(retention, "STRETCH_ROWS", stretch)
    for name, text in (("a", "1"), ("b", "123"), ("c", "12"), ("d", "1234"), ("e", "12")):
        letters(store, text, name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    told: list[tuple[str, int, int]] = []
    assert store.preview_retention(progress=lambda *what: told.append(what)).versions == 7
    assert {what for what, _, _ in told} == {"judging versions", "judging payloads"}
    assert store.apply_retention().versions == 7
    assert [left(store, name) for name in "abcde"] == [["1"], ["3"], ["2"], ["4"], ["2"]]


def test_transactions_grow_while_they_are_quick(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_runs, "BATCH_SECONDS", 3600.0)  # however busy the machine is
    with store.transaction() as changes:
        for number in range(500):
            changes.put(key(f"k{number % 3}"), [b"%d" % number])
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    found = transactions(monkeypatch, store)
    told: list[tuple[str, int, int]] = []
    assert store.apply_retention(progress=lambda *what: told.append(what)).versions == 497
    sizes = [size for size in found if size]
    assert sizes == [16, 32, 64, 128, 200, 57]
    assert [done for what, done, _ in told if what == "removing versions"][-1] == 497


def test_transactions_shrink_when_they_take_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction() as changes:
        for number in range(40):
            changes.put(key("k"), [b"%d" % number])
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    monkeypatch.setattr(retention_runs, "BATCH_SECONDS", -1.0)
    found = transactions(monkeypatch, store)
    assert store.apply_retention().versions == 39
    assert [size for size in found if size] == [16, 8, 4, 2, *[1] * 9]


def test_keys_that_need_judging_only_count_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found in the view may have gone by the time of the transaction, of every key."""
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 2)
    names = [f"k{number}" for number in range(5)]
    for name in names:
        letters(store, "ab", name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    judged: list[int] = []
    real_judge, real_commit = retention.judge, Database._commit

    def judge(*arguments: Any) -> Any:
        judged[-1] += 1
        return real_judge(*arguments)

    def commit(database: Database, connection: Any) -> None:
        real_commit(database, connection)
        judged.append(0)

    def remove_them(*_: object) -> None:
        if not judged:
            for name in names:
                store.delete(key(name), version_id=history(store, name)[1].version_id)
            judged.append(0)
            monkeypatch.setattr(Database, "_commit", commit)

    monkeypatch.setattr(retention, "judge", judge)
    assert store.apply_retention(progress=remove_them) == Applied()
    assert judged[:2] == [2, 3]


@pytest.mark.parametrize("terms", [{"keepNoncurrent": 1}, {"keepDays": 0, "dropMarkers": True}])
def test_a_key_is_judged_again_in_the_transaction(store: Store, clock: Clock, terms: dict[str, object]) -> None:
    """Between the look and the removal its newest versions are removed, so others have become the newest."""
    letters(store, "abcd", clock)
    first = True

    def meanwhile(*_: object) -> None:
        nonlocal first
        if first:
            for version in history(store, "k")[:2]:
                store.delete(key("k"), version_id=version.version_id)
        first = False

    rule(store, {"bucket": terms})
    store.accept_clock()
    applied = store.apply_retention(progress=meanwhile)
    stay = 2 if "keepNoncurrent" in terms else 1
    assert left(store) == ["a", "b"][-stay:]
    assert applied.versions == 2 - stay


def test_a_key_that_is_gone_by_then(store: Store, clock: Clock) -> None:
    letters(store, "abc", clock)
    letters(store, "---", clock, name="marked")
    put(store, "old", b"x")
    clock.advance(9)
    rule(store, {"bucket": {"keepDays": 1, "dropMarkers": True, "expireDays": 8}})
    gone = False

    def meanwhile(*_: object) -> None:
        nonlocal gone
        for name in () if gone else ("k", "old"):
            store.purge(key(name))
        if not gone:
            put(store, "marked", b"again")
        gone = True

    store.accept_clock()
    assert store.apply_retention(progress=meanwhile) == Applied(markers=2)
    assert left(store, "marked") == ["-", "a"]


def test_what_is_written_again_does_not_expire(store: Store, clock: Clock) -> None:
    put(store, "k", b"a")
    clock.advance(2)
    rule(store, {"bucket": {"expireDays": 1}})
    store.accept_clock()
    assert store.apply_retention(progress=lambda *_: put(store, "k", b"b") and None) == Applied()


def test_rules_that_change_count_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        letters(store, "123", name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 1)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 1)
    seen_so_far: list[int] = []

    def relent(_what: str, done: int, _total: int) -> None:
        seen_so_far.append(done)
        if done == 1:
            rule(store, {"bucket": {"keepNoncurrent": 1}})

    assert store.apply_retention(progress=relent).versions == 3
    assert [left(store, name) for name in "abc"] == [["2", "3"]] * 3


def test_a_key_in_portions_expires_with_the_last(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 2)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 2)
    letters(store, "abcde")
    clock.advance(5)
    rule(store, {"bucket": {"keepNoncurrent": 0, "expireDays": 1}})
    assert apply(store) == Applied(versions=4, bytes=4, expired=1)
    assert left(store) == ["e", "-"]


@pytest.mark.parametrize("after", range(1, 7))
def test_it_stops_when_progress_raises_and_the_next_run_does_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 1)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 1)
    letters(store, "abc")
    letters(store, "d-e-", name="l")
    rule(store, {"bucket": {"keepNoncurrent": 0, "dropMarkers": True}})
    told: list[object] = []

    def stop(*what: object) -> None:
        told.append(what)
        if len(told) == after:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        store.apply_retention(progress=stop)
    standing = len(left(store)) + len(left(store, "l"))
    assert standing == max(7 - (after - 1), 1)
    assert store.recall(retention_runs.NOTE) is None
    assert store.apply_retention().markers <= 2
    assert (left(store), left(store, "l")) == (["c"], [])


def test_quotas_are_credited(store: Store) -> None:
    store.set_quota("bucket", "", 5)
    letters(store, "abcde")
    rule(store, {"bucket": {"keepNoncurrent": 1}})
    apply(store)
    assert store.quotas()[0].used_bytes == 2
    letters(store, "xyz")


def test_it_notes_down_what_it_did(store: Store, clock: Clock) -> None:
    letters(store, "ab-", clock)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    store.preview_retention()
    assert store.recall(retention_runs.NOTE) is None
    apply(store)
    wanted = {"at_ms": clock.now, "result": "done", "versions": 2, "markers": 0, "bytes": 2, "expired": 0, "dropped": 0}
    assert store.recall(retention_runs.NOTE) == wanted
    assert store.stats().last_retention == wanted
    assert not apply(store).anything
    letters(store, "x")
    assert apply(store).anything


def test_a_clock_in_doubt_stops_it(store: Store, clock: Clock) -> None:
    letters(store, "ab")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    clock.advance(1.5)
    with pytest.raises(ClockSuspect, match=r"1\.5 days after the last commit"):
        store.apply_retention()
    assert left(store) == ["a", "b"]
    assert store.preview_retention().versions == 1
    assert apply(store).versions == 1


def test_the_reserve_is_spent_where_there_is_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(store, "abc")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    store._parts.reserve.make()
    tried = full_at_every_other_commit(monkeypatch)
    assert store.apply_retention() == Applied(versions=2, bytes=2)
    assert tried == [2 * 3]  # what the clock said, the removal, the note


def test_on_a_full_disk() -> None:
    on_a_small_disk(
        """
        from gestalt_cas.removal import retention_runs
        from gestalt_cas.errors import DiskFull
        from storage import body, key, put
        import pytest
        with Store.open(arguments[0]) as store:
            with store.transaction() as changes:
                for number in range(400):
                    changes.put(key("k%d" % (number % 4)), [b"%d" % number * 100])
            store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
            with open("/mnt/filler", "ab", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    pass
            with pytest.raises(DiskFull):
                for number in range(1000):
                    put(store, "more", os.urandom(20_000))
            assert store.apply_retention().versions >= 396
            assert store.collect_garbage().files >= 396
            put(store, "fits again", b"x" * 20_000)
            assert body(store, "k0") == b"396" * 100
        """,
        16,
    )


def test_beside_writers_and_another_process(tmp_path: Path) -> None:
    """All of them go on, what goes is what should, and no removal is counted twice."""
    with Store.open(tmp_path / "store") as store:
        beside_others(store)


def beside_others(store: Store) -> None:
    code = """
        with Store.open(arguments[0]) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            print(sum(store.apply_retention().versions for _ in range(5)))
    """
    rule(store, {"bucket": {"keepNoncurrent": 1}})
    store.set_quota("bucket", "", 1 << 30)
    stop = threading.Event()
    written = [0] * 2

    def write(number: int) -> None:
        while not stop.is_set() or written[number] < 20:
            put(store, f"k{written[number] % 3}", b"%d" % number)
            written[number] += 1

    with Child(code, store.directory) as other:
        assert other.line() == "ready"
        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        other.tell()
        ours = sum(store.apply_retention().versions for _ in range(5))
        theirs = int(other.finish())
        stop.set()
        for thread in threads:
            thread.join()
    ours += store.apply_retention().versions
    assert [len(left(store, f"k{number}")) for number in range(3)] == [2] * 3
    assert ours + theirs + 6 == sum(written)
    assert store.quotas()[0].used_bytes == 6
