"""The verb `check`: findings as they are found, a summary, and the exit code that follows from both."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gestalt_cas import sizes
from gestalt_cas.checks.findings import Finding, Subset, subset_of
from gestalt_cas.cli import exits
from gestalt_cas.cli.options import SIZE
from gestalt_cas.cli.output import Output, escaped, shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant
from gestalt_cas.errors import InvalidArgument, StoreError

if TYPE_CHECKING:
    from gestalt_cas.checks.inspection import CheckOptions, CheckReport


def _subset(_: click.Context, __: click.Parameter, text: str | None) -> Subset | None:
    if text is None:
        return None
    try:
        return subset_of(text)
    except InvalidArgument as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--read-data",
    is_flag=False,
    flag_value="1/1",
    callback=_subset,
    metavar="[SUBSET]",
    help="Read payloads whole and compare them with their BLAKE3 and chunk sums: all of them, or the part N/M or P% of "
    "all digests. 1/10 to 10/10 cover everything; 10% is the same tenth each time.",
)
@click.option("--repair", is_flag=True, help="Mend what can be mended; damaged files go into DIR/quarantine.")
@click.option(
    "--from",
    "backup",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="BACKUP",
    help="With --repair: take the bytes of damaged and missing payloads from this store or backup.",
)
@click.option(
    "--throttle", type=SIZE, default="0", metavar="SIZE", help="Read at most this many bytes a second, as in 500K, 50M."
)
@click.option("--restart", is_flag=True, help="Begin anew, also where a check was cut off.")
@common_options
def check(
    session: Session, read_data: Subset | None, repair: bool, backup: Path | None, throttle: int, restart: bool
) -> int:
    """Look for damage and inconsistencies in the store; nothing is ever deleted.

    Safe while the store serves. A check that was cut off, however it ended, is gone on with by the next one of the same
    options. Exit code 0: nothing found, or all of it repaired; 4: damage stands; 1: something else stands.
    """
    from gestalt_cas.checks.inspection import CheckOptions

    if backup is not None and not repair:
        raise click.UsageError("--from needs --repair")
    options = CheckOptions(read_data, repair, backup, throttle, restart)
    report = _check(session, options)
    session.output.result({"summary": _summary(report)}, _told(session, report))
    return exits.DAMAGE if report.damaged else exits.OK if report.clean else exits.NOT_FOUND


def _check(session: Session, options: CheckOptions) -> CheckReport:
    from gestalt_cas.checks.unopened import check_unopened, is_damaged

    out = session.output

    def on_finding(finding: Finding) -> None:
        _show(out, finding)

    def on_resume(began_ms: int, findings: int) -> None:
        out.warn(
            f"going on with the check that began at {instant(began_ms)} and was cut off; its findings so far: "
            f"{findings} (--restart begins anew)"
        )

    with ExitStack() as stack:
        progress = stack.enter_context(Progress("check", counted=True))
        try:
            store = stack.enter_context(session.store())
        except StoreError as error:
            if not is_damaged(session.directory, error):
                raise
            return check_unopened(session.directory, error, options, progress.at, on_finding)
        return store.check(options, progress=progress.at, on_finding=on_finding, on_resume=on_resume)


def _show(out: Output, finding: Finding) -> None:
    sort = "damage" if finding.damage else "fault"
    record = {"sort": sort, **asdict(finding)}
    lines = [f"{sort} ({finding.kind}): {escaped(finding.message)}"]
    for one in finding.affected:
        version = f" version {one.version_id}" if one.version_id else ""
        lines.append(f"  concerns {shown(f'{one.bucket}/{one.key}')}{version}")
    if finding.affected_total > len(finding.affected):
        lines.append(f"  concerns {finding.affected_total - len(finding.affected)} versions more")
    lines += [f"  {label}: {escaped(text)}" for label, text in _states(finding) if text]
    out.result(record, "\n".join(lines))


def _states(finding: Finding) -> tuple[tuple[str, str], ...]:
    return (
        ("not recorded", finding.unrecorded),
        ("set aside", finding.set_aside),
        ("repaired", finding.repaired),
        ("not repaired", finding.unrepaired),
        ("remedy", finding.remedy),
    )


def _summary(report: CheckReport) -> dict[str, object]:
    fields = {name: getattr(report, name) for name in report.__slots__ if name != "findings"}
    return {"result": report.result, **fields}


def _told(session: Session, report: CheckReport) -> str:
    parts = [f"{report.versions} versions and {report.payloads} payloads checked"]
    if report.payloads_read:
        parts.append(f"{report.payloads_read} payloads read ({sizes.told(report.bytes_read)})")
    if report.reclaimable_files:
        room = sizes.told(report.reclaimable_bytes)
        parts.append(f"{report.reclaimable_files} files reclaimable ({room}, {session.command('gc')})")
    for count, mended, name in (
        (report.damage, report.repaired_damage, "damage"),
        (report.faults, report.repaired_faults, "faults"),
    ):
        if count:
            parts.append(f"{name}: {count} found, {mended} repaired")
    if not report.damage and not report.faults:
        parts.append("nothing found")
    return ", ".join(parts)
