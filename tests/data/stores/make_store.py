"""Make the store that is kept for one schema revision, with the code of that revision; run once for each.

    python tests/data/stores/make_store.py            NNNN.tar.xz and NNNN.json, for the revision of this checkout
    python tests/data/stores/make_store.py --later    later.tar.xz: the same store as a release to come might leave it

The archive is a data directory as the code left it: all but the last changes in the database, those in its WAL, since
the process that made it ended without closing. The JSON tells what the store holds, as the code that made it read it
back; payloads are judged by their digests. Only operations of `Store` are used, so that later revisions can run this
file as it is. Version ids and times are drawn from a seed and a clock of our own, so the same rows come out each time;
SQLite draws the salts of its WAL itself.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import random
import secrets
import subprocess
import sys
import tarfile
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from gestalt_cas import ObjectKey, ObjectVersion, Store  # noqa: E402
from gestalt_cas.errors import Damage  # noqa: E402
from gestalt_cas.objects import Headers, ListQuery  # noqa: E402
from gestalt_cas.sql import schema, sqlite  # noqa: E402

SHARED = b"two keys and two buckets share these bytes"
LONG = random.Random(2).randbytes(1_000) * 1_600
"""Two chunks of 1 MiB that differ, and easy to pack."""
ROTTEN, LOST = b"a bit of this flips", b"this file goes missing"
HEADERS = Headers("text/plain; charset=utf-8", "max-age=60", 'attachment; filename="ä.txt"', "identity", "de, en")
_LEFT_OUT = {"reserve", "metadata.sqlite3-shm"}
_LATER = (
    "CREATE TABLE colours (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "INSERT INTO colours VALUES ('red', x'ff0000')",
    "ALTER TABLE versions ADD COLUMN colour TEXT REFERENCES colours (name)",
    "UPDATE versions SET colour = 'red' WHERE digest IS NOT NULL",
    "UPDATE alembic_version SET version_num = '9999'",
    "PRAGMA user_version = 99",
)


def fill(store: Store) -> None:
    """Every kind of row and file that a store may hold, but for the last changes."""
    put(store, "", "plain", b"x")
    put(store, "", "empty", b"")
    put(store, "", "long", LONG)
    put(store, "", "shared/one", SHARED)
    put(store, "", "shared/two", SHARED, headers=Headers("image/png"))
    put(store, "other bucket", "shared", SHARED)
    put(store, "other bucket", "attributes", b"attributes", headers=HEADERS, metadata={"Name": "Wert ü", "empty": ""})
    put(store, "a.third", "ключ/鍵/🔑\0\x01", b"any Unicode makes a key")
    put(store, "a.third", "deep/" * 409 + "xyz", b"a key of 2,048 bytes")
    for number in range(4):
        put(store, "", "history", f"version {number}".encode(), metadata={"number": str(number)})
    store.delete(ObjectKey("", "history"))
    put(store, "", "history", b"after the marker")
    put(store, "", "history", b"removed at last")
    put(store, "", "deleted", b"has a marker on top")
    store.delete(ObjectKey("", "deleted"))
    store.delete(ObjectKey("", "never was"))
    store.copy(ObjectKey("other bucket", "attributes"), ObjectKey("", "copied"))
    put(store, "", "gone", b"nothing reaches these bytes any more")
    remove(store, "gone")
    fill_suspended(store)
    fill_past(store)
    put(store, "", "rotten", ROTTEN)
    put(store, "", "lost", LOST)
    store.note("http.port", 41234)


def fill_suspended(store: Store) -> None:
    """Null versions: over versions with ids, replaced, under a marker that is one, and below versions with ids."""
    put(store, "", "null", b"has an id")
    put(store, "", "null marker", b"under a null marker")
    store.change_settings({"versioning": "suspended"})
    put(store, "", "null", b"the first null version")
    put(store, "", "null", b"the second null version")
    put(store, "", "null only", b"has no id")
    store.delete(ObjectKey("", "null marker"))
    store.change_settings({"versioning": "enabled"})
    put(store, "", "null", b"over the null version", headers=HEADERS)


def fill_past(store: Store) -> None:
    """What a snapshot keeps of a version that was removed, and a rule; since format 3."""
    if not hasattr(store, "create_snapshot"):
        return
    put(store, "", "past", b"a snapshot shows this")
    store.create_snapshot("before", "main", "pa")
    remove(store, "past")
    store.change_settings({"retention.rules": {"main/none": {"keepDays": 1}}, "history.keepDays": 0})


def fill_last(store: Store) -> None:
    """What stays in the WAL: a write, a marker, a removal, and the marks of damage."""
    put(store, "", "last", b"in the WAL")
    store.delete(ObjectKey("", "shared/two"))
    newest = store.list_versions(ListQuery("", prefix="history"), only_key=True).versions[0]
    store.delete(newest.key, version_id=newest.version_id)
    for name, content in (("rotten", ROTTEN), ("lost", LOST)):
        spoil(store, name, content)


def put(store: Store, bucket: str, name: str, content: bytes, **attributes: Any) -> None:
    store.write(ObjectKey(bucket, name), [content], **attributes)


def remove(store: Store, name: str) -> None:
    """Remove the current version for good; its payload stays behind."""
    store.delete(ObjectKey("", name), version_id=store.head(ObjectKey("", name)).version_id)


def spoil(store: Store, name: str, content: bytes) -> None:
    """Damage a payload and have a read find it."""
    version = store.head(ObjectKey("", name))
    path = store.directory / "blobs" / version.digest[:2] / version.digest
    if name == "lost":
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        path.chmod(0o400)
    try:
        with store.read(version.key) as reader:
            reader.read()
    except Damage:
        return
    raise AssertionError(f"{name}: the damage was not found")


def described(store: Store) -> dict[str, object]:
    versions = [
        as_record(version) for bucket in store.buckets() for version in store.list_versions(ListQuery(bucket)).versions
    ]
    return {
        "revision": schema.REVISION,
        "sqlite": sqlite.VERSION,
        "settings": store.settings().by_name(),
        "notes": {"http.port": store.recall("http.port")},
        "buckets": store.buckets(),
        "damaged": sorted(store.head(ObjectKey("", name)).digest for name in ("rotten", "lost")),
        "versions": versions,
    }


def as_record(version: ObjectVersion) -> dict[str, object]:
    """All of a version, in the terms of the operations."""
    return {
        "bucket": version.key.bucket,
        "key": version.key.key,
        "version_id": version.version_id,
        "seq": version.seq,
        "size": version.size,
        "digest": version.digest,
        "modified_ms": version.modified_ms,
        "current": version.current,
        "headers": version.headers._asdict(),
        "metadata": dict(version.metadata),
    }


def make(directory: Path, *, later: bool) -> None:
    """Fill the directory and end without closing it, so this is run in a process of its own."""
    seeded, moments = random.Random(1), count(1_700_000_000_000, 1_000)
    secrets.token_bytes = lambda nbytes=None: seeded.randbytes(nbytes or 32)  # type: ignore[assignment]
    time.time_ns = lambda: next(moments) * 1_000_000  # type: ignore[assignment]
    with Store.open(directory, settings={"bucket": "main"}) as store:
        fill(store)
    store = Store.open(directory)
    fill_last(store)
    (directory / "expected.json").write_text(json.dumps(described(store), ensure_ascii=False, indent=1))
    cut_off = directory / "staging" / "0123456789abcdef01234567.part"
    cut_off.write_bytes(b"cut off")
    cut_off.chmod(0o400)
    if later:
        make_later(store, directory)
    os._exit(0)


def make_later(store: Store, directory: Path) -> None:
    """A release that we cannot know: a table, a column, a setting and a directory of its own, and higher numbers."""
    store.note("colours.default", {"name": "red"})
    connection = sqlite.connect(directory / "metadata.sqlite3")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    for statement in _LATER:
        connection.execute(statement)
    (directory / "packs").mkdir(mode=0o700)
    (directory / "packs" / "0.pack").write_bytes(b"many payloads in one file")


def pack(directory: Path, target: Path) -> None:
    """Everything but what is made again, in a fixed order and without the times and names of this machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(directory.rglob("*")):
            if path.name in _LEFT_OUT:
                continue
            member = archive.gettarinfo(path, str(path.relative_to(directory)))
            member.uid = member.gid = member.mtime = 0
            member.uname = member.gname = ""
            with path.open("rb") if path.is_file() else io.BytesIO() as content:
                archive.addfile(member, content)
    target.write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--make"]:
        make(Path(arguments[1]), later="--later" in arguments)
    with tempfile.TemporaryDirectory() as home:
        directory = Path(home) / "store"
        subprocess.run([sys.executable, __file__, "--make", directory, *arguments], check=True)
        expected = (directory / "expected.json").read_text()
        (directory / "expected.json").unlink()
        if "--later" in arguments:
            pack(directory, HERE / "later.tar.xz")
            return
        pack(directory, HERE / f"{schema.REVISION}.tar.xz")
        (HERE / f"{schema.REVISION}.json").write_text(f"{expected}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
