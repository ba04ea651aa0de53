"""A process that does its work step by step, as a controller lets it."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import before_forks
from gestalt_cas import Store
from gestalt_cas.errors import StoreError
from gestalt_cas.files import staging
from gestalt_cas.removal import garbage, soundness, strays
from gestalt_cas.system import locks

before_forks.make_ready()

END = -1
"""In place of a number of steps: to the end."""
NOTICED = {"execute", "executemany", "fdatasync", "flock", "fsync", "link", "listdir", "lstat", "mkdir", "open"}
NOTICED |= {"remove", "rename", "replace", "scandir", "stat", "unlink"}
"""Names of the C functions and methods that a step ends before."""

Work = Mapping[str, Callable[..., Any]]
"""What a process can be told to do, by name."""
Prepare = Callable[[Store], None]


def nothing_more(store: Store) -> None:
    """Work on the store as it was opened."""


class Steps:
    """Inside a process under control: counts its steps, and waits for orders when they are used up."""

    def __init__(self, orders: int, reports: int) -> None:
        self._orders, self._reports = os.fdopen(orders, "r"), os.fdopen(reports, "w")
        self._left = 0
        self.taken = 0

    def report(self, *what: object) -> None:
        self._reports.write(json.dumps(what) + "\n")
        self._reports.flush()

    def order(self) -> Any:
        line = self._orders.readline()
        if not line:
            os._exit(0)  # the controller has ended
        return json.loads(line)

    def watch(self, frame: object, event: str, function: Any) -> None:
        """For sys.setprofile."""
        if event != "c_call" or function.__name__ not in NOTICED:
            return
        while self._left == 0:
            self.report("paused")
            self._left = self.order()
        self._left -= 1
        self.taken += 1

    def wait(self, _seconds: float = 0) -> None:
        """In place of the pauses between two tries to get a lock."""
        self.report("blocked")
        self._left = self.order()

    def run(self, work: Callable[[], Any]) -> None:
        """Do a piece of work under control and report how it ended."""
        self._left = self.taken = 0
        sys.setprofile(self.watch)
        try:
            result: tuple[object, ...] = ("done", work())
        except StoreError as error:
            result = ("refused", type(error).__name__, str(error))
        except BaseException:  # noqa: BLE001 - whatever it is, the controller shows it
            result = ("failed", traceback.format_exc())
        finally:
            sys.setprofile(None)
        self.report("ended", self.taken, *result)


class _Locks:
    """Stands in for the `fcntl` of staging.py: who waits for a staging file says so."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(fcntl, name)

    def flock(self, fd: int, operation: int) -> None:
        if operation != fcntl.LOCK_EX:
            fcntl.flock(fd, operation)
            return
        while True:
            try:
                fcntl.flock(fd, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                self._steps.wait()
            else:
                return


class _Time:
    """Stands in for the `time` of locks.py: nobody's patience ends while the controller takes its time."""

    def __init__(self, steps: Steps) -> None:
        self.sleep = steps.wait

    @staticmethod
    def monotonic() -> float:
        return 0.0


def _serve(directory: Path, work: Work, steps: Steps, controlled: bool, prepare: Prepare) -> None:
    garbage.FAN_OUT = strays._FAN_OUT = 1
    # Two looks rather than 256: else most stops of gc are between looks that are all alike, and few where it matters.
    soundness._SLICES = [(b"", b"\x80"), (b"\x80", soundness._SLICES[-1][1])]
    if controlled:
        staging.fcntl = _Locks(steps)  # type: ignore[assignment]
        locks.time = _Time(steps)  # type: ignore[assignment]
    steps._left = 1 << 60
    with Store.open(directory) as store:
        prepare(store)
        store.settings()  # makes the connection that reads
        while True:
            name, arguments = steps.order()
            steps.run(partial(work[name], store, *arguments))


class Process:
    """A process under control, as the controller sees it."""

    _ours: ClassVar[list[int]] = []

    def __init__(
        self, directory: Path, work: Work, *, controlled: bool = True, prepare: Prepare = nothing_more
    ) -> None:
        (orders, out), (into, reports) = os.pipe(), os.pipe()
        Process._ours += [out, into]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                for fd in Process._ours:  # those of the processes before it, too: who reads is to see the end
                    os.close(fd)
                _serve(directory, work, Steps(orders, reports), controlled, prepare)
            finally:
                os._exit(1)
        os.close(orders)
        os.close(reports)
        self._out, self._in = os.fdopen(out, "w"), os.fdopen(into, "r")
        self.ended = True
        self.steps = 0
        self.result: list[Any] = []

    def begin(self, name: str, *arguments: object) -> None:
        """Have it begin a piece of work; it stops before its first step."""
        self.ended = False
        self._tell([name, arguments])
        self._hear()

    def go(self, steps: int = END) -> str:
        """Let it go on for so many steps; "paused", "blocked" or "ended"."""
        if self.ended or not steps:
            return "ended" if self.ended else "paused"
        self._tell(steps)
        return self._hear()

    def call(self, name: str, *arguments: object) -> Any:
        """Have it do a piece of work to its end."""
        self.begin(name, *arguments)
        self.go()
        if self.result[0] != "done":
            raise RuntimeError(f"{name}: {self.result}")
        return self.result[1]

    def close(self) -> None:
        for pipe in (self._out, self._in):
            Process._ours.remove(pipe.fileno())
            pipe.close()
        os.waitpid(self.pid, 0)

    def _tell(self, order: object) -> None:
        self._out.write(json.dumps(order) + "\n")
        self._out.flush()

    def _hear(self) -> str:
        line = self._in.readline()
        if not line:
            raise RuntimeError("a process under control has ended")
        state, *rest = json.loads(line)
        if state == "ended":
            self.ended = True
            self.steps, *self.result = rest
        return str(state)
