"""Walking local directories: every entry once, in the byte order of keys, and whatever stands in the way is named."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.transfers.directories import Directory
from gestalt_cas.transfers.paths import order
from gestalt_cas.transfers.walking import LocalFile, Unusable, digest_of, walk


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def tree(root: Path) -> Iterator[Directory]:
    with Directory(root, store=root.parent / "store") as opened:
        yield opened


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_files_come_in_the_byte_order_of_their_keys(tree: Directory, root: Path) -> None:
    names = ["a!", "a/b", "a/b!", "a/b0", "a0", "a/ab/c", "a/é", "a/\U00010000", "B", "\x01", "a.b/c", "a/ab.x"]
    fill(root, *names)
    assert [entry.name for entry in walk(tree)] == sorted(names, key=lambda name: name.encode())


@given(st.sets(st.lists(st.text("ab!0-é", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join), max_size=8))
def test_any_tree_is_walked_in_order(tmp_path_factory: pytest.TempPathFactory, names: set[str]) -> None:
    base = tmp_path_factory.mktemp("walk")
    (base / "store").mkdir()
    (base / "root").mkdir()
    made = set()
    for name in sorted(names):
        try:
            fill(base / "root", name)
            made.add(name)
        except OSError:
            continue  # it needs a file as a directory, or is one
    with Directory(base / "root", store=base / "store") as tree:
        found = [entry.name for entry in walk(tree)]
    assert found == sorted(made, key=order)


def test_what_is_no_file_is_named_with_its_reason(tree: Directory, root: Path, tmp_path: Path) -> None:
    fill(root, "file")
    (tmp_path / "elsewhere").mkdir()
    (root / "dangling").symlink_to("nowhere")
    (root / "directory").symlink_to(tmp_path / "elsewhere")
    (root / "link").symlink_to("file")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket"))
    assert list(walk(tree)) == [
        Unusable("dangling", "a symbolic link"),
        Unusable("directory", "a symbolic link"),
        LocalFile("file", 4),
        Unusable("link", "a symbolic link"),
        Unusable("pipe", "a device, pipe or socket"),
        Unusable("socket", "a device, pipe or socket"),
    ]


def test_links_are_followed_when_asked_but_not_in_circles(root: Path, tmp_path: Path) -> None:
    fill(root, "a/file")
    fill(tmp_path / "elsewhere", "x")
    (root / "a/up").symlink_to("..")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "dangling").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    with Directory(root, store=tmp_path / "store", follow_symlinks=True) as tree:
        found = list(walk(tree))
    assert found == [
        LocalFile("a/file", 6),
        Unusable("a/up", "a loop: it leads to a directory above itself", directory=True),
        LocalFile("away/x", 1),
        Unusable("dangling", "a symbolic link"),
        Unusable("self", "a symbolic link"),
    ]


def test_the_store_and_what_is_too_deep_for_a_key_are_not_entered(tmp_path: Path) -> None:
    store = tmp_path / "data"
    fill(store, "metadata.sqlite3")
    deep = tmp_path.joinpath(*["d" * 200] * 10)
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    too_deep = deep / ("e" * 100)
    too_deep.mkdir()
    with Directory(tmp_path, store=store) as tree:
        found = list(walk(tree))
    assert found[0] == Unusable("data", "the store's own directory", directory=True)
    assert [entry.name for entry in found[1:]] == [
        str(path.relative_to(tmp_path)) for path in (too_deep, deep / "file")
    ]
    assert "2048 bytes" in str(found[1])


def test_names_that_are_not_utf8_keep_their_bytes(tree: Directory, root: Path) -> None:
    (Path(os.fsdecode(bytes(root) + b"/\xff"))).write_text("x")
    (entry,) = walk(tree)
    assert order(entry.name) == b"\xff"


def test_a_directory_that_cannot_be_read_is_named(tree: Directory, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root, "a/x", "b/y")
    entries = Directory.entries

    def refuse(self: Directory, parts: tuple[bytes, ...]) -> object:
        if parts == (b"a",):
            raise PermissionError(13, "Permission denied", "a")
        return entries(self, parts)

    monkeypatch.setattr(Directory, "entries", refuse)
    assert list(walk(tree)) == [Unusable("a", "Permission denied", directory=True), LocalFile("b/y", 3)]


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000, (8 << 20) + 1])
def test_digest_is_the_blake3_of_the_file(tmp_path: Path, size: int) -> None:
    content = bytes(index * 31 & 255 for index in range(min(size, 1000))) * (size // 1000 + 1)
    (tmp_path / "f").write_bytes(content[:size])
    with (tmp_path / "f").open("rb") as file:
        assert digest_of(file) == blake3(content[:size]).hexdigest()
    with (tmp_path / "f").open("rb") as file:
        file.seek(size // 2)
        assert digest_of(file) == blake3(content[size // 2 : size]).hexdigest()
