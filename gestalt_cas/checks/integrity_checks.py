"""SQLite's own checks of the database: that its pages, rows and indexes agree, and that references lead to rows.

The integrity check goes table by table, each in a view of its own. A view keeps the WAL from being shortened, so it is
given up when writers have made the WAL grow by GIVE_UP_BYTES meanwhile. Then the rows are compared with the indexes in
short views instead (`index_checks`), which finds the same but for what is wrong within pages that no row or index uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.rebuilding import INDEXES, REBUILT, rebuild
from gestalt_cas.checks.schema_checks import REVISION_TABLE
from gestalt_cas.errors import StoreError
from gestalt_cas.formats import tables
from gestalt_cas.sql.sqlite import Connection

GIVE_UP_BYTES = 32 << 20
WHOLE_BYTES = 64 << 20
"""Up to this size the file is also checked in one go, which sees pages that nothing uses."""
_STEPS = 20_000
_MESSAGES = 100
_SHOWN_MESSAGES = 10
_TREE = re.compile(r"\b[Tt]ree (\d+)\b|[Oo]n tree page (\d+)\b")
_INDEX = re.compile(r"\bindex ([\w.]+)$")


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
    wanted = [*tables.metadata.tables, REVISION_TABLE]
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
    most = run.parts.database.wal_taken() + GIVE_UP_BYTES

    def step() -> bool:
        nonlocal given_up
        given_up = run.parts.database.wal_taken(most) > most
        return given_up

    try:
        with run.view() as tx, _watched(tx, step):
            return tx.execute(sql, parameters).fetchall()
    except StoreError:
        if given_up:
            return None
        raise


@contextmanager
def _watched(tx: Connection, step: Callable[[], bool]) -> Iterator[None]:
    tx.set_progress_handler(step, _STEPS)
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
