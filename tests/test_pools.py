"""Every call that a pool has room for gets a thread, whatever the executor believes of its idle ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from gestalt_cas.serving.pools import CountedPool

SECONDS = 30.0


@pytest.fixture(name="pool")
def pool_fixture() -> Iterator[CountedPool]:
    made = CountedPool("test", threads=1, limit=1)
    yield made
    made.shutdown()


def at_once(pool: CountedPool, count: int) -> None:
    """So many calls, none of which ends before all of them have begun."""
    barrier = threading.Barrier(count)
    for call in [pool.submit(barrier.wait, SECONDS) for _ in range(count)]:
        call.result(SECONDS)


def test_a_raised_limit_counts_at_once(pool: CountedPool) -> None:
    at_once(pool, 1)
    pool.resize(3)
    at_once(pool, 3)
    assert pool.held == 0


def test_threads_that_are_said_to_be_idle_and_are_not(pool: CountedPool) -> None:
    """A call that comes while a thread ends another is taken by it, and the executor counts the thread as idle."""
    at_once(pool, 1)
    pool.resize(4)
    for _ in range(3):
        pool._idle_semaphore.release()
    at_once(pool, 4)


def test_no_more_threads_than_calls(pool: CountedPool) -> None:
    pool.resize(8)
    for _ in range(20):
        at_once(pool, 2)
    assert len(pool._threads) == 2


def test_more_calls_than_threads_wait(pool: CountedPool) -> None:
    pool.limit = 3
    release = threading.Event()
    calls = [pool.submit(release.wait, SECONDS) for _ in range(3)]
    assert pool.full
    assert len(pool._threads) == 1
    release.set()
    assert [call.result(SECONDS) for call in calls] == [True] * 3
    assert not pool.full


def test_a_call_that_gets_no_thread_is_refused_and_never_made(
    pool: CountedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    with monkeypatch.context() as patch:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            pool.submit(made.append, "refused")
    assert pool.held == 0
    pool.submit(made.append, "later").result(SECONDS)
    assert made == ["later"]
