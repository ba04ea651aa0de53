"""The verbs on single objects and on the store itself: what they do, print and refuse."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from blake3 import blake3

from command_line import (  # noqa: F401
    PROGRAM,
    Command,
    blob_of,
    bucket_fixture,
    cas_fixture,
    command_in,
    damage,
    data_dir_fixture,
    environment,
    one_line,
    process,
    store_fixture,
    write,
)
from gestalt_cas import ListQuery, ObjectKey, Store
from gestalt_cas.cli import transfers
from gestalt_cas.cli.session import Session
from gestalt_cas.clock import instant

# ---- put, get, cat ----


def test_bytes_go_in_and_out_through_pipes_and_files(data_dir: Path, tmp_path: Path) -> None:
    content = os.urandom(2_500_000)
    (tmp_path / "blob.bin").write_bytes(content)
    common = ("--data-dir", data_dir)
    assert process("put", tmp_path / "blob.bin", "pipes/file", *common).code == 0
    assert process(*common, "put", "-", "pipes/stdin", data=content).code == 0
    for key in ("pipes/file", "pipes/stdin"):
        assert process("cat", key, *common).out == content
        assert process("get", key, "-", *common).out == content
        assert process("get", key, tmp_path / "back", *common).code == 0
        assert (tmp_path / "back").read_bytes() == content
    assert process("cat", "pipes/file", "--range", "1048570-1048580", *common).out == content[1048570:1048581]
    assert process("cat", "pipes/file", "--range", "2499999-", *common).out == content[-1:]
    empty = process("put", "-", "pipes/empty", *common, "--json")
    assert (empty.record["size"], process("cat", "pipes/empty", *common).out) == (0, b"")


def test_the_data_directory_is_found_in_order(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Session().directory == tmp_path / "gestalt-cas/default"
    elsewhere = str(tmp_path / "elsewhere")
    named = {**environment(), "GESTALT_CAS_DATA_DIR": str(data_dir)}
    for words, code in (
        (["ls"], 0),
        (["--data-dir", elsewhere, "ls"], 10),
        (["ls", "--data-dir", elsewhere], 10),
        (["--data-dir", elsewhere, "ls", "--data-dir", str(data_dir)], 0),
    ):
        done = subprocess.run([*PROGRAM, *words], env=named, capture_output=True, timeout=60)
        assert done.returncode == code, words
    done = subprocess.run([*PROGRAM, "ls"], env=environment() | {"XDG_DATA_HOME": str(tmp_path)}, capture_output=True)
    assert done.returncode == 10
    assert f"{tmp_path}/gestalt-cas/default".encode() in done.stderr


def test_put_stores_what_is_asked_for_beside_the_bytes(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    result = cas(
        *("put", tmp_path / "page.html", f"{bucket}/p", "--cache-control", "no-cache", "--content-language", "de"),
        *("--content-disposition", "inline", "--content-encoding", "br", "--metadata", "a=1", "--metadata", "b=x=y"),
    )
    assert result.code == 0
    version = store.head(ObjectKey(bucket, "p"))
    assert result.text == f"put {tmp_path}/page.html as {bucket}/p (3 bytes, version {version.version_id})\n"
    headers = version.headers
    assert (headers.content_type, headers.cache_control, headers.content_language) == ("text/html", "no-cache", "de")
    assert (headers.content_disposition, headers.content_encoding) == ("inline", "br")
    assert version.metadata == {"a": "1", "b": "x=y"}
    cas("put", tmp_path / "page.html", f"{bucket}/p", "--content-type", "text/plain")
    assert store.head(ObjectKey(bucket, "p")).headers.content_type == "text/plain"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html"),
        ("a.JSON", "application/json"),
        ("d.html/a", ""),
        ("a.tar.gz", "application/gzip"),
        ("a.svgz", "application/gzip"),
        ("a.tar.xz", "application/x-xz"),
        ("Makefile", ""),
        ("a.unknown-suffix", ""),
    ],
)
def test_the_content_type_is_guessed_from_the_name(name: str, kind: str) -> None:
    assert transfers.guessed_type(name) == kind


def test_stdin_has_no_name_to_guess_from(data_dir: Path, store: Store) -> None:
    assert process("put", "-", "stdin/a.html", "--data-dir", data_dir, data=b"<p>").code == 0
    assert store.head(ObjectKey("stdin", "a.html")).headers.content_type == ""


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("{b}/a//b", ("{b}", "a//b")),
        ("{b}//a", ("{b}", "/a")),
        ("{b}/a/../b", ("{b}", "a/../b")),
        ("{b}/ü e\u0301", ("{b}", "ü e\u0301")),
        ("{b}/dir/", ("{b}", "dir/file.txt")),
        ("{b}/", ("{b}", "file.txt")),
        ("/{b}", ("default", "{b}")),
        ("//{b}", ("default", "/{b}")),
    ],
)
def test_addresses_split_at_the_first_slash(
    cas: Command, store: Store, bucket: str, tmp_path: Path, address: str, key: tuple[str, str]
) -> None:
    (tmp_path / "file.txt").write_text("x")
    record = cas("put", tmp_path / "file.txt", address.format(b=bucket), "--json").record
    expected = tuple(part.format(b=bucket) for part in key)
    assert (record["bucket"], record["key"]) == expected
    assert store.head(ObjectKey(*expected)).size == 1


def test_get_without_a_file_uses_the_last_part_of_the_key(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    write(store, bucket, "a/b/c.txt")
    assert cas("get", f"{bucket}/a/b/c.txt").text == f"got {bucket}/a/b/c.txt as c.txt (7 bytes)\n"
    record = cas("get", f"{bucket}/a/b/c.txt", "d", "--json").record
    assert (record["path"], record["length"], record["key"]) == ("d/c.txt", 7, "a/b/c.txt")
    assert (tmp_path / "c.txt").read_bytes() == (tmp_path / "d/c.txt").read_bytes() == b"content"
    for key in ("a/..", "a/", "a/" + "x" * 256, "a/n\0l"):
        write(store, bucket, key)
        if "\0" not in key:
            result = cas("get", f"{bucket}/{key}")
            assert result.code == 2
            assert "name a FILE" in one_line(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.txt", "d"]


def test_get_follows_a_link_that_the_user_named_but_none_that_the_key_names(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write(store, bucket, "link")
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("old")
    (tmp_path / "link").symlink_to("real/file")
    for words in (("get", f"{bucket}/link"), ("get", f"{bucket}/link", ".")):
        result = cas(*words)
        assert result.code == 2
        assert "a symbolic link is in the way" in one_line(result)
    assert (tmp_path / "real/file").read_text() == "old"
    assert cas("get", f"{bucket}/link", "link").code == 0
    assert (tmp_path / "real/file").read_bytes() == b"content"
    assert (tmp_path / "link").is_symlink()


def test_get_writes_into_devices_and_pipes_instead_of_replacing_them(
    cas: Command, store: Store, bucket: str, tmp_path: Path
) -> None:
    write(store, bucket, "k")
    assert cas("get", f"{bucket}/k", "/dev/null").code == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    assert cas("get", f"{bucket}/k", tmp_path / "pipe").code == 0
    assert reader.communicate(timeout=60)[0] == b"content"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_range_of_an_object_can_be_got(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    write(store, bucket, "k", b"0123456789")
    record = cas("get", f"{bucket}/k", tmp_path / "f", "--range", "2-4", "--json").record
    assert (record["offset"], record["length"], record["size"]) == (2, 3, 10)
    assert (tmp_path / "f").read_bytes() == b"234"


def test_cat_with_json_keeps_stdout_for_the_bytes(cas: Command, store: Store, bucket: str) -> None:
    version = write(store, bucket, "k")
    for words in (("cat", f"{bucket}/k"), ("get", f"{bucket}/k", "-")):
        result = cas(*words, "--json")
        assert result.out == b"content"
        assert json.loads(result.err)["version_id"] == version.version_id
        assert cas(*words).err == ""


class Growing:
    """An open file that somebody else appends to while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self._reads = 0

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        self._reads += 1
        if self._reads == 2:
            with self._path.open("ab") as other:
                other.write(b"more")
        return self._file.read(count)


def test_a_file_that_changes_while_it_is_read_is_warned_of(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first")
    with contextlib.closing(Growing(path)) as file:
        version, changed = transfers.upload(
            store,
            ObjectKey(bucket, "k"),
            file,
            "log",
            transfers.Attributes(),
            lambda _: None,  # type: ignore[arg-type]
        )
    assert (version.size, changed) == (9, True)
    monkeypatch.setattr("gestalt_cas.cli.transfers._changed", lambda *_: True)
    for words in (("put", path, f"{bucket}/k"), ("put", "-r", tmp_path, bucket)):
        result = cas(*words)
        assert result.code == 1
        assert one_line(result) == f"{path} changed while it was read; what was read is stored"


# ---- damage ----


def test_damage_is_exit_4_and_never_reaches_a_file(cas: Command, store: Store, data_dir: Path, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    version = write(store, "damage", "k", content)
    path = blob_of(data_dir, version.digest)
    damage(path)
    target = tmp_path / "t"
    target.write_bytes(b"old")
    got = cas("get", "damage/k", target)
    assert got.code == 4
    assert version.digest in one_line(got)
    assert target.read_bytes() == b"old"
    assert cas("get", "damage/k", tmp_path / "new").code == 4
    assert [found.name for found in tmp_path.iterdir()] == ["t"]
    out = cas("cat", "damage/k", "--json")
    assert out.code == 4
    assert out.out == content[: 1 << 20]
    assert json.loads(out.err.splitlines()[-1])["error"]["kind"] == "DigestMismatch"
    path.unlink()
    missing = cas("cat", "damage/k")
    assert (missing.code, missing.out) == (4, b"")


def test_bytes_whose_chunk_sums_lie_are_caught_by_the_digest(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = write(store, bucket, "k", b"lies of a chunk")
    damage(blob_of(store.directory, version.digest))
    monkeypatch.setattr("gestalt_cas.rules.chunks.matches", lambda *_: True)
    for words in (("get", f"{bucket}/k", tmp_path / "t"), ("cat", f"{bucket}/k")):
        result = cas(*words)
        assert result.code == 4
        assert "BLAKE3" in one_line(result)
    assert list(tmp_path.iterdir()) == []


# ---- ls, stat, versions, du ----


def test_ls_groups_at_slashes_and_goes_through_all_pages(cas: Command, store: Store, bucket: str) -> None:
    assert (cas("ls", bucket).code, cas("ls", bucket).out) == (0, b"")
    first = ObjectKey(bucket, "f/0000")
    write(store, bucket, "f/0000")
    for number in range(1, 1100):
        store.copy(first, ObjectKey(bucket, f"f/{number:04}"))
    for key in ("a", "g/x/y", "h", "f!"):
        store.copy(first, ObjectKey(bucket, key))
    assert cas("ls", bucket).text.splitlines() == ["a", "f!", "f/", "g/", "h"]
    assert cas("ls", f"{bucket}/f").text.splitlines() == ["f!", "f/"]
    assert cas("ls", f"{bucket}/g/").text.splitlines() == ["g/x/"]
    numbers = [f"f/{number:04}" for number in range(1100)]
    assert cas("ls", f"{bucket}/f/").text.splitlines() == numbers
    assert cas("ls", "-r", bucket).text.splitlines() == ["a", "f!", *numbers, "g/x/y", "h"]
    records = cas("ls", bucket, "--json").records
    assert [record.get("key", record.get("prefix")) for record in records] == ["a", "f!", "f/", "g/", "h"]
    assert records[2] == {"bucket": bucket, "prefix": "f/"}
    assert bucket in cas("ls").text.splitlines()
    assert {"bucket": bucket} in cas("ls", "--json").records


def test_ls_l_shows_time_size_and_key_in_columns(cas: Command, store: Store, bucket: str) -> None:
    version = write(store, bucket, "big", b"x" * 1536)
    write(store, bucket, "d/x")
    line, prefix = cas("ls", "-l", bucket).text.splitlines()
    assert line.split() == [instant(version.modified_ms), "1536", "big"]
    assert line.index("big") == prefix.index("d/")
    assert cas("ls", "-lh", f"{bucket}/b").text.split()[1] == "1.5K"


def test_stat_shows_everything(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    cas("put", tmp_path / "a.txt", f"{bucket}/k", "--metadata", "owner=me")
    version = store.head(ObjectKey(bucket, "k"))
    write(store, bucket, "k", b"newer")
    record = cas("stat", f"{bucket}/k", "--version-id", version.version_id, "--json").record
    digest = blake3(b"text").hexdigest()
    assert record == {
        "bucket": bucket,
        "key": "k",
        "version_id": version.version_id,
        "is_latest": False,
        "delete_marker": False,
        "size": 4,
        "etag": f'"{digest}"',
        "last_modified": instant(version.modified_ms),
        "digest": digest,
        "seq": version.seq,
        "content_type": "text/plain",
        "cache_control": "",
        "content_disposition": "",
        "content_encoding": "",
        "content_language": "",
        "metadata": {"owner": "me"},
    }
    lines = cas("stat", f"{bucket}/k", "--version-id", version.version_id).text.splitlines()
    assert {"size: 4", "is_latest: false", "content_type: text/plain", "metadata owner: me"} <= set(lines)
    assert cas("stat", f"{bucket}/k", "--json").record["is_latest"] is True


def test_versions_are_listed_with_the_newest_first(cas: Command, store: Store, bucket: str) -> None:
    made = [write(store, bucket, "k", content) for content in (b"1", b"22")]
    marker = store.delete(ObjectKey(bucket, "k"))
    assert marker is not None
    write(store, bucket, "k2", b"other")
    records = cas("versions", f"{bucket}/k", "--json").records
    assert [record["version_id"] for record in records] == [marker.version_id, made[1].version_id, made[0].version_id]
    assert [record["delete_marker"] for record in records] == [True, False, False]
    assert [record["is_latest"] for record in records] == [True, False, False]
    assert [record["size"] for record in records] == [0, 2, 1]
    assert [record["etag"] for record in records] == ["", made[1].etag, made[0].etag]
    for record in records:
        assert record["last_modified"].endswith("Z")
        datetime.fromisoformat(record["last_modified"])
    lines = cas("versions", f"{bucket}/k").text.splitlines()
    assert lines[0].endswith(f"{marker.version_id}  latest, delete marker")
    assert [line.split()[1] for line in lines] == ["-", "2", "1"]


def test_versions_of_everything_below(cas: Command, store: Store, bucket: str) -> None:
    for key in ("a/1", "a/2", "a/1", "b"):
        write(store, bucket, key)
    store.delete(ObjectKey(bucket, "a/2"))
    below = cas("versions", f"{bucket}/a/", "--json").records
    assert [(one["key"], one["delete_marker"]) for one in below] == [
        ("a/1", False),
        ("a/1", False),
        ("a/2", True),
        ("a/2", False),
    ]
    assert cas("versions", f"{bucket}/a", "--prefix", "--json").records == below
    assert [one["key"] for one in cas("versions", bucket, "--json").records] == [*(one["key"] for one in below), "b"]
    assert cas("versions", f"{bucket}/a/").text.splitlines()[2].endswith(f"latest, delete marker  {bucket}/a/2")
    assert cas("versions", f"{bucket}/a").code == 1
    assert cas("versions", f"{bucket}/zzz/").code == 1


def test_versions_go_through_all_pages(cas: Command, store: Store, bucket: str) -> None:
    write(store, bucket, "k")
    for _ in range(1001):
        store.copy(ObjectKey(bucket, "k"), ObjectKey(bucket, "k"))
    assert len({record["version_id"] for record in cas("versions", f"{bucket}/k", "--json").records}) == 1002


def test_du_counts_contents_once(cas: Command, store: Store, bucket: str) -> None:
    for key in ("p/a", "p/b"):
        write(store, bucket, key, b"x" * 2000)
    write(store, bucket, "p/b", b"y" * 48)
    write(store, bucket, "q", b"z")
    record = cas("du", f"{bucket}/p", "--json").record
    assert record == {
        "bucket": bucket,
        "prefix": "p",
        "objects": 2,
        "versions": 3,
        "logical_bytes": 2048,
        "version_bytes": 4048,
        "stored_bytes": 2048,
    }
    assert cas("du", bucket, "-h").text.splitlines()[1].split() == ["3", "4", "2.0K", "4.0K", "2.0K", f"{bucket}/"]
    assert bucket in {record["bucket"] for record in cas("du", "--json").records}


# ---- cp, rm ----


def test_cp_keeps_headers_and_can_take_an_old_version(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    cas("put", tmp_path / "a.txt", f"{bucket}/d/k", "--metadata", "a=1")
    old = store.head(ObjectKey(bucket, "d/k"))
    write(store, bucket, "d/k", b"new")
    record = cas("cp", f"{bucket}/d/k", f"{bucket}/copies/", "--version-id", old.version_id, "--json").record
    assert record["key"] == "copies/k"
    copy = store.head(ObjectKey(bucket, "copies/k"))
    assert (copy.digest, copy.headers, copy.metadata) == (old.digest, old.headers, old.metadata)
    assert cas("cp", f"{bucket}/d/k", f"{bucket}/d/k", "--if-match", "*").code == 0
    assert cas("cp", f"{bucket}/d/k", f"{bucket}2/x").text.startswith(f"copied {bucket}/d/k to {bucket}2/x (version ")


def test_rm_adds_a_marker_and_removing_that_brings_the_object_back(cas: Command, store: Store, bucket: str) -> None:
    key = ObjectKey(bucket, "k")
    version = write(store, bucket, "k")
    record = cas("rm", f"{bucket}/k", "--json").record
    assert record == {**record, "bucket": bucket, "key": "k", "delete_marker": True}
    again = cas("rm", f"{bucket}/k")
    assert (again.code, one_line(again)) == (1, f"{bucket}/k: no such object, it was deleted")
    assert len(store.list_versions(ListQuery(bucket=bucket)).versions) == 2
    assert cas("rm", f"{bucket}/k", "--force", "--json").record["delete_marker"] is False
    assert cas("rm", f"{bucket}/k", "--version-id", record["version_id"]).code == 0
    assert store.head(key).version_id == version.version_id
    gone = cas("rm", f"{bucket}/k", "--version-id", version.version_id, "--json").record
    assert (gone["version_id"], gone["delete_marker"]) == (version.version_id, False)
    assert store.list_versions(ListQuery(bucket=bucket)).versions == ()
    assert cas("rm", f"{bucket}/k", "--version-id", version.version_id, "--force").code == 0


# ---- the store itself ----


def test_init_makes_a_store_once(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    cas = command_in(tmp_path / "a/new", capsysbinary)
    assert cas("init", "--json").record == {"data_dir": str(tmp_path / "a/new"), "created": True, "upgraded": False}
    assert cas("ls").code == 0
    assert cas("init", "--json").record["created"] is False
    assert cas("init").text == f"there is a store in {tmp_path}/a/new\n"


def test_config_shows_and_sets_what_every_process_obeys(
    capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    cas = command_in(tmp_path / "s", capsysbinary)
    cas("init")
    with Store.open(tmp_path / "s") as store:
        assert cas("config").text == (
            "bucket default\nversioning enabled\nblobs.inlineMaxBytes 0\nquotas {}\n"
            "retention.rules {}\nhistory.keepDays 30\n"
        )
        assert cas("config", "versioning").text == "enabled\n"
        assert cas("config", "versioning", "suspended", "--json").record == {"versioning": "suspended"}
        assert cas("config", "bucket", "2024").text == "2024\n"
        assert cas("config", "blobs.inlineMaxBytes", "4096", "--json").record == {"blobs.inlineMaxBytes": 4096}
        assert write(store, "", "k").version_id == "null"
        assert cas("ls").text == "2024\n"
        assert cas("config", "--json").record == store.settings().by_name()
