"""Work in forked processes of the tests."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable


def start(work: Callable[[], None]) -> int:
    """Do the work in a forked process, which ends with it; returns the number of the process.

    It exits with 0, or with 1 when the work raises, whatever that is: it must not go on as its parent.
    """
    sys.stdout.flush()  # else both would write what is waiting
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - told
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Wait for the process; returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
