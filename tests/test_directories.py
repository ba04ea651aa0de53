"""A local directory is never left, whatever stands in it, and a target is whole or as it was."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gestalt_cas.transfers.directories import Directory, Kind, Obstacle, is_leftover, is_within


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.mkdir()
    (path / "kept").write_text("kept")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    (path / "metadata.sqlite3").write_text("rows")
    return path


@pytest.fixture
def tree(root: Path, store: Path) -> Iterator[Directory]:
    with Directory(root, store=store) as opened:
        yield opened


def write(tree: Directory, name: str, *, interrupted: bool = False) -> None:
    with tree.replacing(tuple(os.fsencode(name).split(b"/"))) as file:
        file.write(b"new")
        if interrupted:
            raise KeyboardInterrupt


def everything(path: Path) -> dict[str, str]:
    return {
        str(found.relative_to(path)): found.read_text() if found.is_file() else ""
        for found in path.rglob("*")
        if not found.is_symlink()
    }


def test_a_new_file_gets_its_directories_and_the_umasks_mode(tree: Directory, root: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tree, "a/b/c")
    finally:
        os.umask(before)
    assert (root / "a/b/c").read_bytes() == b"new"
    assert stat.S_IMODE((root / "a/b/c").stat().st_mode) == 0o640
    assert everything(root).keys() == {"a", "a/b", "a/b/c"}


def test_a_replaced_file_keeps_its_permission_bits(tree: Directory, root: Path) -> None:
    (root / "run").write_text("old")
    (root / "run").chmod(0o755)
    write(tree, "run")
    assert (root / "run").read_bytes() == b"new"
    assert stat.S_IMODE((root / "run").stat().st_mode) == 0o755


def test_a_failed_replacement_leaves_the_target_and_nothing_else(tree: Directory, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a/old").write_text("old")
    for name in ("a/old", "a/x/y/new"):
        with pytest.raises(KeyboardInterrupt):
            write(tree, name, interrupted=True)
    assert everything(root) == {"a": "", "a/old": "old"}


def test_directories_that_were_there_are_not_removed_with_a_failure(tree: Directory, root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(RuntimeError), tree.replacing((b"empty", b"more", b"new")):
        raise RuntimeError
    assert everything(root) == {"empty": ""}


@pytest.mark.parametrize("name", ["link/new", "link/kept", "deep/link/new", "link"])
def test_symbolic_links_are_never_followed_for_writing(tree: Directory, root: Path, outside: Path, name: str) -> None:
    (root / "deep").mkdir()
    (root / "link").symlink_to(outside)
    (root / "deep/link").symlink_to(outside)
    with pytest.raises(Obstacle) as caught:
        write(tree, name)
    assert caught.value.kind is Kind.SYMLINK
    assert everything(outside) == {"kept": "kept"}
    assert (root / "link").is_symlink()


def test_a_link_to_a_file_is_neither_followed_nor_replaced(tree: Directory, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "kept")
    with pytest.raises(Obstacle):
        write(tree, "link")
    with pytest.raises(Obstacle), tree.reading((b"link",)):
        pass
    with pytest.raises(Obstacle):
        tree.remove((b"link",))
    assert (outside / "kept").read_text() == "kept"
    assert (root / "link").is_symlink()


def test_a_directory_swapped_for_a_link_meanwhile_leads_nowhere(tree: Directory, root: Path, outside: Path) -> None:
    (root / "a").mkdir()
    with tree.replacing((b"a", b"new")) as file:
        file.write(b"new")
        (root / "a").rename(root / "moved")
        (root / "a").symlink_to(outside)
    assert everything(outside) == {"kept": "kept"}
    assert (root / "moved/new").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "kind"), [("file/x", Kind.FILE), ("directory", Kind.DIRECTORY), ("pipe", Kind.SPECIAL)]
)
def test_other_things_in_the_way_are_named(tree: Directory, root: Path, name: str, kind: Kind) -> None:
    (root / "file").write_text("file")
    (root / "directory").mkdir()
    os.mkfifo(root / "pipe")
    with pytest.raises(Obstacle) as caught:
        write(tree, name)
    assert (caught.value.kind, caught.value.name) == (kind, name.partition("/")[0])


def test_a_directory_that_appears_at_the_target_meanwhile_is_an_obstacle(tree: Directory, root: Path) -> None:
    with pytest.raises(Obstacle) as caught, tree.replacing((b"a",)):
        (root / "a").mkdir()
    assert caught.value.kind is Kind.DIRECTORY
    assert everything(root) == {"a": ""}


def test_reading_a_pipe_or_socket_is_refused_without_waiting(tree: Directory, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(Obstacle) as caught, tree.reading((b"pipe",)):
        pass
    assert caught.value.kind is Kind.SPECIAL
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket"))
        with pytest.raises(OSError, match="socket"), tree.reading((b"socket",)):
            pass


def test_errors_name_the_whole_path(tree: Directory, root: Path) -> None:
    (root / "a").mkdir()
    with pytest.raises(FileNotFoundError) as caught, tree.reading((b"a", b"b", b"c")):
        pass
    assert caught.value.filename == "a/b"


def test_links_are_followed_for_reading_when_asked(root: Path, store: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    with Directory(root, store=store, follow_symlinks=True) as tree, tree.reading((b"link", b"kept")) as file:
        assert file.read() == b"kept"


def test_removing_takes_the_directories_that_became_empty(tree: Directory, root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/c").write_text("")
    (root / "a/d").write_text("")
    tree.remove((b"a", b"b", b"c"))
    assert everything(root).keys() == {"a", "a/d"}
    tree.remove((b"a", b"gone"))
    tree.remove((b"a", b"d"))
    assert everything(root) == {}
    assert root.is_dir()


def test_removing_below_a_link_removes_nothing(tree: Directory, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside)
    with pytest.raises(Obstacle):
        tree.remove((b"link", b"kept"))
    assert everything(outside) == {"kept": "kept"}


def test_a_tree_of_directories_only_can_be_told_and_removed(tree: Directory, root: Path) -> None:
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/d").mkdir()
    found = tree.only_directories((b"a",))
    assert found is not None
    assert set(found) == {(b"a",), (b"a", b"b"), (b"a", b"b", b"c"), (b"a", b"d")}
    (root / "a/d/file").write_text("")
    assert tree.only_directories((b"a",)) is None
    assert tree.only_directories((b"a",), but={"a/d/file"}) is not None
    with pytest.raises(OSError, match="not empty"):
        tree.remove_directories(found)
    assert (root / "a/d/file").exists()
    (root / "a/d/file").unlink()
    tree.remove_directories(tree.only_directories((b"a",)) or [])
    assert everything(root) == {}


def test_the_store_is_out_of_bounds_from_every_side(store: Path, tmp_path: Path) -> None:
    (store / "blobs").mkdir()
    (tmp_path / "alias").symlink_to(store)
    for path in (store, store / "blobs", tmp_path / "alias", tmp_path / "alias/blobs"):
        assert is_within(path, store)
        with pytest.raises(Obstacle) as caught:
            Directory(path, store=store)
        assert caught.value.kind is Kind.STORE
    assert not is_within(tmp_path, store)
    assert not is_within(tmp_path / "store2", store)
    with Directory(tmp_path, store=store, follow_symlinks=True) as tree:
        for name in ("store/metadata.sqlite3", "alias/metadata.sqlite3"):
            with pytest.raises(Obstacle), tree.reading(tuple(name.encode().split(b"/"))):
                pass
    with Directory(tmp_path, store=store) as tree:
        for name in ("store/metadata.sqlite3", "store/new", "store"):
            with pytest.raises(Obstacle) as caught:
                write(tree, name)
            assert caught.value.kind is Kind.STORE
        with pytest.raises(Obstacle):
            tree.remove((b"store", b"metadata.sqlite3"))
    assert (store / "metadata.sqlite3").read_text() == "rows"
    assert not (store / "new").exists()


def test_limits_leave_room_for_the_directorys_own_path(tree: Directory, root: Path) -> None:
    assert tree.limits().name_max == 255
    assert tree.limits().path_max == 4096 - 1 - 1 - len(os.fsencode(root.resolve()))


def test_paths_longer_than_one_system_call_takes_can_be_used(tree: Directory) -> None:
    parts = (b"d" * 250,) * 20
    with tree.replacing((*parts, b"file")) as file:
        file.write(b"deep")
    with tree.reading((*parts, b"file")) as opened:
        assert opened.read() == b"deep"
    tree.remove((*parts, b"file"))
    assert tree.entries(()) == []


def test_files_that_a_killed_transfer_leaves_can_be_told(tree: Directory, root: Path) -> None:
    with tree.replacing((b"a",)):
        (name,) = [found.name for found in root.iterdir()]
        assert is_leftover(name)
        assert is_leftover(f"d/{name}")
    assert not is_leftover("a")


def test_no_descriptor_is_left_open(root: Path, store: Path) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    (root / "file").write_text("")
    with Directory(root, store=store) as tree:
        for name in ("a/b", "file/x", "a/b/c", "x" * 300):
            try:
                write(tree, name)
            except OSError:
                continue
        tree.remove((b"a", b"b"))
        tree.entries(())
    assert count() == before


def test_links_in_a_circle_are_a_plain_failure(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=r"[Ll]evels of symbolic links"):
        is_within(tmp_path / "loop", tmp_path / "store")
