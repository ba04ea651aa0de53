"""What a Gestalt host gives its provider process: environment variables, and a life that ends with the host's.

Names changed with SDK a20; each is honoured under both (contract 2.1 and 2.3). The SDKs never look at the host's PID,
so a provider whose host died hard would stay and keep its store. The watch here ends it: a pidfd on the host where the
system has one, else a look each second at the PID and its start time, and in any case getppid, since a launcher may
stand between the host and this process.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

SOCKET_NAMES = ("GESTALT_PROVIDER_SOCKET", "GESTALT_PLUGIN_SOCKET")
PARENT_NAMES = ("GESTALT_APP_PARENT_PID", "GESTALT_PLUGIN_PARENT_PID")
_LOOK_SECONDS = 1.0


def alias_socket_names() -> None:
    """Give each socket variable the other's value where it is not set, so that any SDK runs under any host."""
    first, second = SOCKET_NAMES
    for name, other in ((first, second), (second, first)):
        if not os.environ.get(name) and os.environ.get(other):
            os.environ[name] = os.environ[other]


def socket_target() -> str:
    """Where the host wants to be served, "" when no host has said so."""
    return next((value for name in SOCKET_NAMES if (value := os.environ.get(name, "").strip())), "")


def host_pid() -> int | None:
    """The PID of the host that started this process, directly or through a launcher; None without a host."""
    for name in PARENT_NAMES:
        text = os.environ.get(name, "").strip()
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return None


def watch(leave: Callable[[str], None]) -> None:
    """Call `leave` with a reason, once, from a thread of its own, when the host has gone. No host: do nothing."""
    pid = host_pid()
    if pid is None:
        return
    parent, started = os.getppid(), _start_time(pid)
    if started is None:
        log.warning("the host's process %d is not to be seen from here; watching the parent process only", pid)
    threading.Thread(
        target=_watch, args=(pid, started, parent, leave), name="gestalt-cas-host-watch", daemon=True
    ).start()


def _watch(pid: int, started: str | None, parent: int, leave: Callable[[str], None]) -> None:
    fd = _pidfd(pid) if started is not None else None
    while True:
        if fd is not None:
            if select.select([fd], [], [], _LOOK_SECONDS)[0]:
                return leave(f"the host, process {pid}, has gone")
        else:
            time.sleep(_LOOK_SECONDS)
        if started is not None and _start_time(pid) != started:
            return leave(f"the host, process {pid}, has gone")
        if os.getppid() != parent:
            return leave(f"the parent, process {parent}, has gone")


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _start_time(pid: int) -> str | None:
    """The start time of a live process, in the kernel's own unit; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _alive_without_proc(pid)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _alive_without_proc(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "alive"
    except OSError:
        return None
    return "alive"
