"""Which SQLite this process uses, how a file of it is opened, and what its errors mean to the store.

APSW's wheels carry their own, current SQLite on every platform, compiled to sync with fdatasync, which spares a commit
what fsync takes for the time of the file's last change (docs/performance.md). SQLite 3.7.0 to 3.51.2 has the WAL-reset
bug (a checkpoint that overlaps a commit can lose committed transactions; fixed in 3.51.3, 3.50.7 and 3.44.6). The store
never checkpoints beside a commit, whatever the version: every commit and checkpoint holds write.lock and automatic
checkpoints are off. The version is still shown, since other programs may open the file, and an APSW that somebody built
himself may use an older library.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import apsw

from gestalt_cas import sizes
from gestalt_cas.errors import (
    DatabaseDamaged,
    DiskFull,
    FileSizeLimit,
    StorageFault,
    StoreBusy,
    StoreError,
    TooManyStreams,
)
from gestalt_cas.system.refusals import MORE_FILES, free_bytes, longer_files

DriverError = (apsw.Error, UnicodeDecodeError)
"""What a statement raises; the second is how the driver says that a text in the file is not UTF-8."""
VERSION = apsw.sqlite_lib_version()
"""The version of the SQLite library in use, as it writes it: 3.54.1."""
BUNDLED = apsw.using_amalgamation
"""Whether it came with APSW, as in its wheels, rather than with the system."""

if TYPE_CHECKING:

    class Cursor(apsw.Cursor):
        """What a statement gives: rows of whatever their columns hold."""

        def fetchall(self) -> list[Any]: ...
        def fetchone(self) -> Any: ...
        def execute(self, statements: str, bindings: Any = None, **options: Any) -> Cursor: ...

    class _Connection(apsw.Connection):
        def execute(self, statements: str, bindings: Any = None, **options: Any) -> Cursor: ...
        def executemany(self, statements: str, sequenceofbindings: Any, **options: Any) -> Cursor: ...

else:
    _Connection = apsw.Connection


class Connection(_Connection):
    """The driver's connection. It has to be closed: `kept` holds it, too.

    That is a cursor for statements whose rows are read at once; to make one for each takes longer than to bind its
    values.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: Cursor = self.cursor()  # type: ignore[assignment]
        _made.add(self)


_made: WeakSet[Connection] = WeakSet()


def _keep_all() -> None:
    """In a forked process, keep what its parent had open from ever being closed here.

    Closing rolls back what the parent has begun, in the memory that the two share, and may check-point beside it.
    """
    for connection in list(_made):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


os.register_at_fork(after_in_child=_keep_all)


OLDEST = (3, 37, 0)
"""The oldest SQLite that the statements need (RETURNING: 3.35; the WITHOUT ROWID fixes around it: 3.37)."""

_STATEMENTS = 256
"""How many compiled statements a connection keeps: more than the store has."""
_STEPS = 100_000
"""Of SQLite's between two looks for signals: some milliseconds."""
_SHOWN_BYTES = 80
_ROOM_BYTES = 256 << 10
"""What a disk has left at least that no statement can have found full."""
_FILES_OF_A_CONNECTION = 4
"""The database, its WAL and index, and a temporary file."""
_ERROR, _TOOBIG, _CONSTRAINT, _MISMATCH = 1, 18, 19, 20
_IOERR_WRITE, _IOERR_SHMOPEN, _IOERR_SHMSIZE = 10 | 3 << 8, 10 | 18 << 8, 10 | 19 << 8
_BUSY, _LOCKED, _NOMEM, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 7, 8, 10, 11, 13, 14, 26


def version() -> tuple[int, int, int]:
    """The version of the SQLite library in use."""
    major, minor, patch = (int(part) for part in VERSION.split("."))
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
    source = "from APSW" if BUNDLED else "of the system"
    bug = "has the WAL-reset bug, kept away by locks" if has_wal_reset_bug(version()) else "without the WAL-reset bug"
    return f"SQLite {VERSION} {source}, {bug}"


def connect(path: Path, *, mode: str = "rwc", immutable: bool = False, wait: float = 5.0) -> Connection:
    """A connection to the file in autocommit mode, which may go from thread to thread, used by one at a time.

    `mode` is SQLite's URI mode: rwc makes an absent file, rw and ro do not. An `immutable` file is one that nobody
    changes: SQLite makes no file beside it. A statement waits up to `wait` seconds for another program's lock. Raises
    DriverError, also for what is no file: SQLite would wait for ever for somebody to write to a pipe.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        error = apsw.exception_for(apsw.SQLITE_CANTOPEN)
        error.args = (f"{path} is no file",)
        raise error
    unchanging = "&immutable=1" if immutable else ""
    connection = _opened(f"{path.absolute().as_uri()}?mode={mode}{unchanging}")
    set_wait(connection, wait)
    return connection


def set_wait(connection: Connection, seconds: float) -> None:
    """Have statements wait so long for another program's lock, by trying again.

    SQLite as APSW's wheels have it would otherwise wait in the locks themselves. For that it takes the writer's lock
    before it looks at the WAL, and then no longer asks whether that could only be opened for reading: a transaction
    would end in an I/O error of COMMIT, its outcome unknown, where it should have been refused at its first change.
    """
    connection.set_busy_timeout(round(seconds * 1000))
    connection.setlk_timeout(0, 0)  # after the other, which sets both


def spill(connection: Connection) -> None:
    """Have it sort and copy in temporary files, beyond its cache, if there is a place for them; not in a transaction.

    For what works on whole tables: in memory the index of ten million versions by digest takes 1.4 GB while it is made,
    and VACUUM what the database has.
    """
    if _temporary_directory():
        connection.execute("PRAGMA temp_store=FILE")


def translate_spilled(connection: Connection, error: Exception) -> StoreError:
    """`translate` for a connection that works in temporary files (`spill`), while it is still open.

    SQLite has one word for want of room, wherever it met it, and has given the temporary files back by then. So it is
    told of their directory only where the database's own disk, another one, has room left, and that one has less than
    what SQLite had put there or would have had to: what it counts for sorting, and for VACUUM what the database has.
    """
    place = _temporary_directory()
    if primary_code(error) == _FULL and place:
        try:
            shortage = _shortage(connection, place)
        except (OSError, *DriverError):
            shortage = ""
        if shortage:
            return DiskFull(f"{shortage}: {error}", directory=os.path.abspath(place))
    return translate(error, connection)


def _shortage(connection: Connection, place: str) -> str:
    """That the disk of the temporary files is full, in words; "" where that cannot be told."""
    directory = os.path.dirname(connection.filename)
    if os.stat(directory).st_dev == os.stat(place).st_dev:
        return ""
    left, left_here = free_bytes(place), free_bytes(directory)
    if left_here < _ROOM_BYTES or left > _needed_bytes(connection):
        return ""
    return (
        f"the disk is full that holds {os.path.abspath(place)}, where SQLite puts temporary files ({sizes.told(left)} "
        f"are free, and {sizes.told(left_here)} on that of {directory}); make room there, or name another directory in "
        "$SQLITE_TMPDIR"
    )


def _needed_bytes(connection: Connection) -> int:
    """How much a statement on whole tables puts into temporary files; at least what one has put there by now."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchall()[0][0] for name in ("page_count", "page_size"))
    counted = getattr(apsw, "SQLITE_DBSTATUS_TEMPBUF_SPILL", None)  # of newer releases of SQLite
    return max(int(pages * size), connection.status(counted)[0] if counted is not None else 0)


def _temporary_directory() -> str:
    """Where SQLite puts temporary files; "" for nowhere."""
    return next((place for place in _temporary_places() if _takes_files(place)), "")


def _temporary_places() -> list[str]:
    """Where SQLite puts temporary files: into the first of these that it can."""
    return [os.environ.get("SQLITE_TMPDIR", ""), os.environ.get("TMPDIR", ""), "/var/tmp", "/usr/tmp", "/tmp", "."]


def _takes_files(place: str) -> bool:
    return os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK)


def heed_signals(connection: Connection) -> None:
    """Have its long statements end at ctrl-C and SIGTERM: the interpreter sees to those between its own steps only."""
    connection.set_progress_handler(lambda: False, _STEPS)


def leave_wal(connection: Connection) -> None:
    """Have closing it move nothing out of the WAL, even if it is the last connection of all."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def in_memory() -> Connection:
    """A connection to an empty database in memory."""
    return _opened(":memory:")


def _opened(uri: str) -> Connection:
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = Connection(uri, flags=flags, statementcachesize=_STATEMENTS)
    # Else the SQLite of 3.54 compiles most statements anew for each set of values, three times the cost of a lookup.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    # What SQLite sorts or keeps for undoing one statement; beside the store a full disk would fail the statement.
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def copy(
    source: Connection, destination: Connection, *, pages: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Replace what `destination` holds by what `source` sees, `pages` at a time.

    After each step `progress` is called with how many pages are left and how many there are; it may raise to stop.
    Raises DriverError.
    """
    with destination.backup("main", source, "main") as backup:
        while not backup.done:
            try:
                backup.step(pages)
            except apsw.Error:
                # A step leaves no message: the error has that of whatever failed before, or "not an error". This
                # raises it again in its own words.
                backup.finish()
                raise
            if progress is not None:
                progress(backup.remaining, backup.page_count)


def primary_code(error: Exception) -> int:
    """SQLite's primary result code of a driver error; 0 for what is not SQLite's own."""
    return _CORRUPT if isinstance(error, UnicodeDecodeError) else getattr(error, "result", 0)


def is_io_error(error: Exception) -> bool:
    """Whether the disk failed, as opposed to the statement."""
    return primary_code(error) == _IOERR


def hits_file_limit(error: Exception, connection: Connection) -> bool:
    """Whether a file could not be made longer, which SQLite takes for a disk that failed: as little is wrong with it.

    To be asked of the connection that met it, before that does anything else.
    """
    if getattr(error, "extendedresult", 0) not in (_IOERR_WRITE, _IOERR_SHMOPEN, _IOERR_SHMSIZE):
        return False
    try:
        return connection.system_errno == errno.EFBIG
    except apsw.ConnectionClosedError:  # closing it was what failed
        return False


def is_write_error(error: Exception) -> bool:
    """Whether bytes could not be written; in COMMIT they are those of the WAL, and what is not all there is nothing."""
    return getattr(error, "extendedresult", 0) == _IOERR_WRITE


def is_want_of_memory(error: Exception) -> bool:
    """Whether SQLite got no memory, which the driver does not tell by a MemoryError."""
    return primary_code(error) == _NOMEM


def is_read_only(error: Exception) -> bool:
    """Whether SQLite could open its files for reading only."""
    return primary_code(error) == _READONLY


def is_damage(error: Exception) -> bool:
    """Whether SQLite found its file malformed."""
    return primary_code(error) in (_CORRUPT, _NOTADB)


def comes_of_values(error: BaseException | None) -> bool:
    """Whether a statement failed at what it worked with, as at JSON that is none, rather than at the file or the disk.

    So does a text that is no UTF-8.
    """
    if isinstance(error, UnicodeDecodeError):
        return True
    return isinstance(error, apsw.Error) and primary_code(error) in (_ERROR, _TOOBIG, _CONSTRAINT, _MISMATCH)


def told(error: Exception) -> str:
    """What an error of the driver says to a person; of a text that is not UTF-8, the text, so that it can be found."""
    if not isinstance(error, UnicodeDecodeError):
        return str(error)
    begin = max(0, error.start - _SHOWN_BYTES // 2)
    return f"what has to be UTF-8 is not: {error.object[begin : begin + _SHOWN_BYTES]!r}"


def translate(error: Exception, connection: Connection | None = None) -> StoreError:
    """The store's word for a driver error outside COMMIT, where the transaction is known to be gone.

    `connection`, if it is one that writes, is what met the error and has done nothing since.
    Raises MemoryError when SQLite was refused memory: that is no fault of the disk, and ends a verb as it does when the
    interpreter was refused some (`exhaustion.py`).
    """
    code = primary_code(error)
    if is_want_of_memory(error):
        raise MemoryError(str(error)) from error
    if code == _FULL:
        return DiskFull(f"the disk is full: {error}")
    if code in (_BUSY, _LOCKED):
        return StoreBusy(f"another program holds the database: {error}; try again")
    if is_damage(error):
        return DatabaseDamaged(f"the database is damaged: {told(error)}")
    if code == _CANTOPEN and _out_of_descriptors():
        return TooManyStreams(f"the process has too many files open: {error}; {MORE_FILES}")
    if connection is not None and hits_file_limit(error, connection):
        return FileSizeLimit(f"a file of the database may not grow any further: {error}; {longer_files()}")
    return StorageFault(f"the database failed: {error}")


def _out_of_descriptors() -> bool:
    """Whether opening fails for want of file descriptors; SQLite does not say why it cannot open.

    By then it has closed again whatever it had opened, so one that can be had says little.
    """
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(_FILES_OF_A_CONNECTION))
    except OSError:
        return True
    finally:
        for fd in opened:
            os.close(fd)
    return False
