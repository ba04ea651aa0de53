"""What "synced" means here: the only calls in this project that wait for the disk; and how a full one shows.

Linux: fdatasync reaches the disk and brings the size along; directory entries need a sync of the directory. macOS
flushes the drive's own cache only through F_FULLFSYNC (not tested here). One place, so that a missing sync has one
place to be missing from.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None

if sys.platform == "darwin":  # pragma: no cover - not tested on this platform
    import fcntl

    def sync_file(fd: int) -> None:
        """Wait until the file's bytes and size are on the disk; raises OSError, after which the file is suspect."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

else:

    def sync_file(fd: int) -> None:
        """Wait until the file's bytes and size are on the disk; raises OSError, after which the file is suspect."""
        os.fdatasync(fd)


def begin_writing(fd: int, offset: int, count: int) -> None:
    """Have the kernel begin to write these bytes of a file; waits for nothing and promises nothing.

    Linux's sync_file_range; does nothing elsewhere. What fails is reported by the sync that follows.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


def sync_directory(path: str | Path) -> None:
    """Wait until the directory's entries (names made, renamed, removed) are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_full(error: BaseException) -> bool:
    """Whether an operation failed because the disk, or a quota on it, has no room left."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM
