"""Restoring: everything is verified before the directory counts as a store, and what is wrong is said."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from blake3 import blake3

import backups
from backups import alter, blob_path, manifest, names, query, verify
from gestalt_cas import Store, StoreError, restore
from gestalt_cas.backups import destinations, manifests, restoring
from gestalt_cas.backups.backup import Lost
from gestalt_cas.backups.manifests import Kind
from gestalt_cas.errors import (
    DatabaseDamaged,
    DigestMismatch,
    NoStore,
    SchemaTooNew,
    StorageFault,
    StoreBusy,
    StoreUnusable,
)
from gestalt_cas.sql import schema
from gestalt_cas.system import locks
from storage import body, flip, history, key, put

SIZES = (0, 1, 1 << 20, (1 << 20) + 1, 300)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "CLAIM_SECONDS", 0.05)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a few objects, one of them with two versions and one deleted, beside a backup of it."""
    home = tmp_path_factory.mktemp("originals")
    with Store.open(home / "store") as store:
        for number, size in enumerate(SIZES):
            put(store, f"k{number}", bytes([number]) * size)
        put(store, "k0", b"a second version")
        store.delete(key("k1"))
        store.back_up(home / "backup")
    return home


@pytest.fixture
def store(originals: Path, tmp_path: Path) -> Iterator[Store]:
    with Store.open(backups.copy(originals / "store", tmp_path / "store")) as opened:
        yield opened


@pytest.fixture
def backup(originals: Path, tmp_path: Path) -> Path:
    return backups.copy(originals / "backup", tmp_path / "backup")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "restored"


def not_a_store(target: Path) -> bool:
    """Whether nothing opens the directory as a store, also what makes one where there is none."""
    for create in (False, True):
        try:
            Store.open(target, create=create).close()
        except (NoStore, StoreUnusable):
            continue
        return False
    return True


# ---- what a restored store is ----


def test_a_backup_that_this_user_may_not_read_is_not_called_damaged(
    backup: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(manifests, "read", refuse)
    with pytest.raises(StoreUnusable) as caught:
        restore(backup, target)
    assert str(caught.value) == f"{backup / 'manifest.json'} cannot be read: Permission denied"


def test_a_restored_store_is_the_store(store: Store, backup: Path, target: Path) -> None:
    done = restore(backup, target)
    assert names(target) == backups.STORE_FILES
    assert backups.modes(target) == {"directory": {0o700}, "payload": {0o400}, "other": {0o600}}
    assert backups.versions(target) == backups.versions(backup)
    assert (done.root, backups.root(target)) == (manifest(backup)["root"],) * 2
    assert (done.copied, done.reused, done.lost, done.doubts) == (6, 0, (), ())
    verify(target)
    with Store.open(target, create=False) as opened:
        assert opened.settings() == store.settings()
        assert body(opened, "k0") == b"a second version"
        assert body(opened, "k3") == bytes([3]) * SIZES[3]
        assert [found.delete_marker for found in history(opened, "k1")] == [True, False]


def test_it_goes_on_where_the_backup_ends(store: Store, backup: Path, target: Path) -> None:
    done = restore(backup, target)
    ids = {row[3] for row in backups.versions(backup)}
    with Store.open(target, create=False) as opened:
        first = put(opened, "new", b"bytes")
    assert first.seq == done.sequence + 1 == manifest(backup)["sequence"] + 1
    # The store that it is a copy of gives the same sequence to another version, with another id.
    other = put(store, "new", b"bytes")
    assert other.seq == first.seq
    assert len({*ids, first.version_id, other.version_id}) == len(ids) + 2


def test_it_is_no_backup_but_can_be_backed_up_to_where_it_came_from(backup: Path, target: Path) -> None:
    restore(backup, target)
    assert manifests.state(target).kind is Kind.NONE
    with Store.open(target, create=False) as opened:
        put(opened, "new", b"bytes")
        done = opened.back_up(backup)
    assert (done.kept, done.copied) == (6, 1)
    verify(backup)


@pytest.mark.parametrize("with_keys", [True, False])
def test_signing_keys_come_along_only_when_asked_for(store: Store, backup: Path, target: Path, with_keys: bool) -> None:
    (store.directory / "keys.json").write_text('{"accessKeyId": "a"}')
    done = store.back_up(backup, with_keys=with_keys)
    assert done.keys is with_keys
    assert restore(backup, target).keys is with_keys
    assert (backup / "keys.json").exists() is with_keys
    assert (target / "keys.json").exists() is with_keys
    if with_keys:
        assert (target / "keys.json").read_text() == '{"accessKeyId": "a"}'
        assert manifest(backup)["keys"] == blake3(b'{"accessKeyId": "a"}').hexdigest()


def test_keys_of_another_backup_whose_restore_was_cut_off_are_not_taken_over(
    store: Store, backup: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.directory / "keys.json").write_text('{"accessKeyId": "a"}')
    store.back_up(tmp_path / "with keys", with_keys=True)
    store.back_up(backup)
    with monkeypatch.context() as patch:
        patch.setattr(restoring, "sync_directory", Mock(side_effect=OSError(errno.EIO, "cut off here")))
        with pytest.raises(StorageFault):
            restore(tmp_path / "with keys", target)
    assert (target / "keys.json").exists()
    assert not_a_store(target)
    assert not restore(backup, target).keys
    assert not (target / "keys.json").exists()


def test_keys_are_not_left_in_a_later_backup_without_them(store: Store, backup: Path) -> None:
    (store.directory / "keys.json").write_text('{"accessKeyId": "a"}')
    store.back_up(backup, with_keys=True)
    store.back_up(backup)
    assert not (backup / "keys.json").exists()
    (backup / "keys.json").write_text("made by a server on the backup")
    store.back_up(backup)
    assert (backup / "keys.json").exists()


def test_without_keys_in_the_store_there_are_none_to_back_up(store: Store, backup: Path, target: Path) -> None:
    assert not store.back_up(backup, with_keys=True).keys
    assert not restore(backup, target).keys


def test_other_keys_than_the_backup_was_made_with_are_damage(store: Store, backup: Path, target: Path) -> None:
    (store.directory / "keys.json").write_text('{"accessKeyId": "a"}')
    store.back_up(backup, with_keys=True)
    (backup / "keys.json").write_text('{"accessKeyId": "b"}')
    with pytest.raises(DigestMismatch, match=r"keys\.json"):
        restore(backup, target)
    assert not_a_store(target)
    done = restore(backup, target, allow_incomplete=True)
    assert (done.keys, len(done.doubts), done.reused) == (False, 1, 6)
    assert not (target / "keys.json").exists()


def test_a_backup_where_nothing_may_be_written(backup: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a read-only file system no lock file can be opened, and SQLite must not want files of its own."""
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if str(path).startswith(f"{backup}/") and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *rest, **named)

    before = sorted(path for path in backup.iterdir())
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(PermissionError):
        locks.FileLock(backup / "schema.lock")
    assert restore(backup, target).lost == ()
    assert sorted(path for path in backup.iterdir()) == before


# ---- where to ----


def strange(target: Path) -> None:
    target.mkdir()
    (target / "thesis.txt").write_text("two years of work")


def a_store(target: Path) -> None:
    Store.open(target).close()


def payloads_alone(target: Path) -> None:
    with Store.open(target) as opened:
        put(opened, "k", b"bytes")
    for path in target.iterdir():
        if path.is_file() and path.suffix != ".lock":
            path.unlink()


def a_file(target: Path) -> None:
    target.write_text("a file")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (strange, "not empty, it holds 'thesis.txt'"),
        (a_store, "already holds a store"),
        (payloads_alone, "holds payloads"),
        (a_file, "[Nn]ot a directory"),
    ],
)
def test_only_a_new_or_empty_directory_will_do(
    backup: Path, target: Path, make: Callable[[Path], None], words: str
) -> None:
    make(target)
    with pytest.raises(StoreUnusable, match=words):
        restore(backup, target)


def test_an_empty_directory_will_do(backup: Path, target: Path) -> None:
    target.mkdir()
    restore(backup, target)
    verify(target)


@pytest.mark.parametrize("place", ["inside", "around"])
def test_backup_and_store_may_not_lie_in_each_other(backup: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(StoreUnusable, match="is within"):
        restore(backup, backup / "restored" if place == "inside" else tmp_path)


def test_a_backup_that_is_under_way_is_refused(store: Store, backup: Path, target: Path) -> None:
    refused = []

    def look(what: str, _done: int, _total: int) -> None:
        if what == "checking rows":
            with pytest.raises(StoreBusy, match="a backup perhaps"):
                restore(backup, target)
            refused.append(what)

    store.back_up(backup, progress=look)
    assert refused


# ---- what from ----


def no_directory(backup: Path) -> None:
    backup.rename(backup.with_name("elsewhere"))


def no_manifest(backup: Path) -> None:
    (backup / "manifest.json").unlink()


def no_rows(backup: Path) -> None:
    (backup / "metadata.sqlite3").unlink()


def rows_of_another(backup: Path) -> None:
    alter(backup, "UPDATE settings SET value = '\"another\"' WHERE name = 'backup.id'")


def torn_manifest(backup: Path) -> None:
    os.truncate(backup / "manifest.json", 100)


def edited_manifest(backup: Path) -> None:
    text = (backup / "manifest.json").read_text()
    (backup / "manifest.json").write_text(text.replace('"objects": 4', '"objects": 5'))
    assert text != (backup / "manifest.json").read_text()


def later_manifest(backup: Path) -> None:
    (backup / "manifest.json").write_text(json.dumps(backups.sign({**manifest(backup), "format": 2})))


def written_to(backup: Path) -> None:
    with Store.open(backup) as opened:
        put(opened, "of its own", b"bytes")


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (no_directory, Kind.NONE, "no such directory"),
        (no_manifest, Kind.CUT_OFF, "cut off"),
        (no_rows, Kind.CUT_OFF, "not those of its manifest"),
        (rows_of_another, Kind.CUT_OFF, "not those of its manifest"),
        (torn_manifest, Kind.DAMAGED, "damaged"),
        (edited_manifest, Kind.DAMAGED, "another digest"),
        (later_manifest, Kind.DAMAGED, "has format 2"),
        (written_to, Kind.CHANGED, "written to after"),
    ],
)
def test_what_is_no_complete_backup_is_refused(
    backup: Path, target: Path, spoil: Callable[[Path], None], kind: Kind, words: str
) -> None:
    spoil(backup)
    found = manifests.state(backup)
    assert (found.kind, found.whole) == (kind, False)
    with pytest.raises(StoreUnusable, match=words):
        restore(backup, target)
    assert not target.exists()


@pytest.mark.parametrize("spoil", [no_manifest, torn_manifest, written_to, rows_of_another])
def test_what_is_whole_can_be_had_all_the_same(backup: Path, target: Path, spoil: Callable[[Path], None]) -> None:
    spoil(backup)
    done = restore(backup, target, allow_incomplete=True)
    assert done.lost == ()
    assert len(done.doubts) >= 1
    assert backups.versions(target) == backups.versions(backup)
    verify(target)


def test_a_store_that_is_no_backup_is_not_restored(store: Store, target: Path) -> None:
    put(store, "k", b"bytes")
    with pytest.raises(StoreUnusable, match="no backup"):
        restore(store.directory, target, allow_incomplete=True)


def test_a_backup_of_a_later_release_is_refused(backup: Path, target: Path, store: Store) -> None:
    alter(backup, f"PRAGMA user_version={schema.FORMAT + 1}")
    for call in (lambda: restore(backup, target), lambda: store.back_up(backup)):
        with pytest.raises(SchemaTooNew, match=f"format {schema.FORMAT + 1}"):
            call()


CHANGES = {
    "a version's size": "UPDATE versions SET size = size + 1 WHERE seq = 5",
    "a key": "UPDATE versions SET key = X'6b39' WHERE seq = 5",
    "a version id": "UPDATE versions SET version_id = 'x' WHERE seq = 5",
    "a content type": "UPDATE versions SET content_type = 'text/html' WHERE seq = 5",
    "metadata": "UPDATE versions SET metadata = '{}' WHERE seq = 5",
    "a time": "UPDATE versions SET commit_ms = commit_ms + 1 WHERE seq = 5",
    "a version less": "DELETE FROM versions WHERE seq = 5",
    "the current one": "UPDATE current SET seq = 1 WHERE key = X'6b30'",
    "a key that is no longer listed": "DELETE FROM current WHERE key = X'6b30'",
    "a chunk sum": "UPDATE blobs SET sums = X'00112233445566778899aabbccddeeff' WHERE size = 1",
    "a payload's size": "UPDATE blobs SET size = 2 WHERE size = 1",
    "a setting": "UPDATE settings SET value = '\"suspended\"' WHERE name = 'versioning'",
    "a quota": "INSERT INTO quotas VALUES ('bucket', X'', 1, 1)",
    "the last time": "UPDATE counter SET commit_ms = 0",
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_rows_than_those_of_the_manifest_are_found(backup: Path, target: Path, what: str) -> None:
    alter(backup, "PRAGMA foreign_keys=OFF")
    alter(backup, CHANGES[what])
    with pytest.raises(DatabaseDamaged, match=r"root [0-9a-f]{64} instead of"):
        restore(backup, target)
    assert not_a_store(target)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE blobs SET damaged_ms = 1", "INSERT INTO settings VALUES ('gc.last', '1')", "PRAGMA user_version=2"],
)
def test_what_check_and_gc_note_in_a_backup_does_not_spoil_it(backup: Path, target: Path, statement: str) -> None:
    alter(backup, statement)
    restore(backup, target)
    assert query(target, "SELECT * FROM blobs WHERE damaged_ms IS NOT NULL") == []
    verify(target)


def test_rows_that_sqlite_finds_malformed_are_never_restored(backup: Path, target: Path) -> None:
    path = backup / "metadata.sqlite3"
    data = bytearray(path.read_bytes())
    pages = len(data) // schema.PAGE_SIZE
    for page in range(2, pages):
        data[page * schema.PAGE_SIZE : page * schema.PAGE_SIZE + 64] = bytes(64)
    path.write_bytes(data)
    for allow in (False, True):
        with pytest.raises(StoreError):
            restore(backup, target, allow_incomplete=allow)
        assert not (target / "metadata.sqlite3").exists()


# ---- payloads ----


def missing(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    flip(path, 0)


def longer(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b"x")


def last_bit(path: Path) -> None:
    flip(path, path.stat().st_size - 1)


@pytest.mark.parametrize("spoil", [missing, flipped, longer, last_bit])
def test_a_payload_that_is_not_whole_is_named(backup: Path, target: Path, spoil: Callable[[Path], None]) -> None:
    path = blob_path(backup, blake3(bytes([3]) * SIZES[3]).digest())
    spoil(path)
    heard: list[Lost] = []
    with pytest.raises(DigestMismatch, match=path.name) as caught:
        restore(backup, target, on_lost=heard.append)
    assert caught.value.digest == path.name
    assert [(one.digest, one.objects) for one in heard] == [(path.name, ("bucket/k3",))]
    assert not_a_store(target)
    done = restore(backup, target, allow_incomplete=True)
    assert (done.reused, done.copied, [one.digest for one in done.lost]) == (5, 0, [path.name])
    assert query(target, "SELECT digest FROM blobs WHERE damaged_ms IS NOT NULL") == [(bytes.fromhex(path.name),)]
    with Store.open(target, create=False) as opened:
        assert body(opened, "k4") == bytes([4]) * SIZES[4]
        put(opened, "healing", bytes([3]) * SIZES[3])
        assert body(opened, "k3") == bytes([3]) * SIZES[3]


def test_every_payload_that_is_lost_is_named(backup: Path, target: Path) -> None:
    lost = sorted(path.name for path in (backup / "blobs").glob("*/*"))[:4]
    for name in lost:
        blob_path(backup, bytes.fromhex(name)).unlink()
    heard: list[Lost] = []
    with pytest.raises(DigestMismatch, match="4 payloads"):
        restore(backup, target, on_lost=heard.append)
    assert [one.digest for one in heard] == lost


def test_what_the_store_had_lost_is_told_before_anything_is_copied(store: Store, tmp_path: Path, target: Path) -> None:
    put(store, "lost", b"bytes of lost")
    blob_path(store.directory, blake3(b"bytes of lost").digest()).unlink()
    assert len(store.back_up(tmp_path / "new").lost) == 1
    with pytest.raises(DigestMismatch, match="incomplete: 1 payloads"):
        restore(tmp_path / "new", target)
    assert not target.exists()
    done = restore(tmp_path / "new", target, allow_incomplete=True)
    assert [one.objects for one in done.lost] == [("bucket/lost",)]
    assert done.doubts == ()


def test_what_a_restore_before_left_is_read_before_it_counts(backup: Path, target: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what == "copying payloads" and done == total:
            raise StoppedError

    with pytest.raises(StoppedError):
        restore(backup, target, progress=stop)
    assert not_a_store(target)
    spoilt = blob_path(target, blake3(bytes([3]) * SIZES[3]).digest())
    flip(spoilt, 5)
    done = restore(backup, target)
    assert (done.reused, done.copied) == (5, 1)
    verify(target)
