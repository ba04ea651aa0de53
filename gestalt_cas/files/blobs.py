"""The blob directory: one immutable, read-only file per payload, named by its BLAKE3-256.

    blobs/ab/abcd…   64 hex digits below their first two
    staging/*.link   a second name of a staged file (`staging.py`), for the instant of replacing an untrusted one

A published file is never written again; only gc removes it. This module knows nothing of rows: whether an existing file
may be trusted is decided in `payloads.py`. Order and reasons: docs/design.md, "Writing" and "Removing".
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import BlobMissing, DigestMismatch, InvalidArgument, StoreError
from gestalt_cas.files.layout import FAN_OUT, Layout
from gestalt_cas.files.quarantine import set_aside
from gestalt_cas.files.staging import Held, Pieces, Staged, Staging
from gestalt_cas.rules import chunks
from gestalt_cas.system.durability import sync_directory
from gestalt_cas.system.refusals import fault, is_path_of, translated

_NAME_DIGITS = 64
_NOT_REGULAR = {errno.ELOOP, errno.ENXIO}
"""What opening a symbolic link or a socket fails with."""


class Blobs:
    """Stages, publishes and opens payloads. Thread-safe; several processes may work on one directory."""

    def __init__(self, layout: Layout, limits: Limits) -> None:
        self._layout = layout
        place = str(layout.blobs)
        self._fan_out = [f"{place}/{name}" for name in FAN_OUT]
        self.staging = Staging(layout, limits)

    def path(self, digest: bytes) -> Path:
        return Path(self._name(digest))

    def _name(self, digest: bytes) -> str:
        """`path` as text: making a Path costs more than many a system call."""
        return f"{self._fan_out[digest[0]]}/{digest.hex()}"

    def stage(self, pieces: Pieces) -> Staged:
        """Write the payload to a staging file of its own; see `Staging.stage`."""
        return self.staging.stage(pieces)

    def hold(self, pieces: Pieces, most: int) -> Held | Staged:
        """Hold a payload of up to `most` bytes in memory, and stage a longer one. Raises what `stage` does."""
        return self.staging.hold(pieces, most)

    def publish(self, staged: Staged) -> None:
        """Give the staged bytes their final name and sync both, replacing an untrusted file that stands there.

        The staging name stays. The name comes before the sync of its bytes: nobody trusts it without a row, and one
        commit of the file system's journal then serves both.
        """
        self._take_name(staged)
        staged.sync()
        self.sync_names(staged.digest[0])

    def give_name(self, staged: Staged) -> None:
        """Sync the staged bytes, then give them their name; until `sync_names` nobody may rely on it."""
        staged.sync()
        self._take_name(staged)

    def _take_name(self, staged: Staged) -> None:
        """Link the staged file to its final name; what may be another writer's is replaced by synced bytes only."""
        final = self._name(staged.digest)
        with translated("publishing a payload"):
            try:
                os.link(staged.name, final)
            except FileExistsError:
                staged.sync()
                if not self.is_ours(staged):
                    self._replace(staged, Path(final))

    def sync_names(self, first: int) -> None:
        """Wait until the names of the payloads whose digest begins with the byte `first` are on the disk."""
        with translated(f"publishing payloads {first:02x}"):
            sync_directory(self._fan_out[first])

    def is_ours(self, staged: Staged) -> bool:
        """Whether the final name stands for the very file that was staged."""
        found = self._status(staged.digest)
        return found is not None and found.st_ino == staged.inode

    def has(self, digest: bytes, size: int) -> bool:
        """Whether a regular file of exactly `size` bytes stands under the digest's name; its bytes are not read."""
        found = self._status(digest)
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == size

    def open(self, digest: bytes, size: int, sums: bytes) -> BlobFile:
        """Open a payload for reading; it stays readable when gc removes its name.

        Raises BlobMissing when there is no file, DigestMismatch when it is not a regular file of `size` bytes.
        """
        path, name = self._name(digest), digest.hex()
        try:
            # Not blocking: a pipe that somebody put there must be found out, not waited for.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise BlobMissing(f"payload {name} is missing", digest=name) from None
        except OSError as error:
            if error.errno in _NOT_REGULAR:
                raise DigestMismatch(f"payload {name} is not a regular file", digest=name) from None
            if error.errno == errno.EIO:
                raise DigestMismatch(f"payload {name} cannot be read: {error}", digest=name) from error
            raise fault(f"opening payload {name}", error) from error
        try:
            with translated("looking at a payload"):
                found = os.fstat(fd)
        except StoreError:
            os.close(fd)
            raise
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            os.close(fd)
            raise DigestMismatch(f"payload {name} has {found.st_size} bytes instead of {size}", digest=name)
        return BlobFile(fd, path, name, size, sums)

    def listed(self, first: int) -> list[tuple[bytes, int]]:
        """The regular files named by a digest that begins with the byte `first`, each with its size in bytes."""
        found: list[tuple[bytes, int]] = []
        with translated(f"listing payloads {first:02x}"), os.scandir(self._fan_out[first]) as entries:
            for entry in entries:
                digest = digest_of(entry.name, first)
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
        with translated(f"removing payload {path.name}"):
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
            with translated(f"syncing {directory.name}"):
                sync_directory(directory)

    def drop_quarantined(self, digests: Collection[bytes]) -> int:
        """Remove, durably, the copies of payloads that `check` has set aside; returns how many. Their notes go too."""
        names, quarantine, dropped = {digest.hex() for digest in digests}, self._layout.quarantine, 0
        if not names or not quarantine.is_dir():
            return 0
        with translated("removing quarantined copies"):
            # Copies sort before their notes, so being cut off leaves notes without bytes.
            for path in sorted(path for path in quarantine.iterdir() if path.name.partition(".")[0] in names):
                path.unlink(missing_ok=True)
                dropped += path.suffix != ".json"
            sync_directory(quarantine)
        return dropped

    def _status(self, digest: bytes) -> os.stat_result | None:
        """What stands under the digest's name, links not followed; None when there is nothing."""
        name = self._name(digest)
        with translated("looking at a payload"):
            try:
                return os.lstat(name)
            except FileNotFoundError:
                return None

    def _replace(self, staged: Staged, final: Path) -> None:
        second = Path(staged.name).with_suffix(".link")
        os.link(staged.name, second)
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

    def __init__(self, fd: int, path: str, digest: str, size: int, sums: bytes) -> None:
        self._fd = fd
        self._path = path
        self._digest = digest
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
        with translated(f"looking at payload {self._digest}"):
            return is_path_of(self._path, self._fd)

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _chunk(self, index: int, start: int, buffer: memoryview | None) -> memoryview:
        wanted = min(chunks.CHUNK_BYTES, self._size - start)
        if self._fd < 0:
            raise InvalidArgument("the reader has been closed")
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
            raise fault(f"reading payload {self._digest}", error) from error
        if len(chunk) != wanted or not chunks.matches(chunk, index, self._sums):
            raise DigestMismatch(
                f"payload {self._digest} is damaged at bytes {start} to {start + wanted - 1}", digest=self._digest
            )
        return chunk


def digest_of(name: str, first: int) -> bytes | None:
    """The digest that a file below the directory of `first` is named by; None for any other name."""
    if len(name) != _NAME_DIGITS or not name.startswith(f"{first:02x}"):
        return None
    try:
        digest = bytes.fromhex(name)
    except ValueError:
        return None
    return digest if digest.hex() == name else None
