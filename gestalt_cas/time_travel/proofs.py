"""Proofs: one digest of what a bucket holds, the same wherever the same is held.

A proof is the BLAKE3-256, in hex, of lines of text, each ended by a line feed:

    gestalt-cas proof 1 versions         or "current" in place of "versions"
    ["KEY","DIGEST",SIZE,HEADERS,METADATA]
    ...

There is a line for each version and delete marker, the keys in byte order and the versions of a key from the oldest to
the newest; with "current" one for each key that has an object, of that object. DIGEST is the payload's BLAKE3-256 in
hex, SIZE its bytes, HEADERS and METADATA are objects, the first with the names of `Headers` that have a value; a delete
marker is ["KEY",null,0,{},{}]. A line is JSON in ASCII without spaces, the names of objects in order.

What two stores need not share is not in it: the bucket's name, version ids, sequences and times, and where payloads
lie. The proof of a whole store is made of the lines "gestalt-cas proof 1 store versions" (or "current") and
["BUCKET","PROOF"] for each bucket with a line of its own, in byte order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from gestalt_cas.clock import instant
from gestalt_cas.errors import BeforeHorizon, VersionRemoved
from gestalt_cas.objects import Headers, ObjectVersion
from gestalt_cas.progress import Progress, silent
from gestalt_cas.rows import buckets, history, moments
from gestalt_cas.rows.moments import Moment
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.transactions.database import Database

_VIEW_ROWS = 1000
_ROWS = """
    SELECT key, seq, gone_seq, coalesce(digest, gone_digest), size, content_type, headers, metadata
    FROM versions WHERE bucket = ? AND (key, seq) > (?, ?) ORDER BY key, seq LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """The digest (hex) of what `bucket` ("": the store) held at `moment`, which was so many lines."""

    digest: str
    bucket: str
    moment: Moment
    lines: int


class _Sum:
    """The digest of lines."""

    def __init__(self, head: str) -> None:
        self.lines = 0
        self._hash = blake3(f"gestalt-cas proof 1 {head}\n".encode())

    def add(self, record: list[object]) -> None:
        text = json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
        self._hash.update(f"{text}\n".encode())
        self.lines += 1

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def of_bucket(
    database: Database, bucket: str, moment: Moment, *, current: bool = False, progress: Progress = silent
) -> Proof:
    """Prove the versions of a bucket (a real name) at a moment, or with `current` its objects then.

    Reads every row, in short views, while others write. Raises VersionRemoved when what a version was is not known any
    more since it was purged, and what `moments.resolve` raises. What a snapshot shows is known for ever with `current`
    only: it keeps no older versions. `progress` may raise to stop.
    """
    total = _Sum("current" if current else "versions")
    walk = _objects if current else _versions
    for record in walk(database, bucket, moment):
        if total.lines % _VIEW_ROWS == 0:
            progress(f"proving {bucket}", total.lines, 0)
        total.add(record)
    return Proof(total.digest, bucket, moment, total.lines)


def of_store(database: Database, moment: Moment, *, current: bool = False, progress: Progress = silent) -> Proof:
    """Prove every bucket; raises what `of_bucket` raises."""
    total = _Sum("store current" if current else "store versions")
    with database.read() as tx:
        names = buckets.ever(tx)
    for bucket in names:
        proof = of_bucket(database, bucket, moment, current=current, progress=progress)
        if proof.lines:
            total.add([bucket, proof.digest])
    return Proof(total.digest, "", moment, total.lines)


def _versions(database: Database, bucket: str, moment: Moment) -> Iterator[list[object]]:
    key, seq = b"", 0
    while True:
        with database.read() as tx:
            _require_every_version(tx, bucket, moment)
            rows = tx.execute(_ROWS, (bucket, key, seq, _VIEW_ROWS)).fetchall()
        yield from (_record(row, bucket, moment) for row in rows if _stood(row, moment.seq))
        if len(rows) < _VIEW_ROWS:
            return
        key, seq = rows[-1][:2]


def _stood(row: tuple[Any, ...], at: int) -> bool:
    _, seq, gone_seq, *_ = row
    return bool(seq <= at and (gone_seq is None or gone_seq > at))


def _record(row: tuple[Any, ...], bucket: str, moment: Moment) -> list[object]:
    key, _, _, digest, size, content_type, others, metadata = row
    if digest is None:
        return [key.decode(), None, 0, {}, {}]
    if not digest:
        raise _purged(f"{bucket}/{key.decode()}", moment)
    headers = json.loads(others) if others else {}
    if content_type:
        headers["content_type"] = content_type
    return [key.decode(), digest.hex(), size, headers, json.loads(metadata) if metadata else {}]


def _objects(database: Database, bucket: str, moment: Moment) -> Iterator[list[object]]:
    lower: bytes | None = b""
    while lower is not None:
        with database.read() as tx:
            moments.resolve(tx, moment, bucket, b"")
            stretch = history.walk(tx, bucket, lower, None, moment.seq, _VIEW_ROWS)
        yield from (_object(version, moment) for version in stretch.found if not version.delete_marker)
        lower = None if stretch.walked_to is None else stretch.walked_to + b"\0"


def _object(version: ObjectVersion, moment: Moment) -> list[object]:
    if not version.digest:
        raise _purged(str(version.key), moment)
    headers = {name: value for name in Headers._fields if (value := getattr(version.headers, name))}
    return [version.key.key, version.digest, version.size, headers, dict(version.metadata)]


def _require_every_version(tx: Connection, bucket: str, moment: Moment) -> None:
    moments.resolve(tx, moment, bucket, b"")
    known = history.horizon(tx, bucket)
    if moment.seq < known.seq:
        raise BeforeHorizon(
            f"{moment}: all versions of {bucket} are known from sequence {known.seq} ({instant(known.ms)}) on only; "
            "what was current then can be proved (--current)"
        )


def _purged(name: str, moment: Moment) -> VersionRemoved:
    return VersionRemoved(f"{name} had a version at {moment} that was purged since: nobody knows what it was")
