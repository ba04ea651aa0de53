"""The verbs over whole trees: sync, and rm with -r. The ways to keys and back: `uploads.py` and `downloads.py`."""

from __future__ import annotations

from pathlib import Path

import click

from gestalt_cas.cli.addresses import Address, with_bucket
from gestalt_cas.cli.downloads import DownloadOptions, from_store
from gestalt_cas.cli.options import as_of_option
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.runs import WRITERS, Run, objects_below
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.cli.transfers import Attributes
from gestalt_cas.cli.uploads import UploadOptions, remove_object, to_store
from gestalt_cas.errors import NoSuchKey
from gestalt_cas.transfers.paths import RemoteTree
from gestalt_cas.transfers.transfer_plans import Removal


def remove_tree(session: Session, target: Address, *, force: bool, yes: bool) -> int:
    """Remove every object below a prefix, a whole bucket only with `yes`; report that and return the exit code."""
    if not target.rest and not yes:
        raise click.UsageError(f"{target} is a whole bucket; add --yes to remove every object in it")
    with (
        session.store() as store,
        Progress(str(target)) as progress,
        Run(session.output, progress, writers=WRITERS) as run,
    ):
        tree = RemoteTree.at(with_bucket(store, target.bucket), target.rest)
        found = False
        for name, version in objects_below(store, tree):
            found = True
            remove_object(run, store, tree, Removal(name, version.size))
        if not found and not force:
            raise NoSuchKey(f"{tree}: no object is below it")
        return run.finish()


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("-n", "--dry-run", is_flag=True, help="Only print what would be done.")
@click.option("--delete", is_flag=True, help="Also remove from the target what the source does not have.")
@click.option("--follow-symlinks", is_flag=True, help="Store what symbolic links lead to (from a directory only).")
@as_of_option
@common_options
def sync(
    session: Session, source: str, target: str, dry_run: bool, delete: bool, follow_symlinks: bool, as_of: str
) -> int:
    """Make BUCKET/PREFIX like a directory, or a directory like BUCKET/PREFIX.

        gestalt-cas sync ./site assets/site

        gestalt-cas sync assets/site ./site

    What starts with '/', './', '../' or '~' is a directory, and so is the name of an existing one; the other is
    BUCKET/PREFIX. DIR/x and PREFIX/x correspond. Bytes are compared, by size and then by BLAKE3; times are not.
    Names that cannot be on the other side are named and skipped (exit code 1), and --delete leaves them alone. With
    --as-of the directory becomes like BUCKET/PREFIX was then.
    """
    if _is_upwards(source, target):
        if as_of:
            raise click.UsageError("--as-of is for a BUCKET/PREFIX that is read, not for one that is written")
        up = UploadOptions(compare=True, delete=delete, dry_run=dry_run, follow_symlinks=follow_symlinks)
        return to_store(session, Path(source).expanduser(), Address.parse(target), Attributes(), up)
    if follow_symlinks:
        raise click.UsageError("--follow-symlinks is for a directory that is read, not for one that is written")
    down = DownloadOptions(compare=True, delete=delete, dry_run=dry_run, as_of=as_of)
    return from_store(session, Address.parse(source), Path(target).expanduser(), down)


def _is_upwards(source: str, target: str) -> bool:
    """Whether the source is the directory; raises click.UsageError unless exactly one of the two is."""
    explicit = _is_path(source), _is_path(target)
    found = explicit if any(explicit) else (Path(source).is_dir(), Path(target).is_dir())
    if found[0] == found[1]:
        both = "both are directories" if found[0] else "neither is a directory"
        raise click.UsageError(
            f"sync needs one directory and one BUCKET/PREFIX, and {both}; write a directory as ./DIR"
        )
    return found[0]


def _is_path(text: str) -> bool:
    return text in (".", "..") or text.startswith(("/", "./", "../", "~"))
