"""What a store should hold, in a few lists: S3's rules as their text has them, sharing no code with the store.

Version ids are the store's to choose, so they are told; everything else is predicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from blake3 import blake3

NULL = "null"
Name = tuple[str, str]
"""Bucket (its real name) and key."""


@dataclass
class Version:
    """One version, or a delete marker (`data` None)."""

    version_id: str
    data: bytes | None
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return "" if self.data is None else f'"{blake3(self.data).hexdigest()}"'


class Oracle:
    """All versions of all keys, oldest first within a key."""

    def __init__(self) -> None:
        self.suspended = False
        self.default_bucket = "default"
        self.quotas: dict[tuple[str, str], int] = {}
        self.holds: set[tuple[str, str, str]] = set()
        """Bucket, prefix and "", or bucket, key and version id."""
        self.versions: dict[Name, list[Version]] = {}
        self.used_ids: set[str] = set()

    def name(self, bucket: str, key: str) -> Name:
        return bucket or self.default_bucket, key

    # ---- changes ----

    def add(self, name: Name, version: Version) -> None:
        """A new newest version. Suspended: it is the null version and takes the place of the one before."""
        stack = self.versions.setdefault(name, [])
        if self.suspended:
            assert version.version_id == NULL
            stack[:] = [other for other in stack if other.version_id != NULL]
        else:
            assert version.version_id != NULL
            assert version.version_id not in self.used_ids, "a version id came twice"
            self.used_ids.add(version.version_id)
        stack.append(version)

    def remove(self, name: Name, version_id: str) -> Version | None:
        """Remove one version for good; None when there is none of that id."""
        stack = self.versions.get(name, [])
        for position, version in enumerate(stack):
            if version.version_id == version_id:
                return stack.pop(position)
        return None

    def forget(self, name: Name) -> list[Version]:
        """Remove all versions and markers of a key; returns them."""
        return self.versions.pop(name, [])

    # ---- questions ----

    def used(self, bucket: str, prefix: str) -> int:
        """The bytes of every version below a prefix."""
        return sum(len(version.data or b"") for _, version, _ in self.history(bucket, prefix))

    def exceeded(self, name: Name, size: int) -> set[str]:
        """The quotas, by BUCKET or BUCKET/PREFIX, that keep a version of `size` bytes from being added to a key."""
        stack = self.versions.get(name, [])
        null = [version for version in stack if version.version_id == NULL] if self.suspended else []
        growth = size - sum(len(version.data or b"") for version in null)
        return {
            f"{bucket}/{prefix}" if prefix else bucket
            for (bucket, prefix), most in self.quotas.items()
            if name[0] == bucket
            and name[1].startswith(prefix)
            and growth > 0
            and self.used(bucket, prefix) + growth > most
        }

    def holding(self, name: Name, version_id: str = "") -> set[str]:
        """The holds that keep a version of a key, which is no marker; without an id those of its prefixes."""
        bucket, key = name
        alone = bool(version_id) and (bucket, key, version_id) in self.holds
        found = {f"{bucket}/{key}, version {version_id}"} if alone else set()
        prefixes = {prefix for home, prefix, single in self.holds if home == bucket and not single}
        return found | {f"{bucket}/{prefix}" if prefix else bucket for prefix in prefixes if key.startswith(prefix)}

    def keeping_place(self, name: Name) -> set[str]:
        """The holds that keep a new version, or marker, from taking the place of a key's null version."""
        null = self.find(name, NULL) if self.suspended else None
        return set() if null is None or null.data is None else self.holding(name, NULL)

    def newest(self, name: Name) -> Version | None:
        stack = self.versions.get(name)
        return stack[-1] if stack else None

    def current(self, name: Name) -> Version | None:
        """The object that a plain read serves; None when there is none or the newest is a marker."""
        found = self.newest(name)
        return None if found is None or found.data is None else found

    def find(self, name: Name, version_id: str) -> Version | None:
        if not version_id:
            return self.newest(name)
        return next((version for version in self.versions.get(name, []) if version.version_id == version_id), None)

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Keys with a current object, in the order of their UTF-8."""
        found = [key for (home, key) in self.versions if home == bucket and self.current((home, key)) is not None]
        return sorted((key for key in found if key.startswith(prefix)), key=str.encode)

    def listing(self, bucket: str, prefix: str, delimiter: str) -> list[tuple[str, bool]]:
        """The whole listing: names in order, each with whether it is a common prefix."""
        return grouped(self.keys(bucket, prefix), prefix, delimiter)

    def history(self, bucket: str, prefix: str) -> Iterator[tuple[str, Version, bool]]:
        """Every version below a prefix: keys in order, newest first within a key, and whether it is the newest."""
        names = sorted((name for name in self.versions if name[0] == bucket), key=lambda name: name[1].encode())
        for _, key in names:
            if key.startswith(prefix):
                stack = self.versions[bucket, key]
                for version in reversed(stack):
                    yield key, version, version is stack[-1]

    def buckets(self) -> list[str]:
        return sorted({bucket for (bucket, _), stack in self.versions.items() if stack}, key=str.encode)

    def payloads(self) -> set[bytes]:
        """Every content that some version reaches."""
        return {v.data for stack in self.versions.values() for v in stack if v.data is not None}


def grouped(keys: Iterable[str], prefix: str, delimiter: str) -> list[tuple[str, bool]]:
    """What a listing shows of keys below a prefix, in their order: names, each with whether it is a common prefix."""
    shown: dict[str, bool] = {}
    for key in keys:
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            shown[prefix + rest[: rest.index(delimiter) + len(delimiter)]] = True
        else:
            shown[key] = False
    return list(shown.items())
