"""The directory of one store: names, modes, and how the tree comes to be.

Everything below is made and synced before a store is used, the 256 fan-out directories included, so that no write has
to sync a directory that it just made. Directories are 0700, payloads 0400, everything else 0600. Lock files are never
deleted: a lock on a deleted file excludes nobody.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas.durability import sync_directory
from gestalt_cas.errors import NoStore, StoreUnusable

LOCKS = ("turnstile.lock", "write.lock", "schema.lock", "server.lock")
_DATABASE = "metadata.sqlite3"
_NEW_DATABASE = f"{_DATABASE}.new"
_BESIDE = ("-wal", "-shm", "-journal")
_DATABASES = {f"{name}{suffix}" for name in (_DATABASE, _NEW_DATABASE) for suffix in ("", *_BESIDE)}
_OURS = {*_DATABASES, "blobs", "staging", *LOCKS}
_HARMLESS = {"lost+found", "reserve", "keys.json", "grpc.sock"}
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
    def wal(self) -> Path:
        return self.root / f"{_DATABASE}-wal"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @staticmethod
    def beside(database: Path) -> list[Path]:
        """The files that SQLite may keep beside a database."""
        return [database.with_name(f"{database.name}{suffix}") for suffix in _BESIDE]

    def require(self) -> None:
        """Raise NoStore unless the directory looks like a store; reads only."""
        if not self.root.is_dir():
            raise NoStore(f"no store at {self.root}: there is no such directory")
        if not self.database.exists():
            raise NoStore(f"no store at {self.root}: it holds no {_DATABASE}")

    def make(self) -> None:
        """Make and sync the tree, or complete one whose making was cut off; a complete one is left as it is.

        Raises StoreUnusable when the path is no directory, cannot be written, or holds another program's files.
        """
        try:
            self._make_root()
            if not self.database.exists():
                self._refuse_strangers()
            self._make_tree()
        except OSError as error:
            raise StoreUnusable(f"cannot use {self.root} as a data directory: {error.strerror or error}") from error

    def _make_root(self) -> None:
        missing = [path for path in (self.root, *self.root.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
        if not self.root.is_dir():
            raise StoreUnusable(f"cannot use {self.root} as a data directory: it is not a directory")
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise StoreUnusable(f"cannot use {self.root} as a data directory: it is not writable for this user")

    def _refuse_strangers(self) -> None:
        strangers = sorted({entry.name for entry in os.scandir(self.root)} - _OURS - _HARMLESS)
        if strangers:
            raise StoreUnusable(
                f"cannot make a store in {self.root}: it already holds {strangers[0]!r}; name an empty directory"
            )

    def _make_tree(self) -> None:
        if stat.S_IMODE(self.root.stat().st_mode) & 0o077 and self.root.stat().st_uid == os.geteuid():
            self.root.chmod(0o700)
        if self.staging.is_dir() and (self.blobs / FAN_OUT[-1]).is_dir():
            return
        self.blobs.mkdir(mode=0o700, exist_ok=True)
        for name in FAN_OUT:
            (self.blobs / name).mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.blobs)
        self.staging.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self.root)
        sync_directory(self.root.parent)
