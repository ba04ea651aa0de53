"""Which values a write stores, by table and column, and the rows that hold others.

SQLite keeps whatever it is given: text in a column of numbers, NULL where a bit of a record's header has flipped, JSON
that ends in the midst. Nothing that serves a call looks for that, since every write has looked before it stored. This
says, for each table of `tables.py`, what a write stores: types and ranges as SQL, asked of a stretch of rows at once,
and of the tables that stay small also what their texts have to be. What a row of versions has to be beyond that is said
by `checks/row_rules.py`. A stretch is one short question, so whoever asks holds no view for long.

`check` reports what is found here, `checks/culprits.py` names it when a call fails at it, and `soundness.py` keeps
upkeep from removing anything while such a row stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from gestalt_cas import exhaustion, retention, settings, snapshots, sqlite, version_ids
from gestalt_cas.errors import DatabaseDamaged, InvalidArgument, StoreError
from gestalt_cas.objects import MAX_KEY_BYTES, NULL_VERSION, check_bucket
from gestalt_cas.sqlite import Connection, DriverError

LAST_MOMENT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: what can be told as a date."""
STRETCH_ROWS = 5_000
"""Rows that one look passes: some milliseconds."""
_SHOWN = 60
_LONG = ("data", "sums")
"""Columns whose values are not read: what type they have stands in the row's header."""

Place = tuple[tuple[str, Any], ...]
"""Where a look ended: type and value of each column of the primary key, texts as bytes."""
START: Place = ()


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row that no write stores. `row` names it as people do; `column` is the first one that is wrong.

    `key` is its primary key, texts as bytes.
    """

    table: str
    row: str
    column: str
    why: str
    key: tuple[Any, ...] = ()

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        return f"{self.table}{row}: {self.column} {self.why}"


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
    judge = _JUDGES.get(table)
    if judge is not None and not columns:
        wrong += _judged(connection, table, judge, bound, values, rows)
    if table == "counter" and place == START and not connection.execute("SELECT 1 FROM counter").fetchall():
        wrong.append(Wrong(table, "", "seq", "is missing: the table has no row"))
    last = connection.execute(_last(table, bound), (*values, rows - 1)).fetchall()
    following = _place(table, last[0]) if last else None
    return Look(wrong, None if following == place else following)


def may_be_behind(error: BaseException | None) -> bool:
    """Whether damaged rows may be what an exception comes of.

    Not of one that is in words, but where those only repeat what SQLite or Python says of a value; not of one of the
    system or for want of memory.
    """
    if isinstance(error, StoreError):
        cause = error.__cause__
        if sqlite.comes_of_values(cause):
            return True
        return isinstance(error, DatabaseDamaged) and not isinstance(cause, DriverError) and may_be_behind(cause)
    return isinstance(error, Exception) and not (isinstance(error, OSError) or exhaustion.is_exhaustion(error))


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


_NO_MARKER = {
    "size": "its size is not 0",
    "content_type": "it has a content type",
    "headers": "it has headers",
    "metadata": "it has metadata",
    "current": "`current` names it as its key's object",
}
"""What no delete marker has, and no row of `current` says of one; in the order of `no_marker`."""


def no_marker(row: str) -> str:
    """SQL, of a row of versions without a digest: what of `_NO_MARKER` tells that it is no delete marker, or NULL.

    A digest that has become NULL makes a marker of an object, which then seems to need no payload. That of an empty
    object of which none of this is known cannot be told.
    """
    return f"""
        CASE WHEN {row}.digest IS NOT NULL OR {row}.gone_digest IS NOT NULL THEN NULL
        WHEN {row}.size <> 0 THEN 'size' WHEN {row}.content_type <> '' THEN 'content_type'
        WHEN {row}.headers IS NOT NULL THEN 'headers' WHEN {row}.metadata IS NOT NULL THEN 'metadata'
        WHEN EXISTS (
            SELECT 1 FROM current
            WHERE current.bucket = {row}.bucket AND current.key = {row}.key AND current.seq = {row}.seq
        ) THEN 'current' END
    """


def lost_digest(by: str) -> str:
    """Why the digest of a row is wrong that `no_marker` has told by this."""
    return f"holds NULL, as only a delete marker's does, but {_NO_MARKER[by]}"


def first_lost_digest(connection: Connection) -> Wrong | None:
    """The first row of versions whose digest has become NULL, as far as that can be told; reads all rows at once."""
    found = connection.execute(_LOST_DIGEST).fetchall()
    if not found:
        return None
    *key, by = found[0]
    return Wrong("versions", named("versions", key), "digest", lost_digest(by), tuple(key))


_LOST_DIGEST = f"""
    SELECT CAST(bucket AS BLOB), key, seq, {no_marker("versions")} AS lost FROM versions
    WHERE digest IS NULL AND lost IS NOT NULL LIMIT 1
"""


def is_fine(table: str, prefix: str = "") -> str:
    """SQL, of a row: whether every column has a type and a range that a write stores; `prefix` names the table."""
    return " AND ".join(f"({form.sql.format(prefix + name)}) IS TRUE" for name, form in FORMS[table].items())


def describe(value: object) -> str:
    """A value for a message: what it is, cut short."""
    if value is None:
        return "NULL"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


# ---- the questions ----


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
    held = f"{describe(_text(value) if kind == 'text' and isinstance(value, bytes) else value)} ({kind})"
    if column in _LONG:
        held = "something else"
    why = f"holds {held}, which is not {FORMS[table][column].what}"
    return Wrong(table, named(table, row[3:]), column, why, tuple(row[3:]))


def named(table: str, key: Sequence[Any]) -> str:
    """A row as people name it."""
    if table == "counter":
        return ""
    if table in ("blobs", "unreachable"):
        return key[0].hex() if isinstance(key[0], bytes) and len(key[0]) == 32 else describe(key[0])
    texts = [_text(part) if isinstance(part, bytes) else describe(part) for part in key]
    if table == "versions":
        return f"{texts[0]}/{texts[1]}, sequence {texts[2]}"
    if table == "holds":
        return f"{texts[0]}/{texts[2]}" + (f", version {texts[1]}" if texts[1] else "")
    return "/".join(texts) or "''"


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


# ---- the texts of small tables ----

_Row = Mapping[str, Any]


def _judged(
    connection: Connection, table: str, judge: Callable[[_Row], None], bound: str, values: Sequence[Any], rows: int
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
        except _Refused as refused:
            found.append(Wrong(table, named(table, [held[name] for name in KEYS[table]]), *refused.args))
    return found


class _Refused(Exception):
    """A column, and why no write stores what it holds."""


def _utf8(row: _Row, *columns: str) -> None:
    for column in columns:
        try:
            row[column].decode()
        except UnicodeDecodeError:
            raise _Refused(column, f"holds {describe(row[column])}, which is not UTF-8") from None


def _bucket(row: _Row, *, every: bool = False) -> None:
    """The name of a bucket; with `every` the empty name is one."""
    _utf8(row, "bucket")
    try:
        check_bucket(row["bucket"].decode())
    except InvalidArgument as error:
        raise _Refused("bucket", f"holds what is no bucket: {error}") from None
    if not row["bucket"] and not every:
        raise _Refused("bucket", "is empty")


def _json(row: _Row, column: str) -> Any:
    """The value of a column that holds JSON."""
    _utf8(row, column)
    try:
        return json.loads(row[column])
    except (ValueError, RecursionError):
        raise _Refused(column, f"holds {describe(_text(row[column]))}, which is not JSON") from None


_NOTES_OF_RUNS = ("gc.last", "retention.last", "check.last", "backup.last", "clock.seen", "check.position")
"""Notes that are objects, and say at `at_ms` when they were made."""


def _setting(row: _Row) -> None:
    _utf8(row, "name")
    value, name = _json(row, "value"), row["name"].decode()
    why = ""
    if name in settings.FIELDS:
        why = _judged_setting(name, value)
    elif name in _NOTES_OF_RUNS and value is not None:
        at_ms = value.get("at_ms", 0) if isinstance(value, dict) else None
        if not _is_whole(at_ms, 0, LAST_MOMENT_MS):
            why = "which is not a note of when something ran"
    if why:
        raise _Refused("value", f"holds {describe(_text(row['value']))}, {why}")


def _judged_setting(name: str, value: object) -> str:
    """Why the setting can have no such value; "" when it can. Rules that a later release may know are left to it."""
    if name == "blobs.inlineMaxBytes":  # releases that did not use it took any number
        return "" if _is_whole(value, 0, None) else "which is not a whole number of bytes"
    if name == retention.SETTING:
        fine = isinstance(value, dict) and all(isinstance(rule, dict) for rule in value.values())
        return "" if fine else "which is not an object of rules"
    try:
        settings.validate({name: value})
    except InvalidArgument as error:
        return f"which cannot be: {error}"
    return ""


def _is_whole(value: object, least: int, most: int | None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= least and (most is None or value <= most)  # type: ignore[operator]


def _pin(row: _Row) -> None:
    _utf8(row, "name", "kind")
    if row["detail"] and not isinstance(_json(row, "detail"), dict):
        raise _Refused("detail", f"holds {describe(_text(row['detail']))}, which is not a JSON object")


def _quota(row: _Row) -> None:
    _bucket(row)
    _utf8(row, "prefix")


def _horizon(row: _Row) -> None:
    _bucket(row, every=True)


def _snapshot(row: _Row) -> None:
    _utf8(row, "name", "prefix")
    try:
        snapshots.check_name(row["name"].decode())
    except InvalidArgument as error:
        raise _Refused("name", f"cannot be: {error}") from None
    _bucket(row, every=True)


def _hold(row: _Row) -> None:
    _bucket(row)
    _utf8(row, "version_id", "prefix")
    version_id = row["version_id"].decode()
    if version_id and version_id != NULL_VERSION and version_ids.seq_of(version_id) is None:
        raise _Refused("version_id", f"holds {describe(version_id)}, which is not a version's id")


_JUDGES: dict[str, Callable[[_Row], None]] = {
    "settings": _setting,
    "pins": _pin,
    "quotas": _quota,
    "horizons": _horizon,
    "snapshots": _snapshot,
    "holds": _hold,
}
