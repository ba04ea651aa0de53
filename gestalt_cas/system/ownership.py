"""Whose the files are that root makes in a store: its owner's, so that the owner's server can use what root left.

A server runs as a user of its own, and at 3 a.m. root runs a verb on its directory. What root makes there would be
root's, owner-only, and the server would fail at it, perhaps days later. SQLite gives the files that it makes beside a
database to the database's owner when root runs it, for the same reason; this does so with all others. The other way,
that of PostgreSQL, is to refuse root: it would keep out containers that have no other user and a directory that
belongs to one, and an operator who has nothing else.

A new file gets owner and group of the directory that it is made in, not those of the data directory: whoever owns a
store may have put a link to some other directory in the place of one of its own, and must not be given a file there.
Only what this very call has made is ever given away, never what it finds. Where it cannot be (a file system without
owners, root without CAP_CHOWN) it stays root's, is logged, and the doctor names it with the remedy.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_ROOT = 0


def gives_away(directory: str | Path) -> bool:
    """Whether what this process makes in the directory is to be another user's: it is root, and the owner is not."""
    return os.geteuid() == _ROOT and os.stat(directory or ".").st_uid != _ROOT


def make_file(path: str | Path, flags: int, mode: int) -> int:
    """`os.open` of a file that must not be there yet, for its directory's owner; raises FileExistsError if it is."""
    flags |= os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    if not gives_away(os.path.dirname(path)):
        return os.open(path, flags, mode)
    with _opened(os.path.dirname(path) or ".") as directory:
        fd = os.open(os.path.basename(path), flags, mode, dir_fd=directory)
        _give(fd, directory, path)
    return fd


def open_or_make(path: str | Path, flags: int, mode: int) -> int:
    """`os.open` of a file that is there, or is made for its directory's owner."""
    while True:
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
        try:
            return make_file(path, flags, mode)
        except FileExistsError:
            # Made by another process just now, or a link that leads nowhere, which no flag of ours would follow.
            if os.path.islink(path):
                raise


def make_directory(path: Path, mode: int, *, exist_ok: bool = False) -> None:
    """`Path.mkdir` for the owner of the directory that it is made in."""
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not (exist_ok and path.is_dir()):
            raise
        return
    if gives_away(path.parent):
        with _opened(str(path.parent)) as parent:
            fd = os.open(path.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                _give(fd, parent, path)
            finally:
                os.close(fd)


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _give(fd: int, directory: int, path: str | Path) -> None:
    """Give what is open, if it is root's, to the owner of the open directory; what cannot be given stays."""
    owner = os.fstat(directory)
    if owner.st_uid == _ROOT or os.fstat(fd).st_uid != _ROOT:
        return
    try:
        os.fchown(fd, owner.st_uid, owner.st_gid)
    except OSError as error:
        log.warning("%s stays root's, where user %d may not use it: %s", path, owner.st_uid, error.strerror)
