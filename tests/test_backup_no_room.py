"""A backup or restore whose disk is full says which disk that is, what is left there, and what to do about it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import PROGRAM, environment, one_line, process
from gestalt_cas import Store
from gestalt_cas.backups import backup, destinations
from gestalt_cas.errors import DiskFull, StorageFault
from small_disks import TMPFS, SmallDisk, small_disk
from storage import MIB, broken, put

TAKEN_UP = r"What was copied stays and is taken up by the same command once there is room; .* remove the directory"


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(TMPFS, tmp_path) as found:
        yield found


@pytest.fixture(name="source")
def source_fixture(tmp_path: Path) -> Path:
    """A store of 12 MiB beside the small disk, and more than a third of them in each of the first objects."""
    with Store.open(tmp_path / "source") as store:
        for number in range(3):
            put(store, f"key {number}", os.urandom(4 * MIB))
    return tmp_path / "source"


def leave(disk: SmallDisk, mebibytes: int) -> Path:
    """Another program takes all but so much; returns its file."""
    filler = disk.path / "of another program"
    filler.write_bytes(bytes(disk.free - mebibytes * MIB))
    return filler


def test_a_first_backup(source: Path, disk: SmallDisk) -> None:
    dest, filler = disk.path / "dest", leave(disk, 8)
    failed = process("--data-dir", source, "backup", dest)
    assert failed.code == 5
    assert re.fullmatch(
        rf"the disk that holds {dest} has no room for more \([0-9.]+[KM]?B are free\); "
        rf"there is no complete backup in {dest}. {TAKEN_UP}",
        one_line(failed),
    )
    filler.unlink()
    assert process("--data-dir", source, "backup", dest).code == 0


def test_a_backup_after_an_earlier_one(source: Path, disk: SmallDisk, tmp_path: Path) -> None:
    """Only the earlier one counts, and the command that is told gives back what was copied beyond it."""
    dest = disk.path / "dest"
    assert process("--data-dir", source, "backup", dest).code == 0
    with Store.open(source) as store:
        for number in range(3):
            put(store, f"more {number}", os.urandom(2 * MIB))
    leave(disk, 5)
    failed = process("--data-dir", source, "backup", dest)
    assert failed.code == 5
    told = re.fullmatch(
        rf"the disk that holds {dest} has no room for more \(.* are free\); the backup of 20..-..-..T.*Z in it is good"
        r"\. What was copied beyond that stays for the next run; to free room there: "
        rf"(gestalt-cas gc --data-dir {dest})",
        one_line(failed),
    )
    assert told is not None
    free = disk.free
    words = shlex.split(told[1])[1:]
    subprocess.run([*PROGRAM, *words], check=True, env=environment(), capture_output=True)
    assert disk.free >= free + MIB
    assert process("restore", dest, tmp_path / "restored").code == 0


def test_a_restore(source: Path, disk: SmallDisk, tmp_path: Path) -> None:
    assert process("--data-dir", source, "backup", tmp_path / "dest").code == 0
    leave(disk, 6)
    failed = process("restore", tmp_path / "dest", disk.store)
    assert failed.code == 5
    assert re.fullmatch(
        rf"the disk that holds {disk.store} has no room .*; {disk.store} is no store yet\. {TAKEN_UP}", one_line(failed)
    )


def test_the_disk_of_the_store_is_not_taken_for_that_of_the_backup(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DiskFull(f"the disk is full: no room; it holds {source}", directory=str(source))

    monkeypatch.setattr(backup.HeldPin, "_place", full)
    with Store.open(source) as store, pytest.raises(DiskFull) as caught:
        store.back_up(tmp_path / "dest")
    assert str(caught.value).startswith(f"the disk is full: no room; it holds {source}; there is no complete backup in")


def test_a_disk_that_fails_leaves_as_much(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(source) as store:
        store.back_up(tmp_path / "dest")
        put(store, "more", b"more")

        def fail(*_: object) -> None:
            raise broken()

        monkeypatch.setattr(destinations.manifests, "write", fail)
        with pytest.raises(StorageFault, match=f"writing to {tmp_path}/dest failed: .*; the backup of .* is good"):
            store.back_up(tmp_path / "dest")
