"""Counting in the background goes on whatever befalls one count, and is of the store that is asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt_cas import Store
from gestalt_cas.configuration import config
from gestalt_cas.observing.census import Census
from gestalt_cas.progress import Progress
from gestalt_cas.serving.mounts import Mount, Mounts
from gestalt_cas.statistics import Stats
from storage import put
from wire.client import eventually

COUNT = Store.stats


@pytest.fixture(name="mounts")
def mounts_fixture(tmp_path: Path) -> Iterator[Mounts]:
    mounts = Mounts()
    configured(mounts, tmp_path / "first")
    yield mounts
    assert mounts.close(30)


def configured(mounts: Mounts, directory: Path, seconds: float = 0.1) -> Mount:
    mounts.configure(config.parse({"dataDir": str(directory), "telemetry": {"statisticsSeconds": seconds}}))
    assert mounts.present is not None
    return mounts.present


def counting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gestalt-cas-census"]


def objects(census: Census, mount: Mount) -> int:
    """How many objects there are, as soon as the census says so."""
    stats: Stats = eventually(lambda: census.latest(mount), "a count")
    return stats.contents.objects


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ZeroDivisionError()])
def test_a_count_that_fails_is_followed_by_others(
    mounts: Mounts, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failures = [error, error]

    def fail_first(store: Store, *, progress: Progress | None = None) -> Stats:
        if failures:
            raise failures.pop()
        return COUNT(store, progress=progress)

    monkeypatch.setattr(Store, "stats", fail_first)
    mount = mounts.present
    assert mount is not None
    put(mount.store, "k", b"x")
    assert objects(Census(mounts), mount) == 1
    assert not failures


def test_a_thread_that_cannot_be_started_is_tried_again(mounts: Mounts, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    census, mount = Census(mounts), mounts.present
    assert mount is not None
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert census.latest(mount) is None
    assert objects(census, mount) == 0


def test_the_count_of_a_replaced_store_holds_up_no_other_and_is_not_shown(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    first = mounts.present
    assert first is not None

    def slow_first(store: Store, *, progress: Progress | None = None) -> Stats:
        if store is not first.store:
            return COUNT(store, progress=progress)
        found = COUNT(store)
        begun.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(Store, "stats", slow_first)
    census = Census(mounts)
    assert census.latest(first) is None
    assert begun.wait(30)
    (slow,) = counting()
    second = configured(mounts, tmp_path / "second", 3600)
    put(second.store, "k", b"x")
    try:
        assert objects(census, second) == 1
    finally:
        go_on.set()
        slow.join()
    assert objects(census, second) == 1


def test_a_store_that_is_closed_meanwhile_is_no_trouble(
    mounts: Mounts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closing, begun = threading.Event(), threading.Event()

    def until_closed(store: Store, *, progress: Progress | None = None) -> Stats:
        begun.set()
        assert closing.wait(60)
        return COUNT(store, progress=progress)

    monkeypatch.setattr(Store, "stats", until_closed)
    mount = mounts.present
    assert mount is not None
    with caplog.at_level(logging.INFO):
        Census(mounts).latest(mount)
        assert begun.wait(30)
        (thread,) = counting()
        mount.opened.retire()
        closing.set()
        thread.join()
    assert not caplog.records
