"""What stands in for Linux's calls elsewhere, as far as it can be tried here."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from gestalt_cas.system import platforms


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


MEMORY = """
import resource, sys
from gestalt_cas.system import platforms
if sys.argv[1] == "kept":
    platforms.keep_freed_memory()

def work():
    pieces = [b"x" * (1 << 20) for _ in range(4)]

work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_freed_and_taken_again() -> None:
    """In pages that the system had to fill: of 20 times 4 MiB nearly all, or nearly none."""

    def pages(how: str, **environment: str) -> int:
        command = [sys.executable, "-c", MEMORY, how]
        return int(subprocess.run(command, capture_output=True, check=True, env={**os.environ, **environment}).stdout)

    assert pages("kept") < 1024 < 10_000 < pages("as it is")
    assert pages("kept", MALLOC_TRIM_THRESHOLD_="0", MALLOC_MMAP_THRESHOLD_="131072") > 10_000
    tunables = "glibc.malloc.trim_threshold=0:glibc.malloc.mmap_threshold=131072"
    assert pages("kept", GLIBC_TUNABLES=tunables) > 10_000


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    platforms.keep_freed_memory()
