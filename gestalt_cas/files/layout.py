"""The directory of one store: names, modes, and how the tree comes to be.

Everything below is made and synced before a store is used, the 256 fan-out directories included, so that no write has
to sync a directory that it just made. Directories are 0700, payloads 0400, everything else 0600. Lock files are never
deleted: a lock on a deleted file excludes nobody.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas.errors import DiskFull, NoStore, StoreUnusable
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.schema import APPLICATION_ID
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.system.durability import is_full, sync_directory
from gestalt_cas.system.ownership import make_directory
from gestalt_cas.system.refusals import fault, free_bytes, is_want_of_files

LOCKS = ("turnstile.lock", "write.lock", "schema.lock", "server.lock")
_DATABASE = "metadata.sqlite3"
_NEW_DATABASE = f"{_DATABASE}.new"
_BESIDE = ("-wal", "-shm", "-journal")
_BACKUP_DATABASE, _RESTORE_DATABASE = f"{_DATABASE}.backup", f"{_DATABASE}.restore"
_DATABASES = {f"{name}{suffix}" for name in (_DATABASE, _NEW_DATABASE) for suffix in ("", *_BESIDE)}
_OURS = {*_DATABASES, "blobs", "staging", *LOCKS}
_SPARES = ("reserve.1", "reserve.2")
_HARMLESS = {"lost+found", "quarantine", "check.lock", "reserve", *_SPARES, "keys.json", "grpc.sock", "grpc.sock.lock"}
_OPENING_BYTES = 256 * 1024
FAN_OUT = tuple(f"{number:02x}" for number in range(256))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below the store's directory `root`."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / _DATABASE

    @property
    def new_database(self) -> Path:
        """Where a database is made before it gets its name."""
        return self.root / _NEW_DATABASE

    @property
    def backup_database(self) -> Path:
        """The rows of a backup into this directory that is not finished, or was cut off."""
        return self.root / _BACKUP_DATABASE

    @property
    def restore_database(self) -> Path:
        """The rows of a restore into this directory that is not finished, or was cut off."""
        return self.root / _RESTORE_DATABASE

    @property
    def previous_database(self) -> Path:
        """The rows of the backup before, until the manifest of the new one stands."""
        return self.root / f"{_DATABASE}.previous"

    @property
    def manifest(self) -> Path:
        """What a complete backup ends with."""
        return self.root / "manifest.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys.json"

    @property
    def previous_keys(self) -> Path:
        """The keys of the backup before, until the manifest of the new one stands."""
        return self.root / "keys.json.previous"

    @property
    def socket(self) -> Path:
        """Where a server listens by default."""
        return self.root / "grpc.sock"

    @property
    def schema_lock(self) -> Path:
        return self.root / "schema.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the server that does the background work."""
        return self.root / "server.lock"

    @property
    def wal(self) -> Path:
        return self.root / f"{_DATABASE}-wal"

    @property
    def shared_memory(self) -> Path:
        """SQLite's index of the WAL; the locks of those who read stand on it."""
        return self.root / f"{_DATABASE}-shm"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def quarantine(self) -> Path:
        """Where `check --repair` sets damaged files aside; absent until it does."""
        return self.root / "quarantine"

    @property
    def check_lock(self) -> Path:
        """Held by the check that notes where it stands; absent until the first."""
        return self.root / "check.lock"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def spares(self) -> tuple[Path, Path]:
        """Empty files that are given up when the file system can hold no more files."""
        return self.root / _SPARES[0], self.root / _SPARES[1]

    @staticmethod
    def beside(database: Path) -> list[Path]:
        """The files that SQLite may keep beside a database."""
        return [database.with_name(f"{database.name}{suffix}") for suffix in _BESIDE]

    def require(self) -> None:
        """Raise NoStore unless the directory looks like a store; reads only."""
        if not self.root.is_dir():
            raise NoStore(f"no store at {self.root}: {self.absence()}")
        self.refuse_unfinished()
        if not self.database.exists():
            if self.has_payloads():
                raise NoStore(self._orphaned())
            raise NoStore(f"no store at {self.root}: it holds no {_DATABASE}")

    def absence(self) -> str:
        """Why there is no such directory, in words."""
        return "it is not a directory" if os.path.lexists(self.root) else "there is no such directory"

    def refuse_unfinished(self) -> None:
        """Raise StoreUnusable when a first backup or a restore into the directory was cut off; reads only."""
        if self.database.exists():
            return
        for rows, what in ((self.backup_database, "backup"), (self.restore_database, "restore")):
            if rows.exists():
                raise StoreUnusable(
                    f"{self.root} holds a {what} that was not finished: run the same {what} again, it takes up what is "
                    "there, or remove the directory"
                )

    def make(self) -> None:
        """Make and sync the tree, or complete one whose making was cut off; a complete one is left as it is.

        Raises StoreUnusable when the path is no directory, cannot be written, or holds another program's files.
        """
        try:
            self.make_root()
            if self.database.exists():
                self._refuse_strange_database()
            else:
                self.refuse_unfinished()
                self.refuse_strangers()
                self.refuse_orphans()
            self.make_tree()
        except OSError as error:
            if is_full(error):
                raise DiskFull(f"the disk is full: no store can be made in {self.root}") from error
            if is_want_of_files(error):
                raise fault(f"opening {self.root}", error) from error
            raise StoreUnusable(f"cannot use {self.root} as a data directory: {error.strerror or error}") from error

    def make_root(self) -> None:
        """Make and sync the directory itself; raises StoreUnusable when it cannot be one."""
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
        if not self.root.is_dir():
            raise StoreUnusable(f"cannot use {self.root} as a data directory: it is not a directory")
        if not os.access(self.root, os.W_OK | os.X_OK):
            reason = "its file system is read-only" if self.read_only() else "it is not writable for this user"
            raise StoreUnusable(f"cannot use {self.root} as a data directory: {reason}")

    def refuse_strangers(self) -> None:
        """Raise StoreUnusable when the directory holds what no store does."""
        strangers = sorted({entry.name for entry in os.scandir(self.root)} - _OURS - _HARMLESS)
        if strangers:
            raise StoreUnusable(
                f"cannot make a store in {self.root}: it already holds {strangers[0]!r}; name an empty directory"
            )

    def _refuse_strange_database(self) -> None:
        """Leave another program's database, and the directory around it, as it is."""
        if not self.database.stat().st_size:
            return
        application = self._application_id()
        # A creation that was cut off has no application id in the file yet, and a checkpoint that was cut off leaves a
        # file that makes sense with its WAL only; `upgrade.read_revision` asks again with it. The tree is made before.
        unfinished = application == 0 or (application is None and self._has_wal())
        if application != APPLICATION_ID and not (unfinished and self.blobs.is_dir()):
            raise StoreUnusable(
                f"cannot use {self.root} as a data directory: {self.database} is another program's database, or damaged"
            )

    def _application_id(self) -> int | None:
        """What the database file says of its owner, without its WAL; None when it is no database.

        Asked through SQLite, which for an immutable file makes none beside it. A handle of our own would not do:
        closing it drops the locks that this process may hold on the file through SQLite.
        """
        try:
            connection = sqlite.connect(self.database, mode="ro", immutable=True)
            with contextlib.closing(connection):
                return int(connection.execute("PRAGMA application_id").fetchall()[0][0])
        except DriverError:
            return None

    def _has_wal(self) -> bool:
        return self.wal.exists() and self.wal.stat().st_size > 0

    def refuse_orphans(self) -> None:
        """Raise StoreUnusable rather than make an empty store over payloads without rows: gc would remove them all."""
        if self.has_payloads():
            raise StoreUnusable(self._orphaned())

    def has_payloads(self) -> bool:
        """Whether there is a file of a payload."""
        place = str(self.blobs)  # 256 joined paths cost more than looking into the directories
        return any(os.path.isdir(f"{place}/{name}") and os.listdir(f"{place}/{name}") for name in self._present())

    def _orphaned(self) -> str:
        return (
            f"{self.root} holds payloads but no {_DATABASE}: put the database back from a backup, or name another "
            "directory"
        )

    def read_only(self) -> bool:
        """Whether the file system is mounted for reading only."""
        return bool(os.statvfs(self.root).f_flag & os.ST_RDONLY)

    def full(self) -> bool:
        """Whether the file system has no room for even the few pages that opening a database takes."""
        return free_bytes(self.root) < _OPENING_BYTES or out_of_files(self.root)

    def make_tree(self) -> None:
        """Make and sync what is missing below the directory; raises OSError."""
        if stat.S_IMODE(self.root.stat().st_mode) & 0o077 and self.root.stat().st_uid == os.geteuid():
            self.root.chmod(0o700)
        present = self._present()
        missing = [name for name in FAN_OUT if name not in present]
        if self.staging.is_dir() and not missing:
            return
        blobs = self.blobs
        make_directory(blobs, 0o700, exist_ok=True)
        for name in missing:
            make_directory(blobs / name, 0o700, exist_ok=True)
        sync_directory(blobs)
        make_directory(self.staging, 0o700, exist_ok=True)
        sync_directory(self.root)
        sync_directory(self.root.parent)

    def _present(self) -> set[str]:
        """The names of the fan-out that are there."""
        return set(os.listdir(self.blobs)).intersection(FAN_OUT) if self.blobs.is_dir() else set()


def out_of_files(directory: Path) -> bool:
    """Whether the file system can hold no more files, whatever room it has; some do not count them."""
    found = os.statvfs(directory)
    return found.f_files > 0 and found.f_favail == 0
