"""Which payloads the store trusts: damage and files of others are never served, and what goes meanwhile is noticed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import ByteRange, Conditions, ListQuery, ObjectVersion, Store
from gestalt_cas.errors import (
    BlobMissing,
    DatabaseDamaged,
    DigestMismatch,
    InvalidRange,
    NoSuchVersion,
    PreconditionFailed,
    StorageFault,
    StoreBusy,
    StoreError,
    StoreFull,
)
from gestalt_cas.files import blobs as blobs_module
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.operations.payloads import Payloads
from storage import (
    BUCKET,
    MIB,
    Child,
    Failing,
    body,
    broken,
    change,
    damaged,
    flip,
    full,
    history,
    key,
    overwrite,
    payload_path,
    put,
    rows,
    staged,
)

DATA = b"some bytes" * 100


def test_a_planted_file_is_not_trusted(store: Store) -> None:
    """The right name and size, and no committed row: its bytes are anybody's guess."""
    path = payload_path(store, DATA)
    path.write_bytes(bytes(len(DATA)))
    before = path.stat().st_ino
    put(store, "k", DATA)
    assert body(store, "k") == DATA
    assert path.stat().st_ino != before
    assert (path.stat().st_nlink, path.stat().st_mode & 0o777) == (1, 0o400)


def test_a_trusted_file_is_not_written_again(store: Store) -> None:
    put(store, "k", DATA)
    before = payload_path(store, DATA).stat()
    put(store, "l", DATA)
    after = payload_path(store, DATA).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert after.st_nlink == 1


def spoil(path: Path, how: str, elsewhere: Path) -> None:
    """Damage a payload in one of the ways that disks and people have."""
    good = path.read_bytes()
    if how == "flipped":
        flip(path, len(good) // 2)
    elif how == "truncated":
        overwrite(path, good[:-1])
    elif how == "emptied":
        overwrite(path, b"")
    elif how == "lengthened":
        overwrite(path, good + b"\0")
    else:
        path.unlink()
    if how == "linked":
        elsewhere.write_bytes(good)
        path.symlink_to(elsewhere)
    elif how == "directory":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        listener = socket.socket(socket.AF_UNIX)
        short = Path(f"/proc/self/fd/{os.open(path.parent, os.O_RDONLY)}") / "s"
        listener.bind(str(short))
        listener.close()
        (path.parent / "s").rename(path)
        os.close(int(short.parent.name))


DAMAGES = {
    "flipped": DigestMismatch,
    "truncated": DigestMismatch,
    "emptied": DigestMismatch,
    "lengthened": DigestMismatch,
    "deleted": BlobMissing,
    "linked": DigestMismatch,
    "directory": DigestMismatch,
    "pipe": DigestMismatch,
    "socket": DigestMismatch,
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_refused_recorded_and_healed_by_the_same_bytes(store: Store, tmp_path: Path, how: str) -> None:
    version = put(store, "k", DATA)
    path = payload_path(store, DATA)
    spoil(path, how, tmp_path / "elsewhere")
    assert not damaged(store, DATA)
    got: list[bytes] = []
    with pytest.raises(DAMAGES[how]) as caught, store.read(key("k")) as reader:
        got.extend(bytes(piece) for piece in reader)
    assert got == []
    assert caught.value.digest == version.digest
    assert damaged(store, DATA)
    assert store.head(key("k")) == version
    with pytest.raises(DAMAGES[how]):
        body(store, "k", version_id=version.version_id)
    put(store, "other", DATA)  # a directory that stands under the name is set aside
    assert not damaged(store, DATA)
    assert body(store, "k") == body(store, "other") == DATA
    assert staged(store) == []
    if how == "linked":
        assert (tmp_path / "elsewhere").read_bytes() == DATA


@pytest.mark.parametrize("how", sorted(set(DAMAGES) - {"flipped", "directory"}))
def test_damage_that_shows_from_outside_is_healed_without_a_read(store: Store, tmp_path: Path, how: str) -> None:
    """A file of another size or kind is not trusted, marked or not."""
    put(store, "k", DATA)
    spoil(payload_path(store, DATA), how, tmp_path / "elsewhere")
    put(store, "l", DATA)
    assert body(store, "k") == DATA
    assert not damaged(store, DATA)


@pytest.mark.parametrize("error", [full, broken])
def test_while_it_heals_a_payload_is_not_trusted(store: Store, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    """Its row is from before, and its new name may not be on the disk: a second writer must not build on it."""
    put(store, "k", DATA)
    payload_path(store, DATA).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(blobs_module, "sync_directory", Failing(blobs_module.sync_directory, error()))
        with pytest.raises((StorageFault, StoreFull)):
            put(store, "l", DATA)
    assert payload_path(store, DATA).exists()
    assert damaged(store, DATA)
    synced: list[Path] = []
    real = blobs_module.sync_directory
    monkeypatch.setattr(blobs_module, "sync_directory", lambda path: (real(path), synced.append(Path(path))))
    put(store, "m", DATA)
    assert synced == [payload_path(store, DATA).parent]
    assert not damaged(store, DATA)


def test_a_payload_that_was_put_back_serves_at_once(store: Store) -> None:
    put(store, "k", DATA)
    overwrite(payload_path(store, DATA), bytes(len(DATA)))
    with pytest.raises(DigestMismatch):
        body(store, "k")
    overwrite(payload_path(store, DATA), DATA)
    assert damaged(store, DATA)
    assert body(store, "k") == DATA


def test_only_damaged_chunks_are_refused(store: Store) -> None:
    big = os.urandom(2 * MIB + 5)
    put(store, "k", big)
    flip(payload_path(store, big), MIB + 7)
    assert body(store, "k", byte_range=ByteRange(0, MIB - 1)) == big[:MIB]
    assert body(store, "k", byte_range=ByteRange(2 * MIB)) == big[2 * MIB :]
    assert not damaged(store, big)
    got: list[bytes] = []
    with pytest.raises(DigestMismatch), store.read(key("k")) as reader:
        got.extend(bytes(piece) for piece in reader)
    assert got == [big[:MIB]]
    assert damaged(store, big)
    assert body(store, "k", byte_range=ByteRange(0, 9)) == big[:10]


def test_a_file_that_was_healed_meanwhile_gets_no_mark(store: Store) -> None:
    """The reader has the rotten file open; its name already stands for a good one."""
    put(store, "k", DATA)
    flip(payload_path(store, DATA), 0)
    change(store, "UPDATE blobs SET damaged_ms = 1")
    with store.read(key("k")) as reader:
        put(store, "l", DATA)
        with pytest.raises(DigestMismatch):
            reader.read()
    assert not damaged(store, DATA)
    assert body(store, "k") == DATA


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_name_that_was_healed_meanwhile_gets_no_mark(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    put(store, "k", DATA)
    spoil(payload_path(store, DATA), how, tmp_path)
    record = Payloads.record_damage

    def late(self: Payloads, *arguments: Any) -> None:
        put(store, "l", DATA)
        record(self, *arguments)

    monkeypatch.setattr(Payloads, "record_damage", late)
    with pytest.raises(DAMAGES[how]):
        body(store, "k")
    assert not damaged(store, DATA)
    assert body(store, "k") == DATA


def test_damage_that_cannot_be_recorded_is_told_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "k", DATA)
    flip(payload_path(store, DATA), 0)

    def busy(*_: Any, **__: Any) -> None:
        raise StoreBusy("write.lock is held by somebody")

    with monkeypatch.context() as patch:
        patch.setattr(Payloads, "mark_damaged", busy)
        with pytest.raises(DigestMismatch):
            body(store, "k")
    assert "could not be recorded: write.lock is held by somebody" in caplog.text
    assert not damaged(store, DATA)


def test_a_look_at_the_name_that_fails_does_not_hide_the_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", DATA)
    flip(payload_path(store, DATA), 0)
    with store.read(key("k")) as reader, monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", Failing(Path.lstat, broken()))
        with pytest.raises(DigestMismatch):
            reader.read()


def test_damage_is_told_when_the_store_is_closed(store: Store) -> None:
    put(store, "k", DATA)
    flip(payload_path(store, DATA), 0)
    with store.read(key("k")) as reader:
        store.close()
        with pytest.raises(DigestMismatch):
            reader.read()


def test_a_version_whose_payload_has_no_row_is_damage_of_the_database(store: Store) -> None:
    put(store, "k", DATA)
    connection = store._database._writer
    assert connection is not None
    connection.execute("PRAGMA foreign_keys=OFF")
    change(store, "DELETE FROM blobs")
    with pytest.raises(DatabaseDamaged, match="no row"):
        body(store, "k")


# ---- payloads that go while they are looked for ----


def gone_at_open(
    store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object], times: int = 1
) -> list[int]:
    """Do something, and remove the payload of DATA, between the look-up of a read and its open."""
    real, calls = Blobs.open, []

    def late(self: Blobs, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            meanwhile()
            payload_path(store, DATA).unlink(missing_ok=True)
        return real(self, *arguments)

    monkeypatch.setattr(Blobs, "open", late)
    return calls


def removed(store: Store, version: ObjectVersion) -> None:
    """What gc does once a version is gone."""
    store.delete(version.key, version_id=version.version_id)
    change(store, "DELETE FROM blobs WHERE digest = ?", bytes.fromhex(version.digest))


def test_a_read_starts_again_when_its_version_went(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = put(store, "k", DATA)
    calls = gone_at_open(store, monkeypatch, lambda: (put(store, "k", b"newer"), removed(store, version)))
    assert body(store, "k") == b"newer"
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"conditions": Conditions(if_match=f'"{blake3(DATA).hexdigest()}"')}, PreconditionFailed),
        ({"byte_range": ByteRange(500)}, InvalidRange),
    ],
)
def test_what_a_read_asks_for_is_judged_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[StoreError]
) -> None:
    version = put(store, "k", DATA)
    gone_at_open(store, monkeypatch, lambda: (put(store, "k", b"newer"), removed(store, version)))
    with pytest.raises(error):
        body(store, "k", **options)


def test_a_version_that_went_is_absent_and_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = put(store, "k", DATA)
    gone_at_open(store, monkeypatch, lambda: removed(store, version))
    with pytest.raises(NoSuchVersion):
        body(store, "k", version_id=version.version_id)
    assert rows(store, "SELECT count(*) FROM blobs") == [(0,)]


def test_a_payload_that_comes_back_is_served(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", DATA)
    calls = gone_at_open(store, monkeypatch, lambda: None, times=2)
    real = Blobs.open

    def healed(self: Blobs, *arguments: Any) -> Any:
        if len(calls) == 2:
            payload_path(store, DATA).write_bytes(DATA)
        return real(self, *arguments)

    monkeypatch.setattr(Blobs, "open", healed)
    assert body(store, "k") == DATA
    assert len(calls) == 3
    assert not damaged(store, DATA)


def test_a_payload_that_stays_away_is_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", DATA)
    calls = gone_at_open(store, monkeypatch, lambda: None, times=9)
    with pytest.raises(BlobMissing):
        body(store, "k")
    assert len(calls) == 3
    assert damaged(store, DATA)


# ---- writers and a remover ----


@pytest.mark.parametrize("moment", ["trusted", "published"])
def test_a_remover_between_decision_and_lock(store: Store, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The payload that a writer found, or published, is gone when the writer has the lock: it is published again."""
    if moment == "trusted":
        version = put(store, "k", DATA)
        store.delete(key("k"), version_id=version.version_id)
    real = Payloads.publish

    def then_removed(self: Payloads, staged_: Any) -> bool:
        published = real(self, staged_)
        assert published is (moment == "published")
        assert store.collect_garbage().files == 1
        return published

    monkeypatch.setattr(Payloads, "publish", then_removed)
    put(store, "k", DATA)
    assert body(store, "k") == DATA
    assert rows(store, "SELECT count(*) FROM blobs") == [(1,)]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_payload_that_goes_again_and_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int
) -> None:
    """It is there whenever a writer decides to trust it, and gone when the writer has the lock."""
    put(store, "holder", DATA)
    path, aside, left = payload_path(store, DATA), tmp_path / "aside", times
    os.link(path, aside)
    real = Payloads.publish

    def then_removed(self: Payloads, staged_: Any) -> bool:
        nonlocal left
        if left and not path.exists():
            os.link(aside, path)
        published = real(self, staged_)
        assert published is not bool(left)
        if left:
            left -= 1
            path.unlink()
        return published

    monkeypatch.setattr(Payloads, "publish", then_removed)
    if times < 3:
        put(store, "k", DATA)
    else:
        with pytest.raises(StoreBusy, match="keeps going away"):
            put(store, "k", DATA)
        put(store, "k", DATA)
    assert len(history(store, "k")) == 1
    assert body(store, "k") == body(store, "holder") == DATA
    assert staged(store) == []


def test_a_writer_whose_file_was_replaced_publishes_its_own_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other writer's file may not be synced yet, and its row is not there."""
    real = Payloads.publish
    others: list[Any] = []

    def then_replaced(self: Payloads, staged_: Any) -> bool:
        published = real(self, staged_)
        other = store._blobs.stage([DATA])
        store._blobs.publish(other)
        others.append(other)
        return published

    monkeypatch.setattr(Payloads, "publish", then_replaced)
    put(store, "k", DATA)
    assert payload_path(store, DATA).stat().st_ino != others[0].inode
    others[0].discard()
    assert body(store, "k") == DATA


def test_no_acknowledged_object_is_lost_to_a_remover(store: Store, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    writer = """
        import random
        from storage import body, history, put
        payloads = [b"payload %d" % number for number in range(4)]
        chance = random.Random(int(arguments[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        turns = 0
        with Store.open(arguments[0]) as store:
            while not Path(arguments[2]).exists():
                name, data = f"{arguments[1]}/{chance.randrange(3)}", chance.choice(payloads)
                version = put(store, name, data)
                assert body(store, name) == data
                assert body(store, name, version_id=version.version_id) == data
                if chance.random() < 0.8:
                    for old in history(store, name):
                        store.delete(old.key, version_id=old.version_id)
                turns += 1
        print(turns)
    """
    with Child(writer, store.directory, 1, enough) as first, Child(writer, store.directory, 2, enough) as second:
        for process in (first, second):
            assert process.line() == "ready"
        for process in (first, second):
            process.tell()
        removals = 0
        while removals < 50 and first.process.poll() is None and second.process.poll() is None:
            removals += store.collect_garbage().files
        enough.touch()
        turns = int(first.finish()) + int(second.finish())
    assert turns > 50
    page = store.list_versions(ListQuery(BUCKET))
    for version in page.versions:
        with store.read(version.key, version_id=version.version_id) as reader:
            assert blake3(reader.read()).hexdigest() == version.digest
    assert staged(store) == []
