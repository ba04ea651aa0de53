"""Payloads that are rows: written, read, shared, collected, checked and backed up like those that are files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from blake3 import blake3

from backups import query
from checks import check
from gestalt_cas import ByteRange, Conditions, ObjectKey, Store
from gestalt_cas.backups.restoring import restore
from gestalt_cas.checks.findings import EVERYTHING
from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import (
    BlobMissing,
    DigestMismatch,
    ObjectTooLarge,
    PreconditionFailed,
    QuotaExceeded,
    StoreFull,
)
from gestalt_cas.transactions.connections import connect
from presigned import Site
from storage import (
    BUCKET,
    MIB,
    Child,
    body,
    change,
    damaged,
    flip,
    key,
    payload_path,
    payloads,
    put,
    rows,
    staged,
)
from wire import protos
from wire.client import Client, eventually, refused
from wire.process import Server

INLINE = {"blobs.inlineMaxBytes": 4096}
SMALL, OTHER, BIG = b"a small payload", b"another one", b"b" * 5000


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", settings=INLINE) as store:
        yield store


def inline(store: Store, most: int) -> None:
    store.change_settings({"blobs.inlineMaxBytes": most})


def place(store: Store, data: bytes) -> int:
    """The place of a payload; -1 when it has no row."""
    found = rows(store, "SELECT place FROM blobs WHERE digest = ?", blake3(data).digest())
    return int(found[0][0]) if found else -1


def stored(store: Store) -> list[bytes]:
    """What the rows of `inlined` hold."""
    return sorted(data for (data,) in rows(store, "SELECT data FROM inlined"))


def spoil(store: Store, data: bytes, held: bytes | None) -> None:
    """Change what the row of a payload holds; None: remove it."""
    if held is None:
        change(store, "DELETE FROM inlined WHERE id = ?", place(store, data))
    else:
        change(store, "UPDATE inlined SET data = ? WHERE id = ?", held, place(store, data))


def spoil_from_outside(store: Store, data: bytes, held: bytes) -> None:
    """The same through a connection of another process, as no process of ours does."""
    code = """
    from contextlib import closing
    from gestalt_cas.transactions.connections import connect
    path, place, held = arguments
    with closing(connect(Path(path))) as connection:
        connection.execute("UPDATE inlined SET data = ? WHERE id = ?", (bytes.fromhex(held), int(place)))
    """
    with Child(code, store.directory / "metadata.sqlite3", place(store, data), held.hex()) as child:
        child.finish()


def flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


# ---- writing and reading ----


@pytest.mark.parametrize("size", [0, 1, 4095, 4096])
def test_a_payload_up_to_the_threshold_takes_no_file(store: Store, size: int) -> None:
    data = b"x" * size
    version = put(store, "k", data)
    assert version.digest == blake3(data).hexdigest()
    assert (body(store, "k"), version.size) == (data, size)
    assert place(store, data) > 0
    assert stored(store) == [data]
    assert payloads(store) == staged(store) == []


def test_with_a_threshold_of_0_the_empty_payload_is_a_file_too(store: Store) -> None:
    inline(store, 0)
    put(store, "empty", b"")
    assert place(store, b"") == 0
    assert payloads(store) == [blake3(b"").hexdigest()]


def test_a_payload_above_the_threshold_is_a_file(store: Store) -> None:
    put(store, "k", b"x" * 4097)
    assert body(store, "k") == b"x" * 4097
    assert place(store, b"x" * 4097) == 0
    assert stored(store) == staged(store) == []
    assert len(payloads(store)) == 1


def test_pieces_of_any_sort_are_put_together(store: Store) -> None:
    buffer = bytearray(b"12345")
    store.write(key("k"), [b"", memoryview(b"abc"), buffer, b"d"])
    buffer[:] = b"54321"
    assert body(store, "k") == b"abc12345d"


def test_a_buffer_that_is_filled_anew_between_pieces_is_stored_as_it_came(store: Store) -> None:
    buffer = bytearray(1000)

    def pieces() -> Iterator[memoryview]:
        for number in range(6):
            buffer[:] = bytes([number]) * 1000
            yield memoryview(buffer)

    store.write(key("k"), pieces())
    assert body(store, "k") == b"".join(bytes([number]) * 1000 for number in range(6))
    assert place(store, body(store, "k")) == 0


@pytest.mark.parametrize(("start", "end"), [(0, 0), (3, 7), (5, None), (None, 4), (14, 99)])
def test_ranges(store: Store, start: int | None, end: int | None) -> None:
    put(store, "k", SMALL)
    expected = SMALL[start : None if end is None else end + 1]
    with store.read(key("k"), byte_range=ByteRange(start, end)) as reader:
        assert reader.read() == expected


def test_a_reader_goes_on_after_its_payload_was_collected(store: Store) -> None:
    version = put(store, "k", SMALL)
    with store.read(key("k")) as reader:
        store.delete(key("k"), version_id=version.version_id)
        assert store.collect_garbage().files == 1
        assert reader.read() == SMALL


def test_the_same_bytes_are_kept_once_and_copies_move_none(store: Store) -> None:
    put(store, "a", SMALL)
    put(store, "b", SMALL)
    store.copy(key("a"), key("c"))
    assert [body(store, name) for name in "abc"] == [SMALL] * 3
    assert stored(store) == [SMALL]


def test_a_refused_write_leaves_nothing(store: Store) -> None:
    with pytest.raises(PreconditionFailed):
        put(store, "k", SMALL, conditions=Conditions(if_match="*"))

    def gone() -> None:
        raise ConnectionError("the caller has gone")

    with pytest.raises(ConnectionError):
        put(store, "k", SMALL, confirm=gone)
    assert stored(store) == []
    assert rows(store, "SELECT * FROM blobs") == []


def test_a_write_given_up_in_its_transaction_leaves_nothing_to_one_that_shares_it(store: Store) -> None:
    """The rows of the first are undone before the second decides whether to trust them."""
    calls = 0
    gate, inside = threading.Event(), threading.Event()

    asked = iter([False, True])

    def hold() -> None:
        if next(asked):  # in its transaction
            inside.set()
            assert gate.wait(20)

    def gone() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # just before COMMIT
            raise ConnectionError("the caller has gone")

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(put, store, "first", OTHER, confirm=hold)
        assert inside.wait(20)
        refused_one = pool.submit(put, store, "gone", SMALL, confirm=gone)
        second = pool.submit(put, store, "k", SMALL)
        eventually(lambda: len(store._database._committer._waiting) == 2, "two wait")
        gate.set()
        assert first.result(20).size == len(OTHER)
        with pytest.raises(ConnectionError):
            refused_one.result(20)
        assert second.result(20).size == len(SMALL)
    assert body(store, "k") == SMALL
    assert stored(store) == sorted([SMALL, OTHER])
    assert check(store, read_data=EVERYTHING).findings == ()


def test_many_writers_of_the_same_and_of_other_bytes_share_commits(store: Store) -> None:
    def write(number: int) -> str:
        return put(store, f"{number}", b"%d" % (number % 7) * (1 if number % 2 else 5000)).digest

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(150)))
    for number in range(150):
        assert body(store, f"{number}") == b"%d" % (number % 7) * (1 if number % 2 else 5000)
    assert len(stored(store)) == len(payloads(store)) == 7
    assert check(store, read_data=EVERYTHING).findings == ()


# ---- the threshold ----


def test_a_payload_keeps_its_place_when_the_threshold_is_lowered(store: Store) -> None:
    put(store, "row", SMALL)
    inline(store, 0)
    put(store, "again", SMALL)
    put(store, "file", OTHER)
    assert (place(store, SMALL) > 0, place(store, OTHER)) == (True, 0)
    assert [body(store, name) for name in ("row", "again", "file")] == [SMALL, SMALL, OTHER]
    assert len(payloads(store)) == 1
    assert staged(store) == []


def test_a_payload_keeps_its_place_when_the_threshold_is_raised(store: Store) -> None:
    inline(store, 0)
    put(store, "file", SMALL)
    inline(store, 4096)
    put(store, "again", SMALL)
    assert place(store, SMALL) == 0
    assert stored(store) == []
    assert [body(store, name) for name in ("file", "again")] == [SMALL] * 2


def test_a_threshold_that_is_lowered_while_an_upload_is_on_its_way_counts(store: Store) -> None:
    def pieces() -> Iterator[bytes]:
        yield SMALL
        inline(store, 0)

    store.write(key("k"), pieces())
    assert body(store, "k") == SMALL
    assert place(store, SMALL) == 0
    assert len(payloads(store)) == 1
    assert stored(store) == staged(store) == []


def test_a_threshold_that_is_raised_while_an_upload_is_on_its_way_moves_it_nowhere(store: Store) -> None:
    inline(store, 0)

    def pieces() -> Iterator[bytes]:
        yield SMALL
        inline(store, 4096)

    store.write(key("k"), pieces())
    assert body(store, "k") == SMALL
    assert place(store, SMALL) == 0
    assert staged(store) == []


def test_settings_that_another_process_changes_count_from_the_next_commit_on(store: Store) -> None:
    """They are read once for many commits of one process; what another one commits has them read again."""
    put(store, "inlined", SMALL)
    with Store.open(store.directory) as other:
        inline(other, 0)
        put(store, "file", OTHER)
        assert (place(store, SMALL) > 0, place(store, OTHER)) == (True, 0)
        inline(other, 4096)
        put(store, "still a file", b"third")
        put(store, "inlined again", b"fourth")
        assert (place(store, b"third"), place(store, b"fourth") > 0) == (0, True)
        other.change_settings({"versioning": "suspended"})
        assert put(store, "k", SMALL).version_id == "null"
        other.change_settings({"versioning": "enabled", "bucket": "elsewhere"})
        assert store.write(ObjectKey("", "k"), [SMALL]).key.bucket == "elsewhere"
        other.set_quota(BUCKET, "", 0)
        with pytest.raises(QuotaExceeded):
            put(store, "too much", SMALL)
        with pytest.raises(QuotaExceeded):
            put(store, "far too much", bytes(200_000))
        other.remove_quota(BUCKET, "")
        put(store, "fits", bytes(200_000))


def test_a_threshold_from_before_it_had_a_meaning_counts_as_the_greatest(store: Store) -> None:
    change(store, "UPDATE settings SET value = '9007199254740992' WHERE name = 'blobs.inlineMaxBytes'")
    put(store, "k", b"x" * MIB)
    put(store, "l", b"x" * (MIB + 1))
    assert (place(store, b"x" * MIB) > 0, place(store, b"x" * (MIB + 1))) == (True, 0)
    assert body(store, "k") == b"x" * MIB


def test_what_a_healing_upload_finds_is_healed_at_the_place_it_has(store: Store) -> None:
    """Inlined payloads by an upload that would be a file, and files by one that would be inlined."""
    put(store, "row", SMALL)
    inline(store, 0)
    put(store, "file", OTHER)
    spoil(store, SMALL, flipped(SMALL))
    flip(payload_path(store, OTHER), 0)
    for name in ("row", "file"):
        with pytest.raises(DigestMismatch):
            body(store, name)
    assert damaged(store, SMALL)
    assert damaged(store, OTHER)
    put(store, "heals", SMALL)
    inline(store, 4096)
    put(store, "heals too", OTHER)
    assert [body(store, name) for name in ("row", "file")] == [SMALL, OTHER]
    assert (place(store, SMALL) > 0, place(store, OTHER)) == (True, 0)
    assert not damaged(store, SMALL)
    assert not damaged(store, OTHER)
    assert staged(store) == []
    assert check(store, read_data=EVERYTHING).findings == ()


# ---- damage ----


@pytest.mark.parametrize(
    ("held", "error"), [(flipped(SMALL), DigestMismatch), (SMALL[:-1], DigestMismatch), (None, BlobMissing)]
)
@pytest.mark.parametrize("most", [0, 4096])
def test_damage_of_a_row_is_found_recorded_and_healed_by_an_upload_of_any_kind(
    store: Store, held: bytes | None, error: type[Exception], most: int
) -> None:
    put(store, "k", SMALL)
    spoil(store, SMALL, held)
    with pytest.raises(error):
        body(store, "k")
    assert damaged(store, SMALL)
    inline(store, most)
    put(store, "heals", SMALL)
    assert not damaged(store, SMALL)
    assert body(store, "k") == SMALL
    assert stored(store) == [SMALL]
    assert payloads(store) == staged(store) == []


def test_damage_that_was_healed_before_it_is_recorded_is_not(store: Store) -> None:
    put(store, "k", SMALL)
    spoil(store, SMALL, flipped(SMALL))
    with store.read(key("k")) as reader:
        spoil(store, SMALL, SMALL)
        with pytest.raises(DigestMismatch):
            reader.read()
    assert not damaged(store, SMALL)
    assert body(store, "k") == SMALL


def test_a_copy_of_what_is_cut_short_is_refused_and_recorded(store: Store) -> None:
    put(store, "k", SMALL)
    spoil(store, SMALL, SMALL[:-1])
    with pytest.raises(BlobMissing):
        store.copy(key("k"), key("copy"))
    assert damaged(store, SMALL)


def test_a_row_that_holds_text_is_damage(store: Store) -> None:
    put(store, "k", SMALL)
    change(store, "UPDATE inlined SET data = 'text, not bytes'")
    with pytest.raises(DigestMismatch):
        body(store, "k")
    (finding,) = check(store).findings
    assert (finding.kind, finding.damage) == ("bytes", True)
    put(store, "heals", SMALL)
    assert check(store, read_data=EVERYTHING).findings == ()


# ---- limits ----


def test_an_object_that_is_too_large_is_refused_also_when_it_would_be_a_row(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", settings=INLINE, limits=Limits(max_object_bytes=10)) as store:
        with pytest.raises(ObjectTooLarge):
            put(store, "k", b"x" * 11)
        put(store, "k", b"x" * 10)


def test_the_staging_budget_counts_what_is_held_once_and_gives_it_back(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", settings=INLINE, limits=Limits(max_staging_bytes=20)) as store:
        with pytest.raises(StoreFull):
            put(store, "k", b"x" * 21)

        def lowered() -> Iterator[bytes]:
            yield b"y" * 15  # held, and then staged: never both at once
            inline(store, 0)

        store.write(key("k"), lowered())
        inline(store, 4096)
        for number in range(5):
            put(store, "k", b"%d" % number * 20)
        assert store._blobs.staging.budget._taken == 0


def test_quotas_count_them(store: Store) -> None:
    store.set_quota("bucket", "", 20)
    put(store, "k", SMALL)
    with pytest.raises(QuotaExceeded):
        put(store, "l", OTHER)
    assert stored(store) == [SMALL]
    assert [quota.used_bytes for quota in store.quotas()] == [len(SMALL)]


# ---- removing ----


def test_gc_removes_them_and_counts_them(store: Store) -> None:
    kept, gone = put(store, "kept", SMALL), put(store, "gone", OTHER)
    store.delete(gone.key, version_id=gone.version_id)
    assert store.reclaimable_bytes().bytes == len(OTHER)
    before = store.collect_garbage(dry_run=True)
    assert (before.files, before.bytes) == (1, len(OTHER))
    assert stored(store) == sorted([SMALL, OTHER])
    fresh = store.collect_garbage(grace_seconds=1000)
    assert (fresh.files, fresh.fresh_files, fresh.fresh_bytes) == (0, 1, len(OTHER))
    done = store.collect_garbage()
    assert (done.files, done.bytes) == (1, len(OTHER))
    assert stored(store) == [SMALL]
    assert body(store, "kept") == SMALL
    assert store.collect_garbage().files == 0
    put(store, "gone", OTHER)
    assert body(store, "gone") == OTHER
    assert kept.size == len(SMALL)


def test_a_file_whose_payload_is_a_row_goes_and_the_row_stays(store: Store) -> None:
    put(store, "k", SMALL)
    payload_path(store, SMALL).write_bytes(SMALL)  # an upload published it, and died
    report = check(store)
    assert (report.findings, report.reclaimable_files) == ((), 1)
    assert store.collect_garbage(dry_run=True).files == 1
    assert store.collect_garbage().files == 1
    assert payloads(store) == []
    assert body(store, "k") == SMALL
    assert rows(store, "SELECT * FROM unreachable") == []


def test_rows_that_no_payload_names_go_but_for_those_whose_bytes_are_needed(store: Store) -> None:
    put(store, "k", SMALL)
    change(store, "INSERT INTO inlined (id, data) VALUES (77, x'01'), (78, ?)", SMALL)
    put(store, "l", OTHER)
    store.collect_garbage()
    assert [row for (row,) in rows(store, "SELECT id FROM inlined ORDER BY id")] == [1, 78, place(store, OTHER)]
    assert [body(store, name) for name in "kl"] == [SMALL, OTHER]


def test_an_upload_that_meets_the_collector_has_its_bytes(store: Store) -> None:
    """Its payload is a row when it decides that no file is needed, and gone when it has the lock."""
    gone = put(store, "gone", SMALL)
    store.delete(gone.key, version_id=gone.version_id)
    inline(store, 0)
    publish = store._payloads.publish

    def collected(upload: Any) -> bool:
        found = publish(upload)
        store.collect_garbage()
        return found

    vars(store._payloads)["publish"] = collected
    put(store, "k", SMALL)
    assert body(store, "k") == SMALL
    assert place(store, SMALL) == 0
    assert stored(store) == []
    assert check(store, read_data=EVERYTHING).findings == ()


def test_purge_takes_them_at_once(store: Store) -> None:
    put(store, "k", SMALL)
    put(store, "k", OTHER)
    put(store, "l", OTHER)
    done = store.purge(key("k"))
    assert (done.versions, done.files, done.bytes, done.shared) == (2, 1, len(SMALL), 1)
    assert stored(store) == [OTHER]


def test_stats_count_their_bytes(store: Store) -> None:
    put(store, "k", SMALL)
    put(store, "l", BIG)
    found = store.stats().payloads
    assert (found.count, found.bytes) == (2, len(SMALL) + len(BIG))


# ---- check ----


SPOILED = {
    "bytes": flipped(SMALL),
    "size": SMALL + b"!",
    "missing": None,
}


def fill(store: Store) -> None:
    for name, data in (("k", SMALL), ("l", OTHER), ("big", BIG)):
        put(store, name, data)


def test_a_sound_store_is_clean_and_everything_is_read(store: Store) -> None:
    fill(store)
    report = check(store, read_data=EVERYTHING)
    assert (report.findings, report.payloads, report.payloads_read) == ((), 3, 3)
    assert report.bytes_read == len(SMALL) + len(OTHER) + len(BIG)
    assert check(store).payloads_read == 0


@pytest.mark.parametrize("kind", SPOILED)
def test_check_finds_damage_of_rows_and_records_it(store: Store, kind: str) -> None:
    fill(store)
    spoil(store, SMALL, SPOILED[kind])
    assert (check(store).findings == ()) == (kind == "bytes"), "bytes are compared only when they are read"
    (finding,) = check(store, read_data=EVERYTHING).findings
    assert (finding.kind, finding.digest, finding.damage) == (kind, blake3(SMALL).hexdigest(), True)
    assert [(one.bucket, one.key) for one in finding.affected] == [("bucket", "k")]
    assert "inlined" in finding.where
    assert damaged(store, SMALL)
    put(store, "heals", SMALL)
    assert check(store, read_data=EVERYTHING).findings == ()


@pytest.mark.parametrize("most", [0, 4096])
@pytest.mark.parametrize("kind", SPOILED)
def test_repair_takes_them_from_a_backup_whatever_place_they_have_there(
    store: Store, tmp_path: Path, kind: str, most: int
) -> None:
    fill(store)
    with Store.open(tmp_path / "other", settings={"blobs.inlineMaxBytes": most}) as other:
        fill(other)
    spoil(store, SMALL, SPOILED[kind])
    report = check(store, read_data=EVERYTHING, repair=True, backup=tmp_path / "other")
    (finding,) = report.findings
    assert report.clean, finding
    assert body(store, "k") == SMALL
    assert place(store, SMALL) > 0
    assert stored(store) == sorted([SMALL, OTHER])
    if kind == "missing":
        assert finding.set_aside == ""
    else:
        assert (store.directory / finding.set_aside).read_bytes() == SPOILED[kind]
    assert len(payloads(store)) == 1
    assert not damaged(store, SMALL)
    assert check(store, read_data=EVERYTHING).findings == ()


def test_a_file_is_put_back_from_a_backup_that_has_it_as_a_row(tmp_path: Path) -> None:
    with Store.open(tmp_path / "inlining", settings=INLINE) as other:
        fill(other)
    with Store.open(tmp_path / "store") as store:
        fill(store)
        flip(payload_path(store, SMALL), 0)
        assert check(store, read_data=EVERYTHING, repair=True, backup=tmp_path / "inlining").clean
        assert payload_path(store, SMALL).read_bytes() == SMALL
        assert place(store, SMALL) == 0


def test_a_backup_that_is_damaged_as_well_or_does_not_have_it_is_not_taken(store: Store, tmp_path: Path) -> None:
    fill(store)
    with Store.open(tmp_path / "other", settings=INLINE) as other:
        put(other, "k", SMALL)
        spoil(other, SMALL, flipped(SMALL))
    for data in (SMALL, OTHER):
        spoil(store, data, None)
    report = check(store, repair=True, backup=tmp_path / "other")
    reasons = {finding.digest: finding.unrepaired for finding in report.findings}
    assert "damaged as well" in reasons[blake3(SMALL).hexdigest()]
    assert "does not have it" in reasons[blake3(OTHER).hexdigest()]
    assert report.damaged
    assert stored(store) == []


def test_rows_of_blobs_that_are_wrong_are_put_right_from_the_proven_bytes(store: Store) -> None:
    fill(store)
    digest = blake3(SMALL).digest()
    change(store, "UPDATE blobs SET sums = x'00112233445566778899aabbccddeeff' WHERE digest = ?", digest)
    change(store, "UPDATE blobs SET damaged_ms = 7 WHERE digest = ?", blake3(OTHER).digest())
    report = check(store, read_data=EVERYTHING, repair=True)
    assert sorted(finding.kind for finding in report.findings) == ["mark", "sums"]
    assert report.clean
    assert place(store, SMALL) > 0
    assert [body(store, name) for name in "kl"] == [SMALL, OTHER]
    assert check(store, read_data=EVERYTHING).findings == ()


def test_damage_that_is_healed_before_it_is_recorded_is_no_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gestalt_cas.checks import payload_judging

    fill(store)
    spoil_from_outside(store, SMALL, flipped(SMALL))
    held = payload_judging._held

    def healed(*arguments: Any) -> Any:
        spoil(store, SMALL, SMALL)
        return held(*arguments)

    monkeypatch.setattr(payload_judging, "_held", healed)
    assert check(store, read_data=EVERYTHING).findings == ()
    assert not damaged(store, SMALL)


# ---- backup ----


def test_they_come_with_the_rows_of_a_backup_and_are_restored(store: Store, tmp_path: Path) -> None:
    fill(store)
    gone = put(store, "gone", b"nobody reaches it")
    store.delete(gone.key, version_id=gone.version_id)
    done = store.back_up(tmp_path / "backup")
    assert (done.blobs, done.bytes, done.copied) == (3, len(SMALL) + len(OTHER) + len(BIG), 1)
    assert [data for (data,) in query(tmp_path / "backup", "SELECT data FROM inlined ORDER BY data")] == sorted(
        [SMALL, OTHER]
    )
    restored = restore(tmp_path / "backup", tmp_path / "restored")
    assert restored.root == done.root
    with Store.open(tmp_path / "restored") as again:
        assert [body(again, name) for name in ("k", "l", "big")] == [SMALL, OTHER, BIG]
        assert again.settings().inline_max_bytes == 4096
        assert check(again, read_data=EVERYTHING).findings == ()


def test_a_backup_says_what_was_damaged_and_the_store_remembers(store: Store, tmp_path: Path) -> None:
    fill(store)
    spoil_from_outside(store, SMALL, flipped(SMALL))
    done = store.back_up(tmp_path / "backup")
    (lost,) = done.lost
    assert lost.digest == blake3(SMALL).hexdigest()
    assert damaged(store, SMALL)
    put(store, "heals", SMALL)
    assert store.back_up(tmp_path / "backup").lost == ()


def test_a_payload_that_was_a_row_in_the_backup_before_and_is_a_file_now_is_copied(
    store: Store, tmp_path: Path
) -> None:
    """What lies under its name in the backup is nothing that the rows of the backup before vouch for."""
    first = put(store, "k", SMALL)
    store.back_up(tmp_path / "backup")
    stray = tmp_path / "backup" / payload_path(store, SMALL).relative_to(store.directory)
    stray.write_bytes(flipped(SMALL))
    store.delete(first.key, version_id=first.version_id)
    store.collect_garbage()
    inline(store, 0)
    put(store, "k", SMALL)
    assert store.back_up(tmp_path / "backup").copied == 1
    assert stray.read_bytes() == SMALL


def test_a_copy_of_the_directory_is_a_store(store: Store, tmp_path: Path) -> None:
    fill(store)
    store.close()
    shutil.copytree(store.directory, tmp_path / "copy")
    with closing(connect(tmp_path / "copy" / "metadata.sqlite3")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with Store.open(tmp_path / "copy") as again:
        assert body(again, "k") == SMALL


# ---- over the wire ----


def test_over_grpc_and_http() -> None:
    with Server("blobs.inlineMaxBytes=4096") as server, Client(server.target, protos.BUCKETED) as client:
        site = Site(server)
        meta = client.write("k", SMALL, bucket="b", content_type="text/plain")
        assert meta.size == len(SMALL)
        assert client.body("k", bucket="b") == SMALL
        client.write("big", BIG, bucket="b")
        assert site.get("k").body == SMALL
        part = site.get("k", {"Range": "bytes=2-6"})
        assert (part.status, part.body) == (206, SMALL[2:7])
        assert site.put("up", OTHER).status == 200
        assert client.body("up", bucket="b") == OTHER
        assert [path.name for path in (server.data_dir / "blobs").glob("*/*")] == [blake3(BIG).hexdigest()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: client.write(f"n{number}", b"%d" % number, bucket="b"), range(60)))
        assert [client.body(f"n{number}", bucket="b") for number in range(60)] == [b"%d" % n for n in range(60)]
        with refused(grpc.StatusCode.FAILED_PRECONDITION):
            client.write("k", OTHER, bucket="b", if_none_match="*")
        client.write("framed", parts=[b"one ", b"", b"two"], bucket="b")
        assert client.body("framed", bucket="b") == b"one two"
        assert server.staged() == []
        server.stop()
