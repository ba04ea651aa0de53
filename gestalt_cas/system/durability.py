"""What "synced" means here: the only calls in this project that wait for the disk; and how a full one shows.

One place, so that a missing sync has one place to be missing from. What the operating systems need for it is in
`platforms.py`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gestalt_cas.system import platforms

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def sync_file(fd: int) -> None:
    """Wait until the file's bytes and size are on the disk; raises OSError, after which the file is suspect."""
    platforms.flush(fd)


def sync_directory(path: str | Path | int) -> None:
    """Wait until the directory's entries (names made, renamed, removed) are on the disk; `path` may be it, opened."""
    if isinstance(path, int):
        platforms.flush_names(path)
        return
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        platforms.flush_names(fd)
    finally:
        os.close(fd)


def is_full(error: BaseException) -> bool:
    """Whether an operation failed because the disk, or a quota on it, has no room left."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM
