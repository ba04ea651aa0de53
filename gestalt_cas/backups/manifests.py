"""The manifest, which a complete backup ends with, and what a directory that should hold a backup really holds.

DIR/manifest.json is one JSON object. Its `digest` is the BLAKE3-256 of the others, written as JSON in ASCII, by name,
without spaces; so a manifest that was damaged shows. The rows carry the manifest's `id` as a note, which says whose
manifest it is.

    format     1: the meaning of all others, the root digest included
    id         of this backup, random; store: of the store, the same in all its backups and in what they restore to
    made_by    the release that made it; revision: of the rows' tables
    at_ms      when the rows were copied, Unix milliseconds
    sequence   the last change that the rows have; commit_ms: its time
    versions, objects, blobs, bytes            rows, current objects, payloads, and the bytes of these
    root       the root digest of the rows (row_copies.py)
    keys       the BLAKE3-256 of keys.json; null: the signing keys were not asked for
    missing    digests of the payloads that the store had lost or damaged when it was backed up

The order in which a backup replaces the one before is that of `backup.py`: the rows before are linked to a second name,
the new ones take their place, then the manifest is replaced, which is the moment at which the new backup counts. So at
every moment the manifest belongs to one of the two.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

from blake3 import blake3

from gestalt_cas.errors import DatabaseDamaged, StoreError, StoreUnusable
from gestalt_cas.files.layout import Layout
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_directory, sync_file
from gestalt_cas.transactions.connections import connect
from gestalt_cas.wrong_values import value_rules

FORMAT = 1
NOTE = "backup.last"
"""What the store notes of its last backup."""
STORE_NOTE = "backup.store"
"""Names the store, in it and in all its backups, so that no backup of another one is replaced."""
BACKUP_NOTE = "backup.id"
"""Names the backup that rows are of; only rows in a backup have it."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says; the module has the meaning of each field."""

    id: str
    store: str
    made_by: str
    revision: str
    at_ms: int
    sequence: int
    commit_ms: int
    versions: int
    objects: int
    blobs: int
    bytes: int
    root: str
    keys: str | None
    missing: tuple[str, ...]
    format: int = FORMAT


class Kind(StrEnum):
    """What there is of a backup."""

    NONE = "no backup"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Complete, but the store had lost payloads: the manifest names them."""
    CUT_OFF = "cut off"
    CHANGED = "changed"
    """Something was written into it after it was made."""
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class State:
    """What a directory holds. `reason` is a sentence; `rows` is the database file that the manifest belongs to."""

    kind: Kind
    reason: str
    manifest: Manifest | None = None
    rows: Path | None = None

    @property
    def whole(self) -> bool:
        """Whether manifest and rows belong together; payloads are judged by `restore` and `check`."""
        return self.kind in (Kind.COMPLETE, Kind.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class Marks:
    """What the rows of a database say of themselves: which store and which backup they are of ("": none).

    `format` is SQLite's user_version.
    """

    store: str
    backup: str
    sequence: int
    format: int


def write(layout: Layout, manifest: Manifest) -> None:
    """Put the manifest in place, whole and synced: from then on the backup counts. Raises OSError."""
    part = layout.manifest.with_suffix(".part")
    part.unlink(missing_ok=True)
    content = {**asdict(manifest), "digest": _digest(asdict(manifest))}
    fd = ownership.make_file(part, os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(content, file, ensure_ascii=True, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        sync_file(fd)
    part.rename(layout.manifest)
    sync_directory(layout.root)


def read(path: Path) -> Manifest:
    """Read a manifest; raises FileNotFoundError, or ValueError, with a sentence, when it is not as it was written."""
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no manifest, or damaged") from None
    if digest != _digest(content):
        raise ValueError(f"{path} is damaged: it has another digest than it says")
    if content.get("format") != FORMAT or content.keys() != {field.name for field in fields(Manifest)}:
        raise ValueError(f"{path} has format {content.get('format')}; this release reads format {FORMAT}")
    return Manifest(**{**content, "missing": tuple(content["missing"])})


def state(directory: str | os.PathLike[str]) -> State:
    """What the directory holds of a backup; reads the manifest and a few rows, no payloads. Changes nothing.

    Raises StoreUnusable when this user may not read the manifest. The caller holds schema.lock, or does not mind that a
    backup that is running shows as one that was cut off.
    """
    layout = Layout(Path(os.path.abspath(directory)))
    try:
        manifest = read(layout.manifest)
    except FileNotFoundError:
        return _without_manifest(layout)
    except PermissionError as error:  # of another user: nothing is known to be damaged
        raise StoreUnusable(f"{layout.manifest} cannot be read: {error.strerror}") from error
    except (ValueError, OSError) as error:
        return State(Kind.DAMAGED, str(error))
    return _with_manifest(layout, manifest)


def _without_manifest(layout: Layout) -> State:
    if layout.database.exists():
        try:
            marks = marks_of(layout.database)
        except StoreError as error:
            return State(Kind.NONE, f"{layout.root} has no manifest, and its rows cannot be read: {error}")
        if not marks.backup:
            return State(Kind.NONE, f"{layout.root} holds a store that is no backup: it has no manifest")
    elif not layout.backup_database.exists():
        return State(Kind.NONE, f"{layout.root} holds no backup")
    return State(Kind.CUT_OFF, f"the backup in {layout.root} was cut off: it has no manifest; back up again")


def _with_manifest(layout: Layout, manifest: Manifest) -> State:
    trouble = ""
    for rows in (layout.database, layout.previous_database):
        if not rows.exists():
            continue
        try:
            marks = marks_of(rows)
        except StoreError as error:
            trouble = trouble or f"the rows of the backup in {layout.root} cannot be read: {error}"
            continue
        if marks.backup == manifest.id:
            return _judged(layout, manifest, rows, marks)
    if trouble:
        return State(Kind.DAMAGED, trouble, manifest)
    return State(Kind.CUT_OFF, f"the rows in {layout.root} are not those of its manifest; back up again", manifest)


def _judged(layout: Layout, manifest: Manifest, rows: Path, marks: Marks) -> State:
    if marks.sequence != manifest.sequence:
        reason = (
            f"the backup in {layout.root} was written to after it was made: its manifest has sequence "
            f"{manifest.sequence}, its rows have {marks.sequence}"
        )
        return State(Kind.CHANGED, reason, manifest, rows)
    if manifest.missing:
        reason = f"the backup in {layout.root} is incomplete: {len(manifest.missing)} payloads were lost before it"
        return State(Kind.INCOMPLETE, reason, manifest, rows)
    return State(Kind.COMPLETE, f"the backup in {layout.root} is complete", manifest, rows)


def marks_of(rows: Path) -> Marks:
    """Read which store and backup the rows are of; raises StoreError."""
    try:
        with closing(open_rows(rows)) as connection:
            store = store_settings.recall(connection, STORE_NOTE)
            backup = store_settings.recall(connection, BACKUP_NOTE)
            sequence = connection.execute("SELECT seq FROM counter").fetchall()[0][0]
            form = connection.execute("PRAGMA user_version").fetchall()[0][0]
            return Marks(str(store or ""), str(backup or ""), int(sequence), int(form))
    except DriverError as error:
        raise sqlite.translate(error) from error
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        with closing(open_rows(rows)) as connection:
            wrong = value_rules.first(connection)
        if wrong is None:
            raise
        raise DatabaseDamaged(f"{rows}: the rows hold what no write stores: {wrong}") from error


def open_rows(rows: Path) -> Connection:
    """Open a database for reading only, also where nothing may be written or there is no room; raises StoreError."""
    # For a database in WAL mode SQLite makes files beside it, unless it is told that nobody changes it. That is so when
    # its WAL is empty, since every change goes there first.
    wal = Layout.beside(rows)[0]
    quiet = not wal.exists() or wal.stat().st_size == 0
    return connect(rows, mode="ro", immutable=quiet)


def _digest(content: dict[str, object]) -> str:
    return blake3(json.dumps(content, ensure_ascii=True, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
