"""What the store has SQLite do beyond transactions, and what its errors are told as."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from driver_aids import BUSY, CORRUPT, ERROR, FULL, IOERR, IOERR_FSYNC, LOCKED, NOTADB, driver_error
from faulty_connections import Faulty
from gestalt_cas import Store
from gestalt_cas.errors import DatabaseDamaged, DiskFull, StorageFault, StoreBusy, StoreError, TooManyStreams
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.transactions import database
from storage import Failing, child, key, put, rows

FILE, MEMORY = 1, 2  # of PRAGMA temp_store


def test_a_connection_that_cannot_be_set_up_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garbage").write_bytes(b"no database " * 1000)
    made: list[Any] = []

    connect = sqlite.connect

    def spied(*arguments: Any, **options: Any) -> Faulty:
        made.append(Faulty(connect(*arguments, **options), "none", ValueError()))
        return made[-1]

    monkeypatch.setattr(sqlite, "connect", spied)
    with pytest.raises(DatabaseDamaged):
        database.connect(tmp_path / "garbage")
    assert [connection.closed for connection in made] == [True]


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageFault):
        database.connect(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_too_many_open_files_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says that it cannot open the file, and not why."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", Failing(os.open, OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(TooManyStreams):
            database.connect(tmp_path / "absent")


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (FULL, DiskFull),
        (IOERR, StorageFault),
        (IOERR_FSYNC, StorageFault),
        (BUSY, StoreBusy),
        (LOCKED, StoreBusy),
        (CORRUPT, DatabaseDamaged),
        (NOTADB, DatabaseDamaged),
        (ERROR, StorageFault),
    ],
)
def test_errors_are_told_by_their_codes(code: int, error: type[StoreError]) -> None:
    failure = driver_error(code)
    assert type(sqlite.translate(failure)) is error
    assert sqlite.is_io_error(failure) is (code in (IOERR, IOERR_FSYNC))


def test_text_that_is_not_utf_8_is_damage(store: Store) -> None:
    """The driver raises no error of its own for it."""
    put(store, "k", b"one")
    with store._database.write() as tx:
        tx.execute("UPDATE versions SET content_type = CAST(x'7465787420ff41' AS TEXT)")
    with pytest.raises(DatabaseDamaged, match=r"UTF-8 is not: b'text \\xffA'"):
        store.head(key("k"))
    assert "damaged" in store.health()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("full", "database or disk is full"),
        ("locked", "database is locked"),
        ("read-only", "attempt to write a readonly database"),
        ("damaged", "database disk image is malformed"),
    ],
)
def test_a_copy_that_fails_says_why(tmp_path: Path, fault: str, text: str) -> None:
    with ExitStack() as opened:

        def made(name: str, **options: Any) -> sqlite.Connection:
            return opened.enter_context(closing(sqlite.connect(tmp_path / name, **options)))

        source = made("source")
        source.execute("CREATE TABLE t (x)")
        source.executemany("INSERT INTO t VALUES (?)", [(b"x" * 4000,)] * 100)
        made("target").execute("CREATE TABLE t (x)")
        target = made("target", mode="ro" if fault == "read-only" else "rw", wait=0.01)
        with pytest.raises(DriverError, match="no such table"):
            target.execute("SELECT * FROM missing")  # whose words are no other error's
        if fault == "full":
            target.execute("PRAGMA max_page_count=20").fetchall()
        elif fault == "locked":
            made("target").execute("BEGIN EXCLUSIVE")
        elif fault == "damaged":
            os.truncate(tmp_path / "source", 4096 * 50)
            source = made("source")
        with pytest.raises(DriverError, match=text):
            sqlite.copy(source, target, pages=10)


def test_of_a_long_text_that_is_not_utf_8_what_is_around_the_fault_is_told() -> None:
    with pytest.raises(UnicodeDecodeError) as raised:
        (b"a" * 1000 + b"here\xff" + b"b" * 1000).decode()
    text = sqlite.told(raised.value)
    assert "ahere\\xffb" in text
    assert len(text) < 150


def test_memory_that_sqlite_is_refused_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """As when the interpreter is refused some: whoever meets it leaves, with its own exit code."""
    Store.open(tmp_path / "store").close()
    code = """
        import apsw
        from gestalt_cas import Store
        with Store.open(arguments[0]) as store:
            for transaction in (store._database.read, store._database.write):
                apsw.hard_heap_limit(3_000_000)
                try:
                    with transaction() as tx:
                        tx.execute("SELECT length(hex(zeroblob(30000000)))").fetchall()
                except MemoryError as error:
                    print(error)
                apsw.hard_heap_limit(0)
            print(store.health() or "sound")
    """
    assert child(code, tmp_path / "store") == "out of memory\nout of memory\nsound\n"


@pytest.mark.parametrize(
    ("version", "bug"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False),
        ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 0), True), ((3, 51, 2), True),
        ((3, 51, 3), False), ((3, 53, 4), False),
    ],
)  # fmt: skip
def test_which_sqlite_has_the_wal_reset_bug(version: tuple[int, int, int], bug: bool) -> None:
    assert sqlite.has_wal_reset_bug(version) is bug


def test_what_is_told_of_the_sqlite_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sqlite.VERSION in sqlite.describe()
    monkeypatch.setattr(sqlite, "BUNDLED", True)
    assert "from APSW" in sqlite.describe()
    monkeypatch.setattr(sqlite, "BUNDLED", False)
    assert "of the system" in sqlite.describe()
    monkeypatch.setattr(sqlite, "version", lambda: (3, 40, 1))
    assert "has the WAL-reset bug" in sqlite.describe()
    monkeypatch.setattr(sqlite, "version", lambda: (3, 53, 4))
    assert "without the WAL-reset bug" in sqlite.describe()


# ---- what is larger than memory ----


SMALL_MEMORY = """
import resource
store = Store.open(arguments[0])
for number in range(6):
    with store._database.write() as tx:
        for part in range(20):
            tx.execute("INSERT INTO settings VALUES (?, ?)", (f"long{number}-{part}", '"' + "x" * 1_000_000 + '"'))
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (64 << 20),) * 2)
store._database.mend(lambda tx: None, vacuum=True)
with store._database.read() as tx:
    print(tx.execute("SELECT count(*) FROM settings WHERE name LIKE 'long%'").fetchall()[0][0])
"""


def test_a_database_is_written_anew_in_less_memory_than_it_has(tmp_path: Path) -> None:
    assert child(SMALL_MEMORY, tmp_path / "store") == "120\n"


@pytest.mark.parametrize("places", [True, False])
def test_a_repair_works_in_temporary_files_where_there_can_be_any(
    store: Store, monkeypatch: pytest.MonkeyPatch, places: bool
) -> None:
    found: list[Any] = []
    if not places:  # as in a container whose root is read-only
        monkeypatch.setattr(os, "access", lambda *_: False)
    store._database.mend(lambda tx: found.extend(tx.execute("PRAGMA temp_store").fetchall()))
    assert found == [(FILE if places else MEMORY,)]
    assert rows(store, "PRAGMA temp_store") == [(MEMORY,)]


# ---- ctrl-C in a statement on a whole table ----


INTERRUPTED = """
import signal, threading
from gestalt_cas.rows import settings
from gestalt_cas.backups.row_copies import RowCopy

finished = []

def long(connection, *_):
    # A function in C, since signals are seen to wherever Python runs.
    connection.create_scalar_function("finished", finished.append, 1)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) "
        "SELECT finished(count(*)) FROM n"
    )

def copy():
    with RowCopy(Path(arguments[0])) as rows:
        long(rows._connection)

def repair():
    with Store.open(arguments[0]) as store:
        store._database.mend(long)

def upgrade():
    settings.store = long
    Store.open(arguments[0])

try:
    {"copy": copy, "repair": repair, "upgrade": upgrade}[arguments[1]]()
except KeyboardInterrupt:
    print(finished)
"""


@pytest.mark.parametrize("what", ["copy", "repair", "upgrade"])
def test_ctrl_c_ends_a_statement_on_a_whole_table(tmp_path: Path, what: str) -> None:
    assert child(INTERRUPTED, tmp_path / "store", what) == "[]\n"
    if what != "copy":
        with Store.open(tmp_path / "store") as store:
            put(store, "k", b"one")
