"""The verbs `backup` and `restore`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gestalt_cas import sizes
from gestalt_cas.cli import exits
from gestalt_cas.cli.addresses import Address
from gestalt_cas.cli.history import restore_version
from gestalt_cas.cli.output import Output, shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options

if TYPE_CHECKING:
    from gestalt_cas.backups.backup import BackedUp, Lost
    from gestalt_cas.backups.restoring import Restored


@click.command()
@click.argument("dest", metavar="DEST", type=click.Path())
@click.option("--with-keys", is_flag=True, help="Also copy the keys that sign presigned URLs (keys.json).")
@common_options
def backup(session: Session, dest: str, with_keys: bool) -> int:
    """Copy the store to the directory DEST, while everything that uses it goes on.

    DEST is new, empty, or holds an earlier backup of the same store: then only payloads that it lacks are copied, and
    the backup before stays good until the new one is complete. One that was cut off is run again. DEST is a store of
    its own beside its manifest: `check` and `serve` open it with --data-dir, and `gc --data-dir DEST` removes what
    only earlier backups needed. Nothing else may have it open meanwhile.

    A payload that the store has lost is named, with exit code 4; the backup has everything else.
    """
    with session.store() as store, Progress("backup") as progress:
        done = store.back_up(dest, with_keys=with_keys, progress=progress.at)
    for lost in done.lost:
        _name(session.output, lost)
    if with_keys and not done.keys:
        session.output.warn("the store has no keys.json, so the backup has none")
    session.output.result(asdict(done), _backed_up(done))
    return exits.DAMAGE if done.lost else exits.OK


@click.command()
@click.argument("source", metavar="SRC|BUCKET/KEY")
@click.argument("directory", metavar="[DIR]", type=click.Path(), required=False)
@click.option("--version-id", metavar="V", help="Make this version of BUCKET/KEY current again, as a new version.")
@click.option(
    "--allow-incomplete",
    is_flag=True,
    help="Take what is whole of a backup that was cut off, changed or damaged, and name what is lost.",
)
@common_options
def restore(
    session: Session, source: str, directory: str | None, version_id: str | None, allow_incomplete: bool
) -> int:
    """Make a store in DIR, a new or empty directory, from the backup in SRC; or an older version current again.

    Everything is verified on the way: the manifest, the rows and their root digest, every byte of every payload. DIR
    is a store only when all of it is there and synced; a restore that was cut off is run again. SRC is only read.
    Neither has to do with --data-dir.

    With --version-id the first argument is BUCKET/KEY, and what it was in that version becomes its newest version; what
    is current now stays in its history.
    """
    if version_id is not None:
        if directory is not None or allow_incomplete:
            raise click.UsageError("--version-id restores a version of one object: give BUCKET/KEY and nothing else")
        return restore_version(session, Address.parse(source), version_id)
    if directory is None:
        raise click.UsageError("restore SRC DIR makes a store from a backup; an object needs --version-id")
    from gestalt_cas.backups.restoring import restore as make

    with Progress("restore") as progress:
        done = make(
            source,
            directory,
            allow_incomplete=allow_incomplete,
            progress=progress.at,
            on_lost=lambda lost: _name(session.output, lost),
        )
    for doubt in done.doubts:
        session.output.warn(doubt)
    session.output.result(asdict(done), _restored(done))
    return exits.DAMAGE if done.lost or done.doubts else exits.OK


def _name(out: Output, lost: Lost) -> None:
    out.warn(f"lost {lost.digest}, a payload of {', '.join(lost.objects)}: {lost.reason}")


def _backed_up(done: BackedUp) -> str:
    text = (
        f"backed up to {shown(done.directory)}: {done.objects} objects in {done.versions} versions, {done.blobs} "
        f"payloads ({sizes.told(done.bytes)}), of which {done.copied} copied now ({sizes.told(done.copied_bytes)}); "
        f"sequence {done.sequence}"
    )
    if done.reused:
        text += f", {done.reused} taken up from a backup that was cut off"
    return f"{text}, INCOMPLETE: {len(done.lost)} payloads lost" if done.lost else text


def _restored(done: Restored) -> str:
    text = (
        f"restored to {shown(done.directory)}: {done.objects} objects in {done.versions} versions, {done.blobs} "
        f"payloads ({sizes.told(done.bytes)}); sequence {done.sequence}"
    )
    return f"{text}, INCOMPLETE: {len(done.lost)} payloads lost" if done.lost else text
