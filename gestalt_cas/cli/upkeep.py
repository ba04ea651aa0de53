"""The verbs that make room: gc and purge."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gestalt_cas import sizes
from gestalt_cas.cli import exits
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import DURATION
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options

if TYPE_CHECKING:
    from gestalt_cas.removal.garbage import Collected
    from gestalt_cas.removal.purging import Purged


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--grace",
    "grace_seconds",
    type=DURATION,
    default="0",
    metavar="DURATION",
    help="Keep what became unreachable less than this ago, as in 90s, 15m, 12h, 7d. [default: 0]",
)
@common_options
def gc(session: Session, dry_run: bool, grace_seconds: float) -> int:
    """Remove the payloads that no version reaches, and what cut-off uploads left behind.

    Safe while the store serves, whatever --grace says: running uploads and copies keep or get what they need. A server
    does the same by itself every gc.everySeconds. While a backup runs nothing is removed.
    """
    with session.store() as store, Progress("gc", counted=True) as progress:
        found = store.collect_garbage(grace_seconds=grace_seconds, dry_run=dry_run, progress=progress.at)
    session.output.result(asdict(found), _told(found))
    return _stuck(session, found)


def _stuck(session: Session, found: Collected | Purged) -> int:
    """Warn of files that could not be removed; the exit code."""
    if not found.stuck_files:
        return exits.OK
    session.output.warn(f"{found.stuck_files} payloads could not be removed: {found.stuck_reason}")
    return exits.DAMAGE


def _told(found: Collected) -> str:
    removed = "would remove" if found.dry_run else "removed"
    parts = [f"{removed} {found.files} payloads ({sizes.told(found.bytes)})"]
    if found.staging_files:
        parts.append(f"{found.staging_files} cut-off uploads")
    if found.fresh_files:
        parts.append(f"{found.fresh_files} kept within the grace ({sizes.told(found.fresh_bytes)})")
    if found.pinned_by:
        names = ", ".join(found.pinned_by)
        parts.append(f"{found.pinned_files} kept ({sizes.told(found.pinned_bytes)}) by {names}")
    return ", ".join(parts)


@click.command()
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@common_options
def purge(session: Session, target: Address) -> int:
    """Remove every version of BUCKET/KEY and their bytes, for good and at once.

    Bytes that another object shares stay, and so do, until it ends, those that a running backup has pinned; both are
    counted. Nothing brings a purged object back but a backup. Stopped in the midst of many versions, the newest are
    there still: purge it again.
    """
    key = target.key()
    with session.store() as store, Progress("purge", counted=True) as progress:
        found = store.purge(key, progress=progress.at)
    record = {**asdict(found), "bucket": found.key.bucket, "key": found.key.key}
    session.output.result(record, _purged(found))
    return _stuck(session, found)


def _purged(found: Purged) -> str:
    text = (
        f"purged {shown(str(found.key))}: {found.versions} versions, {found.files} payloads ({sizes.told(found.bytes)})"
    )
    if found.quarantined:
        text += f", {found.quarantined} quarantined copies"
    if found.shared:
        text += f"; {found.shared} payloads stay, since other objects share them"
    if found.pinned:
        text += f"; {found.pinned} payloads stay until the backup that is running ends, then gc removes them"
    return text
