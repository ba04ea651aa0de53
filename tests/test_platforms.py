"""What stands in for Linux's calls elsewhere, as far as it can be tried here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gestalt_cas import platforms


@pytest.mark.parametrize("before", [0, 5, 3 << 20])
def test_room_without_posix_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    path = tmp_path / "file"
    path.write_bytes(b"x" * before)
    with path.open("r+b") as file:
        platforms.allocate(file.fileno(), (2 << 20) + 7)
    data = path.read_bytes()
    assert data == (b"x" * before).ljust((2 << 20) + 7, b"\0")
    assert path.stat().st_blocks * 512 >= (2 << 20) + 7


def test_windows_is_refused_with_the_way_out() -> None:
    code = "import sys; sys.platform = 'win32'; import gestalt_cas"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "WSL 2" in done.stderr.splitlines()[-1]
