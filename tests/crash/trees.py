"""Makes the states of one recording stand in a real directory, one after the other, touching only what differs.

A judged state leaves its traces: the store was opened and written to. Payloads are immutable, so a file in `blobs/`
that is still the one that was put there is kept; everything else is written anew. Fan-out directories in which nothing
of the recording and nothing of the judgement ever stands are made and removed, but not looked into.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from crash.disk import Content, Recording, State

_FAN_OUT = re.compile(r"(^|.*/)blobs/[0-9a-f]{2}$")


class Tree:
    """A directory that becomes one state after the other. `digests`: payloads that may come to stand in it."""

    def __init__(self, place: Path, recording: Recording, digests: Iterable[bytes]) -> None:
        self._place = place
        self._directories = sorted(recording.directories() - {""})
        self._parents = sorted({os.path.dirname(path) for path in self._directories})
        shards = {digest.hex()[:2] for digest in digests}
        self._quiet = {path for path in self._directories if _FAN_OUT.match(path) and path[-2:] not in shards}
        self._kept: dict[str, tuple[bytes, tuple[int, int, int]]] = {}

    def become(self, state: State, contents: dict[str, Content]) -> None:
        self._make_directories(state)
        wanted = dict(state.files)
        for path in self._standing(state):
            if path not in wanted or not self._is(path, wanted[path]):
                self._remove(path)
        for path, digest in wanted.items():
            if path not in self._kept:
                self._write(path, digest, contents[path])

    def _make_directories(self, state: State) -> None:
        present = {path for parent in self._parents for path in self._subdirectories(parent)}
        for path in sorted(present & state.missing):
            shutil.rmtree(self._place / path, ignore_errors=True)
            self._kept = {kept: seen for kept, seen in self._kept.items() if not kept.startswith(f"{path}/")}
        for path in self._directories:
            if path not in state.missing and path not in present:
                os.mkdir(self._place / path, 0o700)
        for path in present - set(self._directories):
            shutil.rmtree(self._place / path)

    def _subdirectories(self, parent: str) -> list[str]:
        try:
            with os.scandir(self._place / parent) as found:
                return [_join(parent, entry.name) for entry in found if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def _standing(self, state: State) -> list[str]:
        found: list[str] = []
        for directory in ["", *self._directories]:
            if directory not in state.missing and directory not in self._quiet:
                with os.scandir(self._place / directory) as entries:
                    found.extend(_join(directory, entry.name) for entry in entries if not entry.is_dir())
        return found

    def _is(self, path: str, digest: bytes) -> bool:
        seen = self._kept.get(path)
        return seen is not None and seen[0] == digest and "/blobs/" in f"/{path}" and seen[1] == self._signature(path)

    def _remove(self, path: str) -> None:
        os.unlink(self._place / path)
        self._kept.pop(path, None)

    def _write(self, path: str, digest: bytes, content: Content) -> None:
        read_only = "/blobs/" in f"/{path}" or "/staging/" in f"/{path}"
        fd = os.open(self._place / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400 if read_only else 0o600)
        try:
            os.write(fd, content.data)
            os.ftruncate(fd, content.size)
        finally:
            os.close(fd)
        if "/blobs/" in f"/{path}":
            self._kept[path] = digest, self._signature(path)

    def _signature(self, path: str) -> tuple[int, int, int]:
        found = os.stat(self._place / path)
        return found.st_ino, found.st_size, found.st_mtime_ns


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
