"""What tests need of SQLite's driver: its errors, made up, and the statements that a connection runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apsw

ERROR, BUSY, LOCKED, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 1, 5, 6, 10, 11, 13, 14, 26
IOERR_FSYNC = 1034  # an extended code: its primary one is IOERR


def driver_error(code: int, text: str = "made up") -> Exception:
    """The driver's error for a result code of SQLite's."""
    error = apsw.exception_for(code)
    error.args = (text,)
    return error


def values_of(sql: str, value: object = None) -> dict[str, object]:
    """The same value for each of a statement's names, to run it or to ask for its plan."""
    return dict.fromkeys(re.findall(r":([a-z]\w*)", sql), value)


def trace_statements(connection: apsw.Connection, begins: Callable[[str], object]) -> None:
    """Call `begins` with the text of each statement before it runs."""
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: begins(event["sql"]))


def leave_the_wal(connection: apsw.Connection) -> None:
    """Have closing this connection move nothing out of the WAL, even if it is the last one of all."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


class _WalForReading(apsw.VFS):
    """SQLite's own way to the files, but that a WAL is opened for reading only."""

    def __init__(self) -> None:
        self._real = apsw.vfs_names()[0]
        super().__init__("wal-for-reading", self._real, makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - APSW's name
        if flags[0] & apsw.SQLITE_OPEN_WAL:
            flags[0] &= ~(apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)
            flags[0] |= apsw.SQLITE_OPEN_READONLY
        return apsw.VFSFile(self._real, name, flags)


@contextmanager
def wals_opened_for_reading_only() -> Iterator[None]:
    """What is opened in the block has its WAL, which must be there, as SQLite has it when it may not write it then."""
    files = _WalForReading()
    try:
        yield
    finally:
        files.unregister()
