"""Room in the WAL: commits go over bytes that are there, nothing is lost by it, and what is in use is told apart."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from driver_aids import trace_statements
from gestalt_cas import Store
from gestalt_cas.checks import wal_checks
from gestalt_cas.sql import schema
from gestalt_cas.transactions import wal, wal_file
from gestalt_cas.transactions.wal_file import ROOM_BYTES, WalFile
from storage import MIB, Child, body, put, rows, run_together
from wire import protos
from wire.client import Client, eventually
from wire.process import Server

HEADER, FRAME = 32, 24 + schema.PAGE_SIZE
WRITER = """
store = Store.open(arguments[0], create=False)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(arguments[2])):
    store.write(ObjectKey("bucket", f"{arguments[1]}/{number}"), [f"{arguments[1]} {number}".encode()])
"""
KILLED = """
store = Store.open(arguments[0], create=False)
store.write(ObjectKey("bucket", "before"), [b"before"])
store.maintain()
for number in range(50):
    store.write(ObjectKey("bucket", f"after/{number}"), [b"after"])
print(store._database.wal_bytes, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.fixture(name="store")
def store_fixture(memory: Path) -> Iterator[Store]:
    with Store.open(memory / "store") as opened:
        yield opened


def the_file(store: Store) -> WalFile:
    return store._database._wal.file


def frames(store: Store) -> int:
    """SQLite's own word for how many frames are in use; moves pages by the way."""
    with store._database._writer_lock.held(5):
        found = store._database._sound_writer().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
    return int(found[1])


def without_shared_memory(store: Store, target: Path) -> Store:
    """The files as a crash would leave them now, opened by somebody else: SQLite goes by the WAL alone."""
    shutil.copytree(store.directory, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    return Store.open(target, create=False)


# ---- what is in use ----


@pytest.mark.parametrize("seed", range(4))
def test_what_is_in_use_is_what_sqlite_says(store: Store, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(seed)
    monkeypatch.setattr(wal_file, "ROOM_BYTES", 2 * MIB)
    put(store, "k", b"x")
    assert store._database.wal_taken() == store._database.wal_bytes
    the_file(store).keep_room()
    roomy = 0
    for number in range(40):
        for _ in range(drawn.randrange(1, 12)):
            put(store, f"{number}", b"x", metadata={"m": "x" * drawn.randrange(20_000)})
        act = drawn.choice(["nothing", "room", "move", "anew"])
        if act == "room":
            the_file(store).keep_room()
        elif act == "anew":
            with store._database._writer_lock.held(5):
                assert store._database._wal.begin_anew(store._database._sound_writer())
            put(store, "k", b"the first of its round")
        taken, in_use = store._database.wal_taken(), frames(store)
        assert taken == HEADER + in_use * FRAME
        assert taken <= store._database.wal_bytes
        roomy += taken < store._database.wal_bytes
    assert roomy > 10


def test_nothing_is_in_use_of_an_absent_an_empty_and_a_blank_wal(tmp_path: Path) -> None:
    file = WalFile(tmp_path / "wal")
    assert (file.bytes, file.taken()) == (0, 0)
    (tmp_path / "wal").write_bytes(b"")
    assert file.taken() == 0
    (tmp_path / "wal").write_bytes(bytes(MIB))
    assert (file.bytes, file.taken()) == (MIB, 0)


def test_a_wal_that_cannot_be_read_is_taken_for_one_not_in_use(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"x")
    assert the_file(store).taken() > 0

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        assert the_file(store).taken() == 0


def test_room_makes_no_work_for_the_background(store: Store) -> None:
    """By its length alone the file would be moved each second."""
    put(store, "k", b"x")
    store.maintain()
    assert store._database.wal_bytes == ROOM_BYTES > wal.PASSIVE_BYTES
    statements: list[str] = []
    writer = store._database._writer
    assert writer is not None
    trace_statements(writer, statements.append)
    store.maintain()
    assert not statements
    for number in range(90):
        put(store, f"{number}", b"x", metadata={"m": "x" * 60_000})
    assert wal.PASSIVE_BYTES < store._database.wal_taken() < store._database.wal_bytes == ROOM_BYTES
    store.maintain()
    assert "PRAGMA wal_checkpoint(PASSIVE)" in statements


# ---- room ----


def test_commits_go_over_the_room_and_come_back_to_the_front(store: Store) -> None:
    put(store, "k", b"x")
    store.maintain()
    for turn in range(3):
        for number in range(90):
            put(store, f"{number}", b"%d" % turn, metadata={"m": "x" * 60_000})
        store.maintain()
        assert store._database.wal_bytes == ROOM_BYTES
    assert body(store, "7") == b"2"


def test_a_store_that_nobody_wrote_to_needs_no_room(store: Store) -> None:
    assert store._database.checkpoint(restart=True)
    store.maintain()
    assert store._database.wal_bytes == 0


def test_a_longer_wal_is_cut_to_the_room_when_it_begins_anew(store: Store) -> None:
    with store._database.write() as tx:
        for number in range(24):
            tx.execute("INSERT INTO settings (name, value) VALUES (?, zeroblob(1000000))", (f"long {number}",))
    assert store._database.wal_bytes > ROOM_BYTES
    store.maintain()
    put(store, "k", b"x")
    assert store._database.wal_bytes == ROOM_BYTES
    assert store._database.wal_taken() < MIB


def test_no_room_is_kept_on_a_disk_that_has_little(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"x")
    before = store._database.wal_bytes

    def found(free: int) -> os.statvfs_result:
        return os.statvfs_result((MIB, MIB, 1000, free, free, 10_000, 9_000, 9_000, 0, 255))

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: found(127))
        store.maintain()
        assert store._database.wal_bytes == before
        patch.setattr(os, "statvfs", lambda _: found(128))
        store.maintain()
    assert store._database.wal_bytes == ROOM_BYTES


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["write", "sync"])
def test_room_that_cannot_be_made_costs_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int, call: str
) -> None:
    caplog.set_level("INFO")
    put(store, "k", b"x")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(os, "write", fail)
        else:
            patch.setattr(wal_file, "sync_file", fail)
        store.maintain()
    assert f"no room kept in the WAL: [Errno {code}]" in caplog.text
    put(store, "l", b"y")
    assert body(store, "l") == b"y"
    store.maintain()
    assert store._database.wal_bytes == ROOM_BYTES


def test_a_link_in_the_place_of_the_wal_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"of somebody else")
    (tmp_path / "wal").symlink_to("other")
    WalFile(tmp_path / "wal").keep_room()
    assert (tmp_path / "other").read_bytes() == b"of somebody else"


# ---- nothing is lost ----


def test_after_kill_9_every_commit_over_the_room_is_there(store: Store) -> None:
    store.close()
    with Child(KILLED, store.directory) as child:
        assert int(child.line()) == ROOM_BYTES
        child.process.wait()
    assert wal_checks.examine(store.directory / "metadata.sqlite3-wal") is None
    with Store.open(store.directory, create=False) as again:
        assert {body(again, f"after/{number}") for number in range(50)} == {b"after"}
        assert not again.check().findings


def test_a_wal_that_was_cut_before_room_was_appended_is_an_empty_one(store: Store, tmp_path: Path) -> None:
    """Room is appended without the writer's lock, so the file may be cut just before."""
    put(store, "k", b"x")
    assert store._database.checkpoint(restart=True)
    path = store.directory / "metadata.sqlite3-wal"
    path.write_bytes(bytes(MIB))
    assert wal_checks.examine(path) is None
    with without_shared_memory(store, tmp_path / "copy") as copy:
        assert body(copy, "k") == b"x"
        put(copy, "l", b"y")
        assert body(copy, "l") == b"y"
        assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
    put(store, "l", b"y")
    assert body(store, "l") == b"y"
    assert store._database.wal_taken() > HEADER


def test_room_is_appended_beside_writers_and_cuts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_file, "_STEP", bytes(100_000))
    over = threading.Event()

    def make_room() -> None:
        while not over.is_set():
            the_file(store).keep_room()

    def cut() -> None:
        while not over.wait(0.01):
            store._database.checkpoint(restart=True, timeout=60)

    threads = [threading.Thread(target=act) for act in (make_room, cut)]
    for thread in threads:
        thread.start()
    children = [Child(WRITER, store.directory, name, 150) for name in ("one", "two")]
    try:
        run_together(children)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    with without_shared_memory(store, tmp_path / "copy") as copy:
        for opened in (store, copy):
            for name in ("one", "two"):
                assert all(body(opened, f"{name}/{n}") == f"{name} {n}".encode() for n in range(150))
            assert not opened.check().findings


# ---- the real server ----


def test_a_server_keeps_room_once_something_was_written(memory: Path) -> None:
    path = memory / "store" / "metadata.sqlite3-wal"
    with Server(data_dir=memory / "store") as server, Client(server.target, protos.BUCKETED) as client:
        client.write("k", b"x")
        eventually(lambda: path.stat().st_size == ROOM_BYTES, "room in the WAL")
        for number in range(30):
            client.write(f"{number}", b"x")
        assert path.stat().st_size == ROOM_BYTES
    assert not path.exists(), "closing moves all pages and removes it"


def test_without_the_background_work_no_room_is_made(store: Store) -> None:
    put(store, "k", b"x")
    assert 0 < store._database.wal_bytes < MIB
