"""Walking local trees in key order, and plans against a model that looks at everything at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.directories import Directory
from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey, ObjectVersion
from gestalt_cas.paths import PathLimits, RemoteTree, local_parts, order, path_meant
from gestalt_cas.trees import (
    Entry,
    LocalFile,
    Removal,
    Skip,
    Step,
    Transfer,
    Unchanged,
    Unusable,
    digest_of,
    plan_download,
    plan_upload,
    walk,
)

LIMITS = PathLimits()
TARGET = RemoteTree.at("b", "p")


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


# ---- walking ----


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


# ---- planning ----

keys = st.lists(
    st.sampled_from(["a", "b", "a!", "a0", "é", "\U00010000", "..", ".", "", "x" * 256, "n\0"]), min_size=1, max_size=3
).map("/".join)
contents = st.sampled_from(["", "1", "2", "333"])
remotes = st.dictionaries(keys, contents, max_size=8)
paths = st.lists(st.sampled_from(["a", "b", "a!", "a0", "é", "\U00010000"]), min_size=1, max_size=3).map("/".join)


@st.composite
def locals_(draw: st.DrawFn) -> dict[str, str | None]:
    """A local tree as names with content, or None for a link: no name is above another."""
    found: dict[str, str | None] = {}
    for name, content in draw(st.dictionaries(paths, st.none() | contents, max_size=8)).items():
        if not any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in found):
            found[name] = content
    return found


def version(name: str, content: str) -> ObjectVersion:
    digest = blake3(content.encode()).hexdigest()
    return ObjectVersion(ObjectKey("b", f"p/{name}"), "v", 1, len(content), digest, 0)


def objects(remote: dict[str, str]) -> list[tuple[str, ObjectVersion]]:
    return sorted(((name, version(name, content)) for name, content in remote.items()), key=lambda pair: order(pair[0]))


def entries(local: dict[str, str | None]) -> list[Entry]:
    return [
        Unusable(name, "a symbolic link") if (content := local[name]) is None else LocalFile(name, len(content))
        for name in sorted(local, key=order)
    ]


class Comparer:
    """Compares contents, and counts how often it was asked to."""

    def __init__(self, local: dict[str, str | None]) -> None:
        self.local = local
        self.asked: list[str] = []

    def __call__(self, file: LocalFile, found: ObjectVersion) -> bool:
        assert file.size == found.size, "sizes that differ need no comparison"
        self.asked.append(file.name)
        return blake3(str(self.local[file.name]).encode()).hexdigest() == found.digest


def of(steps: list[Step], kind: type[Step]) -> list[str]:
    return [step.name for step in steps if isinstance(step, kind)]


def protected(name: str, skipped: set[str]) -> bool:
    return any(name == other or name.startswith(f"{other}/") for other in skipped)


@given(locals_(), remotes, st.booleans())
def test_upload_plan_against_the_model(local: dict[str, str | None], remote: dict[str, str], delete: bool) -> None:
    comparer = Comparer(local)
    steps = list(plan_upload(entries(local), objects(remote), TARGET, comparer, delete=delete))
    skipped = {name for name, content in local.items() if content is None}
    same = {name for name, content in local.items() if content is not None and remote.get(name) == content}
    assert set(of(steps, Skip)) == skipped
    assert set(of(steps, Unchanged)) == same
    assert set(of(steps, Transfer)) == local.keys() - skipped - same
    removed = {name for name in remote if name not in local and not protected(name, skipped)} if delete else set()
    assert set(of(steps, Removal)) == removed
    assert len(steps) == len({step.name for step in steps})
    assert all(isinstance(step, Removal) for step in steps[len(steps) - len(removed) :])
    for step in steps:
        if isinstance(step, Transfer):
            assert step.reason == ("differs" if step.name in remote else "new")
            assert step.size == len(local[step.name] or "")


def fits(name: str) -> bool:
    try:
        local_parts(name, LIMITS)
    except InvalidArgument:
        return False
    return True


@given(remotes, locals_(), st.booleans())
def test_download_plan_against_the_model(remote: dict[str, str], local: dict[str, str | None], delete: bool) -> None:
    steps = list(plan_download(objects(remote), entries(local), LIMITS, Comparer(local), delete=delete))
    taken: set[str] = set()
    for name in sorted(remote, key=order):
        linked = name in local and local[name] is None
        below_a_file = any(name.startswith(f"{other}/") for other in taken)
        if fits(name) and not linked and not below_a_file:
            taken.add(name)
    skipped = remote.keys() - taken
    assert set(of(steps, Skip)) == skipped
    same = {name for name in taken if local.get(name) == remote[name]}
    assert set(of(steps, Unchanged)) == same
    assert set(of(steps, Transfer)) == taken - same
    meant = {path_meant(name) for name in skipped} - {""}
    extra = {name for name, content in local.items() if content is not None and name not in remote}
    assert set(of(steps, Removal)) == ({name for name in extra if not protected(name, meant)} if delete else set())
    for step in steps:
        if isinstance(step, Transfer):
            assert step.size == len(remote[step.name])
            assert step.version == version(step.name, remote[step.name])


@given(remotes)
def test_what_is_downloaded_can_all_be_written_side_by_side(remote: dict[str, str]) -> None:
    steps = list(plan_download(objects(remote), (), LIMITS, Comparer({}), delete=True))
    written = of(steps, Transfer)
    assert not any(one.startswith(f"{other}/") for one in written for other in written)
    assert not of(steps, Removal)


@given(locals_())
def test_a_second_run_has_nothing_to_do(local: dict[str, str | None]) -> None:
    stored = {name: content for name, content in local.items() if content is not None}
    up = list(plan_upload(entries(local), objects(stored), TARGET, Comparer(local), delete=True))
    down = list(plan_download(objects(stored), entries(local), LIMITS, Comparer(local), delete=True))
    assert {type(step) for step in up} <= {Unchanged, Skip}
    assert {type(step) for step in down} <= {Unchanged}


def test_plans_read_both_sides_only_as_far_as_they_are_asked() -> None:
    taken: list[str] = []

    def endless() -> Iterator[Entry]:
        for number in range(10**9):
            taken.append(name := f"{number:010}")
            yield LocalFile(name, 1)

    plan = plan_upload(endless(), (), TARGET, Comparer({}), delete=True)
    for _ in range(3):
        next(plan)
    assert len(taken) <= 5


def test_an_object_and_objects_below_it() -> None:
    found = objects({"a": "1", "a!": "1", "a!/x": "1", "a/b": "1", "a/b/c": "1", "a0": "1", "a0/": "1"})
    steps = list(plan_download(found, (), LIMITS, Comparer({}), delete=False))
    assert of(steps, Transfer) == ["a", "a!", "a0"]
    assert [(step.name, step.reason) for step in steps if isinstance(step, Skip)] == [
        ("a!/x", "'a!' is an object too, and cannot be a file and a directory"),
        ("a/b", "'a' is an object too, and cannot be a file and a directory"),
        ("a/b/c", "'a' is an object too, and cannot be a file and a directory"),
        ("a0/", "it has an empty part, which no path can hold"),
    ]


def test_skipped_names_are_left_alone_on_the_other_side() -> None:
    local: list[Entry] = [Unusable("closed", "Permission denied", directory=True), LocalFile("x", 1)]
    remote = objects({"closed": "1", "closed/a": "1", "closed/a/b": "1", "closed!": "1"})
    up = list(plan_upload(local, remote, TARGET, Comparer({}), delete=True))
    assert of(up, Removal) == ["closed!"]
    down = plan_download(
        objects({"a/../b": "1", "c//d": "1"}),
        entries({"b": "1", "c/d": "1", "e": "1"}),
        LIMITS,
        Comparer({}),
        delete=True,
    )
    assert of(list(down), Removal) == ["e"]


def test_files_that_cannot_be_compared_or_named_are_skipped() -> None:
    def refuse(file: LocalFile, found: ObjectVersion) -> bool:
        raise PermissionError(13, "Permission denied", file.name)

    local = {"a": "1", "b": "22"}
    remote = objects({"a": "2", "b": "1"})
    for steps in (
        list(plan_upload(entries(local), remote, TARGET, refuse, delete=True)),
        list(plan_download(remote, entries(local), LIMITS, refuse, delete=True)),
    ):
        assert steps[0] == Skip("a", "Permission denied")
        assert isinstance(steps[1], Transfer)
        assert len(steps) == 2
    odd: list[Entry] = [
        LocalFile(".gestalt-cas-0123456789abcdef.part", 1),
        LocalFile("/".join(["x" * 200] * 11), 1),
        LocalFile("\udcff", 1),
    ]
    reasons = [step.reason for step in plan_upload(odd, (), TARGET, refuse, delete=False) if isinstance(step, Skip)]
    assert len(reasons) == 3
    assert "killed transfer" in reasons[0]
    assert "2048" in reasons[1]
    assert "UTF-8" in reasons[2]
