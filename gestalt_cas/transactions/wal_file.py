"""The WAL as a file: how long it is, how much of that is in use, and the room that is kept in it.

A commit that makes a file longer waits for the file system to put down the new length as well as the bytes: on ext4
with a journal an append with fdatasync takes two to three times as long as one over bytes that were there
(docs/performance.md). SQLite writes from the front again once all pages have been moved, so in a file that stays long
commits are of the second kind. Zeros are appended for that; a frame counts only if it has the salts of the header, so
what stands behind the last one, zeros or frames of an earlier round, is nothing to SQLite.

Format: https://www.sqlite.org/fileformat2.html#walformat. SQLite takes no locks on this file, so other descriptors of
it may be closed, which is not so for the database and the shared memory.
"""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

from gestalt_cas.system.durability import sync_file
from gestalt_cas.system.refusals import free_bytes, longest_file

log = logging.getLogger(__name__)

ROOM_BYTES = 16 << 20
"""How long the file is kept while a server runs, and what SQLite cuts it to when it writes from the front again."""
_STEP = bytes(1 << 20)
"""What is appended before each sync: a commit that comes meanwhile may have to wait for as much."""
_LEAST_FREE = 8
"""How many times the room has to be free on the disk."""
HEADER = struct.Struct(">8I")
"""Magic number, version, page size, checkpoint number, two salts, two sums."""
FRAME = struct.Struct(">6I")
"""What stands before each page: its number, the database's pages after a commit or 0, two salts, two sums."""


class WalFile:
    """The WAL of one store. Thread-safe, and looked at without locks: what it says may be old by then."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def bytes(self) -> int:
        """The length of the file; 0 when it is absent or cannot be looked at."""
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def taken(self) -> int:
        """How many bytes from the front are in use: what commits have written since they last began there."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            return _taken(fd)
        except OSError:
            return 0
        finally:
            os.close(fd)

    def keep_room(self) -> None:
        """Make the file ROOM_BYTES long, or what a file may have, if something was ever committed to it.

        Done only where the disk has plenty of room. Safe beside commits: an append goes behind whatever they have
        written by then. A failure is only logged, since commits need no room and meet a failing disk in their own
        right.
        """
        try:
            longest = longest_file()
            room = ROOM_BYTES if longest is None else min(ROOM_BYTES, longest)
            if 0 < self.bytes < room and free_bytes(self._path.parent) >= _LEAST_FREE * ROOM_BYTES:
                self._extend(room)
        except OSError as error:
            log.info("no room kept in the WAL: %s", error)

    def _extend(self, room: int) -> None:
        # O_NOFOLLOW and no O_CREAT: a file that went meanwhile was removed by whoever closed the database.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for _ in range(ROOM_BYTES // len(_STEP) + 1):
                missing = room - os.fstat(fd).st_size
                if missing <= 0:
                    return
                os.write(fd, _STEP[:missing])
                sync_file(fd)
        finally:
            os.close(fd)


def _taken(fd: int) -> int:
    """Frames of the present round come first, so the first one of another is found by halving."""
    header = os.pread(fd, HEADER.size, 0)
    if len(header) < HEADER.size or not any(header):
        return 0
    _, _, page_size, _, *salts, _, _ = HEADER.unpack(header)
    step = FRAME.size + int(page_size)
    first, behind = 0, (os.fstat(fd).st_size - HEADER.size) // step
    while first < behind:
        middle = (first + behind) // 2
        frame = os.pread(fd, FRAME.size, HEADER.size + middle * step)
        if len(frame) == FRAME.size and list(FRAME.unpack(frame)[2:4]) == salts:
            first = middle + 1
        else:
            behind = middle
    return HEADER.size + first * step
