"""Letting go of payloads that were kept for snapshots which have gone since.

When a snapshot goes nothing is looked for: it may have kept a million removed versions, and other snapshots may keep
them still. Garbage collection finds those that none keeps, in short views, and lets go of them in small transactions.
From then on their payloads are like any that no version reaches. A run looks at each kept version once, and at none
under write.lock that it does not let go, but for those between two of one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gestalt_cas import reachability, removals
from gestalt_cas.parts import Parts
from gestalt_cas.reachability import Garbage


def release(parts: Parts, tell: Callable[[int], None]) -> None:
    """Let go of all of them; `tell` hears of how many versions so far. Where there are none nothing is committed.

    Works on a full disk.
    """
    released = 0
    for found in _unkept(parts, 1):
        released += parts.reserve.spend_on(partial(_release_from, parts, found[0][0]))
        tell(released)


def foreseen(parts: Parts) -> list[Garbage]:
    """The payloads that no version would reach after `release`, and that one reaches now."""
    digests = {digest for found in _unkept(parts, removals.RELEASED) for _, digest in found}
    garbage: list[Garbage] = []
    for digest in sorted(digests):
        with parts.database.read() as tx:
            if not reachability.references(tx, digest, 1):
                garbage += reachability.as_garbage(tx, digest)
    return garbage


def _unkept(parts: Parts, limit: int) -> Iterator[list[tuple[int, bytes]]]:
    """The versions to let go of, in views of at most `limit`: by which change each was removed, and its digest."""
    after = -1
    while True:
        with parts.database.read() as tx:
            found = removals.to_release(tx, after, limit)
        if not found:
            return
        yield found
        after = found[-1][0]


def _release_from(parts: Parts, gone_seq: int) -> int:
    with parts.database.write() as tx:
        return removals.release(tx, gone_seq - 1)
