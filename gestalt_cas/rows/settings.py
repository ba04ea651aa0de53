"""The store's own settings: what decides what is stored or removed, the same for every process on the directory.

They live in the `settings` table (quotas in one of their own) and are read inside each write transaction, so a change
counts from the next commit on, in every process. Names are the dotted configuration keys. A configuration writes only
the keys that it holds; the defaults apply once, when a store is created.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from gestalt_cas.configuration.config import key_range, whole
from gestalt_cas.errors import DatabaseDamaged, InvalidConfig, SettingsConflict
from gestalt_cas.keeping import quotas, retention
from gestalt_cas.objects import check_bucket
from gestalt_cas.remedies import command_here
from gestalt_cas.rows import inlined
from gestalt_cas.sql.sqlite import Connection


@dataclass(frozen=True, slots=True)
class Settings:
    """`bucket`: what the empty bucket name stands for. `versioning`: "enabled" or "suspended".

    `inline_max_bytes`: payloads up to this many bytes are kept in the database; a payload stays where it is.
    `quotas`: by BUCKET or BUCKET/PREFIX, the bytes that all versions below may take. `retention`: by the same names,
    what goes by itself (`retention.py`). `history_keep_days`: how long removed versions stay known; 0 is for ever.
    """

    bucket: str = "default"
    versioning: str = "enabled"
    inline_max_bytes: int = 0
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    retention: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: MappingProxyType({}))
    history_keep_days: int = 30

    @property
    def suspended(self) -> bool:
        return self.versioning == "suspended"

    def by_name(self) -> dict[str, object]:
        """The settings under their dotted names, in a fixed order."""
        return {name: getattr(self, field) for name, field in FIELDS.items()}


_QUOTAS, _RULES, _KEEP_DAYS = "quotas", retention.SETTING, "history.keepDays"
FIELDS = {
    "bucket": "bucket",
    "versioning": "versioning",
    "blobs.inlineMaxBytes": "inline_max_bytes",
    _QUOTAS: "quotas",
    _RULES: "retention",
    _KEEP_DAYS: "history_keep_days",
}
"""Dotted name to field."""
assert set(FIELDS.values()) == {field.name for field in fields(Settings)}


def validate(changes: Mapping[str, object]) -> dict[str, object]:
    """Return the changes as they would be stored; raises InvalidConfig naming the key."""
    checked: dict[str, object] = {}
    for name, value in changes.items():
        if name not in FIELDS:
            raise InvalidConfig(f"{name}: no such setting; the store's settings are {', '.join(FIELDS)}")
        checked[name] = _validate_one(name, value)
    return checked


def _validate_one(name: str, value: object) -> object:
    if name == "blobs.inlineMaxBytes":
        return whole(name, value, 0, inlined.MOST_BYTES, "bytes")
    if name == _QUOTAS:
        return _by_place(name, value, lambda key, most: whole(key, most, 0, quotas.MOST_BYTES, "bytes"))
    if name == _RULES:
        return _by_place(name, value, retention.validate)
    if name == _KEEP_DAYS:
        return whole(name, value, 0, retention.MOST_DAYS, "days")
    if not isinstance(value, str):
        raise InvalidConfig(f"{name}: {value!r} is not text")
    if name == "versioning" and value not in ("enabled", "suspended"):
        raise InvalidConfig(f"{name}: {value!r} is neither 'enabled' nor 'suspended'")
    if name == "bucket":
        if not value:
            raise InvalidConfig(f"{name}: the default bucket needs a name")
        check_bucket(value)
    return value


def _by_place(setting: str, value: object, validate_one: Callable[[str, object], object]) -> dict[str, object]:
    """Values by BUCKET or BUCKET/PREFIX under their canonical names, so that `site/` and `site` are one."""
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{setting}: {value!r} is not an object with names like BUCKET or BUCKET/PREFIX")
    checked: dict[str, object] = {}
    for name, inner in value.items():
        bucket, prefix = key_range(name, setting)
        canonical = f"{bucket}/{prefix}" if prefix else bucket
        if canonical in checked:
            raise InvalidConfig(f"{setting}: {canonical} is there twice")
        checked[canonical] = validate_one(f"{setting}.{name}", inner)
    return checked


def load(connection: Connection) -> Settings:
    """Read the settings in the transaction at hand; names that this release does not know are left alone."""
    rows = connection.execute("SELECT name, value FROM settings").fetchall()
    found = {FIELDS[name]: json.loads(value) for name, value in rows if name in FIELDS}
    return Settings(**{**found, "quotas": quotas.limits(connection)})


def suspended(connection: Connection) -> bool:
    """Whether versioning is suspended, in the transaction at hand."""
    rows = connection.execute("SELECT value FROM settings WHERE name = 'versioning'").fetchall()
    return Settings(versioning=json.loads(rows[0][0])).suspended if rows else Settings().suspended


def for_writing(connection: Connection) -> Settings:
    """What a write has to know, in the transaction at hand: `versioning` and `inline_max_bytes`; no other is read."""
    rows = connection.execute(
        "SELECT name, value FROM settings WHERE name IN ('versioning', 'blobs.inlineMaxBytes')"
    ).fetchall()
    found = {FIELDS[name]: json.loads(value) for name, value in rows}
    if found.get("inline_max_bytes", 0) > inlined.MOST_BYTES:  # releases that did not use it took any number
        found["inline_max_bytes"] = inlined.MOST_BYTES
    return Settings(**found)


def retention_rules(connection: Connection) -> dict[str, dict[str, object]]:
    """The retention rules by BUCKET or BUCKET/PREFIX, in the transaction at hand."""
    found = recall(connection, _RULES)
    return found if isinstance(found, dict) else {}


def history_keep_days(connection: Connection) -> int:
    """How many days removed versions stay known, in the transaction at hand; 0 is for ever."""
    rows = connection.execute("SELECT value FROM settings WHERE name = ?", (_KEEP_DAYS,)).fetchall()
    if not rows:
        return Settings().history_keep_days
    try:
        return whole(_KEEP_DAYS, json.loads(rows[0][0]), 0, retention.MOST_DAYS, "days")
    except (ValueError, TypeError, InvalidConfig) as error:
        # Whatever the default is: what somebody meant to keep for longer must not go by it.
        raise DatabaseDamaged(
            f"the database is damaged: settings, row {_KEEP_DAYS}: value holds what no write stores: {error}; see "
            f"{command_here('check', connection)}"
        ) from error


def default_bucket(connection: Connection) -> str:
    """What the empty bucket name stands for, in the transaction at hand."""
    rows = connection.execute("SELECT value FROM settings WHERE name = 'bucket'").fetchall()
    return str(json.loads(rows[0][0])) if rows else Settings().bucket


def store(connection: Connection, changes: Mapping[str, object]) -> None:
    """Write validated changes in the write transaction at hand; quotas are replaced as a whole."""
    wanted = changes.get(_QUOTAS)
    if isinstance(wanted, Mapping):
        quotas.replace(connection, {key_range(name, _QUOTAS): most for name, most in wanted.items()})
    connection.executemany(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [(name, _stored(value)) for name, value in changes.items() if name != _QUOTAS],
    )


def _stored(value: object) -> str:
    return json.dumps(value, default=dict)


def refuse_conflict(connection: Connection, wanted: Mapping[str, object]) -> None:
    """Raise SettingsConflict, naming the key, when `wanted` differs from what a live server runs with."""
    stored = load(connection).by_name()
    for name, value in wanted.items():
        if stored[name] != value:
            remedy = command_here(f"config {name} VALUE", connection)
            raise SettingsConflict(
                f"{name}: a running server uses {stored[name]!r} on this directory, this one is configured with "
                f"{value!r}; stop the other one, or change the setting with: {remedy}"
            )


def is_noted(connection: Connection, name: str, value: object) -> bool:
    """Whether just this is noted down; what stands there need be no JSON."""
    rows = connection.execute("SELECT CAST(value AS BLOB) FROM settings WHERE name = ?", (name,)).fetchall()
    return bool(rows) and rows[0][0] == _stored(value).encode()


def recall(connection: Connection, name: str) -> object:
    """A note that is no setting (the HTTP port, say), in the transaction at hand; None when there is none."""
    rows = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchall()
    return json.loads(rows[0][0]) if rows else None
