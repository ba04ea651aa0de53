"""Walk sorted keys into one page of keys and common prefixes.

Keys, prefixes and delimiters are bytes (UTF-8), so the order is the byte order that S3 specifies and SQLite's BINARY
collation gives. A common prefix is the prefix plus everything up to and including the first delimiter after it; it is
one entry of the merged sequence, whatever the number of keys below it, and it is passed by seeking to the first key
after the whole group. So a page costs what it returns, not what it groups. Source: S3 API reference, ListObjectsV2;
contract 3.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

Row = tuple[bytes, int]
"""A current key and the sequence of its version."""
Seek = Callable[[bytes, int], Sequence[Row]]
"""seek(lower, limit): at most `limit` rows with key >= `lower` and within the prefix, in key order."""

FIRST_BATCH = 16
"""Rows fetched after a seek: enough to see whether a group is small, few enough to waste when it is not."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a listing stands: after a key, or (`group`) after every key that starts with `value`."""

    value: bytes
    group: bool = False

    @property
    def lower_bound(self) -> bytes | None:
        """The smallest key that may follow; None when none can."""
        return successor(self.value) if self.group else self.value + b"\0"


class Entry(NamedTuple):
    """One entry of a page: a key with the sequence of its version, or a common prefix (`seq` None)."""

    name: bytes
    seq: int | None

    @property
    def position(self) -> Position:
        return Position(self.name, group=self.seq is None)


def successor(prefix: bytes) -> bytes | None:
    """The smallest byte string greater than every one that starts with `prefix`; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def start_position(start_after: bytes, prefix: bytes, delimiter: bytes) -> Position | None:
    """The position that `start_after` names, which is exclusive; None when it is empty.

    Below the prefix and ending in the delimiter it names a group and leaves all of it out. The prefix itself is no
    group: starting after `docs/` with the prefix `docs/` passes the folder's marker only.
    """
    if not start_after:
        return None
    below = len(start_after) > len(prefix) and start_after.startswith(prefix)
    return Position(start_after, group=bool(delimiter) and below and start_after.endswith(delimiter))


def walk(seek: Seek, prefix: bytes, delimiter: bytes, after: Position | None, limit: int) -> tuple[list[Entry], bool]:
    """Return at most `limit` entries after the position `after`, and whether at least one more follows.

    One row beyond the page is looked at, never a whole group. The batch fetched at once doubles while enough of its
    rows are entries and falls back when they are not, so that a listing of plain keys takes few statements and a
    listing of large groups reads few rows that it does not show: at most some 24 for each entry,
    whatever the keys.
    """
    lower: bytes | None = prefix
    if after is not None:
        bound = after.lower_bound
        lower = None if bound is None else max(prefix, bound)
    entries: list[Entry] = []
    batch = limit + 1 if not delimiter else min(FIRST_BATCH, limit + 1)
    while lower is not None:
        rows = seek(lower, batch)
        before = len(entries)
        skip: bytes | None = None
        for key, seq in rows:
            if skip is not None and key.startswith(skip):
                continue
            if len(entries) == limit:
                return entries, True
            skip = _group(key, prefix, delimiter)
            entries.append(Entry(key, seq) if skip is None else Entry(skip, None))
        if len(rows) < batch:
            break
        last = rows[-1][0]
        lower = last + b"\0" if skip is None else successor(skip)
        batch = _next_batch(len(rows), len(entries) - before, limit)
    return entries, False


def resuming(entries: Sequence[Entry], walked_to: bytes) -> Position:
    """Where a walk that was cut after the key `walked_to`, behind all of these entries, goes on."""
    last = entries[-1] if entries else None
    if last is not None and last.seq is None and walked_to.startswith(last.name):
        return last.position
    return Position(walked_to)


def runs(entries: Sequence[Entry]) -> Iterator[tuple[bytes, bytes]]:
    """The first and last key of each run of keys that no common prefix interrupts: ranges without any other key."""
    for keys, run in groupby(entries, key=lambda entry: entry.seq is not None):
        if keys:
            names = [entry.name for entry in run]
            yield names[0], names[-1]


def _next_batch(rows: int, entries: int, limit: int) -> int:
    """Double if more than an eighth of the rows were entries, else start small again.

    Only the yield tells: a batch can end in a small group and still consist of a few large ones.
    """
    return min(rows * 2 if entries * 8 > rows else FIRST_BATCH, limit + 1)


def _group(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter:
        return None
    found = key.find(delimiter, len(prefix))
    return None if found < 0 else key[: found + len(delimiter)]
