"""Which disk is full when a repair or an upgrade finds no room: the store's, or that of SQLite's temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gestalt_cas import Store
from gestalt_cas.errors import DiskFull
from gestalt_cas.files.reserve import Reserve
from gestalt_cas.formats import migrating
from gestalt_cas.sql import sqlite
from small_disks import TMPFS, SmallDisk, small_disk
from storage import MIB, inside, put

WORK = """
from gestalt_cas.errors import StoreError
store = Store.open(arguments[0])
with store._database.write() as tx:
    for number in range(int(arguments[2]) * 10):
        tx.execute("INSERT INTO settings VALUES (?, ?)", (f"long{number}", '"' + os.urandom(50_000).hex() + '"'))
if arguments[3]:
    filler = os.open(arguments[3], os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(filler, 0, int(arguments[4]))
def index(tx):
    tx.execute("CREATE INDEX long ON settings (value)").fetchall()
try:
    if arguments[1] == "VACUUM":
        store._database.mend(lambda tx: None, vacuum=True)
    else:
        store._database.mend(index)
except StoreError as error:
    print(type(error).__name__, repr(error.directory), error)
"""
WORKS = pytest.mark.parametrize("work", ["VACUUM", "index"])
IS_FULL = "the disk is full: database or disk is full"


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(TMPFS, tmp_path) as found:
        yield found


def mend(store: Path, work: str, mebibytes: int, temporary: Path, filler: Path | None = None, taken: int = 0) -> str:
    """What such work says of a store with so many MiB of rows, in a process with its temporary files in a directory."""
    places = ["env", f"SQLITE_TMPDIR={temporary}"]
    return inside(places, WORK, store, work, mebibytes, filler or "", taken).strip()


@WORKS
@pytest.mark.parametrize("left", [0, 1, 4])
def test_the_disk_of_temporary_files_is_named(work: str, left: int, disk: SmallDisk, tmp_path: Path) -> None:
    """Full before, or by the temporary files, which are gone when SQLite says so; up to 32 MiB may be in its caches."""
    temporary = disk.path / "temporary"
    temporary.mkdir()
    told = mend(tmp_path / "store", work, 40, temporary, disk.path / "of another program", disk.free - left * MIB)
    assert told.startswith(
        f"DiskFull '{temporary}' the disk is full that holds {temporary}, where SQLite puts temporary files ("
    )
    assert f" on that of {tmp_path / 'store'}); make room there, or name another directory in $SQLITE_TMPDIR: " in told


@WORKS
def test_the_disk_of_the_store_is_named(work: str, disk: SmallDisk, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    told = mend(disk.store, work, 12, temporary)
    assert told == f"DiskFull '{disk.store}' {IS_FULL}; it holds {disk.store}"


@WORKS
def test_one_disk_for_both_is_the_disk_of_the_store(work: str, disk: SmallDisk) -> None:
    temporary = disk.path / "temporary"
    temporary.mkdir()
    told = mend(disk.store, work, 12, temporary)
    assert told == f"DiskFull '{disk.store}' {IS_FULL}; it holds {disk.store}"


@WORKS
def test_with_room_in_both_it_works(work: str, disk: SmallDisk, tmp_path: Path) -> None:
    temporary = disk.path / "temporary"
    temporary.mkdir()
    assert mend(tmp_path / "store", work, 20, temporary) == ""


FULL = apsw.exception_for(apsw.SQLITE_FULL)


@pytest.mark.parametrize("free", ["much on both", "little on both", "much for temporary files alone"])
def test_what_cannot_be_told_is_told_of_the_store(
    free: str, disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_temporary_places", lambda: [str(disk.path)])
    store = Store.open(tmp_path / "store")
    if "little on both" in free:
        disk.fill()
    if "much on both" not in free:
        monkeypatch.setattr(sqlite, "_ROOM_BYTES", 1 << 60)

    def work(tx: object) -> None:
        raise FULL

    with pytest.raises(DiskFull) as refused:
        store._database.mend(work)
    assert refused.value.directory == str(tmp_path / "store")
    assert "temporary" not in str(refused.value)
    store.close()


@pytest.mark.parametrize("spilling", [False, True])
def test_an_upgrade_gives_up_no_reserve_for_temporary_files(
    spilling: bool, disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_temporary_places", lambda: [str(disk.path)] if spilling else [])
    disk.fill()
    given_up: list[Reserve] = []
    give_up = Reserve.give_up

    def told(reserve: Reserve) -> bool:
        given_up.append(reserve)
        return give_up(reserve)

    def full(_: object) -> None:
        raise FULL

    run = migrating._run
    monkeypatch.setattr(Reserve, "give_up", told)
    monkeypatch.setattr(migrating, "_run", full)
    with pytest.raises(DiskFull, match="temporary files" if spilling else "the disk is full"):
        Store.open(tmp_path / "store")
    assert bool(given_up) != spilling
    monkeypatch.setattr(migrating, "_run", run)
    with Store.open(tmp_path / "store") as store:
        put(store, "k", b"value")
    assert os.listdir(disk.path)
