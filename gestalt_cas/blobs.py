"""The blob directory: one immutable, read-only file per payload, named by its BLAKE3-256.

    blobs/ab/abcd…   64 hex digits below their first two
    staging/*.part   an upload on its way, on the same file system, so that publishing is a link
    staging/*.link   a second name of one, for the instant of replacing an untrusted file

A staging file belongs to whoever holds flock on it, so leftovers can be told from live uploads, across processes. A
published file is never written again; only gc removes it. This module knows nothing of rows: whether an existing file
may be trusted is decided in `store.py`. Order and reasons: docs/design.md, "Writing" and "Removing".
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from pathlib import Path

from blake3 import blake3

from gestalt_cas import chunks
from gestalt_cas.config import Limits
from gestalt_cas.durability import is_full, sync_directory, sync_file
from gestalt_cas.errors import (
    BlobMissing,
    DigestMismatch,
    DiskFull,
    ObjectTooLarge,
    StorageFault,
    StoreError,
    StoreFull,
    TooManyStreams,
)
from gestalt_cas.layout import Layout
from gestalt_cas.quarantine import set_aside

log = logging.getLogger(__name__)

_GATHER_BYTES = 256 * 1024
_GATHER_PIECES = 64
_NAME_DIGITS = 64
_NO_RESOURCES = {errno.EMFILE, errno.ENFILE}
_NOT_REGULAR = {errno.ELOOP, errno.ENXIO}
"""What opening a symbolic link or a socket fails with."""


class Staged:
    """An upload that is complete and synced, or being written; `discard` gives it up, whatever its state."""

    def __init__(self, path: Path, fd: int, budget: StagingBudget) -> None:
        self.path = path
        self.size = 0
        self.digest = b""
        self.sums = b""
        self._fd = fd
        self._budget = budget

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def discard(self) -> None:
        """Remove the staging name and let go of the file; published bytes stay. A second call does nothing.

        Never raises: what it is called for has been decided, and a name that stays behind is a cleaner's to remove.
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            try:
                self.path.unlink(missing_ok=True)
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("the staging file %s stays behind: %s", self.path.name, error)
        self._budget.give_back(self.size)

    def write(self, pieces: list[memoryview]) -> None:
        """Append the pieces, whatever the kernel takes at a time."""
        pending = pieces
        while pending:
            written = os.writev(self._fd, pending)
            pending = _rest(pending, written)

    def sync(self) -> None:
        sync_file(self._fd)

    def read(self) -> bytes:
        """The whole payload."""
        with _translated("reading an upload"):
            return os.pread(self._fd, self.size, 0)


class Held:
    """An upload that is complete and small enough to be held in memory, for a row of its own."""

    def __init__(self, data: bytes, budget: StagingBudget) -> None:
        summer = chunks.ChunkSummer()
        summer.update(memoryview(data))
        self.data = data
        self.size = len(data)
        self.digest = blake3(data).digest()
        self.sums = summer.digest()
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


class Blobs:
    """Stages, publishes and opens payloads. Thread-safe; several processes may work on one directory."""

    def __init__(self, layout: Layout, limits: Limits) -> None:
        self._layout = layout
        self.budget = StagingBudget(limits, layout.root)

    def path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._layout.blobs / name[:2] / name

    def stage(self, pieces: Iterable[bytes | bytearray | memoryview]) -> Staged:
        """Write the payload to a staging file of its own, hashing and summing as it comes, and sync it.

        Holds only a few pieces at a time. Whatever `pieces` raises leaves no file behind; so do StoreFull,
        ObjectTooLarge and StorageFault. The caller discards the result in the end.
        """
        with _translated(f"staging an upload below {self._layout.root}"):
            staged = self._new_staging_file()
        try:
            self._fill(staged, pieces)
            with _translated("syncing an upload"):
                staged.sync()
        except BaseException:
            staged.discard()
            raise
        return staged

    def hold(self, pieces: Iterable[bytes | bytearray | memoryview], most: int) -> Held | Staged:
        """Hold a payload of up to `most` bytes in memory, and stage a longer one. Raises what `stage` does."""
        coming = iter(pieces)
        held: list[bytes] = []
        size = 0
        for piece in coming:
            held.append(bytes(piece))
            size += len(piece)
            if size > most:
                return self.stage(chain(held, coming))
        self.budget.take(size, size)
        return Held(b"".join(held), self.budget)

    def publish(self, staged: Staged) -> None:
        """Give the staged bytes their final name and sync that, replacing an untrusted file that stands there.

        Replacing is a rename of a second link, so the name never lacks a file. The staging name stays.
        """
        self.give_name(staged)
        self.sync_names(staged.digest[0])

    def give_name(self, staged: Staged) -> None:
        """`publish` without its sync: until `sync_names` nobody may rely on the name."""
        final = self.path(staged.digest)
        with _translated(f"publishing {final.name}"):
            try:
                os.link(staged.path, final)
            except FileExistsError:
                if not self.is_ours(staged):
                    self._replace(staged, final)

    def sync_names(self, first: int) -> None:
        """Wait until the names of the payloads whose digest begins with the byte `first` are on the disk."""
        directory = self._layout.blobs / f"{first:02x}"
        with _translated(f"publishing payloads {directory.name}"):
            sync_directory(directory)

    def is_ours(self, staged: Staged) -> bool:
        """Whether the final name stands for the very file that was staged."""
        found = self._status(staged.digest)
        with _translated("looking at an upload"):
            return found is not None and found.st_ino == staged.inode

    def has(self, digest: bytes, size: int) -> bool:
        """Whether a regular file of exactly `size` bytes stands under the digest's name; its bytes are not read."""
        found = self._status(digest)
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == size

    def open(self, digest: bytes, size: int, sums: bytes) -> BlobFile:
        """Open a payload for reading; it stays readable when gc removes its name.

        Raises BlobMissing when there is no file, DigestMismatch when it is not a regular file of `size` bytes.
        """
        path = self.path(digest)
        try:
            # Not blocking: a pipe that somebody put there must be found out, not waited for.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise BlobMissing(f"payload {path.name} is missing", digest=path.name) from None
        except OSError as error:
            if error.errno in _NOT_REGULAR:
                raise DigestMismatch(f"payload {path.name} is not a regular file", digest=path.name) from None
            if error.errno == errno.EIO:
                raise DigestMismatch(f"payload {path.name} cannot be read: {error}", digest=path.name) from error
            raise _fault(f"opening payload {path.name}", error) from error
        try:
            with _translated(f"looking at payload {path.name}"):
                found = os.fstat(fd)
        except StoreError:
            os.close(fd)
            raise
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            os.close(fd)
            raise DigestMismatch(f"payload {path.name} has {found.st_size} bytes instead of {size}", digest=path.name)
        return BlobFile(fd, path, size, sums)

    def listed(self, first: int) -> list[tuple[bytes, int]]:
        """The regular files named by a digest that begins with the byte `first`, each with its size in bytes."""
        found: list[tuple[bytes, int]] = []
        with _translated(f"listing payloads {first:02x}"), os.scandir(self._layout.blobs / f"{first:02x}") as entries:
            for entry in entries:
                digest = _digest_of(entry.name, first)
                if digest is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append((digest, status.st_size))
        return found

    def remove(self, digest: bytes) -> bool:
        """Remove the payload's name, for gc under write.lock; whoever reads the file goes on reading.

        Returns whether there was one. Raises when it stays, as a directory does; not synced, see `sync_removals`.
        """
        path = self.path(digest)
        with _translated(f"removing payload {path.name}"):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def removable(self, digest: bytes) -> bool:
        """Whether `remove` would find something that it can remove, for a dry run."""
        found = self._status(digest)
        return found is not None and not stat.S_ISDIR(found.st_mode)

    def sync_removals(self, digests: Iterable[bytes]) -> None:
        """Wait until no power cut can bring back the names of these payloads, which were removed."""
        for directory in sorted({self.path(digest).parent for digest in digests}):
            with _translated(f"syncing {directory.name}"):
                sync_directory(directory)

    def drop_quarantined(self, digests: Collection[bytes]) -> int:
        """Remove, durably, the copies of payloads that `check` has set aside; returns how many. Their notes go too."""
        names, quarantine, dropped = {digest.hex() for digest in digests}, self._layout.quarantine, 0
        if not names or not quarantine.is_dir():
            return 0
        with _translated("removing quarantined copies"):
            # Copies sort before their notes, so being cut off leaves notes without bytes.
            for path in sorted(path for path in quarantine.iterdir() if path.name.partition(".")[0] in names):
                path.unlink(missing_ok=True)
                dropped += path.suffix != ".json"
            sync_directory(quarantine)
        return dropped

    def clean_staging(self, *, dry_run: bool = False) -> int:
        """Remove what dead writers left in staging; returns how many files. Live uploads are left alone.

        With `dry_run` they are only counted. A file that cannot be removed is logged: it may be another user's.
        """
        with _translated("cleaning staging"):
            found = sorted(self._layout.staging.iterdir())
        removed = 0
        for path in found:
            try:
                removed += _remove_if_unheld(path, dry_run)
            except OSError as error:
                log.warning("the cut-off upload %s stays behind: %s", path.name, error)
        return removed

    def left_in_staging(self) -> list[int]:
        """The sizes of the files in staging that `clean_staging` would remove."""
        with _translated("looking into staging"):
            sizes = (_size_if_unheld(path) for path in sorted(self._layout.staging.iterdir()))
            return [size for size in sizes if size is not None]

    def _status(self, digest: bytes) -> os.stat_result | None:
        """What stands under the digest's name, links not followed; None when there is nothing."""
        path = self.path(digest)
        with _translated(f"looking at payload {path.name}"):
            try:
                return path.lstat()
            except FileNotFoundError:
                return None

    def _new_staging_file(self) -> Staged:
        while True:
            path = self._layout.staging / f"{secrets.token_hex(12)}.part"
            # Read-only from the start: the descriptor of the creating call can write all the same.
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            staged = Staged(path, fd, self.budget)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if _is_path_of(path, fd):
                    return staged
            except BaseException:
                staged.discard()
                raise
            os.close(fd)  # a cleaner was between our open and our lock

    def _fill(self, staged: Staged, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        hasher, summer = blake3(), chunks.ChunkSummer()
        for group in _gathered(pieces):
            count = sum(len(piece) for piece in group)
            with _translated(f"staging an upload below {self._layout.root}"):
                self.budget.take(staged.size + count, count)
                staged.size += count
                staged.write(group)
            for piece in group:
                hasher.update(piece)
                summer.update(piece)
        staged.digest, staged.sums = hasher.digest(), summer.digest()

    def _replace(self, staged: Staged, final: Path) -> None:
        second = staged.path.with_suffix(".link")
        os.link(staged.path, second)
        try:
            try:
                os.rename(second, final)
            except IsADirectoryError:
                # Nothing can be renamed over a directory, and it is not ours to remove.
                set_aside(self._layout, final, {"reason": "a directory under the name of a payload being written"})
                os.rename(second, final)
        finally:
            # A rename between two links of one inode does nothing and leaves both.
            second.unlink(missing_ok=True)


class BlobFile:
    """An open payload; reads are checked against the chunk sums before any byte is handed out."""

    def __init__(self, fd: int, path: Path, size: int, sums: bytes) -> None:
        self._fd = fd
        self._path = path
        self._digest = path.name
        self._size = size
        self._sums = sums

    def read(self, offset: int, length: int, buffer: memoryview | None = None) -> Iterator[memoryview]:
        """Yield the bytes from `offset` on, a verified piece of at most 1 MiB at a time.

        With a `buffer`, at least as long as the longest chunk, each piece is a part of it and overwritten by the next.
        Raises DigestMismatch instead of yielding a piece whose chunk does not have its sum.
        """
        end = offset + length
        index = offset // chunks.CHUNK_BYTES
        while offset < end:
            start = index * chunks.CHUNK_BYTES
            chunk = self._chunk(index, start, buffer)
            stop = min(end, start + len(chunk))
            yield chunk[offset - start : stop - start]
            offset = stop
            index += 1

    def still_named(self) -> bool:
        """Whether the payload's name stands for this very file; asked while it is open, so its inode is not reused."""
        with _translated(f"looking at payload {self._digest}"):
            return _is_path_of(self._path, self._fd)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _chunk(self, index: int, start: int, buffer: memoryview | None) -> memoryview:
        wanted = min(chunks.CHUNK_BYTES, self._size - start)
        try:
            if buffer is None:
                chunk = memoryview(os.pread(self._fd, wanted, start))
            else:
                chunk = buffer[: os.preadv(self._fd, [buffer[:wanted]], start)]
        except OSError as error:
            if error.errno == errno.EIO:
                raise DigestMismatch(
                    f"payload {self._digest}: chunk {index} cannot be read: {error}", digest=self._digest
                ) from error
            raise _fault(f"reading payload {self._digest}", error) from error
        if len(chunk) != wanted or not chunks.matches(chunk, index, self._sums):
            raise DigestMismatch(
                f"payload {self._digest} is damaged at bytes {start} to {start + wanted - 1}", digest=self._digest
            )
        return chunk


def free_bytes(directory: Path) -> int:
    """Bytes that this user may still write on the directory's file system."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _digest_of(name: str, first: int) -> bytes | None:
    """The digest that a file below the directory of `first` is named by; None for any other name."""
    if len(name) != _NAME_DIGITS or not name.startswith(f"{first:02x}"):
        return None
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if digest.hex() == name else None


def _gathered(pieces: Iterable[bytes | bytearray | memoryview]) -> Iterator[list[memoryview]]:
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


def _remove_if_unheld(path: Path, dry_run: bool) -> bool:
    """Remove a staging file if nobody holds its lock and the name still is the file that was locked.

    Returns whether it was removed, or would have been. What is no regular file was put there by somebody else, and is
    left to them.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_path_of(path, fd):
            return False
        if not dry_run:
            path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(fd)
    return True


def _size_if_unheld(path: Path) -> int | None:
    """The size of a staging file that nobody holds; None for one that is held, has gone, or is no regular file."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        # Shared, so that two who look do not take each other for a writer.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(fd).st_size if _is_path_of(path, fd) else None
    except BlockingIOError:
        return None
    finally:
        os.close(fd)


def _is_path_of(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn the operating system's refusals into the store's words."""
    try:
        yield
    except OSError as error:
        raise _fault(doing, error) from error


def _fault(doing: str, error: OSError) -> StoreError:
    if is_full(error):
        return DiskFull(f"the disk is full while {doing}")
    if error.errno in _NO_RESOURCES:
        return TooManyStreams(f"{doing} failed: {error.strerror}; fewer calls at once, or a higher limit, would help")
    return StorageFault(f"{doing} failed: {error.strerror or error}")
