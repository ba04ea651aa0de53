"""What a directory holds, worked out anew: SQL and hashing of the tests' own, nothing of the code under test."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.sql import sqlite

STORE_FILES = {"blobs", "metadata.sqlite3", "staging", "turnstile.lock", "write.lock", "schema.lock", "server.lock"}
BACKUP_FILES = {*STORE_FILES, "manifest.json", "reserve", "reserve.1", "reserve.2"}
VERSION_COLUMNS = (
    "bucket, key, seq, version_id, digest, size, content_type, headers, metadata, commit_ms, gone_seq, gone_ms"
    # The digest of a removed version has lines of its own in the root.
)


@pytest.fixture(scope="module", name="empty_store")
def empty_store_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store to be copied: making one takes ten times as long."""
    path = tmp_path_factory.mktemp("empty") / "store"
    Store.open(path).close()
    return path


@pytest.fixture(name="store")
def store_fixture(empty_store: Path, tmp_path: Path) -> Iterator[Store]:
    """An empty store of its own for one test."""
    with Store.open(copy(empty_store, tmp_path / "store")) as opened:
        yield opened


def query(directory: Path, sql: str, *parameters: object, name: str = "metadata.sqlite3") -> list[tuple[Any, ...]]:
    """Rows of a database that nobody has open."""
    connection = sqlite.connect(directory / name)
    with contextlib.closing(connection):
        rows: list[tuple[Any, ...]] = connection.execute(sql, parameters).fetchall()
        return rows


def alter(directory: Path, sql: str, *parameters: object) -> None:
    connection = sqlite.connect(directory / "metadata.sqlite3")
    with contextlib.closing(connection):
        connection.execute(sql, parameters)


def versions(directory: Path) -> list[tuple[Any, ...]]:
    return query(directory, f"SELECT {VERSION_COLUMNS} FROM versions ORDER BY seq")


def blob_path(directory: Path, digest: bytes) -> Path:
    return directory / "blobs" / digest.hex()[:2] / digest.hex()


def verify(directory: Path) -> None:
    """Every version has its payload, whole, and the rows belong together."""
    assert query(directory, "PRAGMA integrity_check") == [("ok",)]
    assert query(directory, "PRAGMA foreign_key_check") == []
    reached = {(row[4], row[5]) for row in versions(directory) if row[4] is not None}
    for digest, size in reached:
        data = blob_path(directory, digest).read_bytes()
        assert len(data) == size
        assert blake3(data).digest() == digest
    newest: dict[tuple[str, bytes], tuple[int, bytes | None]] = {}
    for bucket, key, seq, _, digest, *_, gone_seq, _ in versions(directory):
        if gone_seq is not None:
            continue
        newest[bucket, key] = seq, digest
    current = {(bucket, key, seq) for (bucket, key), (seq, digest) in newest.items() if digest is not None}
    assert set(query(directory, "SELECT bucket, key, seq FROM current")) == current


def by_key(row: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Bucket and key (or prefix), in the order of their bytes."""
    return row[0].encode(), row[1]


def root(directory: Path) -> str:
    """The root digest as README.md defines it."""

    def text(value: bytes | None) -> str:
        return (value or b"").hex()

    wanted = ("blobs.inlineMaxBytes", "bucket", "history.keepDays", "retention.rules", "versioning")
    settings = sorted(query(directory, "SELECT name, value FROM settings"))
    quotas = query(directory, "SELECT bucket, prefix, max_bytes, used_bytes FROM quotas")
    current = query(directory, "SELECT bucket, key, seq FROM current")
    gone = query(directory, "SELECT bucket, key, seq, gone_digest FROM versions WHERE gone_digest IS NOT NULL")
    blobs = sorted(query(directory, "SELECT digest, size, place, sums FROM blobs"))
    lines: list[list[Any]] = [
        *(["counter", *row] for row in query(directory, "SELECT seq, commit_ms FROM counter")),
        *(["setting", *row] for row in settings if row[0] in wanted),
        *(["quota", row[0], text(row[1]), *row[2:]] for row in sorted(quotas, key=by_key)),
        *(
            ["version", row[0], text(row[1]), row[2], row[3], text(row[4]), *row[5:]]
            for row in sorted(versions(directory), key=lambda row: (*by_key(row), row[2]))
        ),
        *(["current", row[0], text(row[1]), row[2]] for row in sorted(current, key=by_key)),
        *(["blob", text(row[0]), row[1], row[2], text(row[3])] for row in blobs),
        *(
            ["gone", row[0], text(row[1]), row[2], text(row[3])]
            for row in sorted(gone, key=lambda row: (*by_key(row), row[2]))
        ),
        *(["horizon", *row] for row in sorted(query(directory, "SELECT bucket, seq, ms FROM horizons"))),
        *(
            ["snapshot", *row[:2], text(row[2]), *row[3:]]
            for row in sorted(query(directory, "SELECT name, bucket, prefix, seq, created_ms FROM snapshots"))
        ),
        *(
            ["hold", row[0], text(row[1]), *row[2:]]
            for row in sorted(
                query(directory, "SELECT bucket, prefix, version_id, created_ms FROM holds"),
                key=lambda row: (*by_key(row), row[2]),
            )
        ),
    ]
    whole = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    return blake3(whole.encode("ascii")).hexdigest()


def manifest(directory: Path) -> dict[str, Any]:
    content = json.loads((directory / "manifest.json").read_text())
    assert isinstance(content, dict)
    return content


def sign(content: dict[str, Any]) -> dict[str, Any]:
    """A manifest with the digest that belongs to it."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")
    return {**rest, "digest": blake3(plain).hexdigest()}


def modes(directory: Path) -> dict[str, set[int]]:
    """The permissions of directories, payloads and other files."""
    found: dict[str, set[int]] = {"directory": set(), "payload": set(), "other": set()}
    for path in (directory, *directory.rglob("*")):
        mode = path.lstat().st_mode
        kind = "directory" if stat.S_ISDIR(mode) else "payload" if path.parent.parent.name == "blobs" else "other"
        found[kind].add(stat.S_IMODE(mode))
    return found


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every payload."""
    found = {path.name: path.stat() for path in (directory / "blobs").glob("*/*")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def copy(source: Path, target: Path) -> Path:
    """A directory as it is, for a test that changes it."""
    shutil.copytree(source, target)
    return target


def names(directory: Path) -> set[str]:
    """What stands at the top of a directory, without what SQLite keeps beside a database."""
    return {name for name in os.listdir(directory) if not name.endswith(("-wal", "-shm"))}
