"""The rows of versions and current, read in key order and in short views, around whatever cannot be read.

Each view takes the next rows of versions, and the rows of current between the keys that these complete, so neither can
have a row that is passed over. Where a page is broken, what lies beside versions is done without, and named as lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gestalt_cas.checks import index_checks
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.row_rules import Name, Place, VersionRow, shown
from gestalt_cas.errors import StoreError
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.wrong_values import lost_digests, value_rules

BATCH = 1000
LAST = (1 << 63) - 1
_MOST_SKIPS = 100_000
UNTOUCHED = -1
START: Place = ("", b"", UNTOUCHED)

_COLUMNS = f"""
    v.bucket, v.key, v.seq, CAST(v.version_id AS BLOB), v.digest, v.size, CAST(v.content_type AS BLOB),
    CAST(v.headers AS BLOB), CAST(v.metadata AS BLOB), v.commit_ms, v.gone_seq, v.gone_digest, v.gone_ms,
    {lost_digests.no_marker("v", of_itself=True)}, {value_rules.is_fine("versions", "v.")}
"""
"""Those of a VersionRow but for what `blobs` says of the payload."""
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
RAW_ROWS = f"""
    SELECT {_COLUMNS.replace("v.bucket", "CAST(v.bucket AS BLOB)", 1)}, v.size, 1, current.seq
    FROM versions AS v LEFT JOIN current ON current.bucket = v.bucket AND current.key = v.key
    WHERE (v.bucket, v.key, v.seq) > (CAST(? AS TEXT), ?, ?) ORDER BY v.bucket, v.key, v.seq LIMIT ?
"""
"""The same with the bucket as bytes too, and what `current` has of the key, for rows whose types are right."""
_SKIP = "SELECT bucket, key FROM current WHERE (bucket, key) > (?, ?) ORDER BY bucket, key LIMIT 1 OFFSET ?"


@dataclass
class Batch:
    """The rows of one view, and what follows from them."""

    rows: list[VersionRow]
    complete: bool
    """Whether the last row is the last of its key."""
    at_end: bool
    counter: tuple[int, int]
    pointers: list[tuple[str, bytes, int]] | None = None


class RowReader:
    """Reads for one pass. `indexes` has each row compared with the indexes as well."""

    def __init__(self, run: Inspection, *, indexes: bool) -> None:
        self._run = run
        self._indexes = indexes

    def take(self, place: Place, settled: Name, limit: int) -> Batch:
        """The next rows, at most `limit` of versions after `place`, and those of current after the key `settled`.

        Without what belongs to them in other tables, where it is those that cannot be read. Raises what is `broken`
        when versions itself cannot be read there.
        """
        while True:
            try:
                return self._look(place, settled, limit)
            except StoreError as error:
                if not broken(error) or not self._lost_part(place, settled, limit, error):
                    raise

    def readable_after(self, place: Place) -> Name | None:
        """The next key whose rows can be read, by way of current, in steps that grow."""
        step = 0
        while step < _MOST_SKIPS:
            try:
                with self._run.view() as tx:
                    found = tx.execute(_SKIP, (*place[:2], step)).fetchall()
                    if not found:
                        return None
                    name: Name = found[0]
                    self._rows(tx, (*name, UNTOUCHED), 2)
            except StoreError as error:
                if not broken(error):
                    raise
                step = 2 * step + 1
            else:
                return name
        return None

    def _look(self, place: Place, settled: Name, limit: int) -> Batch:
        with self._run.view() as tx:
            rows = self._rows(tx, place, limit + 1)
            at_end = len(rows) <= limit
            complete = at_end or rows[limit].name != rows[limit - 1].name
            batch = Batch(rows[:limit], complete, at_end, self._counter(tx))
            if "current" not in self._run.lost:
                batch.pointers = self._pointers(tx, settled, batch)
            if self._indexes:
                index_checks.compare(self._run, tx, batch.rows)
        return batch

    def _rows(self, tx: Connection, place: Place, limit: int) -> list[VersionRow]:
        sql = _ROWS_ALONE if "blobs" in self._run.lost else _ROWS
        return [VersionRow._make(row) for row in tx.execute(sql, (*place, limit)).fetchall()]

    def _counter(self, tx: Connection) -> tuple[int, int]:
        """The last sequence and commit time given out; beyond all others when they cannot be read."""
        if "counter" in self._run.lost:
            return LAST, LAST
        seq, commit_ms = tx.execute(COUNTER).fetchall()[0]
        if isinstance(seq, int) and isinstance(commit_ms, int):
            return seq, commit_ms
        return LAST, LAST  # `value_checks` reports it

    def _lost_part(self, place: Place, settled: Name, limit: int, error: StoreError) -> bool:
        """Find the table beside versions that cannot be read, to go on without it; False when there is none."""
        lost = self._run.lost
        if "counter" not in lost and not self._readable(self._counter):
            return self._lose("counter", "the counter", error)
        if self._readable(lambda tx: self._rows(tx, place, limit + 1)):
            if "current" not in lost:
                return self._lose("current", f"the rows of current after {shown(*settled)}", error)
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

    def _pointers(self, tx: Connection, settled: Name, batch: Batch) -> list[tuple[str, bytes, int]]:
        """The rows of current after the key `settled`, up to the last one that this batch completes."""
        if batch.at_end:
            return tx.execute(_POINTERS_REST, (*settled, LAST)).fetchall()
        last = batch.rows[-1].name
        bound = last if batch.complete else next((row.name for row in reversed(batch.rows) if row.name != last), None)
        if bound is None:
            return []
        return tx.execute(_POINTERS, (*settled, *bound, LAST)).fetchall()
