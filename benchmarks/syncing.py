"""What the disk and the processor do on their own, in the same run: plain syncs, plain writes, plain hashing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.measuring import Timing, timed

MIB = 1 << 20
_BLOCK = os.urandom(4096)
_RESERVED = 64


class PlainSyncs:
    """Writes of 4 KiB, each made durable by fdatasync."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def appended(self, count: int) -> Timing:
        """At the end of the file, as a log grows: the file system commits its new length too."""
        return self._timed(count, os.SEEK_END)

    def overwritten(self, count: int) -> Timing:
        """In place, which costs the disk's flush and nothing else."""
        return self._timed(count, os.SEEK_SET)

    def _timed(self, count: int, whence: int) -> Timing:
        def run() -> None:
            os.lseek(self._fd, 0, whence)
            for _ in range(count):
                os.write(self._fd, _BLOCK)
                os.fdatasync(self._fd)

        assert whence == os.SEEK_END or count <= _RESERVED, "overwriting must not grow the file"
        return timed(run, count)


@contextmanager
def plain_syncs(directory: Path) -> Iterator[PlainSyncs]:
    path = directory / "syncs"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, bytes(len(_BLOCK) * _RESERVED))
        os.fsync(fd)
        yield PlainSyncs(fd)
    finally:
        os.close(fd)
        path.unlink()


def written(path: Path, body: bytes | bytearray) -> Timing:
    """Write a whole file, a MiB at a time, and make its bytes durable; the file is removed again."""
    cpu, started = time.thread_time(), time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for at in range(0, len(body), MIB):
            file.write(memoryview(body)[at : at + MIB])
        os.fdatasync(file.fileno())
    timing = Timing(time.perf_counter() - started, time.thread_time() - cpu)
    path.unlink()
    return timing


def hashed(body: bytes | bytearray) -> Timing:
    """The BLAKE3 of the whole on one thread."""
    return timed(partial(blake3, body))
