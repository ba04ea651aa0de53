"""Stores that other releases left, kept in tests/data/stores: earlier ones are upgraded, a later one is left alone."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from command_line import command_in
from driver_aids import FULL, driver_error
from gestalt_cas import ObjectKey, ObjectVersion, Store, restore
from gestalt_cas.checks.findings import EVERYTHING
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import (
    BeforeHorizon,
    BlobMissing,
    DatabaseDamaged,
    DigestMismatch,
    DiskFull,
    Held,
    SchemaTooNew,
    StoreUnusable,
    VersionRemoved,
)
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import migrating, upgrade
from gestalt_cas.objects import ListQuery
from gestalt_cas.sql import schema, sqlite
from storage import child, payload_path, rows
from wire import protos
from wire.client import Client
from wire.process import SERVE, Process, Server

STORES = Path(__file__).parent / "data" / "stores"
EARLIER = sorted(path.stem for path in STORES.glob("*.json"))
UNREACHED = (b"nothing reaches these bytes any more", b"the first null version", b"removed at last")
ROTTEN, LOST = b"a bit of this flips", b"this file goes missing"
Record = dict[str, Any]


def unpack(name: str, parent: Path) -> Path:
    """The kept store as it was packed, modes included."""
    with tarfile.open(STORES / f"{name}.tar.xz") as archive:
        archive.extraction_filter = staticmethod(lambda member, path: member)  # our own file, and 0400 is meant
        archive.extractall(parent / "store")
    (parent / "store").chmod(0o700)
    return parent / "store"


@pytest.fixture(name="revision", params=EARLIER)
def revision_fixture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="kept")
def kept_fixture(revision: str, tmp_path: Path) -> Path:
    return unpack(revision, tmp_path)


@pytest.fixture(name="expected")
def expected_fixture(revision: str) -> Record:
    found = json.loads((STORES / f"{revision}.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture(name="opened")
def opened_fixture(kept: Path) -> Iterator[Store]:
    with Store.open(kept) as store:
        yield store


def as_record(version: ObjectVersion) -> Record:
    return {
        "bucket": version.key.bucket,
        "key": version.key.key,
        "version_id": version.version_id,
        "seq": version.seq,
        "size": version.size,
        "digest": version.digest,
        "modified_ms": version.modified_ms,
        "current": version.current,
        "headers": version.headers._asdict(),
        "metadata": dict(version.metadata),
    }


def all_versions(store: Store) -> list[ObjectVersion]:
    pages = [store.list_versions(ListQuery(bucket)) for bucket in store.buckets()]
    assert not any(page.token for page in pages)
    return [version for page in pages for version in page.versions]


def content(directory: Path) -> dict[str, str]:
    """What is in every file and directory, but for what any look at a database makes: shared memory and an empty WAL.

    Only for stores that this process does not have open: reading the database would drop its locks.
    """
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in directory.rglob("*")
        if not (path.name.endswith("-shm") or (path.name.endswith("-wal") and not path.stat().st_size))
    }


# ---- earlier ones ----


def test_init_says_that_it_upgraded(kept: Path, revision: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    told = command_in(kept, capsysbinary)("init").text
    assert told == f"upgraded the store in {kept}; its old database is kept as {upgraded_from(revision)}\n"
    assert (kept / upgraded_from(revision)).is_file()
    assert command_in(kept, capsysbinary)("init").text == f"there is a store in {kept}\n"


def upgraded_from(revision: str) -> str:
    return f"metadata.before-upgrade-from-{revision}.sqlite3"


def test_the_earlier_revisions_are_kept() -> None:
    assert {"0001", "0002", "0003"} <= set(EARLIER)
    assert all(int(revision) <= int(schema.REVISION) for revision in EARLIER)


def test_what_is_kept_is_rich(expected: Record, kept: Path) -> None:
    """A store without one of these would prove less than it seems to."""
    versions = expected["versions"]
    assert len(expected["buckets"]) >= 3
    assert any(not version["digest"] and version["current"] for version in versions), "a marker on top"
    assert any(not version["digest"] and not version["current"] for version in versions), "a marker below"
    assert any(version["version_id"] == "null" and version["digest"] for version in versions)
    assert any(version["version_id"] == "null" and not version["digest"] for version in versions)
    assert any(all(version["headers"].values()) and version["metadata"] for version in versions)
    assert any(version["size"] > 1 << 20 for version in versions)
    assert any(not version["size"] and version["digest"] for version in versions)
    assert max(Counter(version["digest"] for version in versions if version["digest"]).values()) >= 3, "shared bytes"
    assert len(expected["damaged"]) == 2
    assert (kept / "metadata.sqlite3-wal").stat().st_size > 4096, "changes that are in the WAL only"


def test_every_version_is_there_after_the_upgrade(opened: Store, expected: Record, kept: Path) -> None:
    assert upgrade.read_revision(Layout(kept)) == schema.REVISION
    assert [as_record(version) for version in all_versions(opened)] == expected["versions"]
    assert opened.buckets() == expected["buckets"]
    assert expected["settings"].items() <= opened.settings().by_name().items()
    assert {name: opened.recall(name) for name in expected["notes"]} == expected["notes"]


def test_every_payload_is_readable_after_the_upgrade(opened: Store, expected: Record) -> None:
    unread = {"", *expected["damaged"]}
    sound = [version for version in all_versions(opened) if version.digest not in unread]
    assert len(sound) > 20
    for version in sound:
        with opened.read(version.key, version_id=version.version_id) as reader:
            assert blake3(reader.read()).hexdigest() == version.digest


def test_current_objects_are_those_of_before(opened: Store, expected: Record) -> None:
    for bucket in expected["buckets"]:
        of_bucket = [version for version in expected["versions"] if version["bucket"] == bucket]
        wanted = sorted((v for v in of_bucket if v["current"] and v["digest"]), key=lambda v: v["key"].encode())
        assert [as_record(version) for version in opened.list_page(ListQuery(bucket)).objects] == wanted
        for record in wanted:
            assert as_record(opened.head(ObjectKey(bucket, record["key"]))) == record


def test_damage_is_damage_still_and_heals(opened: Store, expected: Record) -> None:
    for name, content, error in (("rotten", ROTTEN, DigestMismatch), ("lost", LOST, BlobMissing)):
        key = ObjectKey("main", name)
        with pytest.raises(error) as raised, opened.read(key) as reader:
            reader.read()
        assert raised.value.digest in expected["damaged"]
        opened.write(ObjectKey("main", f"{name} again"), [content])
        with opened.read(key) as reader:
            assert reader.read() == content


def test_work_goes_on_where_it_ended(opened: Store, expected: Record) -> None:
    last = max(version["seq"] for version in expected["versions"])
    key = ObjectKey("", "history")
    before = opened.list_versions(ListQuery("", prefix="history"), only_key=True).versions
    written = opened.write(key, [b"version 0"], metadata={"new": "yes"})
    assert written.seq > last
    assert written.modified_ms >= max(version["modified_ms"] for version in expected["versions"])
    opened.delete(key)
    found = opened.list_versions(ListQuery("", prefix="history"), only_key=True).versions
    assert [version.version_id for version in found[1:]] == [written.version_id, *(v.version_id for v in before)]
    opened.change_settings({"versioning": "suspended"})
    opened.write(ObjectKey("", "null only"), [b"replaces the null version of before"])
    found = opened.list_versions(ListQuery("", prefix="null only"), only_key=True).versions
    assert [version.version_id for version in found] == ["null"]


def test_the_upgraded_database_is_whole(opened: Store) -> None:
    assert rows(opened, "PRAGMA integrity_check") == [("ok",)]
    assert rows(opened, "PRAGMA foreign_key_check") == []
    lost = "SELECT count(*) FROM current c LEFT JOIN versions v USING (bucket, key, seq) WHERE v.digest IS NULL"
    assert rows(opened, lost) == [(0,)]
    drawn = "SELECT max(v.seq) <= c.seq AND max(v.commit_ms) <= c.commit_ms FROM versions v, counter c"
    assert rows(opened, drawn) == [(1,)]


def test_the_history_is_told_from_the_upgrade_on(opened: Store, expected: Record) -> None:
    """What was removed by a release before format 3 left no row, so its moments cannot be told."""
    if expected["revision"] >= "0003":
        pytest.skip("its release kept the history")
    ((seq, commit_ms),) = rows(opened, "SELECT seq, commit_ms FROM counter")
    assert rows(opened, "SELECT bucket, seq, ms FROM horizons") == [("", seq, commit_ms)]
    key = ObjectKey("", "plain")
    opened.write(key, [b"after the upgrade"])
    opened.write(key, [b"later"])
    with opened.read(key, as_of=str(seq)) as reader:
        assert reader.read() == b"x"
    assert opened.head(key, as_of=str(seq + 1)).size == len(b"after the upgrade")
    with pytest.raises(BeforeHorizon, match=f"complete only from sequence {seq} "):
        opened.head(key, as_of=str(seq - 1))
    then = sorted(version["key"] for version in expected["versions"] if is_current(version, "main"))
    assert sorted(version.key.key for version in opened.list_page(ListQuery(""), as_of=str(seq)).objects) == then


def test_the_history_and_snapshots_of_before_are_told(tmp_path: Path) -> None:
    with Store.open(unpack("0003", tmp_path)) as opened:
        assert rows(opened, "SELECT * FROM horizons") == []
        with pytest.raises(VersionRemoved):
            opened.head(ObjectKey("", "gone"), as_of=str(gone(opened, "gone") - 1))
        with opened.read(ObjectKey("", "past"), as_of="before") as reader:
            assert reader.read() == b"a snapshot shows this"
        assert opened.holds() == []
        version = opened.head(ObjectKey("", "plain"))
        opened.hold("", "pla")
        with pytest.raises(Held):
            opened.delete(version.key, version_id=version.version_id)


def gone(store: Store, name: str) -> int:
    """The change that removed a version of the key for good."""
    ((seq,),) = rows(store, "SELECT gone_seq FROM versions WHERE key = CAST(? AS BLOB) AND gone_seq > 0", name)
    return int(seq)


def is_current(version: Record, bucket: str) -> bool:
    return bool(version["bucket"] == bucket and version["current"] and version["digest"])


def test_what_is_upgraded_is_accepted_by_check(opened: Store, expected: Record) -> None:
    found = opened.check().findings
    assert {finding.digest for finding in found if finding.kind in ("bytes", "missing")} <= set(expected["damaged"])
    assert {finding.kind for finding in found} <= {"bytes", "missing"}


def test_killed_at_every_statement_of_the_upgrade(memory: Path) -> None:
    code = """
        import shutil
        import kill_points, test_old_stores
        from gestalt_cas.formats import upgrade
        from gestalt_cas.files.layout import Layout
        directory, template = Path(arguments[0]), Path(arguments[1])

        def prepare():
            for path in directory.glob("metadata*"):
                path.unlink()
            for path in template.glob("metadata*"):
                shutil.copy(path, directory)

        def check(number):
            print(upgrade.read_revision(Layout(directory)))
            with Store.open(directory) as store:
                assert len(test_old_stores.all_versions(store)) == int(arguments[2])
                assert len(test_old_stores.rows(store, "SELECT seq FROM horizons")) == 1

        print(kill_points.every_point(
            kill_points.at_statement, prepare, lambda: Store.open(directory).close(), check
        ))
    """
    newest = "0002"  # the newest of which the upgrade moves anything
    directory, template = unpack(newest, memory / "killed"), unpack(newest, memory / "template")
    count = len(json.loads((STORES / f"{newest}.json").read_text())["versions"])
    *seen, points = child(code, directory, template, count).split()
    assert int(points) > 20
    assert (seen[0], seen[-1], set(seen)) == (newest, schema.REVISION, {newest, schema.REVISION})
    assert seen == sorted(seen), "old up to some point, new from there on"


# The first layout of `versions`, and of its indexes, which checkouts had for an hour under the revision 0001.
_FIRST_LAYOUT = """
    CREATE TABLE first (
        seq INTEGER NOT NULL PRIMARY KEY, bucket TEXT NOT NULL, "key" BLOB NOT NULL, version_id TEXT NOT NULL,
        digest BLOB REFERENCES blobs (digest), size INTEGER NOT NULL, content_type TEXT NOT NULL, headers TEXT,
        metadata TEXT, commit_ms INTEGER NOT NULL, gone_seq INTEGER, gone_ms INTEGER,
        CONSTRAINT gone_together CHECK ((gone_seq IS NULL) = (gone_ms IS NULL))
    );
    INSERT INTO first SELECT seq, bucket, key, version_id, digest, size, content_type, headers, metadata, commit_ms,
        gone_seq, gone_ms FROM versions;
    DROP TABLE versions;
    ALTER TABLE first RENAME TO versions;
    CREATE INDEX versions_by_key ON versions (bucket, "key", seq DESC);
    CREATE INDEX versions_by_digest ON versions (digest) WHERE digest IS NOT NULL;
    CREATE UNIQUE INDEX versions_null ON versions (bucket, "key") WHERE version_id = 'null' AND gone_seq IS NULL;
"""


@pytest.mark.parametrize(("revision", "as_it_was"), [("0001", _FIRST_LAYOUT), ("0002", "DROP TABLE inlined")])
def test_tables_of_checkouts_before_a_revision_was_changed_become_those_of_all_others(
    revision: str, as_it_was: str, tmp_path: Path
) -> None:
    """A store that the first checkouts of a format made is upgraded to one that works and that check accepts."""
    kept, expected = unpack(revision, tmp_path), json.loads((STORES / f"{revision}.json").read_text())
    with closing(sqlite.connect(kept / "metadata.sqlite3")) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(as_it_was)
    with Store.open(kept) as opened:
        assert [as_record(version) for version in all_versions(opened)] == expected["versions"]
        assert {finding.kind for finding in opened.check().findings} <= {"bytes", "missing"}
        opened.change_settings({"blobs.inlineMaxBytes": 100})
        written = opened.write(ObjectKey("", "small"), [b"goes into the table of payloads"])
        with opened.read(written.key) as reader:
            assert reader.read() == b"goes into the table of payloads"


@pytest.mark.parametrize("where", ["copying", "rewriting"])
def test_without_room_the_old_store_stands_and_none_of_the_room_is_taken(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release before needs what little room there is, and whoever reads the message how much to make."""
    kept = unpack("0001", tmp_path)

    def full(*_: object, **__: object) -> None:
        raise driver_error(FULL, "database or disk is full")

    if where == "copying":
        monkeypatch.setattr(sqlite, "copy", full)
    else:
        monkeypatch.setattr(migrating, "_run", full)
    with pytest.raises(DiskFull) as refused:
        Store.open(kept)
    told = str(refused.value)
    assert told.startswith(f"the disk is full: the store at {kept} was not upgraded from the older format 0001 and is")
    assert re.search(r"a copy of its database, \d\S+B, and the upgrade itself take up to \d\S+B \(", told)
    assert not list(kept.glob("metadata.before*"))
    assert upgrade.read_revision(Layout(kept)) == "0001"


def test_garbage_of_before_is_collected_and_nothing_else(opened: Store, expected: Record) -> None:
    paths = [payload_path(opened, data) for data in UNREACHED]
    assert all(path.exists() for path in paths)
    found = opened.collect_garbage()
    assert (found.files, found.bytes, found.staging_files) == (3, sum(map(len, UNREACHED)), 1)
    assert not any(path.exists() for path in paths)
    reached = {version["digest"] for version in expected["versions"]} - {"", *expected["damaged"]}
    assert reached < {path.name for path in (opened.directory / "blobs").glob("*/*")}


def test_the_database_of_before_is_kept_aside(kept: Path, revision: str, tmp_path: Path) -> None:
    Store.open(kept).close()
    aside = kept / f"metadata.before-upgrade-from-{revision}.sqlite3"
    if revision == schema.REVISION:
        assert not aside.exists()
        return
    assert aside.stat().st_mode & 0o777 == 0o600
    other = unpack(revision, tmp_path / "other")
    for path in Layout.beside(other / "metadata.sqlite3"):
        path.unlink(missing_ok=True)
    aside.rename(other / "metadata.sqlite3")
    assert upgrade.read_revision(Layout(other)) == revision
    with Store.open(other) as store:
        expected = json.loads((STORES / f"{revision}.json").read_text())
        assert [as_record(version) for version in all_versions(store)] == expected["versions"]


READING = (
    ("ls",),
    ("ls", "main/"),
    ("stat", "main/plain"),
    ("cat", "main/plain"),
    ("versions", "main/history"),
    ("du", "main"),
    ("config",),
    ("rm", "main/plain"),
    ("gc",),
)


def test_verbs_do_not_upgrade(revision: str, kept: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    if revision == schema.REVISION:
        pytest.skip("the store has the present revision")
    before, cas = content(kept), command_in(kept, capsysbinary)
    with pytest.raises(StoreUnusable, match=f"older format {revision}; serve it once"):
        Store.open(kept, create=False)
    for words in READING:
        found = cas(*words)
        assert (found.code, found.out) == (2, b""), words
        assert f"has the older format {revision}; serve it once" in found.err
    assert content(kept) == before


def test_serving_upgrades(kept: Path, expected: Record) -> None:
    with Server(data_dir=kept) as server, Client(server.target, protos.BUCKETED) as client:
        for record in expected["versions"]:
            if not record["digest"] or record["digest"] in expected["damaged"]:
                continue
            where = {"bucket": record["bucket"], "version_id": record["version_id"]}
            meta, data = client.read(record["key"], **where)
            assert blake3(b"".join(data)).hexdigest() == record["digest"]
            assert dict(meta.metadata) == record["metadata"]
            assert meta.content_type == record["headers"]["content_type"]
        assert not server.staged(), "what a cut-off upload left is removed"
        server.stop()


# ---- backups of earlier ones ----


def test_an_earlier_backup_that_was_upgraded_is_restored(tmp_path: Path) -> None:
    """Whoever looks into a backup with a later release upgrades its rows; it stays the backup that it was."""
    looked_into, as_it_was = unpack("backup-0002", tmp_path / "a"), unpack("backup-0002", tmp_path / "b")
    with Store.open(looked_into) as opened:
        assert opened.head(ObjectKey("site", "index.html")).size == 4
    assert upgrade.read_revision(Layout(looked_into)) == schema.REVISION
    for source in (looked_into, as_it_was):
        restored = restore(source, tmp_path / f"from {source.parent.name}")
        assert not restored.doubts
        with Store.open(Path(restored.directory)) as opened:
            assert not opened.check(CheckOptions(read_data=EVERYTHING)).findings
            with opened.read(ObjectKey("site", "inlined")) as reader:
                assert reader.read() == b"inlined\n"


def test_an_earlier_backup_that_was_changed_after_its_upgrade_is_refused(tmp_path: Path) -> None:
    source = unpack("backup-0002", tmp_path)
    Store.open(source).close()
    with closing(sqlite.connect(source / "metadata.sqlite3")) as connection:
        connection.execute("UPDATE versions SET content_type = 'text/plain' WHERE content_type = 'text/html'")
    with pytest.raises(DatabaseDamaged, match="not those that its manifest was made for: root"):
        restore(source, tmp_path / "restored")


# ---- a later one ----


@pytest.fixture(name="later")
def later_fixture(tmp_path: Path) -> Path:
    return unpack("later", tmp_path)


def refusal(text: str) -> bool:
    return "has format 99, revision 9999; this release of gestalt-cas reads up to format" in text


@pytest.mark.parametrize("create", [True, False])
def test_a_later_store_is_refused_unchanged(later: Path, create: bool) -> None:
    before = content(later)
    assert before["metadata.sqlite3-wal"], "what makes it a later one stands in the WAL"
    with pytest.raises(SchemaTooNew) as raised:
        Store.open(later, create=create, settings={"versioning": "suspended"})
    assert refusal(str(raised.value))
    assert content(later) == before


def test_a_later_store_whose_wal_is_gone_is_refused_unchanged(later: Path) -> None:
    database = later / "metadata.sqlite3"
    with closing(sqlite.connect(database)) as connection:
        connection.execute("VACUUM")
    assert not (later / "metadata.sqlite3-wal").exists()
    before = content(later)
    with pytest.raises(SchemaTooNew):
        Store.open(later)
    assert content(later) == before


VERBS = (
    *READING,
    ("init",),
    ("config", "versioning", "suspended"),
    ("put", __file__, "main/k"),
    ("cp", "main/plain", "main/l"),
    ("rm", "-r", "--yes", "main/"),
    ("rm", "--version-id", "null", "main/null"),
    ("purge", "main/plain"),
    ("get", "-r", "main/", "unused"),
    ("sync", "main/", "./unused"),
    ("keys", "rotate"),
)


def test_every_verb_refuses_a_later_store(
    later: Path, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, cas = content(later), command_in(later, capsysbinary)
    for words in VERBS:
        found = cas(*words)
        assert (found.code, found.out) == (2, b""), (words, found)
        assert refusal(found.err), (words, found.err)
    assert content(later) == before


def test_serve_refuses_a_later_store(later: Path, tmp_path: Path) -> None:
    before = content(later)
    server = Process([*SERVE, "--data-dir", str(later), "--set", "versioning=suspended"])
    try:
        assert server.popen.wait(60) == 2
        assert refusal(server.stderr)
        server.assert_no_traceback()
    finally:
        server.forget()
    assert content(later) == before
