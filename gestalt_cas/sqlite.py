"""Which SQLite this process uses, and what its error codes mean to the store.

pysqlite3's wheels carry their own, current SQLite; where no wheel exists the interpreter's is used. SQLite 3.7.0 to
3.51.2 has the WAL-reset bug (a checkpoint that overlaps a commit can lose committed transactions; fixed in 3.51.3,
3.50.7 and 3.44.6). The store never checkpoints beside a commit, whatever the version: every commit and checkpoint holds
write.lock and automatic checkpoints are off. The version is still shown, since other programs may open the file.
"""

from __future__ import annotations

import os
import sqlite3
from types import ModuleType
from typing import cast

from gestalt_cas.errors import DatabaseDamaged, DiskFull, StorageFault, StoreBusy, StoreError, TooManyStreams

try:
    from pysqlite3 import dbapi2 as _bundled
except ImportError:
    driver: ModuleType = sqlite3
    bundled = False
else:
    driver = cast(ModuleType, _bundled)
    bundled = True

Connection = sqlite3.Connection
"""The driver's connection; pysqlite3's has the same methods."""
DriverError: type[Exception] = driver.Error

# The driver looks for an adapter of every value but numbers and text, and finds out by errors, raised and caught, that
# there is none (docs/performance.md). These two give back what they are given.
driver.register_adapter(bytes, bytes)
driver.register_adapter(type(None), {}.get)

OLDEST = (3, 37, 0)
"""The oldest SQLite that the statements need (RETURNING: 3.35; the WITHOUT ROWID fixes around it: 3.37)."""

_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26


def version() -> tuple[int, int, int]:
    """The version of the SQLite library in use."""
    major, minor, patch = (int(part) for part in driver.sqlite_version.split("."))
    return major, minor, patch


def has_wal_reset_bug(found: tuple[int, int, int]) -> bool:
    """Whether this SQLite can lose commits when a checkpoint overlaps one."""
    if found[:2] == (3, 44):
        return found < (3, 44, 6)
    if found[:2] == (3, 50):
        return found < (3, 50, 7)
    return (3, 7, 0) <= found < (3, 51, 3)


def describe() -> str:
    """One line for logs: version, where it comes from, whether it has the WAL-reset bug."""
    source = "from pysqlite3" if bundled else "of the interpreter"
    bug = "has the WAL-reset bug, kept away by locks" if has_wal_reset_bug(version()) else "without the WAL-reset bug"
    return f"SQLite {driver.sqlite_version} {source}, {bug}"


def primary_code(error: Exception) -> int:
    """SQLite's primary result code of a driver error; 0 when the driver does not tell."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else _code_from_text(str(error))


def _code_from_text(text: str) -> int:
    for part, code in (
        ("database or disk is full", _FULL),
        ("disk I/O error", _IOERR),
        ("is locked", _BUSY),
        ("readonly database", _READONLY),
        ("malformed", _CORRUPT),
        ("not a database", _NOTADB),
        ("Could not decode", _CORRUPT),
    ):
        if part in text:
            return code
    return 0


def is_io_error(error: Exception) -> bool:
    """Whether the disk failed, as opposed to the statement."""
    return primary_code(error) == _IOERR


def is_read_only(error: Exception) -> bool:
    """Whether SQLite could open its files for reading only."""
    return primary_code(error) == _READONLY


def is_damage(error: Exception) -> bool:
    """Whether SQLite found its file malformed."""
    return primary_code(error) in (_CORRUPT, _NOTADB)


def translate(error: Exception) -> StoreError:
    """The store's word for a driver error outside COMMIT, where the transaction is known to be gone."""
    code = primary_code(error)
    if code == _FULL:
        return DiskFull(f"the disk is full: {error}")
    if code in (_BUSY, _LOCKED):
        return StoreBusy(f"another program holds the database: {error}; try again")
    if is_damage(error):
        return DatabaseDamaged(f"the database is damaged: {error}")
    if code == _CANTOPEN and _out_of_descriptors():
        return TooManyStreams(f"the process has too many files open: {error}")
    return StorageFault(f"the database failed: {error}")


def _out_of_descriptors() -> bool:
    """Whether opening fails for want of file descriptors; SQLite does not say why it cannot open."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
