"""What differs between two moments: keys that were added, changed or deleted.

Costs what changed in between, not what the store holds: the keys of which a version came or went are found by the
sequences of changes, and each is looked up at both moments. What is compared is what a reader gets, payload, headers
and metadata, so a key that was changed and changed back is no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gestalt_cas.objects import ObjectKey, ObjectVersion
from gestalt_cas.rows import history, moments
from gestalt_cas.rows.moments import Moment
from gestalt_cas.rules import listing
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.transactions.database import Database

Kind = Literal["added", "changed", "deleted"]
_VIEW_KEYS = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """One key: what it had at the first moment and at the second, None for nothing or a delete marker."""

    key: ObjectKey
    before: ObjectVersion | None
    after: ObjectVersion | None

    @property
    def kind(self) -> Kind:
        """What became of the key between the two moments."""
        if self.before is None:
            return "added"
        return "deleted" if self.after is None else "changed"


def between(database: Database, bucket: str, prefix: bytes, since: Moment, until: Moment) -> Iterator[Difference]:
    """The differences below a prefix of `bucket` (a real name), in byte order of the keys.

    Keys that changed in between are held in memory. Read in short views; raises what `moments.resolve` raises when a
    moment is lost on the way.
    """
    keys = _changed(database, bucket, prefix, since, until)
    for start in range(0, len(keys), _VIEW_KEYS):
        with database.read() as tx:
            _still_known(tx, bucket, prefix, since, until)
            found = [compare(tx, bucket, key, since.seq, until.seq) for key in keys[start : start + _VIEW_KEYS]]
        yield from (difference for difference in found if difference is not None)


def compare(connection: Connection, bucket: str, key: bytes, since: int, until: int) -> Difference | None:
    """What became of one key between two sequences; None when a reader of both finds the same."""
    before, after = (_object(history.at(connection, bucket, key, seq)) for seq in (since, until))
    if _same(before, after):
        return None
    return Difference(ObjectKey(bucket, key.decode()), before, after)


def _changed(database: Database, bucket: str, prefix: bytes, since: Moment, until: Moment) -> list[bytes]:
    first, last = sorted((since.seq, until.seq))
    with database.read() as tx:
        _still_known(tx, bucket, prefix, since, until)
        return sorted(set(history.changed(tx, bucket, prefix, listing.successor(prefix), first, last)))


def _still_known(tx: Connection, bucket: str, prefix: bytes, *known: Moment) -> None:
    for moment in known:
        moments.resolve(tx, moment, bucket, prefix)


def _object(version: ObjectVersion | None) -> ObjectVersion | None:
    return None if version is None or version.delete_marker else version


def _same(one: ObjectVersion | None, other: ObjectVersion | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.seq == other.seq:
        return True
    # Of a purged version nothing is known that could be compared.
    return bool(one.digest) and (one.digest, one.headers, one.metadata) == (other.digest, other.headers, other.metadata)
