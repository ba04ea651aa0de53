"""A temporary directory in memory for a run of the tests, where the machine has the room.

What tests write is read back by processes that live on, or that were killed: neither can tell a disk from memory, and
syncs that take no time leave the processors to the tests. What a loss of power leaves is told by tests/crash/, on a
model; what a full disk does, by small file systems that the tests mount.

The directory is locked for as long as its run lasts, so the next run can remove what a killed one left.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_MEMORY = Path("/dev/shm")
_PREFIX = "gc-tests-"
WANTED_BYTES = 8 << 30
"""Of memory that nobody uses; a run takes about a third of it at most."""


_made: list[tuple[Path, int | None]] = []


def make() -> Path | None:
    """A new directory in memory; None where there is too little room."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    _remove_left()
    if _room() < WANTED_BYTES:
        return None
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_MEMORY))
    _made.append((place, _locked(place)))
    return place


def remove() -> None:
    """Remove what `make` has made in this process."""
    while _made:
        place, lock = _made.pop()
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _room() -> int:
    """What may be put into memory: file systems there may promise more than there is, or than this process may have."""
    try:
        found = os.statvfs(_MEMORY)
        (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        groups = [_room_of(group) for group in _groups()]
    except (OSError, ValueError, KeyError):
        return 0
    return min(found.f_bavail * found.f_frsize, int(line.split()[1]) * 1024, *groups)


def _groups() -> Iterator[Path]:
    """The control groups that limit this process's memory, by whichever of the two versions."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            top = Path("/sys/fs/cgroup") / ("memory" if controllers else "")
            group = top / path.strip("/")
            yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _room_of(group: Path) -> int:
    """What the processes of a group may still take, files in its cache not counted; without a limit, plenty."""
    for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (group / limit).exists() and (most := (group / limit).read_text().strip()) != "max":
            told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            cached = int(told["inactive_file"]) + int(told["active_file"])
            return int(most) - int((group / usage).read_text()) + cached
    return 1 << 62


def _remove_left() -> None:
    for left in _MEMORY.glob(f"{_PREFIX}*"):
        if left.is_dir() and left.stat().st_uid == os.geteuid() and (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(directory: Path) -> int | None:
    """Hold the directory's lock; None when another run holds it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
