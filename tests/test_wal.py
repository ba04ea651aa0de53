"""The WAL stays short whatever short readers do, and a reader who stays long costs writers little.

Notes are what makes a WAL long quickly: one of 1 MB is a commit of as many bytes. Waits are counted, not timed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from driver_aids import IOERR, driver_error, leave_the_wal
from gestalt_cas import ObjectKey, Store
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import upgrade
from gestalt_cas.rows import settings
from gestalt_cas.sql import sqlite
from gestalt_cas.transactions import connections, database, readers, wal
from gestalt_cas.transactions.wal import LIMIT_BYTES, PASSIVE_BYTES, RELIEF_BYTES, Wal
from storage import MIB, Child, put, rows
from wire import protos
from wire.client import Client
from wire.process import Server

RELAY = """
store = Store.open(arguments[0], create=False)

def reading():
    view = store._database.read()
    view.__enter__().execute("SELECT count(*) FROM counter").fetchall()
    return view

views = [reading()]
print("reading", flush=True)
while True:
    time.sleep(0.01)
    views.append(reading())
    time.sleep(0.01)
    views.pop(0).__exit__(None, None, None)
"""
"""Short readers, each of whom begins before the last has ended: there is never a moment without one."""
STAYING = """
store = Store.open(arguments[0], create=False)
with store._database.read() as tx:
    tx.execute("SELECT count(*) FROM counter").fetchall()
    print("reading", flush=True)
    sys.stdin.readline()
"""
READERS = """
import threading
from gestalt_cas.objects import ListQuery

store = Store.open(arguments[0], create=False)

def repeat(call, *words):
    while True:
        call(*words)

for call, words in (
    (store.head, (ObjectKey("", "seed"),)), (store.list_page, (ListQuery(max_keys=20),)),
    (store.list_page, (ListQuery(max_keys=200),)), (store.list_versions, (ListQuery(max_keys=100),)),
):
    threading.Thread(target=repeat, args=(call, *words), daemon=True).start()
print("reading", flush=True)
sys.stdin.readline()
os._exit(0)
"""
WRITER = """
store = Store.open(arguments[0], create=False)
print("writing", flush=True)
for number in range(int(arguments[1])):
    store.note("long", f"{number:07d}" * 142_857)
"""


@contextmanager
def running(code: str, *arguments: object) -> Iterator[Child]:
    with Child(code, *arguments) as child:
        child.line()
        yield child
        if child.process.poll() is None:
            child.kill()


def lengthen(store: Store, megabytes: int) -> int:
    """Write that much in commits of 1 MB; returns how long the WAL was at most."""
    longest = 0
    for number in range(megabytes):
        store.note("long", f"{number:07d}" * 142_857)
        longest = max(longest, store._database.wal_bytes)
    return longest


def cut(store: Store) -> None:
    """Have the background work cut the WAL; on a busy machine it may need more than one wait."""
    for _ in range(10):
        if store._database.wal_bytes == 0:
            return
        store._database._wal._wait_again = 0.0
        store.maintain()
    pytest.fail(f"the WAL still has {store._database.wal_bytes} bytes")


@pytest.fixture(name="store")
def store_fixture(memory: Path) -> Iterator[Store]:
    with Store.open(memory / "store") as opened:
        yield opened


@pytest.fixture(name="waits")
def waits_fixture(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how many seconds at most this process was ready to wait for readers, each time that it was."""
    found: list[float] = []
    real = Wal._cut

    def counted(self: Wal, connection: Any, patience: float, *mode: str) -> tuple[int, int, int]:
        if patience:
            found.append(patience)
        return real(self, connection, patience, *mode)

    monkeypatch.setattr(Wal, "_cut", counted)
    return found


# ---- short readers ----


def test_without_readers_no_commit_finds_the_wal_long(store: Store, waits: list[float]) -> None:
    assert lengthen(store, 80) <= RELIEF_BYTES + 8 * MIB
    assert not waits, "moving the pages was enough: the next writer began anew"


def test_readers_who_take_turns_without_a_gap_do_not_keep_it_growing(store: Store, waits: list[float]) -> None:
    """Nobody but the writer cares for the WAL here."""
    with running(RELAY, store.directory):
        longest = lengthen(store, 150)
    assert RELIEF_BYTES < longest < LIMIT_BYTES
    assert waits


def test_the_background_work_waits_for_short_readers_too(
    store: Store, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(wal, "RELIEF_BYTES", 1 << 40)
        lengthen(store, 70)
    with running(RELAY, store.directory):
        cut(store)
    assert waits
    assert store.recall("long")


def test_one_giant_transaction_does_not_leave_a_giant_wal(store: Store) -> None:
    with running(RELAY, store.directory):
        with store._database.write() as tx:
            for number in range(140):
                tx.execute("INSERT INTO settings (name, value) VALUES (?, zeroblob(1000000))", (f"giant {number}",))
        cut(store)
        put(store, "k", b"the next one")
        assert store._database.wal_bytes < MIB


def test_a_commit_stands_whatever_it_waited_for(store: Store) -> None:
    with running(RELAY, store.directory):
        lengthen(store, 70)
        version = put(store, "k", b"x")
        assert store.head(ObjectKey("bucket", "k")) == version
    assert rows(store, "PRAGMA integrity_check") == [("ok",)]


# ---- readers who stay ----


def test_a_reader_who_stays_is_waited_for_a_few_times_only(
    store: Store, waits: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "_LONGEST_PAUSE", 1e6)
    monkeypatch.setattr(wal, "_FIRST_PAUSE", 1e6)
    with running(STAYING, store.directory) as child:
        longest = lengthen(store, 110)
        assert longest > 100 * MIB, "nothing can shorten the WAL"
        assert len(waits) == 2, "the second one shows that he stays"
        assert f"process {child.pid} keeps a transaction open" in caplog.text
        assert caplog.text.count("keeps a transaction open") == 1
        child.tell()
        child.finish()
    lengthen(store, 5)
    assert store._database.wal_bytes < 8 * MIB


def test_a_reader_of_this_process_is_named_as_such(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, "k", b"one")
    with store._database.read() as tx:
        tx.execute("SELECT count(*) FROM versions").fetchall()
        put(store, "k", b"two")
        assert not store._database.checkpoint(restart=True)
        lengthen(store, 80)
    assert "this process keeps a transaction open" in caplog.text
    assert store._database.checkpoint(restart=True)


def test_a_system_that_does_not_tell_who_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"x")
    assert store._database._wal.readers() == "some process"
    real = Path.read_text

    def strange(path: Path, *words: str) -> str:
        return "1: POSIX" if path == Path("/proc/locks") else real(path, *words)

    monkeypatch.setattr(Path, "read_text", strange)
    assert store._database._wal.readers() == "some process"


# ---- the real server ----


SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536))
DOWNLOADS = 100


class Load:
    """Clients of a server who go on until the end of the block; a failure of any is the test's."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server, self.stack = server, stack
        self.over = threading.Event()
        self.failures: list[BaseException] = []

    def client(self) -> Client:
        return self.stack.enter_context(Client(self.server.target, protos.BUCKETED, *SMALL_WINDOW))

    def stalled_download(self, client: Client) -> Any:
        call = client.read_stream("big", timeout=600)
        self.stack.callback(call.cancel)
        assert next(call).WhichOneof("result") == "meta"
        assert next(call).WhichOneof("result") == "data"
        return call

    def go_on(self, call: Callable[[int], object]) -> None:
        def run() -> None:
            number = 0
            try:
                while not self.over.is_set():
                    call(number)
                    number += 1
            except BaseException as error:  # noqa: BLE001 - the main thread raises it
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.stack.callback(thread.join)
        self.stack.callback(self.over.set)


def abandoned_listing(client: Client, number: int) -> None:
    """A listing that is cancelled on its way, or whose first page is all that is asked for."""
    request = client.pb.ListObjectsRequest(max_keys=50)
    call = client.stubs["ListObjects"].future(request, timeout=60)
    if number % 2:
        call.cancel()
    else:
        assert call.result().has_more


def test_under_readers_downloads_and_abandoned_listings_the_wal_stays_below_128_mib(memory: Path) -> None:
    directory = memory / "store"
    with Server("limits.concurrentReads=120", data_dir=directory) as server, ExitStack() as stack:
        load = Load(server, stack)
        clients = [load.client() for _ in range(4)]
        clients[0].write("big", bytes(24 * MIB))
        clients[0].write("seed", b"seed", metadata={"m": "x" * 60_000})
        for number in range(60):
            clients[0].copy("seed", f"copies/{number}")
        downloads = [load.stalled_download(clients[number % 4]) for number in range(DOWNLOADS)]
        load.go_on(lambda number: clients[0].copy("seed", f"copies/{number % 60}"))
        load.go_on(lambda number: clients[1].head("seed"))
        load.go_on(lambda number: clients[2].list(max_keys=30))
        load.go_on(partial(abandoned_listing, clients[3]))
        for code in (RELAY, READERS):
            stack.enter_context(running(code, directory))
        longest = watched(directory / "metadata.sqlite3-wal", stack.enter_context(Child(WRITER, directory, 180)))
        assert not load.failures
        assert not any(call.done() for call in downloads)
        assert RELIEF_BYTES < longest < LIMIT_BYTES, longest


def watched(path: Path, writer: Child) -> int:
    """The greatest length of the WAL until the writer has ended."""
    longest = 0
    while writer.process.poll() is None:
        longest = max(longest, path.stat().st_size)
        threading.Event().wait(0.002)
    assert writer.process.returncode == 0
    return longest


# ---- closing: what the driver would move, it moves while no other thread can run ----


@pytest.fixture
def left_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver moves nothing when it closes a connection that was opened from here on."""

    def opened(path: Path, **options: Any) -> sqlite.Connection:
        connection = connections.connect(path, **options)
        if path.name == "metadata.sqlite3":  # not the one that is being made
            leave_the_wal(connection)
        return connection

    for module in (database, readers, upgrade):
        monkeypatch.setattr(module, "connect", opened)


def moved(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the database file answers by itself, without the WAL beside it."""
    assert (directory / "metadata.sqlite3-wal").stat().st_size > PASSIVE_BYTES
    with closing(sqlite.connect(directory / "metadata.sqlite3", mode="ro", immutable=True)) as alone:
        return alone.execute(sql).fetchall()


LAST = "SELECT substr(value, 2, 7) FROM settings WHERE name = 'long'"


@pytest.mark.usefixtures("left_by_the_driver")
def test_a_long_wal_is_moved_before_the_driver_closes(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        lengthen(store, 10)
    assert moved(tmp_path / "store", LAST) == [("0000009",)]


@pytest.mark.usefixtures("left_by_the_driver")
def test_a_read_that_outlives_the_store_moves_a_long_wal_before_it_is_closed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        with store._database.read() as tx:
            tx.execute("SELECT seq FROM counter").fetchall()
            lengthen(store, 10)
            store._database.close()
        assert moved(tmp_path / "store", LAST) == [("0000009",)]


@pytest.mark.usefixtures("left_by_the_driver")
def test_what_a_repair_has_written_anew_is_moved_before_the_driver_closes(tmp_path: Path) -> None:
    def fill(tx: sqlite.Connection) -> None:
        for number in range(10):
            settings.store(tx, {f"long{number}": f"{number:07d}" * 142_857})

    with Store.open(tmp_path / "store") as store:
        store._database.mend(fill)
        assert len(moved(tmp_path / "store", "SELECT 1 FROM settings WHERE name LIKE 'long%'")) == 10


@pytest.mark.usefixtures("left_by_the_driver")
def test_what_an_upgrade_has_written_is_moved_before_the_driver_closes(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "store")
    layout.make()
    upgrade._create_or_upgrade(layout, {f"long{number}": f"{number:07d}" * 142_857 for number in range(10)})
    assert len(moved(layout.root, "SELECT 1 FROM settings WHERE name LIKE 'long%'")) == 10


def test_a_disk_that_fails_while_a_long_wal_is_moved_does_not_keep_the_store_open(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    lengthen(store, 10)

    class Broken:
        in_transaction = closed = False

        def execute(self, sql: str) -> None:
            raise driver_error(IOERR)

        def close(self) -> None:
            self.closed = True

    broken = Broken()
    store._database._wal.close(broken)  # type: ignore[arg-type]
    assert broken.closed
    assert "checkpoint before closing failed: made up" in caplog.text
