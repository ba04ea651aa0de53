"""What tests need of SQLite's driver: its errors, made up, and the statements that a connection runs."""

from __future__ import annotations

from collections.abc import Callable

import apsw

ERROR, BUSY, LOCKED, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB = 1, 5, 6, 10, 11, 13, 14, 26
IOERR_FSYNC = 1034  # an extended code: its primary one is IOERR


def driver_error(code: int, text: str = "made up") -> Exception:
    """The driver's error for a result code of SQLite's."""
    error = apsw.exception_for(code)
    error.args = (text,)
    return error


def trace_statements(connection: apsw.Connection, begins: Callable[[str], object]) -> None:
    """Call `begins` with the text of each statement before it runs."""
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: begins(event["sql"]))
