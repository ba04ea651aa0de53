"""Transactions and their ends: done, refused with nothing changed, or unknown; and what a failing disk leads to."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from driver_aids import (
    BUSY,
    CORRUPT,
    ERROR,
    FULL,
    IOERR,
    IOERR_FSYNC,
    LOCKED,
    NOTADB,
    driver_error,
    wals_opened_for_reading_only,
)
from gestalt_cas import Store
from gestalt_cas.errors import (
    DatabaseDamaged,
    DiskFull,
    NoSuchKey,
    OutcomeUnknown,
    PreconditionFailed,
    SchemaTooNew,
    ShuttingDown,
    StorageFault,
    StoreBusy,
    StoreError,
    StoreFull,
    TooManyStreams,
)
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.system.locks import FileLock
from gestalt_cas.transactions import connections, database, readers, wal
from gestalt_cas.transactions.connections import connect
from storage import Child, Failing, body, child, history, key, put, rows

FILE, MEMORY = 1, 2  # of PRAGMA temp_store


class Faulty:
    """A driver connection whose statements that start with `sql` fail, once or `times`; `after` doing their work."""

    def __init__(self, real: Any, sql: str, error: Exception, *, after: bool = False, times: int = 1) -> None:
        self.real, self.sql, self.error, self.after, self.times = real, sql, error, after, times
        self.statements: list[str] = []
        self.closed = False

    def execute(self, sql: str, *parameters: object) -> Any:
        self.statements.append(sql)
        if not sql.startswith(self.sql) or not self.times:
            return self.real.execute(sql, *parameters)
        self.times -= 1
        if self.after:
            self.real.execute(sql, *parameters)
        raise self.error

    def executemany(self, sql: str, parameters: object) -> Any:
        return self.real.executemany(sql, parameters)

    @property
    def kept(self) -> Faulty:
        return self

    @property
    def in_transaction(self) -> bool:
        return bool(self.real.in_transaction)

    def set_busy_timeout(self, milliseconds: int) -> None:
        self.real.set_busy_timeout(milliseconds)

    def setlk_timeout(self, milliseconds: int, flags: int) -> None:
        self.real.setlk_timeout(milliseconds, flags)

    def close(self) -> None:
        self.closed = True
        self.real.close()


def break_writer(store: Store, sql: str, code: int, **options: Any) -> Faulty:
    faulty = Faulty(store._database._writer, sql, driver_error(code), **options)
    store._database._writer = faulty  # type: ignore[assignment]
    return faulty


def break_reader(store: Store, sql: str, code: int, **options: Any) -> Faulty:
    """Make the next read meet the fault."""
    store.settings()  # so that there is an idle connection
    idle = store._database._readers._idle
    idle[-1] = faulty = Faulty(idle[-1], sql, driver_error(code), **options)  # type: ignore[assignment]
    return faulty


def writer(store: Store) -> Any:
    return store._database._writer


# ---- transactions ----


def test_a_write_is_seen_when_its_block_has_ended(store: Store) -> None:
    with store._database.write() as tx:
        tx.execute("UPDATE counter SET seq = 77")
        assert rows(store, "SELECT seq FROM counter") == [(0,)]
    assert rows(store, "SELECT seq FROM counter") == [(77,)]


def spoil(store: Store, error: BaseException) -> None:
    with store._database.write() as tx:
        tx.execute("UPDATE counter SET seq = 77")
        raise error


@pytest.mark.parametrize("error", [PreconditionFailed("no"), ValueError(), KeyboardInterrupt()])
def test_what_the_block_raises_undoes_it(store: Store, error: BaseException) -> None:
    with pytest.raises(type(error)):
        spoil(store, error)
    assert rows(store, "SELECT seq FROM counter") == [(0,)]
    put(store, "k", b"works on")


def test_a_read_is_one_view(store: Store) -> None:
    put(store, "k", b"one")
    with store._database.read() as tx:
        before = tx.execute("SELECT seq FROM counter").fetchall()
        put(store, "k", b"two")
        assert tx.execute("SELECT seq FROM counter").fetchall() == before
    assert rows(store, "SELECT seq FROM counter") != before


def test_what_a_read_raises_gives_its_connection_back(store: Store) -> None:
    store.settings()
    idle = list(store._database._readers._idle)
    with pytest.raises(NoSuchKey):
        body(store, "absent")
    assert store._database._readers._idle == idle
    assert not idle[0].in_transaction


def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises(StorageFault, match="readonly"), store._database.read() as tx:
        tx.execute("UPDATE counter SET seq = 77")
    assert rows(store, "SELECT seq FROM counter") == [(0,)]


def test_every_connection_has_the_settings_that_keep_commits(store: Store) -> None:
    with store._database.read() as reader, store._database.write() as tx:
        for connection in (reader, tx):
            for pragma, expected in (("wal_autocheckpoint", 0), ("synchronous", 2), ("foreign_keys", 1)):
                assert connection.execute(f"PRAGMA {pragma}").fetchall() == [(expected,)], pragma
        assert reader.execute("PRAGMA query_only").fetchall() == [(1,)]


def test_what_the_platform_needs_is_set_on_connections_that_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SQLITE_PRAGMAS", ("PRAGMA checkpoint_fullfsync=ON",))
    with Store.open(tmp_path / "store") as store, store._database.write() as tx:
        assert tx.execute("PRAGMA checkpoint_fullfsync").fetchall() == [(1,)]


def test_idle_readers_are_kept_up_to_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_IDLE", 2)
    blocks = [store._database.read() for _ in range(4)]
    connections = [block.__enter__() for block in blocks]
    assert len({id(connection) for connection in connections}) == 4
    for block in blocks:
        block.__exit__(None, None, None)
    assert len(store._database._readers._idle) == 2
    with pytest.raises(DriverError, match="closed"):
        connections[-1].execute("SELECT 1")


def test_many_threads_read_and_write(store: Store) -> None:
    put(store, "k", b"0")
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                put(store, f"{number}", f"{turn}".encode())
                assert body(store, f"{number}") == f"{turn}".encode()
                assert body(store, "k") == b"0"
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert rows(store, "SELECT count(*), max(seq) FROM versions") == [(61, 61)]


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


def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checks of the database that are made from now on."""
    connect, made = database.connect, []

    class Listening(Faulty):
        def execute(self, sql: str, *parameters: object) -> Any:
            if "_check" in sql:
                made.append(sql)
            return super().execute(sql, *parameters)

    monkeypatch.setattr(database, "connect", lambda path: Listening(connect(path), "none", ValueError()))
    return made


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


# ---- other users of the file ----


def test_a_foreign_writer_makes_it_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_FOREIGN_WAIT", 0.05)
    code = """
        from gestalt_cas.sql import sqlite
        connection = sqlite.connect(Path(arguments[0]))
        connection.execute("BEGIN IMMEDIATE")
        print("begun", flush=True)
        sys.stdin.readline()
        connection.execute("ROLLBACK")
    """
    with Store.open(tmp_path / "store") as store, Child(code, store.directory / "metadata.sqlite3") as foreign:
        assert foreign.line() == "begun"
        with pytest.raises(StoreBusy, match="another program"):
            put(store, "k", b"one")
        foreign.tell()
        foreign.finish()
        put(store, "k", b"two")
        assert len(history(store, "k")) == 1


def test_a_write_names_who_holds_the_lock(store: Store) -> None:
    code = """
        store = Store.open(arguments[0])
        with store._database.write():
            print("in", flush=True)
            sys.stdin.readline()
    """
    with Child(code, store.directory) as other:
        assert other.line() == "in"
        with pytest.raises(StoreBusy, match=f"process {other.pid}"), store._database.write(timeout=0.02):
            pytest.fail("another process writes")
        assert store.settings()  # readers are not held up
        other.tell()
        other.finish()


# ---- the WAL ----


def test_no_commit_checkpoints_by_itself(store: Store) -> None:
    for number in range(40):
        put(store, f"{number}", b"x", metadata={"m": "x" * 60_000})
    assert store._database.wal_bytes > 40 * 60_000


@pytest.mark.parametrize(("passive", "restart", "mode"), [(1, 1 << 30, "PASSIVE"), (1, 1, "TRUNCATE")])
def test_background_work_shortens_the_wal(
    store: Store, monkeypatch: pytest.MonkeyPatch, passive: int, restart: int, mode: str
) -> None:
    monkeypatch.setattr(wal, "PASSIVE_BYTES", passive)
    monkeypatch.setattr(wal, "RESTART_BYTES", restart)
    put(store, "k", b"one")
    spy = break_writer(store, "none", IOERR)
    store.maintain()
    assert [sql for sql in spy.statements if "wal_checkpoint" in sql] == [f"PRAGMA wal_checkpoint({mode})"]
    assert rows(store, "PRAGMA busy_timeout") == [(5000,)]


def test_a_short_wal_is_left_alone(store: Store) -> None:
    put(store, "k", b"one")
    spy = break_writer(store, "none", IOERR)
    store.maintain()
    assert not spy.statements


def test_a_restart_lets_the_wal_begin_anew(store: Store) -> None:
    for number in range(20):
        put(store, f"{number}", b"x", metadata={"m": "x" * 60_000})
    long = store._database.wal_bytes
    assert store._database.checkpoint(restart=True)
    put(store, "k", b"one")
    put(store, "k", b"two")
    assert store._database.wal_bytes <= long
    assert rows(store, "PRAGMA wal_checkpoint")[0][1] < 40  # pages in the WAL


@pytest.mark.parametrize("code", [IOERR, FULL, BUSY])
def test_a_commit_stands_when_the_checkpoint_after_it_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    monkeypatch.setattr(wal, "_SMALL_COMMITS", 1)
    monkeypatch.setattr(wal, "RELIEF_BYTES", 1)
    monkeypatch.setattr(wal, "STEP_BYTES", 1)
    break_writer(store, "PRAGMA wal_checkpoint", code)
    put(store, "k", b"one")
    assert "checkpoint after a commit failed" in caplog.text
    assert body(store, "k") == b"one"
    put(store, "k", b"two")
    assert len(history(store, "k")) == 2


@pytest.mark.parametrize(("code", "error"), [(IOERR, StorageFault), (FULL, StoreFull), (CORRUPT, DatabaseDamaged)])
def test_a_checkpoint_that_fails_says_so(store: Store, code: int, error: type[StoreError]) -> None:
    break_writer(store, "PRAGMA wal_checkpoint", code)
    with pytest.raises(error):
        store._database.checkpoint()


def test_background_work_that_cannot_shorten_the_wal_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "PASSIVE_BYTES", 1)
    put(store, "k", b"one")
    break_writer(store, "PRAGMA wal_checkpoint", IOERR)
    with pytest.raises(StorageFault):
        store._database.tend_wal()
    put(store, "k", b"two")
    assert body(store, "k") == b"two"


def test_a_commit_stands_when_the_wal_cannot_be_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def fail(path: Path, **options: bool) -> Any:
        if path.name.endswith("-wal"):
            raise OSError("Input/output error")
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        put(store, "k", b"one")
    assert body(store, "k") == b"one"


def test_an_absent_wal_is_of_no_length(store: Store) -> None:
    put(store, "k", b"x")
    store.close()
    assert not (store.directory / "metadata.sqlite3-wal").exists()
    assert store._database.wal_bytes == 0


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


# ---- closing ----


def test_after_close_every_call_says_so(store: Store) -> None:
    put(store, "k", b"one")
    store.close()
    store.close()
    for call in (
        lambda: put(store, "k", b"x"),
        lambda: body(store, "k"),
        lambda: store.head(key("k")),
        lambda: store.delete(key("k")),
        lambda: store.copy(key("k"), key("l")),
        store.settings,
        lambda: store.change_settings({"bucket": "x"}),
        store._database.checkpoint,
        store.buckets,
        store.claim_server,
    ):
        with pytest.raises(ShuttingDown):
            call()
    assert not list((store.directory / "staging").iterdir())


def test_a_write_that_had_to_wait_for_a_close_says_so(store: Store) -> None:
    put(store, "k", b"one")
    store._database.close()  # the locks are still open
    mend = store._database.mend
    for call in (lambda: store.delete(key("k")), store._database.checkpoint, lambda: mend(lambda tx: None)):
        with pytest.raises(ShuttingDown):
            call()


def test_a_new_reader_that_fails_at_once_is_closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Faulty] = []
    connect = readers.connect
    put(store, "k", b"one")
    store._database._readers._idle.clear()
    monkeypatch.setattr(
        readers,
        "connect",
        lambda path, **options: (
            made.append(Faulty(connect(path, **options), "PRAGMA query_only", driver_error(IOERR))) or made[-1]
        ),
    )
    with pytest.raises(StorageFault):
        body(store, "k")
    assert [faulty.closed for faulty in made] == [True]
    assert "disk failed" in store.health()


def test_a_new_reader_that_finds_damage_has_it_checked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise DatabaseDamaged("the database is damaged: file is not a database")

    with store._database.read(), monkeypatch.context() as patch:
        patch.setattr(readers, "connect", refuse)
        with pytest.raises(DatabaseDamaged), store._database.read():
            pytest.fail("there is no second reader")
    made = checks(monkeypatch)
    put(store, "k", b"one")
    assert made == ["PRAGMA integrity_check(1)"]


def test_connections_are_closed_under_the_writer_lock(store: Store) -> None:
    seen: list[bool] = []
    probe = FileLock(store.directory / "write.lock")

    class Watched(Faulty):
        def close(self) -> None:
            seen.append(probe.try_acquire())
            super().close()

    store.settings()
    database_ = store._database
    database_._writer = Watched(database_._writer, "none", ValueError())  # type: ignore[assignment]
    idle = database_._readers._idle
    idle[:] = [Watched(reader, "none", ValueError()) for reader in idle]  # type: ignore[misc]
    store.close()
    assert seen == [False] * 2
    probe.close()


@pytest.fixture
def abandoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Connections that were left open; closed in the end, when nobody can mind."""
    left: list[Any] = []
    monkeypatch.setattr(readers, "_abandoned", left)
    yield left
    for connection in left:
        connection.close()


def test_without_the_lock_connections_are_left_open(store: Store, abandoned: list[Any]) -> None:
    put(store, "k", b"one")
    holder = FileLock(store.directory / "write.lock")
    assert holder.try_acquire()
    before = writer(store)
    store._database.close(timeout=0.02)
    assert before in abandoned
    assert len(abandoned) == 2
    assert before.execute("SELECT count(*) FROM versions").fetchall() == [(1,)]
    holder.close()


LEFT_OPEN = """
store = Store.open(arguments[0])
store.write(ObjectKey("bucket", "k"), [b"one"])
print("written", flush=True)
sys.stdin.readline()
print(store._database.close(timeout=0.02))
"""


def test_what_is_left_open_without_the_lock_ends_without_a_checkpoint(tmp_path: Path) -> None:
    """The interpreter collects the connections at its end, which closes them."""
    wal_ = tmp_path / "store" / "metadata.sqlite3-wal"
    with Child(LEFT_OPEN, tmp_path / "store") as process:
        assert process.line() == "written"
        holder = FileLock(tmp_path / "store" / "write.lock")
        assert holder.try_acquire()
        before = wal_.read_bytes()
        process.tell()
        assert process.finish() == "False\n"
        assert wal_.read_bytes() == before
        holder.close()
    with Store.open(tmp_path / "store") as store:
        assert body(store, "k") == b"one"


def test_what_another_thread_is_at_work_with_is_left_open_too(store: Store, abandoned: list[Any]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stay() -> int:
        begun.set()
        go_on.wait(60)
        return 1

    busy = writer(store)
    busy.create_scalar_function("stay", stay, 0)
    thread = threading.Thread(target=lambda: busy.execute("SELECT stay()").fetchall())
    thread.start()
    assert begun.wait(60)
    readers.abandon([busy])
    go_on.set()
    thread.join()
    assert abandoned == [busy]


@pytest.mark.parametrize("locks_closed", [True, False])
def test_a_read_that_outlives_the_store_ends_well(store: Store, abandoned: list[Any], locks_closed: bool) -> None:
    put(store, "k", b"one")
    with store._database.read() as tx:
        if locks_closed:
            store.close()
        else:
            store._database.close()
        assert tx.execute("SELECT count(*) FROM versions").fetchall() == [(1,)]
    assert (tx in abandoned) is locks_closed


def test_a_writer_that_is_at_work_is_waited_for(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def inside() -> None:
        with store._database.write() as tx:
            begun.set()
            go_on.wait(60)
            tx.execute("UPDATE counter SET seq = 77")

    thread = threading.Thread(target=inside)
    thread.start()
    assert begun.wait(60)
    closing = threading.Thread(target=store.close)
    closing.start()
    go_on.set()
    thread.join()
    closing.join()
    with Store.open(store.directory) as again:
        assert rows(again, "SELECT seq FROM counter") == [(77,)]


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


def test_a_writer_of_an_older_release_stops_at_a_newer_format(store: Store) -> None:
    with store._database.write() as tx:
        tx.execute(f"PRAGMA user_version={schema.FORMAT + 1}")
    with pytest.raises(SchemaTooNew, match=f"format {schema.FORMAT + 1}"), store._database.write():
        pytest.fail("the transaction was given out")
