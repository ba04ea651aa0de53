"""The least that a durable small upload takes: where this server would end if all that it does besides cost nothing.

The body is hashed and summed. In files, the caller's thread writes it to a new file under its final name and syncs
file and directory. Then one row is inserted, with the bytes where small payloads are inlined, and committed; whoever
comes while one COMMIT runs shares the next. There are no versions, conditions, quotas or checks, nothing tells a live
upload from a leftover, and no failure is handled: it is a measure, not a store.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from blake3 import blake3
from xxhash import xxh3_128_digest

from gestalt_cas.files.layout import FAN_OUT, Layout
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.system.durability import sync_directory, sync_file
from gestalt_cas.transactions.connections import connect

_TABLE = "CREATE TABLE least (key TEXT, digest BLOB, sums BLOB, data BLOB)"
_INSERT = "INSERT INTO least VALUES (?, ?, ?, ?)"


class _Upload:
    """One caller's row, and its wait for it to be committed or for its turn to commit."""

    def __init__(self, *row: object) -> None:
        self.row = row
        self.committed = False
        self.turn = threading.Lock()
        self.turn.acquire()


class LeastStore:
    """Rows in a table of their own in the store's database, files in a directory beside its payloads. Thread-safe."""

    def __init__(self, directory: Path, *, inlined: bool) -> None:
        self._files = "" if inlined else str(directory / "least")
        for name in () if inlined else FAN_OUT:
            Path(self._files, name).mkdir(parents=True)
        self._connection: Connection = connect(Layout(directory).database)
        self._connection.execute(_TABLE)
        self._lock = threading.Lock()
        self._led = False
        self._waiting: list[_Upload] = []

    def write(self, key: str, pieces: Iterable[bytes | memoryview], confirm: Callable[[], None] | None) -> None:
        data = b"".join(pieces)
        digest, sums = blake3(data).digest(), xxh3_128_digest(data)
        if confirm is not None:
            confirm()
        if self._files:
            _keep(f"{self._files}/{FAN_OUT[digest[0]]}", digest.hex(), data)
        self._commit(_Upload(key, digest, sums, None if self._files else data))

    def _commit(self, upload: _Upload) -> None:
        with self._lock:
            self._waiting.append(upload)
            leads, self._led = not self._led, True
        if not leads:
            upload.turn.acquire()
        if upload.committed:
            return
        with self._lock:
            group, self._waiting = self._waiting, []
        self._connection.execute("BEGIN IMMEDIATE")
        for member in group:
            self._connection.kept.execute(_INSERT, member.row)
        self._connection.execute("COMMIT")
        for member in group:
            member.committed = True
        with self._lock:
            to_lead = self._waiting[:1]
            self._led = bool(to_lead)
        for member in (*to_lead, *group):
            if member is not upload:
                member.turn.release()


def _keep(directory: str, name: str, data: bytes) -> None:
    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        os.write(fd, data)
        sync_file(fd)
    finally:
        os.close(fd)
    sync_directory(directory)
