"""Holding a pin: it lives as long as its block, whoever fails or is stopped meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gestalt_cas import Store
from gestalt_cas.errors import StorageFault, StoreBusy
from gestalt_cas.keeping import pins
from gestalt_cas.operations.heartbeats import HeldPin
from storage import change, rows


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "BEAT_SECONDS", 0.005)


def held(store: Store) -> HeldPin:
    return HeldPin(store._parts, "p", "test", {})


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come to that")


def last_sign(store: Store) -> int:
    ((sign,),) = rows(store, "SELECT heartbeat_ms FROM pins")
    return int(sign)


def test_it_gives_signs_of_life_until_its_block_ends(store: Store) -> None:
    with held(store) as pin:
        change(store, "UPDATE pins SET heartbeat_ms = 1")
        until(lambda: last_sign(store) > 1)
        pin.confirm()
    assert rows(store, "SELECT * FROM pins") == []


def test_one_that_has_gone_is_not_relied_on(store: Store) -> None:
    with held(store) as pin:
        change(store, "DELETE FROM pins")
        until(lambda: not pin._thread.is_alive())
        with pytest.raises(StoreBusy, match="the pin p has gone"):
            pin.check()
        with pytest.raises(StoreBusy):
            pin.confirm()


def test_a_sign_that_cannot_be_given_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, failures = HeldPin._beat, iter([StorageFault("broken"), OSError("broken")])

    def beat(self: HeldPin) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        real(self)

    monkeypatch.setattr(HeldPin, "_beat", beat)
    with held(store) as pin:
        change(store, "UPDATE pins SET heartbeat_ms = 1")
        until(lambda: last_sign(store) > 1)
        pin.check()
    assert caplog.text.count("no sign of life for the pin p, trying again: broken") == 2


def test_one_that_cannot_be_dropped_dies_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: HeldPin) -> None:
        raise StorageFault("broken")

    with monkeypatch.context() as patch:
        patch.setattr(HeldPin, "_drop", fail)
        with held(store):
            pass
    assert "the pin p could not be dropped, gc will: broken" in caplog.text
    change(store, "UPDATE pins SET heartbeat_ms = 1")  # two minutes later
    store.collect_garbage()
    assert rows(store, "SELECT * FROM pins") == []


def test_one_that_gets_no_thread_to_keep_it_alive_is_taken_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep gc off until it is taken for dead."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        with pytest.raises(RuntimeError, match="new thread"), held(store):
            pytest.fail("it was held")
    assert rows(store, "SELECT * FROM pins") == []


def test_one_that_is_interrupted_once_its_thread_runs_is_taken_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting a thread waits for it, so that is when ctrl-C comes; the thread would keep gc off for good."""
    real, begun = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        real(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), held(store):
            pytest.fail("it was held")
    begun[0].join(60)
    assert not begun[0].is_alive()
    assert rows(store, "SELECT * FROM pins") == []
