"""Ending a process hard at the n-th of its steps, for every n.

For use in a child process of its own (`storage.child`), since it forks: importing once and forking for each point is
what makes hundreds of points affordable. `os._exit` at a point leaves what kill -9 would: no handler and no `finally`
runs, the kernel drops the locks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import before_forks
import forking
import gestalt_cas
from driver_aids import trace_statements
from gestalt_cas.sql import sqlite

before_forks.make_ready()

KILLED = 9


class _Countdown:
    def __init__(self, steps: int) -> None:
        self._left = steps

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os._exit(KILLED)


def at_statement(number: int) -> None:
    """End this process before SQLite runs its statement of this number, counted over all connections made from now."""
    countdown, connect = _Countdown(number), sqlite.connect

    def traced(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        trace_statements(connection, lambda _: countdown.step())
        return connection

    sqlite.connect = traced


def at_line(number: int, modules: Collection[str]) -> None:
    """End this process before it first reaches its line of this number, in these modules of the package."""
    countdown, reached = _Countdown(number), set()
    package = Path(gestalt_cas.__file__).parent
    files = {str(package.joinpath(*name.split(".")).with_suffix(".py")) for name in modules}
    assert all(map(os.path.isfile, files)), files

    def line(frame: FrameType, event: str, argument: object) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in reached:
            reached.add(place)
            countdown.step()
        return line

    def call(frame: FrameType, event: str, argument: object) -> Any:
        return line if frame.f_code.co_filename in files else None

    sys.settrace(call)


def in_fork(work: Callable[[], None]) -> int:
    """Do the work in a forked process: 0 when it was done, KILLED when it was ended; exceptions are fatal."""
    code = forking.ended(forking.start(work))
    if code not in (0, KILLED):
        sys.exit(f"a forked process ended with {code}")
    return code


def every_point(
    arm: Callable[[int], None], prepare: Callable[[], None], work: Callable[[], None], check: Callable[[int], None]
) -> int:
    """Prepare, end the work at its point n, check; for n from 1 on until the work is done. Returns the last n."""
    number = 0
    while True:
        number += 1
        prepare()

        def armed(number: int = number) -> None:
            arm(number)
            work()

        code = in_fork(armed)

        def checked(number: int = number) -> None:
            check(number)

        if in_fork(checked) != 0:
            sys.exit(f"the check after point {number} was ended")
        if code == 0:
            return number
