"""Rebuilding what the database derives from its other rows: indexes, and the tables `current` and `unreachable`.

An index is dropped and made again, as long as SQLite can walk the old one to give its pages back. Where it cannot, and
for a table, the old one is struck from the schema, which leaves its pages to nobody, a new one is made from the rows,
and VACUUM takes the pages back: it writes the database anew, under write.lock, and needs its size of free disk, and as
much again for a temporary file (`sqlite.spill`).
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.schema import CreateIndex, CreateTable, Index, Table

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.errors import DatabaseDamaged, StoreError
from gestalt_cas.formats import tables
from gestalt_cas.sql.sqlite import Connection

_DIALECT = sqlite_dialect()
INDEXES: dict[str, Index] = {
    str(index.name): index for table in tables.metadata.tables.values() for index in table.indexes
}
_FILL_CURRENT = """
    INSERT INTO current (bucket, key, seq) SELECT bucket, key, seq FROM versions AS v
    WHERE digest IS NOT NULL AND gone_seq IS NULL AND seq = (
        SELECT max(seq) FROM versions AS o WHERE o.bucket = v.bucket AND o.key = v.key AND o.gone_seq IS NULL
    )
"""
REBUILT = {**dict.fromkeys(INDEXES, ""), "current": _FILL_CURRENT, "unreachable": ""}
"""What can be rebuilt, and what fills it; what gc has recorded as unreachable it finds again."""


def rebuild(run: Inspection, finding: Finding, names: list[str]) -> Finding:
    """Rebuild these indexes and tables; returns the finding with what was done, or why it was not."""
    what = " and ".join(names)
    try:
        if set(names) <= INDEXES.keys() and _reindex(run, names):
            return finding.mended(f"rebuilt {what}")
        run.parts.database.mend(lambda tx: _replace(tx, names), vacuum=True)
    except StoreError as error:
        return replace(finding, unrepaired=f"{what} could not be rebuilt: {error}")
    finally:
        run.digest_index = True
    return finding.mended(f"made {what} anew and wrote the database anew")


def definition(what: Index | Table) -> str:
    """The statement that makes an index, or a table without its indexes."""
    make = CreateIndex(what) if isinstance(what, Index) else CreateTable(what)
    return str(make.compile(dialect=_DIALECT))


def _reindex(run: Inspection, names: list[str]) -> bool:
    """Rebuild indexes in their place, or make those that are missing; False when SQLite cannot walk the old ones."""

    def work(tx: Connection) -> None:
        for name in names:
            tx.execute(f"DROP INDEX IF EXISTS {name}")
            tx.execute(definition(INDEXES[name]))

    try:
        run.parts.database.mend(work)
    except DatabaseDamaged:
        return False
    return True


def _replace(tx: Connection, names: list[str]) -> None:
    tx.execute("PRAGMA writable_schema=ON")
    try:
        for name in names:
            tx.execute("DELETE FROM sqlite_schema WHERE name = ?", (name,))
    finally:
        tx.execute("PRAGMA writable_schema=RESET")
    for name in names:
        if name in INDEXES:
            tx.execute(definition(INDEXES[name]))
        else:
            tx.execute(definition(tables.metadata.tables[name]))
        if REBUILT[name]:
            tx.execute(REBUILT[name])
