"""The open streams of this process, and ending them from outside.

A handler that waits inside grpcio (for the next frame of an upload, for room to send a chunk) cannot look at a flag. So
each stream is entered here with the time of its last progress; a sweeper thread ends those whose peer has stalled or
whose time is up, and shutdown ends all. Design: docs/design.md, "Stopping".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Self

from gestalt_cas.errors import PeerStalled, ShuttingDown, StoreError
from gestalt_cas.observing.calls import GrpcCall
from gestalt_cas.serving.messages import status_of

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 0.25
_STANDSTILL_SECONDS = 1.0
"""By how much a sweep has to be late for the whole process to have stood still, as after SIGSTOP."""


class OpenCall:
    """One stream. `progress` is called by its handler whenever the peer has sent or taken something.

    It is open for the block that it is used for.
    """

    def __init__(self, request: GrpcCall, over: Callable[[OpenCall], None]) -> None:
        self._over = over
        self.request = request
        self.context = request.context
        self.last_progress = time.monotonic()
        self.due: tuple[float, StoreError] | None = None
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over(self)

    def progress(self) -> None:
        self.last_progress = time.monotonic()

    def end_by(self, seconds: float, error: StoreError) -> None:
        """End the call with `error` when it is still open after `seconds`."""
        self.due = (time.monotonic() + seconds, error)

    def excuse(self, seconds: float) -> None:
        """Do not count these last seconds against the caller."""
        self.last_progress = min(time.monotonic(), self.last_progress + seconds)
        if self.due is not None:
            self.due = (self.due[0] + seconds, self.due[1])

    def overdue(self, now: float, idle_seconds: float) -> StoreError | None:
        if self.due is not None and now >= self.due[0]:
            return self.due[1]
        if now - self.last_progress > idle_seconds:
            return PeerStalled(f"{self.request.method.name}: the caller made no progress for {idle_seconds:g} s")
        return None


class Calls:
    """The registry. Thread-safe. `idle_seconds` may be changed at any time."""

    def __init__(self, idle_seconds: float = 300.0) -> None:
        self.idle_seconds = idle_seconds
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[OpenCall] = set()
        self._sweeper: threading.Thread | None = None

    def track(self, request: GrpcCall) -> AbstractContextManager[OpenCall]:
        """Enter a stream for a block; raises ShuttingDown when the process is stopping."""
        call = OpenCall(request, self._forget)
        with self._lock:
            if self.stopping.is_set():
                raise ShuttingDown("the provider is stopping")
            if self._sweeper is None:
                sweeper = threading.Thread(target=self._sweep, name="gestalt-cas-sweeper", daemon=True)
                sweeper.start()
                self._sweeper = sweeper  # not before: one that could not be started is tried again
            self._open.add(call)
        return call

    def _forget(self, call: OpenCall) -> None:
        with self._lock:
            self._open.discard(call)

    def stop(self) -> None:
        """Refuse new streams and end the open ones; returns at once, handlers leave on their own."""
        with self._lock:
            self.stopping.set()
            calls = list(self._open)
        for call in calls:
            end(call, ShuttingDown("the provider is stopping"))

    def _sweep(self) -> None:
        before = time.monotonic()
        while not self.stopping.wait(_SWEEP_SECONDS):
            now = time.monotonic()
            late, before = now - before - _SWEEP_SECONDS, now
            with self._lock:
                calls = list(self._open)
            for call in calls:
                if late > _STANDSTILL_SECONDS:
                    call.excuse(late)
                error = call.overdue(now, self.idle_seconds)
                if error is not None and not call.ended:
                    log.info("ended: %s", error, extra={"request_id": call.request.id})
                    end(call, error)


def end(call: OpenCall, error: StoreError) -> None:
    """End a call from another thread, so that a handler blocked in it wakes up.

    grpcio's public way is cancel(), which reports CANCELLED whatever the reason. Its call object can carry a status;
    where that object is not found as expected, the public way has to do.
    """
    call.ended = True
    status = status_of(error)
    call.request.cut = status.name
    try:
        text = call.request.told(str(error))
        call.context._rpc_event.call.cancel(status.value[0], text)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        call.context.cancel()
