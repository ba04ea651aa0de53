"""The verb `rollback`: everything below a bucket or prefix as it was at an earlier moment."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import human_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.errors import InvalidArgument

if TYPE_CHECKING:
    from gestalt_cas.store import Store
    from gestalt_cas.time_travel.rollback import RolledBack


@click.command()
@click.argument("where", type=ADDRESS, metavar="BUCKET[/PREFIX]")
@click.option("--to", "moment", required=True, metavar="AS-OF", help="A sequence, a time, or a snapshot's name.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--stop-writes", is_flag=True, help="Any number of keys, for as long as it takes.")
@human_option
@common_options
def rollback(session: Session, where: Address, moment: str, dry_run: bool, stop_writes: bool, human: bool) -> int:
    """Make everything below BUCKET[/PREFIX] what it was at a moment, all at once.

        gestalt-cas rollback assets/site --to 2h --dry-run

    Versions are added, none is removed but null versions that are replaced while versioning is suspended. So it can be
    undone otherwise: the command for that is printed. Readers see what was
    before or all of it. Others that write wait meanwhile, for 10 s at most; what would take longer, or change more
    than 250,000 keys, is refused without --stop-writes. Nothing changes when a version of then was removed for good,
    and a time before the first change is refused: --to 0 is for that.
    """
    if not moment:  # from an unset variable of a script; now is not what was meant
        raise InvalidArgument("--to: the value is empty")
    with session.store() as store, Progress("rollback", counted=True) as progress:
        if not (dry_run or moment.isdigit()):
            _refuse_before_all(store, where, moment)
        done = store.rollback(
            where.bucket, where.rest, to=moment, dry_run=dry_run, stop_writes=stop_writes, progress=progress.at
        )
    if dry_run:
        _show_steps(session, done, human)
    session.output.result(_record(done, dry_run), _summary(done, dry_run))
    if not dry_run and done.keys:
        _say_how_to_undo(session, done)
    return exits.OK


def _refuse_before_all(store: Store, where: Address, moment: str) -> None:
    """An hour ago there may have been nothing at all, which whoever is in a hurry does not think of."""
    named = store.moment(moment, where.bucket, where.rest)
    if not (named.seq or named.snapshot):
        raise InvalidArgument(
            f"--to {moment}: nothing had been written by then, so all of {where} would be deleted; --to 0 does that"
        )


def _say_how_to_undo(session: Session, done: RolledBack) -> None:
    if not done.undoable:
        session.output.warn("versioning is suspended: null versions were replaced, so this cannot be undone as a whole")
    elif not session.json:
        where = ["--data-dir", session.data_dir] if session.data_dir else []
        words = ["gestalt-cas", "rollback", done.scope.name, "--to", str(done.seq_before), *where]
        session.output.result({}, f"to undo it: {shown(shlex.join(words))}")


def _show_steps(session: Session, done: RolledBack, human: bool) -> None:
    for step in done.steps():
        text = f"{step.kind:<8} {output.size(step.size, human=human):>12}  {shown(str(step.key))}"
        record = {"change": step.kind, "bucket": step.key.bucket, "key": step.key.key, "size": step.size}
        session.output.result(record, text)


def _summary(done: RolledBack, dry_run: bool) -> str:
    what = "would roll back" if dry_run else "rolled back"
    counts = f"{done.added} added, {done.changed} changed, {done.deleted} deleted"
    return f"{what} {shown(done.scope.name)} to {done.scope.moment}: {counts}"


def _record(done: RolledBack, dry_run: bool) -> dict[str, object]:
    return {
        "bucket": done.scope.bucket,
        "prefix": done.scope.prefix,
        "to": {"seq": done.scope.moment.seq, "snapshot": done.scope.moment.snapshot},
        "dry_run": dry_run,
        "added": done.added,
        "changed": done.changed,
        "deleted": done.deleted,
        "seq_before": done.seq_before,
        "seq_after": done.seq_after,
    }
