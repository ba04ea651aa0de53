"""Whether each row of versions is in every index that should have it, and each entry of the index by digest has a row.

Done where SQLite's own check is not, on a store of some size. Rows are compared in the view that they were read in, so
nothing changes in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.checks.row_rules import NULL_ID, VersionRow, named, shown
from gestalt_cas.sql.sqlite import Connection

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
_BATCH = 1000
"""Entries that one view looks at."""
_INDEX_ROWS = """
    SELECT digest, bucket, key, seq FROM versions INDEXED BY versions_by_digest
    WHERE digest IS NOT NULL AND (digest, bucket, key, seq) > (?, ?, ?, ?) ORDER BY digest, bucket, key, seq LIMIT ?
"""
_ROW_DIGEST = "SELECT digest FROM versions WHERE bucket = ? AND key = ? AND seq = ?"


def compare(run: Inspection, tx: Connection, rows: list[VersionRow]) -> None:
    """Report the rows of versions that are missing from an index; `tx` is the view that they were read in."""
    for row in rows:
        for name, sql, parameters in _entries(row):
            if not tx.execute(sql, parameters).fetchall():
                _missing(run, row, name)


def _missing(run: Inspection, row: VersionRow, name: str) -> None:
    run.report(
        Finding(
            "index",
            f"{shown(*row.name)}, version {row.id_text}: the row is missing from the index {name}",
            where=name,
            affected=(named(*row.name, row.id_text),),
            affected_total=1,
            remedy=run.repair_command(),
        )
    )


def _entries(row: VersionRow) -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """The indexes that must have an entry of a row: the name, and a statement that finds the entry."""
    bucket, key, seq = row.place
    digest, gone_seq = row.digest, row.gone_seq
    yield "versions_by_seq", _SEQ_INDEXED, (seq, bucket, key)
    if digest is not None:
        yield "versions_by_digest", _INDEXED, (digest, bucket, key, seq)
    if gone_seq is None:
        if row.version_id == NULL_ID:
            yield "versions_null", _NULL_INDEXED, (bucket, key)
        return
    yield "versions_gone", _GONE_INDEXED, (gone_seq, bucket, key, seq)
    if digest is not None:
        yield "versions_kept", _KEPT_INDEXED, (gone_seq, bucket, key, seq)


def check_index_rows(run: Inspection) -> None:
    """Whether each entry of the index by digest has its row; in short views, for when SQLite's check was given up."""
    place: tuple[bytes, str, bytes, int] = (b"", "", b"", 0)
    while True:
        with run.view() as tx:
            rows = tx.execute(_INDEX_ROWS, (*place, _BATCH)).fetchall()
            wrong = [row for row in rows if tx.execute(_ROW_DIGEST, row[1:]).fetchall() != [(row[0],)]]
        for _, bucket, key, seq in wrong:
            run.report(
                Finding(
                    "index",
                    f"{shown(bucket, key)}: versions_by_digest has an entry for sequence {seq} that no row has",
                    where="versions_by_digest",
                    affected=(named(bucket, key),),
                    affected_total=1,
                    remedy=run.repair_command(),
                )
            )
        if len(rows) < _BATCH:
            return
        place = rows[-1]
        run.progress("checking the index by digest", 0, 0)
        run.pace.batch_done()
