"""The verbs on what was: --as-of, diff and snapshot, as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import (  # noqa: F401
    Command,
    bucket_fixture,
    cas_fixture,
    data_dir_fixture,
    one_line,
    process,
    store_fixture,
    write,
)
from gestalt_cas import ObjectKey, Store


@pytest.fixture(name="moment")
def moment_fixture(store: Store, bucket: str) -> str:
    """A moment at which the bucket had a.txt and d/b.txt, both changed since; one of them is gone for good."""
    write(store, bucket, "a.txt", b"one")
    old = write(store, bucket, "d/b.txt", b"two!")
    seq = str(store.moment().seq)
    write(store, bucket, "a.txt", b"uno")
    write(store, bucket, "c.txt", b"c")
    store.delete(ObjectKey(bucket, "d/b.txt"), version_id=old.version_id)
    return seq


def test_ls_shows_what_was_there(cas: Command, bucket: str, moment: str) -> None:
    assert cas("ls", "--as-of", moment, f"{bucket}/").text.splitlines() == ["a.txt", "d/"]
    lines = cas("ls", "-r", "--as-of", moment, f"{bucket}/").text.splitlines()
    assert lines == ["a.txt", "d/b.txt  (removed for good since)"]
    records = cas("ls", "-r", "--json", "--as-of", moment, f"{bucket}/").records
    assert [(record["key"], record["size"], record["removed"]) for record in records] == [
        ("a.txt", 3, False),
        ("d/b.txt", 4, True),
    ]


def test_cat_stat_and_get_give_what_was_there(cas: Command, bucket: str, moment: str, tmp_path: Path) -> None:
    assert cas("cat", "--as-of", moment, f"{bucket}/a.txt").out == b"one"
    assert cas("stat", "--json", "--as-of", moment, f"{bucket}/a.txt").records[0]["size"] == 3
    assert cas("get", "--as-of", moment, f"{bucket}/a.txt", tmp_path / "x").code == 0
    assert (tmp_path / "x").read_bytes() == b"one"


def test_what_was_not_there_and_what_is_gone(cas: Command, bucket: str, moment: str) -> None:
    absent = cas("cat", "--as-of", moment, f"{bucket}/c.txt")
    assert (absent.code, absent.out) == (1, b"")
    assert "no such object then" in one_line(absent)
    gone = cas("cat", "--as-of", moment, f"{bucket}/d/b.txt")
    assert gone.code == 1
    assert "was removed for good since" in one_line(gone)


def test_a_directory_becomes_what_was_there(cas: Command, bucket: str, moment: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    for words in (("get", "-r"), ("sync", "--delete")):
        done = cas(*words, "--as-of", moment, f"{bucket}/", target)
        assert done.code == 1
        assert "d/b.txt" in done.err
        assert "removed for good since" in done.err
        assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a.txt": b"one"}
        (target / "new").write_bytes(b"")
        (target / "a.txt").write_bytes(b"other")


def test_sync_of_what_only_a_snapshot_keeps(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    made = write(store, bucket, "p/a", b"kept")
    assert cas("snapshot", "create", f"keep-{bucket}", f"{bucket}/p/").code == 0
    store.delete(made.key, version_id=made.version_id)
    store.collect_garbage()
    done = cas("sync", "--as-of", f"keep-{bucket}", f"{bucket}/p/", f"{tmp_path}/")
    assert (done.code, (tmp_path / "a").read_bytes()) == (0, b"kept"), done.err


def test_diff_says_what_was_added_changed_and_deleted(cas: Command, bucket: str, moment: str) -> None:
    lines = [line.split(maxsplit=2) for line in cas("diff", bucket, "--from", moment).text.splitlines()]
    assert lines == [
        ["changed", "3", f"{bucket}/a.txt"],
        ["added", "1", f"{bucket}/c.txt"],
        ["deleted", "4", f"{bucket}/d/b.txt  (removed for good since)"],
    ]
    records = cas("diff", "--json", f"{bucket}/c", "--from", moment).records
    assert [(record["change"], record["before"], record["after"]["size"]) for record in records] == [("added", None, 1)]
    assert cas("diff", bucket, "--from", moment, "--to", moment).text == ""
    backwards = [line.split()[0] for line in cas("diff", bucket, "--from", "0s", "--to", moment).text.splitlines()]
    assert backwards == ["changed", "deleted", "added"]


def test_snapshots_from_beginning_to_end(cas: Command, store: Store, bucket: str) -> None:
    name = f"release-{bucket}"
    write(store, bucket, "k", b"1")
    assert cas("snapshot", "create", name, bucket).text == f"{name}: {bucket} at sequence {store.moment().seq}\n"
    again = cas("snapshot", "create", name)
    assert (again.code, one_line(again)) == (3, f"there is a snapshot {name} already")
    write(store, bucket, "k", b"22")
    assert cas("cat", "--as-of", name, f"{bucket}/k").out == b"1"
    assert cas("snapshot", "diff", name).text.split() == ["changed", "2", f"{bucket}/k"]
    purged = cas("purge", f"{bucket}/k")
    assert (purged.code, name in one_line(purged)) == (3, True)
    assert [record["name"] for record in cas("snapshot", "list", "--json").records if record["name"] == name] == [name]
    assert name in cas("snapshot", "list").text
    assert cas("snapshot", "delete", name).text == f"deleted snapshot {name}\n"
    for words in (("delete", name), ("diff", name)):
        gone = cas("snapshot", *words)
        assert (gone.code, one_line(gone)) == (1, f"there is no snapshot {name}")
    assert cas("purge", f"{bucket}/k").code == 0


def test_a_snapshot_of_the_whole_store_shows_every_bucket(cas: Command, store: Store, bucket: str) -> None:
    gone = write(store, f"{bucket}-gone", "k", b"1")
    name = f"all-{bucket}"
    assert "the whole store" in cas("snapshot", "create", name).text
    store.delete(gone.key, version_id=gone.version_id)
    write(store, bucket, "new", b"1")
    lines = [line.split() for line in cas("snapshot", "diff", name).text.splitlines()]
    assert [(line[0], line[2]) for line in lines] == [("added", f"{bucket}/new"), ("deleted", f"{bucket}-gone/k")]
    cas("snapshot", "delete", name)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("ls", "--as-of", "1"), "--as-of needs a BUCKET"),
        (("ls", "--as-of", "", "b"), "the value is empty"),
        (("ls", "--as-of", "nonsense", "b"), "there is no snapshot nonsense"),
        (("ls", "--as-of", "12:00 yesterday", "b"), "is neither a sequence, nor a time"),
        (("cat", "--as-of", "0", "--version-id", "x", "b/k"), "name two things"),
        (("sync", "--as-of", "0", ".", "b/"), "--as-of is for a BUCKET/PREFIX that is read"),
        (("get", "-r", "--as-of", "999999999", "b/", "out"), "has not been yet"),
        (("diff", "b"), "--from"),
        (("snapshot", "create", "7"), "cannot name a snapshot"),
    ],
)
def test_wrong_use_is_named(cas: Command, words: tuple[str, ...], problem: str) -> None:
    done = cas(*words)
    assert done.code in (1, 2)
    assert problem in one_line(done)


def test_a_mistyped_prefix_of_then_empties_no_directory(cas: Command, moment: str, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"")
    done = cas("sync", "--delete", "--as-of", moment, f"{bucket}/mistyped/", f"{tmp_path}/")
    assert (done.code, (tmp_path / "mine").exists()) == (1, True)
    assert "no such prefix" in done.err
