"""Keys on their way to a directory: get -r, and sync from the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gestalt_cas.cli.addresses import Address, with_bucket
from gestalt_cas.cli.listings import versions_from
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.runs import Run, objects_below, parts_of, reason, same_bytes
from gestalt_cas.cli.session import Session
from gestalt_cas.cli.transfers import download
from gestalt_cas.errors import NoSuchKey
from gestalt_cas.objects import ListQuery, ObjectKey, ObjectVersion
from gestalt_cas.transfers.directories import Directory, Kind, Obstacle
from gestalt_cas.transfers.paths import PathLimits, RemoteTree
from gestalt_cas.transfers.transfer_plans import Removal, Skip, Step, Transfer, plan_download
from gestalt_cas.transfers.walking import LocalFile, walk

if TYPE_CHECKING:
    from gestalt_cas.rows.moments import AsOf
    from gestalt_cas.store import ObjectReader, Store


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """How a directory is filled: with `compare` only what differs, with `delete` removing what the store has not.

    `as_of` names the moment whose objects are meant; "": now.
    """

    compare: bool = False
    delete: bool = False
    dry_run: bool = False
    as_of: str = ""


def from_store(session: Session, source: Address, path: Path, options: DownloadOptions) -> int:
    """Write the objects below a prefix to a directory, report that, and return the exit code."""
    with (
        session.store() as store,
        Progress(str(path)) as progress,
        Run(session.output, progress, dry_run=options.dry_run) as run,
    ):
        remote = RemoteTree.at(with_bucket(store, source.bucket), source.rest)
        moment = store.moment(options.as_of, remote.bucket, remote.prefix) if options.as_of else ""
        _require_history(store, remote, moment)
        objects = objects_below(store, remote, moment)
        if options.dry_run and not path.exists():
            run_dry = _Download(run, store, remote, path, None, options.delete, moment)
            run_dry.perform(plan_download(objects, (), PathLimits(), run_dry.same, delete=False))
            return run.finish()
        if not options.dry_run:
            path.mkdir(parents=True, exist_ok=True)
        with Directory(path, store=store.directory) as tree:
            job = _Download(run, store, remote, path, tree, options.delete, moment)
            entries = walk(tree) if options.compare else ()
            job.perform(plan_download(objects, entries, tree.limits(), job.same, delete=options.delete))
        return run.finish()


def _require_history(store: Store, tree: RemoteTree, moment: AsOf) -> None:
    """Raise NoSuchKey unless something is or once was below the prefix.

    An emptied prefix is a source like any other, but a mistyped one must not empty a directory with --delete.
    """
    if moment and any(True for _ in objects_below(store, tree, moment)):
        return
    if not any(True for _ in versions_from(store, ListQuery(bucket=tree.bucket, prefix=tree.prefix, max_keys=1))):
        raise NoSuchKey(f"{tree}: no such prefix")


@dataclass
class _Download:
    """`tree` is None for a dry run to a directory that is not there yet."""

    run: Run
    store: Store
    source: RemoteTree
    path: Path
    tree: Directory | None
    delete: bool
    moment: AsOf = ""
    removals: set[str] = field(default_factory=set)
    obstructed: list[tuple[Transfer, Obstacle]] = field(default_factory=list)

    def perform(self, steps: Iterable[Step]) -> None:
        for step in steps:
            match step:
                case Skip(name, why):
                    self._skip(name, why)
                case Transfer():
                    self._fetch(step)
                case Removal():
                    self._remove(step)
                case _:
                    self.run.tally.unchanged += 1
        for transfer, obstacle in self.obstructed:
            self._fetch_behind(transfer, obstacle)

    def same(self, file: LocalFile, version: ObjectVersion) -> bool:
        assert self.tree is not None
        return same_bytes(self.run, self.tree, file, version)

    def _skip(self, name: str, why: str) -> None:
        self.run.skip(str(self.source.key(name)), why)

    def _fetch(self, step: Transfer) -> None:
        """Write one object; what --delete may yet remove from its way is looked at again in the end."""
        try:
            if self.tree is not None:
                self.tree.check_target(parts_of(step.name))
        except OSError as error:
            if self.delete and isinstance(error, Obstacle) and error.kind in (Kind.FILE, Kind.DIRECTORY):
                self.obstructed.append((step, error))
            else:
                self._skip(step.name, reason(error))
        else:
            self._write(step)

    def _fetch_behind(self, step: Transfer, obstacle: Obstacle) -> None:
        """Write an object whose way was obstructed, if the removals have cleared it, or would in a dry run."""
        assert self.tree is not None
        try:
            look = self._would_clear if self.run.dry_run else self._clear
            cleared = look(self.tree, obstacle)
        except OSError as error:
            self._skip(step.name, reason(error))
            return
        if cleared:
            self._write(step)
        else:
            self._skip(step.name, reason(obstacle))

    def _would_clear(self, tree: Directory, obstacle: Obstacle) -> bool:
        if obstacle.kind is Kind.FILE:
            return obstacle.name in self.removals
        return tree.only_directories(parts_of(obstacle.name), but=self.removals) is not None

    def _clear(self, tree: Directory, obstacle: Obstacle) -> bool:
        """Remove the directories that are left of an obstacle; returns whether nothing is there now."""
        parts = parts_of(obstacle.name)
        if obstacle.kind is Kind.DIRECTORY and tree.status(parts) is not None:
            found = tree.only_directories(parts)
            if found is not None:
                tree.remove_directories(found)
        return tree.status(parts) is None

    def _write(self, step: Transfer) -> None:
        run, key, path = self.run, self.source.key(step.name), str(self.path / step.name)
        version_id = "" if step.version is None else step.version.version_id

        def write() -> None:
            assert self.tree is not None
            parts = parts_of(step.name)
            with self._opened(key, version_id) as reader, self.tree.replacing(parts) as file:
                download(reader, file, run.advance)

        def report(_: None) -> None:
            run.tally.downloaded += 1
            run.tally.bytes += step.size
            places = {"bucket": key.bucket, "key": key.key, "path": path}
            run.act("download", source=str(key), target=path, **places, size=step.size, reason=step.reason)

        run.carry_out(str(key), write, report)

    def _opened(self, key: ObjectKey, version_id: str) -> ObjectReader:
        """What was listed; a version that was removed since is there for its moment only, while a snapshot keeps it."""
        if self.moment:
            return self.store.read(key, as_of=self.moment)
        return self.store.read(key, version_id=version_id)

    def _remove(self, step: Removal) -> None:
        path = str(self.path / step.name)

        def remove() -> None:
            assert self.tree is not None
            self.tree.remove(parts_of(step.name))

        def report(_: None) -> None:
            self.run.tally.deleted += 1
            self.run.act("delete", target=path, path=path, size=step.size)

        self.removals.add(step.name)
        self.run.carry_out(path, remove, report)
