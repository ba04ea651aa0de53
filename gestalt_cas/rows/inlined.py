"""Payloads that are rows: small ones, kept in the database, so that storing them durably is the one sync of COMMIT.

`blobs.place` names the row of `inlined`; such a payload takes no file and no inode. It is deduplicated, copied, checked
and collected like any other. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from blake3 import blake3

from gestalt_cas.errors import BlobMissing, DigestMismatch
from gestalt_cas.rules import chunks
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

MOST_BYTES = chunks.CHUNK_BYTES
"""The largest payload that may be a row: an upload of that size is held in memory, and SQLite reads it as a whole."""

_PUT = Prepared("INSERT INTO inlined (data) VALUES (:data)")
# Whatever a damaged row holds comes as bytes, to be compared with its sums.
_GET = Prepared("SELECT CAST(data AS BLOB) FROM inlined WHERE id = :place")
# The length of a BLOB is in the row's header: its bytes are not read.
_LENGTH = Prepared("SELECT length(data), typeof(data) FROM inlined WHERE id = :place")
_PUT_AT = Prepared("INSERT OR REPLACE INTO inlined (id, data) VALUES (:place, :data)")
_MOST = Prepared("SELECT coalesce(max(id), 0) FROM inlined")
_IDS = Prepared("SELECT id FROM inlined WHERE id > :after AND id <= :last ORDER BY id LIMIT :limit")


def put(connection: Connection, data: bytes) -> int:
    """Add a payload; returns its place, above 0."""
    return _PUT.insert(connection, data=data)


def get(connection: Connection, place: int) -> bytes | None:
    """The payload at a place; None when there is none."""
    rows = _GET(connection, place=place)
    return bytes(rows[0][0]) if rows else None


def holds(connection: Connection, place: int, size: int) -> bool:
    """Whether a payload of exactly `size` bytes is at the place; its bytes are not read."""
    return length(connection, place) == size


def length(connection: Connection, place: int) -> int | None:
    """The size of the payload at a place; None when there is none, -1 when it is no BLOB."""
    rows = _LENGTH(connection, place=place)
    return None if not rows else int(rows[0][0]) if rows[0][1] == "blob" else -1


def replace(connection: Connection, place: int, data: bytes) -> None:
    """Put sound bytes where damaged ones are, or none."""
    _PUT_AT(connection, place=place, data=data)


def most(connection: Connection) -> int:
    """The greatest id of a row; 0 when there is none."""
    return int(_MOST(connection)[0][0])


def ids(connection: Connection, after: int, last: int, limit: int) -> array[int]:
    """The ids of at most `limit` rows, after `after` (exclusive) and up to `last`, in order."""
    return array("q", (row[0] for row in _IDS(connection, after=after, last=last, limit=limit)))


def digest(connection: Connection, place: int) -> bytes | None:
    """The BLAKE3-256 of the bytes at a place; None when there is none."""
    data = get(connection, place)
    return None if data is None else blake3(data).digest()


class InlinedBlob:
    """A payload read from its row; the same as `blobs.BlobFile` to whoever reads it."""

    def __init__(self, data: bytes, digest: str, sums: bytes, again: Callable[[], bytes | None]) -> None:
        self._data = data
        self._digest = digest
        self._sums = sums
        self._again = again

    def read(self, offset: int, length: int, buffer: memoryview | None = None) -> Iterator[memoryview]:  # noqa: ARG002
        """Yield the bytes from `offset` on, a verified piece of at most 1 MiB at a time; needs no `buffer`."""
        end = offset + length
        whole = memoryview(self._data)
        while offset < end:
            index = offset // chunks.CHUNK_BYTES
            start = index * chunks.CHUNK_BYTES
            chunk = whole[start : start + chunks.CHUNK_BYTES]
            if not chunks.matches(chunk, index, self._sums):
                raise DigestMismatch(
                    f"payload {self._digest} is damaged at bytes {start} to {start + len(chunk) - 1}",
                    digest=self._digest,
                )
            stop = min(end, start + len(chunk))
            yield chunk[offset - start : stop - start]
            offset = stop

    def still_named(self) -> bool:
        """Whether the row still holds these very bytes."""
        return self._again() == self._data

    def close(self) -> None:
        """Nothing is held open."""


def opened(
    connection: Connection, place: int, digest: str, size: int, sums: bytes, again: Callable[[], bytes | None]
) -> InlinedBlob:
    """The payload at a place, for reading after the transaction; `again` reads the row anew.

    Raises BlobMissing when there is no row, DigestMismatch when it does not hold `size` bytes.
    """
    data = get(connection, place)
    if data is None:
        raise BlobMissing(f"payload {digest} is missing from the database", digest=digest)
    if len(data) != size:
        raise DigestMismatch(f"payload {digest} has {len(data)} bytes instead of {size}", digest=digest)
    return InlinedBlob(data, digest, sums, again)
