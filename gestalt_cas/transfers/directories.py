"""A local directory, used without ever leaving it: listed, read, written and cleaned part by part.

Every path is opened one part at a time from the directory's descriptor with O_NOFOLLOW (openat(2)), so neither a
symbolic link below it nor one that is put there meanwhile leads a read, a write or a removal outside. The directory
itself may be named through links: that is its owner's choice. With `follow_symlinks` links are followed, for reading.
The directory of the store is out of bounds wherever it lies: opening its database another way drops SQLite's locks, and
writing there is damage.

A path is a tuple of parts as bytes (`paths.local_parts`). Writing goes to a file beside the target that takes its place
at the end, so a target has its old bytes or all of the new ones. Nothing is synced: the store has the bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from gestalt_cas.transfers.paths import Parts, PathLimits

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PART_PREFIX, _PART_SUFFIX = ".gestalt-cas-", ".part"

Inode = tuple[int, int]
"""Device and inode number."""


class Kind(StrEnum):
    """What stands where a path should lead."""

    SYMLINK = "a symbolic link"
    FILE = "a file"
    DIRECTORY = "a directory"
    SPECIAL = "a device, pipe or socket"
    STORE = "the store's own directory"


class Obstacle(OSError):
    """Something of another kind at `name` keeps a path from being used; nothing was changed."""

    def __init__(self, name: str, kind: Kind) -> None:
        super().__init__(errno.EEXIST, f"{kind} is in the way", name)
        self.name = name
        self.kind = kind


def inode(status: os.stat_result) -> Inode:
    """What tells one directory from every other, whatever the path to it."""
    return status.st_dev, status.st_ino


def kind_of(status: os.stat_result) -> Kind:
    """The kind of what has this status."""
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.FILE if stat.S_ISREG(mode) else Kind.SPECIAL


def resolved(path: Path) -> Path:
    """The path with its links followed as far as it is there; raises OSError for links that lead in a circle."""
    try:
        return path.resolve(strict=True)
    except RuntimeError:  # what Python before 3.13 raises for them
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
        return path.resolve()


def is_within(path: Path, store: Path) -> bool:
    """Whether a path, links resolved, is the store's directory or below it."""
    found, home = resolved(path), inode(store.stat())
    return any(above.exists() and inode(above.stat()) == home for above in (found, *found.parents))


def is_leftover(name: str) -> bool:
    """Whether `name` is that of a file beside a target, which only a killed transfer leaves behind."""
    last = name.rpartition("/")[2]
    return last.startswith(_PART_PREFIX) and last.endswith(_PART_SUFFIX)


def joined(parts: Parts) -> str:
    """The parts as a name with `/` between; bytes that are not UTF-8 become surrogate escapes."""
    return b"/".join(parts).decode(errors="surrogateescape")


class Directory:
    """An open directory; a context manager. Raises OSError when it cannot be opened, Obstacle if it is the store's."""

    def __init__(self, path: Path, *, store: Path, follow_symlinks: bool = False) -> None:
        self.path = path
        self._nofollow = 0 if follow_symlinks else os.O_NOFOLLOW
        self._store = inode(store.stat())
        if is_within(path, store):
            raise Obstacle(str(path), Kind.STORE)
        self._root = os.open(path, _DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._root)

    def own_status(self) -> os.stat_result:
        return os.fstat(self._root)

    def is_store(self, status: os.stat_result) -> bool:
        return inode(status) == self._store

    def limits(self) -> PathLimits:
        """What the file system takes below this directory."""
        name_max = os.fpathconf(self._root, "PC_NAME_MAX")
        path_max = os.fpathconf(self._root, "PC_PATH_MAX")
        root = len(os.fsencode(resolved(self.path)))
        return PathLimits(name_max if name_max > 0 else 255, (path_max if path_max > 0 else 4096) - root - 2)

    def shown(self, name: str) -> str:
        """`name` as a path that a person would use."""
        return str(self.path / name)

    # ---- looking and reading ----

    def entries(self, parts: Parts) -> list[tuple[bytes, os.stat_result | None]]:
        """The names in a directory, unsorted, each with its status; None for what vanished or cannot be looked at."""
        with self._at(parts) as directory:
            names = [os.fsencode(name) for name in os.listdir(directory)]
            return [(name, self._status(name, directory)) for name in names]

    def status(self, parts: Parts) -> os.stat_result | None:
        """The status of what is at a path, a link at its end not followed; None when there is nothing.

        Raises Obstacle when something on the way is not a directory.
        """
        try:
            with self._at(parts[:-1]) as directory:
                return os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def reading(self, parts: Parts) -> Iterator[BinaryIO]:
        """Open a regular file for reading. Raises Obstacle for anything else, OSError as open(2) does."""
        with self._at(parts[:-1]) as directory:
            try:
                descriptor = os.open(parts[-1], _READ | self._nofollow, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise Obstacle(joined(parts), Kind.SYMLINK) from None
                raise _named(error, parts) from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Obstacle(joined(parts), kind_of(status))
            yield file

    # ---- writing ----

    def check_target(self, parts: Parts) -> None:
        """Raise Obstacle unless a file may be written at a path: nothing is there yet, or a regular file."""
        status = self.status(parts)
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise Obstacle(joined(parts), Kind.STORE if self.is_store(status) else kind_of(status))

    @contextlib.contextmanager
    def replacing(self, parts: Parts) -> Iterator[BinaryIO]:
        """Give a file to write; when the block ends it takes the place of the target, keeping its permission bits.

        Directories on the way are made. When the block raises, the target is as it was and nothing else is left. Raises
        Obstacle when something other than a regular file stands on the path or at its end.
        """
        self.check_target(parts)
        beside = f"{_PART_PREFIX}{secrets.token_hex(8)}{_PART_SUFFIX}".encode()
        directory, made = self._descend(parts[:-1], make=True)
        try:
            try:
                with os.fdopen(os.open(beside, _CREATE, 0o666, dir_fd=directory), "wb") as file:
                    yield file
                    _keep_mode(file.fileno(), parts[-1], directory)
                os.rename(beside, parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=directory)
                raise
            finally:
                os.close(directory)
        except BaseException as error:
            self._prune(parts[:-1], made)
            if isinstance(error, IsADirectoryError):
                raise Obstacle(joined(parts), Kind.DIRECTORY) from None
            if isinstance(error, OSError) and error.filename is None:
                raise _named(error, parts) from error
            raise

    # ---- removing ----

    def remove(self, parts: Parts) -> None:
        """Remove a regular file and the directories that this leaves empty; a file that is gone already is fine.

        Raises Obstacle when something else has taken its place.
        """
        status = self.status(parts)
        if status is not None:
            if not stat.S_ISREG(status.st_mode):
                raise Obstacle(joined(parts), kind_of(status))
            with self._at(parts[:-1]) as directory, contextlib.suppress(FileNotFoundError):
                os.unlink(parts[-1], dir_fd=directory)
        self._prune(parts[:-1], len(parts) - 1)

    def only_directories(self, parts: Parts, *, but: AbstractSet[str] = frozenset()) -> list[Parts] | None:
        """A directory and all below it, the deepest last; None when it holds anything else than those and `but`."""
        found = [parts]
        for above in found:
            for name, status in self.entries(above):
                below = (*above, name)
                if status is not None and stat.S_ISDIR(status.st_mode) and not self.is_store(status):
                    found.append(below)
                elif joined(below) not in but:
                    return None
        return found

    def remove_directories(self, found: list[Parts]) -> None:
        """Remove what `only_directories` found, the last first; raises OSError when one is in use again."""
        for parts in reversed(found):
            with self._at(parts[:-1]) as directory:
                os.rmdir(parts[-1], dir_fd=directory)

    def _prune(self, parts: Parts, count: int) -> None:
        """Remove up to `count` directories from the end of a path, as long as they are empty."""
        for depth in range(len(parts), len(parts) - count, -1):
            try:
                with self._at(parts[: depth - 1]) as directory:
                    os.rmdir(parts[depth - 1], dir_fd=directory)
            except OSError:
                return  # not empty, or not ours to remove: an empty directory that stays is no loss

    # ---- the way down ----

    @contextlib.contextmanager
    def _at(self, parts: Parts) -> Iterator[int]:
        """Give the descriptor of a directory below."""
        directory, _ = self._descend(parts, make=False)
        try:
            yield directory
        finally:
            os.close(directory)

    def _descend(self, parts: Parts, *, make: bool) -> tuple[int, int]:
        """Open a directory one part at a time, with `make` making what is missing.

        Returns its descriptor and how many of the parts, counted from the end, were made.
        """
        current, made, depth = os.dup(self._root), 0, 0
        try:
            for depth in range(1, len(parts) + 1):
                below, new = self._step(current, parts[:depth], make)
                made += new
                os.close(current)
                current = below
        except BaseException:
            os.close(current)
            self._prune(parts[: depth - 1], made)
            raise
        return current, made

    def _step(self, directory: int, parts: Parts, make: bool) -> tuple[int, bool]:
        """Open the last of `parts` in the directory of the others; returns its descriptor and whether it was made."""
        new = False
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(parts[-1], dir_fd=directory)
                    new = True
            below = os.open(parts[-1], _DIRECTORY | self._nofollow, dir_fd=directory)
        except OSError as error:
            raise self._not_entered(error, directory, parts) from None
        if self.is_store(os.fstat(below)):
            os.close(below)
            raise Obstacle(joined(parts), Kind.STORE)
        return below, new

    def _not_entered(self, error: OSError, directory: int, parts: Parts) -> OSError:
        """Say what stands where a directory should (Linux answers ENOTDIR for a link, too)."""
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            return _named(error, parts)
        try:
            return Obstacle(joined(parts), kind_of(os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)))
        except OSError as gone:
            return _named(gone, parts)

    def _status(self, name: bytes, directory: int) -> os.stat_result | None:
        """The status of what is there: through a link if links are followed and this one leads somewhere."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode) and not self._nofollow:
                with contextlib.suppress(OSError):  # a link that leads nowhere is shown as the link that it is
                    return os.stat(name, dir_fd=directory)
            return status
        except OSError:
            return None


def _keep_mode(descriptor: int, name: bytes, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):  # a new file keeps the mode that the umask gave it
        present = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(present.st_mode):
            os.fchmod(descriptor, stat.S_IMODE(present.st_mode) & 0o777)


def _named(error: OSError, parts: Parts) -> OSError:
    """The same error with the whole name instead of the part that the system call was given."""
    return OSError(error.errno, error.strerror, joined(parts))
