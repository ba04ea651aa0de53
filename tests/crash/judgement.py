"""Whether a store that stands as a crash left it keeps what was promised.

The store is opened, which runs its recovery, and looked at from outside and from below: every answered call readable
and intact, every other one absent or whole, order and times sane, SQLite's own check, rows against files, nothing left
over but what may be reclaimed. Then the same bytes are written again and have to be served: nothing that the crash left
may stand in the way of that.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from blake3 import blake3

from crash.expectations import MARKER, Expected, Payload, Promises, Version, objects
from crash.preparing import BACKUP
from crash.session import BUCKET, bytes_of
from gestalt_cas import ObjectKey, ObjectVersion, Store
from gestalt_cas.backups.restoring import restore
from gestalt_cas.checks.findings import EVERYTHING
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import BeforeHorizon, Damage, StoreUnusable
from gestalt_cas.files.layout import LOCKS, Layout
from gestalt_cas.formats import upgrade
from gestalt_cas.objects import ListQuery
from gestalt_cas.sql import schema, sqlite

_KNOWN = re.compile(
    r"metadata\.sqlite3(\.new)?(-wal|-shm|-journal)?"
    r"|metadata\.before-upgrade-from-\d+\.(sqlite3|part)(-wal|-shm|-journal)?"
    r"|check\.lock|reserve(\.\d)?|blobs|staging|quarantine|keys\.json|\.keys\.json\.[0-9a-f]+|"
    + "|".join(map(re.escape, LOCKS))
)


class Violation(Exception):
    """A promise that a state breaks."""


def require(condition: bool, complaint: str) -> None:
    if not condition:
        raise Violation(complaint)


class Judge:
    """Judges the stores of one recording; `payloads` are those that it writes or has."""

    def __init__(self, directory: Path, payloads: list[Payload], *, upgraded: bool) -> None:
        self._directory = directory
        self._bytes = {payload: bytes_of(payload) for payload in payloads}
        self._digests = {payload: blake3(data).digest() for payload, data in self._bytes.items()}
        self._upgraded = upgraded

    def digests(self) -> list[bytes]:
        return list(self._digests.values())

    def judge(self, promises: Promises, *, check: bool = True, collect: bool = False) -> None:
        """Raises Violation, or whatever the store raises.

        With `check` the store's own check, payloads read whole, may find nothing worse than what can be reclaimed. With
        `collect` garbage collection is run and judged too.
        """
        for name in sorted(promises.names):
            require((self._directory / name).exists(), f"{name} was made, and is not there")
        if self._upgraded:
            self._check_copy_aside(promises)
        if promises.restoring:
            self._finish_restoring()
        self._check_keys(promises)
        if promises.backups:
            self._check_backup(promises.backups)
        for payload, answered in promises.aside.items():
            self._check_aside(payload, answered)
        for payload, answered in promises.kept.items():
            self._check_kept(payload, answered)
        if all(expected.opened for expected in promises.allowed):
            require((self._directory / "metadata.sqlite3").exists(), "the database of an opened store is gone")
        for payload in set.intersection(*(expected.purged for expected in promises.allowed)) - {MARKER}:
            copies = [path.name for path in self._directory.rglob(f"{self._digests[payload].hex()}*")]
            require(not copies, f"{payload} was purged and is there: {copies}")
        with Store.open(self._directory) as store:
            self._check_purged(store, promises)
            self._check_contents(store, promises)
            self._check_below(store, promises.rotten)
            if check:
                self._check_by_its_own(store, promises.rotten)
            self._write_again(store)
            self._check_below(store, set())
            if collect:
                self._collect(store)

    def _finish_restoring(self) -> None:
        """A restore that was cut off leaves a store, whole, or what the same restore makes one of."""
        named = (self._directory / "metadata.sqlite3").exists()
        try:
            Store.open(self._directory).close()
            require(not named or (self._directory / "keys.json").exists(), "restored, and the keys are not there")
        except StoreUnusable:
            require(not named, "the database has its name, and there is no store")
            found = restore(self._directory.with_name(BACKUP), self._directory)
            require(found.keys and not found.lost, "restored at last, and the keys are not there, or payloads")

    def _check_purged(self, store: Store, promises: Promises) -> None:
        purged = set.intersection(*(expected.purged for expected in promises.allowed)) - {MARKER}
        held = {bytes(data) for (data,) in _rows(store, "SELECT data FROM inlined")} if purged else set()
        for payload in purged:
            require(self._bytes[payload] not in held, f"{payload} was purged and is a row of inlined")

    def _check_copy_aside(self, promises: Promises) -> None:
        revision = upgrade.read_revision(Layout(self._directory))
        require(promises.answered == 0 or revision == schema.REVISION, f"the upgrade is gone: revision {revision}")
        if revision == schema.REVISION:
            copy = self._directory / "metadata.before-upgrade-from-0001.sqlite3"
            require(copy.exists(), "upgraded, and the copy of the old database is gone")
            connection = sqlite.connect(copy, mode="ro", immutable=True)
            try:
                require(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the copy is damaged")
                found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
                count = connection.execute("SELECT count(*) FROM versions").fetchall()[0][0]
            finally:
                connection.close()
            require(found == [("0001",)] and count == 3, f"the copy has revision {found} and {count} versions")

    def _check_backup(self, versions: set[int]) -> None:
        """A backup that was answered is whole, whatever became of one after it; restoring verifies every payload."""
        with tempfile.TemporaryDirectory(dir=self._directory.parents[1]) as place:
            found = restore(self._directory.with_name(BACKUP), Path(place) / "restored")
        require(found.versions in versions, f"the backup has {found.versions} versions, not {versions}")
        require(found.keys and not found.lost, "the backup has lost its keys, or payloads")

    def _check_aside(self, payload: Payload, answered: bool) -> None:
        """What is damaged is set aside with a note, and at no moment gone."""
        name = self._digests[payload].hex()
        copies = [path for path in (self._directory / "quarantine").glob(f"{name}.*") if path.suffix != ".json"]
        stands = self._path(self._digests[payload]).exists()
        require(bool(copies) or (stands and not answered), f"{payload} is gone")
        require(not (stands and answered), f"{payload} was set aside and is back")
        for copy in copies:
            note = json.loads(copy.with_name(f"{copy.name}.json").read_text())
            require(len(copy.read_bytes()) == payload[1] and "from" in note, f"{payload} was set aside badly")

    def _check_kept(self, payload: Payload, answered: bool) -> None:
        """What a damaged row held is written down whole, with a note, before the repair answers."""
        data = bytearray(self._bytes[payload])
        data[0] ^= 1
        found = list((self._directory / "quarantine").glob(f"{self._digests[payload].hex()}.*"))
        copies = [path for path in found if path.suffix not in (".json", ".part")]
        require(bool(copies) or not answered, f"{payload} was repaired and what was there is gone")
        for copy in copies:
            note = json.loads(copy.with_name(f"{copy.name}.json").read_text())
            require(copy.read_bytes() == data and note["from"] == "inlined", f"{payload} was written down badly")

    def _check_keys(self, promises: Promises) -> None:
        path = self._directory / "keys.json"
        if not path.exists():
            lost = promises.pairs or (promises.pair_open and promises.answered and not promises.restoring)
            require(not lost, "the signing keys are gone")
            return
        found = json.loads(path.read_text())
        require(bool(found["secretAccessKey"]), "keys.json is cut short")
        if not promises.pair_open:
            require(found["accessKeyId"] in promises.pairs[-1:], "the signing keys are not those that were answered")

    # Through the store's front door

    def _check_contents(self, store: Store, promises: Promises) -> None:
        page = store.list_versions(ListQuery(BUCKET))
        require(not page.token, "the listing of versions has a second page")
        actual: dict[str, list[ObjectVersion]] = {}
        for version in page.versions:
            actual.setdefault(version.key.key, []).insert(0, version)
        settings = store.settings().by_name()
        snapshots = self._snapshots(store)
        moments = {seq: self._then(store, seq) for expected in promises.allowed for seq in expected.moments}
        complaints = [
            self._difference(expected, actual, settings)
            or self._unlike(expected.snapshots, snapshots)
            or self._misremembered(expected, moments)
            or _held_otherwise(expected, store)
            or _forgotten(expected, store)
            for expected in promises.allowed
        ]
        require("" in complaints, " / or ".join(dict.fromkeys(complaints)))
        self._check_order(list(page.versions), store)
        for history in actual.values():
            self._check_history(store, history, promises.rotten)

    def _snapshots(self, store: Store) -> dict[str, dict[str, bytes]]:
        """Every byte that each snapshot shows, by key."""
        shown: dict[str, dict[str, bytes]] = {}
        for snapshot in store.snapshots():
            page = store.list_page(ListQuery(BUCKET, prefix=snapshot.prefix), as_of=snapshot.name)
            require(not page.token, "the listing of a snapshot has a second page")
            shown[snapshot.name] = {}
            for version in page.objects:
                with store.read(version.key, as_of=snapshot.name) as reader:
                    shown[snapshot.name][version.key.key] = reader.read()
        return shown

    def _then(self, store: Store, seq: int) -> dict[str, tuple[ObjectVersion, bytes]] | None:
        """What was there at a sequence, with every byte that can still be read; None when that is refused."""
        try:
            page = store.list_page(ListQuery(BUCKET), as_of=str(seq))
        except BeforeHorizon:
            return None
        require(not page.token, "the listing of a moment has a second page")
        shown: dict[str, tuple[ObjectVersion, bytes]] = {}
        for version in page.objects:
            body = b""
            if not version.removed:
                with store.read(version.key, as_of=str(seq)) as reader:
                    body = reader.read()
            shown[version.key.key] = version, body
        return shown

    def _misremembered(
        self, expected: Expected, moments: dict[int, dict[str, tuple[ObjectVersion, bytes]] | None]
    ) -> str:
        """How what the store says of the past differs from what is expected; "" if it does not."""
        for seq, wanted in expected.moments.items():
            found = moments[seq]
            if (found is None) != (seq <= expected.horizon):
                return f"sequence {seq} is {'refused' if found is None else 'answered'}"
            if found is None:
                continue
            if found.keys() != wanted.keys():
                return f"at sequence {seq} there was {sorted(found)}, not {sorted(wanted)}"
            for key, version in wanted.items():
                (other, body), stands = found[key], expected.stands(key, version)
                if stands is other.removed:
                    return f"{key} at sequence {seq} is {other}"
                if not other.removed and (body != self._bytes[version.payload] or not self._matches(version, other)):
                    return f"{key} at sequence {seq} is {other}, not {version}"
        return ""

    def _unlike(self, wanted: dict[str, dict[str, Version]], found: dict[str, dict[str, bytes]]) -> str:
        """How the snapshots differ from what is expected; "" if they do not."""
        bodies = {
            name: {key: self._bytes[one.payload] for key, one in objects(shown).items()}
            for name, shown in wanted.items()
        }
        names = sorted(name for name in {*bodies, *found} if bodies.get(name) != found.get(name))
        return f"snapshots are others than those that were made, or show other bytes: {names}" if names else ""

    def _difference(
        self, expected: Expected, actual: dict[str, list[ObjectVersion]], settings: dict[str, object]
    ) -> str:
        """How the contents differ from what is expected; "" if they do not."""
        for name, value in expected.settings.items():
            if settings[name] != value:
                return f"the setting {name} is {settings[name]}, not {value}"
        for key in sorted({*expected.histories, *actual}):
            wanted, found = expected.histories.get(key, []), actual.get(key, [])
            if len(wanted) != len(found):
                return f"{key} has {len(found)} versions, not {len(wanted)}"
            for number, (version, other) in enumerate(zip(wanted, found, strict=True)):
                if not self._matches(version, other):
                    return f"version {number} of {key} is {other}, not {version}"
        return ""

    def _matches(self, wanted: Version, found: ObjectVersion) -> bool:
        if wanted.payload == MARKER:
            same = found.delete_marker
        else:
            same = found.digest == self._digests[wanted.payload].hex() and found.size == wanted.payload[1]
        return (
            same
            and wanted.version_id in (None, found.version_id)
            and wanted.seq in (None, found.seq)
            and wanted.modified_ms in (None, found.modified_ms)
            and (found.delete_marker or found.headers.content_type == wanted.content_type)
            and dict(wanted.metadata) == dict(found.metadata)
        )

    def _check_order(self, versions: Iterable[ObjectVersion], store: Store) -> None:
        ordered = sorted(versions, key=lambda version: version.seq)
        times = [version.modified_ms for version in ordered]
        require(times == sorted(times), "commit times go back")
        require(len({version.seq for version in ordered}) == len(ordered), "a sequence was given out twice")
        ((counter, last_ms),) = _rows(store, "SELECT seq, commit_ms FROM counter")
        require(
            all(version.seq <= counter and version.modified_ms <= last_ms for version in ordered), "counter is behind"
        )

    def _check_history(self, store: Store, history: list[ObjectVersion], rotten: set[Payload]) -> None:
        for version in history:
            if not version.delete_marker:
                self._check_body(store, version, version.version_id, rotten)
        newest = history[-1]
        if not newest.delete_marker:
            require(
                store.head(newest.key).version_id == newest.version_id, f"{newest.key} has the wrong current version"
            )
            self._check_body(store, newest, "", rotten)
        listed = [version.key for version in store.list_page(ListQuery(BUCKET, prefix=newest.key.key)).objects]
        require((newest.key in listed) == (not newest.delete_marker), f"{newest.key} is listed wrongly")

    def _check_body(self, store: Store, version: ObjectVersion, version_id: str, rotten: set[Payload]) -> None:
        payload = next(name for name, digest in self._digests.items() if digest.hex() == version.digest)
        try:
            with store.read(version.key, version_id=version_id) as reader:
                body = reader.read()
        except Damage:
            require(payload in rotten, f"{version.key} {version.version_id}: the payload {payload} is damaged")
            return
        require(body == self._bytes[payload], f"{version.key} {version.version_id}: wrong bytes were served")

    # From below

    def _check_below(self, store: Store, rotten: set[Payload]) -> None:
        require(_rows(store, "PRAGMA integrity_check") == [("ok",)], "SQLite finds the database damaged")
        require(_rows(store, "PRAGMA foreign_key_check") == [], "rows refer to nothing")
        reached = {row[0] for row in _rows(store, "SELECT DISTINCT digest FROM versions WHERE digest IS NOT NULL")}
        excused = {self._digests[payload] for payload in rotten}
        for digest, size, place, mark in _rows(store, "SELECT digest, size, place, damaged_ms FROM blobs"):
            if digest not in excused:
                data = self._bytes_of(store, digest, place)
                self._check_payload(digest, size, data, reached=digest in reached, damaged=mark is not None)
        loose = _rows(store, "SELECT id FROM inlined WHERE id NOT IN (SELECT place FROM blobs)")
        require(not loose, f"rows of inlined belong to no payload: {loose}")
        strangers = [path.name for path in self._directory.iterdir() if not _KNOWN.fullmatch(path.name)]
        require(not strangers, f"unknown files are left over: {strangers}")
        store.clean_staging()
        left = [path.name for path in (self._directory / "staging").iterdir()]
        require(not left, f"cleaning leaves {left} in staging")

    def _check_by_its_own(self, store: Store, rotten: set[Payload]) -> None:
        excused = {self._digests[payload].hex() for payload in rotten}
        found = store.check(CheckOptions(read_data=EVERYTHING, restart=True)).findings
        worse = [f"{finding.kind}: {finding.message}" for finding in found if finding.digest not in excused]
        require(not worse, f"check finds {worse}")

    def _bytes_of(self, store: Store, digest: bytes, place: int) -> bytes | None:
        """What stands at the place of a payload; None when nothing does."""
        if place:
            found = _rows(store, f"SELECT data FROM inlined WHERE id = {place}")
            return bytes(found[0][0]) if found else None
        path = self._path(digest)
        return path.read_bytes() if path.exists() else None

    def _check_payload(self, digest: bytes, size: int, data: bytes | None, *, reached: bool, damaged: bool) -> None:
        if data is None:
            require(not reached, f"the payload {digest.hex()[:8]} of a version is missing")
            return
        require(not (damaged and reached), f"the payload {digest.hex()[:8]} is marked as damaged")
        # A row without the mark makes writers trust the file, even if no version reaches it.
        right = len(data) == size and blake3(data).digest() == digest
        require(right or damaged, f"a row vouches for the payload {digest.hex()[:8]}, and its bytes are wrong")

    def _path(self, digest: bytes) -> Path:
        return self._directory / "blobs" / digest.hex()[:2] / digest.hex()

    def _collect(self, store: Store) -> None:
        """Two runs leave the payloads that versions reach, and nothing else."""
        store.collect_garbage()
        store.collect_garbage()
        has_version = "digest IN (SELECT digest FROM versions)"
        reached = {row[0].hex() for row in _rows(store, f"SELECT digest FROM blobs WHERE place = 0 AND {has_version}")}
        there = {path.name for path in (self._directory / "blobs").glob("*/*")}
        unneeded = _rows(store, f"SELECT digest FROM blobs WHERE NOT {has_version}")
        require(not unneeded, f"gc leaves rows of payloads: {unneeded}")
        require(there == reached, f"gc leaves {sorted(there - reached)} and lacks {sorted(reached - there)}")
        self._check_below(store, set())

    def _write_again(self, store: Store) -> None:
        for number, (payload, data) in enumerate(self._bytes.items()):
            key = ObjectKey(BUCKET, f"again/{number}")
            store.write(key, [data])
            with store.read(key) as reader:
                require(reader.read() == data, f"{payload} was written again and is not served")


def _forgotten(expected: Expected, store: Store) -> str:
    """A note that should be there; "" if all are."""
    for name, least in expected.notes.items():
        note = store.recall(name)
        if not isinstance(note, dict) or note["at_ms"] < least:
            return f"the note {name} is {note}, and not of {least}"
    return ""


def _held_otherwise(expected: Expected, store: Store) -> str:
    """A hold that was set and is not there, or the other way round; "" if there is none."""
    found = {(hold.prefix, hold.version_id) for hold in store.holds()}
    return "" if found == expected.holds else f"the holds are {sorted(found)}, not {sorted(expected.holds)}"


def _rows(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with store._database.read() as tx:
        return tx.execute(sql).fetchall()
