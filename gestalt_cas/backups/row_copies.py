"""A copy of a store's rows, in a database file that nobody else has open: how it is made, judged and finished.

The copy is SQLite's own backup of one read transaction, taken in steps: the transaction keeps its view whatever is
committed meanwhile, so nothing starts over, and between two steps a process can be stopped. What the view costs is
that the WAL cannot begin anew until it ends, so the copy is neither synced nor judged before that: pages go into the
cache of the kernel at the speed of memory. Where even that is slow and the WAL becomes longer than PATIENT_BYTES, each
further step holds write.lock. Writers then take turns with the copy, and the WAL grows by what they commit in one turn.
(VACUUM INTO has the same view for several times as long, cannot be stopped, and knows no turns.)

The root digest is BLAKE3-256 over the rows, so two databases with one root hold the same objects, however their pages
lie. It covers a line for each row, in the order below; a line is a JSON array in ASCII without spaces, ended by a line
feed, with BLOBs in lower-case hex and "" for the digest of a delete marker:

    ["counter",seq,commit_ms]
    ["setting",name,value]             the store's settings by name; `value` is JSON text, as the table has it
    ["quota",bucket,prefix,max_bytes,used_bytes]                             by bucket, prefix
    ["version",bucket,key,seq,version_id,digest,size,content_type,headers,metadata,commit_ms,gone_seq,gone_ms]
                                                                             by bucket, key, seq
    ["current",bucket,key,seq]                                               by bucket, key
    ["blob",digest,size,place,sums]                                          by digest
    ["gone",bucket,key,seq,gone_digest]      since format 3                  by bucket, key, seq
    ["horizon",bucket,seq,ms]                since format 3                  by bucket
    ["snapshot",name,bucket,prefix,seq,created_ms]  since format 3           by name
    ["hold",bucket,prefix,version_id,created_ms]    since format 4           by bucket, prefix, version_id

Not covered are marks of damage, pins, what gc has recorded, and notes: they say something about one directory or one
process, and `check` and `gc` write them into a backup, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from gestalt_cas.backups.manifests import STORE_NOTE, open_rows
from gestalt_cas.errors import BlobMissing, Damage, DatabaseDamaged, DigestMismatch, DiskFull, StoreError
from gestalt_cas.files.layout import Layout
from gestalt_cas.keeping import removals
from gestalt_cas.keeping.reachability import IS_FILE, IS_ROW, REACHED
from gestalt_cas.objects import ObjectKey
from gestalt_cas.rows import history
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.sql.statements import Prepared
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_file
from gestalt_cas.system.locks import WriterLock
from gestalt_cas.transactions.database import WRITE_TIMEOUT
from gestalt_cas.wrong_values import lost_digests, suspicions, value_rules, wrong_rows

STEP_PAGES = 1024
PATIENT_BYTES = 64 << 20
"""A WAL longer than this makes the copy take turns with the writers."""

Tell = Callable[[int, int], None]
"""Told how many pages are copied, and of how many."""

_SETTINGS = ("blobs.inlineMaxBytes", "bucket", "history.keepDays", "retention.rules", "versioning")


def _is_named(*names: str) -> str:
    """SQL, of a row of settings: whether it is one of these."""
    return " OR ".join(f"name = '{name}'" for name in names)


_ROWS = {
    "counter": "SELECT seq, commit_ms FROM counter",
    "setting": f"SELECT name, value FROM settings WHERE {_is_named(*_SETTINGS)} ORDER BY name",
    "quota": "SELECT bucket, lower(hex(prefix)), max_bytes, used_bytes FROM quotas ORDER BY bucket, prefix",
    "version": """
        SELECT bucket, lower(hex(key)), seq, version_id, lower(hex(digest)), size, content_type, headers, metadata,
            commit_ms, gone_seq, gone_ms
        FROM versions ORDER BY bucket, key, seq
    """,
    "current": "SELECT bucket, lower(hex(key)), seq FROM current ORDER BY bucket, key",
    "blob": "SELECT lower(hex(digest)), size, place, lower(hex(sums)) FROM blobs ORDER BY digest",
    "gone": """
        SELECT bucket, lower(hex(key)), seq, lower(hex(gone_digest)) FROM versions
        WHERE gone_digest IS NOT NULL ORDER BY bucket, key, seq
    """,
    "horizon": "SELECT bucket, seq, ms FROM horizons ORDER BY bucket",
    "snapshot": "SELECT name, bucket, lower(hex(prefix)), seq, created_ms FROM snapshots ORDER BY name",
    "hold": """
        SELECT bucket, lower(hex(prefix)), version_id, created_ms FROM holds ORDER BY bucket, prefix, version_id
    """,
}
_GONE = -2
"""Where a row of "version" has `gone_seq`: what was removed for good counts as no version."""
_SINCE = {"gone": 3, "horizon": 3, "snapshot": 3, "hold": 4}
"""The format that brought what such a line is of, so that backups of earlier ones keep the root that they have."""
_LINES = {kind: Prepared(text) for kind, text in _ROWS.items()}
_PAYLOADS = Prepared(f"SELECT digest, size, sums FROM blobs WHERE {IS_FILE} ORDER BY digest")
_INLINED = Prepared(f"""
    SELECT blobs.digest, CAST(inlined.data AS BLOB) FROM blobs LEFT JOIN inlined ON inlined.id = blobs.place
    WHERE blobs.{IS_ROW} ORDER BY blobs.digest
""")
_TOTALS = Prepared("SELECT count(*), coalesce(sum(size), 0) FROM blobs")
_VOUCHED = Prepared(f"SELECT size FROM blobs WHERE digest = :digest AND damaged_ms IS NULL AND {IS_FILE}")
_DROP_UNREACHED = Prepared(f"DELETE FROM blobs WHERE NOT {REACHED}")
_DROP_LOOSE = Prepared("DELETE FROM inlined WHERE id NOT IN (SELECT place FROM blobs)")
_DROP_NOTES = Prepared(f"DELETE FROM settings WHERE NOT ({_is_named(*store_settings.FIELDS, STORE_NOTE)})")
_DROP_PINS = Prepared("DELETE FROM pins")
_DROP_RECORD = Prepared("DELETE FROM unreachable")
_UNMARK = Prepared("UPDATE blobs SET damaged_ms = NULL WHERE damaged_ms IS NOT NULL")
_NAMES = Prepared("SELECT DISTINCT bucket, key FROM versions WHERE digest = :digest LIMIT :limit")
_MARK = Prepared("UPDATE blobs SET damaged_ms = :now_ms WHERE digest = :digest")
_line = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload that the rows reach: BLAKE3-256, size in bytes, chunk sums."""

    digest: bytes
    size: int
    sums: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What the rows hold: the root digest in hex, counts, and the bytes of all payloads, each once."""

    root: str
    sequence: int
    commit_ms: int
    versions: int
    objects: int
    blobs: int
    bytes: int


class RowCopy:
    """A database file of our own, open; a context manager that closes it. Nothing in it is synced before `finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _translated(path):
            self._connection: Connection = sqlite.connect(path)
        try:
            with _translated(path):
                # Ours alone, so SQLite needs no file for sharing it.
                self._connection.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
                self._connection.execute("PRAGMA wal_autocheckpoint=0").fetchall()
                self._connection.execute("PRAGMA synchronous=OFF")
                self._connection.execute("PRAGMA cache_size=-16384")
                sqlite.heed_signals(self._connection)
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close the file. What nobody expects while it is open is raised as damage, if its rows are behind that."""
        wrong = self._wrong() if suspicions.may_be_behind(error) else None
        self._connection.close()
        if wrong is not None:
            raise DatabaseDamaged(f"{self.path}: the rows hold what no write stores: {wrong}") from error

    def _wrong(self) -> wrong_rows.Wrong | None:
        try:
            return value_rules.first(self._connection)
        except DriverError:
            return None  # closed by now

    def let_go(self, require_sound: Callable[[Callable[[], AbstractContextManager[Connection]]], None]) -> None:
        """Let go of the payloads that were kept for snapshots which have gone since, as the store's next gc would.

        Gc in the backup would do so, too, and the rows would no more be those of the manifest. `require_sound` is
        called with a view of the rows once there are any to let go of, and raises DatabaseDamaged where gc would not.
        """
        after: int | None = -1
        looked = False
        while after is not None:
            with self._translated():
                found, after = removals.to_release(self._connection, after)
            if found:
                if not looked:
                    require_sound(self._view)
                    looked = True
                with self._changing() as tx:
                    removals.release(tx, found)

    @contextmanager
    def _view(self) -> Iterator[Connection]:
        """The rows; nobody else changes them."""
        with self._translated():
            yield self._connection

    def become_a_store_of_its_own(self, notes: dict[str, object]) -> None:
        """Take out what belongs to the directory or to the processes that the rows come from, and keep `notes`.

        That is pins, gc's record, payloads that no version reaches, marks of damage, and every note: the port and the
        configured keys of a server, where a check goes on, when something last ran.
        """
        with self._changing() as tx:
            for statement in (_DROP_PINS, _DROP_RECORD, _DROP_UNREACHED, _DROP_LOOSE, _UNMARK, _DROP_NOTES):
                statement(tx)
            store_settings.store(tx, notes)

    def mark_damaged(self, digests: Sequence[bytes], now_ms: int) -> None:
        """Record that no good file stands under these digests."""
        with self._changing() as tx:
            for digest in digests:
                _MARK(tx, digest=digest, now_ms=now_ms)

    @property
    def format(self) -> int:
        """SQLite's user_version: which tables there are."""
        with self._translated():
            return int(self._connection.execute("PRAGMA user_version").fetchall()[0][0])

    def check(self) -> None:
        """SQLite's own check of the whole file, and of references; raises DatabaseDamaged."""
        with self._translated():
            found = self._connection.execute("PRAGMA integrity_check(1)").fetchall()[0][0]
            if found == "ok" and self._connection.execute("PRAGMA foreign_key_check").fetchall():
                found = "rows refer to what is not there"
        if found != "ok":
            raise DatabaseDamaged(f"the rows are damaged: {found}")

    def lost_digest(self) -> wrong_rows.Wrong | None:
        """The first row of an object that has lost its digest, and looks like a delete marker: it has no payload here.

        None for rows of earlier formats than know of removed versions; `check` tells, once they are upgraded.
        """
        if self.format < _SINCE["gone"]:
            return None
        with self._translated():
            return lost_digests.first(self._connection)

    def contents(self, revision: str = "") -> Contents:
        """Read every row once; see the module for the root digest.

        With `revision`, of an earlier format, the root is that from before the upgrade: lines of what later formats
        brought are left out. An upgrade changes nothing that the others are of.
        """
        hasher, counts = blake3(), dict.fromkeys(_LINES, 0)
        with self._translated():
            form = min(self.format, int(revision)) if revision else self.format
            for kind, statement in _LINES.items():
                if form < _SINCE.get(kind, 0):
                    continue
                for rows in _batches(self._connection, statement):
                    counts[kind] += sum(row[_GONE] is None for row in rows) if kind == "version" else len(rows)
                    hasher.update("".join(f"{_line((kind, *row))}\n" for row in rows).encode())
            sequence, commit_ms = history.last(self._connection)
            _, total = self.totals()
        return Contents(
            hasher.hexdigest(), sequence, commit_ms, counts["version"], counts["current"], counts["blob"], total
        )

    def totals(self) -> tuple[int, int]:
        """How many payloads there are, and their bytes."""
        with self._translated():
            count, total = _TOTALS(self._connection)[0]
        return int(count), int(total)

    def payloads(self) -> Generator[list[Payload], None, None]:
        """All payloads that are files, by digest, a few hundred at a time; to be closed before the copy is."""
        with self._translated():
            for rows in _batches(self._connection, _PAYLOADS):
                yield [Payload(*row) for row in rows]

    def damage_inside(self) -> list[Damage]:
        """What is wrong with payloads that are rows themselves."""
        found: list[Damage] = []
        with self._translated(), closing(self._connection.execute(_INLINED.sql)) as cursor:
            for digest, data in cursor:
                name = digest.hex()
                if data is None:
                    found.append(BlobMissing(f"payload {name} is missing", digest=name))
                elif blake3(data).digest() != digest:
                    found.append(DigestMismatch(f"payload {name} is damaged", digest=name))
        return found

    def reached_by(self, digest: bytes, limit: int) -> list[ObjectKey]:
        """Some of the objects that have versions with this payload."""
        with self._translated():
            return [
                ObjectKey(bucket, key.decode()) for bucket, key in _NAMES(self._connection, digest=digest, limit=limit)
            ]

    def finish(self) -> None:
        """Close the file and sync it, whole and without anything beside it."""
        with self._translated():
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            sync_file(fd)
        finally:
            os.close(fd)

    def _translated(self) -> AbstractContextManager[None]:
        return _translated(self.path, self._connection)

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")


class Vouchers:
    """The rows of the backup that a directory holds already: which of its payloads they vouch for.

    Without a database, or with one that cannot be relied on, nothing is vouched for.
    """

    def __init__(self, path: Path | None) -> None:
        self._connection: Connection | None = None
        if path is not None:
            with suppress(StoreError):
                self._connection = open_rows(path)

    def vouch(self, payload: Payload) -> bool:
        """Whether a row has this payload as a file, of this size and not marked as damaged."""
        if self._connection is None:
            return False
        try:
            return _VOUCHED(self._connection, digest=payload.digest) == [(payload.size,)]
        except DriverError:
            self.close()  # malformed: every file is looked into instead
            return False

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def take(source: Connection, target: Path, layout: Layout, writer_lock: WriterLock | None, tell: Tell) -> None:
    """Copy the rows that `source`, inside a read transaction, sees to the file `target`, owner-only, not synced.

    A file that is there is emptied, never absent: its name says that something is under way.
    `layout` and `writer_lock` are the source's; without the lock writers are never made to take turns. `tell` may
    raise to stop. Raises DiskFull and StorageFault naming the target.
    """
    begin(target)
    with _translated(target):
        destination: Connection = sqlite.connect(target)
    try:
        with _translated(target, destination), ExitStack() as turn:
            # Nobody reads the file before it is whole, and it is synced then.
            destination.execute("PRAGMA synchronous=OFF")
            destination.execute("PRAGMA journal_mode=OFF").fetchall()
            source.execute("SELECT seq FROM counter").fetchall()  # from here on the view stands

            def after_step(left: int, pages: int) -> None:
                tell(pages - left, pages)
                turn.close()
                if left and writer_lock is not None and _length(layout.wal) > PATIENT_BYTES:
                    turn.enter_context(writer_lock.held(WRITE_TIMEOUT))

            sqlite.copy(source, destination, pages=STEP_PAGES, progress=after_step)
    finally:
        destination.close()


def begin(database: Path) -> None:
    """Make the file, or empty it, and remove what SQLite kept beside it; nobody has it open. Raises OSError."""
    for path in Layout.beside(database):
        path.unlink(missing_ok=True)
    os.close(ownership.open_or_make(database, os.O_RDWR | os.O_TRUNC | os.O_NOFOLLOW, 0o600))


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _batches(connection: Connection, statement: Prepared) -> Generator[list[tuple[Any, ...]], None, None]:
    """All rows of a statement, never more than a few hundred in memory; the database is ours alone."""
    cursor = connection.execute(statement.sql)
    try:
        while rows := list(islice(cursor, 256)):
            yield rows
    finally:
        cursor.close()


@contextmanager
def _translated(path: Path, connection: Connection | None = None) -> Iterator[None]:
    """Say a driver error in the store's words, naming the file; `connection` is the one that writes it."""
    try:
        yield
    except DriverError as error:
        fault = sqlite.translate(error, connection)
        where = f"{path.parent} has no room for the rows" if isinstance(fault, DiskFull) else str(path)
        raise type(fault)(f"{where}: {fault}") from error
