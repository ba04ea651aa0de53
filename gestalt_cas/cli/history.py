"""Bringing back what an object was: `restore --version-id` and `undelete`."""

from __future__ import annotations

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.session import Session, common_options


def restore_version(session: Session, target: Address, version_id: str) -> int:
    """Make the version current again, as a new one; for the verb `restore`."""
    key = target.key()
    with session.store() as store:
        version = store.restore_version(key, version_id)
    text = f"restored {shown(str(version.key))} as it was in version {version_id} (version {version.version_id})"
    session.output.result(output.version_record(version), text)
    return exits.OK


@click.command()
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@common_options
def undelete(session: Session, target: Address) -> int:
    """Bring the deleted object BUCKET/KEY back: remove the delete markers on top of its newest version.

    Exit code 1 when it has no version to come back, 3 when it is not deleted.
    """
    key = target.key()
    with session.store() as store:
        version = store.undelete(key)
    text = f"undeleted {shown(str(version.key))} ({version.size} bytes, version {version.version_id})"
    session.output.result(output.version_record(version), text)
    return exits.OK
