"""What holds all over the store: commit times rise with sequences."""

from __future__ import annotations

from array import array

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.checks.row_reading import BATCH, COUNTER, LAST, START, UNTOUCHED
from gestalt_cas.checks.row_rules import Place

_MOST_GROUPS = 1 << 20
_ORDER = (
    "SELECT bucket, key, seq, commit_ms FROM versions WHERE (bucket, key, seq) > (?, ?, ?) ORDER BY 1, 2, 3 LIMIT ?"
)


def check_order(run: Inspection) -> None:
    """Whether commit times rise with sequences over the whole store.

    Rows lie in key order, so the least and the greatest time of each sequence is kept (of each group of neighbouring
    sequences, in a store of more than a million changes) and compared at the end.
    """
    if run.lost & {"versions", "counter"}:
        return
    with run.view() as tx:
        ((last, _),) = tx.execute(COUNTER).fetchall()
    if not isinstance(last, int):
        return  # `value_checks` reports it
    groups = max(1, min(last + 1, _MOST_GROUPS))
    least, greatest = array("q", [LAST]) * groups, array("q", [UNTOUCHED]) * groups
    place: Place = START
    while True:
        with run.view() as tx:
            rows = tx.execute(_ORDER, (*place, 5 * BATCH)).fetchall()
        for _, _, seq, commit_ms in rows:
            if isinstance(seq, int) and isinstance(commit_ms, int) and 0 <= seq <= last:
                group = seq * groups // (last + 1)
                least[group] = min(least[group], commit_ms)
                greatest[group] = max(greatest[group], commit_ms)
        if len(rows) < 5 * BATCH:
            break
        place = rows[-1][:3]
        run.progress("checking the order of changes", 0, 0)
        run.pace.batch_done()
    _report_order(run, least, greatest, last)


def _report_order(run: Inspection, least: array[int], greatest: array[int], last: int) -> None:
    groups, latest = len(least), UNTOUCHED
    for group in range(groups):
        if least[group] < latest:
            first = group * (last + 1) // groups
            run.report(
                Finding(
                    "sequence",
                    f"commit times fall at sequence {first}: {least[group]} after {latest}",
                    where="versions",
                    expected=f"at least {latest}",
                    found=str(least[group]),
                    remedy=run.restore_command(),
                )
            )
        latest = max(latest, greatest[group])
