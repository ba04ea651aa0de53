"""Ending an upload beyond a quota early: before its body is taken, or as soon as that is longer than what is left.

The judgement that counts is made at the commit (`quotas.charge`). This one spares the caller the sending and the disk
the bytes. It is wrong in neither direction: it looks at the quotas anew before it refuses anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gestalt_cas.keeping import quotas
from gestalt_cas.keeping.quotas import Quota
from gestalt_cas.objects import NULL_VERSION, ObjectKey
from gestalt_cas.operations.changes import resolve
from gestalt_cas.rows import settings, versions
from gestalt_cas.sql.sqlite import Connection

Piece = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Room:
    """How long a body may be at the moment, the quota that says so, and the command that raises that."""

    quota: Quota
    bytes: int
    remedy: str


def room(connection: Connection, key: ObjectKey) -> Room | None:
    """What the tightest quota of a key leaves for a body, in the transaction at hand; None when no quota applies.

    With versioning suspended the body takes the place of the null version's, so that much never makes the use grow.
    """
    if not quotas.any_stand(connection):
        return None
    target = resolve(connection, key)
    found = quotas.over(connection, target.bucket, target.key.encode())
    if not found:
        return None
    tightest = min(found, key=lambda quota: quota.left_bytes)
    replaced = versions.by_id(connection, target, NULL_VERSION) if settings.suspended(connection) else None
    left = max(tightest.left_bytes, 0) + (replaced.size if replaced is not None else 0)
    return Room(tightest, left, quotas.raised_by(connection, tightest))


SMALL_BYTES = 64 * 1024


def within(
    pieces: Iterable[Piece], announced: int, look: Callable[[], Room | None], *, seldom: bool = False
) -> Iterable[Piece]:
    """The pieces of a body, ended by QuotaExceeded as soon as they cannot fit; at once if the `announced` bytes cannot.

    `look` gives the room at the moment; `seldom` says that there is hardly a quota, so it is asked only for a body of
    over SMALL_BYTES.
    """
    if seldom and announced <= SMALL_BYTES:
        return _counted(pieces, SMALL_BYTES, look)
    found = look()
    if found is None:
        return pieces
    _refuse_beyond(found, announced)
    return _counted(pieces, found.bytes, look)


def _counted(pieces: Iterable[Piece], left: int, look: Callable[[], Room | None]) -> Iterator[Piece]:
    taken = 0
    limited = True
    for piece in pieces:
        taken += memoryview(piece).nbytes
        if limited and taken > left:
            found = look()
            limited = found is not None
            if found is not None:
                _refuse_beyond(found, taken)
                left = found.bytes
        yield piece


def _refuse_beyond(found: Room, count: int) -> None:
    if count > found.bytes:
        raise quotas.exceeded(found.quota, found.quota.used_bytes, count, found.remedy)
