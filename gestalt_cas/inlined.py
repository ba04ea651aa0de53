"""Payloads that are rows: small ones, kept in the database, so that storing them durably is the one sync of COMMIT.

`blobs.place` names the row of `inlined`; such a payload takes no file and no inode. It is deduplicated, copied, checked
and collected like any other. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import Integer, delete, insert, select

from gestalt_cas import chunks, schema
from gestalt_cas.errors import BlobMissing, DigestMismatch
from gestalt_cas.sqlite import Connection
from gestalt_cas.statements import Prepared, parameter

_c = schema.inlined.c
_PUT = Prepared(insert(schema.inlined).values(data=parameter("data")).returning(_c.id))
_GET = Prepared(select(_c.data).where(_c.id == parameter("place", Integer)))
_PUT_AT = Prepared(
    insert(schema.inlined).prefix_with("OR REPLACE").values(id=parameter("place"), data=parameter("data"))
)
_REMOVE = Prepared(delete(schema.inlined).where(_c.id == parameter("place", Integer)))


def put(connection: Connection, data: bytes) -> int:
    """Add a payload; returns its place, above 0."""
    return int(_PUT(connection, data=data)[0][0])


def get(connection: Connection, place: int) -> bytes | None:
    """The payload at a place; None when there is none."""
    rows = _GET(connection, place=place)
    return bytes(rows[0][0]) if rows else None


def holds(connection: Connection, place: int, size: int) -> bool:
    """Whether a payload of exactly `size` bytes is at the place."""
    data = get(connection, place)
    return data is not None and len(data) == size


def replace(connection: Connection, place: int, data: bytes) -> None:
    """Put sound bytes where damaged ones are, or none."""
    _PUT_AT(connection, place=place, data=data)


def remove(connection: Connection, place: int) -> None:
    """Remove the payload at a place."""
    _REMOVE(connection, place=place)


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
