"""Where a server's threads run: those that need the interpreter on one processor, whatever moves many bytes on any.

Only one thread of the interpreter runs at a time. Left to itself the system wakes the next one on another processor,
which has to be woken, too, and has none of the data in its caches: with 16 callers that took a quarter to a half of a
small call's processor time (docs/performance.md). grpc's own threads, which run no Python, stay where the system puts
them, and so does the background work. A thread that hashes, checks or copies megabytes lets go of the interpreter and
may leave meanwhile.

The processor is one of those that the process may use, and of the strongest where they are not alike. Every two
seconds it is looked at: when other programs take much of it while another one has more to give, the threads move there.
What is said here is said of Linux; elsewhere, with one processor, or in a Python without that lock, nothing is done.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

LONG_BYTES = 4 << 20
"""From how many bytes on a transfer may leave: less takes hardly longer than the way there and back."""
_LOOK_SECONDS = 2.0
_CROWDED = 0.3
"""The share of the processor that others may take."""
_WORTHWHILE = 0.2
"""By how much less another one has to be busy."""
_STATISTICS = Path("/proc/stat")
_DESCRIBED = Path("/sys/devices/system/cpu")
_STRENGTHS = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")
"""Files of a processor there, either of which tells it from weaker ones. Not every system has them."""
_ALIKE = 0.9
"""What share of the greatest strength is no weakness: even equal processors have somewhat different clocks."""

Piece = TypeVar("Piece", bytes, memoryview)


class Processors:
    """Where the threads of this process run. Thread-safe. Which processors it may use is asked when it gathers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._home: int | None = None
        self._allowed: frozenset[int] = frozenset()
        self._homes: frozenset[int] = frozenset()
        self._away: set[int] = set()
        self._ended = threading.Event()

    @property
    def home(self) -> int | None:
        """The number of the processor that the threads share; None while they run anywhere."""
        return self._home

    def gather(self) -> None:
        """Have Python's threads, and those that they start, share a processor from now on."""
        with self._lock:
            if self._home is not None or not _can_gather():
                return
            with suppress(OSError):
                self._allowed = frozenset(os.sched_getaffinity(0))
            if len(self._allowed) < 2:
                return
            self._homes = strongest(self._allowed)
            # Whichever: processes that started together should not all have the same one.
            home = sorted(self._homes)[os.getpid() % len(self._homes)]
            if not self._move_to(home):
                log.info("the system does not let this process say where its threads run: they run anywhere")
                return
            self._ended = threading.Event()
            name = "gestalt-cas-processors"
            try:
                threading.Thread(target=self._watch, args=(self._ended,), name=name, daemon=True).start()
            except RuntimeError:  # with nobody to look whether others crowd that processor, it is better left
                self._release()
                log.warning("no more threads can be started: the interpreter's threads run anywhere")
                return
        log.info("the interpreter's threads share processor %d of %s", home, _told(self._allowed))

    def scatter(self) -> None:
        """Have the threads run anywhere again."""
        with self._lock:
            if self._home is None:
                return
            self._ended.set()
            self._release()
        log.info("the interpreter's threads run on any processor of %s", _told(self._allowed))

    def leave(self) -> None:
        """Let the calling thread run on any processor for good."""
        with self._lock:
            self._go(threading.get_native_id())

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """Let the calling thread run on any processor for the block, which may end on another thread. Not nested."""
        thread = threading.get_native_id()
        with self._lock:
            self._go(thread)
        try:
            yield
        finally:
            with self._lock:
                self._away.discard(thread)
                if self._home is not None:
                    _place(thread, {self._home})

    def moving(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces as they come; from LONG_BYTES on, who takes them may run anywhere until they end."""
        moved, coming = 0, iter(pieces)
        for piece in coming:
            moved += len(piece)
            if moved >= LONG_BYTES:
                with self.anywhere():
                    yield piece
                    yield from coming
            else:
                yield piece

    def look(self, busy: Mapping[int, float], own: float) -> None:
        """Move when another processor is better; `busy` and `own` as in `better`."""
        with self._lock:
            if self._home is None:
                return
            before, there = self._home, better(self._home, busy, own)
            if there is not None and self._move_to(there):
                log.info("the interpreter's threads moved from processor %d, which is crowded, to %d", before, there)

    def _release(self) -> None:
        self._home = None
        for thread in _python_threads():
            _place(thread, self._allowed)

    def _go(self, thread: int) -> None:
        self._away.add(thread)
        if self._home is not None:
            _place(thread, self._allowed)

    def _move_to(self, home: int) -> bool:
        """Returns whether the system allowed it; if not, nothing has changed."""
        if not _place(threading.get_native_id(), {home}):
            return False
        self._home = home
        for _ in range(2):  # the second time for those that were started meanwhile, from where their starters had been
            for thread in _python_threads():
                if thread not in self._away:
                    _place(thread, {home})
        return True

    def _watch(self, ended: threading.Event) -> None:
        before = _Ticks.now()
        while before is not None and not ended.wait(_LOOK_SECONDS):
            now = _Ticks.now()
            if now is not None:
                self.look(*now.since(before, self._homes))
            before = now


def better(home: int, busy: Mapping[int, float], own: float) -> int | None:
    """The processor that the threads should move to from `home`; None: stay.

    `busy` is the share of a time that each processor was at work, `own` what this process worked in all, 1 being one
    processor. What others had of `home` is at least the difference.
    """
    others = busy.get(home, 0.0) - own
    rest = {processor: share for processor, share in busy.items() if processor != home}
    if others <= _CROWDED or not rest:
        return None
    quietest = min(rest, key=rest.__getitem__)
    return quietest if rest[quietest] <= others - _WORTHWHILE else None


class _Ticks:
    """What the system has counted by a moment, in seconds: each processor's work, and this process's."""

    def __init__(self, at: float, worked: Mapping[int, float], own: float) -> None:
        self.at = at
        self.worked = worked
        self.own = own

    @classmethod
    def now(cls) -> _Ticks | None:
        """None where the system does not tell."""
        try:
            lines = _STATISTICS.read_text("ascii").splitlines()
            return cls(time.monotonic(), worked(lines, os.sysconf("SC_CLK_TCK")), time.process_time())
        except (OSError, ValueError, IndexError) as error:
            log.debug("%s cannot be read: the threads stay where they are: %s", _STATISTICS, error)
            return None

    def since(self, before: _Ticks, chosen: frozenset[int]) -> tuple[dict[int, float], float]:
        """`busy` and `own` for `better`, of the time between the two."""
        length = self.at - before.at
        return {
            processor: (total - before.worked[processor]) / length
            for processor, total in self.worked.items()
            if processor in chosen and processor in before.worked
        }, (self.own - before.own) / length


def worked(lines: list[str], ticks: int) -> dict[int, float]:
    """The seconds that each processor has worked, by the lines of /proc/stat; waiting for a disk is no work."""
    found = {}
    for line in lines:
        name, *counts = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _waiting, *interrupts = (int(count) for count in counts[:7])
            found[int(name[3:])] = (user + nice + system + sum(interrupts)) / ticks
    return found


def strongest(allowed: frozenset[int]) -> frozenset[int]:
    """Those that no other one is clearly stronger than; all of them where the system does not tell."""
    for name in _STRENGTHS:
        try:
            strengths = {
                processor: int((_DESCRIBED / f"cpu{processor}" / name).read_text("ascii")) for processor in allowed
            }
        except (OSError, ValueError):
            continue
        return frozenset(one for one, strength in strengths.items() if strength >= _ALIKE * max(strengths.values()))
    return allowed


def _can_gather() -> bool:
    return hasattr(os, "sched_setaffinity") and getattr(sys, "_is_gil_enabled", lambda: True)()


def _python_threads() -> list[int]:
    return [thread.native_id for thread in threading.enumerate() if thread.native_id is not None]


def _place(thread: int, processors: set[int] | frozenset[int]) -> bool:
    """Have a thread run on these only; returns whether it does. It may have ended, or the system may refuse."""
    try:
        os.sched_setaffinity(thread, processors)
    except OSError as error:
        log.debug("thread %d stays where it is: %s", thread, error)
        return False
    return True


def _told(processors: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(processors)))


PROCESSORS = Processors()
"""Those of this process: a thread has one place, whoever asks for it."""
