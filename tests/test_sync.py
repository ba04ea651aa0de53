"""Whole trees both ways on a real store: sync, put -r, get -r and rm -r, hostile keys included."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from command_line import (  # noqa: F401
    PROGRAM,
    ROOT,
    Command,
    blob_of,
    bucket_fixture,
    cas_fixture,
    command_in,
    damage,
    data_dir_fixture,
    environment,
    store_fixture,
    write,
)
from gestalt_cas import ListQuery, ObjectKey, Store
from gestalt_cas.errors import StoreBusy, StoreFull

ODD_NAMES = [
    "a b",
    "é/ü",
    "e\u0301",
    "\n",
    "-rf",
    "~",
    "$(x)",
    "'\"",
    "\x1b[31m",
    "d!/x",
    "d/x",
    "d0",
    "...",
    "a\\b",
    "日本/😀",
]


def fill(root: Path, files: dict[str, str | bytes]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def files(root: Path) -> dict[str, bytes]:
    """Every regular file below, links not followed."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def store_all(store: Store, bucket: str, objects: dict[str, str]) -> None:
    for key, content in objects.items():
        write(store, bucket, key, content.encode())


def keys(store: Store, bucket: str) -> list[str]:
    return [version.key.key for version in store.list_page(ListQuery(bucket=bucket)).objects]


# ---- round trips ----


def test_a_real_tree_goes_up_and_comes_back(cas: Command, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "gestalt_cas", source / "gestalt_cas", ignore=ignored)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=ignored)
    fill(source, {name: name for name in ODD_NAMES})
    fill(source, {"empty": b"", "big": os.urandom(3 << 20) + b"x", "deep/" + "d/" * 100 + "f": b"deep"})
    expected = files(source)

    up = cas("sync", source, f"{bucket}/v1", "--json")
    assert (up.code, up.err) == (0, "")
    assert up.summary["uploaded"] == len(expected)
    assert up.summary["bytes"] == sum(map(len, expected.values()))
    assert sorted(key for _, key in up.actions) == sorted(f"v1/{name}" for name in expected)

    down = cas("sync", f"{bucket}/v1", tmp_path / "copy", "--json")
    assert (down.code, down.summary["downloaded"]) == (0, len(expected))
    assert files(tmp_path / "copy") == expected

    for again in (("sync", source, f"{bucket}/v1/"), ("sync", f"{bucket}/v1", tmp_path / "copy", "--delete")):
        result = cas(*again, "--json")
        assert result.actions == []
        assert result.summary == {**result.summary, "unchanged": len(expected), "uploaded": 0, "downloaded": 0}


name_parts = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=4)
trees = st.dictionaries(
    st.lists(name_parts.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map("/".join),
    st.sampled_from([b"", b"1", b"2", b"longer"]),
    max_size=6,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(trees, trees)
def test_sync_with_delete_makes_any_tree_like_any_other(
    cas: Command, tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    def made(name: str, wanted: dict[str, bytes]) -> Path:
        (base / name).mkdir()
        for path, content in wanted.items():
            try:
                fill(base / name, {path: content})
            except OSError:
                continue  # it needs a file as a directory, or is one
        return base / name

    base = tmp_path_factory.mktemp("any")
    first, second = made("before", before), made("after", after)
    where = f"any/{base.name}"
    assert cas("sync", first, where, "--delete").code == 0
    plan = cas("sync", second, where, "--delete", "--dry-run", "--json")
    done = cas("sync", second, where, "--delete", "--json")
    assert (plan.code, done.code) == (0, 0)
    assert plan.actions == done.actions
    if before or after:
        plan = cas("sync", where, first, "--delete", "--dry-run", "--json")
        done = cas("sync", where, first, "--delete", "--json")
        assert (done.code, done.err) == (0, "")
        assert plan.actions == done.actions
    assert files(first) == files(second)
    assert cas("sync", first, where, "--delete", "--json").actions == []


def test_put_r_and_get_r_carry_everything_and_ask_nothing(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    source = fill(tmp_path / "s", {"a.html": "<p>", "d/b.txt": "b"})
    for _ in range(2):
        result = cas("put", "-r", source, bucket, "--metadata", "by=test", "--cache-control", "no-cache", "--json")
        assert result.code == 0
        assert result.actions == [("upload", "a.html"), ("upload", "d/b.txt")]
    found = store.head(ObjectKey(bucket, "a.html"))
    assert (found.headers.content_type, found.headers.cache_control) == ("text/html", "no-cache")
    assert found.metadata == {"by": "test"}
    fill(tmp_path / "t", {"a.html": "mine", "other": "kept"})
    result = cas("get", "-r", f"{bucket}/", tmp_path / "t", "--json")
    assert result.actions == [("download", "a.html"), ("download", "d/b.txt")]
    assert files(tmp_path / "t") == {"a.html": b"<p>", "d/b.txt": b"b", "other": b"kept"}


def test_put_r_with_a_condition_names_what_is_there(cas: Command, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"a": "1"})
    assert cas("put", "-r", source, bucket, "--if-none-match", "*").code == 0
    fill(source, {"b": "2"})
    result = cas("put", "-r", source, bucket, "--if-none-match", "*", "--json")
    assert result.code == 3
    assert [action for action, _ in result.actions] == ["skip", "upload"]
    assert "skipped" in result.err


def test_sync_compares_bytes_and_not_times(cas: Command, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"same": "1", "touched": "1", "changed": "1"})
    cas("sync", source, bucket)
    stamp = (source / "changed").stat()
    fill(source, {"changed": "2"})
    os.utime(source / "changed", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    os.utime(source / "touched", (1, 1))
    result = cas("sync", source, bucket, "--json")
    assert result.actions == [("upload", "changed")]
    assert result.records[0]["reason"] == "differs"


def test_a_prefix_is_a_directory_and_not_text(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    store_all(store, bucket, {"site/a": "1", "sitemap": "2", "site": "3", "site-old/b": "4"})
    target = tmp_path / "t"
    assert cas("sync", f"{bucket}/site", target, "--json").actions == [("download", "site/a")]
    assert files(target) == {"a": b"1"}
    (target / "a").unlink()
    cas("sync", target, f"{bucket}/site", "--delete")
    assert keys(store, bucket) == ["site", "site-old/b", "sitemap"]


def test_the_empty_bucket_name_is_the_default_bucket(cas: Command, store: Store, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"of-default": "1"})
    assert cas("put", "-r", source, "/pre", "--json").records[0]["bucket"] == "default"
    assert store.head(ObjectKey("", "pre/of-default")).size == 1


# ---- what cannot be transferred ----

HOSTILE = [
    "../escape",
    "..",
    "a/../../escape",
    "./here",
    "a/./b",
    "/absolute",
    "double//slash",
    "directory/",
    "nul\0byte",
    "x" * 256,
    "d/" + "é" * 128,
    "file/below",
    "way/through",
    "way/new",
    "link",
    "pipe",
    "full",
]


@pytest.mark.parametrize("verb", [("get", "-r"), ("sync",), ("sync", "--delete")])
def test_nothing_is_ever_written_outside_the_directory(
    cas: Command, store: Store, bucket: str, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    store_all(store, bucket, {f"p/{name}": "evil" for name in HOSTILE})
    store_all(store, bucket, {"p/file": "first", "p/good": "good", "p/z/good": "good"})
    outside = fill(tmp_path / "outside", {"through": "kept", "kept": "kept"})
    target = fill(tmp_path / "a/target", {"full/of": "files"})
    if "--delete" in verb:
        (target / "full/of").unlink()
        os.mkfifo(target / "full/of")
    for name in ("link", "way"):
        (target / name).symlink_to(outside)
    os.mkfifo(target / "pipe")
    before = files(tmp_path)

    result = cas(*verb, f"{bucket}/p", target, "--json")

    assert result.code == 1
    skipped = {name for action, name in result.actions if action == "skip"}
    assert skipped == {f"{bucket}/p/{name}" for name in HOSTILE}
    assert [key for action, key in result.actions if action == "download"] == ["p/file", "p/good", "p/z/good"]
    assert result.summary["skipped"] == len(HOSTILE)
    assert len(result.err.splitlines()) == len(HOSTILE)
    assert all(line.startswith("gestalt-cas: skipped ") for line in result.err.splitlines())
    new = {"a/target/file": b"first", "a/target/good": b"good", "a/target/z/good": b"good"}
    assert files(tmp_path) == {**before, **new}
    assert (target / "link").readlink() == (target / "way").readlink() == outside


def test_over_long_paths_are_named_and_skipped(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    long = "/".join(["k" * 200] * 10)
    store_all(store, bucket, {long: "1", "short": "2"})
    target = tmp_path.joinpath(*["d" * 200] * 12)
    result = cas("get", "-r", bucket, target, "--json")
    assert (result.code, result.actions) == (1, [("skip", f"{bucket}/{long}"), ("download", "short")])
    assert "left for a path" in result.err


def test_local_files_that_no_key_can_name_are_skipped(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"good": "1", "x/" + "/".join(["y" * 200] * 10) + "/" + "z" * 50: "deep"})
    Path(os.fsdecode(bytes(source) + b"/caf\xe9")).write_text("latin")
    (source / "link").symlink_to("good")
    (source / "loop").symlink_to("loop")
    os.mkfifo(source / "pipe")
    result = cas("put", "-r", source, bucket, "--json")
    assert result.code == 1
    assert keys(store, bucket) == ["good"]
    skipped = [name for action, name in result.actions if action == "skip"]
    assert len(skipped) == 5
    assert f"gestalt-cas: skipped {source}/caf\\xe9: its name is not UTF-8" in result.err


def test_links_are_followed_upwards_when_asked(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"d/file": "1"})
    fill(tmp_path / "elsewhere", {"x": "2"})
    (source / "away").symlink_to(tmp_path / "elsewhere")
    (source / "d/up").symlink_to("..")
    result = cas("sync", source, bucket, "--follow-symlinks", "--json")
    assert result.code == 1
    assert keys(store, bucket) == ["away/x", "d/file"]
    assert [name for action, name in result.actions if action == "skip"] == [f"{source}/d/up"]
    assert cas("sync", bucket, source, "--follow-symlinks").code == 2


def test_the_store_itself_is_neither_read_nor_written_nor_cleaned(
    capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    home = fill(tmp_path / "home", {"notes": "1"})
    cas = command_in(home / "data", capsysbinary)
    assert cas("init").code == 0
    result = cas("sync", home, "b/home", "--json")
    assert (result.code, result.actions) == (1, [("skip", f"{home}/data"), ("upload", "home/notes")])
    with Store.open(home / "data") as store:
        store_all(store, "b", {"home/data/metadata.sqlite3": "evil", "home/data": "evil", "home/data/new": "evil"})
    (home / "notes").unlink()
    result = cas("sync", "b/home", home, "--delete", "--json")
    assert result.code == 1
    assert [action for action, _ in result.actions] == ["skip", "skip", "skip", "download"]
    assert cas("ls", "-r", "b").text.splitlines() == [
        "home/data",
        "home/data/metadata.sqlite3",
        "home/data/new",
        "home/notes",
    ]
    assert not (home / "data/new").exists()
    for words in (
        ("get", "-r", "b", home / "data/blobs"),
        ("sync", "b", home / "data"),
        ("put", "-r", home / "data", "b"),
    ):
        result = cas(*words)
        assert result.code == 2
        assert "the store's own directory" in result.err
    assert cas("put", home / "data/metadata.sqlite3", "b/x").code == 2
    assert cas("get", "b/home/notes", home / "data/metadata.sqlite3").code == 2
    assert cas("get", "b/home/notes", home / "data").code == 2
    assert cas("ls", "b").code == 0


# ---- delete ----


def test_delete_removes_what_the_source_has_not_and_no_more(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    source = fill(tmp_path / "s", {"a": "1", "d/b": "1"})
    store_all(store, bucket, {"p/a": "1", "p/old": "1", "p/d/old": "1", "p/../odd": "1", "other/x": "1", "p": "1"})
    without = cas("sync", source, f"{bucket}/p", "--json")
    assert without.actions == [("upload", "p/d/b")]
    result = cas("sync", source, f"{bucket}/p", "--delete", "--json")
    assert result.actions == [("delete", "p/../odd"), ("delete", "p/d/old"), ("delete", "p/old")]
    assert keys(store, bucket) == ["other/x", "p", "p/a", "p/d/b"]
    versions = store.list_versions(ListQuery(bucket=bucket, prefix="p/old")).versions
    assert [version.delete_marker for version in versions] == [True, False]


def test_delete_locally_removes_files_and_the_directories_they_leave(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    store_all(store, bucket, {"a": "1", "d/b": "1"})
    target = fill(tmp_path / "t", {"a": "1", "old": "1", "d/b": "1", "d/old": "1", "gone/deep/er": "1"})
    (target / "link").symlink_to("a")
    (target / "empty").mkdir()
    outside = fill(tmp_path / "outside", {"kept": "1"})
    (target / "away").symlink_to(outside)
    result = cas("sync", bucket, target, "--delete", "--json")
    assert (result.code, result.err) == (0, "")
    assert [Path(path).name for _, path in result.actions] == ["old", "er", "old"]
    assert files(target) == {"a": b"1", "d/b": b"1"}
    assert sorted(path.name for path in target.iterdir()) == ["a", "away", "d", "empty", "link"]
    assert files(outside) == {"kept": b"1"}


def test_delete_leaves_what_was_skipped_alone(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"a": "1"})
    (source / "link").symlink_to("a")
    store_all(store, bucket, {"link": "1", "link/below": "1", "linked": "1"})
    assert cas("sync", source, bucket, "--delete").code == 1
    assert keys(store, bucket) == ["a", "link", "link/below"]
    store_all(store, bucket, {"x//y": "1", "e/../f": "1"})
    target = fill(tmp_path / "t", {"x/y": "mine", "f": "mine", "g": "extra"})
    assert cas("sync", bucket, target, "--delete").code == 1
    assert files(target) == {"a": b"1", "x/y": b"mine", "f": b"mine", "link": b"1"}


def test_a_file_where_a_directory_was_and_the_other_way_round(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    store_all(store, bucket, {"was-file/x": "new", "was-directory": "new"})
    before = {"was-file": "old", "was-directory/x": "old", "was-directory/y/z": "old"}
    target = fill(tmp_path / "t", before)
    (target / "was-directory/empty").mkdir()
    refused = cas("sync", bucket, target, "--json")
    assert (refused.code, [action for action, _ in refused.actions]) == (1, ["skip", "skip"])
    assert files(target) == dict.fromkeys(before, b"old")
    plan = cas("sync", bucket, target, "--delete", "--dry-run", "--json")
    assert files(target) == dict.fromkeys(before, b"old")
    result = cas("sync", bucket, target, "--delete", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.actions == plan.actions
    assert files(target) == {"was-file/x": b"new", "was-directory": b"new"}
    assert cas("sync", bucket, target, "--delete", "--json").actions == []


def test_a_directory_with_anything_else_in_it_is_not_cleared_away(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    store_all(store, bucket, {"d": "new"})
    target = fill(tmp_path / "t", {"d/x": "old"})
    (target / "d/link").symlink_to("x")
    for words in (("--delete", "--dry-run"), ("--delete",)):
        result = cas("sync", bucket, target, *words, "--json")
        assert (result.code, [action for action, _ in result.actions]) == (1, ["delete", "skip"])
        assert "a directory is in the way: d" in result.err
    assert (target / "d/link").is_symlink()


def test_a_mistyped_prefix_empties_no_directory(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    target = fill(tmp_path / "t", {"a": "1"})
    store_all(store, bucket, {"right/a": "1"})
    result = cas("sync", f"{bucket}/wrong", target, "--delete")
    assert (result.code, result.err) == (1, f"gestalt-cas: {bucket}/wrong/: no such prefix\n")
    assert files(target) == {"a": b"1"}
    assert cas("get", "-r", f"{bucket}/wrong", tmp_path / "new").code == 1
    assert not (tmp_path / "new").exists()
    store.delete(ObjectKey(bucket, "right/a"))
    assert cas("sync", f"{bucket}/right", target, "--delete").code == 0
    assert files(target) == {}


def test_what_is_stored_is_stored_before_anything_is_removed(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = fill(tmp_path / "s", {f"new{number}": str(number) for number in range(6)})
    store_all(store, bucket, {"old": "1"})
    order: list[str] = []
    write_one, delete = Store.write, Store.delete

    def slow_write(self: Store, key: ObjectKey, *args: object, **options: object) -> object:
        time.sleep(0.05)
        done = write_one(self, key, *args, **options)  # type: ignore[arg-type]
        order.append(key.key)
        return done

    def noted_delete(self: Store, key: ObjectKey, **options: str) -> object:
        order.append(key.key)
        return delete(self, key, **options)

    monkeypatch.setattr(Store, "write", slow_write)
    monkeypatch.setattr(Store, "delete", noted_delete)
    assert cas("sync", source, bucket, "--delete").code == 0
    assert len(order) == 7
    assert order[-1] == "old"


def test_a_dry_run_changes_nothing(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"a": "1", "b": "2"})
    store_all(store, bucket, {"b": "1", "c": "1"})
    plan = cas("sync", source, bucket, "--delete", "-n", "--json")
    assert plan.actions == [("upload", "a"), ("upload", "b"), ("delete", "c")]
    assert all(record["dry_run"] for record in plan.records[:-1])
    assert plan.summary["dry_run"]
    assert keys(store, bucket) == ["b", "c"]
    text = cas("sync", source, bucket, "--delete", "-n").text
    assert text.splitlines()[0] == f"would upload {source}/a -> {bucket}/a (new)"
    assert text.splitlines()[-1] == "2 uploaded, 1 deleted, 2 bytes (dry run)"
    down = cas("sync", bucket, tmp_path / "new", "-n", "--json")
    assert down.actions == [("download", "b"), ("download", "c")]
    assert not (tmp_path / "new").exists()


# ---- which one is the directory ----


@pytest.mark.parametrize(
    ("source", "target", "upwards"),
    [
        ("./here", "here/x", True),
        ("here", "bucket/x", True),
        ("here", "./here", False),
        ("bucket/x", "here", False),
        ("bucket", "./new", False),
        ("../cwd/here", "bucket", True),
        ("bucket", "../cwd/new", False),
        (".", "bucket", True),
    ],
)
def test_the_directory_is_told_from_the_prefix(
    cas: Command,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    source: str,
    target: str,
    upwards: bool,
) -> None:
    fill(tmp_path / "cwd/here/x", {"f": "1"})
    monkeypatch.chdir(tmp_path / "cwd")
    store_all(store, "bucket", {"x/f": "2"})
    store_all(store, "here", {"x/f": "2"})
    actions = {action for action, _ in cas("sync", source, target, "--dry-run", "--json").actions}
    assert actions == {"upload" if upwards else "download"}


@pytest.mark.parametrize(("source", "target"), [("here", "there"), ("./here", "/there"), ("bucket", "other/x")])
def test_two_directories_or_none_are_refused(
    cas: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, target: str
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    result = cas("sync", source, target)
    assert result.code == 2
    assert "./DIR" in result.err
    assert len(result.err.splitlines()) == 1


def test_the_home_directory_is_expanded(
    cas: Command, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(fill(tmp_path / "h", {"d/f": "1"})))
    assert cas("sync", "~/d", bucket, "--json").actions == [("upload", "f")]


# ---- failures on the way ----


def test_damage_of_one_object_is_named_and_the_rest_arrives(
    cas: Command, store: Store, data_dir: Path, bucket: str, tmp_path: Path
) -> None:
    store_all(store, bucket, {"a": "good", "b": f"damaged {bucket}", "c/d": "good too"})
    damage(blob_of(data_dir, store.head(ObjectKey(bucket, "b")).digest))
    target = fill(tmp_path / "t", {"b": "old"})
    result = cas("get", "-r", bucket, target, "--json")
    assert (result.code, result.actions) == (4, [("download", "a"), ("skip", f"{bucket}/b"), ("download", "c/d")])
    assert files(target) == {"a": b"good", "b": b"old", "c/d": b"good too"}


@pytest.mark.parametrize(("error", "code"), [(StoreFull("the disk is full"), 5), (StoreBusy("write.lock is held"), 11)])
def test_what_concerns_everything_ends_the_run(
    cas: Command, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: int
) -> None:
    source = fill(tmp_path / "s", {f"{number:02}": str(number) for number in range(40)})
    write_one, calls = Store.write, []

    def fail(self: Store, key: ObjectKey, *args: object, **options: object) -> object:
        calls.append(key.key)
        if len(calls) > 5:
            raise error
        return write_one(self, key, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "write", fail)
    result = cas("put", "-r", source, bucket)
    assert (result.code, result.err) == (code, f"gestalt-cas: {error}\n")
    assert len(calls) < 20


def test_a_full_local_disk_ends_the_run(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store_all(store, bucket, {"a": "1", "b": "1"})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gestalt_cas.cli.downloads.download", full)
    result = cas("get", "-r", bucket, tmp_path / "t")
    assert (result.code, result.err) == (5, "gestalt-cas: a: No space left on device\n")
    assert files(tmp_path / "t") == {}


def test_an_interrupt_leaves_nothing_half_written(
    cas: Command, store: Store, data_dir: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store_all(store, bucket, {"a": "1", "b": "x" * 100})
    from gestalt_cas.cli import downloads

    def interrupted(reader: object, file: object, advance: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "download", interrupted)
    result = cas("get", "-r", bucket, fill(tmp_path / "t", {"a": "old"}))
    assert result.code == 130
    assert files(tmp_path / "t") == {"a": b"old"}
    assert list((data_dir / "staging").iterdir()) == []


def test_ctrl_c_stops_the_uploads_that_are_under_way(data_dir: Path, store: Store, bucket: str, tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"a-small": "1"})
    for number in range(6):
        with (source / f"big{number}").open("wb") as file:
            file.truncate(4 << 30)  # long enough to be under way on a disk that stalls for seconds
    words = ["--data-dir", str(data_dir), "put", "-r", str(source), bucket]
    child = subprocess.Popen(
        [*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    )
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in (data_dir / "staging").iterdir()) < 4 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err.strip()) == (130, "")
    assert list((data_dir / "staging").iterdir()) == []
    assert keys(store, bucket) in ([], ["a-small"])


def test_a_file_that_cannot_be_read_is_skipped(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gestalt_cas.transfers.directories import Directory

    source = fill(tmp_path / "s", {"a": "1", "b": "2", "c": "3"})
    read = Directory.reading

    def refuse(self: Directory, parts: tuple[bytes, ...]) -> object:
        if parts == (b"b",):
            raise PermissionError(13, "Permission denied", "b")
        return read(self, parts)

    monkeypatch.setattr(Directory, "reading", refuse)
    result = cas("put", "-r", source, bucket)
    assert (result.code, result.err) == (1, f"gestalt-cas: skipped {source}/b: Permission denied\n")
    assert keys(store, bucket) == ["a", "c"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("put", "-r", "./absent", "b"), 2, "./absent: No such file or directory"),
        (("sync", "./absent", "b"), 2, "absent: No such file or directory"),
        (("put", "-r", "./file", "b"), 2, "file: Not a directory"),
        (("get", "-r", "b", "--range", "0-1"), 2, "not for -r"),
        (("get", "-r", "b", "--version-id", "x"), 2, "not for -r"),
        (("rm", "-r", "b/p", "--version-id", "x"), 2, "not for -r"),
        (("rm", "-r", "b"), 2, "--yes"),
        (("rm", "-r", "b/"), 2, "--yes"),
        (("rm", "-r", "b/nothing-here"), 1, "no object is below it"),
    ],
)
def test_refusals_are_one_line(
    cas: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = cas(*words)
    assert result.code == code
    assert len(result.err.splitlines()) == 1
    assert text.removeprefix("./") in result.err


# ---- rm -r ----


def test_rm_r_removes_below_a_prefix(cas: Command, store: Store, bucket: str) -> None:
    store_all(store, bucket, {"d/a": "1", "d/b/c": "1", "d": "1", "dd/x": "1", "d/../e": "1"})
    result = cas("rm", "-r", f"{bucket}/d", "--json")
    assert (result.code, result.actions) == (0, [("delete", "d/../e"), ("delete", "d/a"), ("delete", "d/b/c")])
    assert keys(store, bucket) == ["d", "dd/x"]
    assert cas("rm", "-r", f"{bucket}/d", "--force").code == 0
    assert cas("rm", "-r", bucket, "--yes", "--json").summary["deleted"] == 2
    assert keys(store, bucket) == []


def test_rm_r_goes_through_all_pages(cas: Command, store: Store, bucket: str) -> None:
    store.write(ObjectKey(bucket, "n/0000"), [b"x"])
    for number in range(1, 1203):
        store.copy(ObjectKey(bucket, "n/0000"), ObjectKey(bucket, f"n/{number:04}"))
    assert cas("rm", "-r", f"{bucket}/n", "--json").summary["deleted"] == 1203
    assert keys(store, bucket) == []
