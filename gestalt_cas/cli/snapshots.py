"""The verb `snapshot`: names for moments, which keep what was there then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.addresses import ADDRESS, Address, with_bucket
from gestalt_cas.cli.history import show_differences
from gestalt_cas.cli.options import human_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant
from gestalt_cas.errors import NoSuchSnapshot

if TYPE_CHECKING:
    from gestalt_cas.rows.snapshots import Snapshot
    from gestalt_cas.store import Store


@click.group()
def snapshot() -> None:
    """Name the present moment, and keep what is there now.

    Every --as-of takes the name. What a snapshot shows stays readable by it whatever is removed or replaced later; gc
    and retention leave it alone until the snapshot is deleted.
    """


@snapshot.command()
@click.argument("name")
@click.argument("where", type=ADDRESS, metavar="[BUCKET[/PREFIX]]", required=False)
@common_options
def create(session: Session, name: str, where: Address | None) -> int:
    """Name the present moment of BUCKET[/PREFIX], or of the whole store.

    NAME is a letter, then letters, digits, '.', '_' or '-'. Takes the same moment whatever the size.
    """
    with session.store() as store:
        bucket = "" if where is None else with_bucket(store, where.bucket)
        found = store.create_snapshot(name, bucket, "" if where is None else where.rest)
    session.output.result(_record(found), f"{found.name}: {shown(found.where)} at sequence {found.seq}")
    return exits.OK


@snapshot.command(name="list")
@common_options
def list_(session: Session) -> int:
    """List the snapshots, the oldest moment first."""
    with session.store() as store:
        for one in store.snapshots():
            line = f"{instant(one.created_ms)}  {one.seq:>12}  {one.name}  {shown(one.where)}"
            session.output.result(_record(one), line)
    return exits.OK


@snapshot.command()
@click.argument("name")
@common_options
def delete(session: Session, name: str) -> int:
    """Forget the snapshot NAME; what only it kept is removed by the next gc."""
    with session.store() as store:
        store.delete_snapshot(name)
    session.output.result({"name": name}, f"deleted snapshot {name}")
    return exits.OK


@snapshot.command()
@click.argument("name")
@click.argument("until", metavar="[AS-OF]", default="")
@human_option
@common_options
def diff(session: Session, name: str, until: str, human: bool) -> int:
    """Show what was added, changed and deleted since the snapshot NAME, up to AS-OF (default: now)."""
    with session.store() as store:
        found = _find(store, name)
        buckets = [found.bucket] if found.bucket else store.buckets_ever()
        for bucket in buckets:
            show_differences(session, store.diff(bucket, found.prefix, since=name, until=until), human)
    return exits.OK


def _find(store: Store, name: str) -> Snapshot:
    for one in store.snapshots():
        if one.name == name:
            return one
    raise NoSuchSnapshot(f"there is no snapshot {name}")


def _record(found: Snapshot) -> dict[str, object]:
    return {
        "name": found.name,
        "bucket": found.bucket,
        "prefix": found.prefix,
        "seq": found.seq,
        "created": instant(found.created_ms),
    }
