"""Closing a database: under the writer lock, with others at work, and what is left open without it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driver_aids import IOERR, driver_error
from faulty_connections import Faulty, checks, writer
from gestalt_cas import Store
from gestalt_cas.errors import DatabaseDamaged, ShuttingDown, StorageFault
from gestalt_cas.system.locks import FileLock
from gestalt_cas.transactions import readers
from storage import Child, body, key, put, rows


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
    for call in (
        lambda: store.head(key("k")),
        lambda: store.delete(key("k")),
        store._database.checkpoint,
        lambda: mend(lambda tx: None),
    ):
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
