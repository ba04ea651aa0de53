"""Purging a key: every version and its bytes are gone when the call returns, and what stays is named."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import ObjectKey, Store
from gestalt_cas.errors import Cancelled, DiskFull, Held, NoSuchKey, Protected, StorageFault
from gestalt_cas.files import blobs
from gestalt_cas.keeping import pins, reachability
from gestalt_cas.removal import garbage, purging, sweeps
from gestalt_cas.removal.purging import Purged
from gestalt_cas.rows import version_ids
from gestalt_cas.transactions.database import Database
from storage import BUCKET, Failing, body, broken, change, history, key, payload_path, payloads, put, rows


def digest(data: bytes) -> str:
    return blake3(data).hexdigest()


def quarantine(store: Store, data: bytes, ms: int) -> list[Path]:
    """Set a copy aside as `check --repair` does, with its note."""
    directory = store.directory / "quarantine"
    directory.mkdir(exist_ok=True)
    copy, note = directory / f"{digest(data)}.{ms}", directory / f"{digest(data)}.{ms}.json"
    copy.write_bytes(data)
    note.write_text(json.dumps({"why": "a test"}))
    return [copy, note]


def purged(versions: int, **more: Any) -> Purged:
    found = {"files": 0, "bytes": 0, "quarantined": 0, "shared": 0, "pinned": 0, **more}
    return Purged(key("k"), versions, **found)


def test_all_versions_and_their_bytes_go(store: Store) -> None:
    for data in (b"one", b"two", b"one", b"three"):
        put(store, "k", data)
    store.delete(key("k"))
    put(store, "k2", b"other")
    put(store, "k", b"two")
    assert store.purge(key("k")) == purged(6, files=3, bytes=11)
    assert history(store, "k") == []
    assert payloads(store) == [digest(b"other")]
    assert rows(store, "SELECT * FROM unreachable") == []
    assert body(store, "k2") == b"other"
    with pytest.raises(NoSuchKey):
        store.head(key("k"))


def test_null_versions_go_with_the_others(store: Store) -> None:
    put(store, "k", b"numbered")
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    store.change_settings({"versioning": "enabled"})
    put(store, "k", b"numbered again")
    assert {version.version_id == "null" for version in history(store, "k")} == {True, False}
    assert store.purge(key("k")).versions == 3
    assert payloads(store) == []


def test_markers_alone_are_something_to_purge(store: Store) -> None:
    store.delete(key("k"))
    store.delete(key("k"))
    assert store.purge(key("k")) == purged(2)
    assert history(store, "k") == []


@pytest.mark.parametrize("name", ["k", "never there"])
def test_an_absent_key_is_told(store: Store, name: str) -> None:
    put(store, "k", b"data")
    store.purge(key("k"))
    seq = rows(store, "SELECT seq FROM counter")
    with pytest.raises(NoSuchKey, match="nothing to purge"):
        store.purge(key(name))
    assert rows(store, "SELECT seq FROM counter") == seq


def test_the_default_bucket_is_meant_by_no_name(store: Store) -> None:
    store.write(ObjectKey("", "k"), [b"data"])
    assert store.purge(ObjectKey("", "k")).key == ObjectKey("default", "k")
    assert payloads(store) == []


def test_what_another_object_shares_stays(store: Store) -> None:
    for data in (b"shared", b"own", b"shared by a version"):
        put(store, "k", data)
    put(store, "other", b"shared")
    put(store, "hidden", b"shared by a version")
    store.delete(key("hidden"))
    kept = quarantine(store, b"shared", 1)
    assert store.purge(key("k")) == purged(3, files=1, bytes=3, shared=2)
    assert payloads(store) == sorted([digest(b"shared"), digest(b"shared by a version")])
    assert all(path.exists() for path in kept)
    assert body(store, "other") == b"shared"


def test_quarantined_copies_go_with_their_notes(store: Store) -> None:
    put(store, "k", b"data")
    put(store, "k", b"more")
    gone = [path for data, ms in ((b"data", 5), (b"data", 17), (b"more", 5)) for path in quarantine(store, data, ms)]
    kept = quarantine(store, b"other", 5)
    assert store.purge(key("k")) == purged(2, files=2, bytes=8, quarantined=3)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_copies_in_quarantine_go_although_the_payload_itself_has_gone(store: Store) -> None:
    put(store, "k", b"data")
    payload_path(store, b"data").unlink()
    quarantine(store, b"data", 5)
    assert store.purge(key("k")) == purged(1, quarantined=1)
    assert rows(store, "SELECT * FROM blobs") == []


def test_quarantine_that_cannot_be_emptied_refuses_the_purge(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would lead to the copies any more once the versions have gone."""
    put(store, "k", b"data")
    (copy, note) = quarantine(store, b"data", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Failing(Path.unlink, broken()))
        with pytest.raises(StorageFault, match="quarantined"):
            store.purge(key("k"))
    assert body(store, "k") == b"data"
    assert copy.exists()
    assert note.exists()
    assert store.purge(key("k")).quarantined == 1


def test_a_copy_goes_before_its_note(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"data")
    (copy, note) = quarantine(store, b"data", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Failing(Path.unlink, broken(), at=2))
        with pytest.raises(StorageFault):
            store.purge(key("k"))
    assert not copy.exists()
    assert note.exists()


def test_what_a_backup_has_pinned_goes_after_it(store: Store) -> None:
    put(store, "k", b"data")
    quarantine(store, b"data", 5)
    with store._database.write() as tx:
        pins.place(tx, "backup", "backup", garbage.now_ms(), {})
    assert store.purge(key("k")) == purged(1, pinned=1, quarantined=1)
    assert history(store, "k") == []
    assert payloads(store) == [digest(b"data")]
    change(store, "DELETE FROM pins")
    assert store.collect_garbage().files == 1
    assert payloads(store) == []


def test_a_grace_that_is_running_does_not_keep_it(store: Store) -> None:
    version = put(store, "k", b"data")
    put(store, "k", b"more")
    store.delete(key("k"), version_id=version.version_id)
    store.collect_garbage(grace_seconds=3600)
    put(store, "k", b"data")
    assert store.purge(key("k")) == purged(2, files=2, bytes=8)


def test_a_file_that_cannot_be_removed_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", Failing(Path.unlink, OSError(errno.EROFS, "Read-only file system")))
        found = store.purge(key("k"))
    assert (found.files, found.stuck_files) == (0, 1)
    assert "Read-only file system" in found.stuck_reason
    assert history(store, "k") == []
    assert store.collect_garbage().files == 1


def test_names_are_gone_from_the_disk_before_the_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must bring back neither the payload nor, once no row leads to it, a copy of it."""
    put(store, "k", b"data")
    quarantine(store, b"data", 5)
    events: list[str] = []
    sync, unlink, commit = blobs.sync_directory, Path.unlink, Database._commit

    def note(what: str, real: Any) -> Any:
        def noted(*arguments: Any, **options: Any) -> Any:
            events.append(f"{what} {arguments[0].name}" if isinstance(arguments[0], Path) else what)
            return real(*arguments, **options)

        return noted

    monkeypatch.setattr(blobs, "sync_directory", note("sync", sync))
    monkeypatch.setattr(Path, "unlink", note("unlink", unlink))
    monkeypatch.setattr(Database, "_commit", note("commit", commit))
    store.purge(key("k"))
    name = digest(b"data")
    assert events == [
        f"unlink {name}.5",
        f"unlink {name}.5.json",
        "sync quarantine",
        "commit",
        "commit",
        f"unlink {name}",
        f"sync {name[:2]}",
    ]


def test_a_disk_that_fails_to_sync_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "sync_directory", Failing(blobs.sync_directory, broken()))
        with pytest.raises(StorageFault, match="syncing"):
            store.purge(key("k"))
    assert payloads(store) == []


def test_it_works_with_the_reserve_where_there_is_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"data")
    quarantine(store, b"data", 5)
    store._parts.reserve.make()
    real, tried = Database._commit, []

    def commit(database: Database, connection: Any) -> None:
        tried.append(1)
        if len(tried) == 1:
            connection.execute("ROLLBACK")
            raise DiskFull("the disk is full")
        real(database, connection)

    monkeypatch.setattr(Database, "_commit", commit)
    assert store.purge(key("k")) == purged(1, files=1, bytes=4, quarantined=1)
    assert not os.listdir(store.directory / "quarantine")


def test_a_key_of_many_versions(store: Store) -> None:
    put(store, "k", b"data")
    for _ in range(300):
        store.copy(key("k"), key("k"))
    assert store.purge(key("k")) == purged(301, files=1, bytes=4)


def test_what_was_removed_before_goes_as_well(store: Store) -> None:
    first = put(store, "k", b"first")
    store.delete(key("k"), version_id=first.version_id)
    put(store, "k", b"second")
    put(store, "other", b"shared")
    shared = put(store, "k", b"shared")
    store.delete(key("k"), version_id=shared.version_id)
    purged = store.purge(key("k"))
    assert (purged.versions, purged.files, purged.bytes, purged.shared) == (1, 2, 11, 1)
    assert payloads(store) == [payload_path(store, b"shared").name]
    assert rows(store, "SELECT gone_digest FROM versions WHERE key = ?", b"k") == [(b"",)] * 3


def test_what_a_snapshot_shows_is_not_purged(store: Store) -> None:
    shown = put(store, "k", b"shown")
    store.create_snapshot("before")
    with pytest.raises(Protected, match="snapshots: before; delete them first"):
        store.purge(key("k"))
    store.delete(key("k"), version_id=shown.version_id)
    with pytest.raises(Protected, match="kept by snapshots: before"):
        store.purge(key("k"))
    assert body(store, "k", as_of="before") == b"shown"
    store.delete_snapshot("before")
    assert store.purge(key("k")) == purged(0, files=1, bytes=5)


def test_a_key_of_which_only_traces_are_left_can_be_purged_once(store: Store) -> None:
    made = put(store, "k", b"1", metadata={"secret": "x"})
    store.delete(key("k"), version_id=made.version_id)
    assert store.purge(key("k")).versions == 0
    assert rows(store, "SELECT metadata FROM versions") == [(None,)]
    assert payloads(store) == []
    with pytest.raises(NoSuchKey):
        store.purge(key("k"))


def many(store: Store, count: int) -> None:
    for number in range(count):
        put(store, "k", b"%d" % number)


def test_many_versions_go_a_stretch_at_a_time_the_oldest_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for one stretch, not for all of them, and the object is there until the last."""
    monkeypatch.setattr(purging, "BATCH_ROWS", 10)
    many(store, 35)
    left: list[int] = []

    def tell(what: str, done: int, _: int) -> None:
        if what == "removing versions":
            left.append(len(history(store, "k")))
            assert body(store, "k") == b"34"
            assert done == 35 - left[-1]

    assert store.purge(key("k"), progress=tell) == purged(35, files=35, bytes=10 + 25 * 2)
    assert left == [25, 15, 5]
    assert history(store, "k") == []
    assert payloads(store) == []


def test_a_purge_that_is_stopped_leaves_the_newest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "BATCH_ROWS", 10)
    many(store, 25)

    def stop(*_: object) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        store.purge(key("k"), progress=stop)
    assert [body(store, "k", version_id=one.version_id) for one in history(store, "k")][::-1] == [
        b"%d" % number for number in range(10, 25)
    ]
    assert store.collect_garbage().files == 10
    assert store.purge(key("k")).versions == 15
    assert payloads(store) == []


def test_a_hold_of_no_version_keeps_nothing(store: Store) -> None:
    """No removal leaves one; by hand it can be there."""
    put(store, "k", b"one")
    store.hold(BUCKET, "k", version_id=store.head(key("k")).version_id)
    change(store, f"UPDATE holds SET version_id = '{version_ids.new(77, 1)[0]}'")
    assert store.purge(key("k")) == purged(1, files=1, bytes=3)


@pytest.mark.parametrize("keeper", ["hold", "snapshot"])
def test_what_keeps_the_newest_of_many_is_met_before_any_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch, keeper: str
) -> None:
    monkeypatch.setattr(purging, "BATCH_ROWS", 10)
    many(store, 25)
    if keeper == "hold":
        store.hold(BUCKET, "k", version_id=store.head(key("k")).version_id)
    else:
        store.create_snapshot("before", BUCKET)
    with pytest.raises(Held if keeper == "hold" else Protected):
        store.purge(key("k"))
    assert len(history(store, "k")) == 25


def test_a_batch_of_a_sweep_costs_what_it_takes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not what was named: else the payloads of a purge would take the square of their number."""
    monkeypatch.setattr(sweeps, "FIRST_BATCH_FILES", 1)
    monkeypatch.setattr(sweeps, "BATCH_FILES", 1)
    many(store, 40)
    asked: list[bytes] = []
    real = reachability.recorded

    def recorded(connection: Any, one: bytes) -> list[reachability.Garbage]:
        asked.append(one)
        return real(connection, one)

    monkeypatch.setattr(reachability, "recorded", recorded)
    assert store.purge(key("k")).files == 40
    assert len(asked) <= 5 * 40
