"""Threads for the handlers: a pool for each kind of call, counted where calls come in.

The host's SDK gives its server four threads, and a stream keeps its thread until it ends, so four slow reads would
stop everything, health checks included. grpcio runs a handler on the pool named by the attribute
`experimental_thread_pool` of its behaviour function (undocumented, the same in every release that the SDKs allow;
`verified` tells whether it still holds). Streams above a pool's limit are refused at once; unary calls wait in a
bounded queue. Source: contract 2.5.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from typing import Any

from gestalt_cas.system.exhaustion import is_exhaustion

log = logging.getLogger(__name__)

UNARY_THREADS = 3
"""More only take turns at the interpreter: with 6, lookups by 16 callers cost half as much again."""
CHANGE_THREADS = 4
UNARY_QUEUE = 1024
REFUSAL_THREADS = 1


class CountedPool(ThreadPoolExecutor):
    """A pool that knows how many calls it holds, waiting ones included. `limit` may be changed at any time.

    grpcio asks for a handler and submits the call from one thread, so looking at `full` before handing out a handler
    of this pool is no race.
    """

    def __init__(self, name: str, *, threads: int, limit: int, initializer: Callable[[], None] | None = None) -> None:
        super().__init__(threads, thread_name_prefix=f"gestalt-cas-{name}", initializer=initializer)
        self.limit = limit
        self._held = 0
        self._held_lock = threading.Lock()
        self._short = False

    @property
    def held(self) -> int:
        return self._held

    @property
    def full(self) -> bool:
        return self._held >= self.limit

    def resize(self, limit: int) -> None:
        """Hold up to `limit` calls at once, each on a thread of its own."""
        self.limit = limit
        self._max_workers = max(self._max_workers, limit)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._held_lock:
            self._held += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except BaseException:
            self._release()
            raise
        future.add_done_callback(self._release)
        return future

    def _adjust_thread_count(self) -> None:
        """Start a thread for the call that was just queued, if it needs one; without, it waits for another's end.

        Where there is no other, the call is taken out of the queue and its caller hears of it: left there, it would be
        made by the next call's thread, long after its caller was told that it was not.

        It needs one when there are more calls than threads. The executor goes by how often a thread found nothing to
        do, and counts one that was given a call at that very moment as idle: the next call would wait behind it.
        """
        if len(self._threads) >= min(self._held, self._max_workers):
            return
        while self._idle_semaphore.acquire(blocking=False):
            pass
        try:
            super()._adjust_thread_count()
        except (RuntimeError, MemoryError) as error:
            if not self._threads:
                self._work_queue.get_nowait()
                raise
            if not is_exhaustion(error):
                raise
            if not self._short:
                log.warning("no more threads can be started: calls wait for one of %d", len(self._threads))
            self._short = True

    def _release(self, _: object = None) -> None:
        with self._held_lock:
            self._held -= 1


class Pools:
    """The pools of one provider."""

    def __init__(self, concurrent_reads: int, concurrent_writes: int) -> None:
        self.unary = CountedPool("unary", threads=UNARY_THREADS, limit=UNARY_THREADS + UNARY_QUEUE)
        # Deletes and copies may wait for the writer lock; they must not keep lookups and listings from a thread.
        self.changes = CountedPool("change", threads=CHANGE_THREADS, limit=CHANGE_THREADS + UNARY_QUEUE)
        self.reads = CountedPool("read", threads=concurrent_reads, limit=concurrent_reads)
        self.writes = CountedPool("write", threads=concurrent_writes, limit=concurrent_writes)
        self.refusals = CountedPool("refusal", threads=REFUSAL_THREADS, limit=UNARY_QUEUE)

    def resize(self, concurrent_reads: int, concurrent_writes: int) -> None:
        self.reads.resize(concurrent_reads)
        self.writes.resize(concurrent_writes)


def on_pool(behaviour: Callable[..., Any], pool: CountedPool) -> Callable[..., Any]:
    """Mark a behaviour function to be run on `pool`; returns it."""
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behaviour


def verified(behaviour: Callable[..., Any]) -> bool:
    """Whether this grpcio still chooses a behaviour's pool by its attribute."""
    try:
        chosen = import_module("grpc._server")._select_thread_pool_for_behavior(behaviour, None)
    except (ImportError, AttributeError, TypeError):
        return False
    return isinstance(chosen, CountedPool)
