"""The rows of versions and current, in key order and in short views, judged by the rules that every write keeps.

One pass covers both tables: each view takes the next rows of versions, and the rows of current between the keys that
these complete, so neither can have a row that is passed over. On a live store rows change between two views; whatever
looks wrong is looked at again in a transaction of its own before it is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gestalt_cas import versions
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.payload_judging import judge_row
from gestalt_cas.checks.row_rules import NULL_ID, broken_rules, named, shown, version_id_of
from gestalt_cas.checks.schema_checks import unreadable
from gestalt_cas.errors import StoreError
from gestalt_cas.sqlite import Connection

BATCH = 1000
LAST = (1 << 63) - 1
_MOST_SKIPS = 100_000
UNTOUCHED = -1
Place = tuple[str, bytes, int]
"""Bucket, key and seq of a version; rows lie in this order."""
START: Place = ("", b"", UNTOUCHED)

_COLUMNS = """
    v.bucket, v.key, v.seq, CAST(v.version_id AS BLOB), v.digest, v.size, CAST(v.content_type AS BLOB),
    CAST(v.headers AS BLOB), CAST(v.metadata AS BLOB), v.commit_ms, v.gone_seq, v.gone_digest
"""
_AFTER = "WHERE (v.bucket, v.key, v.seq) > (?, ?, ?) ORDER BY v.bucket, v.key, v.seq LIMIT ?"
_ROWS = f"""
    SELECT {_COLUMNS}, b.size, b.digest IS NOT NULL
    FROM versions AS v LEFT JOIN blobs AS b ON b.digest = v.digest {_AFTER}
"""
_ROWS_ALONE = f"SELECT {_COLUMNS}, v.size, 1 FROM versions AS v {_AFTER}"
_POINTERS = """
    SELECT bucket, key, seq FROM current WHERE (bucket, key) > (?, ?) AND (bucket, key) <= (?, ?)
    ORDER BY bucket, key LIMIT ?
"""
_POINTERS_REST = "SELECT bucket, key, seq FROM current WHERE (bucket, key) > (?, ?) ORDER BY bucket, key LIMIT ?"
COUNTER = "SELECT seq, commit_ms FROM counter"
_SKIP = "SELECT bucket, key FROM current WHERE (bucket, key) > (?, ?) ORDER BY bucket, key LIMIT 1 OFFSET ?"
_INDEXED = (
    "SELECT 1 FROM versions INDEXED BY versions_by_digest WHERE digest = ? AND bucket = ? AND key = ? AND seq = ?"
)
_NULL_INDEXED = """
    SELECT 1 FROM versions INDEXED BY versions_null
    WHERE bucket = ? AND key = ? AND version_id = 'null' AND gone_seq IS NULL
"""
_SEQ_INDEXED = "SELECT 1 FROM versions INDEXED BY versions_by_seq WHERE seq = ? AND bucket = ? AND key = ?"
_GONE_INDEXED = (
    "SELECT 1 FROM versions INDEXED BY versions_gone WHERE gone_seq = ? AND bucket = ? AND key = ? AND seq = ?"
)
_KEPT_INDEXED = """
    SELECT 1 FROM versions INDEXED BY versions_kept
    WHERE gone_seq = ? AND digest IS NOT NULL AND bucket = ? AND key = ? AND seq = ?
"""


@dataclass
class KeyState:
    """What was seen of the key whose versions are being passed."""

    name: tuple[str, bytes]
    newest: int = 0
    is_object: bool = False
    nulls: int = 0


@dataclass
class Batch:
    """The rows of one view, and what follows from them."""

    rows: list[tuple[Any, ...]]
    complete: bool
    """Whether the last row is the last of its key."""
    at_end: bool
    counter: tuple[int, int]
    pointers: list[tuple[str, bytes, int]] | None = None


class RowPass:
    """The pass over versions and current. `indexes` has each row compared with the indexes as well."""

    def __init__(self, run: Inspection, *, indexes: bool) -> None:
        self._run = run
        self._indexes = indexes
        self._judged: set[bytes] = set()
        self._state: KeyState | None = None
        self._settled: tuple[str, bytes] = ("", b"")

    def batches(self, place: Place) -> Iterator[Place]:
        """Pass all rows after `place`; yields where it stands after each batch: what a later run can go on from."""
        self._settled = place[:2]
        while True:
            try:
                batch = self._take(place, BATCH)
            except StoreError as error:
                if not broken(error):
                    raise
                skipped = self._skip(place, error)
                if skipped is None:
                    return
                place = skipped
                continue
            self._judge(batch)
            if batch.at_end:
                return
            place = batch.rows[-1][:3]
            yield (*self._settled, LAST)
            self._run.progress("checking rows", self._run.tally.versions, 0)
            self._run.pace.batch_done()

    # ---- reading ----

    def _take(self, place: Place, limit: int) -> Batch:
        """The next rows; without what belongs to them in other tables, where it is those that cannot be read."""
        while True:
            try:
                return self._look(place, limit)
            except StoreError as error:
                if not broken(error) or not self._lost_part(place, limit, error):
                    raise

    def _look(self, place: Place, limit: int) -> Batch:
        with self._run.view() as tx:
            rows = self._rows(tx, place, limit + 1)
            at_end = len(rows) <= limit
            complete = at_end or rows[limit][:2] != rows[limit - 1][:2]
            batch = Batch(rows[:limit], complete, at_end, self._counter(tx))
            if "current" not in self._run.lost:
                batch.pointers = self._pointers(tx, batch)
            if self._indexes:
                self._compare_indexes(tx, batch.rows)
        return batch

    def _rows(self, tx: Connection, place: Place, limit: int) -> list[tuple[Any, ...]]:
        sql = _ROWS_ALONE if "blobs" in self._run.lost else _ROWS
        return tx.execute(sql, (*place, limit)).fetchall()

    def _counter(self, tx: Connection) -> tuple[int, int]:
        """The last sequence and commit time given out; beyond all others when they cannot be read."""
        if "counter" in self._run.lost:
            return LAST, LAST
        seq, commit_ms = tx.execute(COUNTER).fetchall()[0]
        return int(seq), int(commit_ms)

    def _lost_part(self, place: Place, limit: int, error: StoreError) -> bool:
        """Find the table beside versions that cannot be read, to go on without it; False when there is none."""
        lost = self._run.lost
        if "counter" not in lost and not self._readable(self._counter):
            return self._lose("counter", "the counter", error)
        if self._readable(lambda tx: self._rows(tx, place, limit + 1)):
            if "current" not in lost:
                return self._lose("current", f"the rows of current after {shown(*self._settled)}", error)
        elif "blobs" not in lost and self._readable(lambda tx: tx.execute(_ROWS_ALONE, (*place, limit + 1)).fetchall()):
            return self._lose("blobs", "rows of blobs that versions need", error)
        return False

    def _readable(self, question: Callable[[Connection], object]) -> bool:
        try:
            with self._run.view() as tx:
                question(tx)
        except StoreError as error:
            if not broken(error):
                raise
            return False
        except LookupError:
            return False
        return True

    def _lose(self, table: str, what: str, error: StoreError) -> bool:
        self._run.lost.add(table)
        text = f"{what} cannot be read: {error}"
        self._run.report(Finding("database", text, where=table, remedy=self._run.restore_command()))
        return True

    def _pointers(self, tx: Connection, batch: Batch) -> list[tuple[str, bytes, int]]:
        """The rows of current after the last key that was settled, up to the last one that this batch completes."""
        if batch.at_end:
            return tx.execute(_POINTERS_REST, (*self._settled, LAST)).fetchall()
        last = batch.rows[-1][:2]
        bound = last if batch.complete else max((row[:2] for row in batch.rows if row[:2] < last), default=None)
        if bound is None:
            return []
        return tx.execute(_POINTERS, (*self._settled, *bound, LAST)).fetchall()

    def _skip(self, place: Place, error: StoreError) -> Place | None:
        """Report the rows that cannot be read; returns where rows can be read again, None when nowhere."""
        place = self._closest(place)
        self._run.lost.add("versions")
        name = self._readable_after(place)
        after = f" after {shown(*place[:2])}" if place[1] else ""
        until = f" and before {shown(*name)}" if name else ""
        self._run.report(
            Finding(
                "database",
                f"the rows of versions{after}{until} cannot be read: {error}",
                where="versions",
                affected=(named(*place[:2]),) if place[1] else (),
                remedy=self._run.restore_command(),
            )
        )
        self._state = None
        if name is None:
            return None
        self._settled = name
        return (*name, UNTOUCHED)

    def _closest(self, place: Place) -> Place:
        """Read on in ever smaller batches, up to the last row before what cannot be read."""
        limit = BATCH
        while limit:
            try:
                batch = self._take(place, limit)
            except StoreError as error:
                if not broken(error):
                    raise
                limit //= 2
            else:
                self._judge(batch)
                if batch.at_end:
                    break
                place = batch.rows[-1][:3]
        return place

    def _readable_after(self, place: Place) -> tuple[str, bytes] | None:
        """The next key whose rows can be read, by way of current, in steps that grow."""
        step = 0
        while step < _MOST_SKIPS:
            try:
                with self._run.view() as tx:
                    found = tx.execute(_SKIP, (*place[:2], step)).fetchall()
                    if not found:
                        return None
                    name: tuple[str, bytes] = found[0]
                    self._rows(tx, (*name, UNTOUCHED), 2)
            except StoreError as error:
                if not broken(error):
                    raise
                step = 2 * step + 1
            else:
                return name
        return None

    # ---- judging ----

    def _judge(self, batch: Batch) -> None:
        expected: dict[tuple[str, bytes], int] = {}
        for row in batch.rows:
            self._run.tally.versions += row[10] is None
            self._enter(row, expected)
            self._judge_row(row, batch.counter)
        if batch.complete:
            self._settle(expected)
            if batch.rows:
                self._settled = batch.rows[-1][:2]
        elif self._state is not None:
            before = [row[:2] for row in batch.rows if row[:2] != self._state.name]
            self._settled = before[-1] if before else self._settled
        if batch.pointers is None:
            return
        found = {(bucket, key): seq for bucket, key, seq in batch.pointers}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                try:
                    self._check_pointer(name)
                except StoreError as error:
                    if not broken(error):
                        raise
                    self._run.report(unreadable(self._run, f"what current and versions have of {shown(*name)}", error))

    def _enter(self, row: tuple[Any, ...], expected: dict[tuple[str, bytes], int]) -> None:
        """Follow the key that the row belongs to."""
        name = row[:2]
        if self._state is None or self._state.name != name:
            self._settle(expected)
            self._state = KeyState(name)
        if row[10] is None:
            self._state.newest, self._state.is_object = row[2], row[4] is not None
            self._state.nulls += row[3] == NULL_ID

    def _settle(self, expected: dict[tuple[str, bytes], int]) -> None:
        state, self._state = self._state, None
        if state is None:
            return
        if state.is_object:
            expected[state.name] = state.newest
        if state.nulls > 1:
            self._row(state.name, "", f"the key has {state.nulls} null versions", "one at most", str(state.nulls))

    def _judge_row(self, row: tuple[Any, ...], counter: tuple[int, int]) -> None:
        name, digest = row[:2], row[4]
        rules = list(broken_rules(row))
        for message in rules:
            self._row(name, version_id_of(row), message, "", "")
        if rules:
            return
        if max(row[2], row[10] or 0) > counter[0] or row[9] > counter[1]:
            self._sequence(name, row, counter)
        if digest is None or digest in self._judged:
            return
        if not row[13] or row[12] != row[5]:
            self._judged.add(digest)
            judge_row(self._run, digest)

    def _row(self, name: tuple[str, bytes], version_id: str, message: str, expected: str, found: str) -> None:
        affected = named(*name, version_id)
        with self._run.view() as tx:
            count = tx.execute("SELECT count(*) FROM versions WHERE bucket = ? AND key = ?", name).fetchall()[0][0]
        if not count:
            return
        self._run.report(
            Finding(
                "row",
                f"{shown(*name)}{', version ' + version_id if version_id else ''}: {message}",
                where="versions",
                expected=expected,
                found=found,
                affected=(affected,),
                affected_total=1,
                remedy=self._run.restore_command(),
            )
        )

    def _sequence(self, name: tuple[str, bytes], row: tuple[Any, ...], counter: tuple[int, int]) -> None:
        seq = max(row[2], row[10] or 0)
        self._run.report(
            Finding(
                "sequence",
                f"{shown(*name)}, version {version_id_of(row)}: sequence {seq} and commit time {row[9]} are beyond "
                f"the counter's {counter[0]} and {counter[1]}",
                where="counter",
                expected=f"at most {counter[0]}, {counter[1]}",
                found=f"{seq}, {row[9]}",
                affected=(named(*name, version_id_of(row)),),
                affected_total=1,
                remedy=self._run.restore_command(),
            )
        )

    def _check_pointer(self, name: tuple[str, bytes]) -> None:
        """Compare current with the newest version once more; repair it where that is asked for."""
        with self._run.view() as tx:
            wanted, found = versions.pointer(tx, *name)
        if wanted == found:
            return
        finding = Finding(
            "current",
            f"{shown(*name)}: current names {_version_text(found)}, the newest object is {_version_text(wanted)}",
            where="current",
            expected="" if wanted is None else str(wanted),
            found="" if found is None else str(found),
            affected=(named(*name),),
            affected_total=1,
            remedy=self._run.repair_command(),
        )
        if self._run.options.repair:
            with self._run.parts.database.write() as tx:
                versions.repoint(tx, *name)
            finding = finding.mended("rebuilt the row from the versions")
        self._run.report(finding)

    def _compare_indexes(self, tx: Connection, rows: list[tuple[Any, ...]]) -> None:
        """Whether each row is in its indexes; in the same view, so nothing changes in between."""
        for row in rows:
            for name, sql, parameters in _entries(row):
                if not tx.execute(sql, parameters).fetchall():
                    self._index(row, name)

    def _index(self, row: tuple[Any, ...], name: str) -> None:
        self._run.report(
            Finding(
                "index",
                f"{shown(*row[:2])}, version {version_id_of(row)}: the row is missing from the index {name}",
                where=name,
                affected=(named(row[0], row[1], version_id_of(row)),),
                affected_total=1,
                remedy=self._run.repair_command(),
            )
        )


def _entries(row: tuple[Any, ...]) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """The indexes that must have an entry of a row: the name, and a statement that finds the entry."""
    bucket, key, seq, version_id, digest = row[:5]
    gone_seq = row[10]
    yield "versions_by_seq", _SEQ_INDEXED, (seq, bucket, key)
    if digest is not None:
        yield "versions_by_digest", _INDEXED, (digest, bucket, key, seq)
    if gone_seq is None:
        if version_id == NULL_ID:
            yield "versions_null", _NULL_INDEXED, (bucket, key)
        return
    yield "versions_gone", _GONE_INDEXED, (gone_seq, bucket, key, seq)
    if digest is not None:
        yield "versions_kept", _KEPT_INDEXED, (gone_seq, bucket, key, seq)


def _version_text(seq: int | None) -> str:
    return "nothing" if seq is None else f"sequence {seq}"
