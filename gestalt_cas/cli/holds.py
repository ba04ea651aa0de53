"""The verb `hold`: what nothing may remove."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import version_id_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant

if TYPE_CHECKING:
    from gestalt_cas.keeping.holds import Hold

_where = click.argument("where", type=ADDRESS, metavar="BUCKET[/PREFIX]")


@click.group()
def hold() -> None:
    """Have nothing remove a version, or any version below a prefix, until the hold is released.

    Retention passes it over; rm --version-id, purge, and a write that would replace a held null version are
    refused. Objects can be deleted and overwritten all the same: that adds to their history and removes nothing.
    """


@hold.command(name="set")
@_where
@version_id_option
@common_options
def set_(session: Session, where: Address, version_id: str) -> int:
    """Hold every version of the keys that start with PREFIX, those to come included.

    With --version-id only that version of the key BUCKET/KEY.
    """
    if version_id:
        where.key()
    with session.store() as store:
        found = store.hold(where.bucket, where.rest, version_id=version_id)
    session.output.result(_record(found), f"held: {shown(found.name)}")
    return exits.OK


@hold.command(name="list")
@common_options
def list_(session: Session) -> int:
    """List the holds."""
    with session.store() as store:
        for one in store.holds():
            session.output.result(_record(one), f"{instant(one.created_ms)}  {shown(one.name)}")
    return exits.OK


@hold.command()
@_where
@version_id_option
@common_options
def release(session: Session, where: Address, version_id: str) -> int:
    """End the hold on just this BUCKET[/PREFIX], or with --version-id on that version."""
    with session.store() as store:
        released = store.release_hold(where.bucket, where.rest, version_id=version_id)
    if not released:
        session.output.failure("NoSuchHold", f"{where}: no such hold", exits.NOT_FOUND)
        return exits.NOT_FOUND
    record = {"bucket": where.bucket, "prefix": where.rest, "version_id": version_id, "released": True}
    session.output.result(record, f"released: {shown(str(where))}")
    return exits.OK


def _record(found: Hold) -> dict[str, object]:
    return {**asdict(found), "name": found.name}
