"""The verbs that change several things at once, and those that bring something back."""

from __future__ import annotations

import json
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


def lines(path: Path, *changes: object) -> Path:
    path.write_text("\n\n".join(one if isinstance(one, str) else json.dumps(one) for one in changes))
    return path


def listed(cas: Command, bucket: str) -> list[str]:
    return [record["key"] for record in cas("ls", "--json", f"{bucket}/").records]


def test_a_batch_from_a_file(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_bytes(b"<h1>hello</h1>")
    write(store, bucket, "old")
    file = lines(
        tmp_path / "batch",
        {"op": "put", "key": f"{bucket}/index.html", "file": str(page), "metadata": {"by": "me"}},
        {"op": "put", "key": f"{bucket}/robots.txt", "text": "none", "if_none_match": "*"},
        {"op": "put", "key": f"{bucket}/dot", "base64": "AAE=", "content_type": "image/x"},
        {"op": "copy", "from": f"{bucket}/index.html", "key": f"{bucket}/home"},
        {"op": "delete", "key": f"{bucket}/old"},
        {"op": "delete", "key": f"{bucket}/old", "version_id": "never"},
    )
    done = cas("batch", file)
    assert (done.code, done.text.splitlines()[-1]) == (0, "6 changes committed"), done.err
    assert done.text.splitlines()[5] == f"delete {bucket}/old: there was none"
    assert listed(cas, bucket) == ["dot", "home", "index.html", "robots.txt"]
    assert cas("cat", f"{bucket}/home").out == b"<h1>hello</h1>"
    assert store.head(ObjectKey(bucket, "index.html")).headers.content_type == "text/html"
    assert store.head(ObjectKey(bucket, "robots.txt")).headers.content_type == ""


def test_a_batch_from_stdin_as_json(store: Store, data_dir: Path, bucket: str) -> None:
    text = json.dumps({"op": "put", "key": f"{bucket}/k", "text": "x"})
    done = process("batch", "--data-dir", data_dir, "--json", "-", data=text.encode())
    assert [(one.get("line"), one.get("committed")) for one in done.records] == [(1, None), (None, 1)]
    assert done.records[0]["version_id"] == store.head(ObjectKey(bucket, "k")).version_id


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ('{"op": "put", "key": "BUCKET/there", "text": "x", "if_none_match": "*"}', 3, "if-none-match"),
        ('{"op": "copy", "from": "BUCKET/never", "key": "BUCKET/x"}', 1, "no such object"),
        ('{"op": "put", "key": "BUCKET/x"}', 2, "one of file, text, base64"),
        ('{"op": "put", "key": "BUCKET/x", "text": "a", "file": "b"}', 2, "one of file, text, base64"),
        ('{"op": "put", "key": "BUCKET/x", "file": "no-such-file"}', 2, "no-such-file: No such file"),
        ('{"op": "put", "key": "BUCKET/x", "base64": "?"}', 2, "base64"),
        ('{"op": "put", "key": "BUCKET/x", "text": 7}', 2, "text: 7 is not text"),
        ('{"op": "put", "key": "BUCKET/x", "text": "", "meta": {}}', 2, "meta: put has no such field"),
        ('{"op": "put", "key": "BUCKET/x", "text": "", "metadata": {"a": 1}}', 2, "metadata: not an object of texts"),
        ('{"op": "put", "key": "BUCKET", "text": ""}', 2, "names no object"),
        ('{"op": "move", "key": "BUCKET/x"}', 2, "'move' is none of put, copy, delete"),
        ("[]", 2, "not a JSON object"),
        ("{", 2, "not JSON"),
    ],
)
def test_a_line_that_fails_is_named_and_nothing_changes(
    cas: Command, store: Store, tmp_path: Path, line: str, code: int, says: str
) -> None:
    bucket = tmp_path.name[-60:]
    write(store, bucket, "there")
    new = {"op": "put", "key": f"{bucket}/new", "text": "new"}
    done = cas("batch", lines(tmp_path / "batch", new, line.replace("BUCKET", bucket)))
    assert done.code == code
    assert "line 3" in one_line(done)
    assert says in done.err
    assert listed(cas, bucket) == ["there"]


def test_the_store_itself_is_no_body(cas: Command, data_dir: Path, bucket: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "batch", {"op": "put", "key": f"{bucket}/k", "file": str(data_dir / "metadata.sqlite3")})
    done = cas("batch", file)
    assert (done.code, "part of the store itself" in done.err) == (2, True)


def test_restoring_a_version(cas: Command, store: Store, bucket: str) -> None:
    old = write(store, bucket, "k", b"old")
    write(store, bucket, "k", b"new")
    done = cas("restore", f"{bucket}/k", "--version-id", old.version_id)
    assert (done.code, cas("cat", f"{bucket}/k").out) == (0, b"old")
    assert f"as it was in version {old.version_id}" in done.text
    assert cas("restore", f"{bucket}/k", "--version-id", "never").code == 1
    assert cas("restore", f"{bucket}/k").code == 2
    assert cas("restore", f"{bucket}/k", "dir", "--version-id", "v").code == 2


def test_undeleting(cas: Command, store: Store, bucket: str) -> None:
    write(store, bucket, "k", b"content")
    assert cas("undelete", f"{bucket}/k").code == 3
    cas("rm", f"{bucket}/k")
    assert cas("undelete", f"{bucket}/k").code == 0
    assert cas("cat", f"{bucket}/k").out == b"content"
    assert cas("undelete", f"{bucket}/never").code == 1
