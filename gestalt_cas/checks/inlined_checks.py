"""What an inlined payload's row holds, judged against what its row of `blobs` says: as `payload_files` does for files.

A look remembers the very bytes that it judged by their BLAKE3, so that whoever acts on it can make sure, under
write.lock, that the same bytes (or the same absence) still stand there.
"""

from __future__ import annotations

from dataclasses import replace

from blake3 import blake3

from gestalt_cas.files.payload_files import Expected, Identity, Look, judge
from gestalt_cas.rows import inlined
from gestalt_cas.rules import chunks
from gestalt_cas.sql.sqlite import Connection


def identity_of(connection: Connection, place: int) -> Identity | None:
    """What stands in the row now; None when there is none."""
    data = inlined.get(connection, place)
    return None if data is None else _identity(place, data)


def examine(connection: Connection, place: int, expected: Expected, *, read: bool) -> Look:
    """Judge the row at `place`; BLAKE3 and sums are compared when `read` says so, or when the size cannot be right."""
    name = expected.digest.hex()
    stored = inlined.length(connection, place)
    data = inlined.get(connection, place)
    if stored is None or data is None:
        text = f"payload {name} has no row {place} in inlined"
        return Look("missing", text, f"{expected.size} bytes", "nothing", place=place)
    identity = _identity(place, data)
    if stored < 0:
        text = f"row {place} of inlined, payload {name}, holds no bytes"
        return Look("bytes", text, "a BLOB", "another type", identity, place=place)
    if not (read or not chunks.fit(expected.sums, expected.size) or len(data) != expected.size):
        return Look("", identity=identity, place=place)
    summer = chunks.ChunkSummer()
    summer.update(memoryview(data))
    return replace(judge(expected, len(data), blake3(data).digest(), summer.digest(), identity), place=place)


def unreadable(place: int, expected: Expected, why: str) -> Look:
    """The row could not be read at all."""
    text = f"payload {expected.digest.hex()}, row {place} of inlined, cannot be read: {why}"
    return Look("unreadable", text, "", why, place=place)


def _identity(place: int, data: bytes) -> Identity:
    return -1, place, len(data), int.from_bytes(blake3(data).digest())
