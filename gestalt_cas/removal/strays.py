"""Rows of `inlined` that no payload names: found beside all other calls, removed under write.lock.

No transaction leaves one; a damaged or salvaged database may have some. They cannot be asked for by an index, so the
places that payloads name are gathered in short views, one bit for each, and compared with the rows. What seems to be
left over then is looked at again in the transaction that removes it. One whose bytes some version still needs, its
payload's row being what was lost, stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from gestalt_cas.keeping import reachability
from gestalt_cas.operations.parts import Parts
from gestalt_cas.removal import soundness
from gestalt_cas.rows import inlined
from gestalt_cas.sql.sqlite import Connection

log = logging.getLogger(__name__)

_FAN_OUT = 256
_PAGE = 4000
_MOST_CANDIDATES = 1000
_MOST_BITS = 1 << 33
"""A greater id was not given by this code, and its bit would take more memory than it is worth."""


def collect(parts: Parts) -> int:
    """Remove the rows that no payload names; returns how many. Those of one run are at most a thousand."""
    candidates = _candidates(parts)
    if not candidates:
        return 0
    soundness.require(parts)
    with parts.database.write() as tx:
        gone = [place for place in sorted(reachability.strays(tx, candidates)) if not _is_needed(tx, place)]
        for place in gone:
            reachability.drop_stray(tx, place)
    if gone:
        log.warning("removed %d rows of inlined that no payload named", len(gone))
    return len(gone)


def _candidates(parts: Parts) -> set[int]:
    """Rows that seem to be left over, and on second sight still do."""
    with parts.database.read() as tx:
        last = min(inlined.most(tx), _MOST_BITS)
    if not last:
        return set()
    named = bytearray((last >> 3) + 1)
    for first in range(_FAN_OUT):
        with parts.database.read() as tx:
            for place in reachability.places(tx, first):
                if 0 < place <= last:
                    named[place >> 3] |= 1 << (place & 7)
    found = {place for place in _rows(parts, last) if not named[place >> 3] >> (place & 7) & 1}
    with parts.database.read() as tx:
        return reachability.strays(tx, set(sorted(found)[:_MOST_CANDIDATES]))


def _rows(parts: Parts, last: int) -> Iterator[int]:
    after = 0
    while True:
        with parts.database.read() as tx:
            page = inlined.ids(tx, after, last, _PAGE)
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]


def _is_needed(tx: Connection, place: int) -> bool:
    digest = inlined.digest(tx, place)
    return digest is not None and reachability.is_reached(tx, digest)
