"""Backups and restores that are cut off: killed, out of room, or failed by the disk. What was good stays good."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import backups
from backups import empty_store_fixture, manifest, query, store_fixture, verify  # noqa: F401
from gestalt_cas import Store, restore
from gestalt_cas.backups import manifests
from gestalt_cas.backups.manifests import Kind
from gestalt_cas.errors import DiskFull, Protected, StorageFault, StoreError, StoreUnusable
from storage import Child, Failing, broken, change, child, full, history, on_a_small_disk, put, rows

SYNCS = [
    ("files.layout", "sync_directory"),
    ("backups.row_copies", "sync_file"),
    ("files.staging", "sync_file"),
    ("files.blobs", "sync_directory"),
    ("backups.backup", "sync_directory"),
    ("backups.manifests", "sync_file"),
    ("backups.manifests", "sync_directory"),
]


def fill(store: Store, first: int, count: int) -> None:
    for number in range(first, first + count):
        put(store, f"k{number}", b"payload %d " % number * 50)


# ---- killed ----

STRIDE = 2 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 29
"""Every so many lines; each line is a point of its own once."""

KILLED = """
    import shutil, threading
    import backups, kill_points
    from gestalt_cas.keeping import pins
    from gestalt_cas import restore
    from gestalt_cas.backups import manifests
    from gestalt_cas.errors import StoreError
    from storage import change, rows
    home, earlier, stride = Path(arguments[0]), arguments[1] == "earlier", int(arguments[2])
    template, live, dest, restored = (home / name for name in ("template", "live", "dest", "restored"))
    # Imported before any fork.
    with Store.open(template) as store:
        for number in range(6):
            store.write(ObjectKey("bucket", f"k{number}"), [b"payload %d " % number * 50])
        first = store.back_up(home / "template-dest") if earlier else None
        for number in range(4, 9):
            store.write(ObjectKey("bucket", f"k{number}"), [b"new payload %d " % number * 50])
    (home / "work").mkdir()
    wanted = backups.versions(template)

    def arm(number):
        kill_points.at_line(stride * number, MODULES)
        threading.settrace(sys.gettrace())

    def prepare():
        for place in (live, dest, restored):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(template, live)
        if earlier:
            shutil.copytree(home / "template-dest", dest)
"""

_BACKUPS = ["backup", "row_copies", "payload_copies", "manifests", "destinations", "restoring"]
MODULES = ["files.layout", "files.blobs", "files.staging", *(f"backups.{name}" for name in _BACKUPS)]


@pytest.mark.parametrize("earlier", ["earlier", "none"])
def test_a_backup_that_is_killed_anywhere(memory: Path, earlier: str) -> None:
    code = (
        KILLED
        + """
    def work():
        with Store.open(live, create=False) as store:
            store.back_up(dest)

    def check(number):
        found = manifests.state(dest) if dest.exists() else None
        if earlier:
            assert found.whole, found
        if found is not None and found.whole:
            done = restore(dest, restored)
            backups.verify(restored)
            assert done.root == backups.manifest(dest)["root"] == backups.root(restored)
            if done.sequence == wanted[-1][2]:
                assert backups.versions(restored) == wanted
            else:
                assert earlier and done.id == first.id and backups.versions(restored) == wanted[:6]
        else:
            for use in (lambda: restore(dest, restored), lambda: Store.open(dest, create=False).close()):
                try:
                    use()
                except StoreError:
                    continue
                # The rows are in place: then every payload is, and only the manifest was not written.
                backups.verify(dest)
        with Store.open(live, create=False) as store:
            change(store, "UPDATE pins SET heartbeat_ms = 1")  # two minutes later
            store.collect_garbage()
            assert rows(store, "SELECT name FROM pins") == []
            done = store.back_up(dest)
            assert done.lost == () and done.kept + done.reused + done.copied == done.blobs
        backups.verify(dest)
        assert backups.versions(dest) == wanted
        assert manifests.state(dest).kind == "complete"
        assert backups.manifest(dest)["root"] == backups.root(dest)
        assert backups.names(dest) == backups.BACKUP_FILES
        assert list((dest / "staging").iterdir()) == []

    print(kill_points.every_point(arm, prepare, work, check))
    """
    )
    points = int(child(code.replace("MODULES", repr(MODULES)), memory, earlier, STRIDE))
    assert points > 10


def test_a_restore_that_is_killed_anywhere(memory: Path) -> None:
    code = (
        KILLED
        + """
    def work():
        restore(home / "template-dest", restored)

    def check(number):
        try:
            Store.open(restored, create=False).close()
        except StoreError:
            try:
                Store.open(restored).close()
            except StoreError:
                pass
            else:
                # Killed before the directory said what it is: nothing but an empty directory so far.
                assert backups.versions(restored) == []
                shutil.rmtree(restored)
            restore(home / "template-dest", restored)
        backups.verify(restored)
        assert backups.versions(restored) == wanted[:6]
        assert not {name for name in backups.names(restored) if name.endswith((".restore", ".part"))}
        assert list((restored / "staging").iterdir()) == []

    print(kill_points.every_point(arm, prepare, work, check))
    """
    )
    points = int(child(code.replace("MODULES", repr(MODULES)), memory, "earlier", STRIDE))
    assert points > 8


# ---- failed by the disk ----


@pytest.mark.parametrize("error", [broken, full], ids=["EIO", "no room"])
@pytest.mark.parametrize(("module", "name"), SYNCS)
def test_a_sync_that_fails_leaves_the_backup_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, error: Callable[[], OSError]
) -> None:
    dest = tmp_path / "dest"
    fill(store, 0, 4)
    first = store.back_up(dest)
    fill(store, 4, 2)
    if module == "files.layout":
        (dest / "blobs" / "00").rmdir()
    home = import_module(f"gestalt_cas.{module}")
    with monkeypatch.context() as patch:
        patch.setattr(home, name, Failing(getattr(home, name), error()))
        with pytest.raises(DiskFull if error is full else StorageFault) as caught:
            store.back_up(dest)
    assert str(dest) in str(caught.value) or "syncing" in str(caught.value) or "publishing" in str(caught.value)
    assert rows(store, "SELECT * FROM pins") == []
    assert manifests.state(dest).whole
    assert restore(dest, tmp_path / "restored").versions in (first.versions, first.versions + 2)
    done = store.back_up(dest)
    assert (done.kept + done.reused + done.copied, done.lost) == (6, ())
    verify(dest)


def test_cut_off_between_rows_and_manifest_the_backup_before_counts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are replaced and the manifest is not: it is that of the rows and keys that kept a second name."""
    dest = tmp_path / "dest"
    fill(store, 0, 3)
    (store.directory / "keys.json").write_text('{"old": 1}')
    first = store.back_up(dest, with_keys=True)
    fill(store, 3, 2)
    (store.directory / "keys.json").write_text('{"new": 1}')
    for _ in range(2):  # a second one that is cut off there must not lose it either
        with monkeypatch.context() as patch:
            patch.setattr(manifests, "write", Failing(manifests.write, broken()))
            with pytest.raises(StorageFault):
                store.back_up(dest, with_keys=True)
        found = manifests.state(dest)
        assert (found.kind, found.rows) == (Kind.COMPLETE, dest / "metadata.sqlite3.previous")
        assert query(dest, "SELECT count(*) FROM versions") == [(5,)]
        verify(dest)
    done = restore(dest, tmp_path / "restored")
    assert (done.id, done.root, done.versions, done.keys) == (first.id, first.root, 3, True)
    assert (tmp_path / "restored" / "keys.json").read_text() == '{"old": 1}'
    verify(tmp_path / "restored")
    again = store.back_up(dest, with_keys=True)
    assert (again.kept, again.copied) == (5, 0)
    assert restore(dest, tmp_path / "again").versions == 5
    assert (tmp_path / "again" / "keys.json").read_text() == '{"new": 1}'
    assert not (dest / "metadata.sqlite3.previous").exists()
    assert not (dest / "keys.json.previous").exists()


def test_gc_in_one_that_was_cut_off_there_leaves_the_payloads_of_the_one_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "dest"
    only_before = put(store, "k", b"in the backup before only")
    first = store.back_up(dest)
    store.delete(only_before.key, version_id=only_before.version_id)
    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write", Failing(manifests.write, broken()))
        with pytest.raises(StorageFault):
            store.back_up(dest)
    with Store.open(dest, create=False) as opened, pytest.raises(Protected, match="run it again"):
        opened.collect_garbage()
    assert restore(dest, tmp_path / "restored").id == first.id
    store.back_up(dest)
    with Store.open(dest, create=False) as opened:
        assert opened.collect_garbage().files == 1


def test_gc_goes_on_in_one_that_only_kept_the_rows_before(store: Store, tmp_path: Path) -> None:
    """It was cut off when it counted already."""
    dest = tmp_path / "dest"
    only_before = put(store, "k", b"in the backup before only")
    store.back_up(dest)
    rows_before = (dest / "metadata.sqlite3").read_bytes()
    store.delete(only_before.key, version_id=only_before.version_id)
    store.back_up(dest)
    (dest / "metadata.sqlite3.previous").write_bytes(rows_before)
    with Store.open(dest, create=False) as opened:
        assert opened.collect_garbage().files == 1


def test_what_the_old_rows_have_in_their_wal_does_not_get_into_the_new_ones(store: Store, tmp_path: Path) -> None:
    """A process that was killed on the backup leaves a WAL, which SQLite would play back into whatever has the name."""
    dest = tmp_path / "dest"
    fill(store, 0, 3)
    store.back_up(dest)
    code = """
        store = Store.open(arguments[0], create=False)
        store.note("a note", "x" * 100000)
        os._exit(9)
    """
    child(code, dest, expect=9)
    assert (dest / "metadata.sqlite3-wal").stat().st_size > 100000
    fill(store, 3, 2)
    store.back_up(dest)
    assert manifest(dest)["root"] == backups.root(dest)
    assert query(dest, "SELECT * FROM settings WHERE name = 'a note'") == []
    verify(dest)


def test_a_first_backup_that_was_cut_off_is_no_store_and_no_backup(store: Store, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    fill(store, 0, 5)

    def stop(what: str, done: int, _total: int) -> None:
        if what == "copying payloads" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.back_up(dest, progress=stop)
    assert rows(store, "SELECT * FROM pins") == []
    assert manifests.state(dest).kind is Kind.CUT_OFF
    for create in (False, True):
        with pytest.raises(StoreUnusable, match="backup that was not finished"):
            Store.open(dest, create=create)
    with pytest.raises(StoreUnusable, match="cut off"):
        restore(dest, tmp_path / "restored")
    with pytest.raises(StoreUnusable, match="no rows yet"):
        restore(dest, tmp_path / "restored", allow_incomplete=True)
    done = store.back_up(dest)
    assert done.reused > 0
    assert done.reused + done.copied == 5


def test_the_pin_of_a_killed_backup_keeps_gc_for_a_while(store: Store, tmp_path: Path) -> None:
    fill(store, 0, 3)
    code = """
        store = Store.open(arguments[0])
        store.back_up(arguments[1], progress=lambda what, *_: what == "copying payloads" and os._exit(9))
    """
    child(code, store.directory, tmp_path / "dest", expect=9)
    ((name, beat),) = rows(store, "SELECT name, heartbeat_ms FROM pins")
    put(store, "k", b"to be removed")
    (found,) = history(store, "k")
    store.delete(found.key, version_id=found.version_id)
    assert [store.collect_garbage().pinned_by for _ in range(2)] == [(name,), (name,)]
    change(store, "UPDATE pins SET heartbeat_ms = ?", beat - 120_001)
    assert sum(store.collect_garbage().files for _ in range(2)) == 1
    assert rows(store, "SELECT * FROM pins") == []
    assert store.back_up(tmp_path / "dest").lost == ()


# ---- out of room ----


def test_a_full_disk_leaves_the_backup_before(store: Store, tmp_path: Path) -> None:
    fill(store, 0, 3)
    store.close()
    on_a_small_disk(
        """
        import pytest, backups
        from gestalt_cas import restore
        from gestalt_cas.errors import DiskFull
        from storage import put, rows
        dest, source, restored = Path(arguments[0]), Path(arguments[1]), Path(arguments[2])
        filler, room = Path("/mnt/filler"), Path("/mnt/room")
        room.write_bytes(bytes(2 << 20))

        with Store.open(source) as store:
            first = store.back_up(dest)
            for number in range(40):
                put(store, f"large {number}", os.urandom(50_000))
            with pytest.raises(DiskFull, match=str(dest)):
                store.back_up(dest)  # no room for all payloads
            copied = len(list(dest.glob("blobs/*/*")))
            assert 3 < copied < 43
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(DiskFull, match=str(dest)):
                store.back_up(dest)  # nor for the rows
            assert rows(store, "SELECT * FROM pins") == []
            assert backups.manifest(dest)["id"] == first.id
            done = restore(dest, restored)
            assert (done.id, done.root) == (first.id, first.root)
            backups.verify(restored)
            with pytest.raises(DiskFull, match="/mnt/restored"):
                restore(dest, "/mnt/restored")
            filler.unlink()
            room.unlink()
            again = store.back_up(dest)
            assert (again.lost, again.kept, again.kept + again.reused) == ((), 3, copied)
            backups.verify(dest)
        """,
        4,
        store.directory,
        tmp_path / "restored",
    )


# ---- stopped ----


def test_stopped_in_the_middle_of_a_large_payload(store: Store, tmp_path: Path) -> None:
    """What is under way ends at its next chunk, and nothing of it stays but a name in staging, which goes too."""
    put(store, "large", bytes(64 << 20))
    put(store, "small", b"small")

    def stop(what: str, done: int, _total: int) -> None:
        if what == "copying payloads" and done:
            raise StoreError("enough")

    with pytest.raises(StoreError, match="enough"):
        store.back_up(tmp_path / "dest", progress=stop)
    assert list((tmp_path / "dest" / "staging").iterdir()) == []
    assert store.back_up(tmp_path / "dest").lost == ()


def test_killed_while_a_server_goes_on_writing(store: Store, tmp_path: Path) -> None:
    """The store is as good as before, and the next backup is of one moment again."""
    dest = tmp_path / "dest"
    fill(store, 0, 50)
    code = """
        store = Store.open(arguments[0])
        print("ready", flush=True)
        while True:
            store.back_up(arguments[1])
            print("done", flush=True)
    """
    for turn in range(3):
        with Child(code, store.directory, dest) as other:
            assert other.line() == "ready"
            assert other.line() == "done"
            fill(store, 50 + 20 * turn, 20)
            other.kill()
        assert manifests.state(dest).whole
    done = store.back_up(dest)
    assert done.lost == ()
    verify(dest)
    assert [row[2] for row in backups.versions(dest)] == list(range(1, done.sequence + 1))
