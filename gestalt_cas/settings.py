"""The store's own settings: what decides what is stored or removed, the same for every process on the directory.

They live in the `settings` table (quotas in one of their own) and are read inside each write transaction, so a change
counts from the next commit on, in every process. Names are the dotted configuration keys. A configuration writes only
the keys that it holds; the defaults apply once, when a store is created.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from gestalt_cas import quotas
from gestalt_cas.config import quota_range
from gestalt_cas.errors import InvalidConfig, SettingsConflict
from gestalt_cas.objects import check_bucket
from gestalt_cas.sqlite import Connection


@dataclass(frozen=True, slots=True)
class Settings:
    """`bucket`: what the empty bucket name stands for. `versioning`: "enabled" or "suspended".

    `inline_max_bytes`: payloads up to this many bytes are to be kept in the database (accepted; not used yet).
    `quotas`: by BUCKET or BUCKET/PREFIX, the bytes that all versions below may take.
    """

    bucket: str = "default"
    versioning: str = "enabled"
    inline_max_bytes: int = 0
    quotas: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def suspended(self) -> bool:
        return self.versioning == "suspended"

    def by_name(self) -> dict[str, object]:
        """The settings under their dotted names, in a fixed order."""
        return {name: getattr(self, field) for name, field in FIELDS.items()}


_MOST_BYTES = quotas.MOST_BYTES
_QUOTAS = "quotas"
FIELDS = {
    "bucket": "bucket",
    "versioning": "versioning",
    "blobs.inlineMaxBytes": "inline_max_bytes",
    _QUOTAS: "quotas",
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
        return _validate_bytes(name, value)
    if name == _QUOTAS:
        return _validate_quotas(value)
    if not isinstance(value, str):
        raise InvalidConfig(f"{name}: {value!r} is not text")
    if name == "versioning" and value not in ("enabled", "suspended"):
        raise InvalidConfig(f"{name}: {value!r} is neither 'enabled' nor 'suspended'")
    if name == "bucket":
        if not value:
            raise InvalidConfig(f"{name}: the default bucket needs a name")
        check_bucket(value)
    return value


def _validate_bytes(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_BYTES:
        raise InvalidConfig(f"{name}: {value!r} is not a whole number of bytes from 0 to {_MOST_BYTES}")
    return value


def _validate_quotas(value: object) -> dict[str, int]:
    """The quotas under their canonical names, so that `site/` and `site` are one."""
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{_QUOTAS}: {value!r} is not an object of BUCKET or BUCKET/PREFIX and bytes")
    checked: dict[str, int] = {}
    for name, most in value.items():
        bucket, prefix = quota_range(name)
        canonical = f"{bucket}/{prefix}" if prefix else bucket
        if canonical in checked:
            raise InvalidConfig(f"{_QUOTAS}: {canonical} is there twice")
        checked[canonical] = _validate_bytes(f"{_QUOTAS}.{name}", most)
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


def default_bucket(connection: Connection) -> str:
    """What the empty bucket name stands for, in the transaction at hand."""
    rows = connection.execute("SELECT value FROM settings WHERE name = 'bucket'").fetchall()
    return str(json.loads(rows[0][0])) if rows else Settings().bucket


def store(connection: Connection, changes: Mapping[str, object]) -> None:
    """Write validated changes in the write transaction at hand; quotas are replaced as a whole."""
    wanted = changes.get(_QUOTAS)
    if isinstance(wanted, Mapping):
        quotas.replace(connection, {quota_range(name): most for name, most in wanted.items()})
    connection.executemany(
        "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [(name, json.dumps(value)) for name, value in changes.items() if name != _QUOTAS],
    )


def refuse_conflict(present: Settings, wanted: Mapping[str, object]) -> None:
    """Raise SettingsConflict, naming the key, when `wanted` differs from what a live server runs with."""
    stored = present.by_name()
    for name, value in wanted.items():
        if stored[name] != value:
            raise SettingsConflict(
                f"{name}: a running server uses {stored[name]!r} on this directory, this one is configured with "
                f"{value!r}; stop the other one, or change the setting with: gestalt-cas config {name} VALUE"
            )


def recall(connection: Connection, name: str) -> object:
    """A note that is no setting (the HTTP port, say), in the transaction at hand; None when there is none."""
    rows = connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchall()
    return json.loads(rows[0][0]) if rows else None
