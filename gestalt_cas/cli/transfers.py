"""Move one object's bytes between the store and a local file, checking them on the way. No printing.

Downloads hash what they write and compare with the version's digest before anybody may use it: the store checks chunks
as it reads, this checks the whole. Uploads stream; a file that is written to meanwhile is stored as it was read, and
said to have changed.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, BinaryIO

from gestalt_cas.errors import DigestMismatch
from gestalt_cas.objects import NO_CONDITIONS, NO_HEADERS, Conditions, Headers, ObjectKey, ObjectVersion

if TYPE_CHECKING:
    from gestalt_cas.store import ObjectReader, Store

Advance = Callable[[int], None]
"""Called with the number of bytes that were moved."""

BLOCK_BYTES = 1 << 20
_COMPRESSED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is stored beside the bytes. With `guess` an absent content type is guessed from the file's name."""

    headers: Headers = NO_HEADERS
    metadata: Mapping[str, str] = field(default_factory=dict)
    conditions: Conditions = NO_CONDITIONS
    guess: bool = True

    def headers_for(self, name: str) -> Headers:
        """The headers of an object that was a file of this name."""
        if self.headers.content_type or not self.guess:
            return self.headers
        return self.headers._replace(content_type=guessed_type(name))


@cache
def _types() -> mimetypes.MimeTypes:
    return mimetypes.MimeTypes()


def guessed_type(name: str) -> str:
    """The content type for a file name, "" when nothing is known; the same on every machine.

    A compressed file is what its last suffix says: `a.tar.gz` is gzip, not a tar that happens to be encoded, or
    browsers would unpack what was meant to be kept.
    """
    kind, encoding = _types().guess_type(name.rpartition("/")[2])
    if encoding is not None:
        return _COMPRESSED.get(encoding, "application/octet-stream")
    return kind or ""


def upload(
    store: Store, key: ObjectKey, file: BinaryIO, name: str, attributes: Attributes, advance: Advance
) -> tuple[ObjectVersion, bool]:
    """Store what is left of an open file; returns the version, and whether the file changed while it was read.

    `name` is what the content type is guessed from. Raises what Store.write and reading the file raise.
    """
    before = os.fstat(file.fileno())
    version = store.write(
        key,
        _blocks(file, advance),
        headers=attributes.headers_for(name),
        metadata=attributes.metadata,
        conditions=attributes.conditions,
    )
    return version, _changed(before, os.fstat(file.fileno()), version.size)


def _blocks(file: BinaryIO, advance: Advance) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block
        advance(len(block))


def _changed(before: os.stat_result, after: os.stat_result, size: int) -> bool:
    """Whether a regular file was written to meanwhile, by its size and time of change; a pipe has neither."""
    if not stat.S_ISREG(before.st_mode):
        return False
    return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != before.st_size


def download(reader: ObjectReader, file: BinaryIO, advance: Advance) -> None:
    """Write the reader's bytes to an open file and flush it.

    Raises Damage when they are not what was stored; what was written is then not to be used.
    """
    from blake3 import blake3

    whole = reader.length == reader.version.size
    hasher = blake3()
    for chunk in reader:
        file.write(chunk)
        if whole:
            hasher.update(chunk)
        advance(len(chunk))
    file.flush()
    version = reader.version
    if whole and hasher.hexdigest() != version.digest:
        raise DigestMismatch(
            f"{version.key}, version {version.version_id}: the bytes have another BLAKE3 than {version.digest}",
            digest=version.digest,
        )
