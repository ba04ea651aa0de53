"""What stands under a payload's name, judged against what its row says: the file's side of a check.

Nothing here knows rows or locks. A look remembers which file it judged, so that whoever acts on it can make sure, under
write.lock, that the same file (or the same absence) still stands there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gestalt_cas.rules import chunks

PAYLOAD_MODE = 0o400
_SHOWN_CHUNKS = 5
Identity = tuple[int, int, int, int]
"""Device, inode, size and time of writing: what tells one state of a file from another. (The time of change would not
do: it moves with each link that a writer of the same bytes makes or removes.)"""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the row of a payload says: size in bytes, and the chunk sums."""

    digest: bytes
    size: int
    sums: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """What was found under a payload's name.

    `kind` is a kind of finding, "" when nothing is wrong. `whole` tells that all bytes were read and have the digest;
    `size` and `sums` are the payload's real ones then. `identity` is None when nothing stands under the name. `place`
    is that of a payload which is a row, looked at by `inlined_checks.py`; 0: a file.
    """

    kind: str
    message: str = ""
    expected: str = ""
    found: str = ""
    identity: Identity | None = None
    mode: int = PAYLOAD_MODE
    whole: bool = False
    size: int = 0
    sums: bytes = b""
    place: int = 0


def identity_of(path: Path) -> Identity | None:
    """What stands under the name now, links not followed."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return _identity(found)


def examine(path: Path, expected: Expected, *, read: bool, advance: Callable[[int], None]) -> Look:
    """Judge the file under `path`; its bytes are read when `read` says so, or when its size or sums cannot be right.

    `advance` is called with the number of bytes of each piece that was read, and may raise to stop. What cannot be read
    is a finding of its own; OSError is raised for what says nothing of the file: no descriptor or no memory is left.
    """
    name = path.name
    try:
        # Not blocking: a pipe that somebody put there must be found out, not waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Look("missing", f"payload {name} has no file", f"{expected.size} bytes", "nothing")
    except OSError as error:
        return _not_opened(path, error)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return _no_file(path, status)
        return _judge_file(fd, name, status, expected, read, advance)
    finally:
        os.close(fd)


def prove(path: Path, advance: Callable[[int], None]) -> bytes:
    """The BLAKE3 of all that a regular file holds; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return _read(fd, advance)[0]
    finally:
        os.close(fd)


def _judge_file(
    fd: int, name: str, status: os.stat_result, expected: Expected, read: bool, advance: Callable[[int], None]
) -> Look:
    identity, mode = _identity(status), stat.S_IMODE(status.st_mode)
    wrong_size = status.st_size != expected.size
    if not (read or wrong_size or not chunks.fit(expected.sums, expected.size)):
        return Look("", identity=identity, mode=mode)
    try:
        digest, sums = _read(fd, advance)
    except OSError as error:
        text = f"payload {name} cannot be read: {error.strerror or error}"
        return Look("unreadable", text, "", str(error.strerror), identity, mode)
    return judge(expected, status.st_size, digest, sums, identity, mode)


def judge(
    expected: Expected, size: int, digest: bytes, sums: bytes, identity: Identity, mode: int = PAYLOAD_MODE
) -> Look:
    """Judge bytes that were read whole: `size` of them, with this BLAKE3-256 and these chunk sums."""
    name = expected.digest.hex()
    if digest != expected.digest:
        kind, text, wanted, found = _wrong_bytes(name, size, expected, digest, sums)
        return Look(kind, text, wanted, found, identity, mode)
    proven = {"identity": identity, "mode": mode, "whole": True, "size": size, "sums": sums}
    if size != expected.size:
        text = f"the row of payload {name} says {expected.size} bytes, its proven bytes are {size}"
        return Look("size", text, str(size), str(expected.size), **proven)  # type: ignore[arg-type]
    if sums != expected.sums:
        text = f"the chunk sums in the row of payload {name} are wrong; its bytes are proven whole"
        return Look("sums", text, sums.hex(), expected.sums.hex(), **proven)  # type: ignore[arg-type]
    return Look("", **proven)  # type: ignore[arg-type]


def _wrong_bytes(name: str, size: int, expected: Expected, digest: bytes, sums: bytes) -> tuple[str, str, str, str]:
    if size != expected.size:
        return "size", f"payload {name} has {size} bytes instead of {expected.size}", str(expected.size), str(size)
    wrong = [
        index
        for index in range(chunks.count(size))
        if sums[index * chunks.SUM_BYTES :][: chunks.SUM_BYTES]
        != expected.sums[index * chunks.SUM_BYTES :][: chunks.SUM_BYTES]
    ]
    shown = ", ".join(_range(index, size) for index in wrong[:_SHOWN_CHUNKS])
    more = f" and {len(wrong) - _SHOWN_CHUNKS} chunks more" if len(wrong) > _SHOWN_CHUNKS else ""
    at = f" at bytes {shown}{more}" if wrong else ", although its chunk sums are right"
    return "bytes", f"payload {name} is damaged{at}", name, digest.hex()


def _range(index: int, size: int) -> str:
    start = index * chunks.CHUNK_BYTES
    return f"{start}-{min(size, start + chunks.CHUNK_BYTES) - 1}"


def _read(fd: int, advance: Callable[[int], None]) -> tuple[bytes, bytes]:
    """BLAKE3 and chunk sums of all that the file holds, read a chunk at a time."""
    hasher, summer = blake3(), chunks.ChunkSummer()
    buffer = memoryview(bytearray(chunks.CHUNK_BYTES))
    offset = 0
    while count := os.preadv(fd, [buffer], offset):
        hasher.update(buffer[:count])
        summer.update(buffer[:count])
        offset += count
        advance(count)
    return hasher.digest(), summer.digest()


def is_want(error: OSError) -> bool:
    """Whether the process wants for something, so that the failure says nothing of the file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def _not_opened(path: Path, error: OSError) -> Look:
    if is_want(error):
        raise error
    try:
        status = path.lstat()
    except FileNotFoundError:
        return Look("missing", f"payload {path.name} has no file", "", "nothing")
    except OSError as worse:
        return Look("unreadable", f"payload {path.name} cannot be looked at: {worse.strerror}", "", str(worse.strerror))
    if not stat.S_ISREG(status.st_mode):
        return _no_file(path, status)
    text = f"payload {path.name} cannot be opened: {error.strerror}"
    mode = stat.S_IMODE(status.st_mode)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Look("mode", text, f"{PAYLOAD_MODE:04o}", f"{mode:04o}", _identity(status), mode)
    return Look("unreadable", text, "", str(error.strerror), _identity(status), mode)


def _no_file(path: Path, status: os.stat_result) -> Look:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode), "something else")
    text = f"{kind} stands under the name of payload {path.name}"
    return Look("type", text, "a regular file", kind, _identity(status), stat.S_IMODE(status.st_mode))


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


_TYPES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
