"""Backing up a live store into a directory that is then a store of its own, beside a manifest.

    1  DEST is claimed: its schema.lock is held exclusively to the end, so no server, check, gc or other backup has it
    2  a pin with a heartbeat is set in the store: gc removes nothing until it is dropped
    3  the rows are copied as they are at one moment, to a name beside those of the backup before (row_copies.py), and
       made such that DEST's gc finds nothing to change in them
    4  the payloads that DEST does not have are copied, each checked and synced (payload_copies.py)
    5  the pin is confirmed; the new rows are synced and take the place of the old ones, which keep a second name
    6  the manifest is written and synced: now the new backup counts
    7  the second name goes, the pin is dropped

No payload of DEST is ever removed or changed here, but for one that is not whole. So a backup that is cut off before
step 6 leaves the one before as it was: `manifests.state` finds the rows that the manifest belongs to, whichever name
they have. A first backup that is cut off has no manifest, and until step 5 no database either, so nothing can take it
for a store. Running it again takes up what is there, after reading it. Payloads that only earlier backups need are
removed by DEST's own gc.

What the store lost (a payload is missing or damaged) does not stop a backup: the rest would be lost with it. The
manifest says what is missing, unless DEST has it from a time when it was whole.
"""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from gestalt_cas import __version__
from gestalt_cas.backups import destinations, manifests, row_copies
from gestalt_cas.backups.manifests import Manifest, State
from gestalt_cas.backups.payload_copies import PayloadCopier, Tally
from gestalt_cas.backups.row_copies import Contents, RowCopy, Vouchers
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import (
    Damage,
    DatabaseDamaged,
    StoreError,
)
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.reserve import Reserve
from gestalt_cas.operations.heartbeats import HeldPin
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.remedies import command
from gestalt_cas.removal import soundness
from gestalt_cas.rows import history
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_directory, sync_file
from gestalt_cas.system.locks import StoreLocks
from gestalt_cas.transactions.connections import connect

log = logging.getLogger(__name__)

_SWAP_TIMEOUT = 20.0
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Lost:
    """A payload that could not be had whole; `objects` are some of those that have versions with it."""

    digest: str
    reason: str
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup that is complete. Sizes in bytes; `blobs` and `bytes` count every payload, `lost` ones included.

    Payloads that are rows come with the rows. Of the others `kept` were in DEST, `reused` too but had to be read first,
    `copied` are new.
    """

    directory: str
    id: str
    sequence: int
    versions: int
    objects: int
    blobs: int
    bytes: int
    kept: int
    reused: int
    copied: int
    copied_bytes: int
    keys: bool
    root: str
    lost: tuple[Lost, ...]


def back_up(
    parts: Parts, dest: str | os.PathLike[str], *, with_keys: bool = False, progress: Progress | None = None
) -> BackedUp:
    """Back the store up into `dest`: a new or empty directory, or one with an earlier backup of the same store.

    Raises StoreUnusable when `dest` holds something else or lies within the store (or the store in it), StoreBusy when
    another process uses it or the pin has gone, DiskFull and StorageFault naming it, DatabaseDamaged when the store's
    rows are damaged. What `dest` held before is good after each of them.
    """
    target = Layout(Path(os.path.abspath(dest)))
    identity = _Identity(_identity(parts), secrets.token_hex(16))
    with destinations.told_about(target.root, lambda: destinations.left_by_backup(target.root)):
        destinations.refuse_nesting(parts.layout, target)
        destinations.judge(target, identity.store, _sequence(parts))
        with destinations.claimed(target) as locks:
            before = destinations.judge(target, identity.store, _sequence(parts))
            detail: dict[str, object] = {"directory": str(target.root), "pid": os.getpid()}
            with HeldPin(parts, f"backup-{identity.backup}", "backup", detail) as pin:
                done = _Backup(parts, target, locks, pin, identity, before, progress or silent).run(with_keys)
    parts.reserve.spend_on(lambda: parts.note(manifests.NOTE, _noted(done)))
    return done


@dataclass(frozen=True, slots=True)
class _Identity:
    store: str
    backup: str


class _Backup:
    """One backup, once DEST is claimed and the pin stands."""

    def __init__(
        self,
        parts: Parts,
        target: Layout,
        locks: StoreLocks,
        pin: HeldPin,
        identity: _Identity,
        before: State,
        progress: Progress,
    ) -> None:
        self._parts, self._target, self._locks, self._pin = parts, target, locks, pin
        self._identity, self._before, self._progress = identity, before, progress

    def run(self, with_keys: bool) -> BackedUp:
        at_ms = now_ms()
        blobs = self._make_room()
        self._take_rows()
        with RowCopy(self._target.backup_database) as rows:
            contents = self._prepare(rows)
            tally = self._bring_payloads(rows, blobs, contents.bytes)
            lost = tuple(described(rows, damage) for damage in tally.lost)
            rows.mark_damaged([bytes.fromhex(one.digest) for one in lost], at_ms)
            rows.finish()
        keys = self._bring_keys() if with_keys else None
        self._pin.confirm()
        self._swap(keys is not None)
        manifest = self._manifest(contents, at_ms, keys, lost)
        manifests.write(self._target, manifest)
        self._tidy(manifest)
        return _outcome(self._target, manifest, tally, lost)

    def _make_room(self) -> Blobs:
        """Complete the tree of DEST, and remove what a backup that was cut off left beside it."""
        # Without a database this name says what the directory is: a backup that is not finished. It is synced with the
        # tree, before there is any payload.
        row_copies.begin(self._target.backup_database)
        self._target.make_tree()
        Reserve(self._target).keep()  # with it DEST's own gc works when this fills the disk
        blobs = Blobs(self._target, Limits())
        blobs.staging.clean()
        return blobs

    def _take_rows(self) -> None:
        with self._parts.database.read() as tx:
            row_copies.take(
                tx,
                self._target.backup_database,
                self._parts.layout,
                self._parts.locks.writer,
                lambda done, pages: self._tell("copying rows", done * schema.PAGE_SIZE, pages * schema.PAGE_SIZE),
            )

    def _prepare(self, rows: RowCopy) -> Contents:
        self._tell("checking rows", 0, 0)
        notes: dict[str, object] = {
            manifests.STORE_NOTE: self._identity.store,
            manifests.BACKUP_NOTE: self._identity.backup,
        }
        try:
            with suppress(DatabaseDamaged):  # gc removes nothing then, in DEST as little
                rows.let_go(partial(soundness.require, self._parts))
            rows.become_a_store_of_its_own(notes)
            rows.check()
            if (wrong := rows.lost_digest()) is not None:
                raise DatabaseDamaged(f"the rows are damaged: {wrong}")
            return rows.contents()
        except DatabaseDamaged as damage:
            root = self._parts.layout.root
            raise DatabaseDamaged(
                f"no backup was made of {root}: {damage}; {command('check', root)} tells more; what "
                f"{self._target.root} held before is as it was"
            ) from damage

    def _bring_payloads(self, rows: RowCopy, blobs: Blobs, total: int) -> Tally:
        vouchers = Vouchers(self._target.database if self._target.database.exists() else None)
        try:
            copier = PayloadCopier(
                self._parts.blobs,
                blobs,
                tell=lambda done: self._tell("copying payloads", done, total),
                vouch=vouchers.vouch,
                on_damage=self._parts.payloads.record_damage,
            )
            with closing(rows.payloads()) as payloads:
                copier.copy(payloads)
            for damage in rows.damage_inside():
                copier.tally.lost.append(damage)
                self._parts.payloads.record_unsound(damage)
        finally:
            vouchers.close()
        return copier.tally

    def _bring_keys(self) -> str | None:
        """Put the signing keys beside those of DEST, synced; returns their digest, None when the store has none."""
        part = _part(self._target.keys)
        part.unlink(missing_ok=True)
        try:
            content = self._parts.layout.keys.read_bytes()
        except FileNotFoundError:
            return None
        fd = ownership.make_file(part, os.O_WRONLY, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            sync_file(fd)
        return blake3(content).hexdigest()

    def _swap(self, keys: bool) -> None:
        """Give the new rows and keys their names; the old ones have a second one until the manifest is replaced."""
        target = self._target
        with self._locks.writer.held(_SWAP_TIMEOUT):
            if target.database.exists():
                _fold(target)
                if self._before.rows == target.database:
                    _keep(target.database, target.previous_database)
                    _keep(target.keys, target.previous_keys)
                # What a WAL holds would count as the new rows', and without its second name the old backup is gone.
                sync_directory(target.root)
            target.backup_database.rename(target.database)
            if keys:
                _part(target.keys).rename(target.keys)
            sync_directory(target.root)

    def _manifest(self, contents: Contents, at_ms: int, keys: str | None, lost: tuple[Lost, ...]) -> Manifest:
        return Manifest(
            id=self._identity.backup,
            store=self._identity.store,
            made_by=f"gestalt-cas {__version__}",
            revision=schema.REVISION,
            at_ms=at_ms,
            sequence=contents.sequence,
            commit_ms=contents.commit_ms,
            versions=contents.versions,
            objects=contents.objects,
            blobs=contents.blobs,
            bytes=contents.bytes,
            root=contents.root,
            keys=keys,
            missing=tuple(one.digest for one in lost),
        )

    def _tidy(self, manifest: Manifest) -> None:
        """Remove what only the backup before needed, its signing keys too; what stays behind harms nothing."""
        before = self._before.manifest
        try:
            if before is not None and before.keys and manifest.keys is None:
                _remove_if(self._target.keys, before.keys)
            self._target.previous_database.unlink(missing_ok=True)
            self._target.previous_keys.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "the backup in %s is complete, but not all of the one before could be removed: %s",
                self._target.root,
                error,
            )

    def _tell(self, what: str, done: int, total: int) -> None:
        self._pin.check()
        self._progress(what, done, total)


def _identity(parts: Parts) -> str:
    """The name of the store, the same in it and in all its backups; made when it is first asked for."""
    found = parts.recall(manifests.STORE_NOTE)
    if isinstance(found, str):
        return found

    def name() -> str:
        with parts.database.write() as tx:
            present = store_settings.recall(tx, manifests.STORE_NOTE)  # another process may have been faster
            chosen = present if isinstance(present, str) else secrets.token_hex(16)
            store_settings.store(tx, {manifests.STORE_NOTE: chosen})
            return chosen

    return parts.reserve.spend_on(name)


def _sequence(parts: Parts) -> int:
    with parts.database.read() as tx:
        return history.last(tx)[0]


def _fold(target: Layout) -> None:
    """Bring what the WAL of the old rows holds into them, and remove it: they get a second name without it."""
    if target.wal.exists():
        with suppress(StoreError, *DriverError):  # rows that cannot be read are of no use, and are about to be replaced
            connection = connect(target.database)
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.close()
    for path in Layout.beside(target.database):
        path.unlink(missing_ok=True)


def _keep(path: Path, second: Path) -> None:
    second.unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        os.link(path, second)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.backup")


def _remove_if(path: Path, digest: str) -> None:
    """Remove a file if it is the one with this BLAKE3-256; a server on DEST may have made keys of its own."""
    with suppress(FileNotFoundError):
        if blake3(path.read_bytes()).hexdigest() == digest:
            path.unlink()


def described(rows: RowCopy, damage: Damage) -> Lost:
    """A payload that is not to be had, with some of the objects that need it."""
    names = rows.reached_by(bytes.fromhex(damage.digest), _NAMED)
    return Lost(damage.digest, str(damage), tuple(str(name) for name in names))


def _outcome(target: Layout, manifest: Manifest, tally: Tally, lost: tuple[Lost, ...]) -> BackedUp:
    return BackedUp(
        directory=str(target.root),
        id=manifest.id,
        sequence=manifest.sequence,
        versions=manifest.versions,
        objects=manifest.objects,
        blobs=manifest.blobs,
        bytes=manifest.bytes,
        kept=tally.kept,
        reused=tally.reused,
        copied=tally.copied,
        copied_bytes=tally.copied_bytes,
        keys=manifest.keys is not None,
        root=manifest.root,
        lost=lost,
    )


def _noted(done: BackedUp) -> dict[str, object]:
    """What `stats` shows of the last backup that was completed."""
    return {
        "at_ms": now_ms(),
        "result": "incomplete" if done.lost else "complete",
        "directory": done.directory,
        "sequence": done.sequence,
        "blobs": done.blobs,
        "bytes": done.bytes,
        "copied": done.copied,
        "copied_bytes": done.copied_bytes,
        "lost": len(done.lost),
    }
