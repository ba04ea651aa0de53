"""Transactions as callers see them: done or undone as a whole, one view for a read, and who else uses the file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from gestalt_cas import Store
from gestalt_cas.errors import NoSuchKey, PreconditionFailed, SchemaTooNew, StorageFault, StoreBusy
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.transactions import connections, readers
from storage import Child, body, history, put, rows


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


def test_a_writer_of_an_older_release_stops_at_a_newer_format(store: Store) -> None:
    with store._database.write() as tx:
        tx.execute(f"PRAGMA user_version={schema.FORMAT + 1}")
    with pytest.raises(SchemaTooNew, match=f"format {schema.FORMAT + 1}"), store._database.write():
        pytest.fail("the transaction was given out")
