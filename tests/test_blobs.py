"""Payload files: staged under a lock, published by link, read back checked; and a disk that fails at any call."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas import Store
from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import (
    BlobMissing,
    DigestMismatch,
    InvalidArgument,
    ObjectTooLarge,
    StorageFault,
    StoreError,
    StoreFull,
    TooManyStreams,
)
from gestalt_cas.files import blobs, staging
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.staging import Staged
from gestalt_cas.rules import chunks
from storage import MIB, Child, Failing, body, broken, damaged, flip, full, key, overwrite, payload_path, put, staged

DATA = bytes(range(256)) * 40


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "store")
    made.make()
    return made


@pytest.fixture(name="blobs")
def blobs_fixture(layout: Layout) -> Blobs:
    return Blobs(layout, Limits())


def names(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.staging.iterdir())


def publish(blobs: Blobs, data: bytes) -> Staged:
    found = blobs.stage([data])
    blobs.publish(found)
    return found


def read(blobs: Blobs, data: bytes, sums: bytes, offset: int = 0, length: int | None = None) -> bytes:
    opened = blobs.open(blake3(data).digest(), len(data), sums)
    try:
        return b"".join(opened.read(offset, len(data) - offset if length is None else length))
    finally:
        opened.close()


# ---- staging ----


def test_staging_tells_size_digest_and_sums(blobs: Blobs, layout: Layout) -> None:
    found = blobs.stage([DATA[:100], b"", bytearray(DATA[100:200]), memoryview(DATA)[200:]])
    assert (found.size, found.digest) == (len(DATA), blake3(DATA).digest())
    assert chunks.matches(DATA, 0, found.sums)
    assert found.path.read_bytes() == DATA
    assert found.path.stat().st_mode & 0o777 == 0o400
    assert names(layout) == [found.path.name]
    found.discard()
    found.discard()
    assert names(layout) == []


@given(st.lists(st.binary(max_size=200), max_size=30), st.integers(1, 300), st.integers(1, 5))
def test_pieces_are_gathered_without_loss(pieces: list[bytes], gather: int, count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "_GATHER_BYTES", gather)
        patch.setattr(staging, "_GATHER_PIECES", count)
        groups = list(staging._gathered(pieces))
    assert b"".join(bytes(view) for group in groups for view in group) == b"".join(pieces)
    assert all(group and all(len(view) for view in group) for group in groups)


def test_a_buffer_may_be_filled_anew_for_each_piece(blobs: Blobs) -> None:
    """As `readinto` loops do. Pieces that were only looked at later would all be the last one."""
    buffer = bytearray(8)

    def pieces(view: Any) -> Iterator[Any]:
        for number in range(20):
            buffer[:] = b"%08d" % number
            yield view

    expected = b"".join(b"%08d" % number for number in range(20))
    for view in (buffer, memoryview(buffer), memoryview(buffer).toreadonly(), memoryview(buffer)[:8]):
        found = blobs.stage(pieces(view))
        assert found.path.read_bytes() == expected
        assert found.digest == blake3(expected).digest()
        found.discard()


def test_pieces_of_wider_elements_count_bytes(blobs: Blobs) -> None:
    wide = memoryview(DATA[:64]).cast("Q")
    found = blobs.stage([wide, wide])
    assert (found.size, found.digest) == (128, blake3(DATA[:64] * 2).digest())
    found.discard()


@pytest.mark.parametrize("taken", [1, 7, 4096])
def test_short_writes_are_continued(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    """The kernel may take any part of what it is given, ending within a piece or between two."""
    writev = os.writev

    def short(fd: int, views: list[memoryview]) -> int:
        room, some = taken, []
        for view in views:
            some.append(view[:room])
            room -= len(some[-1])
            if not room:
                break
        return writev(fd, some)

    monkeypatch.setattr(os, "writev", short)
    pieces = [DATA[start : start + 13] for start in range(0, 2600, 13)]
    found = blobs.stage(pieces)
    assert found.path.read_bytes() == DATA[:2600]
    assert found.digest == blake3(DATA[:2600]).digest()
    found.discard()


def test_what_the_pieces_raise_leaves_nothing(blobs: Blobs, layout: Layout) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA
        assert len(names(layout)) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blobs.stage(pieces())
    assert names(layout) == []
    assert blobs.staging.budget._taken == 0


def test_a_body_is_never_held_in_memory(blobs: Blobs, layout: Layout) -> None:
    """All but a group of pieces is on its way to the disk before the next piece is asked for."""

    def pieces() -> Iterator[bytes]:
        for number in range(40):
            on_disk = sum(path.stat().st_size for path in layout.staging.iterdir())
            assert number * 65536 - on_disk < 256 * 1024 + 65536
            yield bytes(65536)

    blobs.stage(pieces()).discard()


# ---- limits ----


def test_too_large_is_refused_at_the_first_byte_beyond(layout: Layout) -> None:
    small = Blobs(layout, Limits(max_object_bytes=100))
    small.stage([bytes(100)]).discard()
    with pytest.raises(ObjectTooLarge, match=r"limits\.maxObjectBytes \(100"):
        small.stage([bytes(60), bytes(41)])
    assert names(layout) == []
    assert small.staging.budget._taken == 0


def test_staging_is_limited_over_all_uploads(layout: Layout) -> None:
    small = Blobs(layout, Limits(max_staging_bytes=100))
    first = small.stage([bytes(60)])
    with pytest.raises(StoreFull, match=r"limits\.maxStagingBytes \(100"):
        small.stage([bytes(41)])
    second = small.stage([bytes(40)])
    first.discard()
    third = small.stage([bytes(60)])
    for each in (second, third):
        each.discard()
    assert small.staging.budget._taken == 0
    assert names(layout) == []


def test_room_that_must_stay_free_stays_free(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=100))
    small = Blobs(layout, Limits(min_free_bytes=400))
    small.stage([bytes(600)]).discard()
    with pytest.raises(StoreFull, match=r"limits\.minFreeBytes \(400"):
        small.stage([bytes(601)])
    assert names(layout) == []
    assert small.staging.budget._taken == 0


def test_limits_may_change_while_uploads_run(layout: Layout) -> None:
    small = Blobs(layout, Limits())

    def pieces() -> Iterator[bytes]:
        yield bytes(staging._GATHER_BYTES)
        small.staging.budget.limits = Limits(max_object_bytes=10)
        yield b"x"

    with pytest.raises(ObjectTooLarge):
        small.stage(pieces())
    assert small.staging.budget._taken == 0


# ---- publishing ----


def test_publishing_gives_the_name_and_keeps_the_staging_name(blobs: Blobs, layout: Layout) -> None:
    found = publish(blobs, DATA)
    final = layout.blobs / blake3(DATA).hexdigest()[:2] / blake3(DATA).hexdigest()
    assert blobs.path(found.digest) == final
    assert final.stat().st_ino == found.path.stat().st_ino
    assert blobs.is_ours(found)
    assert blobs.has(found.digest, len(DATA))
    assert not blobs.has(found.digest, len(DATA) + 1)
    found.discard()
    assert final.read_bytes() == DATA
    assert final.stat().st_nlink == 1
    assert names(layout) == []


def test_publishing_twice_does_nothing_the_second_time(blobs: Blobs, layout: Layout) -> None:
    found = publish(blobs, DATA)
    blobs.publish(found)
    assert names(layout) == [found.path.name]
    assert blobs.is_ours(found)
    found.discard()


def test_a_file_that_stands_there_is_replaced(blobs: Blobs, layout: Layout) -> None:
    first, second = publish(blobs, DATA), blobs.stage([DATA])
    overwrite(blobs.path(first.digest), b"rotten")
    blobs.publish(second)
    assert blobs.is_ours(second)
    assert not blobs.is_ours(first)
    assert blobs.path(second.digest).read_bytes() == DATA
    assert len(names(layout)) == 2
    for each in (first, second):
        each.discard()
    assert blobs.path(second.digest).stat().st_nlink == 1


def test_a_directory_that_stands_there_is_set_aside_with_a_note(blobs: Blobs, layout: Layout) -> None:
    found = blobs.stage([b"payload"])
    path = blobs.path(found.digest)
    path.mkdir()
    (path / "inside").write_bytes(b"kept")
    blobs.publish(found)
    found.discard()
    assert path.read_bytes() == b"payload"
    aside, note = sorted(layout.quarantine.iterdir())
    assert (aside / "inside").read_bytes() == b"kept"
    assert "directory" in note.read_text()


def test_a_link_that_stands_there_is_replaced_and_not_followed(blobs: Blobs, layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"theirs")
    found = blobs.stage([DATA])
    blobs.path(found.digest).symlink_to(tmp_path / "precious")
    assert not blobs.has(found.digest, 6)
    blobs.publish(found)
    assert blobs.path(found.digest).read_bytes() == DATA
    assert not blobs.path(found.digest).is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"theirs"
    found.discard()


def test_a_rename_between_links_of_one_file_leaves_no_second_name(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may link our file's name between our look and our rename, which then does nothing."""
    found = publish(blobs, DATA)
    monkeypatch.setattr(Blobs, "is_ours", lambda *_: False)
    blobs.publish(found)
    assert names(layout) == [found.path.name]
    assert blobs.path(found.digest).stat().st_ino == found.path.stat().st_ino
    found.discard()


def test_a_file_that_goes_while_it_is_looked_at_is_no_failure(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the refused link and the look at what stands there, gc may have removed it."""
    first, second = publish(blobs, DATA), blobs.stage([DATA])
    link = os.link

    def refused(source: Path, target: Path) -> None:
        try:
            link(source, target)
        except FileExistsError:
            os.unlink(target)
            raise

    monkeypatch.setattr(os, "link", refused)
    blobs.publish(second)
    assert blobs.is_ours(second)
    for each in (first, second):
        each.discard()
    assert names(layout) == []


def test_publishers_of_the_same_bytes_at_once(blobs: Blobs, layout: Layout) -> None:
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(40):
                found = publish(blobs, DATA)
                assert blobs.path(found.digest).read_bytes() == DATA
                found.discard()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert names(layout) == []
    assert len(list(layout.blobs.glob("*/*"))) == 1


# ---- whose a staging file is ----


def test_the_cleaner_leaves_live_uploads_alone(blobs: Blobs, layout: Layout) -> None:
    live = blobs.stage([DATA])
    second = live.path.with_suffix(".link")
    os.link(live.path, second)
    assert Blobs(layout, Limits()).staging.clean() == 0
    assert len(names(layout)) == 2
    second.unlink()
    live.discard()


def test_the_cleaner_removes_what_the_dead_left(blobs: Blobs, layout: Layout) -> None:
    code = """
        from gestalt_cas.files.blobs import Blobs
        from gestalt_cas.configuration.config import Limits
        from gestalt_cas.files.layout import Layout
        blobs = Blobs(Layout(Path(arguments[0])), Limits())
        published = blobs.stage([b"published"])
        blobs.publish(published)
        os.link(published.path, published.path.with_suffix(".link"))
        def pieces():
            yield b"x" * 1_000_000
            print("written", flush=True)
            sys.stdin.readline()
        blobs.stage(pieces())
    """
    with Child(code, layout.root) as writer:
        assert writer.line() == "written"
        assert blobs.staging.clean() == 0
        assert len(names(layout)) == 3
        writer.kill()
        assert blobs.staging.clean() == 3
    assert names(layout) == []
    assert blobs.path(blake3(b"published").digest()).read_bytes() == b"published"
    assert blobs.staging.clean() == 0


def test_a_writer_whose_file_was_cleaned_before_its_lock_starts_anew(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, cleaned = fcntl.flock, []

    def late(fd: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not cleaned:
            cleaned.append(Blobs(layout, Limits()).staging.clean())
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    before = len(os.listdir("/proc/self/fd"))
    found = blobs.stage([DATA])
    assert cleaned == [1]
    assert found.path.read_bytes() == DATA
    assert len(os.listdir("/proc/self/fd")) == before + 1
    found.discard()


def test_the_cleaner_looks_again_after_it_has_the_lock(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer is done and has gone, and the name stands for another upload by now."""
    (layout.staging / "a.part").write_bytes(b"old")
    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB:
            (layout.staging / "a.part").unlink()
            (layout.staging / "a.part").write_bytes(b"new")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert blobs.staging.clean() == 0
    assert (layout.staging / "a.part").read_bytes() == b"new"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_cleaner_copes_with_files_that_go(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (layout.staging / "a.part").write_bytes(b"going")
    opened = os.open

    def late(path: Path, *arguments: Any) -> int:
        if moment == "before":
            Path(path).unlink()
        fd = opened(path, *arguments)
        if moment == "after":
            Path(path).unlink()
        return fd

    monkeypatch.setattr(os, "open", late)
    assert blobs.staging.clean() == 0
    assert names(layout) == []


def test_the_cleaner_copes_with_a_file_that_goes_while_it_holds_it(
    blobs: Blobs, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    (layout.staging / "a.part").write_bytes(b"going")
    real = Path.unlink

    def late(path: Path, **options: bool) -> None:
        real(path)
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", late)
    assert blobs.staging.clean() == 0
    assert names(layout) == []


def test_the_cleaner_leaves_what_nobody_staged(blobs: Blobs, layout: Layout, tmp_path: Path) -> None:
    (layout.staging / "directory").mkdir()
    (layout.staging / "link").symlink_to(tmp_path)
    os.mkfifo(layout.staging / "pipe")
    (layout.staging / "dead.part").write_bytes(b"x")
    assert blobs.staging.clean() == 1
    assert names(layout) == ["directory", "link", "pipe"]


def test_cleaners_and_writers_at_once(blobs: Blobs, layout: Layout) -> None:
    """Several cleaners run against writers in another process: no upload is lost, nothing is left."""
    code = """
        from gestalt_cas.files.blobs import Blobs
        from gestalt_cas.configuration.config import Limits
        from gestalt_cas.files.layout import Layout
        blobs = Blobs(Layout(Path(arguments[0])), Limits())
        for number in range(300):
            found = blobs.stage([b"%d" % number])
            blobs.publish(found)
            assert blobs.path(found.digest).read_bytes() == b"%d" % number
            found.discard()
    """
    stop, removed = threading.Event(), []

    def clean() -> None:
        while not stop.is_set():
            removed.append(blobs.staging.clean())

    cleaners = [threading.Thread(target=clean) for _ in range(2)]
    with Child(code, layout.root) as first, Child(code, layout.root) as second:
        for cleaner in cleaners:
            cleaner.start()
        first.finish()
        second.finish()
        stop.set()
        for cleaner in cleaners:
            cleaner.join()
    assert names(layout) == []
    assert len(list(layout.blobs.glob("*/*"))) == 300


def test_discarding_never_raises(blobs: Blobs, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    found = blobs.stage([DATA])
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", Failing(os.unlink, broken()))
        found.discard()
    assert "stays behind" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before - 1
    assert blobs.staging.budget._taken == 0
    assert blobs.staging.clean() == 1


def test_a_staging_file_that_somebody_removed_is_discarded_as_well(blobs: Blobs, layout: Layout) -> None:
    found = blobs.stage([DATA])
    found.path.unlink()
    found.discard()
    assert blobs.staging.budget._taken == 0
    assert names(layout) == []


def test_what_is_held_in_memory_gives_its_bytes_back_once(blobs: Blobs) -> None:
    held = blobs.hold([DATA], len(DATA))
    assert blobs.staging.budget._taken == len(DATA)
    held.discard()
    held.discard()
    assert blobs.staging.budget._taken == 0


def test_the_disk_is_told_to_begin_before_the_end_of_an_upload(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(staging, "_BEGIN_BYTES", 2 * MIB)
    monkeypatch.setattr(staging, "begin_writing", lambda fd, begun, count: told.append((begun, count)))
    found = blobs.stage([bytes(MIB)] * 5)
    assert found.size == 5 * MIB
    assert [begun for begun, _ in told] == [0, *(begun + count for begun, count in told[:-1])]
    assert len(told) == 2
    found.discard()


# ---- a disk that fails ----

FAULTS = {
    "making the file": (os, "open", 1),
    "locking it": (fcntl, "flock", 1),
    "writing": (os, "writev", 1),
    "writing more": (os, "writev", 2),
    "syncing": (staging, "sync_file", 1),
    "linking": (os, "link", 1),
    "syncing the directory": (blobs, "sync_directory", 1),
}
"""The calls of a write that reach the disk: module, function, which call of it."""
REPLACING = {"linking the second name": (os, "link", 2), "renaming": (os, "rename", 1)}


@pytest.mark.parametrize("point", FAULTS)
@pytest.mark.parametrize(("error", "expected"), [(full, StoreFull), (broken, StorageFault)])
@pytest.mark.parametrize("after", [True, False])
def test_a_write_that_fails_leaves_nothing_and_the_next_works(
    store: Store, monkeypatch: pytest.MonkeyPatch, point: str, error: Any, expected: type[StoreError], after: bool
) -> None:
    put(store, "k", b"before")
    module, name, at = FAULTS[point]
    pieces = [os.urandom(300_000), os.urandom(300_000)]
    descriptors = len(os.listdir("/proc/self/fd"))
    failing = Failing(getattr(module, name), error(), at=at, after=after)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing)
        with pytest.raises(expected):
            store.write(key("k"), pieces)
    assert failing.calls == at
    assert staged(store) == [] or (point == "making the file" and after)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + (point == "making the file" and after)
    assert body(store, "k") == b"before"
    assert store._blobs.staging.budget._taken == 0
    version = store.write(key("k"), pieces)
    assert version.digest == blake3(b"".join(pieces)).hexdigest()
    assert body(store, "k") == b"".join(pieces)
    store.clean_staging()
    assert staged(store) == []


@pytest.mark.parametrize("point", REPLACING)
@pytest.mark.parametrize(("error", "expected"), [(full, StoreFull), (broken, StorageFault)])
@pytest.mark.parametrize("after", [True, False])
def test_a_replacement_that_fails_leaves_no_second_name(
    store: Store, monkeypatch: pytest.MonkeyPatch, point: str, error: Any, expected: type[StoreError], after: bool
) -> None:
    path = payload_path(store, DATA)
    path.write_bytes(b"planted")
    module, name, at = REPLACING[point]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, Failing(getattr(module, name), error(), at=at, after=after))
        with pytest.raises(expected):
            put(store, "k", DATA)
    assert [name for name in staged(store) if not name.endswith(".link")] == []
    put(store, "k", DATA)
    assert body(store, "k") == DATA
    store.clean_staging()
    assert staged(store) == []


def test_a_file_is_never_synced_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed sync leaves in memory may look synced to the next one: the upload is taken anew."""
    synced: list[int] = []

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if len(synced) == 1:
            raise broken()

    monkeypatch.setattr(staging, "sync_file", sync)
    with pytest.raises(StorageFault):
        put(store, "k", DATA)
    blocker = (store.directory / "staging" / "blocker").open("w")  # so that the inode is not given out again at once
    put(store, "k", DATA)
    blocker.close()
    assert len(set(synced)) == 2


def test_a_directory_that_was_not_synced_counts_as_not_published(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = blobs.sync_directory, []

    def sync(path: str) -> None:
        synced.append(Path(path))
        if len(synced) == 1:
            raise broken()
        real(path)

    monkeypatch.setattr(blobs, "sync_directory", sync)
    with pytest.raises(StorageFault):
        put(store, "k", DATA)
    assert payload_path(store, DATA).exists()
    put(store, "k", DATA)
    assert synced == [payload_path(store, DATA).parent] * 2
    put(store, "l", DATA)
    assert len(synced) == 2  # now a committed row vouches for it


def test_a_missing_fan_out_directory_is_a_fault_and_not_an_absent_object(store: Store) -> None:
    path = payload_path(store, DATA)
    path.parent.rmdir()
    with pytest.raises(StorageFault):
        put(store, "k", DATA)
    assert staged(store) == []
    path.parent.mkdir()
    put(store, "k", DATA)


@pytest.mark.parametrize("error", [full, broken])
def test_a_look_that_fails_is_a_fault(store: Store, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    put(store, "k", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", Failing(os.lstat, error(), at=2))
        with pytest.raises((StorageFault, StoreFull)):
            put(store, "l", DATA)
    assert staged(store) == []
    assert body(store, "k") == DATA


# ---- reading ----


@pytest.fixture(scope="module")
def big() -> bytes:
    """A payload of three and a half chunks."""
    return b"".join(bytes([number]) * 65536 for number in range(56))


def test_ranges_come_as_verified_pieces(blobs: Blobs, big: bytes) -> None:
    found = publish(blobs, big)
    opened = blobs.open(found.digest, len(big), found.sums)
    for offset, length in [(0, len(big)), (0, 0), (5, 1), (MIB - 1, 2), (MIB, MIB), (len(big) - 1, 1), (7, 3 * MIB)]:
        for buffer in (None, memoryview(bytearray(MIB)), memoryview(bytearray(2 * MIB))):
            pieces = [bytes(piece) for piece in opened.read(offset, length, buffer)]
            assert b"".join(pieces) == big[offset : offset + length]
            assert all(0 < len(piece) <= MIB for piece in pieces)
    opened.close()
    opened.close()
    found.discard()


def test_an_open_payload_outlives_its_name(blobs: Blobs) -> None:
    found = publish(blobs, DATA)
    opened = blobs.open(found.digest, len(DATA), found.sums)
    assert opened.still_named()
    blobs.path(found.digest).unlink()
    assert not opened.still_named()
    assert b"".join(opened.read(0, len(DATA))) == DATA
    opened.close()
    with pytest.raises(BlobMissing) as caught:
        blobs.open(found.digest, len(DATA), found.sums)
    assert caught.value.digest == blake3(DATA).hexdigest()
    found.discard()


@pytest.mark.parametrize("kind", ["short", "long", "empty", "directory", "link", "dangling", "pipe", "socket"])
def test_what_is_no_payload_is_not_opened(blobs: Blobs, tmp_path: Path, kind: str) -> None:
    found = publish(blobs, DATA)
    path = blobs.path(found.digest)
    good = path.read_bytes()
    descriptors = len(os.listdir("/proc/self/fd"))
    path.unlink()
    listener = None
    if kind in ("short", "long", "empty"):
        path.write_bytes({"short": good[:-1], "long": good + b"x", "empty": b""}[kind])
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "good").write_bytes(good)
        path.symlink_to(tmp_path / "good")
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        listener = socket.socket(socket.AF_UNIX)
        with tempfile.TemporaryDirectory(prefix="gc") as short:
            listener.bind(f"{short}/s")
            os.rename(f"{short}/s", path)
    try:
        with pytest.raises(DigestMismatch) as caught:
            blobs.open(found.digest, len(DATA), found.sums)
        assert caught.value.digest == path.name
        assert not blobs.has(found.digest, len(DATA))
    finally:
        if listener is not None:
            listener.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    found.discard()


def test_a_payload_that_may_not_be_opened_is_told_with_the_reason(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = publish(blobs, DATA)
    for code, kind in (
        (errno.EACCES, StorageFault),
        (errno.EIO, DigestMismatch),
        (errno.EMFILE, TooManyStreams),
        (errno.ENFILE, TooManyStreams),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", Failing(os.open, OSError(code, os.strerror(code))))
            with pytest.raises(kind, match=os.strerror(code)):
                blobs.open(found.digest, len(DATA), found.sums)
    found.discard()


def test_a_payload_that_cannot_be_looked_at_is_closed(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    found = publish(blobs, DATA)
    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", Failing(os.fstat, broken()))
        with pytest.raises(StorageFault):
            blobs.open(found.digest, len(DATA), found.sums)
        patch.setattr(os, "lstat", Failing(os.lstat, broken()))
        with pytest.raises(StorageFault):
            blobs.is_ours(found)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    found.discard()


def test_only_damaged_chunks_are_refused(blobs: Blobs, big: bytes) -> None:
    found = publish(blobs, big)
    flip(blobs.path(found.digest), MIB + 77)
    assert read(blobs, big, found.sums, 0, MIB) == big[:MIB]
    assert read(blobs, big, found.sums, 2 * MIB) == big[2 * MIB :]
    for offset, length in [(MIB, 1), (2 * MIB - 1, 1), (MIB + 77, 1), (0, MIB + 1)]:
        with pytest.raises(DigestMismatch, match=f"bytes {MIB} to {2 * MIB - 1}"):
            read(blobs, big, found.sums, offset, length)
    found.discard()


def test_undamaged_pieces_come_before_the_damage_is_met(blobs: Blobs, big: bytes) -> None:
    found = publish(blobs, big)
    flip(blobs.path(found.digest), 2 * MIB)
    opened = blobs.open(found.digest, len(big), found.sums)
    pieces, got = opened.read(0, len(big)), []
    with pytest.raises(DigestMismatch):
        got.extend(bytes(piece) for piece in pieces)
    opened.close()
    found.discard()


def test_a_file_cut_off_while_it_is_read_is_damage(blobs: Blobs, big: bytes) -> None:
    found = publish(blobs, big)
    opened = blobs.open(found.digest, len(big), found.sums)
    buffer = memoryview(bytearray(MIB))
    readings = [opened.read(0, len(big)), opened.read(0, len(big), buffer)]
    for pieces in readings:
        assert bytes(next(pieces)) == big[:MIB]
    overwrite(blobs.path(found.digest), big[: MIB + 5])
    for pieces in readings:
        with pytest.raises(DigestMismatch):
            next(pieces)
    opened.close()
    found.discard()


@pytest.mark.parametrize(("code", "expected"), [(errno.EIO, DigestMismatch), (errno.ENOMEM, StorageFault)])
def test_a_read_that_fails(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StoreError]
) -> None:
    """A sector that cannot be read is damage of this payload; other failures say nothing about its bytes."""
    found = publish(blobs, DATA)
    opened = blobs.open(found.digest, len(DATA), found.sums)
    for call, buffer in (("pread", None), ("preadv", memoryview(bytearray(MIB)))):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, Failing(getattr(os, call), OSError(code, os.strerror(code))))
            with pytest.raises(expected):
                next(opened.read(0, len(DATA), buffer))
        assert b"".join(opened.read(0, len(DATA), buffer)) == DATA
    opened.close()
    found.discard()


def test_a_closed_payload_cannot_be_read(blobs: Blobs) -> None:
    found = publish(blobs, DATA)
    opened = blobs.open(found.digest, len(DATA), found.sums)
    opened.close()
    with pytest.raises(InvalidArgument, match="closed"):
        list(opened.read(0, 1))
    found.discard()


def test_a_planted_file_is_replaced_by_a_write(store: Store) -> None:
    """It has the right name and size, but no committed row vouches for it."""
    payload_path(store, DATA).write_bytes(bytes(len(DATA)))
    put(store, "k", DATA)
    assert body(store, "k") == DATA
    assert not damaged(store, DATA)


def test_the_directory_is_synced_after_every_link(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of a write: a name, the syncs of the bytes and of the name, COMMIT, then the staging name goes."""
    events: list[str] = []

    def record(module: Any, name: str, what: str) -> None:
        real = getattr(module, name)

        def recorded(*arguments: Any, **options: Any) -> Any:
            events.append(what)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, recorded)

    record(staging, "sync_file", "sync")
    record(os, "link", "link")
    record(blobs, "sync_directory", "sync directory")
    record(store._database, "_commit", "commit")
    record(Staged, "discard", "discard")
    put(store, "k", DATA)
    assert events == ["link", "sync", "sync directory", "commit", "discard"]
    events.clear()
    put(store, "l", DATA)
    assert events == ["commit", "discard"]
