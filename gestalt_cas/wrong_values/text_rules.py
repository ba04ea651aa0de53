"""What the texts of the tables that stay small have to be: names, JSON, the values of settings.

Each judge is given a row whose types and ranges are right (`value_rules.py`), its texts as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.keeping import retention
from gestalt_cas.objects import NULL_VERSION, check_bucket
from gestalt_cas.rows import settings, snapshots, version_ids
from gestalt_cas.wrong_values.wrong_rows import describe, readable

LAST_MOMENT_MS = 253_402_300_799_999
"""The last millisecond of the year 9999: what can be told as a date."""

_Row: TypeAlias = Mapping[str, Any]
Judge: TypeAlias = Callable[[_Row], None]
"""Raises Refused for a row that no write stores."""


class Refused(Exception):
    """A column, and why no write stores what it holds."""


def _utf8(row: _Row, *columns: str) -> None:
    for column in columns:
        try:
            row[column].decode()
        except UnicodeDecodeError:
            raise Refused(column, f"holds {describe(row[column])}, which is not UTF-8") from None


def _bucket(row: _Row, *, every: bool = False) -> None:
    """The name of a bucket; with `every` the empty name is one."""
    _utf8(row, "bucket")
    try:
        check_bucket(row["bucket"].decode())
    except InvalidArgument as error:
        raise Refused("bucket", f"holds what is no bucket: {error}") from None
    if not row["bucket"] and not every:
        raise Refused("bucket", "is empty")


def _json(row: _Row, column: str) -> Any:
    """The value of a column that holds JSON."""
    _utf8(row, column)
    try:
        return json.loads(row[column])
    except (ValueError, RecursionError):
        raise Refused(column, f"holds {describe(readable(row[column]))}, which is not JSON") from None


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
        raise Refused("value", f"holds {describe(readable(row['value']))}, {why}")


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
        raise Refused("detail", f"holds {describe(readable(row['detail']))}, which is not a JSON object")


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
        raise Refused("name", f"cannot be: {error}") from None
    _bucket(row, every=True)


def _hold(row: _Row) -> None:
    _bucket(row)
    _utf8(row, "version_id", "prefix")
    version_id = row["version_id"].decode()
    if version_id and version_id != NULL_VERSION and version_ids.seq_of(version_id) is None:
        raise Refused("version_id", f"holds {describe(version_id)}, which is not a version's id")


JUDGES: dict[str, Judge] = {
    "settings": _setting,
    "pins": _pin,
    "quotas": _quota,
    "horizons": _horizon,
    "snapshots": _snapshot,
    "holds": _hold,
}
