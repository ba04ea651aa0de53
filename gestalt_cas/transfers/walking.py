"""The files below a local directory, listed in the byte order of names: the order in which the store lists keys.

So the two sides of a transfer are merged while they are read, and neither is ever held in memory. Each directory is
read whole when its turn comes; what changes meanwhile is missing, or `Unusable`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from blake3 import blake3

from gestalt_cas.objects import MAX_KEY_BYTES
from gestalt_cas.transfers.directories import Directory, Inode, Kind, inode, joined, kind_of
from gestalt_cas.transfers.paths import Parts

_HASH_BLOCK = 8 << 20
_PARALLEL_FROM = 1 << 20


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A regular file below the directory; `size` is in bytes, when it was listed."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something that is no transferable file: a link, a device, or a directory that cannot be entered."""

    name: str
    reason: str
    directory: bool = False


Entry = LocalFile | Unusable


def walk(tree: Directory) -> Iterator[Entry]:
    """Yield every entry below the directory that is not a directory itself, in the byte order of the names.

    A directory sorts as its name with a `/` behind, as its keys do.
    """
    pending = [_listed(tree, ())]
    above: list[bytes] = []
    lineage = [inode(tree.own_status())]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            lineage.pop()
            del above[-1:]
            continue
        parts, status = (*above, found[0]), found[1]
        if status is None or not stat.S_ISDIR(status.st_mode):
            yield _entry(parts, status)
            continue
        try:
            closed = _closed(tree, parts, status, lineage)
            inside = None if closed else _listed(tree, parts)
        except OSError as error:
            closed, inside = error.strerror or str(error), None
        if inside is None:
            yield Unusable(joined(parts), closed, directory=True)
            continue
        pending.append(inside)
        lineage.append(inode(status))
        above.append(found[0])


def _listed(tree: Directory, parts: Parts) -> Iterator[tuple[bytes, os.stat_result | None]]:
    return iter(sorted(tree.entries(parts), key=_walking_order))


def _walking_order(found: tuple[bytes, os.stat_result | None]) -> bytes:
    name, status = found
    return name + b"/" if status is not None and stat.S_ISDIR(status.st_mode) else name


def _closed(tree: Directory, parts: Parts, status: os.stat_result, lineage: list[Inode]) -> str:
    """Why a directory is not entered; "" when it is."""
    if tree.is_store(status):
        return str(Kind.STORE)
    if inode(status) in lineage:
        return "a loop: it leads to a directory above itself"
    if len(b"/".join(parts)) > MAX_KEY_BYTES:
        return f"its path is longer than a key may be ({MAX_KEY_BYTES} bytes)"
    return ""


def _entry(parts: Parts, status: os.stat_result | None) -> Entry:
    name = joined(parts)
    if status is None:
        return Unusable(name, "it cannot be looked at, or vanished meanwhile")
    if not stat.S_ISREG(status.st_mode):
        return Unusable(name, str(kind_of(status)))
    return LocalFile(name, status.st_size)


def digest_of(file: BinaryIO, advance: Callable[[int], None] = lambda _: None) -> str:
    """The BLAKE3 hex digest of an open file's bytes, from its position on; `advance` is told the bytes as they go.

    Read in blocks rather than mapped: a file that shrinks while it is mapped kills the process with SIGBUS.
    """
    size = os.fstat(file.fileno()).st_size
    hasher = blake3(max_threads=blake3.AUTO if size >= _PARALLEL_FROM else 1)
    block = memoryview(bytearray(max(min(size, _HASH_BLOCK), 4096)))
    while count := file.readinto(block):  # type: ignore[attr-defined]
        hasher.update(block[:count])
        advance(count)
    return hasher.hexdigest()
