"""A disk that fails, is full or damaged under a transaction: done, refused with nothing changed, or unknown."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from driver_aids import BUSY, CORRUPT, FULL, IOERR, IOERR_FSYNC, NOTADB, driver_error, wals_opened_for_reading_only
from faulty_connections import Faulty, break_reader, break_writer, checks, writer
from gestalt_cas import Store
from gestalt_cas.errors import (
    DatabaseDamaged,
    DiskFull,
    NoSuchKey,
    OutcomeUnknown,
    PreconditionFailed,
    StorageFault,
    StoreBusy,
    StoreError,
    StoreFull,
)
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.transactions import database
from gestalt_cas.transactions.connections import connect
from storage import Failing, body, child, history, key, put, rows

# ---- a failing disk ----


@pytest.mark.parametrize("code", [IOERR, IOERR_FSYNC])
@pytest.mark.parametrize("reached", [True, False])
def test_a_commit_that_fails_is_unknown_and_absent_or_whole(store: Store, code: int, reached: bool) -> None:
    put(store, "k", b"before")
    faulty = break_writer(store, "COMMIT", code, after=reached)
    with pytest.raises(OutcomeUnknown, match="outcome unknown"):
        put(store, "k", b"after", metadata={"a": "b"})
    assert "disk failed" in store.health()
    found = history(store, "k")
    assert [dict(version.metadata) for version in found] == ([{"a": "b"}, {}] if reached else [{}])
    assert body(store, "k") == (b"after" if reached else b"before")
    put(store, "k", b"next")
    assert faulty.closed
    assert writer(store) is not faulty
    assert store.health() == ""
    assert body(store, "k") == b"next"


def commits_without_memory(store: Store, names: list[str]) -> None:
    """Commit one small change after the other, with no more memory for a COMMIT than is in use."""
    for number in range(200):
        names.append(f"name {number}")
        try:
            with store._database.write(relieve=False) as tx:
                tx.execute("UPDATE filling SET bytes = ?", (names[-1],))
                apsw.hard_heap_limit(apsw.memory_used())
        finally:
            apsw.hard_heap_limit(0)


def test_a_commit_without_memory_for_the_index_of_the_wal_is_unknown(store: Store, tmp_path: Path) -> None:
    """SQLite notes synced frames in that index and takes memory for it every 4062 frames; a crash still finds them."""
    with store._database.write(relieve=False) as tx:
        tx.execute("CREATE TABLE filling (bytes)")
        tx.execute("INSERT INTO filling VALUES (zeroblob(?))", (4000 * schema.PAGE_SIZE,))
    names: list[str] = []
    with pytest.raises(OutcomeUnknown, match="memory ran out during COMMIT"):
        commits_without_memory(store, names)
    assert rows(store, "SELECT bytes FROM filling") != [(names[-1],)]
    crashed = tmp_path / "crashed"
    shutil.copytree(store._layout.root, crashed, ignore=shutil.ignore_patterns("*-shm"))
    with Store.open(crashed) as left:
        assert rows(left, "SELECT bytes FROM filling") == [(names[-1],)]
    put(store, "k", b"next")
    assert body(store, "k") == b"next"
    assert store.health() == ""


@pytest.mark.parametrize("sql", ["BEGIN IMMEDIATE", "PRAGMA user_version", "INSERT INTO versions"])
def test_an_io_error_before_commit_changes_nothing_and_the_files_are_opened_anew(store: Store, sql: str) -> None:
    put(store, "k", b"before")
    faulty = break_writer(store, sql, IOERR)
    with pytest.raises(StorageFault):
        put(store, "k", b"after")
    assert body(store, "k") == b"before"
    put(store, "k", b"next")
    assert faulty.closed
    assert [body(store, "k", version_id=version.version_id) for version in history(store, "k")] == [b"next", b"before"]


def test_the_database_is_checked_before_it_is_written_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"one")
    made: list[Faulty] = []
    connect = database.connect
    monkeypatch.setattr(
        database, "connect", lambda path: made.append(Faulty(connect(path), "none", ValueError())) or made[-1]
    )
    put(store, "k", b"two")
    statements = made[0].statements
    assert statements[0] == "PRAGMA quick_check(1)"
    assert "BEGIN IMMEDIATE" in statements[1:]


def test_an_io_error_of_a_reader_counts_too(store: Store) -> None:
    put(store, "k", b"one")
    before = writer(store)
    faulty = break_reader(store, "SELECT", IOERR)
    with pytest.raises(StorageFault):
        body(store, "k")
    assert faulty.closed
    assert "disk failed" in store.health()
    assert body(store, "k") == b"one"
    put(store, "k", b"two")
    assert writer(store) is not before
    assert store.health() == ""


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_at_commit_leaves_no_transaction_open(store: Store, after: bool) -> None:
    faulty = Faulty(store._database._writer, "COMMIT", KeyboardInterrupt(), after=after)  # type: ignore[arg-type]
    store._database._writer = faulty  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        put(store, "k", b"value")
    assert not faulty.in_transaction
    assert len(history(store, "k")) == after
    put(store, "next", b"value")
    assert body(store, "next") == b"value"


@pytest.mark.parametrize("how", ["the first", "after a fault", "a repair"])
def test_the_name_of_the_wal_is_on_the_disk_before_anything_is_committed_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """SQLite's own sync of the directory is an fdatasync."""
    Store.open(tmp_path / "store").close()
    with Store.open(tmp_path / "store") as store:
        if how != "the first":
            put(store, "k", b"before")
        lengths: list[int] = []
        monkeypatch.setattr(database, "sync_directory", lambda _: lengths.append(store._database.wal_bytes))
        if how == "a repair":
            store._database.mend(lambda _: lengths.append(-1))
            assert lengths[:2] == [0, -1]
        else:
            if how == "after a fault":
                store._database._faults.note(driver_error(IOERR))
            put(store, "k", b"one")
            assert lengths == [0]
        lengths.clear()
        put(store, "k", b"two")
        assert not lengths


@pytest.mark.parametrize("how", ["the first", "after a fault"])
def test_a_directory_that_cannot_be_synced_refuses_the_write_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    Store.open(tmp_path / "store").close()
    with Store.open(tmp_path / "store") as store:
        if how == "after a fault":
            put(store, "other", b"before")
            store._database._faults.note(driver_error(IOERR))
        failing = Failing(database.sync_directory, OSError(errno.EIO, "made up"))
        monkeypatch.setattr(database, "sync_directory", failing)
        with pytest.raises(StorageFault, match="made up"):
            put(store, "k", b"one")
        assert history(store, "k") == []
        put(store, "k", b"two")
        assert body(store, "k") == b"two"
        assert failing.calls == 2
        assert store.health() == ""


def test_a_rollback_that_fails_leads_to_new_files(store: Store) -> None:
    faulty = break_writer(store, "ROLLBACK", IOERR)
    with pytest.raises(PreconditionFailed), store._database.write():
        raise PreconditionFailed("no")
    put(store, "k", b"one")
    assert faulty.closed


def test_a_reader_that_cannot_be_rolled_back_is_not_used_again(store: Store) -> None:
    faulty = break_reader(store, "ROLLBACK", IOERR)
    with pytest.raises(NoSuchKey):
        body(store, "absent")
    assert faulty.closed
    assert faulty not in store._database._readers._idle


def test_files_that_cannot_be_opened_again_are_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"one")

    def refuse(path: Path) -> None:
        raise StorageFault("cannot be opened")

    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", refuse)
        for _ in range(2):
            with pytest.raises(StorageFault, match="cannot be opened"):
                put(store, "k", b"two")
    put(store, "k", b"three")
    assert body(store, "k") == b"three"


def test_a_quick_check_that_fails_for_now_is_repeated(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"one")
    connect = database.connect

    def failing(path: Path) -> Faulty:
        return Faulty(connect(path), "PRAGMA quick_check", driver_error(IOERR))

    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", failing)
        with pytest.raises(StorageFault):
            put(store, "k", b"two")
    put(store, "k", b"three")
    assert store.health() == ""


def opened_read_only(path: Path, *, mode: str = "rw") -> Any:
    """A connection as SQLite makes it when it may not open its file for writing at that moment."""
    return connect(path, mode="ro")


def test_files_opened_for_reading_only_are_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.open(tmp_path / "store").close()
    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", opened_read_only)
        store = Store.open(tmp_path / "store")
    with store:
        put(store, "k", b"one")
        assert store.health() == ""
        assert body(store, "k") == b"one"


def test_a_wal_opened_for_reading_only_is_opened_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as another:
        put(another, "k", b"one")  # there is a WAL
        with wals_opened_for_reading_only():
            store = Store.open(tmp_path / "store")
        with store:
            put(store, "k", b"two")
            assert store.health() == ""
            assert body(another, "k") == b"two"


def test_a_wal_that_could_only_be_opened_for_reading_refuses_the_first_change(store: Store) -> None:
    put(store, "k", b"one")
    with wals_opened_for_reading_only():
        connection = connect(store._database._layout.database)
    with closing(connection):
        for _ in range(2):
            with pytest.raises(DriverError) as refused:
                connection.execute("UPDATE settings SET value = value WHERE 0")
            assert sqlite.is_read_only(refused.value)
            with pytest.raises(DriverError):  # having set how long it waits, it sets that back
                store._database._wal._cut(connection, 0.0)


@pytest.mark.parametrize("mend", [put, lambda store, *_: store.maintain()])
def test_files_that_stay_read_only_are_a_fault_until_they_are_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, mend: Any
) -> None:
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"one")
    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", opened_read_only)
        for _ in range(2):
            with pytest.raises(StorageFault, match="readonly"):
                mend(store, "k", b"two")
            assert "readonly" in store.health()
    put(store, "k", b"three")
    assert store.health() == ""
    assert body(store, "k") == b"three"


def test_a_first_connection_that_fails_for_another_reason_is_tried_again(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    with Store.open(tmp_path / "store") as store:
        break_writer(store, "UPDATE settings", BUSY)
        with pytest.raises(StoreBusy):
            put(store, "k", b"one")
        put(store, "k", b"two")
        assert body(store, "k") == b"two"


def test_closing_with_a_fault_closes_the_rest(store: Store) -> None:
    faulty = break_writer(store, "none", IOERR)
    idle = break_reader(store, "none", IOERR)

    def fail() -> None:
        raise driver_error(IOERR)

    real, faulty.real = faulty.real, type("Failing", (), {"close": staticmethod(fail)})
    store.close()
    assert faulty.closed
    assert idle.closed
    real.close()


# ---- no room ----


@pytest.mark.parametrize("sql", ["INSERT INTO versions", "COMMIT"])
def test_no_room_is_told_and_changes_nothing(store: Store, sql: str) -> None:
    put(store, "k", b"before")
    faulty = break_writer(store, sql, FULL)
    with pytest.raises(StoreFull):
        put(store, "k", b"after")
    assert body(store, "k") == b"before"
    assert store.health() == ""
    put(store, "k", b"next")
    assert writer(store) is faulty  # there is nothing wrong with the files


def fill(store: Store) -> None:
    for number in range(100):
        put(store, f"{number}", b"x", metadata={"m": "x" * 8000})


def test_no_room_in_the_database_itself(store: Store) -> None:
    put(store, "k", b"before")
    ((pages,),) = rows(store, "PRAGMA page_count")
    limit = store._database._writer
    assert limit is not None
    limit.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreFull):
        fill(store)
    assert body(store, "k") == b"before"
    limit.execute("PRAGMA max_page_count=1000000")
    put(store, "k", b"after")
    assert rows(store, "PRAGMA integrity_check") == [("ok",)]


def test_after_a_write_without_room_the_next_one_begins_the_wal_anew(store: Store) -> None:
    """What the WAL has taken of a full disk is then room for the next writes; the reserve may be given up by then."""
    spy = break_writer(store, "COMMIT", FULL)
    with pytest.raises(DiskFull):
        put(store, "k", b"one")
    assert not [sql for sql in spy.statements if "wal_checkpoint" in sql]
    put(store, "k", b"two")
    put(store, "k", b"three")
    assert [sql for sql in spy.statements if "wal_checkpoint" in sql or sql == "COMMIT"] == [
        "COMMIT",
        "PRAGMA wal_checkpoint(RESTART)",
        "COMMIT",
        "COMMIT",
    ]


@pytest.mark.parametrize("code", [FULL, IOERR])
def test_a_wal_that_cannot_begin_anew_is_lengthened(store: Store, code: int) -> None:
    break_writer(store, "COMMIT", FULL)
    with pytest.raises(DiskFull):
        put(store, "k", b"one")
    faulty = break_writer(store, "PRAGMA wal_checkpoint", code)
    put(store, "k", b"two")
    assert body(store, "k") == b"two"
    assert (writer(store) is faulty) == (code == FULL)  # after an I/O error the database is opened anew and checked
    put(store, "k", b"three")
    assert len(history(store, "k")) == 2


# ---- damage ----


@pytest.mark.parametrize("code", [CORRUPT, NOTADB])
@pytest.mark.parametrize("sql", ["BEGIN IMMEDIATE", "INSERT INTO versions", "COMMIT"])
def test_damage_that_sqlite_meets_has_the_whole_database_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch, sql: str, code: int
) -> None:
    """It says so, too, when the disk fails to read a page: only a check can tell."""
    put(store, "k", b"one")
    faulty = break_writer(store, sql, code)
    with pytest.raises(DatabaseDamaged):
        put(store, "k", b"two")
    assert "the next write checks" in store.health()
    assert body(store, "k") == b"one"
    made = checks(monkeypatch)
    put(store, "k", b"three")
    assert made == ["PRAGMA integrity_check(1)"]
    assert faulty.closed
    assert store.health() == ""
    assert len(history(store, "k")) == 2


def refused(store: Store) -> None:
    assert "writes are refused" in store.health()
    for call in (
        lambda: put(store, "k", b"x"),
        lambda: store.delete(key("k")),
        lambda: store.copy(key("k"), key("l")),
        lambda: store.change_settings({"bucket": "x"}),
        store._database.checkpoint,
    ):
        with pytest.raises(DatabaseDamaged, match="writes are refused"):
            call()
    assert not list((store.directory / "staging").iterdir())


def test_damage_that_a_read_meets_counts_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"one")
    break_reader(store, "SELECT", CORRUPT)
    with pytest.raises(DatabaseDamaged):
        body(store, "k")
    break_reader(store, "SELECT", IOERR)
    with pytest.raises(StorageFault):
        body(store, "k")
    assert "the next write checks" in store.health()
    made = checks(monkeypatch)
    put(store, "k", b"two")
    assert made == ["PRAGMA integrity_check(1)"]  # the more thorough of the two that are due
    assert store.health() == ""


def test_damage_found_by_the_check_after_a_fault_stops_writes(store: Store) -> None:
    put(store, "k", b"one")
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"two")
    code = """
        from gestalt_cas.sql import sqlite
        connection = sqlite.connect(Path(arguments[0]))
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'current'").fetchall()[0][0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        with open(arguments[0], "r+b") as file:
            file.seek((root - 1) * 8192)
            file.write(b"\\xff" * 64)
    """
    child(code, store.directory / "metadata.sqlite3")
    with pytest.raises(DatabaseDamaged):
        put(store, "k", b"three")
    refused(store)


def test_findings_of_the_check_after_a_fault_stop_writes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"one")
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"two")
    connect, made = database.connect, []

    class Finding(Faulty):
        def execute(self, sql: str, *parameters: object) -> Any:
            found = "SELECT 'wrong # of entries in index versions_null'"
            return self.real.execute(found if "quick_check" in sql else sql, *parameters)

    monkeypatch.setattr(
        database, "connect", lambda path: made.append(Finding(connect(path), "none", ValueError())) or made[-1]
    )
    with pytest.raises(DatabaseDamaged, match="wrong # of entries"):
        put(store, "k", b"three")
    assert [connection.closed for connection in made] == [True]
    refused(store)


def test_a_database_that_became_something_else_stops_writes(store: Store) -> None:
    break_writer(store, "COMMIT", IOERR)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", b"one")
    code = """
        for path in Path(arguments[0]).glob("metadata.sqlite3*"):
            path.write_bytes(b"garbage" * 10_000)
    """
    child(code, store.directory)
    with pytest.raises(DatabaseDamaged):
        put(store, "k", b"two")
    assert "damaged" in store.health()
    with pytest.raises(DatabaseDamaged):
        store.delete(key("k"))
    assert "writes are refused" in store.health()


SCRIBBLES: dict[str, Callable[[bytearray], bytearray]] = {
    "empty pages": lambda data: data[:8192] + bytes(len(data) - 8192),
    "first half": lambda data: data[: len(data) // 2],
    "one page": lambda data: data[:8192],
    "part of a page": lambda data: data[:5000],
    "header only": lambda data: data[:100],
    "half a header": lambda data: data[:50],
    "ones": lambda data: data[:8192] + b"\xff" * (len(data) - 8192),
    "shifted": lambda data: data[:4096] + data,
    "header of garbage": lambda data: bytearray(b"\xa5" * 100) + data[100:],
    "schema page": lambda data: data[:100] + b"\xa5" * 4000 + data[4100:],
}


@pytest.mark.parametrize("scribble", SCRIBBLES)
def test_a_damaged_file_gives_errors_of_the_store_only(tmp_path: Path, scribble: str) -> None:
    directory = tmp_path / "store"
    with Store.open(directory) as store:
        for number in range(60):
            put(store, f"key {number:03}", b"%d" % number, metadata={"m": "x" * 300})
    path = directory / "metadata.sqlite3"
    path.write_bytes(SCRIBBLES[scribble](bytearray(path.read_bytes())))
    met: list[StoreError] = []
    try:
        with Store.open(directory, create=False) as store:
            for number in range(60):
                try:
                    assert body(store, f"key {number:03}") == b"%d" % number
                except StoreError as error:
                    met.append(error)
            try:
                put(store, "new", b"new")
            except StoreError as error:
                met.append(error)
            assert store.health()
            for _ in range(2):
                with pytest.raises(DatabaseDamaged, match="damaged"):
                    put(store, "new", b"new")
            assert "writes are refused" in store.health()
    except StoreError as error:
        met.append(error)
    assert any(isinstance(error, DatabaseDamaged) for error in met), met
    assert not any(isinstance(error, StoreFull) for error in met)
