"""Letting go of payloads that were kept for snapshots which have gone since.

When a snapshot goes nothing is looked for: it may have kept a million removed versions, and other snapshots may keep
them still. Garbage collection finds those that none keeps, in short views, each kept version once, and lets go of them
in small transactions. From then on their payloads are like any that no version reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from gestalt_cas.keeping import reachability, removals
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.keeping.removals import Kept
from gestalt_cas.operations.parts import Parts
from gestalt_cas.removal import soundness

BATCH_ROWS = 500
"""Versions that one transaction lets go of: some hundredths of a second."""


def release(parts: Parts, tell: Callable[[int], None]) -> None:
    """Let go of all of them; `tell` hears of how many versions so far. Where there are none nothing is committed.

    Works on a full disk.
    """
    released, sound = 0, soundness.Once(parts)
    for found in _unkept(parts):
        if found:
            sound.require()
        for start in range(0, len(found), BATCH_ROWS):
            released += parts.reserve.spend_on(partial(_let_go, parts, found[start : start + BATCH_ROWS]))
            tell(released)


def foreseen(parts: Parts) -> list[Garbage]:
    """The payloads that no version would reach after `release`, and that one reaches now."""
    digests = {one.digest for found in _unkept(parts) for one in found}
    garbage: list[Garbage] = []
    for digest in sorted(digests):
        with parts.database.read() as tx:
            if not reachability.references(tx, digest, 1):
                garbage += reachability.as_garbage(tx, digest)
    return garbage


def _unkept(parts: Parts) -> Iterator[list[Kept]]:
    after: int | None = -1
    while after is not None:
        with parts.database.read() as tx:
            found, after = removals.to_release(tx, after)
        yield found


def _let_go(parts: Parts, found: Sequence[Kept]) -> int:
    with parts.database.write() as tx:
        return removals.release(tx, found)
