"""Garbage collection: what it removes and what it must not, when, in which portions, and what it tells of it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import Limits, ObjectVersion, Store
from gestalt_cas import clock as clock_module
from gestalt_cas.errors import Cancelled, DiskFull, StorageFault
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.keeping import pins
from gestalt_cas.keeping.reachability import Garbage
from gestalt_cas.operations.payloads import Payloads
from gestalt_cas.removal import garbage, sweeps
from gestalt_cas.removal.garbage import Collected, Reclaimable
from storage import (
    Child,
    Failing,
    body,
    change,
    child,
    damaged,
    flip,
    full,
    key,
    on_a_small_disk,
    payload_path,
    payloads,
    put,
    rows,
    staged,
)

MINUTE = 60_000


class Clock:
    """The wall clock as gc sees it, in milliseconds."""

    def __init__(self) -> None:
        self.now = clock_module.now_ms()  # commits have the real time, and the clock guard compares

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(garbage, "now_ms", made)
    monkeypatch.setattr(sweeps, "now_ms", made)
    return made


def remove(store: Store, version: ObjectVersion) -> None:
    store.delete(version.key, version_id=version.version_id)


def abandon(store: Store, *bodies: bytes) -> None:
    """Leave payloads that no version reaches."""
    for data in bodies:
        remove(store, put(store, "abandoned", data))


def plant(store: Store, *bodies: bytes) -> None:
    """Leave files without a row, as a crash between publishing and COMMIT does."""
    for data in bodies:
        payload_path(store, data).write_bytes(data)


def names(*bodies: bytes) -> list[str]:
    return sorted(blake3(data).hexdigest() for data in bodies)


def known(store: Store) -> list[str]:
    return sorted(digest.hex() for (digest,) in rows(store, "SELECT digest FROM blobs"))


def recorded(store: Store) -> dict[str, int]:
    return {digest.hex(): since for digest, since in rows(store, "SELECT digest, since_ms FROM unreachable")}


def pin(store: Store, name: str = "backup", now_ms: int | None = None) -> None:
    with store._database.write() as tx:
        pins.place(tx, name, "backup", garbage.now_ms() if now_ms is None else now_ms, {})


def cut_off_upload(store: Store) -> None:
    (store.directory / "staging" / "0123456789ab.part").write_bytes(b"half")


# ---- what goes, what stays ----


def test_only_what_no_version_reaches_is_removed(store: Store) -> None:
    kept = put(store, "kept", b"kept")
    put(store, "hidden", b"hidden")
    store.delete(key("hidden"))
    put(store, "k", b"old")
    put(store, "k", b"new")
    abandon(store, b"gone", b"gone as well", b"kept")
    assert store.collect_garbage() == Collected(False, files=2, bytes=16)
    assert payloads(store) == known(store) == names(b"kept", b"hidden", b"old", b"new")
    assert recorded(store) == {}
    assert body(store, "kept", version_id=kept.version_id) == b"kept"
    assert store.collect_garbage() == Collected(False)


def test_files_without_a_row_go(store: Store) -> None:
    put(store, "k", b"kept")
    plant(store, b"left by a crash")
    assert store.collect_garbage() == Collected(False, files=1, bytes=15)
    assert payloads(store) == names(b"kept")
    assert recorded(store) == {}


def test_what_is_no_payload_is_left_to_its_owner(store: Store, tmp_path: Path) -> None:
    digest = names(b"x")[0]
    place = store.directory / "blobs" / digest[:2]
    other = store.directory / "blobs" / f"{int(digest[:2], 16) ^ 1:02x}"
    strange = [place / "notes.txt", place / digest.upper(), place / digest[:-1], other / digest, place / f"{digest}z"]
    strange += [place / ("g" + digest[1:]), place / f"{digest[:2]}{'g' * 62}"]
    for path in strange:
        path.write_bytes(b"not ours")
    (place / digest).mkdir()
    linked = names(b"y")[0]
    (store.directory / "blobs" / linked[:2] / linked).symlink_to(tmp_path)
    assert store.collect_garbage() == Collected(False)
    assert all(path.read_bytes() == b"not ours" for path in strange)
    assert (place / digest).is_dir()
    assert (store.directory / "blobs" / linked[:2] / linked).is_symlink()


def test_damage_does_not_keep_a_payload_nor_take_it(store: Store) -> None:
    put(store, "k", b"damaged and reached")
    abandon(store, b"damaged")
    for data in (b"damaged", b"damaged and reached"):
        flip(payload_path(store, data), 0)
        store._payloads.mark_damaged(blake3(data).digest(), lambda: True)
    assert store.collect_garbage().files == 1
    assert payloads(store) == known(store) == names(b"damaged and reached")
    assert damaged(store, b"damaged and reached")


def test_a_row_whose_file_has_gone_goes_too(store: Store) -> None:
    abandon(store, b"lost", b"there")
    payload_path(store, b"lost").unlink()
    assert store.collect_garbage(dry_run=True) == Collected(True, files=1, bytes=5)
    assert store.collect_garbage() == Collected(False, files=1, bytes=5)
    assert known(store) == []


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_something_else_under_a_payloads_name(store: Store, tmp_path: Path, kind: str) -> None:
    """A link is removed and not followed; a directory stays and is told of. Neither keeps the row."""
    abandon(store, b"data")
    path = payload_path(store, b"data")
    path.unlink()
    (tmp_path / "other").write_bytes(b"data")
    if kind == "link":
        path.symlink_to(tmp_path / "other")
    else:
        path.mkdir()
    foreseen = store.collect_garbage(dry_run=True)
    found = store.collect_garbage()
    assert (foreseen.files, found.files, found.stuck_files) == ((1, 1, 0) if kind == "link" else (0, 0, 1))
    assert path.is_dir() == (kind == "directory")
    assert (tmp_path / "other").read_bytes() == b"data"
    assert known(store) == []
    assert store.collect_garbage() == Collected(False)


def test_a_reader_goes_on_with_what_was_removed(store: Store) -> None:
    data = os.urandom(3 << 20)
    version = put(store, "k", data)
    with store.read(key("k")) as reader:
        pieces = iter(reader)
        got = [bytes(next(pieces))]
        remove(store, version)
        assert store.collect_garbage().files == 1
        got += map(bytes, pieces)
    assert b"".join(got) == data


def test_removed_bytes_can_be_written_again(store: Store) -> None:
    abandon(store, b"data")
    store.collect_garbage()
    put(store, "k", b"data")
    assert body(store, "k") == b"data"
    assert store.collect_garbage() == Collected(False)


# ---- staging ----


UPLOAD = """
    def pieces():
        yield b"x" * 1000
        print("staged", flush=True)
        if len(arguments) > 1:
            os._exit(9)
        sys.stdin.readline()
    with Store.open(arguments[0]) as store:
        store.write(ObjectKey("bucket", "live"), pieces())
"""


def test_uploads_of_dead_processes_go_and_those_of_living_ones_stay(store: Store) -> None:
    child(UPLOAD, store.directory, "dies", expect=9)
    with Child(UPLOAD, store.directory) as other:
        assert other.line() == "staged"
        assert len(staged(store)) == 2
        assert store.collect_garbage(dry_run=True).staging_files == 1
        assert len(staged(store)) == 2
        assert store.collect_garbage() == Collected(False, staging_files=1)
        assert len(staged(store)) == 1
        other.tell()
        other.finish()
    assert body(store, "live") == b"x" * 1000


def test_staging_that_cannot_be_removed_does_not_keep_payloads(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off_upload(store)
    abandon(store, b"data")
    with monkeypatch.context() as patch:
        refused = PermissionError(errno.EACCES, "Permission denied")
        patch.setattr(os, "open", Failing(os.open, refused))
        assert store.collect_garbage() == Collected(False, files=1, bytes=4)
    assert "0123456789ab.part stays behind" in caplog.text
    assert store.collect_garbage().staging_files == 1


# ---- grace and clocks ----


def test_within_the_grace_nothing_goes(store: Store, clock: Clock) -> None:
    abandon(store, b"first")
    fresh = Collected(False, fresh_files=1, fresh_bytes=5)
    assert store.collect_garbage(grace_seconds=60) == fresh
    clock.now += MINUTE - 1
    assert store.collect_garbage(grace_seconds=60) == fresh
    abandon(store, b"second")
    clock.now += 1
    assert store.collect_garbage(grace_seconds=60) == Collected(False, 1, 5, fresh_files=1, fresh_bytes=6)
    assert payloads(store) == names(b"second")
    assert store.collect_garbage() == Collected(False, 1, 6)


def test_what_is_reached_again_begins_its_grace_anew(store: Store, clock: Clock) -> None:
    abandon(store, b"data")
    store.collect_garbage(grace_seconds=60)
    version = put(store, "k", b"data")
    clock.now += 2 * MINUTE
    assert store.collect_garbage(grace_seconds=60) == Collected(False)
    assert recorded(store) == {}
    remove(store, version)
    assert store.collect_garbage(grace_seconds=60).fresh_files == 1
    assert recorded(store) == {names(b"data")[0]: clock.now}
    assert payloads(store) == names(b"data")


def test_what_is_reached_again_before_the_next_look_stays(store: Store) -> None:
    abandon(store, b"data")
    store._collector._record(blake3(b"data").digest()[0])
    put(store, "k", b"data")
    assert recorded(store)
    assert store.collect_garbage() == Collected(False)
    assert body(store, "k") == b"data"


@pytest.mark.parametrize("grace", [0, 60])
def test_a_time_ahead_of_the_clock_does_not_keep_a_payload(store: Store, clock: Clock, grace: int) -> None:
    """It was recorded by a clock that ran ahead, or the clock was set back since."""
    abandon(store, b"data")
    clock.now += 1000 * MINUTE
    store.collect_garbage(grace_seconds=60)
    clock.now -= 1000 * MINUTE
    assert store.collect_garbage(grace_seconds=grace).files == (not grace)
    clock.now += MINUTE
    store.collect_garbage(grace_seconds=grace)
    assert payloads(store) == []


def test_a_record_of_what_has_gone_is_struck_off(store: Store) -> None:
    plant(store, b"data")
    store._collector._record(blake3(b"data").digest()[0])
    payload_path(store, b"data").unlink()
    assert recorded(store)
    assert store.collect_garbage(grace_seconds=60) == Collected(False)
    assert recorded(store) == {}


# ---- pins ----


def test_a_live_pin_keeps_everything(store: Store) -> None:
    abandon(store, b"data")
    plant(store, b"file")
    cut_off_upload(store)
    pin(store, "b")
    pin(store, "a")
    kept = Collected(False, pinned_files=2, pinned_bytes=8, pinned_by=("a", "b"), staging_files=1)
    assert store.collect_garbage() == kept
    assert kept.result == "pinned"
    assert payloads(store) == names(b"data", b"file")
    change(store, "DELETE FROM pins")
    assert store.collect_garbage() == Collected(False, 2, 8)


def test_a_pin_without_garbage_is_not_mentioned(store: Store) -> None:
    abandon(store, b"data")
    pin(store)
    fresh = Collected(False, fresh_files=1, fresh_bytes=4)
    assert store.collect_garbage(grace_seconds=60) == fresh
    assert store.collect_garbage(grace_seconds=60, dry_run=True) == replace(fresh, dry_run=True)


def test_the_pin_of_a_dead_owner_is_dropped(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    abandon(store, b"data")
    pin(store, "dead", garbage.now_ms() - pins.DEAD_AFTER_MS - 1)
    assert store.collect_garbage(dry_run=True).files == 1
    assert store.collect_garbage().files == 1
    assert "dropped the pin dead" in caplog.text
    assert rows(store, "SELECT * FROM pins") == []


def test_a_pin_that_is_set_meanwhile_keeps_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH_FILES", 1)
    monkeypatch.setattr(sweeps, "BATCH_FILES", 1)
    abandon(store, b"one", b"two", b"six")

    def progress(what: str, done: int, total: int) -> None:
        if what == "removing payloads" and done == 1:
            pin(store)

    found = store.collect_garbage(progress=progress)
    assert found == Collected(False, 1, 3, pinned_files=2, pinned_bytes=6, pinned_by=("backup",))
    assert len(payloads(store)) == len(known(store)) == 2


# ---- dry runs ----


def everything(store: Store) -> tuple[object, ...]:
    """All that the directory holds. The database is read by another process: closing it here would drop its locks."""
    files = [str(path) for path in sorted(store.directory.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    files = [name for name in files if not name.endswith("-shm")]
    sums = subprocess.run(["cksum", *files], capture_output=True, check=True).stdout
    tables = ("blobs", "versions", "unreachable", "pins", "settings", "counter")
    return sums, *(rows(store, f"SELECT * FROM {table}") for table in tables)


@pytest.mark.parametrize("pinned", ["", "live", "dead"])
@pytest.mark.parametrize("grace", [0, 60])
def test_a_dry_run_changes_nothing_and_foresees_the_run(store: Store, clock: Clock, pinned: str, grace: int) -> None:
    put(store, "k", b"kept")
    abandon(store, b"recorded long ago", b"lost", b"to be reached again")
    plant(store, b"an orphan")
    store.collect_garbage(grace_seconds=60)
    clock.now += MINUTE
    put(store, "again", b"to be reached again")
    payload_path(store, b"lost").unlink()
    abandon(store, b"new garbage")
    plant(store, b"another orphan")
    cut_off_upload(store)
    if pinned:
        pin(store, now_ms=clock.now if pinned == "live" else 0)
    before = everything(store)
    foreseen = store.collect_garbage(grace_seconds=grace, dry_run=True)
    assert everything(store) == before
    assert replace(store.collect_garbage(grace_seconds=grace), dry_run=True) == foreseen
    assert (foreseen.files, foreseen.pinned_files) == (
        (0, 3 + 2 * (not grace)) if pinned == "live" else (2 + 2 * (not grace), 0)
    )
    assert (foreseen.fresh_files, foreseen.staging_files) == (2 if grace else 0, 1)


# ---- portions ----


def batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each hold of the lock removes, from now on."""
    sizes: list[int] = []
    real = sweeps.Sweep._unlink

    def unlink(sweep: sweeps.Sweep, taken: list[Garbage]) -> None:
        if taken:
            sizes.append(len(taken))
        real(sweep, taken)

    monkeypatch.setattr(sweeps.Sweep, "_unlink", unlink)
    return sizes


def plant_many(store: Store, count: int) -> None:
    for number in range(count):
        digest = blake3(b"%d" % number).hexdigest()
        (store.directory / "blobs" / digest[:2] / digest).touch()


def test_batches_begin_small_and_have_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "time", SimpleNamespace(monotonic=lambda: 0.0))
    sizes = batches(store, monkeypatch)
    plant_many(store, 700)
    assert store.collect_garbage().files == 700
    assert sizes == [16, 32, 64, 128, 200, 200, 60]


def test_batches_shrink_while_the_disk_is_slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    removed: list[bytes] = []
    real = Blobs.remove

    def slow(blobs: Blobs, digest: bytes) -> bool:
        removed.append(digest)
        now[0] += sweeps.BATCH_SECONDS * (2 if len(removed) < 32 else 0.001)
        return real(blobs, digest)

    monkeypatch.setattr(Blobs, "remove", slow)
    monkeypatch.setattr(sweeps, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sizes = batches(store, monkeypatch)
    plant_many(store, 60)
    assert store.collect_garbage().files == 60
    assert sizes == [16, 8, 4, 2, 1, 1, 2, 4, 8, 14]


def test_batches_are_limited_in_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file at least goes each time, however large it is."""
    monkeypatch.setattr(sweeps, "BATCH_BYTES", 100)
    sizes = batches(store, monkeypatch)
    bodies = [bytes([number]) * (101 if number % 3 == 0 else 40) for number in range(9)]
    abandon(store, *bodies)
    assert store.collect_garbage() == Collected(False, 9, 3 * 101 + 6 * 40)
    assert sum(sizes) == 9
    assert max(sizes) <= 2
    assert len(sizes) >= 6


def test_what_is_reached_again_does_not_hold_up_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch begins after the last digest of the one before, so it does not meet the same rows again and again."""
    monkeypatch.setattr(sweeps, "FIRST_BATCH_FILES", 1)
    monkeypatch.setattr(sweeps, "BATCH_FILES", 1)
    bodies = [b"%d" % number for number in range(6)]
    abandon(store, *bodies)
    for first in range(256):
        store._collector._record(first)
    for data in bodies[::2]:
        put(store, f"again {data!r}", data)
    monkeypatch.setattr(garbage, "FAN_OUT", 0)  # no further look: what is recorded is what the sweep finds
    assert store.collect_garbage().files == 3
    assert payloads(store) == names(*bodies[::2])


# ---- failures ----


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    abandon(store, b"stuck", b"goes")
    stuck, real = payload_path(store, b"stuck"), Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise OSError(errno.EIO, "Input/output error")
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        found = store.collect_garbage()
    assert (found.files, found.stuck_files, found.result) == (1, 1, "stuck")
    assert "Input/output error" in found.stuck_reason
    assert "1 payloads that no version reaches stay behind" in caplog.text
    assert payloads(store) == names(b"stuck")
    assert known(store) == []  # nothing vouches for what may be half removed
    assert store.collect_garbage() == Collected(False, 1, 5)


def test_a_directory_that_cannot_be_listed_ends_the_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    abandon(store, b"data")
    with monkeypatch.context() as patch:
        real = os.scandir

        def failing(path: Any) -> Any:
            if str(path).endswith("/02"):
                raise OSError(errno.EIO, "Input/output error")
            return real(path)

        patch.setattr(os, "scandir", failing)
        with pytest.raises(StorageFault, match="listing payloads 02"):
            store.collect_garbage()
    assert store.recall(garbage.NOTE) is None
    assert store.collect_garbage().files == 1


def test_a_file_that_vanishes_while_it_is_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has removed it between the directory's entry and the look at it."""
    plant(store, b"data")

    class Vanishing:
        def __init__(self, path: Path) -> None:
            self.entries = real(path)

        def __enter__(self) -> list[Any]:
            def gone(**_: object) -> Any:
                raise FileNotFoundError

            return [SimpleNamespace(name=entry.name, stat=gone) for entry in self.entries]

        def __exit__(self, *_: object) -> None:
            self.entries.close()

    real = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Vanishing)
        assert store.collect_garbage() == Collected(False)
    assert store.collect_garbage().files == 1


def test_the_reserve_is_spent_where_there_is_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its commits is tried again once the reserve has been given up."""
    abandon(store, b"data")
    pin(store, "dead", 0)
    store._parts.reserve.make()
    real, tried = type(store._database)._commit, []

    def commit(database: Any, connection: Any) -> None:
        tried.append(1)
        if len(tried) % 2:
            connection.execute("ROLLBACK")
            raise DiskFull("the disk is full")
        real(database, connection)

    monkeypatch.setattr(type(store._database), "_commit", commit)
    assert store.collect_garbage() == Collected(False, 1, 4)
    assert len(tried) == 2 * 4  # the record, the pin, the removal, the note


def test_on_a_full_disk() -> None:
    """Small files on a small disk: what the record of them takes must come out of the WAL, not only the reserve."""
    on_a_small_disk(
        """
        import pytest
        import shlex
        from gestalt_cas import sizes
        from gestalt_cas.cli.app import run
        from gestalt_cas.errors import DiskFull
        from storage import body, history, key, payloads, put

        def fill():
            with open("/mnt/filler", "ab", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    return

        with Store.open(arguments[0]) as store:
            made = [put(store, f"{number}", b"%d" % number * 100) for number in range(120)]
            put(store, "kept", b"kept")
            fill()
            for version in made:
                store.delete(version.key, version_id=version.version_id)
            with pytest.raises(DiskFull) as caught:
                for number in range(1000):
                    put(store, "more", os.urandom(20_000))
            advice = str(caught.value)
            total = sum(version.size for version in made)
            assert f"B are free, {sizes.told(total)} reclaimable with: gestalt-cas gc" in advice, advice
            command = shlex.split(advice.rpartition("gestalt-cas ")[2])
            assert command == ["gc", "--data-dir", arguments[0]]
            found = store.collect_garbage(dry_run=True)
            assert found.files >= 120  # and what the uploads that failed had published
            assert found.bytes >= total
            assert run(command) == 0
            assert body(store, "kept") == b"kept"
            assert store.collect_garbage().files == 0
            put(store, "fits again", b"x" * 20_000)
            reached = {version.digest for name in ("kept", "more", "fits again") for version in history(store, name)}
            assert payloads(store) == sorted(reached)
        """,
        8,
    )


# ---- what it tells ----


def test_it_notes_down_what_it_did(store: Store, clock: Clock) -> None:
    abandon(store, b"data")
    assert store.collect_garbage(dry_run=True).files == 1
    assert store.recall(garbage.NOTE) is None
    store.collect_garbage()
    note = store.recall(garbage.NOTE)
    assert isinstance(note, dict)
    assert (note["at_ms"], note["result"], note["files"], note["bytes"]) == (clock.now, "done", 1, 4)


def test_it_tells_how_far_it_is(store: Store) -> None:
    abandon(store, b"data")
    told: list[tuple[str, int, int]] = []
    store.collect_garbage(progress=lambda *what: told.append(what))
    assert [what[1:] for what in told[:256]] == [(number, 256) for number in range(1, 257)]
    assert told[256:] == [("removing payloads", 1, 0)]
    store.collect_garbage(dry_run=True, progress=lambda *what: told.append(what))
    assert told[257:] == told[:256]


@pytest.mark.parametrize("after", [100, 256, 257])
def test_it_stops_when_progress_raises(store: Store, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(sweeps, "FIRST_BATCH_FILES", 1)
    bodies = [b"%d" % number for number in range(4)]
    abandon(store, *bodies)
    told: list[object] = []

    def progress(*what: object) -> None:
        told.append(what)
        if len(told) == after:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        store.collect_garbage(progress=progress)
    assert len(payloads(store)) == len(known(store)) == (4 if after < 257 else 3)
    assert store.recall(garbage.NOTE) is None
    store.collect_garbage()
    assert payloads(store) == []


def test_what_can_be_reclaimed_is_estimated_from_the_rows(store: Store) -> None:
    put(store, "k", b"kept")
    assert store.reclaimable_bytes() == Reclaimable(0, True)
    abandon(store, b"data", b"more data")
    assert store.reclaimable_bytes() == Reclaimable(0, True)  # remembered for a moment
    store._collector._estimate = None
    assert store.reclaimable_bytes() == Reclaimable(13, True)
    store.collect_garbage()
    assert store.reclaimable_bytes() == Reclaimable(0, True)


def test_an_estimate_that_takes_too_long_is_a_lower_bound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    abandon(store, b"data")
    monkeypatch.setattr(garbage, "_ESTIMATE_SECONDS", -1.0)
    assert store.reclaimable_bytes() == Reclaimable(0, False)
    assert "at least 0B reclaimable" in store._collector.advice()


@pytest.mark.parametrize("out", [True, False])
def test_the_advice_tells_of_a_file_system_that_can_hold_no_more_files(
    store: Store, monkeypatch: pytest.MonkeyPatch, out: bool
) -> None:
    monkeypatch.setattr(garbage, "out_of_files", lambda root: out)
    assert ("can hold no more files" in store._collector.advice()) == out


def no_more_room(directory: Path, **limits: int) -> str:
    with Store.open(directory, create=False, limits=Limits(**limits)) as store, pytest.raises(DiskFull) as caught:
        put(store, "k", b"more")
    return str(caught.value)


def test_a_full_disk_is_told_with_what_would_help(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandon(store, b"data")
    plant(store, b"unknown as yet")
    told = no_more_room(store.directory, min_free_bytes=1 << 60)
    assert "would stay free; " in told
    assert told.endswith(f"B are free, 4B reclaimable with: gestalt-cas gc --data-dir {store.directory}")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", Failing(os.writev, full()))
        assert "4B reclaimable" in no_more_room(store.directory)
    with monkeypatch.context() as patch:
        patch.setattr(garbage.Collector, "reclaimable", Failing(None, StorageFault("the disk is ill")))  # type: ignore[arg-type]
        assert no_more_room(store.directory, min_free_bytes=1 << 60).endswith("B are free")


def test_a_full_disk_without_garbage_is_not_told_to_collect_it(store: Store) -> None:
    put(store, "kept", b"kept")
    told = no_more_room(store.directory, min_free_bytes=1 << 60)
    assert "B are free, and gc knows of none to free: remove versions for good" in told
    assert "reclaimable" not in told


def test_the_command_that_helps_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    with Store.open(tmp_path / "it's a dir") as store:
        abandon(store, b"data")
        words = store._collector.advice().rpartition("with: ")[2]
    echoed = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], capture_output=True, text=True).stdout
    assert echoed.splitlines() == ["gestalt-cas", "gc", "--data-dir", str(tmp_path / "it's a dir")]


def test_other_limits_are_told_without_advice(store: Store) -> None:
    store.set_limits(Limits(max_staging_bytes=1))
    with pytest.raises(Exception, match="maxStagingBytes") as caught:
        put(store, "k", b"more")
    assert "reclaimable" not in str(caught.value)


# ---- beside others ----


def test_two_processes_collect_at_once(store: Store) -> None:
    code = """
        with Store.open(arguments[0]) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            found = [store.collect_garbage() for _ in range(3)]
            assert not any(run.stuck_files for run in found)
            print(sum(run.files for run in found))
    """
    put(store, "k", b"kept")
    bodies = [b"garbage %d" % number for number in range(40)]
    abandon(store, *bodies)
    plant_many(store, 400)
    with Child(code, store.directory) as one, Child(code, store.directory) as two:
        for process in (one, two):
            assert process.line() == "ready"
        for process in (one, two):
            process.tell()
        assert int(one.finish()) + int(two.finish()) == 440
    assert payloads(store) == known(store) == names(b"kept")
    assert recorded(store) == {}


@pytest.mark.parametrize("moment", ["look", "commit"])
def test_an_upload_between_the_look_and_the_removal(store: Store, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    abandon(store, b"data")
    name = {"look": "_look", "commit": "_commit_record"}[moment]
    real = getattr(garbage.Collector, name)

    def then_written(collector: garbage.Collector, *arguments: Any) -> Any:
        found = real(collector, *arguments)
        if moment == "commit" or arguments[0] == blake3(b"data").digest()[0]:
            put(store, "k", b"data")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(garbage.Collector, name, then_written)
        assert store.collect_garbage().files == 0
    assert body(store, "k") == b"data"
    assert store.collect_garbage() == Collected(False)
    assert recorded(store) == {}


def test_a_published_upload_without_its_commit_yet_is_published_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gc takes its file for one that a crash has left; the upload finds that out under the lock."""
    real: Callable[..., bool] = Payloads.publish

    def then_collected(payloads_: Payloads, staged_: Any) -> bool:
        published = real(payloads_, staged_)
        assert store.collect_garbage().files == 1
        return published

    with monkeypatch.context() as patch:
        patch.setattr(Payloads, "publish", then_collected)
        put(store, "k", b"data")
    assert body(store, "k") == b"data"
    assert store.collect_garbage() == Collected(False)


# ---- killed ----


def test_killed_at_every_line_of_a_run(memory: Path) -> None:
    """Whatever has gone by then, all that is reached can be read, and the next run removes the rest."""
    code = """
        import kill_points
        from blake3 import blake3
        from gestalt_cas.removal import garbage, sweeps
        from gestalt_cas.errors import NoSuchKey
        from storage import body, key, payload_path, payloads, put, rows, staged
        directory, MODULES = Path(arguments[0]), (
            *("removal.garbage", "removal.sweeps", "removal.purging"), *("files.blobs", "files.staging")
        )
        # All in the directory 00, which is the only one that is looked into.
        garbage.FAN_OUT, sweeps.FIRST_BATCH_FILES = 1, 2
        numbered = (b"%d" % number for number in range(1 << 20))
        zeros = (data for data in numbered if not blake3(data).digest()[0])
        ONE, TWO, ORPHAN, KEPT, AGAIN, SHARED, OWN = (next(zeros) for _ in range(7))
        point, call = [0], [None]

        def arm(number):
            point[0] = number

        def work():
            store = Store.open(directory)
            for data in (ONE, TWO, AGAIN):
                store.delete(key("g"), version_id=put(store, "g", data).version_id)
            store._collector._record(0)
            for name, data in (("again", AGAIN), ("kept", KEPT), ("p", SHARED), ("p", OWN), ("q", SHARED)):
                put(store, name, data)
            payload_path(store, ORPHAN).write_bytes(ORPHAN)
            (directory / "staging" / "0.part").write_bytes(b"half")
            kill_points.at_line(point[0], MODULES)
            call[0](store)
            sys.settrace(None)

        def check(number):
            with Store.open(directory) as store:
                for name, data in (("kept", KEPT), ("again", AGAIN), ("q", SHARED)):
                    assert body(store, name) == data
                try:
                    store.purge(key("p"))
                except NoSuchKey:
                    assert call[0] == purge
                store.collect_garbage()
                assert sorted(blake3(data).hexdigest() for data in (KEPT, AGAIN, SHARED)) == payloads(store)
                assert rows(store, "SELECT count(*) FROM blobs") == [(3,)]
                assert rows(store, "SELECT * FROM unreachable") == []
                assert staged(store) == []
                assert rows(store, "PRAGMA integrity_check") == [("ok",)]
                assert store.collect_garbage() == garbage.Collected(False)
                for name in ("kept", "again", "q"):
                    store.purge(key(name))

        def collect(store):
            store.collect_garbage()

        def purge(store):
            store.purge(key("p"))

        for call[0] in (collect, purge):
            print(kill_points.every_point(arm, lambda: None, work, check))
    """
    points = [int(count) for count in child(code, memory / "store").split()]
    assert min(points) > 60
