"""Staging: where the bytes of an upload are before anybody can rely on them.

    staging/*.part   an upload on its way, on the file system of the payloads, so that publishing is a link

A staging file belongs to whoever holds flock on it, so leftovers can be told from live uploads, across processes. Its
writer looks, having taken the lock, whether the name still is its file; a cleaner removes a name only while it holds
the lock and after the same look. Small uploads may be held in memory instead. Order and reasons: docs/design.md,
"Writing" and "Removing".
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path

from blake3 import blake3

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import DiskFull, ObjectTooLarge, StoreFull
from gestalt_cas.files.layout import Layout
from gestalt_cas.rules import chunks
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_file
from gestalt_cas.system.platforms import begin_writing
from gestalt_cas.system.refusals import free_bytes, is_path_of, translated

log = logging.getLogger(__name__)

_GATHER_BYTES = 256 * 1024
_GATHER_PIECES = 64
_BEGIN_BYTES = 4 << 20
"""Bytes of an upload that are handed to the disk at a time while the rest still comes."""

Pieces = Iterable[bytes | bytearray | memoryview]


class Staged:
    """An upload that is complete, or being written; `discard` gives it up, whatever its state."""

    def __init__(self, name: str, fd: int, budget: StagingBudget) -> None:
        self.name = name
        self.inode = 0
        self.size = 0
        self.digest = b""
        self.sums = b""
        self._fd = fd
        self._budget = budget
        self._synced = False

    @property
    def path(self) -> Path:
        return Path(self.name)

    def discard(self) -> None:
        """Remove the staging name and let go of the file; published bytes stay. A second call does nothing.

        Never raises: what it is called for has been decided, and a name that stays behind is a cleaner's to remove.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            try:
                os.unlink(self.name)
            except FileNotFoundError:
                log.debug("a staging file was removed by somebody else: %s", self.name)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("the staging file %s stays behind: %s", self.name, error)
        self._budget.give_back(self.size)

    def write(self, pieces: list[memoryview]) -> None:
        """Append the pieces, whatever the kernel takes at a time."""
        pending = pieces
        while pending:
            written = os.writev(self._fd, pending)
            pending = _rest(pending, written)

    def begin_sync(self, begun: int) -> None:
        """Have the disk begin with what came after the first `begun` bytes, so that `sync` has less to wait for."""
        begin_writing(self._fd, begun, self.size - begun)

    def sync(self) -> None:
        """Wait until its bytes are on the disk; when that failed it must be discarded. A second call does nothing."""
        if not self._synced:
            with translated("syncing an upload"):
                sync_file(self._fd)
            self._synced = True

    def read(self) -> bytes:
        """The whole payload."""
        with translated("reading an upload"):
            return os.pread(self._fd, self.size, 0)


class Held:
    """An upload that is complete and small enough to be held in memory, for a row of its own."""

    def __init__(self, data: bytes, budget: StagingBudget) -> None:
        self.data = data
        self.size = len(data)
        self.digest = blake3(data).digest()
        self.sums = chunks.sums(data)
        self._budget: StagingBudget | None = budget

    def read(self) -> bytes:
        """The whole payload."""
        return self.data

    def discard(self) -> None:
        """Give its bytes back to the budget; a second call does nothing."""
        if self._budget is not None:
            self._budget.give_back(self.size)
            self._budget = None


class StagingBudget:
    """Counts the bytes of all uploads on their way in this process against the limits. Thread-safe."""

    def __init__(self, limits: Limits, directory: Path) -> None:
        self.limits = limits
        self._directory = directory
        self._lock = threading.Lock()
        self._taken = 0

    def take(self, object_size: int, count: int) -> None:
        """Count `count` more bytes of an object that then has `object_size`; raises when a limit is passed."""
        limits = self.limits
        if object_size > limits.max_object_bytes:
            raise ObjectTooLarge(f"the object is larger than limits.maxObjectBytes ({limits.max_object_bytes} bytes)")
        if limits.min_free_bytes and free_bytes(self._directory) - count < limits.min_free_bytes:
            raise DiskFull(f"less than limits.minFreeBytes ({limits.min_free_bytes} bytes) would stay free")
        with self._lock:
            if limits.max_staging_bytes and self._taken + count > limits.max_staging_bytes:
                raise StoreFull(
                    f"uploads on their way exceed limits.maxStagingBytes ({limits.max_staging_bytes} bytes)"
                )
            self._taken += count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._taken -= count


class Staging:
    """The staging directory of one store. Thread-safe; several processes may work on one directory."""

    def __init__(self, layout: Layout, limits: Limits) -> None:
        self._layout = layout
        self._prefix = f"{layout.staging}/{secrets.token_hex(8)}"
        self._doing = f"staging an upload below {layout.root}"
        self._numbers = count()
        # Asked once: it would be a look at the directory for each upload.
        self._make = ownership.make_file if ownership.gives_away(layout.staging) else _made
        self.budget = StagingBudget(limits, layout.root)

    def stage(self, pieces: Pieces) -> Staged:
        """Write the payload to a staging file of its own, hashing and summing as it comes; not synced yet.

        Holds only a few pieces at a time. Whatever `pieces` raises leaves no file behind; so do StoreFull,
        ObjectTooLarge and StorageFault. The caller discards the result in the end.
        """
        with translated(self._doing):
            staged = self._new_staging_file()
        try:
            self._fill(staged, pieces)
        except BaseException:
            staged.discard()
            raise
        return staged

    def hold(self, pieces: Pieces, most: int) -> Held | Staged:
        """Hold a payload of up to `most` bytes in memory, and stage a longer one. Raises what `stage` does."""
        coming = iter(pieces)
        held: list[bytes] = []
        size = 0
        for piece in coming:
            held.append(bytes(piece))
            size += len(piece)
            if size > most:
                return self.stage(chain(held, coming))
        data = b"".join(held)
        self.budget.take(size, size)
        try:
            return Held(data, self.budget)
        except BaseException:  # no memory left to sum it in
            self.budget.give_back(size)
            raise

    def clean(self, *, dry_run: bool = False) -> int:
        """Remove what dead writers left in staging; returns how many files. Live uploads are left alone.

        With `dry_run` they are only counted. A file that cannot be removed is logged: it may be another user's.
        """
        with translated("cleaning staging"):
            found = sorted(self._layout.staging.iterdir())
        removed = 0
        for path in found:
            try:
                removed += _remove_if_unheld(path, dry_run)
            except OSError as error:
                log.warning("the cut-off upload %s stays behind: %s", path.name, error)
        return removed

    def left(self) -> list[int]:
        """The sizes of the files in staging that `clean` would remove."""
        with translated("looking into staging"):
            sizes = (size_if_unheld(path) for path in sorted(self._layout.staging.iterdir()))
            return [size for size in sizes if size is not None]

    def _new_staging_file(self) -> Staged:
        while True:
            name = f"{self._prefix}{next(self._numbers):x}.part"
            # Read-only from the start: the descriptor of the creating call can write all the same.
            fd = self._make(name, os.O_RDWR, 0o400)
            try:
                staged = Staged(name, fd, self.budget)
            except BaseException:  # no memory left: nobody else knows of the file
                os.close(fd)
                os.unlink(name)
                raise
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                found = os.fstat(fd)
                staged.inode = found.st_ino
                if found.st_nlink:
                    return staged
            except BaseException:
                staged.discard()
                raise
            os.close(fd)  # a cleaner was between our open and our lock

    def _fill(self, staged: Staged, pieces: Pieces) -> None:
        hasher, summer = blake3(), chunks.ChunkSummer()
        begun = 0
        for group in _gathered(pieces):
            count = sum(len(piece) for piece in group)
            with translated(self._doing):
                self.budget.take(staged.size + count, count)
                staged.size += count
                staged.write(group)
            if staged.size - begun >= _BEGIN_BYTES:
                staged.begin_sync(begun)
                begun = staged.size
            for piece in group:
                hasher.update(piece)
                summer.update(piece)
        staged.digest, staged.sums = hasher.digest(), summer.digest()


def _made(path: str | Path, flags: int, mode: int) -> int:
    """`ownership.make_file` where nothing is to be given away."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def _gathered(pieces: Pieces) -> Iterator[list[memoryview]]:
    """Group small pieces, without copying them, so that one system call takes several.

    A piece that is not made of `bytes` ends its group: its owner may fill the buffer anew before giving the next one.
    """
    group: list[memoryview] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece).cast("B") if len(piece) else None
        if view is None:
            continue
        group.append(view)
        size += len(view)
        if size >= _GATHER_BYTES or len(group) >= _GATHER_PIECES or not isinstance(view.obj, bytes):
            yield group
            group, size = [], 0
    if group:
        yield group


def _rest(pieces: list[memoryview], written: int) -> list[memoryview]:
    """What is left of the pieces after their first `written` bytes."""
    for index, piece in enumerate(pieces):
        if written < len(piece):
            return [piece[written:], *pieces[index + 1 :]]
        written -= len(piece)
    return []


@contextlib.contextmanager
def _if_unheld(path: Path, lock: int) -> Iterator[int | None]:
    """Hold a staging file by `lock` for the block and give its descriptor; None unless that is possible at once.

    None also when the name has gone or stands for another file by now, and for what is no regular file: that was put
    there by somebody else, and is left to them.
    """
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW) if regular else -1
    except FileNotFoundError:
        fd = -1
    if fd < 0:
        yield None
        return
    try:
        yield fd if _locked(fd, lock) and is_path_of(path, fd) else None
    finally:
        os.close(fd)


def _locked(fd: int, lock: int) -> bool:
    try:
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_unheld(path: Path, dry_run: bool) -> bool:
    """Remove a staging file that nobody holds; returns whether it was removed, or would have been."""
    with _if_unheld(path, fcntl.LOCK_EX) as fd:
        if fd is not None and not dry_run:
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        return fd is not None


def size_if_unheld(path: Path) -> int | None:
    """The size in bytes of a staging file that nobody holds; None for any other. Raises OSError as open(2) does."""
    # Shared, so that two who look do not take each other for a writer.
    with _if_unheld(path, fcntl.LOCK_SH) as fd:
        return os.fstat(fd).st_size if fd is not None else None
