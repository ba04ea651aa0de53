"""Waiting for a peer: what has come counts, and what has not come ends in time."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable

import pytest

from gestalt_cas.http.patience import within


class Interrupted(selectors.DefaultSelector):
    """Its first wait is cut short as by SIGSTOP: nothing is reported, and by its end the time is over."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile
        self._interrupted = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout or self._interrupted:
            return super().select(timeout)
        self._interrupted = True
        self._meanwhile()
        time.sleep(timeout)
        return []


def received(meanwhile: Callable[[socket.socket], object]) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        loop = asyncio.SelectorEventLoop(Interrupted(lambda: meanwhile(theirs)))
        try:
            return loop.run_until_complete(within(0.1, loop.sock_recv(ours, 10)))
        finally:
            loop.close()


def test_what_came_while_the_process_stood_still_counts() -> None:
    assert received(lambda theirs: theirs.send(b"came")) == b"came"


def test_what_does_not_come_ends_when_the_time_is_over() -> None:
    with pytest.raises(TimeoutError):
        received(lambda theirs: None)
