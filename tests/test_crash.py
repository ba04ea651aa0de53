"""A process that ends hard anywhere in a write: what was acknowledged is there and whole, the rest has no effect."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gestalt_cas import Store
from gestalt_cas.files import blobs
from gestalt_cas.sql import schema
from gestalt_cas.system.durability import sync_directory
from storage import body, child, damaged, history, key, payload_path, put, rows, staged

BEFORE, AFTER = b"the object before", b"the upload that was cut off" * 1000

POINTS = {
    "in mid-stream": """
        def pieces():
            yield data[:500]
            os._exit(9)
        store.write(target, pieces())
    """,
    "after the last byte": """
        def pieces():
            yield data
            os._exit(9)
        store.write(target, pieces())
    """,
    "staged": """
        store.write(target, [data], confirm=lambda: os._exit(9))
    """,
    "linked, directory not synced": """
        from gestalt_cas.files import blobs
        blobs.sync_directory = lambda path: os._exit(9)
        store.write(target, [data])
    """,
    "published": """
        from gestalt_cas.transactions.database import Database
        Database.commit = lambda *_, **__: os._exit(9)
        store.write(target, [data])
    """,
    "before COMMIT": """
        calls = []
        store.write(target, [data], confirm=lambda: calls.append(1) or len(calls) == 2 and os._exit(9))
    """,
    "COMMIT done": """
        from gestalt_cas.transactions.database import Database
        real = Database._commit
        Database._commit = lambda *arguments: (real(*arguments), os._exit(9))
        store.write(target, [data])
    """,
    "staging name removed": """
        store.write(target, [data])
        os._exit(9)
    """,
}

COMMITTED = {"COMMIT done", "staging name removed"}
CLEAN = {"staging name removed"}


CASES = [(point, known) for point in POINTS for known in (False, True)]
CASES.remove(("linked, directory not synced", True))  # nothing is linked when the store has the bytes


@pytest.mark.parametrize(("point", "known"), CASES)
def test_killed_in_a_write(tmp_path: Path, point: str, known: bool) -> None:
    directory = tmp_path / "store"
    with Store.open(directory) as store:
        put(store, "k", BEFORE)
        if known:
            put(store, "other", AFTER)
    code = f"store, target, data = Store.open(arguments[0]), ObjectKey('bucket', 'k'), {AFTER[:27]!r} * 1000\n"
    child(code + textwrap.dedent(POINTS[point]), directory, expect=9)
    with Store.open(directory) as store:
        committed = point in COMMITTED
        assert len(history(store, "k")) == (2 if committed else 1)
        assert body(store, "k") == (AFTER if committed else BEFORE)
        assert body(store, "k", version_id=history(store, "k")[-1].version_id) == BEFORE
        assert len(staged(store)) == (0 if point in CLEAN else 1)
        assert store.clean_staging() == len(staged(store)) + (0 if point in CLEAN else 1)
        assert staged(store) == []
        assert rows(store, "PRAGMA integrity_check") == [("ok",)]
        put(store, "k", AFTER)
        assert body(store, "k") == AFTER
        assert len(history(store, "k")) == (3 if committed else 2)
        if known:
            assert body(store, "other") == AFTER


def test_bytes_of_a_killed_writer_are_not_trusted(tmp_path: Path) -> None:
    """It may have died before the directory reached the disk, or the file its bytes: its file is replaced."""
    directory = tmp_path / "store"
    Store.open(directory).close()
    code = """
        from gestalt_cas.files import blobs
        blobs.sync_directory = lambda path: os._exit(9)
        Store.open(arguments[0]).write(ObjectKey("bucket", "k"), [b"payload"])
    """
    child(code, directory, expect=9)
    with Store.open(directory) as store:
        path = payload_path(store, b"payload")
        before = path.stat().st_ino
        store.clean_staging()
        put(store, "k", b"payload")
        assert path.stat().st_ino != before
        assert path.stat().st_nlink == 1


@pytest.mark.parametrize("kind", ["new bytes", "damaged bytes"])
def test_killed_at_every_line_of_a_write(memory: Path, kind: str) -> None:
    code = """
        import kill_points
        from gestalt_cas.objects import ListQuery
        from storage import body, change, history, key, overwrite, payload_path, put, staged
        directory, kind, acknowledged = Path(arguments[0]), arguments[1], Path(arguments[2])
        DATA = b"payload" * 100
        point = [0]

        def name():
            # Each turn has a key of its own in the same store.
            return f"{point[0]:05}"

        def arm(number):
            point[0] = number

        def prepare():
            acknowledged.unlink(missing_ok=True)

        def work():
            with Store.open(directory) as store:
                put(store, name(), b"before")
                if kind != "new bytes":
                    put(store, "holder", DATA)
                if kind == "damaged bytes":
                    overwrite(payload_path(store, DATA), b"PAYLOAD" * 100)
                    change(store, "UPDATE blobs SET damaged_ms = 1 WHERE size = 700")
                kill_points.at_line(point[0], ["store", "files.blobs", "files.staging", "transactions.database"])
                store.write(key(name()), [DATA[:100], DATA[100:]])
                sys.settrace(None)
                acknowledged.touch()

        def check(number):
            arm(number)
            with Store.open(directory) as store:
                found = history(store, name())
                bodies = [body(store, name(), version_id=version.version_id) for version in found]
                assert bodies in ([b"before"], [DATA, b"before"]), bodies
                assert len(bodies) == 2 or not acknowledged.exists()
                store.clean_staging()
                assert staged(store) == []
                put(store, "again", DATA)
                assert body(store, "again") == DATA
                # The next turn begins without any trace of the payload.
                for version in [*found, *history(store, "again"), *history(store, "holder")]:
                    store.delete(version.key, version_id=version.version_id)
                change(store, "DELETE FROM blobs WHERE size = 700")
                payload_path(store, DATA).unlink()

        print(kill_points.every_point(arm, prepare, work, check))
    """
    points = int(child(code, memory / "store", kind, memory / "acknowledged"))
    assert points > 60


def test_a_payload_that_goes_before_the_lock_is_not_trusted_half_healed(tmp_path: Path) -> None:
    """Its healer was killed with the name given and the directory not synced: a power cut may take the name back."""
    directory = tmp_path / "store"
    with Store.open(directory) as store:
        put(store, "holder", b"payload")
    code = """
        from gestalt_cas.files import blobs
        from storage import payload_path
        store = Store.open(arguments[0])
        publish = store._payloads.publish

        def goes(staged):
            published = publish(staged)
            payload_path(store, b"payload").unlink()
            blobs.sync_directory = lambda path: os._exit(9)
            store._payloads.publish = publish
            return published

        store._payloads.publish = goes
        store.write(ObjectKey("bucket", "k"), [b"payload"])
    """
    child(code, directory, expect=9)
    with Store.open(directory) as store:
        assert damaged(store, b"payload")
        inode = payload_path(store, b"payload").stat().st_ino
        put(store, "k", b"payload")
        assert payload_path(store, b"payload").stat().st_ino != inode
        assert not damaged(store, b"payload")


@pytest.mark.parametrize("there", ["first page", "all but the first page"])
def test_a_power_cut_in_a_checkpoint_leaves_a_store_that_opens(memory: Path, there: str) -> None:
    """Its pages reach the disk in any order, and until it is complete only the WAL has them all."""
    directory = memory / "store"
    Store.open(directory).close()
    names = [f"{number:02}" for number in range(40)]
    code = """
        store = Store.open(arguments[0])
        for name in arguments[1:]:
            store.write(ObjectKey("bucket", name), [name.encode()], metadata={"padding": "x" * 1000})
        os._exit(9)
    """
    child(code, directory, *names, expect=9)
    database, wal = directory / "metadata.sqlite3", directory / "metadata.sqlite3-wal"
    before, log = database.read_bytes(), wal.read_bytes()
    Store.open(directory).close()
    after = database.read_bytes()
    assert len(after) > len(before)
    cut = schema.PAGE_SIZE
    database.write_bytes(after[:cut] + before[cut:] if there == "first page" else before[:cut] + after[cut:])
    wal.write_bytes(log)
    with Store.open(directory) as store:
        assert [body(store, name) for name in names] == [name.encode() for name in names]
        assert rows(store, "PRAGMA integrity_check") == [("ok",)]


def test_purged_bytes_do_not_come_back_with_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gc may leave the removal of a name unsynced; the answer of a purge says that the bytes are gone."""
    with Store.open(tmp_path / "store") as store:
        put(store, "k", b"payload")
        path = payload_path(store, b"payload")
        aside = store.directory / "quarantine" / f"{path.name}.1700000000000"
        aside.parent.mkdir()
        aside.write_bytes(b"pay")
        synced: list[Path] = []

        def sync(directory: Path) -> None:
            assert not (path if directory == path.parent else aside).exists()
            synced.append(directory)
            sync_directory(directory)

        monkeypatch.setattr(blobs, "sync_directory", sync)
        store.purge(key("k"))
        assert synced == [aside.parent, path.parent]  # the copies before the rows that lead to them
