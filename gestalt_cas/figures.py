"""Counters that cost next to nothing to keep, for whoever asks for them later.

Nothing here knows who reads: the Prometheus page and OpenTelemetry both do, when they are switched on.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values counted by size: `counts` has one place for each of `bounds`, which are inclusive, and one for the rest.

    `total` is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class Histogram:
    """Counts values by size. Whoever adds must keep other adders out; reading needs nothing."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total: float = 0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def read(self) -> Distribution:
        return Distribution(self._bounds, tuple(self._counts), self._total)


SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds for how long calls take."""


_KEPT = 512


class Tally:
    """The calls of one method that have ended: how, how long they took, and the payload bytes that they moved.

    Thread-safe. A call only leaves a note, since in the midst of a call every further step costs several times what it
    costs in a row; notes are added up when somebody asks, and every so many of them.
    """

    __slots__ = ("_codes", "_lock", "_notes", "_received", "_seconds", "_sent")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: deque[tuple[str, float, int, int]] = deque()
        self._codes: defaultdict[str, int] = defaultdict(int)
        self._seconds = Histogram(SECONDS)
        self._received = self._sent = 0

    def add(self, code: str, seconds: float, received: int = 0, sent: int = 0) -> None:
        self._notes.append((code, seconds, received, sent))
        if len(self._notes) >= _KEPT:
            with self._lock:
                self._add_up()

    @property
    def codes(self) -> dict[str, int]:
        """How many calls ended with each code."""
        with self._lock:
            self._add_up()
            return dict(self._codes)

    @property
    def seconds(self) -> Distribution:
        with self._lock:
            self._add_up()
            return self._seconds.read()

    @property
    def received(self) -> int:
        with self._lock:
            self._add_up()
            return self._received

    @property
    def sent(self) -> int:
        with self._lock:
            self._add_up()
            return self._sent

    def _add_up(self) -> None:
        while self._notes:  # whoever takes from it has the lock
            code, seconds, received, sent = self._notes.popleft()
            self._codes[code] += 1
            self._seconds.add(seconds)
            self._received += received
            self._sent += sent
