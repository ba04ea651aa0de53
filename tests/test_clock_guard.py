"""The clock guard: when it stops what removes by age, and what lets it go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clocks import BEGINNING, DAY, Clock, clock_fixture, set_clock, store_fixture  # noqa: F401
from command_line import command_in
from gestalt_cas import Store
from gestalt_cas.clock import instant
from gestalt_cas.doctor import database as doctor_database
from gestalt_cas.errors import ClockSuspect, InvalidArgument
from gestalt_cas.removal import clock_guard
from storage import body, history, key, put

T = BEGINNING


def seen(at_ms: int, accepted_ms: int = 0) -> dict[str, int]:
    return {"at_ms": at_ms, "accepted_ms": accepted_ms}


@pytest.mark.parametrize(
    ("now", "commit", "note", "doubt"),
    [
        # Nothing to go by.
        (T, 0, None, ""),
        # The last commit, where no run is noted.
        (T, T, None, ""),
        (T + DAY, T, None, ""),
        (T + DAY + 1, T, None, "1.0 days after the last commit"),
        (T, T + DAY, None, ""),
        (T, T + DAY + 1, None, "1.0 days before the last commit"),
        (T, T, "nonsense", ""),
        (T + 2 * DAY, T, "nonsense", "2.0 days after the last commit"),
        (T + 2 * DAY, T, {"at_ms": "then"}, "2.0 days after the last commit"),
        # The last run, whatever was committed since: commits have the time of the very clock that is in doubt.
        (T + DAY, T - 900 * DAY, seen(T), ""),
        (T + DAY + 1, T + DAY + 1, seen(T), "1.0 days after the last run that removed by age"),
        (T + 365 * DAY, T + 365 * DAY, seen(T), "365.0 days after the last run"),
        (T - DAY, T, seen(T), ""),
        (T - DAY - 1, T - DAY, seen(T), "1.0 days before the last run"),
        # Behind the last commit, unless that was accepted.
        (T, T + DAY + 1, seen(T), "1.0 days before the last commit"),
        (T, T + 9 * DAY, seen(T, accepted_ms=T + 9 * DAY), ""),
        (T, T + 9 * DAY + 1, seen(T, accepted_ms=T + 9 * DAY), "9.0 days before the last commit"),
        (T + 2 * DAY, T + 9 * DAY, seen(T, accepted_ms=T + 9 * DAY), "2.0 days after the last run"),
    ],
)
def test_what_is_doubted(now: int, commit: int, note: object, doubt: str) -> None:
    found = clock_guard.judge(now, commit, note)
    assert bool(found) == bool(doubt)
    assert doubt in found


def test_times_are_told(store: Store) -> None:
    assert clock_guard.judge(T + 2 * DAY, T, None) == (
        "the clock says 2027-01-17T08:00:00.000Z, 2.0 days after the last commit (2027-01-15T08:00:00.000Z)"
    )


GUARDED: dict[str, Callable[[Store], object]] = {
    "retention": lambda store: store.apply_retention(),
    "retention of a bucket": lambda store: store.apply_retention("bucket"),
    "gc with a grace": lambda store: store.collect_garbage(grace_seconds=1),
    "a server's look": lambda store: store.look_at_clock(),
}


@pytest.mark.parametrize("run", GUARDED.values(), ids=GUARDED)
def test_runs_note_the_clock_and_stop_when_it_has_jumped(
    store: Store, clock: Clock, run: Callable[[Store], object]
) -> None:
    run(store)
    assert store.recall(clock_guard.NOTE) == seen(T)
    clock.advance(1)
    put(store, "k", b"a commit does not count")
    run(store)
    assert store.recall(clock_guard.NOTE) == seen(T + DAY)
    clock.advance(400)
    put(store, "k", b"nor this one")
    for _ in range(2):
        with pytest.raises(ClockSuspect) as caught:
            run(store)
        assert "400.0 days after the last run that removed by age" in str(caught.value)
        assert str(caught.value).endswith(f"gestalt-cas doctor --accept-clock --data-dir {store.directory}")
    assert store.recall(clock_guard.NOTE) == seen(T + DAY)
    clock.advance(-399.5)
    store.accept_clock()  # commits lie ahead now
    run(store)
    clock.advance(1)
    put(store, "k", b"more")
    run(store)
    clock.advance(2)
    with pytest.raises(ClockSuspect, match=r"2\.0 days after the last run"):
        run(store)
    store.accept_clock()
    run(store)


UNGUARDED: dict[str, Callable[[Store], object]] = {
    "gc": lambda store: store.collect_garbage(),
    "gc that changes nothing": lambda store: store.collect_garbage(grace_seconds=1, dry_run=True),
    "preview": lambda store: store.preview_retention(),
    "stats": lambda store: store.stats(),
    "check": lambda store: store.check(),
    "purge": lambda store: store.purge(key("k")),
}


@pytest.mark.parametrize("run", UNGUARDED.values(), ids=UNGUARDED)
def test_what_does_not_go_by_age_is_not_held_up(store: Store, clock: Clock, run: Callable[[Store], object]) -> None:
    put(store, "k", b"data")
    clock.advance(400)
    run(store)
    assert store.recall(clock_guard.NOTE) is None


def test_nothing_goes_while_the_clock_is_in_doubt(store: Store, clock: Clock) -> None:
    store.change_settings({"retention.rules": {"bucket": {"keepDays": 1}}})
    store.delete(key("g"), version_id=put(store, "g", b"garbage").version_id)
    store.collect_garbage(grace_seconds=3600)
    put(store, "k", b"a")
    put(store, "k", b"b")
    clock.advance(400)
    for run in GUARDED.values():
        with pytest.raises(ClockSuspect):
            run(store)
    assert store.preview_retention().versions == 1
    assert store.collect_garbage(grace_seconds=3600, dry_run=True).files == 1
    store.accept_clock()
    assert store.apply_retention().versions == 1
    assert store.collect_garbage(grace_seconds=3600).files == 1


def test_stats_and_doctor_say_so(
    store: Store, clock: Clock, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_database, "now_ms", clock)
    cas = command_in(store.directory, capsysbinary)

    def told() -> list[dict[str, str]]:
        found = [json.loads(line) for line in cas("doctor", "--json").text.splitlines()]
        return [one for one in found if one.get("subject") == "retention"]

    put(store, "k", b"data")
    assert told() == []
    store.change_settings({"retention.rules": {"bucket": {"keepDays": 1}}})
    serve = f"gestalt-cas serve --data-dir {store.directory}"
    assert told() == [
        {"severity": "note", "subject": "retention", "text": "there are rules, never applied", "remedy": serve}
    ]
    store.apply_retention()
    clock.advance(0.5)
    applied = "last applied 12 hours ago; removed 0 versions, 0 markers"
    assert told() == [{"severity": "ok", "subject": "retention", "text": applied, "remedy": ""}]
    assert store.stats().clock == ""
    assert "clock" not in cas("stats").text
    clock.advance(4)
    (doubt,) = told()
    assert doubt["severity"] == "warning"
    assert "4.5 days after the last run that removed by age" in doubt["text"]
    assert doubt["remedy"].endswith(f"gestalt-cas doctor --accept-clock --data-dir {store.directory}")
    assert doubt["text"].startswith(store.stats().clock)
    assert f"clock                {store.stats().clock}: nothing is removed by its age" in cas("stats").text
    refused = cas("gc", "--grace", "1h")
    assert refused.code == 3
    assert "--accept-clock" in refused.err
    assert cas("gc").code == 0
    cas("doctor", "--accept-clock")
    assert [one["severity"] for one in told()] == ["ok"]
    assert cas("gc", "--grace", "1h").code == 0


def test_accepting_needs_a_store(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert command_in(tmp_path / "none", capsysbinary)("doctor", "--accept-clock").code == 10


# ---- what a clock that was ahead leaves ----


def test_a_store_with_dates_from_the_future(
    store: Store, clock: Clock, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/retention.md tells it: nothing is lost, one acceptance is enough, and 1h is not before it all."""
    monkeypatch.setattr(doctor_database, "now_ms", clock)
    cas = command_in(store.directory, capsysbinary)
    store.change_settings({"retention.rules": {"bucket": {"keepDays": 30}}})
    put(store, "k", b"before")
    store.apply_retention()
    clock.advance(1460)
    put(store, "k", b"ahead")
    with pytest.raises(ClockSuspect):
        store.apply_retention()
    store.accept_clock()
    store.apply_retention()
    clock.advance(-1459.9)
    put(store, "k", b"after")
    assert [instant(version.modified_ms)[:4] for version in history(store, "k")] == ["2031", "2031", "2027"]
    for words in (
        ["rollback", "bucket", "--to", "1h"],
        ["ls", "bucket/", "--as-of", "1h"],
        ["diff", "bucket", "--from", "1h"],
    ):
        refused = cas(*words)
        assert refused.code == 2
        assert "'1h' ago cannot be told from what was written since: the clock was ahead" in refused.err
        assert "Name a sequence (the last change has 3), a snapshot or a date" in refused.err
    assert body(store, "k") == b"after"
    assert cas("rollback", "bucket", "--to", "2").code == 0
    assert body(store, "k") == b"ahead"
    (told,) = (
        line for line in cas("doctor").text.splitlines() if "last applied" in line or "nothing is removed" in line
    )
    assert "before the last run that removed by age" in told
    store.accept_clock()
    assert "last applied at 2031-" in cas("doctor").text
    for _ in range(40):
        clock.advance(0.9)
        put(store, "k", b"and on")
        assert store.apply_retention().versions == 0
    assert len(history(store, "k")) == 44
    store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 1}}})
    assert store.apply_retention().versions == 42


def test_a_time_ago_is_told_while_the_last_change_is_less_than_a_day_ahead(store: Store, clock: Clock) -> None:
    put(store, "k", b"1")
    clock.advance(-1)
    assert store.moment("1h").seq == 0
    clock.advance(-0.001)
    with pytest.raises(InvalidArgument, match="'1h' ago cannot be told"):
        store.moment("1h")
    assert store.moment(instant(clock.now)).seq == 0
