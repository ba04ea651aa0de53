"""How a connection to the metadata database is opened: what every one needs, whoever uses it."""

from __future__ import annotations

from pathlib import Path

from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.system.platforms import SQLITE_PRAGMAS
from gestalt_cas.transactions.wal_file import ROOM_BYTES

_FOREIGN_WAIT = 5.0
_CACHE_KIB = 16384


def connect(path: Path, *, mode: str = "rw", immutable: bool = False, cache_kib: int = _CACHE_KIB) -> Connection:
    """A driver connection in autocommit mode with the pragmas that every connection needs.

    `mode` is SQLite's URI mode: rw, or ro. `immutable` as in `sqlite.connect`. It keeps `cache_kib` of pages; what
    only looks at a living store's file (ro) keeps what SQLite does. Raises the translated StoreError.
    """
    try:
        connection = sqlite.connect(path, mode=mode, immutable=immutable, wait=_FOREIGN_WAIT)
    except DriverError as error:
        raise sqlite.translate(error) from error
    try:
        connection.execute("PRAGMA wal_autocheckpoint=0")
        if mode != "ro":
            connection.execute("PRAGMA synchronous=FULL")
            for pragma in SQLITE_PRAGMAS:
                connection.execute(pragma)
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute(f"PRAGMA journal_size_limit={ROOM_BYTES}")
        if mode != "ro" or immutable:  # a backup's rows are read from one end to the other
            connection.execute(f"PRAGMA cache_size=-{cache_kib}")
    except DriverError as error:
        failure = sqlite.translate(error, connection)
        connection.close()
        raise failure from error
    return connection
