"""Backing up a live store: one moment of the rows, every payload verified, and the backup before good to the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

import backups
from backups import BACKUP_FILES, alter, empty_store_fixture, files, manifest, names, query, store_fixture, verify  # noqa: F401
from gestalt_cas import BackedUp, ObjectKey, Store, restore
from gestalt_cas.backups import destinations, manifests, row_copies
from gestalt_cas.backups.manifests import Kind
from gestalt_cas.errors import DatabaseDamaged, StorageFault, StoreBusy, StoreUnusable
from gestalt_cas.keeping import pins
from gestalt_cas.objects import Headers
from storage import Child, change, flip, history, key, payload_path, put, rows


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "CLAIM_SECONDS", 0.05)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "dest"


def furnish(store: Store) -> None:
    """Objects of every shape: versions, markers, null versions, equal bytes, none, many chunks, odd names."""
    put(store, "twice", b"one")
    put(store, "twice", b"two", headers=Headers(content_type="text/plain", cache_control="no-store"))
    put(store, "same", b"two", metadata={"né": "ü"})
    put(store, "empty", b"")
    put(store, "large", os.urandom((2 << 20) + 77))
    put(store, "gone", b"kept all the same")
    store.delete(key("gone"))
    put(store, "nul\0\n'é\U0001f600", b"odd")
    store.write(ObjectKey("another", "k"), [b"elsewhere"])
    store.change_settings({"versioning": "suspended"})
    put(store, "null", b"first")
    put(store, "null", b"second")


def whole(done: BackedUp) -> bool:
    return done.lost == ()


# ---- what a backup is ----


def test_a_backup_is_a_store_with_the_same_contents(store: Store, dest: Path) -> None:
    furnish(store)
    done = store.back_up(dest)
    source = rows(store, f"SELECT {backups.VERSION_COLUMNS} FROM versions ORDER BY seq")
    assert names(dest) == BACKUP_FILES
    assert backups.versions(dest) == source
    verify(dest)
    assert manifest(dest)["root"] == backups.root(dest) == done.root
    with Store.open(dest, create=False) as opened:
        assert opened.settings() == store.settings()
        assert opened.usage("bucket") == store.usage("bucket")
        assert opened.health() == ""


def test_the_manifest_says_what_there_is(store: Store, dest: Path) -> None:
    furnish(store)
    done = store.back_up(dest)
    content = manifest(dest)
    assert backups.sign(content) == content
    ((sequence, commit_ms),) = query(dest, "SELECT seq, commit_ms FROM counter")
    digests = {row[4]: row[5] for row in backups.versions(dest) if row[4] is not None}
    assert (content["sequence"], content["commit_ms"]) == (sequence, commit_ms)
    assert content["versions"] == sum(row[-2] is None for row in backups.versions(dest)) == done.versions
    assert content["objects"] == query(dest, "SELECT count(*) FROM current")[0][0] == done.objects
    assert content["blobs"] == len(digests) == done.blobs == done.copied
    assert content["bytes"] == sum(digests.values()) == done.bytes == done.copied_bytes
    assert (content["keys"], content["missing"], content["format"]) == (None, [], 1)
    assert manifests.state(dest).kind is Kind.COMPLETE


def test_modes(store: Store, dest: Path) -> None:
    furnish(store)
    (store.directory / "keys.json").write_text("{}")
    store.back_up(dest, with_keys=True)
    assert backups.modes(dest) == {"directory": {0o700}, "payload": {0o400}, "other": {0o600}}


def test_what_belongs_to_the_store_or_a_process_stays_behind(store: Store, dest: Path) -> None:
    furnish(store)
    store.collect_garbage()
    put(store, "purged", b"bytes that nothing reaches")
    for version in history(store, "purged"):
        store.delete(version.key, version_id=version.version_id)
    with store._database.write() as tx:
        pins.place(tx, "another", "hold", 1 << 60, {})
    notes = (
        "http.port",
        "signing.configured",
        "check.position",
        "check.last",
        "gc.last",
        "retention.last",
        "clock.seen",
    )
    for name in (*notes, "clock.seen", "of.a.later.release"):
        store.note(name, 1)
    store.collect_garbage()
    change(store, "UPDATE blobs SET damaged_ms = 1 WHERE size = 3")
    store.back_up(dest)
    assert query(dest, "SELECT * FROM pins") == []
    assert query(dest, "SELECT * FROM unreachable") == []
    assert query(dest, "SELECT digest FROM blobs WHERE damaged_ms IS NOT NULL") == []
    settings = {name for (name,) in query(dest, "SELECT name FROM settings")}
    assert settings == {*row_copies._SETTINGS, "backup.store", "backup.id"}
    lost = blake3(b"bytes that nothing reaches").digest()
    assert query(dest, "SELECT * FROM blobs WHERE digest = ?", lost) == []
    assert not backups.blob_path(dest, lost).exists()


def test_the_root_covers_every_setting_of_a_store(store: Store) -> None:
    """Whoever adds a setting changes the root digest, and with it the format of the manifest."""
    # Quotas are rows of their own table, which the root has as well.
    assert {*row_copies._SETTINGS, "quotas"} == set(store.settings().by_name())


def test_the_pin_stands_while_it_runs_and_is_gone_afterwards(store: Store, dest: Path) -> None:
    furnish(store)
    seen = set()

    def look(what: str, _done: int, _total: int) -> None:
        ((name, kind, beat),) = rows(store, "SELECT name, kind, heartbeat_ms FROM pins")
        assert beat is not None
        seen.add((what, name, kind))

    done = store.back_up(dest, progress=look)
    steps = ("copying rows", "checking rows", "copying payloads")
    assert seen == {(what, f"backup-{done.id}", "backup") for what in steps}
    assert rows(store, "SELECT * FROM pins") == []


def test_what_stats_shows_of_it(store: Store, dest: Path) -> None:
    furnish(store)
    done = store.back_up(dest)
    note = store.recall("backup.last")
    assert isinstance(note, dict)
    assert note["at_ms"] >= manifest(dest)["at_ms"]
    assert (note["result"], note["directory"], note["copied"]) == ("complete", str(dest), done.copied)


# ---- the next one ----


def test_the_next_one_copies_only_what_is_new(store: Store, dest: Path) -> None:
    furnish(store)
    first = store.back_up(dest)
    before = files(dest)
    put(store, "new", b"new bytes")
    put(store, "again", b"two")
    done = store.back_up(dest)
    assert (done.kept, done.reused, done.copied, done.copied_bytes) == (first.blobs, 0, 1, 9)
    assert {name: found for name, found in files(dest).items() if name in before} == before
    assert backups.versions(dest) == rows(store, f"SELECT {backups.VERSION_COLUMNS} FROM versions ORDER BY seq")
    assert manifest(dest)["root"] == backups.root(dest)
    assert names(dest) == BACKUP_FILES
    verify(dest)


def test_an_unchanged_store_gives_the_same_root(store: Store, dest: Path) -> None:
    furnish(store)
    first, second = store.back_up(dest), store.back_up(dest)
    assert (first.root, first.id == second.id, second.copied) == (second.root, False, 0)


def test_its_own_gc_removes_what_only_earlier_ones_needed(store: Store, dest: Path, tmp_path: Path) -> None:
    put(store, "k", b"old")
    put(store, "other", b"kept")
    store.back_up(dest)
    (old,) = history(store, "k")
    store.delete(old.key, version_id=old.version_id)
    store.back_up(dest)
    stale = backups.blob_path(dest, blake3(b"old").digest())
    assert stale.exists()
    with Store.open(dest, create=False) as opened:
        removed = [opened.collect_garbage().files for _ in range(2)]
    assert sum(removed) == 1
    assert not stale.exists()
    assert manifests.state(dest).kind is Kind.COMPLETE
    assert restore(dest, tmp_path / "restored").blobs == 1


def with_what_a_deleted_snapshot_kept(store: Store) -> None:
    """Until the store's next gc the removed version keeps its payload."""
    removed = put(store, "k", b"kept for the snapshot")
    put(store, "other", b"stays")
    store.create_snapshot("first")
    store.delete(removed.key, version_id=removed.version_id)
    store.delete_snapshot("first")


def test_its_own_gc_leaves_it_restorable_after_a_snapshot_was_deleted(store: Store, dest: Path, tmp_path: Path) -> None:
    with_what_a_deleted_snapshot_kept(store)
    made = store.back_up(dest)
    assert (made.blobs, made.bytes) == (1, 5)
    with Store.open(dest, create=False) as opened:
        assert opened.collect_garbage().files == 0
    restored = restore(dest, tmp_path / "restored")
    assert (restored.sequence, restored.blobs) == (made.sequence, 1)
    store.collect_garbage()
    assert store.back_up(dest).root == made.root


def test_what_a_deleted_snapshot_kept_stays_where_a_row_is_damaged(store: Store, dest: Path, tmp_path: Path) -> None:
    """The row may be of another snapshot that keeps it, so gc removes nothing, in the store or in the backup."""
    with_what_a_deleted_snapshot_kept(store)
    store.create_snapshot("second")
    change(store, "UPDATE snapshots SET prefix = 'text'")
    assert store.back_up(dest).blobs == 2
    with Store.open(dest, create=False) as opened, pytest.raises(DatabaseDamaged, match="nothing is removed"):
        opened.collect_garbage()
    assert restore(dest, tmp_path / "restored").blobs == 2


def test_a_backup_of_a_backup(store: Store, dest: Path, tmp_path: Path) -> None:
    furnish(store)
    first = store.back_up(dest)
    with Store.open(dest, create=False) as opened:
        second = opened.back_up(tmp_path / "second")
    assert second.root == first.root
    verify(tmp_path / "second")


# ---- one moment, under writers ----

WRITER = """
    import itertools, threading
    store, name = Store.open(arguments[0]), arguments[1]
    print("ready", flush=True)
    for number in itertools.count():
        # At every moment the second is the first, or one behind.
        for half in ("first", "second"):
            store.write(ObjectKey("bucket", f"{name}/{half}"), [f"{name} {number}".encode()])
"""


def newest(directory: Path, name: str) -> int:
    """The number that a writer wrote last under a name."""
    key_bytes = f"{name}".encode()
    ((digest,),) = query(
        directory,
        "SELECT v.digest FROM current c JOIN versions v USING (bucket, key, seq) WHERE c.key = ?",
        key_bytes,
    )
    return int(backups.blob_path(directory, digest).read_bytes().split()[1])


def test_a_copy_that_cannot_be_opened_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match="unable to open"):
        row_copies.RowCopy(tmp_path / "nowhere" / "rows.sqlite3")


@pytest.mark.parametrize("patient_bytes", [row_copies.PATIENT_BYTES, 0], ids=["beside writers", "in turns with them"])
def test_rows_are_of_one_moment(store: Store, dest: Path, monkeypatch: pytest.MonkeyPatch, patient_bytes: int) -> None:
    monkeypatch.setattr(row_copies, "STEP_PAGES", 1)
    monkeypatch.setattr(row_copies, "PATIENT_BYTES", patient_bytes)
    for number in range(200):
        put(store, f"ballast/{number}", b"payload %d" % number)
    for name in ("a", "b"):
        for half in ("first", "second"):
            put(store, f"{name}/{half}", f"{name} -1".encode())
    with Child(WRITER, store.directory, "a") as one, Child(WRITER, store.directory, "b") as two:
        assert {one.line(), two.line()} == {"ready"}
        for _ in range(4):
            done = store.back_up(dest)
            assert whole(done)
            ((since,),) = rows(store, "SELECT seq FROM counter")
            assert since >= done.sequence
            for name in ("a", "b"):
                assert newest(dest, f"{name}/first") - newest(dest, f"{name}/second") in (0, 1)
            # Writes only: each draws one sequence, so the versions up to the manifest's are all of them.
            assert [row[2] for row in backups.versions(dest)] == list(range(1, done.sequence + 1))
            assert manifest(dest)["root"] == backups.root(dest)
            verify(dest)
        one.kill()
        two.kill()
    upto = rows(store, f"SELECT {backups.VERSION_COLUMNS} FROM versions WHERE seq <= ? ORDER BY seq", done.sequence)
    assert backups.versions(dest) == upto


def test_a_long_wal_makes_it_take_turns(store: Store, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps the lock is free; during one of them, with a long WAL, it is held."""
    for number in range(50):
        put(store, f"k{number}", b"payload %d" % number)
    monkeypatch.setattr(row_copies, "STEP_PAGES", 1)
    held: list[int] = []
    lock = store._parts.locks.writer
    real = lock.held

    def counted(timeout: float) -> object:
        held.append(1)
        return real(timeout)

    monkeypatch.setattr(lock, "held", counted)
    store.back_up(dest)
    without = len(held)
    monkeypatch.setattr(row_copies, "PATIENT_BYTES", 0)
    put(store, "one more", b"so that there is a WAL")
    store.back_up(dest)
    assert len(held) - without > without


CHURN = """
    import itertools, random
    from gestalt_cas.objects import ListQuery
    store = Store.open(arguments[0])
    print("ready", flush=True)
    for number in itertools.count():
        target = ObjectKey("bucket", f"churn/{number % 7}")
        store.write(target, [b"payload %d" % random.randrange(40)])
        for version in store.list_versions(ListQuery("bucket", prefix=target.key), only_key=True).versions[1:]:
            store.delete(target, version_id=version.version_id)
        if number % 5 == 0:
            store.collect_garbage()
"""


def test_versions_that_are_removed_and_collected_meanwhile(store: Store, dest: Path, tmp_path: Path) -> None:
    for number in range(30):
        put(store, f"k{number}", b"payload %d" % number)
    with Child(CHURN, store.directory) as one, Child(CHURN, store.directory) as two:
        assert {one.line(), two.line()} == {"ready"}
        for number in range(8):
            done = store.back_up(dest if number % 2 else tmp_path / f"dest{number}")
            assert whole(done)
            verify(Path(done.directory))
            assert manifest(Path(done.directory))["root"] == backups.root(Path(done.directory))
    assert rows(store, "SELECT damaged_ms FROM blobs WHERE damaged_ms IS NOT NULL") == []


def test_what_is_removed_after_the_rows_were_copied_is_backed_up_all_the_same(store: Store, dest: Path) -> None:
    put(store, "k", b"about to go")
    put(store, "other", b"stays")

    def remove(what: str, _done: int, _total: int) -> None:
        if what == "checking rows":
            (found,) = history(store, "k")
            store.delete(found.key, version_id=found.version_id)
            for _ in range(3):
                assert store.collect_garbage().files == 0

    assert whole(store.back_up(dest, progress=remove))
    verify(dest)
    assert payload_path(store, b"about to go").exists()
    store.collect_garbage()
    assert not payload_path(store, b"about to go").exists()


# ---- damage ----


@pytest.mark.parametrize("how", ["flipped", "cut short", "missing"])
def test_damage_in_the_store_does_not_stop_it(store: Store, dest: Path, how: str) -> None:
    put(store, "whole", b"whole bytes")
    put(store, "lost", b"bytes that are lost")
    put(store, "lost too", b"bytes that are lost")
    path = payload_path(store, b"bytes that are lost")
    if how == "flipped":
        flip(path, 3)
    elif how == "missing":
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(b"bytes")
    done = store.back_up(dest)
    (lost,) = done.lost
    assert lost.digest == path.name
    assert lost.digest in lost.reason
    assert lost.objects == ("bucket/lost", "bucket/lost too")
    assert manifest(dest)["missing"] == [path.name]
    assert (done.blobs, done.copied) == (2, 1)
    assert manifests.state(dest).kind is Kind.INCOMPLETE
    assert query(dest, "SELECT digest FROM blobs WHERE damaged_ms IS NOT NULL") == [(bytes.fromhex(path.name),)]
    assert not backups.blob_path(dest, bytes.fromhex(path.name)).exists()
    # Recorded in the store too, so that the same bytes heal it, and with it the next backup.
    put(store, "healing", b"bytes that are lost")
    healed = store.back_up(dest)
    assert (healed.lost, healed.kept, healed.copied) == ((), 1, 1)
    assert manifests.state(dest).kind is Kind.COMPLETE
    verify(dest)


def test_what_an_earlier_backup_has_whole_is_not_lost(store: Store, dest: Path) -> None:
    put(store, "k", b"bytes that will be lost")
    store.back_up(dest)
    payload_path(store, b"bytes that will be lost").unlink()
    put(store, "other", b"other")
    assert whole(store.back_up(dest))
    verify(dest)


def test_a_file_of_the_right_size_that_no_row_vouches_for_is_read(store: Store, dest: Path) -> None:
    put(store, "bad", b"bytes of one")
    put(store, "good", b"bytes of two")
    store.back_up(dest)
    for name in ("metadata.sqlite3", "manifest.json"):
        (dest / name).unlink()
    (dest / "metadata.sqlite3.backup").touch()  # as a first backup that was cut off leaves it
    flip(backups.blob_path(dest, blake3(b"bytes of one").digest()), 2)
    done = store.back_up(dest)
    assert (done.kept, done.reused, done.copied) == (0, 1, 1)
    verify(dest)


@pytest.mark.parametrize("how", ["marked", "cut short", "missing"])
def test_a_copy_that_is_not_to_be_trusted_is_made_anew(store: Store, dest: Path, how: str) -> None:
    put(store, "k", b"payload bytes")
    put(store, "other", b"other bytes")
    store.back_up(dest)
    path = backups.blob_path(dest, blake3(b"payload bytes").digest())
    if how == "marked":
        flip(path, 1)
        alter(dest, "UPDATE blobs SET damaged_ms = 1 WHERE digest = ?", bytes.fromhex(path.name))
    elif how == "missing":
        path.unlink()
    else:
        path.chmod(0o600)
        path.write_bytes(b"pay")
    done = store.back_up(dest)
    assert (done.kept, done.copied) == (1, 1)
    verify(dest)
    assert path.stat().st_mode & 0o777 == 0o400


def test_a_mark_on_a_good_copy_costs_one_look(store: Store, dest: Path) -> None:
    put(store, "k", b"payload bytes")
    store.back_up(dest)
    alter(dest, "UPDATE blobs SET damaged_ms = 1")
    done = store.back_up(dest)
    assert (done.kept, done.reused, done.copied) == (0, 1, 0)
    assert query(dest, "SELECT damaged_ms FROM blobs") == [(None,)]


def test_damaged_rows_do_not_replace_a_good_backup(store: Store, dest: Path, tmp_path: Path) -> None:
    furnish(store)
    done = store.back_up(dest)
    change(store, "PRAGMA writable_schema=ON")
    change(store, "DELETE FROM sqlite_master WHERE name = 'versions_by_digest'")
    store.close()
    with Store.open(store.directory) as damaged_store, pytest.raises(DatabaseDamaged, match="no backup was made"):
        damaged_store.back_up(dest)
    assert manifest(dest)["id"] == done.id
    assert restore(dest, tmp_path / "restored").root == done.root


def test_rows_of_the_backup_before_that_are_damaged_are_replaced(store: Store, dest: Path) -> None:
    furnish(store)
    first = store.back_up(dest)
    (dest / "metadata.sqlite3").write_bytes(b"no database at all" * 1000)
    assert manifests.state(dest).kind is Kind.DAMAGED
    done = store.back_up(dest)
    assert (done.kept, done.reused, done.copied) == (0, first.blobs, 0)
    assert manifest(dest)["root"] == backups.root(dest)
    verify(dest)


# ---- what is refused ----


def strange(dest: Path, store: Store) -> None:
    dest.mkdir()
    (dest / "thesis.txt").write_text("two years of work")


def another_store(dest: Path, store: Store) -> None:
    with Store.open(dest) as other:
        put(other, "k", b"of another")


def another_backup(dest: Path, store: Store) -> None:
    with Store.open(dest.with_name("other")) as other:
        put(other, "k", b"of another")
        other.back_up(dest)


def a_file(dest: Path, store: Store) -> None:
    dest.write_text("a file")


def a_restore(dest: Path, store: Store) -> None:
    dest.mkdir()
    (dest / "metadata.sqlite3.restore").touch()


def payloads_alone(dest: Path, store: Store) -> None:
    store.back_up(dest)
    for name in ("metadata.sqlite3", "manifest.json"):
        (dest / name).unlink()


def written_to(dest: Path, store: Store) -> None:
    store.back_up(dest)
    with Store.open(dest) as opened:
        put(opened, "of its own", b"bytes")


def later(dest: Path, store: Store) -> None:
    put(store, "k", b"later")
    store.back_up(dest)
    change(store, "UPDATE counter SET seq = seq - 1")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (strange, "thesis.txt"),
        (another_store, "a store that is no backup"),
        (another_backup, "does not hold a backup of this store"),
        (a_file, "not a directory|Not a directory"),
        (a_restore, "restore that was not finished"),
        (payloads_alone, "holds payloads"),
        (written_to, "written to after it was made"),
        (later, "later backup"),
    ],
)
def test_a_directory_of_something_else_is_refused_unchanged(
    store: Store, dest: Path, make: Callable[[Path, Store], None], words: str
) -> None:
    put(store, "mine", b"bytes of mine")
    make(dest, store)
    before = {path: path.read_bytes() for path in dest.rglob("*") if path.is_file() and path.suffix != ".lock"}
    with pytest.raises(StoreUnusable, match=words):
        store.back_up(dest)
    kept = {path: path.read_bytes() for path in before}
    assert {path: data for path, data in kept.items() if "sqlite3-" not in path.name} == {
        path: data for path, data in before.items() if "sqlite3-" not in path.name
    }
    assert rows(store, "SELECT * FROM pins") == []


@pytest.mark.parametrize("place", ["inside", "itself", "around", "inside by a link"])
def test_store_and_backup_may_not_lie_in_each_other(store: Store, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(store.directory / "staging")
    dest = {
        "inside": store.directory / "new" / "dest",
        "itself": store.directory,
        "around": tmp_path,
        "inside by a link": tmp_path / "link" / "dest",
    }[place]
    with pytest.raises(StoreUnusable, match="is within"):
        store.back_up(dest)
    assert not (tmp_path / "manifest.json").exists()
    assert not (store.directory / "new").exists()


def test_a_directory_that_somebody_has_open_is_refused(store: Store, dest: Path) -> None:
    put(store, "k", b"bytes")
    store.back_up(dest)
    with Store.open(dest, create=False), pytest.raises(StoreBusy, match=f"in use by process {os.getpid()}"):
        store.back_up(dest)
    assert whole(store.back_up(dest))


def test_two_at_once_to_one_directory(store: Store, dest: Path) -> None:
    put(store, "k", b"bytes")
    refused = []

    def second(what: str, _done: int, _total: int) -> None:
        if what == "checking rows":
            with pytest.raises(StoreBusy, match="another backup") as error:
                store.back_up(dest)
            refused.append(error)

    assert whole(store.back_up(dest, progress=second))
    assert len(refused) == 1
    verify(dest)


def test_two_at_once_to_two_directories(store: Store, dest: Path, tmp_path: Path) -> None:
    furnish(store)
    code = """
        with Store.open(arguments[0]) as store:
            print("ready", flush=True)
            input()
            print(store.back_up(arguments[1]).root)
    """
    with Child(code, store.directory, tmp_path / "second") as other:
        assert other.line() == "ready"
        other.tell()
        done = store.back_up(dest)
        assert other.finish().strip() == done.root
    verify(tmp_path / "second")


# ---- the pin ----


def test_signs_of_life_are_given(store: Store, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "BEAT_SECONDS", 0.01)
    put(store, "k", b"bytes")
    seen: set[int] = set()

    def look(what: str, _done: int, _total: int) -> None:
        while what == "checking rows" and len(seen) < 3:
            seen.add(rows(store, "SELECT heartbeat_ms FROM pins")[0][0])

    assert whole(store.back_up(dest, progress=look))
    assert len(seen) == 3


@pytest.mark.parametrize("beats", [0.01, 3600.0], ids=["the heartbeat finds out", "found out at the end"])
def test_without_its_pin_it_fails_before_anything_is_replaced(
    store: Store, dest: Path, monkeypatch: pytest.MonkeyPatch, beats: float
) -> None:
    monkeypatch.setattr(pins, "BEAT_SECONDS", beats)
    put(store, "k", b"bytes")
    first = store.back_up(dest)
    put(store, "new", b"new bytes")

    before = set(threading.enumerate())

    def drop(what: str, _done: int, _total: int) -> None:
        if what == "checking rows":
            (heartbeat,) = (thread for thread in threading.enumerate() if thread not in before)
            change(store, "DELETE FROM pins")
            if beats < 1:
                heartbeat.join()  # it ends when it finds out

    with pytest.raises(StoreBusy, match=r"the pin backup-.* has gone"):
        store.back_up(dest, progress=drop)
    assert manifest(dest)["id"] == first.id
    assert manifests.state(dest).kind is Kind.COMPLETE
    assert query(dest, "SELECT count(*) FROM versions") == [(1,)]
    assert whole(store.back_up(dest))
