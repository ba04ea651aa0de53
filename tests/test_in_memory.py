"""Where the tests keep what is temporary: in memory when there is room, and nothing of a run that was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import in_memory

GIB = 1 << 30


@pytest.fixture(name="memory")
def memory_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands in for the file system in memory."""
    monkeypatch.setattr(in_memory, "_MEMORY", tmp_path)
    monkeypatch.setattr(in_memory, "_made", [])
    return tmp_path


def test_one_is_made_and_removed_where_there_is_room(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "_room", lambda: in_memory.WANTED_BYTES)
    place = in_memory.make()
    assert place is not None
    assert list(memory.iterdir()) == [place]
    (place / "store").mkdir()
    in_memory.remove()
    assert list(memory.iterdir()) == []
    monkeypatch.setattr(in_memory, "_room", lambda: in_memory.WANTED_BYTES - 1)
    assert in_memory.make() is None


def test_what_a_killed_run_left_is_removed_and_no_other_run_s(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_memory, "_room", lambda: in_memory.WANTED_BYTES)
    for name in ("gc-tests-left", "of another program"):
        (memory / name).mkdir()
    first = in_memory.make()
    second = in_memory.make()
    assert first is not None
    assert second is not None
    assert {path.name for path in memory.iterdir()} == {first.name, second.name, "of another program"}
    in_memory.remove()


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({}, 1 << 62),
        ({"memory.max": "max"}, 1 << 62),
        ({"memory.max": 4 * GIB, "memory.current": GIB, "memory.stat": GIB // 2}, 3 * GIB + GIB // 2),
        ({"memory.limit_in_bytes": 2 * GIB, "memory.usage_in_bytes": GIB, "memory.stat": 0}, GIB),
    ],
)
def test_a_group_s_limit_counts(tmp_path: Path, files: dict[str, object], room: int) -> None:
    for name, value in files.items():
        text = f"anon 7\ninactive_file {value}\nactive_file 0" if name == "memory.stat" else str(value)
        (tmp_path / name).write_text(f"{text}\n")
    assert in_memory._room_of(tmp_path) == room


def test_there_is_never_more_room_than_memory() -> None:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 <= in_memory._room() <= pages
