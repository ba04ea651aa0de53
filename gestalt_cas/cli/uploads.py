"""A directory on its way to keys: put -r, and sync towards the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt_cas.cli.addresses import Address, with_bucket
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.runs import WRITERS, Run, objects_below, parts_of, same_bytes
from gestalt_cas.cli.session import Session
from gestalt_cas.cli.transfers import Attributes, upload
from gestalt_cas.objects import ObjectVersion
from gestalt_cas.transfers.directories import Directory
from gestalt_cas.transfers.paths import RemoteTree
from gestalt_cas.transfers.transfer_plans import Removal, Skip, Step, Transfer, plan_upload
from gestalt_cas.transfers.walking import LocalFile, walk

if TYPE_CHECKING:
    from gestalt_cas.store import Store


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How a directory is stored: with `compare` only what differs, with `delete` removing what it does not have."""

    compare: bool = False
    delete: bool = False
    dry_run: bool = False
    follow_symlinks: bool = False


def to_store(session: Session, path: Path, target: Address, attributes: Attributes, options: UploadOptions) -> int:
    """Store the files below a directory as keys below a prefix, report that, and return the exit code."""
    with (
        session.store() as store,
        Directory(path, store=store.directory, follow_symlinks=options.follow_symlinks) as tree,
        Progress(str(path)) as progress,
        Run(session.output, progress, dry_run=options.dry_run, writers=WRITERS) as run,
    ):
        remote = RemoteTree.at(with_bucket(store, target.bucket), target.rest)
        job = _Upload(run, store, tree, remote, attributes)
        objects = objects_below(store, remote) if options.compare else ()
        job.perform(plan_upload(walk(tree), objects, remote, job.same, delete=options.delete))
        return run.finish()


@dataclass
class _Upload:
    run: Run
    store: Store
    tree: Directory
    target: RemoteTree
    attributes: Attributes

    def perform(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Skip(name, reason):
                    self.run.skip(self.tree.shown(name), reason)
                case Transfer():
                    self._send(step)
                case Removal():
                    self._remove(step)
                case _:
                    self.run.tally.unchanged += 1

    def same(self, file: LocalFile, version: ObjectVersion) -> bool:
        return same_bytes(self.run, self.tree, file, version)

    def _send(self, step: Transfer) -> None:
        run, key, path = self.run, self.target.key(step.name), self.tree.shown(step.name)

        def send() -> tuple[ObjectVersion, bool]:
            with self.tree.reading(parts_of(step.name)) as file:
                return upload(self.store, key, file, step.name, self.attributes, run.advance)

        def report(sent: tuple[ObjectVersion, bool] | None) -> None:
            version, changed = sent or (None, False)
            size = step.size if version is None else version.size
            run.tally.uploaded += 1
            run.tally.bytes += size
            places = {"bucket": key.bucket, "key": key.key, "path": path}
            run.act("upload", source=path, target=str(key), **places, size=size, reason=step.reason)
            if changed:
                run.warn(path, "changed while it was read; what was read is stored")

        run.carry_out(path, send, report)

    def _remove(self, step: Removal) -> None:
        self.run.wait()  # what is to be stored is stored before anything is removed
        remove_object(self.run, self.store, self.target, step)


def remove_object(run: Run, store: Store, tree: RemoteTree, step: Removal) -> None:
    """Remove one object of a tree, and report it."""
    key = tree.key(step.name)

    def report(_: ObjectVersion | None) -> None:
        run.tally.deleted += 1
        run.act("delete", target=str(key), bucket=key.bucket, key=key.key, size=step.size)

    run.carry_out(str(key), lambda: store.delete(key), report)
