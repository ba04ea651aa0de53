"""The verb `prove`: one digest of what is held, to be compared with that of another store."""

from __future__ import annotations

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import as_of_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options


@click.command()
@click.argument("where", type=ADDRESS, metavar="[BUCKET]", required=False)
@click.option("--current", is_flag=True, help="The current objects only, not the versions below them.")
@as_of_option
@common_options
def prove(session: Session, where: Address | None, current: bool, as_of: str) -> int:
    """Print one digest of what BUCKET, or the whole store, holds.

    It covers keys, versions and delete markers in their order, payload digests, headers and metadata, and neither
    version ids nor times: two stores that hold the same have the same digest. Reads every row and no payload; that the
    payloads are what their digests say is for check --read-data.
    """
    if where is not None and where.rest:
        raise click.UsageError(f"{where} names more than a bucket")
    with session.store() as store, Progress("prove", counted=True) as progress:
        found = store.prove(None if where is None else where.bucket, as_of=as_of, current=current, progress=progress.at)
    record = {
        "digest": found.digest,
        "bucket": found.bucket,
        "seq": found.moment.seq,
        "current": current,
        "lines": found.lines,
    }
    session.output.result(record, f"{found.digest}  {shown(found.bucket) or 'the whole store'} at {found.moment}")
    return exits.OK
