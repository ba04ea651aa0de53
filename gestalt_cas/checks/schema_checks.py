"""The tables and indexes of the database against `tables.py`, and what is fixed at creation."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass
from functools import cache

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken, unreadable
from gestalt_cas.checks.rebuilding import INDEXES, definition, rebuild
from gestalt_cas.errors import StoreError
from gestalt_cas.formats import tables
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection

_INCREMENTAL = 2
_FIXED = {
    "application_id": schema.APPLICATION_ID,
    "user_version": schema.FORMAT,
    "page_size": schema.PAGE_SIZE,
    "auto_vacuum": _INCREMENTAL,
    "journal_mode": "wal",
    "encoding": "UTF-8",
}
REVISION_TABLE = "alembic_version"


@dataclass(frozen=True, slots=True)
class Shape:
    """What SQLite makes of a table's definition, in its own terms, so that two definitions can be compared."""

    columns: tuple[object, ...]
    foreign_keys: tuple[object, ...]
    without_rowid: bool


def check_schema(run: Inspection) -> None:
    """Compare tables, indexes and what is fixed at creation with what this release makes."""
    try:
        with run.view() as tx:
            shapes, indexes = _tables(tx), _indexes(tx)
            fixed = {name: tx.execute(f"PRAGMA {name}").fetchall()[0][0] for name in _FIXED}
    except StoreError as error:
        if not broken(error):
            raise
        run.report(unreadable(run, "the schema", error))
        return
    wanted_tables, wanted_indexes = _expected()
    for name, value in fixed.items():
        if value != _FIXED[name]:
            _report_schema(run, name, f"PRAGMA {name} is not what every store has", _FIXED[name], value)
    for name in sorted(wanted_tables.keys() | shapes.keys()):
        _compare_table(run, name, wanted_tables.get(name), shapes.get(name))
    for name in sorted(wanted_indexes.keys() | indexes.keys()):
        if wanted_indexes.get(name) != indexes.get(name):
            _report_index(run, name, wanted_indexes.get(name), indexes.get(name))


def _report_schema(run: Inspection, where: str, message: str, expected: object, found: object) -> None:
    run.report(
        Finding("schema", message, where=where, expected=str(expected), found=str(found), remedy=run.restore_command())
    )


def _compare_table(run: Inspection, name: str, wanted: Shape | None, found: Shape | None) -> None:
    if name == REVISION_TABLE:
        wanted = found if found is not None else wanted
    if wanted == found:
        return
    if wanted is None or found is None:
        there = "there is a table that no store has" if wanted is None else "a table is missing"
        _report_schema(run, name, f"{there}: {name}", name if wanted else "", name if found else "")
        return
    _report_schema(run, name, f"the table {name} is not defined as this release defines it", wanted, found)


def _report_index(run: Inspection, name: str, wanted: str | None, found: str | None) -> None:
    what = "is missing" if found is None else "is not known" if wanted is None else "is not defined as it should be"
    finding = Finding(
        "index",
        f"the index {name} {what}",
        where=name,
        expected=wanted or "",
        found=found or "",
        remedy=run.repair_command() if wanted else f"drop it: no store has an index of the name {name}",
    )
    if run.options.repair and name in INDEXES:
        finding = rebuild(run, finding, [name])
    run.report(finding)


@cache
def _expected() -> tuple[dict[str, Shape], dict[str, str]]:
    """What SQLite makes of the definitions in `tables.py`, asked of a database in memory."""
    with closing(sqlite.in_memory()) as empty:
        for table in tables.metadata.sorted_tables:
            empty.execute(definition(table))
        for index in INDEXES.values():
            empty.execute(definition(index))
        shapes = _tables(empty)
        shapes[REVISION_TABLE] = Shape((), (), False)
        return shapes, _indexes(empty)


def _tables(tx: Connection) -> dict[str, Shape]:
    names = [
        (str(row[1]), bool(row[4]))
        for row in tx.execute("PRAGMA table_list").fetchall()
        if row[0] == "main" and not row[1].startswith("sqlite_")
    ]
    return {name: _shape(tx, name, without_rowid) for name, without_rowid in names}


def _shape(tx: Connection, name: str, without_rowid: bool) -> Shape:
    columns = tx.execute(f'PRAGMA table_xinfo("{name}")').fetchall()
    keys = tx.execute(f'PRAGMA foreign_key_list("{name}")').fetchall()
    return Shape(tuple(row[1:] for row in columns), tuple(row[2:] for row in keys), without_rowid)


def _indexes(tx: Connection) -> dict[str, str]:
    """The definitions of all indexes that were asked for, without what is only a matter of writing."""
    rows = tx.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    return {str(name): " ".join(re.sub(r'["`]', "", str(sql)).split()) for name, sql in rows}
