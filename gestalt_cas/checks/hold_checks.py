"""Holds of versions, against the versions: what is held stands, unless something has removed it all the same."""

from __future__ import annotations

from gestalt_cas.checks.findings import Affected, Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.keeping import holds
from gestalt_cas.keeping.holds import Hold
from gestalt_cas.objects import ObjectKey
from gestalt_cas.remedies import command
from gestalt_cas.rows import versions
from gestalt_cas.sql.sqlite import Connection

BATCH = 500
"""Holds that one view looks at."""


def check_holds(run: Inspection) -> None:
    """Whether the version of each hold that is of one is there. Looks at holds and versions in the same views."""
    with run.view() as tx:
        found = [hold for hold in holds.standing(tx) if hold.version_id]
    for start in range(0, len(found), BATCH):
        run.progress("checking holds", start, len(found))
        with run.view() as tx:
            lost = [hold for hold in found[start : start + BATCH] if _is_lost(tx, hold)]
        for hold in lost:
            _report(run, hold)
        run.pace.batch_done()


def _is_lost(tx: Connection, hold: Hold) -> bool:
    version = versions.by_id(tx, ObjectKey(hold.bucket, hold.prefix), hold.version_id)
    return (version is None or version.delete_marker) and holds.stands(tx, hold)


def _report(run: Inspection, hold: Hold) -> None:
    run.report(
        Finding(
            "hold",
            f"the hold on {hold.name}: there is no such version, it was removed although it was held",
            where="holds",
            affected=(Affected(hold.bucket, hold.prefix, hold.version_id),),
            affected_total=1,
            remedy=f"{run.restore_command()}; or give the hold up: {command(hold.release, run.parts.layout.root)}",
        )
    )
