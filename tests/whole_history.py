"""What a store's history should be: every version that ever was, with the changes that brought and removed it.

Sharing no code with the store: whatever is asked is found by looking at all entries. Which versions stand is the
oracle's to say; this follows it, one change after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from oracle import Name, Oracle, Version, grouped


@dataclass(eq=False)
class Entry:
    """A version or marker: the change that brought it, the one that removed it, whether its payload is kept."""

    name: Name
    version: Version
    seq: int
    gone: int | None = None
    held: bool = True
    purged: bool = False

    @property
    def is_object(self) -> bool:
        return self.version.data is not None

    @property
    def row(self) -> tuple[object, ...]:
        """What its row should say: bucket, key, sequences, version id, and the digest with and without hold."""
        digest = None if self.version.data is None else blake3(self.version.data).hexdigest()
        held = digest if self.held else None
        left = None if self.held or digest is None else "" if self.purged else digest
        return (*self.name, self.seq, self.gone, self.version.version_id, held, left)


@dataclass(frozen=True)
class Shown:
    """A snapshot: what it shows, and the last change of it."""

    bucket: str
    prefix: str
    seq: int

    def covers(self, bucket: str, prefix: str) -> bool:
        return not self.bucket or (bucket == self.bucket and prefix.startswith(self.prefix))


@dataclass
class WholeHistory:
    """Entries by name, the oldest first; snapshots; and the sequence from which each bucket's history is exact."""

    entries: dict[Name, list[Entry]] = field(default_factory=dict)
    snapshots: dict[str, Shown] = field(default_factory=dict)
    horizons: dict[str, int] = field(default_factory=dict)

    # ---- changes ----

    def follow(self, oracle: Oracle, name: Name, seq: int) -> None:
        """Take over what the change `seq` has done to a key."""
        stack, entries = oracle.versions.get(name, []), self.entries.setdefault(name, [])
        for entry in entries:
            if entry.gone is None and not any(entry.version is version for version in stack):
                entry.gone = seq
                entry.held = bool(self.reaching(entry))
        for version in stack:
            if not any(entry.version is version for entry in entries):
                entries.append(Entry(name, version, seq))

    def release(self) -> None:
        """What gc does first: removed versions that no snapshot reaches any more lose their payload."""
        for entry in self.gone():
            entry.held = entry.held and bool(self.reaching(entry))

    def strip(self, name: Name) -> None:
        """What a purge does to removed versions."""
        for entry in self.entries.get(name, []):
            if entry.gone is not None:
                entry.held, entry.purged = False, True

    def drop(self) -> int:
        """All removed versions that no snapshot reaches are forgotten; returns how many."""
        old = [entry for entry in self.gone() if not self.reaching(entry)]
        for entry in old:
            assert entry.gone is not None
            self.entries[entry.name].remove(entry)
            self.horizons[entry.name[0]] = max(self.horizons.get(entry.name[0], 0), entry.gone)
        return len(old)

    # ---- questions ----

    def all(self) -> Iterator[Entry]:
        for entries in self.entries.values():
            yield from entries

    def gone(self) -> list[Entry]:
        return [entry for entry in self.all() if entry.gone is not None]

    def at(self, name: Name, seq: int) -> Entry | None:
        """What the key had after the change `seq`, a marker included."""
        there = [entry for entry in self.entries.get(name, []) if entry.seq <= seq]
        there = [entry for entry in there if entry.gone is None or entry.gone > seq]
        return max(there, key=lambda entry: entry.seq, default=None)

    def object_at(self, name: Name, seq: int) -> Entry | None:
        found = self.at(name, seq)
        return found if found is not None and found.is_object else None

    def reaching(self, entry: Entry) -> set[str]:
        """The snapshots that show this entry."""
        return {
            name
            for name, shown in self.snapshots.items()
            if shown.covers(*entry.name) and self.at(entry.name, shown.seq) is entry
        }

    def payloads(self) -> set[bytes]:
        """The contents that removed versions keep."""
        return {entry.version.data for entry in self.gone() if entry.held and entry.version.data is not None}

    def listing(self, bucket: str, prefix: str, delimiter: str, seq: int) -> list[tuple[str, bool]]:
        """The whole listing at a moment: names in order, each with whether it is a common prefix."""
        names = sorted((key for home, key in self.entries if home == bucket and key.startswith(prefix)), key=str.encode)
        there = (key for key in names if self.object_at((bucket, key), seq) is not None)
        return grouped(there, prefix, delimiter)

    def differences(self, bucket: str, prefix: str, since: int, until: int) -> list[tuple[str, str]]:
        """The keys that a reader of both moments finds to differ, in order, each with what became of it."""
        found = []
        for name in sorted(self.entries, key=lambda name: name[1].encode()):
            before, after = self.object_at(name, since), self.object_at(name, until)
            if name[0] != bucket or not name[1].startswith(prefix) or _same(before, after):
                continue
            found.append((name[1], "added" if before is None else "deleted" if after is None else "changed"))
        return found

    def buckets(self) -> list[str]:
        return sorted({entry.name[0] for entry in self.all()}, key=str.encode)


def _same(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    if one.purged or other.purged:
        return False
    kept = [(e.version.data, e.version.content_type, e.version.metadata) for e in (one, other)]
    return kept[0] == kept[1]
