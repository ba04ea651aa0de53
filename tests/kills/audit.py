"""The look at a store after a kill: rows against the ledger, files against rows, bytes against names, SQLite itself."""

from __future__ import annotations

import random
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from gestalt_cas import ObjectVersion, Store
from gestalt_cas.keeping import pins
from gestalt_cas.objects import ListQuery
from kills.groups import Group, Shown
from kills.ledger import Ledger
from kills.versions import Lost, Version
from storage import rows

BUCKET = "default"
OLD_VERSIONS_READ = 20


@dataclass(frozen=True, slots=True)
class Found:
    """Unanswered calls with an effect and without; versions; payload files that no row reaches; staging leftovers."""

    took_effect: int
    had_none: int
    versions: int
    orphans: int
    staging: int


def inspect(store: Store, ledger: Ledger, seen: set[str], chosen: random.Random, *, collect: bool) -> Found:
    """Raise Lost unless the store is as the ledger says and sound; `seen` has the versions whose bytes were read.

    Nobody may be writing. What is due by rules is removed first, so that no server can do it later. With `collect`
    garbage is collected in the end, after which exactly the payloads that some version reaches are left.
    """
    _expect(rows(store, "PRAGMA integrity_check"), [("ok",)], "integrity_check")
    _expect(rows(store, "PRAGMA foreign_key_check"), [], "foreign_key_check")
    store.apply_retention()
    histories = _histories(store)
    names = [snapshot.name for snapshot in store.snapshots()]
    took_effect, had_none = ledger.settle(
        {name: [Version(one.version_id, one.digest) for one in history] for name, history in histories.items()},
        lambda group: {name: _shown(store, group, name) for name in names if group.owns(name)},
    )
    for group in ledger.groups.values():
        for seq, wanted in group.moments.items():
            _expect(_shown(store, group, seq), wanted, f"what was below {group.prefix} at sequence {seq}")
    _compare_current(store, histories)
    _read_bytes(store, histories, seen, chosen)
    staging = store.clean_staging()
    _expect([path.name for path in (store.directory / "staging").iterdir()], [], "staging")
    report = store.check()
    _expect((report.clean, report.findings), (True, ()), "check")
    orphans = _compare_files(store, collect=collect)
    total = sum(len(history) for history in histories.values())
    return Found(took_effect, had_none, total, orphans, staging)


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Lost(f"{what}: {found}")


def _histories(store: Store) -> dict[str, list[ObjectVersion]]:
    """All versions and markers by key, oldest first."""
    found: dict[str, list[ObjectVersion]] = {}
    token = ""
    while True:
        page = store.list_versions(ListQuery(BUCKET, token=token))
        for version in page.versions:
            found.setdefault(version.key.key, []).insert(0, version)
        token = page.token
        if not token:
            return found


def _shown(store: Store, group: Group, as_of: str) -> Shown:
    """What the store says was below the group's prefix at a moment: the digests of the bytes that it serves, by key."""
    page = store.list_page(ListQuery(BUCKET, prefix=group.prefix), as_of=as_of)
    _expect(page.token, "", "a second page")
    return {version.key.key: _read(store, version, as_of=as_of) for version in page.objects}


def _compare_current(store: Store, histories: dict[str, list[ObjectVersion]]) -> None:
    """A listing shows exactly the keys whose newest version is an object."""
    listed: list[tuple[str, str]] = []
    token = ""
    while True:
        page = store.list_page(ListQuery(BUCKET, token=token))
        listed += [(version.key.key, version.version_id) for version in page.objects]
        token = page.token
        if not token:
            break
    newest = [(name, history[-1].version_id) for name, history in histories.items() if history[-1].digest]
    _expect(listed, sorted(newest, key=lambda item: item[0].encode()), "the listing")


def _read_bytes(store: Store, histories: dict[str, list[ObjectVersion]], seen: set[str], chosen: random.Random) -> None:
    """Read what is new since the last look, and some of the rest."""
    objects = [version for history in histories.values() for version in history if version.digest]
    old = [version for version in objects if version.version_id in seen]
    fresh = [version for version in objects if version.version_id not in seen]
    for version in [*fresh, *chosen.sample(old, min(OLD_VERSIONS_READ, len(old)))]:
        _read(store, version, version_id=version.version_id)
        seen.add(version.version_id)


def _read(store: Store, version: ObjectVersion, **which: str) -> str:
    """The digest of the version's bytes, which must be right; `which` says how it is asked for."""
    hasher = blake3()
    with store.read(version.key, **which) as reader:
        for piece in reader:
            hasher.update(piece)
    _expect(hasher.hexdigest(), version.digest, f"the bytes of {version.key.key}, {which}")
    return hasher.hexdigest()


def _compare_files(store: Store, *, collect: bool) -> int:
    """Every payload that a version reaches is a whole file; every other file is whole, and goes when collected.

    Returns how many others there were.
    """
    reached = _reached(store)
    files = _files(store.directory)
    for name, size in reached.items():
        _expect(files[name].stat().st_size if name in files else None, size, f"the size of payload {name}")
    others = 0
    for name, path in files.items():
        try:
            _check_file(path, read=name not in reached)
        except FileNotFoundError:
            _expect(name in reached, False, f"payload {name} has gone")  # the server's own gc was here
        else:
            others += name not in reached
    if collect:
        _drop_pins(store)
        collected = store.collect_garbage()
        left, reached = set(_files(store.directory)), _reached(store)  # less what deleted snapshots had kept
        _expect(sorted(left - reached.keys()), [], f"payloads that {collected} left although nothing reaches them")
        _expect(sorted(reached.keys() - left), [], f"payloads that {collected} removed although a version reaches them")
    return others


def _reached(store: Store) -> dict[str, int]:
    """Digest and size of every payload that a version has, one that was removed and is kept for a snapshot included."""
    found = rows(store, "SELECT DISTINCT digest, size FROM versions WHERE digest IS NOT NULL")
    return {bytes(digest).hex(): size for digest, size in found}


def _drop_pins(store: Store) -> None:
    """Whoever held one was killed: two minutes later gc would do this."""
    with store._database.write() as tx:
        for pin in pins.standing(tx):
            pins.drop(tx, pin.name)


def _check_file(path: Path, *, read: bool) -> None:
    status = path.stat()
    _expect((stat.S_IMODE(status.st_mode), status.st_nlink), (0o400, 1), f"mode and links of payload {path.name}")
    if read:
        _expect(blake3(path.read_bytes()).hexdigest(), path.name, "the bytes of a payload that nothing reaches")


def _files(directory: Path) -> dict[str, Path]:
    paths: Sequence[Path] = sorted((directory / "blobs").glob("*/*"))
    return {path.name: path for path in paths}
