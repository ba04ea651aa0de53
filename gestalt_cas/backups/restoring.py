"""Restoring a backup into a new directory, with everything in it verified before it counts.

    1  the backup's manifest, and the rows that belong to it, are found (manifests.state)
    2  DIR is made, with a file that says that a restore into it is not finished
    3  the rows are copied into that file; SQLite's own checks, the root digest and the counts of the manifest hold
    4  each payload is copied: its chunk sums and its BLAKE3 hold, the copy is synced
    5  the rows are synced, and their file gets the name of a database: now DIR is a store

Up to step 5 DIR has no database and is refused as a store; running the same restore again takes up what is there, after
reading it. The store goes on where the backup ends: the next change has the sequence after the manifest's, and version
ids never come twice, since a part of each is random. It keeps its name (`store` in the manifest), so that it can be
backed up to where it came from, once it has gone further than that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gestalt_cas.backups import destinations, manifests, row_copies
from gestalt_cas.backups.backup import Lost, described
from gestalt_cas.backups.manifests import Kind, Manifest, State
from gestalt_cas.backups.payload_copies import PayloadCopier, Tally
from gestalt_cas.backups.row_copies import Contents, RowCopy
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import DatabaseDamaged, DigestMismatch, SchemaTooNew, StoreBusy, StoreUnusable
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.files.layout import LOCKS, Layout
from gestalt_cas.progress import Progress, silent
from gestalt_cas.sql import schema
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_directory, sync_file
from gestalt_cas.system.locks import FileLock

_EMPTY = {"blobs", "staging", "lost+found", *LOCKS}
"""What a restore that was cut off at once leaves, beside what an empty directory may have."""
_COUNTS = ("root", "sequence", "commit_ms", "versions", "objects", "blobs", "bytes")
"""What manifest and rows both tell, under the same names."""
_RATHER = "restore --allow-incomplete takes what is whole"


@dataclass(frozen=True, slots=True)
class Restored:
    """A store that was restored. Sizes in bytes; `blobs` and `bytes` count every payload, `lost` ones included.

    `lost` and `doubts` (sentences) are empty unless the backup was damaged or incomplete and that was allowed.
    """

    directory: str
    id: str
    sequence: int
    versions: int
    objects: int
    blobs: int
    bytes: int
    reused: int
    copied: int
    copied_bytes: int
    keys: bool
    root: str
    lost: tuple[Lost, ...]
    doubts: tuple[str, ...]


def restore(
    src: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    allow_incomplete: bool = False,
    progress: Progress | None = None,
    on_lost: Callable[[Lost], None] | None = None,
) -> Restored:
    """Make a store in `directory`, new or empty, from the backup in `src`, which is only read.

    With `allow_incomplete` a backup that was cut off, changed or damaged gives what is whole in it. `on_lost` hears of
    each payload that it does not have whole. Raises StoreUnusable when there is no complete backup in `src` or
    something else in `directory`, DatabaseDamaged when the rows are not those of the manifest, DigestMismatch when
    payloads are missing or damaged, StoreBusy, DiskFull, StorageFault; `directory` is then not usable as a store.
    """
    source, target = Layout(Path(os.path.abspath(src))), Layout(Path(os.path.abspath(directory)))
    with destinations.told_about(target.root, lambda: destinations.left_by_restore(target.root)):
        if not source.root.is_dir():
            raise StoreUnusable(f"{source.root} holds no backup: {source.absence()}")
        destinations.refuse_nesting(source, target)
        _refuse_used(target)
        with _undisturbed(source):
            found = manifests.state(source.root)
            rows_file = _rows_of(source, found, allow_incomplete)
            run = _Restore(source, target, found, allow_incomplete, progress or silent, on_lost or _unheard)
            with destinations.claimed(target):
                _refuse_used(target)
                return run.run(rows_file)


class _Restore:
    """One restore, once both directories are ours."""

    def __init__(
        self,
        source: Layout,
        target: Layout,
        found: State,
        allow_incomplete: bool,
        progress: Progress,
        on_lost: Callable[[Lost], None],
    ) -> None:
        self._source, self._target = source, target
        self._manifest, self._allow = found.manifest, allow_incomplete
        self._progress, self._on_lost = progress, on_lost
        self._doubts = [] if found.whole else [found.reason]

    def run(self, rows_file: Path) -> Restored:
        # Without a database this name says what the directory is. It is synced with the tree, before any payload.
        row_copies.begin(self._target.restore_database)
        self._target.make_tree()
        self._take_rows(rows_file)
        with RowCopy(self._target.restore_database) as rows:
            contents = self._verified(rows)
            rows.become_a_store_of_its_own({})
            tally = self._bring_payloads(rows, contents.bytes)
            lost = tuple(described(rows, damage) for damage in tally.lost)
            self._judge(lost)
            rows.mark_damaged([bytes.fromhex(one.digest) for one in lost], now_ms())
            rows.finish()
        keys = self._bring_keys()
        self._target.restore_database.rename(self._target.database)
        sync_directory(self._target.root)
        return self._outcome(contents, tally, lost, keys)

    def _take_rows(self, rows_file: Path) -> None:
        try:
            with closing(manifests.open_rows(rows_file)) as opened:
                opened.execute("BEGIN")
                row_copies.take(opened, self._target.restore_database, self._source, None, self._tell_pages)
                opened.execute("COMMIT")
        except DatabaseDamaged as damage:
            raise DatabaseDamaged(f"the rows of the backup in {self._source.root} cannot be read: {damage}") from damage

    def _tell_pages(self, done: int, pages: int) -> None:
        self._progress("copying rows", done * schema.PAGE_SIZE, pages * schema.PAGE_SIZE)

    def _verified(self, rows: RowCopy) -> Contents:
        """Check the rows as far as that goes without the payloads. Malformed ones are never restored."""
        self._progress("checking rows", 0, 0)
        try:
            if rows.format > schema.FORMAT:
                raise SchemaTooNew(
                    f"the backup in {self._source.root} has format {rows.format}; this release of gestalt-cas reads up "
                    f"to {schema.FORMAT}"
                )
            rows.check()
            # A backup that was looked into with a later release has been upgraded, which its manifest does not know.
            contents = rows.contents(self._manifest.revision if self._manifest is not None else "")
        except DatabaseDamaged as damage:
            raise DatabaseDamaged(f"the rows of the backup in {self._source.root} are no good: {damage}") from damage
        if self._manifest is not None:
            self._compare(contents, self._manifest)
        if (wrong := rows.lost_digest()) is not None:
            self._doubt(f"the rows of the backup in {self._source.root} hold what no write stores: {wrong}")
        return contents

    def _doubt(self, text: str) -> None:
        """Raise DatabaseDamaged, or go on and tell at the end where what is not whole is allowed."""
        if not self._allow:
            raise DatabaseDamaged(f"{text}; {_RATHER}")
        self._doubts.append(text)

    def _compare(self, contents: Contents, manifest: Manifest) -> None:
        wrong = [
            f"{name} {getattr(contents, name)} instead of {getattr(manifest, name)}"
            for name in _COUNTS
            if getattr(contents, name) != getattr(manifest, name)
        ]
        if wrong:
            told = ", ".join(wrong)
            self._doubt(f"the rows in {self._source.root} are not those that its manifest was made for: {told}")

    def _bring_payloads(self, rows: RowCopy, total: int) -> Tally:
        target = Blobs(self._target, Limits())
        target.staging.clean()
        copier = PayloadCopier(
            Blobs(self._source, Limits()),
            target,
            tell=lambda done: self._progress("copying payloads", done, total),
        )
        with closing(rows.payloads()) as payloads:
            copier.copy(payloads)
        copier.tally.lost += rows.damage_inside()
        return copier.tally

    def _judge(self, lost: tuple[Lost, ...]) -> None:
        for one in lost:
            self._on_lost(one)
        if lost and not self._allow:
            raise DigestMismatch(
                f"{len(lost)} payloads of the backup in {self._source.root} are missing or damaged, the first: "
                f"{lost[0].reason}; {self._target.root} is no store yet. check --read-data on the backup marks them, "
                f"so that the next backup copies them anew; {_RATHER}",
                digest=lost[0].digest,
            )

    def _bring_keys(self) -> bool:
        """Put the signing keys in place, synced, if the backup has them; else there are none, nor any of another one.

        Those may be there of a restore from another backup that was cut off.
        """
        content = self._keys_of_backup()
        if content is None:
            self._target.keys.unlink(missing_ok=True)
        else:
            fd = ownership.open_or_make(self._target.keys, os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                sync_file(fd)
        sync_directory(self._target.root)  # else the database's name might last and this one's not, or its absence
        return content is not None

    def _keys_of_backup(self) -> bytes | None:
        """What the backup was made with; None when that was without keys, or its loss is allowed."""
        if self._manifest is None or self._manifest.keys is None:
            return None
        content = self._keys(self._manifest.keys)
        if content is None:
            text = f"{self._source.keys} is not the file that the backup was made with"
            if not self._allow:
                raise DigestMismatch(f"{text}; {_RATHER}, without keys", digest=self._manifest.keys)
            self._doubts.append(text)
        return content

    def _keys(self, digest: str) -> bytes | None:
        for path in (self._source.keys, self._source.previous_keys):
            if path.is_file() and blake3(content := path.read_bytes()).hexdigest() == digest:
                return content
        return None

    def _outcome(self, contents: Contents, tally: Tally, lost: tuple[Lost, ...], keys: bool) -> Restored:
        return Restored(
            directory=str(self._target.root),
            id=self._manifest.id if self._manifest is not None else "",
            sequence=contents.sequence,
            versions=contents.versions,
            objects=contents.objects,
            blobs=contents.blobs,
            bytes=contents.bytes,
            reused=tally.reused,
            copied=tally.copied,
            copied_bytes=tally.copied_bytes,
            keys=keys,
            root=contents.root,
            lost=lost,
            doubts=tuple(self._doubts),
        )


def _unheard(_: Lost) -> None:
    """For callers who read the outcome."""


def _rows_of(source: Layout, found: State, allow_incomplete: bool) -> Path:
    """The database file to restore from; raises StoreUnusable or DigestMismatch when the backup may not be used."""
    if found.kind is Kind.NONE:
        raise StoreUnusable(found.reason)
    if found.kind is Kind.COMPLETE and found.rows is not None:
        return found.rows
    if not allow_incomplete:
        if found.kind is Kind.INCOMPLETE and found.manifest is not None:
            raise DigestMismatch(f"{found.reason}; {_RATHER}", digest=found.manifest.missing[0])
        raise StoreUnusable(f"{found.reason}. Or: {_RATHER}")
    rows = found.rows or source.database
    if not rows.exists():
        raise StoreUnusable(f"{found.reason}; nothing can be restored, it has no rows yet")
    return rows


def _refuse_used(target: Layout) -> None:
    """Raise StoreUnusable unless the directory is absent, empty, or that of a restore that was cut off."""
    if not target.root.exists():
        return
    names = {entry.name for entry in os.scandir(target.root)}
    if target.database.name in names:
        raise StoreUnusable(f"{target.root} already holds a store; name a new or an empty directory")
    if target.restore_database.name in names:
        return
    strangers = sorted(names - _EMPTY)
    if strangers:
        raise StoreUnusable(f"{target.root} is not empty, it holds {strangers[0]!r}; name a new or an empty directory")
    target.refuse_orphans()


@contextmanager
def _undisturbed(source: Layout) -> Iterator[None]:
    """Keep backups from replacing what is read. Where no lock can be had, nobody can write either."""
    try:
        lock = FileLock(source.schema_lock)
    except OSError:
        yield
        return
    try:
        try:
            lock.acquire(time.monotonic() + destinations.CLAIM_SECONDS, shared=True)
        except StoreBusy as error:
            raise StoreBusy(f"{source.root} is being written to, by a backup perhaps: {error}") from None
        yield
    finally:
        lock.close()
