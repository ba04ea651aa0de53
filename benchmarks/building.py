"""Stores full of rows, made quickly and kept for the next run.

Rows go in through the store's own `blob_rows.keep` and `versions.append`, tens of thousands to a transaction, and
no payload file is written: listings and lookups look at rows only, and a million files would take an hour. So these
directories are for measuring; reading an object from one reports its payload missing.
"""

from __future__ import annotations

import base64
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import note
from gestalt_cas import Store
from gestalt_cas.clock import now_ms
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import Headers, ObjectKey
from gestalt_cas.rows import blob_rows, versions
from gestalt_cas.rules.chunks import SUM_BYTES
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.system.locks import WriterLock
from gestalt_cas.transactions.database import Database

BUCKET = "default"
INLINE = "blobs.inlineMaxBytes"
_PER_TRANSACTION = 50_000
_HEADERS = Headers(content_type="application/octet-stream")
_PAYLOAD_BYTES = 4096
_BUILDING_CACHE_KIB = 400_000
_VERSION = """
    INSERT INTO versions (bucket, key, seq, version_id, digest, size, content_type, commit_ms)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_MARK = 1
"""Raised when what is built changes, so that kept stores of before are not used."""


def is_kept(path: Path) -> bool:
    """Whether later benchmarks, or runs, take up what stands there: a built store, or the mark beside one."""
    return path.suffix == ".json" or path.with_suffix(".json").exists()


def ready(directory: Path, keys: Sequence[str]) -> Path:
    """A store with one object under each key, inserted in the order given: built now, or left by an earlier run."""
    mark = directory.with_suffix(".json")
    wanted = {"mark": _MARK, "revision": schema.REVISION, "keys": len(keys), "first": keys[0], "last": keys[-1]}
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return directory
    if directory.exists():
        shutil.rmtree(directory)
    mark.unlink(missing_ok=True)
    started = time.monotonic()
    note(f"building {directory.name}: {len(keys):,} keys")
    Store.open(directory).close()
    with database(directory) as opened:
        for first in range(0, len(keys), _PER_TRANSACTION):
            with opened.write() as tx:
                tx.execute(f"PRAGMA cache_size=-{_BUILDING_CACHE_KIB}")
                insert(tx, keys[first : first + _PER_TRANSACTION], seed=first)
        opened.checkpoint(restart=True)
    note(f"built {directory.name} in {time.monotonic() - started:.0f} s")
    mark.write_text(json.dumps(wanted))
    return directory


def with_history(directory: Path, groups: Sequence[Sequence[str]], rounds: int) -> Path:
    """A store whose keys (each group in key order) have `rounds` versions each, one in each round of their group.

    All changes of a group come before those of the next. Rows are written in key order and the indexes made afterwards,
    since in the order of their changes ten million of them would take an hour.
    """
    mark = directory.with_suffix(".json")
    wanted = {"mark": _MARK, "revision": schema.REVISION, "keys": [len(keys) for keys in groups], "rounds": rounds}
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        return directory
    if directory.exists():
        shutil.rmtree(directory)
    mark.unlink(missing_ok=True)
    note(f"building {directory.name}: {sum(map(len, groups)):,} keys of {rounds} versions")
    Store.open(directory).close()
    with database(directory) as opened, opened.write() as tx:
        tx.execute(f"PRAGMA cache_size=-{_BUILDING_CACHE_KIB}")
        indexes = tx.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        for name, _ in indexes:
            tx.execute(f"DROP INDEX {name}")
        digest, at = bytes(32), now_ms()
        blob_rows.keep(tx, digest, _PAYLOAD_BYTES, bytes(SUM_BYTES))
        tx.executemany(_VERSION, _history(groups, rounds, digest, at))
        tx.execute("INSERT INTO current (bucket, key, seq) SELECT bucket, key, max(seq) FROM versions GROUP BY 1, 2")
        tx.execute("UPDATE counter SET seq = (SELECT max(seq) FROM versions), commit_ms = ?", (at,))
        for _, sql in indexes:
            tx.execute(sql)
    mark.write_text(json.dumps(wanted))
    return directory


def _history(groups: Sequence[Sequence[str]], rounds: int, digest: bytes, at: int) -> Iterator[tuple[object, ...]]:
    before = 0
    for keys in groups:
        for number, key in enumerate(keys, 1):
            for turn in range(rounds):
                seq = before + turn * len(keys) + number
                version_id = base64.b32hexencode(seq.to_bytes(6) + bytes(9)).decode().lower()
                yield BUCKET, key.encode(), seq, version_id, digest, _PAYLOAD_BYTES, _HEADERS.content_type, at
        before += rounds * len(keys)


@contextmanager
def database(directory: Path) -> Iterator[Database]:
    """The bare metadata database of a store that nothing else has open."""
    layout = Layout(directory)
    writer_lock = WriterLock(layout.root)
    opened = Database(layout, writer_lock)
    try:
        yield opened
    finally:
        opened.close()
        writer_lock.close()


def insert(tx: Connection, keys: Sequence[str], *, seed: int) -> None:
    """One object per key, each with a payload of its own, which is what takes most metadata."""
    drawn = random.Random(seed)
    at = now_ms()
    for key in keys:
        digest, sums = drawn.randbytes(32), drawn.randbytes(SUM_BYTES)
        add(tx, key, digest, _PAYLOAD_BYTES, sums, now_ms=at)


def add(tx: Connection, key: str, digest: bytes, size: int, sums: bytes, *, now_ms: int) -> None:
    """The rows of one object."""
    blob_rows.keep(tx, digest, size, sums)
    versions.append(
        tx, ObjectKey(BUCKET, key), digest, size, headers=_HEADERS, metadata={}, suspended=False, now_ms=now_ms
    )


def inlines(directory: Path) -> bool:
    """Whether this version keeps payloads up to blobs.inlineMaxBytes in the database: it is tried in `directory`."""
    with Store.open(directory, settings={INLINE: 4096}) as store:
        store.write(ObjectKey("", "small"), [b"small"])
    return not any(path.is_file() for path in Layout(directory).blobs.rglob("*"))
