"""The verbs on what was: `diff`, and bringing back what an object was, `undelete` and `restore --version-id`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import human_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.session import Session, common_options

if TYPE_CHECKING:
    from gestalt_cas.objects import ObjectVersion
    from gestalt_cas.time_travel.diffs import Difference


@click.command()
@click.argument("where", type=ADDRESS, metavar="BUCKET[/PREFIX]")
@click.option("--from", "since", required=True, metavar="AS-OF", help="A sequence, a time, or a snapshot's name.")
@click.option("--to", "until", default="", metavar="AS-OF", help="The same. [default: now]")
@human_option
@common_options
def diff(session: Session, where: Address, since: str, until: str, human: bool) -> int:
    """Show the keys that were added, changed or deleted below BUCKET[/PREFIX] between two moments.

        gestalt-cas diff assets/site --from 2h

    Payload, headers and metadata are compared. A key whose bytes at one of the moments were removed for good since is
    marked so. Costs what changed in between.
    """
    with session.store() as store:
        show_differences(session, store.diff(where.bucket, where.rest, since=since, until=until), human)
    return exits.OK


def show_differences(session: Session, found: Iterable[Difference], human: bool) -> None:
    """Print a line for each difference."""
    for one in found:
        after = one.after or one.before
        assert after is not None
        gone = any(version is not None and version.removed for version in (one.before, one.after))
        note = "  (removed for good since)" if gone else ""
        text = f"{one.kind:<8} {output.size(after.size, human=human):>12}  {shown(str(one.key))}{note}"
        record = {"change": one.kind, "bucket": one.key.bucket, "key": one.key.key}
        session.output.result({**record, "before": _side(one.before), "after": _side(one.after)}, text)


def _side(version: ObjectVersion | None) -> dict[str, object] | None:
    return None if version is None else output.then_record(version)


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
