"""The figures of a store: each against what the test knows of it, and counted in short views."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from command_line import Command, command_in
from gestalt_cas import ObjectKey, Store, counting, statistics
from gestalt_cas.clock import now_ms
from gestalt_cas.counting import Contents, Payloads
from gestalt_cas.keeping import pins
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.statistics import Heap
from storage import Child, flip, payload_path, put


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


@pytest.fixture(name="cas")
def cas_fixture(store: Store, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(store.directory, capsysbinary)


def test_an_empty_store(store: Store) -> None:
    found = store.stats()
    assert (found.contents, found.payloads) == (Contents(), Payloads())
    assert (found.dedup_ratio, found.reclaimable_bytes, found.sequence, found.last_commit_ms) == (None, 0, 0, 0)
    assert (found.staging, found.quarantine, found.pins, found.quotas) == (Heap(0, 0), Heap(0, 0), (), ())
    assert (found.last_check, found.last_backup, found.last_gc) == (None, None, None)
    assert (found.format, found.revision) == (schema.FORMAT, schema.REVISION)


def filled(store: Store) -> None:
    """Three objects of two contents, a fourth deleted, a version of a fifth removed for good; 100 bytes each."""
    for name in ("a", "b"):
        put(store, name, b"x" * 100)
    put(store, "c", b"y" * 100)
    put(store, "c", b"x" * 100)
    put(store, "d", b"y" * 100)
    store.delete(ObjectKey("bucket", "d"))
    gone = put(store, "e", b"z" * 100)
    store.delete(gone.key, version_id=gone.version_id)
    store.write(ObjectKey("another", "\0"), [b"y" * 100])


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 4000])
def test_contents(store: Store, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(counting, "STRETCH_ROWS", rows)
    filled(store)
    found = store.stats()
    assert found.contents == Contents(objects=4, versions=6, delete_markers=1, logical_bytes=400, version_bytes=600)
    assert found.payloads == Payloads(count=3, bytes=300, unreached=1, unreached_bytes=100)
    assert (found.dedup_ratio, found.reclaimable_bytes) == (3.0, 100)
    assert found.contents.version_bytes == sum(store.usage(name).version_bytes for name in store.buckets())


def test_what_gc_frees_is_what_was_reclaimable(store: Store) -> None:
    filled(store)
    loose = payload_path(store, b"loose")
    loose.write_bytes(b"loose")
    store.collect_garbage(grace_seconds=3600)
    before = store.stats()
    assert before.reclaimable_bytes == 105
    assert before.last_gc is not None
    assert store.collect_garbage().bytes == 105
    after = store.stats()
    assert (after.payloads, after.reclaimable_bytes) == (Payloads(count=2, bytes=200), 0)
    assert after.dedup_ratio == before.dedup_ratio == 3.0


def test_damage_that_is_known(store: Store) -> None:
    put(store, "k", b"x" * 100)
    flip(payload_path(store, b"x" * 100), 50)
    assert store.stats().payloads.damaged == 0
    with pytest.raises(Exception, match="damaged"), store.read(ObjectKey("bucket", "k")) as reader:
        reader.read()
    assert store.stats().payloads.damaged == 1


def test_staging_and_quarantine(store: Store) -> None:
    (store.directory / "staging/dead.part").write_bytes(b"12345")
    (store.directory / "quarantine").mkdir()
    (store.directory / "quarantine/ab.1").write_bytes(b"123")
    (store.directory / "quarantine/ab.1.json").write_bytes(b"{}")
    found = store.stats()
    assert (found.staging, found.quarantine) == (Heap(1, 5), Heap(1, 3))


def test_pins_quotas_and_notes(store: Store) -> None:
    with store._database.write() as tx:
        pins.place(tx, "alive", "backup", now_ms(), {"to": "/elsewhere"})
        pins.place(tx, "dead", "backup", now_ms() - pins.DEAD_AFTER_MS - 1, {})
    store.set_quota("bucket", "", 50)
    note = {"at_ms": 1_700_000_000_000, "result": "clean", "payloads": 7}
    store.note("check.last", note)
    store.note("backup.last", [])
    found = store.stats()
    assert [pin.name for pin in found.pins] == ["alive"]
    assert [quota.name for quota in found.quotas] == ["bucket"]
    assert (found.last_check, found.last_backup) == (note, None)


def test_room(store: Store) -> None:
    put(store, "k", b"x" * 100_000)
    found = store.stats()
    disk = os.statvfs(store.directory)
    assert found.disk_bytes == disk.f_blocks * disk.f_frsize
    assert 0 < found.disk_free_bytes <= found.disk_bytes
    assert found.database_bytes == (store.directory / "metadata.sqlite3").stat().st_size
    assert found.wal_bytes == (store.directory / "metadata.sqlite3-wal").stat().st_size > 0
    assert found.reserve_bytes == (store.directory / "reserve").stat().st_size
    (store.directory / "reserve").unlink()
    assert store.stats().reserve_bytes == 0


def test_sqlite_and_sequence(store: Store) -> None:
    made = put(store, "k", b"x")
    found = store.stats()
    assert (found.sequence, found.last_commit_ms) == (made.seq, made.modified_ms)
    assert found.sqlite_version == sqlite.VERSION
    assert found.sqlite_wal_reset_bug == sqlite.has_wal_reset_bug(sqlite.version())


def test_no_view_counts_more_than_a_stretch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        put(store, f"{number}", b"x")
    monkeypatch.setattr(counting, "STRETCH_ROWS", 3)
    real = store._database.read

    with Store.open(store.directory) as other:

        @contextmanager
        def read() -> Iterator[Connection]:
            with real() as tx:
                yield tx
            put(other, "later", b"y")  # a write comes between two views

        heard: list[tuple[str, int, int]] = []
        monkeypatch.setattr(store._database, "read", read)
        found = counting.count_versions(store._parts, lambda *said: heard.append(said))
        monkeypatch.undo()
    counted = [done for _, done, _ in heard]
    assert counted[:3] == [3, 6, 9]
    assert max(after - before for before, after in pairwise(counted)) <= 3
    assert found.versions == counted[-1] > 10


def test_a_staging_file_that_goes_meanwhile_is_no_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = store.directory / "staging/gone.part"
    gone.write_bytes(b"1")
    real = os.scandir

    def scan(path: Any) -> Any:
        with real(path) as entries:
            found = list(entries)
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(os, "scandir", scan)
    assert statistics.heap(store.directory / "staging") == Heap(0, 0)


# ---- on the command line ----


def test_the_verb_prints_every_figure(cas: Command, store: Store) -> None:
    filled(store)
    store.set_quota("bucket", "", 2048)
    store.note("backup.last", {"at_ms": 0, "result": "done", "blobs": 3})
    with store._database.write() as tx:
        pins.place(tx, "p1", "backup", now_ms(), {"n": 1})
    record = cas("stats", "--json").record
    wanted = {
        "objects": 4, "versions": 6, "delete_markers": 1, "logical_bytes": 400, "version_bytes": 600, "payloads": 3,
        "stored_bytes": 300, "dedup_ratio": 3.0, "reclaimable_bytes": 100, "damaged": 0, "revision": schema.REVISION,
        "last_check": None, "last_backup": {"at_ms": 0, "result": "done", "blobs": 3},
    }  # fmt: skip
    assert {name: record[name] for name in wanted} == wanted
    assert record["quotas"] == [
        {"bucket": "bucket", "prefix": "", "max_bytes": 2048, "used_bytes": 500, "name": "bucket"}
    ]
    assert (record["pins"][0]["name"], record["pins"][0]["detail"]) == ("p1", {"n": 1})
    lines = dict(line.split("  ", 1) for line in cas("stats").text.splitlines())
    lines = {label.strip(): value.strip() for label, value in lines.items()}
    assert lines["objects"] == "4"
    assert lines["stored bytes"] == "300 in 3 payloads"
    assert lines["dedup ratio"] == "3.00"
    assert lines["quota"] == "bucket: 500 of 2048 bytes used"
    assert lines["last check"] == "never"
    assert lines["last backup"] == "never, done, blobs 3"
    assert lines["SQLite"].startswith(sqlite.VERSION)
    assert "quota                bucket: 500 of 2.0K bytes used\n" in cas("stats", "-h").text


def test_counting_waits_for_no_writer(store: Store) -> None:
    with Child(
        """
        import fcntl
        lock = open(arguments[0], "r+")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        input()
        """,
        store.directory / "write.lock",
    ) as holder:
        holder.line()
        found = store.stats()
        assert found.sequence == 0
        holder.tell()
        holder.finish()
