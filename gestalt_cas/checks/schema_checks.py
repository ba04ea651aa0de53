"""The database as such: its tables against `schema.py`, what is fixed at creation, and SQLite's own integrity check.

The integrity check goes table by table, each in a view of its own. A view keeps the WAL from being shortened, so it is
given up when writers have made the WAL grow by GIVE_UP_BYTES meanwhile. Then the rows are compared with the indexes in
short views instead (`index_checks`), which finds the same but for what is wrong within pages that no row or index uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.schema import CreateTable

from gestalt_cas import schema, sqlite
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.rebuilding import INDEXES, REBUILT, definition, rebuild
from gestalt_cas.errors import StoreError
from gestalt_cas.sqlite import Connection

GIVE_UP_BYTES = 32 << 20
WHOLE_BYTES = 64 << 20
"""Up to this size the file is also checked in one go, which sees pages that nothing uses."""
_STEPS = 20_000
_INCREMENTAL = 2
_MESSAGES = 100
_SHOWN_MESSAGES = 10
_TREE = re.compile(r"\b[Tt]ree (\d+)\b|[Oo]n tree page (\d+)\b")
_INDEX = re.compile(r"\bindex ([\w.]+)$")
_FIXED = {
    "application_id": schema.APPLICATION_ID,
    "user_version": schema.FORMAT,
    "page_size": schema.PAGE_SIZE,
    "auto_vacuum": _INCREMENTAL,
    "journal_mode": "wal",
    "encoding": "UTF-8",
}
_DIALECT = sqlite_dialect()
_REVISION_TABLE = "alembic_version"


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
            tables, indexes = _tables(tx), _indexes(tx)
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
    for name in sorted(wanted_tables.keys() | tables.keys()):
        _compare_table(run, name, wanted_tables.get(name), tables.get(name))
    for name in sorted(wanted_indexes.keys() | indexes.keys()):
        if wanted_indexes.get(name) != indexes.get(name):
            _report_index(run, name, wanted_indexes.get(name), indexes.get(name))


def check_integrity(run: Inspection) -> bool:
    """Run SQLite's integrity check; returns whether it was run to its end for all tables."""
    names = _present(run)
    complete = sound = True
    for number, name in enumerate(names):
        run.progress(f"checking the database: {name}", number, len(names))
        messages = _integrity(run, name)
        complete = complete and messages is not None
        if messages:
            sound = False
            _report_integrity(run, name, messages)
        run.pace.batch_done()
    if sound and complete and run.parts.layout.database.stat().st_size <= WHOLE_BYTES:
        messages = _integrity(run)
        if messages:
            _report_integrity(run, "", messages)
    return complete


def _present(run: Inspection) -> list[str]:
    """The tables to check; those that are missing have been reported. All, when the schema cannot be read."""
    wanted = [*schema.metadata.tables, _REVISION_TABLE]
    try:
        with run.view() as tx:
            there = {row[1] for row in tx.execute("PRAGMA table_list").fetchall()}
    except StoreError:
        return ["sqlite_schema", *wanted]
    return ["sqlite_schema", *(name for name in wanted if name in there)]


def check_references(run: Inspection) -> bool:
    """Run SQLite's foreign key check, unless what it would find was found row by row; returns whether it was run."""
    if run.lost or any(finding.kind in ("row-missing", "database") for finding in run.findings):
        return True
    rows = _patiently(run, 'SELECT "table" FROM pragma_foreign_key_check')
    if rows:
        text = f"{len(rows)} rows of {rows[0][0]} refer to payloads without a row"
        run.report(Finding("database", text, where=str(rows[0][0]), remedy=run.repair_command()))
    return rows is not None


def unreadable(run: Inspection, what: str, error: StoreError) -> Finding:
    """The finding that something in the database cannot be read."""
    return Finding("database", f"{what} cannot be read: {error}", where=what, remedy=run.restore_command())


# ---- SQLite's check ----


def _integrity(run: Inspection, table: str = "") -> list[str] | None:
    """What SQLite's check has to say, nothing when all is well; None when it was given up for the WAL's sake.

    On meeting a page that is no page the check ends in an error, and the driver drops the row before it, which says
    where. So it is asked for one row after the other then, each time to that row only.
    """
    of_table = f"('{table}')" if table else ""
    sql = f"SELECT integrity_check FROM pragma_integrity_check{of_table} LIMIT ?"
    messages: list[str] = []
    try:
        rows = _patiently(run, sql, _MESSAGES)
        return None if rows is None else _lines(rows)
    except StoreError as error:
        if not broken(error):
            raise
        failure = error
    for limit in range(1, _MESSAGES):
        try:
            rows = _patiently(run, sql, limit)
        except StoreError:
            break
        if rows is None:
            return None
        messages = _lines(rows)
    return messages or [f"{table or 'the file'}: {failure}"]


def _lines(rows: list[tuple[Any, ...]]) -> list[str]:
    lines = [line for row in rows for line in str(row[0]).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")]


def _patiently(run: Inspection, sql: str, *parameters: object) -> list[tuple[Any, ...]] | None:
    """The rows of a long question; None when it was given up, since writers made the WAL grow meanwhile."""
    given_up = False
    before = run.parts.database.wal_bytes

    def step() -> int:
        nonlocal given_up
        given_up = run.parts.database.wal_bytes > before + GIVE_UP_BYTES
        return given_up

    try:
        with run.view() as tx, _watched(tx, step):
            return tx.execute(sql, parameters).fetchall()
    except StoreError:
        if given_up:
            return None
        raise


@contextmanager
def _watched(tx: Connection, step: object) -> Iterator[None]:
    tx.set_progress_handler(step, _STEPS)  # type: ignore[arg-type]
    try:
        yield
    finally:
        tx.set_progress_handler(None, 0)


def _report_integrity(run: Inspection, table: str, messages: list[str]) -> None:
    """Report what SQLite found: as a fault if only indexes are concerned; rebuild what can be derived from the rest."""
    concerned = _concerned(run, messages)
    names = sorted(str(name) for name in concerned if name in REBUILT)
    rebuildable = len(names) == len(concerned)
    shown = "; ".join(messages[:_SHOWN_MESSAGES])
    more = f" and {len(messages) - _SHOWN_MESSAGES} more" if len(messages) > _SHOWN_MESSAGES else ""
    finding = Finding(
        "index" if concerned <= INDEXES.keys() else "database",
        f"SQLite's integrity check{' of ' + table if table else ''}: {shown}{more}",
        where=", ".join(names) if rebuildable else table,
        found=shown,
        remedy=run.repair_command() if rebuildable else run.restore_command(),
    )
    if "versions_by_digest" in concerned:
        run.digest_index = False
    if run.options.repair and rebuildable:
        finding = rebuild(run, finding, names)
    run.report(finding)


def _concerned(run: Inspection, messages: list[str]) -> set[str | None]:
    """The indexes and tables that the messages are about; None among them when one is about anything else."""
    try:
        with run.view() as tx:
            rows = tx.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0").fetchall()
    except StoreError:
        return {None}
    roots = {int(page): str(name) for name, page in rows}
    return {_subject_of(message, roots) for message in messages}


def _subject_of(message: str, roots: dict[int, str]) -> str | None:
    named = _INDEX.search(message)
    if named is not None:
        return named[1]
    tree = _TREE.search(message)
    return roots.get(int(tree[1] or tree[2])) if tree is not None else None


# ---- the schema ----


def _report_schema(run: Inspection, where: str, message: str, expected: object, found: object) -> None:
    run.report(
        Finding("schema", message, where=where, expected=str(expected), found=str(found), remedy=run.restore_command())
    )


def _compare_table(run: Inspection, name: str, wanted: Shape | None, found: Shape | None) -> None:
    if name == _REVISION_TABLE:
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
    """What SQLite makes of the definitions in `schema.py`, asked of a database in memory."""
    with closing(sqlite.driver.connect(":memory:")) as empty:
        for table in schema.metadata.sorted_tables:
            empty.execute(str(CreateTable(table).compile(dialect=_DIALECT)))
        for index in INDEXES.values():
            empty.execute(definition(index))
        tables = _tables(empty)
        tables[_REVISION_TABLE] = Shape((), (), False)
        return tables, _indexes(empty)


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
