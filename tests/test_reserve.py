"""The reserve: room that is really there, given up for removals only, and made again when there is plenty."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gestalt_cas.errors import StorageFault, StoreFull
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.reserve import Reserve
from storage import Child, Failing

MIB = 1 << 20


@pytest.fixture
def reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reserve:
    monkeypatch.setattr("gestalt_cas.files.reserve._LARGEST", 16 * MIB)  # which other tests do without
    return Reserve(Layout(tmp_path))


def disk(monkeypatch: pytest.MonkeyPatch, *, total: int, free: int) -> None:
    """Pretend a file system of these sizes in bytes."""
    found = SimpleNamespace(f_blocks=total // 4096, f_frsize=4096, f_bavail=free // 4096, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: found)


@pytest.mark.parametrize(
    ("total", "size"),
    [(1 << 40, 16 * MIB), (256 * MIB, 16 * MIB), (255 * MIB, 255 * MIB // 16), (16 * MIB, MIB), (4096, 256)],
)
def test_size_is_a_sixteenth_and_at_most_16_mib(
    total: int, size: int, reserve: Reserve, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, total=total, free=total)
    assert reserve.wanted_bytes() == size


def test_it_takes_real_blocks_for_its_owner_only(reserve: Reserve, tmp_path: Path) -> None:
    assert reserve.make()
    found = (tmp_path / "reserve").stat()
    assert found.st_size == reserve.wanted_bytes()
    assert found.st_blocks * 512 >= found.st_size
    assert found.st_mode & 0o777 == 0o600
    assert reserve.make()
    assert (tmp_path / "reserve").stat().st_ino == found.st_ino


def test_it_waits_for_twice_its_size(reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, total=32 * MIB, free=4 * MIB - 4096)
    assert not reserve.make()
    assert not (tmp_path / "reserve").exists()
    disk(monkeypatch, total=32 * MIB, free=4 * MIB)
    assert reserve.make()
    assert (tmp_path / "reserve").stat().st_size == 2 * MIB


def test_a_short_one_is_completed(reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, total=32 * MIB, free=32 * MIB)
    (tmp_path / "reserve").write_bytes(b"x" * 4096)
    assert reserve.make()
    assert (tmp_path / "reserve").stat().st_size == 2 * MIB


def test_room_that_is_gone_meanwhile_is_not_kept_half(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(fd: int, offset: int, length: int) -> None:
        os.ftruncate(fd, length // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert not reserve.make()
    assert (tmp_path / "reserve").stat().st_size == 0
    assert not reserve.give_up()


def test_giving_up_frees_it_once(reserve: Reserve, tmp_path: Path) -> None:
    assert not reserve.give_up()
    reserve.make()
    assert reserve.give_up()
    assert not (tmp_path / "reserve").exists()
    assert not reserve.give_up()


def test_a_removal_without_need_leaves_it(reserve: Reserve, tmp_path: Path) -> None:
    reserve.make()
    assert reserve.spend_on(lambda: "done") == "done"
    assert (tmp_path / "reserve").exists()


def test_a_removal_that_finds_no_room_gets_it(reserve: Reserve, tmp_path: Path) -> None:
    reserve.make()

    def removal() -> str:
        if (tmp_path / "reserve").exists():
            raise StoreFull("full")
        return "done"

    assert reserve.spend_on(removal) == "done"


def test_a_second_try_that_fails_in_other_words_is_told_as_want_of_room(reserve: Reserve) -> None:
    """SQLite calls it a failure of the disk when it finds no room for the files beside its database."""
    reserve.make()
    failures = [StoreFull("no room"), StorageFault("disk I/O error")]

    def removal() -> None:
        raise failures.pop(0)

    with pytest.raises(StoreFull, match="no room; with the reserve given up: disk I/O error"):
        reserve.spend_on(removal)


def test_a_removal_is_tried_again_once(reserve: Reserve) -> None:
    reserve.make()
    calls = []

    def removal() -> None:
        calls.append(1)
        raise StoreFull("still full")

    with pytest.raises(StoreFull, match="still full"):
        reserve.spend_on(removal)
    assert len(calls) == 2
    reserve.give_up()
    with pytest.raises(StoreFull, match="still full"):
        reserve.spend_on(removal)
    assert len(calls) == 3


def test_what_a_removal_left_of_the_reserve_is_kept_from_uploads(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve.make()
    disk(monkeypatch, total=1 << 40, free=3 * MIB)
    calls = []

    def removal() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise StoreFull("full")

    reserve.spend_on(removal)
    assert (tmp_path / "reserve").stat().st_size == 3 * MIB - 128 * 1024


def test_what_a_removal_did_not_need_is_kept_again(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, total=32 * MIB, free=32 * MIB)
    reserve.make()
    disk(monkeypatch, total=32 * MIB, free=MIB)

    def removal() -> str:
        if (tmp_path / "reserve").exists():
            raise StoreFull("full")
        return "done"

    assert reserve.spend_on(removal) == "done"
    assert (tmp_path / "reserve").stat().st_size == MIB - (128 << 10)
    disk(monkeypatch, total=32 * MIB, free=100 << 10)
    assert reserve.spend_on(removal) == "done"
    assert not (tmp_path / "reserve").exists()


@pytest.mark.parametrize("what", ["open", "statvfs", "posix_fallocate"])
def test_a_removal_that_is_done_is_told_whatever_becomes_of_the_reserve(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    reserve.make()

    def removal() -> str:
        if (tmp_path / "reserve").exists():
            raise StoreFull("full")
        monkeypatch.setattr(os, what, Failing(getattr(os, what), OSError(errno.ENOSPC, "No space left on device")))
        return "done"

    assert reserve.spend_on(removal) == "done"


def test_a_reserve_that_cannot_be_made_is_no_failure(reserve: Reserve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", Failing(os.open, OSError(errno.ENOSPC, "No space left on device")))
    reserve.keep()
    assert not reserve.give_up()


def test_other_failures_cost_no_reserve(reserve: Reserve, tmp_path: Path) -> None:
    reserve.make()

    def removal() -> None:
        raise StorageFault("broken")

    with pytest.raises(StorageFault):
        reserve.spend_on(removal)
    assert (tmp_path / "reserve").exists()


def test_several_processes_handle_it_at_once(reserve: Reserve, tmp_path: Path) -> None:
    code = """
        from gestalt_cas.files.layout import Layout
        from gestalt_cas.files.reserve import Reserve
        reserve = Reserve(Layout(Path(arguments[0])))
        print("ready", flush=True)
        sys.stdin.readline()
        for turn in range(200):
            reserve.make() if turn % 2 else reserve.give_up()
        assert reserve.make()
    """
    with Child(code, tmp_path) as first, Child(code, tmp_path) as second:
        for process in (first, second):
            assert process.line() == "ready"
        for process in (first, second):
            process.tell()
        first.finish()
        second.finish()
    assert reserve.make()
    assert (tmp_path / "reserve").stat().st_size == reserve.wanted_bytes()


# ---- files ----


def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a file system with room that can hold no more files."""
    found = SimpleNamespace(f_blocks=8192, f_frsize=4096, f_bavail=8192, f_files=100, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: found)


def spares(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("reserve.*"))


def test_two_files_are_spare_for_opening(reserve: Reserve, tmp_path: Path) -> None:
    reserve.make()
    assert spares(tmp_path) == ["reserve.1", "reserve.2"]
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in spares(tmp_path))


def test_what_finds_no_file_gets_the_spare_ones_and_the_bytes_stay(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve.make()
    no_files(monkeypatch)

    def opening() -> str:
        if spares(tmp_path):
            raise StoreFull("no more files")
        return "done"

    assert reserve.spend_on(opening) == "done"
    assert (tmp_path / "reserve").stat().st_size > 0
    reserve.keep_spares()
    assert not spares(tmp_path), "what is free is needed"
    monkeypatch.undo()
    reserve.keep_spares()
    assert len(spares(tmp_path)) == 2


def test_bytes_that_lack_leave_the_spare_files(reserve: Reserve, tmp_path: Path) -> None:
    reserve.make()
    assert reserve.give_up()
    assert len(spares(tmp_path)) == 2


def test_without_spare_files_the_bytes_are_tried(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their file is one, too."""
    reserve.make()
    no_files(monkeypatch)
    assert reserve.give_up()
    assert reserve.give_up()
    assert not (tmp_path / "reserve").exists()
    assert not reserve.give_up()


def test_a_file_system_that_does_not_answer_gives_up_bytes(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve.make()
    monkeypatch.setattr(os, "statvfs", Failing(os.statvfs, OSError(errno.EIO, "Input/output error")))
    assert reserve.give_up()
    assert not (tmp_path / "reserve").exists()


def test_spare_files_that_cannot_be_made_are_done_without(
    reserve: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", Failing(os.open, OSError(errno.ENOSPC, "No space left on device")))
    reserve.keep_spares()
    assert not spares(tmp_path)
