"""The bytes counted against quotas, against a recount.

A quota's versions are added up in short views, as they were when what is counted was read, so the two can be compared.
"""

from __future__ import annotations

from gestalt_cas.checks.findings import Affected, Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.keeping import quotas
from gestalt_cas.rows import history

_ALL = "SELECT bucket, prefix FROM quotas ORDER BY bucket, prefix"
_USED = "SELECT used_bytes FROM quotas WHERE bucket = ? AND prefix = ?"
_SET = "UPDATE quotas SET used_bytes = ? WHERE bucket = ? AND prefix = ?"


def check_quotas(run: Inspection) -> None:
    """Compare each quota's used bytes with its versions, and put them right where that is asked for."""
    with run.view() as tx:
        names = tx.execute(_ALL).fetchall()
    for number, (bucket, prefix) in enumerate(names):
        run.progress("counting quotas", number, len(names))
        used, real, at = _counted(run, bucket, prefix)
        if used != real:
            _report(run, bucket, prefix, used, real, at)


def _counted(run: Inspection, bucket: str, prefix: bytes) -> tuple[int, int, int]:
    """What the quota's row says and what its versions add up to, as of one sequence; the same for one that has gone."""
    with run.view() as tx:
        used, (at, _) = tx.execute(_USED, (bucket, prefix)).fetchall(), history.last(tx)
    real = 0
    for more in quotas.counted_then(run.view, bucket, prefix, at):
        real += more
        run.pace.batch_done()
    return (used[0][0] if used else real), real, at


def _report(run: Inspection, bucket: str, prefix: bytes, used: int, real: int, at: int) -> None:
    text = prefix.decode(errors="backslashreplace")
    name = f"{bucket}/{text}" if text else bucket
    finding = Finding(
        "quota",
        f"quota {name}: {used} bytes are counted as used, its versions have {real}",
        where=name,
        expected=str(real),
        found=str(used),
        affected=(Affected(bucket, text),),
        affected_total=1,
        remedy=run.repair_command(),
    )
    if run.options.repair:
        with run.parts.database.write() as tx:
            real += quotas.changed_since(tx, bucket, prefix, at)
            tx.execute(_SET, (real, bucket, prefix))
        finding = finding.mended(f"counted anew: {real} bytes")
    run.report(finding)
