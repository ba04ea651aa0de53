"""Before upkeep removes anything: that no row stands which no write stores, and which might say what is to be kept.

What is kept is decided by comparing: digests with digests, times with times, a snapshot's prefix with keys. A value of
another type makes such a comparison come out odd without a word: text sorts above every number, a snapshot whose prefix
is a text covers no key, a version whose digest has become NULL keeps no payload. So garbage collection, retention and
dropping what the history knows look through the rows that they judge by first, and remove nothing while one is damaged;
`check` names them all. Only a run that has found something to remove pays for it: some tenths of a second for a million
versions, in short views.
"""

from __future__ import annotations

from gestalt_cas import settings, value_rules
from gestalt_cas.errors import DatabaseDamaged
from gestalt_cas.parts import Parts
from gestalt_cas.remedies import command
from gestalt_cas.sqlite import Connection

_KEEPERS = ("counter", "settings", "snapshots", "holds", "versions")
"""The tables that decide what stays."""
# A version whose payload cannot be told: its bytes may be those that seem to be nobody's.
_LOST = """
    SELECT CAST(bucket AS BLOB), key, seq FROM (
        SELECT bucket, key, seq, size, digest, gone_seq, gone_ms, gone_digest, commit_ms FROM versions
        WHERE (bucket, key, seq) > (CAST(? AS TEXT), ?, ?) ORDER BY bucket, key, seq LIMIT ?
    ) AS v
    WHERE (digest IS NULL AND gone_digest IS NULL AND size > 0)
    OR (digest IS NOT NULL AND (length(digest) <> 32 OR NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.digest = v.digest)))
    OR (gone_seq IS NULL) <> (gone_ms IS NULL) OR gone_seq <= seq OR gone_ms < commit_ms
    OR (gone_digest IS NOT NULL AND (gone_seq IS NULL OR digest IS NOT NULL OR length(gone_digest) NOT IN (0, 32)))
    LIMIT 1
"""
_END = """
    SELECT CAST(bucket AS BLOB), key, seq FROM versions WHERE (bucket, key, seq) > (CAST(? AS TEXT), ?, ?)
    ORDER BY bucket, key, seq LIMIT 1 OFFSET ?
"""


def require(parts: Parts) -> None:
    """Raise DatabaseDamaged, naming a row, if one of those that decide what stays is none that a write stores."""
    for table in _KEEPERS:
        place: value_rules.Place | None = value_rules.START
        while place is not None:
            with parts.database.read() as tx:
                found = value_rules.look(tx, table, place)
            for wrong in found.wrong:
                if table != "settings" or wrong.row in settings.FIELDS:  # a note decides nothing
                    raise _refusal(parts, str(wrong))
            place = found.place
    after: tuple[bytes, bytes, int] | None = (b"", b"", 0)
    while after is not None:
        with parts.database.read() as tx:
            lost, after = _stretch(tx, after)
        if lost is not None:
            bucket, key, seq = lost
            name = f"{bucket.decode(errors='backslashreplace')}/{key.decode(errors='backslashreplace')}"
            raise _refusal(parts, f"versions, row {name}, sequence {seq}: what it says of its payload cannot be")


def _stretch(
    tx: Connection, after: tuple[bytes, bytes, int]
) -> tuple[tuple[bytes, bytes, int] | None, tuple[bytes, bytes, int] | None]:
    """The first row of a stretch that is wrong, and the last one of the stretch; None: there is none."""
    lost = tx.execute(_LOST, (*after, value_rules.STRETCH_ROWS)).fetchall()
    last = tx.execute(_END, (*after, value_rules.STRETCH_ROWS - 1)).fetchall()
    return (lost[0] if lost else None), (last[0] if last else None)


def _refusal(parts: Parts, what: str) -> DatabaseDamaged:
    return DatabaseDamaged(
        f"the database is damaged: it holds what no write stores: {what}; nothing is removed while that stands, "
        f"{command('check', parts.layout.root)} tells of every such row"
    )
