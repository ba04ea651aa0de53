"""Before upkeep removes anything: that no row stands which no write stores, and which might say what is to be kept.

What is kept is decided by comparing: digests with digests, times with times, a snapshot's prefix with keys. A value of
another type makes such a comparison come out odd without a word: text sorts above every number, a snapshot whose prefix
is a text covers no key, a version whose digest has become NULL keeps no payload. So garbage collection, retention and
dropping what the history knows look through the rows that they judge by first, and remove nothing while one is damaged;
`check` names them all. Only a run that has found something to remove pays for it: a second of processor time for a
million versions, in short views.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from gestalt_cas.errors import DatabaseDamaged
from gestalt_cas.files.layout import FAN_OUT
from gestalt_cas.keeping import reachability
from gestalt_cas.operations.parts import Parts
from gestalt_cas.remedies import command
from gestalt_cas.rows import settings
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.wrong_values import lost_digests, value_rules, wrong_rows

_DECIDING = ("counter", "settings", "snapshots", "holds")
"""The small tables that decide what stays, beside `versions`."""
_AFTER = "WHERE (bucket, key, seq) > (CAST(? AS TEXT), ?, ?)"
# After types and ranges, versions whose payload cannot be told: its bytes may be those that seem to be nobody's.
_WRONG = f"""
    SELECT CAST(bucket AS BLOB), key, seq, ({value_rules.is_fine("versions")}) IS NOT TRUE, lost FROM (
        SELECT *, {lost_digests.no_marker("versions")} AS lost FROM versions {{after}} ORDER BY bucket, key, seq LIMIT ?
    )
    WHERE ({value_rules.is_fine("versions")}) IS NOT TRUE
    OR lost IS NOT NULL
    OR (digest IS NOT NULL AND length(digest) <> 32)
    OR (gone_seq IS NULL) <> (gone_ms IS NULL) OR gone_seq <= seq OR gone_ms < commit_ms
    OR (gone_digest IS NOT NULL AND (gone_seq IS NULL OR digest IS NOT NULL OR length(gone_digest) NOT IN (0, 32)))
    LIMIT 1
"""
_END = """
    SELECT CAST(bucket AS BLOB), key, seq FROM versions {after} ORDER BY bucket, key, seq LIMIT 1 OFFSET ?
"""
# In the order of digests, in which rows and payloads lie side by side: by keys each would be sought on another page.
_NOWHERE = """
    SELECT CAST(bucket AS BLOB), key, seq FROM versions INDEXED BY versions_by_digest
    WHERE digest >= ? AND digest < ? AND NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.digest = versions.digest) LIMIT 1
"""
_SLICES = [reachability.bounds(first) for first in range(len(FAN_OUT))]
"""Digests that one view looks at, from a lower bound (inclusive) to an upper one (exclusive)."""
_Place = tuple[()] | tuple[bytes, bytes, int]
View = Callable[[], AbstractContextManager[Connection]]


class Once:
    """`require` for work that may come to nothing: called whenever there is something to remove, it looks once."""

    def __init__(self, parts: Parts, view: View | None = None) -> None:
        self._parts = parts
        self._view = view
        self._looked = False

    def require(self) -> None:
        """Raise what `require` raises, unless it has been asked and raised nothing."""
        if not self._looked:
            require(self._parts, self._view)
            self._looked = True


def require(parts: Parts, view: View | None = None) -> None:
    """Raise DatabaseDamaged, naming a row, if one of those that decide what stays is none that a write stores.

    `view` is for who judges all in one view of its own; without it the rows are looked through in short ones.
    """
    view = view or parts.database.read
    for table in _DECIDING:
        place: value_rules.Place | None = value_rules.START
        while place is not None:
            with view() as tx:
                found = value_rules.look(tx, table, place)
            for wrong in found.wrong:
                if table != "settings" or wrong.row in settings.FIELDS:  # a note decides nothing
                    raise _refusal(parts, str(wrong))
            place = found.place
    after: _Place | None = ()
    while after is not None:
        with view() as tx:
            what, after = _stretch(tx, after)
        if what:
            raise _refusal(parts, what)
    for digests in _SLICES:
        with view() as tx:
            lost = tx.execute(_NOWHERE, digests).fetchall()
        if lost:
            raise _refusal(parts, _untold(*lost[0]))


def _stretch(tx: Connection, after: _Place) -> tuple[str, _Place | None]:
    """What is wrong with the first row of a stretch that is, and the last row of the stretch; None: there is none."""
    bound = _AFTER if after else ""  # none at first: a bucket that is no text may lie before all that are
    wrong = tx.execute(_WRONG.format(after=bound), (*after, value_rules.STRETCH_ROWS)).fetchall()
    if wrong:
        bucket, key, seq, unfit, lost = wrong[0]
        if not unfit:
            return _untold(bucket, key, seq, lost), None
        place = tuple(zip(("text", "blob", "integer"), after, strict=True)) if after else value_rules.START
        return str(value_rules.look(tx, "versions", place).wrong[0]), None
    last = tx.execute(_END.format(after=bound), (*after, value_rules.STRETCH_ROWS - 1)).fetchall()
    return "", last[0] if last else None


def _untold(bucket: bytes, key: bytes, seq: int, lost: str | None = None) -> str:
    why = f"digest {lost_digests.why(lost)}" if lost else "what it says of its payload cannot be"
    return f"versions, row {wrong_rows.named('versions', (bucket, key, seq))}: {why}"


def _refusal(parts: Parts, what: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"the database is damaged: it holds what no write stores: {what}; nothing is removed while that stands, "
        f"{command('check', parts.layout.root)} tells of every such row"
    )
