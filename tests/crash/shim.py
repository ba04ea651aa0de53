"""The preloaded library that records what processes do to their files, and that makes chosen operations fail.

How to use it:

    library = shim.build()                            # compiles shim.c once; raises shim.Unavailable with a reason
    environment = shim.environment(root, log=path)    # for subprocess: everything below `root` goes to the log
    ...
    for entry in shim.read(path): ...                 # Entry: op, path, inode, offset, data, result, ...

`root` must exist; a directory above the store shows its creation too. The log is appended to, by any number of threads
and processes at once; its order is the order of execution. Failed operations are in it too (`entry.ok` is false), and
those that were made to fail carry `entry.fault`. Not recorded: what is written through mapped memory (a shared writable
mapping is, as MAP), chmod, utime, sockets. The process must not open its own log.

Faults: an operation counts when it acts below `root` and is one of OPEN (read-only ones too), WRITE, TRUNCATE,
ALLOCATE, SYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR. Of those, only the ones that a kind can befall are numbered:

    kind                befalls                                         and shows as
    Fault.ENOSPC        all but UNLINK, RMDIR, OPEN that makes no file  ENOSPC, nothing done
    Fault.EIO           all                                             EIO, nothing done
    Fault.EINTR         OPEN, WRITE, TRUNCATE, ALLOCATE, SYNC           EINTR, nothing done
    Fault.EMFILE        OPEN                                            EMFILE, nothing done
    Fault.SHORT_WRITE   WRITE                                           half of it written (of one byte: all)
    Fault.FAILED_SYNC   SYNC                                            EIO, nothing synced

Python and SQLite try an interrupted call again, so a sticky EINTR never ends.

`at` is the number, from 1, of the fitting operation that fails; sticky: this one and all fitting ones after it. 0 only
counts. Either from the start of a process: shim.environment(root, fault=(at, kind, sticky)); or at run time, inside a
process that was started with shim.environment(root):

    faults = shim.Faults()              # raises Unavailable when the process runs without the library
    faults.arm(3, Fault.EIO)            # sticky=True for all from then on; arming resets the counts
    ...                                 # the call
    faults.disarm()                     # no more faults; the counts stay
    faults.fitting                      # operations since arming that this kind could befall
    faults.fired                        # how many failed
    faults.counted                      # operations since arming, of all kinds
    faults.mark("answered 17")          # puts a MARK into the log, in order with the operations

with faults.armed(3, Fault.EIO): ... does both. Numbers and counts are those of one process; a forked one goes on with
its own copy of them. From another process: let the child read its orders from a pipe and arm itself.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
BUILD = Path(__file__).resolve().parents[2] / ".build" / "crash"
ROOT, LOG, FAULT = "CRASH_SHIM_ROOT", "CRASH_SHIM_LOG", "CRASH_SHIM_FAULT"

CREATED, DATA_ONLY, DIRECTORY = 1 << 30, 1 << 29, 1 << 28
"""Bits of `Entry.flags`: the open made the file; fdatasync rather than fsync; the inode is a directory."""

_HEADER = struct.Struct("<IBBHHHii4xqQQQQQqqII")


class Unavailable(Exception):
    """Why the library cannot be had here."""


class Op(enum.IntEnum):
    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    ALLOCATE = 4
    SYNC = 5
    RENAME = 6
    LINK = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    CLOSE = 11
    MARK = 12
    MAP = 13


class Fault(enum.IntEnum):
    ENOSPC = 1
    EIO = 2
    EINTR = 3
    EMFILE = 4
    SHORT_WRITE = 5
    FAILED_SYNC = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation. Paths are relative to the root, "" is the root itself.

    `path` is the name that was acted on; for operations on a descriptor the one it was opened under. `other` is the new
    name of RENAME and LINK, and `replaced` the inode that stood under it (0: none). `inode` is the file's or the
    directory's (0: there was none), `directory` and `other_directory` those of the directories of the names. `offset`
    and `length` are the place and the wanted length of WRITE and ALLOCATE, the new length of TRUNCATE; for OPEN they
    are the mode and the size before (-1: absent). `result` is what the call returned, `error` its errno. `data` is what
    a WRITE wrote (not what it was asked to), or the text of a MARK.
    """

    op: Op
    fault: Fault | None
    pid: int
    result: int
    error: int
    device: int
    inode: int
    replaced: int
    directory: int
    other_directory: int
    offset: int
    length: int
    flags: int
    path: str
    other: str
    data: bytes

    @property
    def ok(self) -> bool:
        return self.result >= 0

    @property
    def created(self) -> bool:
        return bool(self.flags & CREATED)

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & DIRECTORY)

    @property
    def text(self) -> str:
        return self.data.decode()

    def __str__(self) -> str:
        what = self.text if self.op is Op.MARK else f"{self.path or '.'}{f' → {self.other}' if self.other else ''}"
        where = f" [{self.offset}+{self.length}]" if self.op in (Op.WRITE, Op.TRUNCATE, Op.ALLOCATE) else ""
        end = "" if self.ok else f" failed: {os.strerror(self.error)}"
        return f"{self.op.name.lower()} {what}{where}{end}"


def build() -> Path:
    """Compile the library, or take the one that was compiled from the same source; raises Unavailable."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:
        raise Unavailable("recording needs 64-bit Linux")
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = BUILD / f"shim-{name}.so"
    return library if library.exists() else _compile(library)


def _compile(library: Path) -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise Unavailable("recording needs a C compiler: none of cc, gcc and clang is here")
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        part = Path(place) / library.name
        options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
        done = subprocess.run([compiler, *options, str(SOURCE), "-o", str(part)], capture_output=True, text=True)
        if done.returncode != 0:
            raise Unavailable(f"{compiler} cannot build shim.c: {done.stderr.strip()}")
        part.rename(library)
    return library


def environment(
    root: Path | None, *, log: Path | None = None, fault: tuple[int, Fault, bool] | None = None
) -> dict[str, str]:
    """What to add to a child's environment so that it is recorded below `root`, or suffers faults there.

    Without a root the library waits for `begin`.
    """
    added = {"LD_PRELOAD": str(build())}
    if root is not None:
        added[ROOT] = str(root.resolve(strict=True))
    if log is not None:
        added[LOG] = str(log.absolute())
    if fault is not None:
        at, kind, sticky = fault
        added[FAULT] = f"{at},{int(kind)},{int(sticky)}"
    return added


def read(log: Path) -> list[Entry]:
    """All entries of a log. Processes that still run may add to it; a half-written entry at its end is left out."""
    return list(parse(log.read_bytes()))


def parse(raw: bytes) -> Iterator[Entry]:
    place = 0
    while place + _HEADER.size <= len(raw):
        fields = _HEADER.unpack_from(raw, place)
        if place + fields[0] > len(raw):
            return
        yield _entry(fields, raw[place + _HEADER.size : place + fields[0]])
        place += fields[0]


def _entry(fields: tuple[int, ...], rest: bytes) -> Entry:
    _, op, fault, path, other, _, pid, error, result, device, inode, replaced, directory, other_directory = fields[:14]
    offset, length, flags, _ = fields[14:]
    return Entry(
        op=Op(op),
        fault=Fault(fault) if fault else None,
        pid=pid,
        result=result,
        error=error,
        device=device,
        inode=inode,
        replaced=replaced,
        directory=directory,
        other_directory=other_directory,
        offset=offset,
        length=length,
        flags=flags,
        path=os.fsdecode(rest[:path]),
        other=os.fsdecode(rest[path : path + other]),
        data=rest[path + other :],
    )


def begin(root: Path, log: Path) -> None:
    """Record this process below `root` from now on; once in its life, and only if it was started without a root."""
    _loaded().shim_begin(os.fsencode(root), os.fsencode(log))


class Faults:
    """The library as the process sees it that runs under it."""

    def __init__(self) -> None:
        self._library = _loaded()

    def arm(self, at: int, kind: Fault, *, sticky: bool = False) -> None:
        """Make the `at`-th operation from now that `kind` can befall fail; 0 only counts. Resets all counts."""
        self._library.shim_arm(at, int(kind), int(sticky))

    def disarm(self) -> None:
        self._library.shim_disarm()

    @contextmanager
    def armed(self, at: int, kind: Fault, *, sticky: bool = False) -> Iterator[Faults]:
        self.arm(at, kind, sticky=sticky)
        try:
            yield self
        finally:
            self.disarm()

    @property
    def counted(self) -> int:
        """Operations below the root since arming, or since the start."""
        return int(self._library.shim_count())

    @property
    def fitting(self) -> int:
        """Those of them that the armed kind could befall."""
        return int(self._library.shim_fitting())

    @property
    def fired(self) -> int:
        """Those of them that were made to fail."""
        return int(self._library.shim_fired())

    def mark(self, text: str) -> None:
        """Put a text into the log."""
        self._library.shim_mark(text.encode())


@functools.cache
def _loaded() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    try:
        library.shim_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
        library.shim_mark.argtypes = [ctypes.c_char_p]
        for name in ("shim_count", "shim_fitting", "shim_fired"):
            getattr(library, name).restype = ctypes.c_long
    except AttributeError:
        raise Unavailable("this process was not started with shim.environment()") from None
    return library
