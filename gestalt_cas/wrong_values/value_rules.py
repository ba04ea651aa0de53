"""Which values a write stores, by table and column, and the rows that hold others.

SQLite keeps whatever it is given: text in a column of numbers, NULL where a bit of a record's header has flipped, JSON
that ends in the midst. Nothing that serves a call looks for that, since every write has looked before it stored. This
says, for each table of `tables.py`, what a write stores: types and ranges as SQL, asked of a stretch of rows at once.
What the texts of the tables that stay small have to be is said by `text_rules.py`, what a row of versions has to be
beyond its types by `checks/row_rules.py`. A stretch is one short question, so whoever asks holds no view for long.

`check` reports what is found here, `checks/culprits.py` names it when a call fails at it, and `soundness.py` keeps
upkeep from removing anything while such a row stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gestalt_cas.objects import MAX_KEY_BYTES
from gestalt_cas.rows import version_ids
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.wrong_values.text_rules import JUDGES, LAST_MOMENT_MS, Judge, Refused
from gestalt_cas.wrong_values.wrong_rows import Wrong, describe, named, readable

STRETCH_ROWS = 5_000
"""Rows that one look passes: some milliseconds."""
_LONG = ("data", "sums")
"""Columns whose values are not read: what type they have stands in the row's header."""

Place = tuple[tuple[str, Any], ...]
"""Where a look ended: type and value of each column of the primary key, texts as bytes."""
START: Place = ()


@dataclass(frozen=True, slots=True)
class Form:
    """What a column holds: SQL that is true of it, with {0} for the column, and the same in words."""

    sql: str
    what: str


def _whole(least: int, most: int | None = None, what: str = "") -> Form:
    upper = f" AND {{0}} <= {most}" if most is not None else ""
    return Form(f"typeof({{0}}) = 'integer' AND {{0}} >= {least}{upper}", what or f"a whole number from {least} on")


def _or_null(form: Form) -> Form:
    return Form(f"{{0}} IS NULL OR ({form.sql})", f"{form.what}, or NULL")


_TEXT = Form("typeof({0}) = 'text'", "a text")
_BYTES = Form("typeof({0}) = 'blob'", "a BLOB")
_DIGEST = Form("typeof({0}) = 'blob' AND length({0}) = 32", "a digest of 32 bytes")
_KEY = Form(f"typeof({{0}}) = 'blob' AND length({{0}}) <= {MAX_KEY_BYTES}", f"a BLOB of at most {MAX_KEY_BYTES} bytes")
_COUNT, _ID = _whole(0), _whole(1)
_SEQ, _SEQ_OR_NONE = (_whole(least, version_ids.LAST_SEQUENCE, "a sequence") for least in (1, 0))
_WHOLE = Form("typeof({0}) = 'integer'", "a whole number")
_MOMENT = _whole(0, LAST_MOMENT_MS, "a time in Unix milliseconds")

FORMS: dict[str, dict[str, Form]] = {
    "counter": {"id": Form("{0} = 1", "1"), "seq": _SEQ_OR_NONE, "commit_ms": _MOMENT},
    "settings": {"name": _TEXT, "value": _TEXT},
    "pins": {
        "name": _TEXT,
        "kind": _TEXT,
        "created_ms": _MOMENT,
        "heartbeat_ms": _or_null(_MOMENT),
        "detail": _or_null(_TEXT),
    },
    "quotas": {"bucket": _TEXT, "prefix": _KEY, "max_bytes": _COUNT, "used_bytes": _WHOLE},
    "horizons": {"bucket": _TEXT, "seq": _SEQ_OR_NONE, "ms": _MOMENT},
    "snapshots": {"name": _TEXT, "bucket": _TEXT, "prefix": _KEY, "seq": _SEQ_OR_NONE, "created_ms": _MOMENT},
    "holds": {"bucket": _TEXT, "version_id": _TEXT, "prefix": _KEY, "created_ms": _MOMENT},
    "current": {"bucket": _TEXT, "key": _BYTES, "seq": _WHOLE},
    "versions": {
        "bucket": _TEXT,
        "key": _BYTES,
        "seq": _SEQ,
        "version_id": _TEXT,
        "digest": _or_null(_BYTES),
        "size": _COUNT,
        "content_type": _TEXT,
        "headers": _or_null(_TEXT),
        "metadata": _or_null(_TEXT),
        "commit_ms": _MOMENT,
        "gone_seq": _or_null(_SEQ),
        "gone_ms": _or_null(_MOMENT),
        "gone_digest": _or_null(_BYTES),
    },
    "blobs": {
        "digest": _DIGEST,
        "size": _COUNT,
        "place": _COUNT,
        "sums": _BYTES,
        "damaged_ms": _or_null(_WHOLE),
    },
    "unreachable": {"digest": _DIGEST, "size": _COUNT, "since_ms": _MOMENT},
    "inlined": {"id": _ID, "data": _BYTES},
}
"""Every column of `tables.py`; a test compares the two. The small tables first, which tell most and cost nothing."""

KEYS: dict[str, tuple[str, ...]] = {
    "counter": ("id",),
    "settings": ("name",),
    "pins": ("name",),
    "quotas": ("bucket", "prefix"),
    "horizons": ("bucket",),
    "snapshots": ("name",),
    "holds": ("bucket", "version_id", "prefix"),
    "current": ("bucket", "key"),
    "versions": ("bucket", "key", "seq"),
    "blobs": ("digest",),
    "unreachable": ("digest",),
    "inlined": ("id",),
}
"""The primary keys, in whose order rows are passed."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a stretch of a table held, and where the next one begins; None: there is none."""

    wrong: list[Wrong]
    place: Place | None


def look(
    connection: Connection,
    table: str,
    place: Place = START,
    *,
    columns: Sequence[str] = (),
    rows: int = STRETCH_ROWS,
) -> Look:
    """Judge the next rows of a table after `place`; of these `columns` alone when some are named."""
    chosen = tuple(columns) or tuple(FORMS[table])
    bound, values = _after(table, place)
    judged = connection.execute(_judging(table, chosen, bound), (*values, rows)).fetchall()
    wrong = [_wrong(table, row) for row in judged]
    judge = JUDGES.get(table)
    if judge is not None and not columns:
        wrong += _judged(connection, table, judge, bound, values, rows)
    if table == "counter" and place == START and not connection.execute("SELECT 1 FROM counter").fetchall():
        wrong.append(Wrong(table, "", "seq", "is missing: the table has no row"))
    last = connection.execute(_last(table, bound), (*values, rows - 1)).fetchall()
    following = _place(table, last[0]) if last else None
    return Look(wrong, None if following == place else following)


def first(connection: Connection) -> Wrong | None:
    """The first wrong row of a database that is ours alone; a table that it has not, or cannot be read, is passed."""
    for table in FORMS:
        place: Place | None = START
        while place is not None:
            try:
                found = look(connection, table, place)
            except DriverError:
                break
            if found.wrong:
                return found.wrong[0]
            place = found.place
    return None


def is_fine(table: str, prefix: str = "") -> str:
    """SQL, of a row: whether every column has a type and a range that a write stores; `prefix` names the table."""
    return " AND ".join(f"({form.sql.format(prefix + name)}) IS TRUE" for name, form in FORMS[table].items())


@cache
def _judging(table: str, columns: tuple[str, ...], bound: str) -> str:
    forms = FORMS[table]
    cases = " ".join(f"WHEN ({forms[name].sql.format(name)}) IS NOT TRUE THEN '{name}'" for name in columns)
    light = [name for name in columns if name not in _LONG]
    values = " ".join(f"WHEN '{name}' THEN {_raw(name)}" for name in light)
    types = " ".join(f"WHEN '{name}' THEN typeof({name})" for name in light)
    every = ", ".join(dict.fromkeys((*KEYS[table], *light)))
    keys = ", ".join(_raw(name) for name in KEYS[table])
    return f"""
        SELECT wrong, CASE wrong {types} END, CASE wrong {values} END, {keys} FROM (
            SELECT {every}, CASE {cases} END AS wrong FROM {table} {bound} ORDER BY {", ".join(KEYS[table])} LIMIT ?
        ) WHERE wrong IS NOT NULL
    """


@cache
def _last(table: str, bound: str) -> str:
    columns = ", ".join(f"typeof({name}), {_raw(name)}" for name in KEYS[table])
    return f"SELECT {columns} FROM {table} {bound} ORDER BY {', '.join(KEYS[table])} LIMIT 1 OFFSET ?"


def _raw(column: str) -> str:
    """A text as bytes: the driver would refuse one that is no UTF-8."""
    return f"CASE typeof({column}) WHEN 'text' THEN CAST({column} AS BLOB) ELSE {column} END"


def _after(table: str, place: Place) -> tuple[str, list[Any]]:
    """The rows after a place, whatever types its values have; those that are alike as far as a NULL are left out."""
    if not place:
        return "", []
    names: list[str] = []
    marks: list[str] = []
    values: list[Any] = []
    for name, (kind, value) in zip(KEYS[table], place, strict=True):
        names.append(name)
        if kind == "null":
            marks.append("-9e999")  # below everything that is not NULL; a second row with a NULL here adds nothing
            return f"WHERE ({', '.join(names)}) >= ({', '.join(marks)})", values
        marks.append("CAST(? AS TEXT)" if kind == "text" else "?")
        values.append(value)
    return f"WHERE ({', '.join(names)}) > ({', '.join(marks)})", values


def _place(table: str, row: Sequence[Any]) -> Place:
    return tuple((row[2 * index], row[2 * index + 1]) for index in range(len(KEYS[table])))


def _wrong(table: str, row: Sequence[Any]) -> Wrong:
    column, kind, value = row[:3]
    held = f"{describe(readable(value) if kind == 'text' and isinstance(value, bytes) else value)} ({kind})"
    if column in _LONG:
        held = "something else"
    why = f"holds {held}, which is not {FORMS[table][column].what}"
    return Wrong(table, named(table, row[3:]), column, why, tuple(row[3:]))


def _judged(
    connection: Connection, table: str, judge: Judge, bound: str, values: Sequence[Any], rows: int
) -> list[Wrong]:
    """What is wrong with rows whose types are right."""
    names = tuple(FORMS[table])
    columns = ", ".join(_raw(name) for name in names)
    inner = f"SELECT * FROM {table} {bound} ORDER BY {', '.join(KEYS[table])} LIMIT ?"
    sql = f"SELECT {columns} FROM ({inner}) WHERE {is_fine(table)}"
    found: list[Wrong] = []
    for row in connection.execute(sql, (*values, rows)).fetchall():
        held = dict(zip(names, row, strict=True))
        try:
            judge(held)
        except Refused as refused:
            found.append(Wrong(table, named(table, [held[name] for name in KEYS[table]]), *refused.args))
    return found
