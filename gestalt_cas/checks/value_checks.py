"""Rows that hold values which no write stores, in every table, by the rules of `value_rules`.

What another stage looks at closer, and mends, is left to that: payloads that a version reaches. What the database
derives from other rows is taken out by a repair: the rows of `current`, which the next stage makes anew, and what gc
has recorded, which it finds again.
"""

from __future__ import annotations

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken, unreadable
from gestalt_cas.errors import StoreError
from gestalt_cas.keeping import reachability
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.wrong_values import value_rules
from gestalt_cas.wrong_values.wrong_rows import Wrong

_COLUMNS = {"inlined": ("id",)}
"""Tables of which only these columns are judged here."""
_DERIVED = {
    table: f"DELETE FROM {table} WHERE ({value_rules.is_fine(table)}) = 0" for table in ("current", "unreachable")
}
_DIGEST_BYTES = 32


def check_values(run: Inspection) -> None:
    """Pass every table once, in short views."""
    for number, table in enumerate(value_rules.FORMS):
        run.progress(f"checking values: {table}", number, len(value_rules.FORMS))
        try:
            _check_table(run, table)
        except StoreError as error:
            if not broken(error):
                raise
            run.report(unreadable(run, f"a row of {table}", error))


def _check_table(run: Inspection, table: str) -> None:
    place: value_rules.Place | None = value_rules.START
    while place is not None:
        with run.view() as tx:
            look = value_rules.look(tx, table, place, columns=_COLUMNS.get(table, ()))
            found = [wrong for wrong in look.wrong if not _is_left(tx, wrong)]
        if found:
            _report(run, table, found)
        place = look.place
        run.pace.batch_done()


def _is_left(tx: Connection, wrong: Wrong) -> bool:
    """Whether the stage of the payloads says it: of a digest of another length, and of what a version reaches."""
    if wrong.table != "blobs" or not isinstance(wrong.key[0], bytes):
        return False
    return len(wrong.key[0]) != _DIGEST_BYTES or reachability.is_reached(tx, wrong.key[0])


def _report(run: Inspection, table: str, found: list[Wrong]) -> None:
    mended = run.options.repair and table in _DERIVED
    if mended:
        with run.parts.database.write() as tx:
            tx.execute(_DERIVED[table])
    for wrong in found:
        remedy = run.repair_command() if table in _DERIVED else run.restore_command()
        finding = Finding("row", str(wrong), where=table, found=wrong.why, remedy=remedy)
        run.report(finding.mended("took the row out: it is derived from others") if mended else finding)
