"""Small file systems of their own for tests, and another program that fills them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage import MIB, bare

_FILL = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
size = 1 << 20
while size:
    try:
        whole = os.write(fd, bytes(size)) == size
    except OSError:
        whole = False
    size = size if whole else size // 2
"""
_FILL_WITH_FILES = """
import itertools, os, sys
try:
    for number in itertools.count():
        os.close(os.open(f"{sys.argv[1]}.{os.getpid()}.{number}", os.O_WRONLY | os.O_CREAT))
except OSError:
    pass
"""
TMPFS, EXT4, FEW_FILES = "tmpfs", "ext4", "ext4 with few files"


class SmallDisk:
    """A file system mounted at `path`; one of FEW_FILES has room for about a hundred beside a new store's."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def free(self) -> int:
        """What this user may still take: bytes, or files where these are few."""
        found = os.statvfs(self.path)
        return found.f_favail if self.kind == FEW_FILES else found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Another program takes all that is left, to the last byte or file."""
        bare(_FILL_WITH_FILES if self.kind == FEW_FILES else _FILL, self.path / "of another program")
        assert self.free == 0


@contextmanager
def small_disk(kind: str, home: Path) -> Iterator[SmallDisk]:
    """A mounted one below `home`; skips the test where this user may not mount."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    path = home / "disk"
    path.mkdir()
    if kind == TMPFS:
        _run("mount", "-t", "tmpfs", "-o", f"size={24 * MIB}", "tmpfs", path)
    else:
        image = home / "image"
        with image.open("wb") as file:
            file.truncate(40 * MIB)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", *(["-N", "400"] if kind == FEW_FILES else []), image)
        _run("mount", "-o", "loop", image, path)
    try:
        yield SmallDisk(path, kind)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _run(*command: str | Path) -> None:
    """Run what makes or mounts a file system; where that is not there or not allowed the test is skipped."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"needs {command[0]}")
    if done.returncode:
        pytest.skip(f"{command[0]} fails here: {done.stderr.strip()}")
