"""The verb `quota`: how many bytes a bucket or prefix may take."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address, with_bucket
from gestalt_cas.cli.options import SIZE, human_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options

if TYPE_CHECKING:
    from gestalt_cas.keeping.quotas import Quota


@click.group()
def quota() -> None:
    """Limit the bytes that all versions of a bucket, or of keys that start with a prefix, may take together.

    Uploads and copies beyond a quota are refused; removals always work. Each version counts with its whole size, shared
    or not, and delete markers with nothing. Quotas may lie within each other, and then all of them hold.
    """


@quota.command(name="set")
@click.argument("where", type=ADDRESS, metavar="BUCKET[/PREFIX]")
@click.argument("max_bytes", type=SIZE, metavar="SIZE")
@common_options
def set_(session: Session, where: Address, max_bytes: int) -> int:
    """Set the quota of BUCKET[/PREFIX] to SIZE: bytes, or 500M, 10G, 1.5T (powers of 1024).

    Counts what is used now, for which it reads every version below while others write. SIZE may be less than what is
    used: then only what makes the use grow is refused.
    """
    with session.store() as store, Progress("quota") as progress:
        found = store.set_quota(where.bucket, where.rest, max_bytes, progress=progress.at)
    session.output.result(_record(found), f"{shown(found.name)}: {found.used_bytes} of {found.max_bytes} bytes used")
    return exits.OK


@quota.command(name="list")
@human_option
@common_options
def list_(session: Session, human: bool) -> int:
    """List the quotas, with what is used of each."""
    with session.store() as store:
        found = store.quotas()
    if not session.json:
        session.output.result({}, _line("used", "quota", "left", "name"))
    for one in found:
        session.output.result(_record(one), _row(one, human))
    return exits.OK


@quota.command(name="rm")
@click.argument("where", type=ADDRESS, metavar="BUCKET[/PREFIX]")
@common_options
def rm(session: Session, where: Address) -> int:
    """Remove the quota of just this BUCKET[/PREFIX]."""
    with session.store() as store:
        bucket = with_bucket(store, where.bucket)
        removed = store.remove_quota(bucket, where.rest)
    name = f"{bucket}/{where.rest}" if where.rest else bucket
    if not removed:
        session.output.failure("NoSuchQuota", f"{name}: no such quota", exits.NOT_FOUND)
        return exits.NOT_FOUND
    session.output.result({"bucket": bucket, "prefix": where.rest, "removed": True}, f"removed the quota {shown(name)}")
    return exits.OK


def _record(found: Quota) -> dict[str, object]:
    return {**asdict(found), "name": found.name}


def _row(found: Quota, human: bool) -> str:
    used, most, left = (
        output.size(count, human=human) for count in (found.used_bytes, found.max_bytes, max(found.left_bytes, 0))
    )
    return _line(used, most, left, shown(found.name))


def _line(used: str, most: str, left: str, name: str) -> str:
    return f"{used:>14}  {most:>14}  {left:>14}  {name}"
