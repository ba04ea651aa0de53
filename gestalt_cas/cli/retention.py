"""The verb `retention`: what goes by the rules of the store's settings."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

import click

from gestalt_cas import sizes
from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant
from gestalt_cas.system.refusals import on_stream

if TYPE_CHECKING:
    from gestalt_cas.removal.retention_previews import Foreseen, Going
    from gestalt_cas.removal.retention_runs import Applied

_IN_MEMORY_BYTES = 16 << 20
_where = click.argument("where", type=ADDRESS, metavar="[BUCKET[/PREFIX]]", required=False)


@click.group()
def retention() -> None:
    """Show or remove what goes by the rules in the store's setting retention.rules.

    A rule is for a bucket or a prefix; of several only the longest that fits counts. For example, to keep three
    noncurrent versions of each object, and any that became noncurrent in the last 30 days:

    gestalt-cas config retention.rules '{"site": {"keepNoncurrent": 3, "keepDays": 30, "dropMarkers": true}}'

    A server applies the rules every retention.everySeconds.
    """


@retention.command()
@_where
@common_options
def preview(session: Session, where: Address | None) -> int:
    """Show every version that would go now, and how many bytes gc would then free.

    Changes nothing. Bytes are exact whatever versions share: counted are payloads that no other version has and that no
    snapshot keeps. All is judged in one view of the store.
    """
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, "w+", encoding="utf-8", newline="") as lines:
        # Printed when the view has been closed: who reads may take any time.
        with session.store() as store, Progress("retention", counted=True) as progress:
            found = store.preview_retention(
                *_place(where), each=lambda one: _keep(session, lines, one), progress=progress.at
            )
            doubt = store.clock_doubt()
        lines.seek(0)
        with on_stream("stdout"):
            shutil.copyfileobj(lines, sys.stdout)
    session.output.result({"summary": asdict(found)}, _foreseen(found))
    if doubt:
        session.output.warn(
            f"{doubt}: nothing is removed by its age until that is settled; see: {session.command('doctor')}"
        )
    return exits.OK


@retention.command()
@_where
@common_options
def run(session: Session, where: Address | None) -> int:
    """Remove now what goes by the rules, everywhere or only below BUCKET[/PREFIX]; gc then frees the bytes.

    Without a name, what the history knows of versions that were removed longer ago than history.keepDays is dropped,
    too. Safe beside everything else. Stopped in the midst, the next run does the rest. Exit code 3 when the clock is
    too far from the last run for anything to be removed by its age.
    """
    with session.store() as store, Progress("retention", counted=True) as progress:
        found = store.apply_retention(*_place(where), progress=progress.at)
    session.output.result(asdict(found), _applied(found))
    return exits.OK


def _place(where: Address | None) -> tuple[str | None, str]:
    return (None, "") if where is None else (where.bucket, where.rest)


def _keep(session: Session, lines: IO[str], one: Going) -> None:
    version = one.version
    if session.json:
        record = {**output.version_record(version), "reason": one.reason, "kept_by_snapshot": one.kept}
        lines.write(f"{output.dump(record)}\n")
        return
    size = "marker" if version.delete_marker else str(version.size)
    kept = ", kept by a snapshot" * one.kept
    what = f"{version.version_id:<24}  {shown(str(version.key))}  ({one.reason}{kept})"
    lines.write(f"{instant(version.modified_ms)}  {size:>14}  {what}\n")


def _foreseen(found: Foreseen) -> str:
    parts = [f"{found.versions} versions ({sizes.told(found.bytes)}) and {found.markers} delete markers would go"]
    if found.expired:
        parts.append(f"{found.expired} objects would get a delete marker")
    if found.kept:
        parts.append(f"snapshots keep the payloads of {found.kept}")
    if found.dropped:
        parts.append(f"{found.dropped} removed longer ago would no longer be known")
    return "; ".join([*parts, f"gc would then free {sizes.told(found.freed_bytes)}, {found.payloads} payloads"])


def _applied(found: Applied) -> str:
    parts = [f"removed {found.versions} versions ({sizes.told(found.bytes)}) and {found.markers} delete markers"]
    if found.expired:
        parts.append(f"{found.expired} objects got a delete marker")
    if found.dropped:
        parts.append(f"{found.dropped} removed longer ago are no longer known")
    return "; ".join(parts)
