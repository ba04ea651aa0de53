"""What differs between operating systems, in one place. The tests run on Linux; everything for others is untested.

Linux   fdatasync reaches the disk and brings the size along; a rename or link is durable once its directory is synced
macOS   fsync leaves the bytes in the drive's own cache, only F_FULLFSYNC empties that; no fdatasync and no
        posix_fallocate; socket paths are four bytes shorter; the kernel does not tell who holds a lock
Windows has neither flock nor unix sockets, and a file that is open cannot be replaced: `gestalt_cas/__init__.py`
        refuses to be imported

What only tells more (/proc, pidfd, statfs) is asked where it is used, and done without where it is absent. The page is
docs/other-systems.md.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

MAX_SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that a unix socket's path may have (sun_path less its NUL)."""
SQLITE_PRAGMAS = ("PRAGMA fullfsync=ON", "PRAGMA checkpoint_fullfsync=ON") if sys.platform == "darwin" else ()
"""What has SQLite sync its files as `flush` does."""
_SYNC_FILE_RANGE_WRITE = 2
_SMALL_STACK = 256 << 10
_C_OBJECT_BYTES = 128
"""More than a sem_t or a pthread_attr_t has anywhere."""
_ZEROS = bytes(1 << 20)
_MALLOPT = {
    # Number of the parameter in <malloc.h>: our value, and the names by which whoever starts a process sets it.
    -1: (8 << 20, "MALLOC_TRIM_THRESHOLD_", "glibc.malloc.trim_threshold"),
    -3: (4 << 20, "MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold"),
    -8: (8, "MALLOC_ARENA_MAX", "glibc.malloc.arena_max"),
}
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None

if sys.platform == "darwin":  # pragma: no cover - untested
    import fcntl

    def flush(fd: int) -> None:
        """Wait until the file's bytes and size, or the directory's names, are on the disk."""
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise  # a sync that failed is not repeated
            os.fsync(fd)  # a file system that does not have it

    flush_names = flush

else:

    def flush(fd: int) -> None:
        """Wait until the file's bytes and size are on the disk."""
        os.fdatasync(fd)

    def flush_names(fd: int) -> None:
        """Wait until the directory's names are on the disk."""
        os.fsync(fd)


def begin_writing(fd: int, offset: int, count: int) -> None:
    """Have the kernel begin to write these bytes of a file; waits for nothing and promises nothing.

    Linux's sync_file_range; does nothing elsewhere. What fails is reported by the sync that follows.
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


def allocate(fd: int, size: int) -> None:
    """Have the file system set aside room for the first `size` bytes of an empty or shorter file; raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    offset = os.fstat(fd).st_size
    while offset < size:
        offset += os.pwrite(fd, _ZEROS[: size - offset], offset)


def keep_freed_memory() -> None:
    """Have glibc keep some MiB of what is freed, for a process that will soon want as much again.

    By itself it gives a freed MiB back to the system and takes another for the next call, which the system fills with
    zeros first: half of what it takes to send an object of 1 MiB. It keeps up to 8 MiB in each of at most 8 places
    then. What the environment says of it stands. Does nothing where there is another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, (value, variable, tunable) in _MALLOPT.items():
            if variable not in os.environ and tunable not in os.environ.get("GLIBC_TUNABLES", ""):
                mallopt(parameter, value)


def starts_threads(count: int) -> bool:
    """Whether this process may have so many more threads at once, found out by starting them for an instant.

    Threads of C: for one of the interpreter's the allocator takes 64 MiB of address space, which stay. Elsewhere than
    on Linux it is taken for granted.
    """
    if sys.platform != "linux":
        return True
    c = ctypes.CDLL(None)
    gate, attributes = (ctypes.create_string_buffer(_C_OBJECT_BYTES) for _ in range(2))
    c.sem_init(gate, 0, 0)
    c.pthread_attr_init(attributes)
    c.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_SMALL_STACK))
    waiting = ctypes.cast(c.sem_wait, ctypes.c_void_p)
    threads: list[ctypes.c_ulong] = []
    for _ in range(count):
        thread = ctypes.c_ulong()
        if c.pthread_create(ctypes.byref(thread), attributes, waiting, gate):
            break
        threads.append(thread)
    for _ in threads:
        c.sem_post(gate)
    for thread in threads:
        c.pthread_join(thread, None)
    c.pthread_attr_destroy(attributes)
    return len(threads) == count
