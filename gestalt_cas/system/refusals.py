"""What the operating system's refusals mean to the store, and two questions to a file system that go with them."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from types import TracebackType
from typing import TypeGuard

from gestalt_cas import sizes
from gestalt_cas.errors import DiskFull, FileSizeLimit, StorageFault, StoreError, TooManyStreams
from gestalt_cas.system.durability import is_full

MORE_FILES = "fewer calls at once, or a higher limit (ulimit -n, LimitNOFILE=), would help"
"""What helps a process that may open no more files."""


class translated:  # noqa: N801 - read like the function that it would be, at a third of what a generator costs
    """Turn the operating system's refusals into the store's words, for a block that is `doing` something."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, OSError):
            raise fault(self._doing, error) from error


class on_stream:  # noqa: N801 - as above; a listing enters it for each line
    """Name stdin or stdout in what the system refuses a block that uses it: the process was given it without a name.

    A reader of stdout that went away stays BrokenPipeError, which is no failure.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError) and error.filename is None:
            raise OSError(error.errno, error.strerror, self._name) from error


def fault(doing: str, error: OSError) -> StoreError:
    """The store's word for what the system refused while `doing` something."""
    if is_full(error):
        return DiskFull(f"the disk is full while {doing}")
    if is_want_of_files(error):
        return TooManyStreams(f"{doing} failed: {error.strerror}; {MORE_FILES}")
    if is_file_limit(error):
        return FileSizeLimit(f"{doing} failed: {error.strerror}; {longer_files()}")
    return StorageFault(f"{doing} failed: {error.strerror or error}")


def is_want_of_files(error: BaseException) -> TypeGuard[OSError]:
    """Whether no more files can be opened."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def is_file_limit(error: BaseException) -> TypeGuard[OSError]:
    """Whether a file may not grow any further: the interpreter ignores the signal that comes with it."""
    return isinstance(error, OSError) and error.errno == errno.EFBIG


def longest_file() -> int | None:
    """How many bytes a file of this process may have; None for as many as its file system takes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if limit == resource.RLIM_INFINITY else limit


def longer_files() -> str:
    """What helps a process in whose way the limit on the size of a file is."""
    limit = longest_file()
    if limit is None:
        return "a file system that takes larger files would help"
    return f"a higher limit on the size of files (ulimit -f, LimitFSIZE=; it is {sizes.told(limit)}) would help"


def free_bytes(directory: str | Path) -> int:
    """Bytes that this user may still write on the directory's file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def is_path_of(path: str | Path, fd: int) -> bool:
    """Whether the name, links not followed, stands for the very file that is open."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
