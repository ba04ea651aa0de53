"""The store's operations: what each does, refuses and leaves behind; limits and a full disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from driver_aids import IOERR, driver_error
from gestalt_cas import ByteRange, Conditions, Headers, Limits, ListQuery, ObjectKey, ObjectVersion, Store
from gestalt_cas.errors import (
    BlobMissing,
    Cancelled,
    InvalidArgument,
    InvalidRange,
    InvalidToken,
    NoSuchKey,
    NoSuchVersion,
    NotModified,
    ObjectTooLarge,
    OutcomeUnknown,
    PreconditionFailed,
    StoreError,
    StoreFull,
)
from gestalt_cas.files import staging
from gestalt_cas.files.layout import Layout
from gestalt_cas.operations import changes, pages
from gestalt_cas.rows import buckets
from gestalt_cas.system.locks import FileLock
from gestalt_cas.transactions.database import Database
from storage import (
    BUCKET,
    Child,
    Failing,
    body,
    broken,
    damaged,
    history,
    key,
    on_a_small_disk,
    overwrite,
    payload_path,
    payloads,
    put,
    rows,
    staged,
)

DATA = b"some bytes" * 100


# ---- writing ----


def test_what_a_write_returns(store: Store) -> None:
    headers = Headers("text/plain", "no-store", "inline", "gzip", "de")
    version = store.write(key("k"), iter([b"he", b"llo"]), headers=headers, metadata={"a": "b"})
    assert version.key == key("k")
    assert (version.size, version.digest) == (5, blake3(b"hello").hexdigest())
    assert version.etag == f'"{version.digest}"'
    assert (version.headers, dict(version.metadata)) == (headers, {"a": "b"})
    assert version.current
    assert not version.delete_marker
    assert store.head(key("k")) == version
    assert payload_path(store, b"hello").read_bytes() == b"hello"


@pytest.mark.parametrize("piece", [b"data", bytearray(b"data"), memoryview(b"data"), "data"])
def test_one_piece_is_no_body(tmp_path: Path, piece: Any) -> None:
    with Store.open(tmp_path / "store") as store:
        with pytest.raises(TypeError, match=r"a body is an iterable of bytes, not \w+; write \[piece\]"):
            store.write(ObjectKey("b", "k"), piece)
        with pytest.raises(TypeError, match=r"write \[piece\]"), store.transaction() as changes:
            changes.put(ObjectKey("b", "k"), piece)
        assert store.list_page(ListQuery("b")).objects == ()


@pytest.mark.parametrize("pieces", [[], [b""], [b"", bytearray(), memoryview(b"")]])
def test_an_empty_object(store: Store, pieces: list[bytes]) -> None:
    version = store.write(key("k"), pieces)
    assert version.size == 0
    assert not version.delete_marker
    assert body(store, "k") == b""
    with store.read(key("k")) as reader:
        assert list(reader) == []


def test_equal_bytes_are_stored_once(store: Store) -> None:
    for name in ("a", "b", "a"):
        put(store, name, DATA)
    assert payloads(store) == [blake3(DATA).hexdigest()]
    assert rows(store, "SELECT count(*) FROM blobs") == [(1,)]
    assert store.usage(BUCKET).stored_bytes == len(DATA)


def test_nothing_is_inherited_from_the_version_before(store: Store) -> None:
    put(store, "k", b"one", headers=Headers("text/plain"), metadata={"a": "b"})
    version = put(store, "k", b"two")
    assert (version.headers, dict(version.metadata)) == (Headers(), {})
    assert store.head(key("k")) == version


@pytest.mark.parametrize(
    ("where", "options"),
    [
        (key(""), {}),
        (key("x" * 2049), {}),
        (key("\ud800"), {}),
        (ObjectKey("a/b", "k"), {}),
        (ObjectKey("x" * 256, "k"), {}),
        (ObjectKey("\n", "k"), {}),
        (key("k"), {"headers": Headers("text/plain\r\nx: y")}),
        (key("k"), {"metadata": {"k": "x" * 65536}}),
        (key("k"), {"metadata": {"k": "\udfff"}}),
        (key("k"), {"conditions": Conditions(if_none_match="*", current_version="v")}),
    ],
)
def test_what_cannot_be_right_is_refused_before_the_body_is_taken(
    store: Store, where: ObjectKey, options: dict[str, Any]
) -> None:
    def pieces() -> Iterator[bytes]:
        pytest.fail("the body was taken")
        yield b""

    with pytest.raises(InvalidArgument):
        store.write(where, pieces(), **options)
    assert rows(store, "SELECT seq FROM counter") == [(0,)]


def test_a_condition_that_fails_early_spares_the_body(store: Store) -> None:
    put(store, "k", b"one")

    def pieces() -> Iterator[bytes]:
        pytest.fail("the body was taken")
        yield b""

    with pytest.raises(PreconditionFailed):
        store.write(key("k"), pieces(), conditions=Conditions(if_none_match="*"))


@pytest.mark.parametrize(
    ("conditions", "others_write"),
    [
        (lambda v: Conditions(if_none_match="*"), "absent"),
        (lambda v: Conditions(if_match=v.etag), "present"),
        (lambda v: Conditions(current_version=v.version_id), "present"),
    ],
)
def test_conditions_are_judged_again_in_the_transaction(
    store: Store, conditions: Callable[[ObjectVersion], Conditions], others_write: str
) -> None:
    """Another writer commits while the body is taken: the condition held at first and no longer does."""
    before = put(store, "k", b"before")
    if others_write == "absent":
        store.delete(key("k"), version_id=before.version_id)

    def pieces() -> Iterator[bytes]:
        put(store, "k", b"meanwhile")
        yield b"late"

    with pytest.raises(PreconditionFailed):
        store.write(key("k"), pieces(), conditions=conditions(before))
    assert body(store, "k") == b"meanwhile"
    assert staged(store) == []
    assert not any(body(store, "k", version_id=v.version_id) == b"late" for v in history(store, "k"))


def test_the_first_of_many_creators_wins(store: Store) -> None:
    outcomes: list[bool] = []

    def create(number: int) -> None:
        try:
            put(store, "k", b"%d" % number, conditions=Conditions(if_none_match="*"))
        except PreconditionFailed:
            outcomes.append(False)
        else:
            outcomes.append(True)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 11 + [True]
    assert len(history(store, "k")) == 1


def test_a_counter_loses_nothing_over_processes(store: Store) -> None:
    put(store, "counter", b"0")
    code = """
        from gestalt_cas.errors import PreconditionFailed
        where, done = ObjectKey("bucket", "counter"), 0
        with Store.open(arguments[0]) as store:
            while done < 25:
                with store.read(where) as reader:
                    version, value = reader.version, int(reader.read())
                try:
                    store.write(where, [b"%d" % (value + 1)], conditions=Conditions(if_match=version.etag))
                except PreconditionFailed:
                    continue
                done += 1
    """
    with Child(code, store.directory) as first, Child(code, store.directory) as second:
        first.finish()
        second.finish()
    assert body(store, "counter") == b"50"
    assert len(history(store, "counter")) == 51


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("error", [Cancelled("gone"), KeyboardInterrupt(), ValueError()])
def test_a_write_that_is_not_confirmed_leaves_nothing(store: Store, call: int, error: BaseException) -> None:
    put(store, "k", b"before")
    calls = []

    def confirm() -> None:
        calls.append(len(staged(store)))
        if len(calls) == call:
            raise error

    seq = rows(store, "SELECT seq FROM counter")
    with pytest.raises(type(error)):
        put(store, "k", DATA, confirm=confirm)
    assert calls == [1] * call
    assert staged(store) == []
    assert rows(store, "SELECT seq FROM counter") == seq
    assert rows(store, "SELECT count(*) FROM blobs") == [(1,)]
    assert body(store, "k") == b"before"
    put(store, "k", DATA, confirm=lambda: None)
    assert body(store, "k") == DATA


def test_a_write_is_confirmed_before_the_sync_and_between_it_and_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, commit = staging.sync_file, Database._commit
    monkeypatch.setattr(staging, "sync_file", lambda fd: (sync(fd), events.append("sync")))
    monkeypatch.setattr(Database, "_commit", lambda *a: (events.append("commit"), commit(*a)))
    put(store, "k", DATA, confirm=lambda: events.append("confirm"))
    assert events == ["confirm", "sync", "confirm", "commit"]


def test_a_body_that_breaks_off_leaves_nothing(store: Store) -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.write(key("k"), pieces())
    assert staged(store) == []
    assert history(store, "k") == []
    assert payloads(store) == []


def test_a_commit_of_unknown_outcome_leaves_no_staging_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OutcomeUnknown("outcome unknown")

    monkeypatch.setattr(Database, "_commit", fail)
    with pytest.raises(OutcomeUnknown):
        put(store, "k", DATA)
    assert staged(store) == []


def test_a_staging_name_that_cannot_be_removed_does_not_undo_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", Failing(os.unlink, broken()))
        version = put(store, "k", DATA)
    assert store.head(key("k")) == version
    assert store.clean_staging() == 1


# ---- heads and reads ----


def test_absence_tells_a_marker(store: Store) -> None:
    for look in (store.head, store.read):
        with pytest.raises(NoSuchKey) as caught:
            look(key("k"))
        assert not caught.value.delete_marker
    version = put(store, "k", DATA)
    marker = store.delete(key("k"))
    assert marker is not None
    for look in (store.head, store.read):
        with pytest.raises(NoSuchKey) as caught:
            look(key("k"))
        assert (type(caught.value), caught.value.delete_marker) == (NoSuchKey, True)
        with pytest.raises(NoSuchVersion) as caught:
            look(key("k"), version_id=marker.version_id)
        assert caught.value.delete_marker
        with pytest.raises(NoSuchVersion) as caught:
            look(key("k"), version_id="no such id")
        assert not caught.value.delete_marker
        with pytest.raises(NoSuchVersion):
            look(key("other"), version_id=version.version_id)
    assert body(store, "k", version_id=version.version_id) == DATA


def test_old_versions_stay_and_say_that_they_are_old(store: Store) -> None:
    first, second = put(store, "k", b"one"), put(store, "k", b"two")
    assert body(store, "k", version_id=first.version_id) == b"one"
    assert not store.head(key("k"), version_id=first.version_id).current
    assert store.head(key("k"), version_id=second.version_id).current
    with store.read(key("k"), version_id=first.version_id) as reader:
        assert not reader.version.current


def test_ranges(store: Store) -> None:
    put(store, "k", b"abcdef")
    with store.read(key("k"), byte_range=ByteRange(1, 3)) as reader:
        assert (reader.offset, reader.length, reader.version.size) == (1, 3, 6)
        assert reader.read() == b"bcd"
    assert body(store, "k", byte_range=ByteRange(None, 2)) == b"abc"
    assert body(store, "k", byte_range=ByteRange(4, 99)) == b"ef"
    assert body(store, "k", byte_range=ByteRange()) == b"abcdef"
    for wrong in (ByteRange(6), ByteRange(3, 1), ByteRange(-1), ByteRange(0, -1)):
        with pytest.raises(InvalidRange) as caught:
            store.read(key("k"), byte_range=wrong)
        assert caught.value.size == 6


def test_read_conditions_come_before_the_range(store: Store) -> None:
    version = put(store, "k", b"abcdef")
    with pytest.raises(NotModified):
        store.read(key("k"), conditions=Conditions(if_none_match=version.etag), byte_range=ByteRange(99))
    with pytest.raises(PreconditionFailed):
        store.read(key("k"), conditions=Conditions(if_match='"other"'), byte_range=ByteRange(99))
    with pytest.raises(NotModified):
        store.head(key("k"), conditions=Conditions(if_none_match="*"))
    assert store.head(key("k"), conditions=Conditions(if_match=version.etag)) == version
    with pytest.raises(NoSuchKey):
        store.head(key("absent"), conditions=Conditions(if_match="*"))


def test_a_reader_sees_its_version_to_the_end(store: Store) -> None:
    version = put(store, "k", DATA)
    with store.read(key("k")) as reader:
        put(store, "k", b"other")
        store.delete(key("k"), version_id=version.version_id)
        payload_path(store, DATA).unlink()
        assert reader.read() == DATA


def test_no_transaction_is_open_while_a_reader_is(store: Store) -> None:
    put(store, "k", DATA)
    with store.read(key("k")) as reader:
        next(iter(reader))
        put(store, "k", b"other")
        assert store._database.checkpoint(restart=True)


@pytest.mark.parametrize("inlined", [0, 1 << 20])
def test_a_closed_reader_says_so(tmp_path: Path, inlined: int) -> None:
    """And not that the disk failed; an iterator of it that has begun ends the same way."""
    with Store.open(tmp_path / "s", settings={"blobs.inlineMaxBytes": inlined}) as store:
        key = ObjectKey("", "closed")
        store.write(key, [bytes(3 << 20)] if not inlined else [b"x"])
        reader = store.read(key)
        begun = iter(reader)
        next(begun)
        reader.close()
        with pytest.raises(InvalidArgument, match="closed"):
            reader.read()
        if not inlined:
            with pytest.raises(InvalidArgument, match="closed"):
                next(begun)


def test_readers_close_their_files(store: Store) -> None:
    put(store, "k", DATA)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        reader = store.read(key("k"))
        reader.close()
        reader.close()
    with pytest.raises(ZeroDivisionError), store.read(key("k")):
        raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == descriptors


# ---- copies ----


def test_a_copy_shares_the_payload(store: Store) -> None:
    source = put(store, "a", DATA, headers=Headers("text/plain", "no-store"), metadata={"m": "v"})
    made = store.copy(key("a"), key("b", "elsewhere"))
    assert made.key == key("b", "elsewhere")
    assert (made.digest, made.size) == (source.digest, source.size)
    assert (made.headers, made.metadata) == (source.headers, source.metadata)
    assert made.version_id != source.version_id
    assert len(payloads(store)) == 1
    store.delete(key("a"), version_id=source.version_id)
    with store.read(key("b", "elsewhere")) as reader:
        assert reader.read() == DATA


def test_a_copy_of_an_old_version_onto_its_own_key_brings_it_back(store: Store) -> None:
    first = put(store, "k", b"one")
    put(store, "k", b"two")
    made = store.copy(key("k"), key("k"), source_version_id=first.version_id)
    assert made.current
    assert body(store, "k") == b"one"
    assert len(history(store, "k")) == 3


def test_conditions_of_a_copy(store: Store) -> None:
    source, target = put(store, "a", b"source"), put(store, "b", b"target")
    for conditions in (
        Conditions(if_match=target.etag),
        Conditions(if_none_match=source.etag),
        Conditions(if_none_match="*"),
        Conditions(current_version=source.version_id),
    ):
        with pytest.raises(PreconditionFailed):
            store.copy(key("a"), key("b"), conditions=conditions)
    assert body(store, "b") == b"target"
    store.copy(key("a"), key("b"), conditions=Conditions(if_match=source.etag, current_version=target.version_id))
    assert body(store, "b") == b"source"


def test_what_cannot_be_copied(store: Store) -> None:
    put(store, "a", DATA)
    marker = store.delete(key("gone"))
    assert marker is not None
    with pytest.raises(NoSuchKey):
        store.copy(key("absent"), key("b"), conditions=Conditions(if_match="*"))
    with pytest.raises(NoSuchVersion):
        store.copy(key("gone"), key("b"), source_version_id=marker.version_id)
    with pytest.raises(InvalidArgument, match=r"^source key"):
        store.copy(key(""), key("b"))
    with pytest.raises(InvalidArgument, match=r"^destination key"):
        store.copy(key("a"), key(""))
    with pytest.raises(InvalidArgument):
        store.copy(key("a"), key("b"), conditions=Conditions(if_none_match="*", current_version="v"))
    assert history(store, "b") == []


@pytest.mark.parametrize("left", [None, DATA[:-1]])
def test_a_copy_of_a_missing_payload_is_damage(store: Store, left: bytes | None) -> None:
    put(store, "a", DATA)
    path = payload_path(store, DATA)
    overwrite(path, b"")
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(BlobMissing) as caught:
        store.copy(key("a"), key("b"))
    assert caught.value.digest == blake3(DATA).hexdigest()
    assert history(store, "b") == []
    assert damaged(store, DATA)
    put(store, "c", DATA)
    store.copy(key("a"), key("b"))
    assert body(store, "b") == DATA


# ---- deletes ----


def test_a_delete_appends_a_marker_even_on_an_absent_key(store: Store) -> None:
    marker = store.delete(key("k"))
    assert marker is not None
    assert (marker.delete_marker, marker.size, marker.etag, marker.current) == (True, 0, "", True)
    put(store, "k", DATA)
    store.delete(key("k"))
    assert [v.delete_marker for v in history(store, "k")] == [True, False, True]


def test_removing_a_marker_undeletes(store: Store) -> None:
    put(store, "k", DATA)
    marker = store.delete(key("k"))
    assert marker is not None
    assert store.delete(key("k"), version_id=marker.version_id) == marker
    assert body(store, "k") == DATA
    assert store.delete(key("k"), version_id=marker.version_id) is None


def test_removing_the_newest_version_shows_the_one_before(store: Store) -> None:
    first, second = put(store, "k", b"one"), put(store, "k", b"two")
    assert store.delete(key("k"), version_id=second.version_id) == second
    assert body(store, "k") == b"one"
    store.delete(key("k"), version_id=first.version_id)
    with pytest.raises(NoSuchKey) as caught:
        store.head(key("k"))
    assert not caught.value.delete_marker


@pytest.mark.parametrize("version_id", ["nothing", "null", "\0", "x" * 5000, "ü", "\ud800"])
def test_removing_what_is_not_there_does_nothing(store: Store, version_id: str) -> None:
    put(store, "k", DATA)
    seq = rows(store, "SELECT seq FROM counter")
    assert store.delete(key("k"), version_id=version_id) is None
    assert rows(store, "SELECT seq FROM counter") == seq
    assert body(store, "k") == DATA


def test_no_call_removes_a_payload(store: Store) -> None:
    version = put(store, "k", DATA)
    store.delete(key("k"), version_id=version.version_id)
    assert payloads(store) == [blake3(DATA).hexdigest()]


# ---- sequences and clocks ----


def test_commit_times_do_not_go_back_with_the_clock(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    year = 365 * 86_400_000
    first = put(store, "k", b"one")
    now = first.modified_ms
    monkeypatch.setattr(changes, "now_ms", lambda: now - year)
    second = put(store, "k", b"two")
    marker = store.delete(key("k"))
    assert marker is not None
    copy = store.copy(key("k"), key("l"), source_version_id=second.version_id)
    assert {v.modified_ms for v in (second, marker, copy)} == {now}
    monkeypatch.setattr(changes, "now_ms", lambda: now + year)
    assert put(store, "k", b"three").modified_ms == now + year
    monkeypatch.setattr(changes, "now_ms", lambda: now)
    assert put(store, "k", b"four").modified_ms == now + year


def test_every_change_has_its_place_in_one_order(store: Store) -> None:
    first = put(store, "a", b"1")
    store.delete(key("a"), version_id=first.version_id)
    second = put(store, "b", b"2")
    marker = store.delete(key("b"))
    assert marker is not None
    assert [first.seq, second.seq, marker.seq] == [1, 3, 4]


# ---- limits and a full disk ----


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (Limits(max_object_bytes=100), ObjectTooLarge),
        (Limits(max_staging_bytes=100), StoreFull),
        (Limits(min_free_bytes=1 << 60), StoreFull),
    ],
)
def test_limits_refuse_and_leave_nothing(tmp_path: Path, limits: Limits, error: type[StoreError]) -> None:
    with Store.open(tmp_path / "store", limits=limits) as store:
        with pytest.raises(error):
            store.write(key("k"), [bytes(60), bytes(60)])
        assert staged(store) == []
        assert payloads(store) == []
        assert history(store, "k") == []
        store.set_limits(Limits())
        put(store, "k", bytes(120))
        store.set_limits(limits)
        assert body(store, "k") == bytes(120)
        assert store.delete(key("k")) is not None


def limit_pages(store: Store, pages: int) -> None:
    connection = store._database._writer
    assert connection is not None
    connection.execute(f"PRAGMA max_page_count={pages}")


def fill(store: Store) -> None:
    for number in range(100):
        put(store, f"more {number}" + "x" * 900, b"x")


@pytest.mark.parametrize("with_id", [True, False])
def test_a_delete_that_finds_no_room_spends_the_reserve(
    store: Store, monkeypatch: pytest.MonkeyPatch, with_id: bool
) -> None:
    """The database may not grow by a page; giving the reserve up makes room for it."""
    versions = [put(store, f"{number:03}" + "x" * 900, b"x") for number in range(40)]
    store._parts.reserve.make()
    ((pages,),) = rows(store, "PRAGMA page_count")
    limit_pages(store, pages)
    with pytest.raises(StoreFull):
        fill(store)
    give_up, given = store._parts.reserve.give_up, []

    def make_room() -> bool:
        given.append(give_up())
        limit_pages(store, 1 << 30)
        return given[-1]

    monkeypatch.setattr(store._parts.reserve, "give_up", make_room)
    for version in versions:
        assert store.delete(version.key, version_id=version.version_id if with_id else "") is not None
    assert given in ([], [True])
    assert bool(given) or with_id
    assert rows(store, "PRAGMA integrity_check") == [("ok",)]


def test_on_a_full_disk_reads_and_removals_work(tmp_path: Path) -> None:
    on_a_small_disk(
        """
        import pytest
        from gestalt_cas.errors import StoreFull
        from storage import body, history, key, put, rows, staged

        def fill():
            with open("/mnt/filler", "ab", buffering=0) as filler:
                for size in (1 << 20, 1 << 12):
                    try:
                        while True:
                            filler.write(bytes(size))
                    except OSError:
                        continue

        with Store.open(arguments[0]) as store:
            versions = [put(store, f"{number:03}", b"%d" % number * 5000) for number in range(30)]
            store._parts.reserve.make()
            fill()
            for size in (100, 100_000):
                with pytest.raises(StoreFull):
                    for number in range(500):
                        put(store, f"new {number}", os.urandom(size), metadata={"m": "x" * 30_000})
            assert staged(store) == []
            fill()
            for number, version in enumerate(versions):
                assert body(store, version.key.key) == b"%d" % number * 5000
            with pytest.raises(StoreFull):
                put(store, "one more", os.urandom(5000))
            for version in versions[:10]:
                assert store.delete(version.key).delete_marker
            for version in versions[10:20]:
                assert store.delete(version.key, version_id=version.version_id) == version
        fill()
        with Store.open(arguments[0]) as store:
            with pytest.raises(StoreFull):
                put(store, "one more", os.urandom(200_000))
            assert [len(history(store, f"{number:03}")) for number in range(30)] == [2] * 10 + [0] * 10 + [1] * 10
            assert body(store, "029") == b"29" * 5000
            os.unlink("/mnt/filler")
            put(store, "one more", b"fits again")
            assert rows(store, "PRAGMA integrity_check") == [("ok",)]
        """,
        24,
    )


# ---- listings ----


def test_pages_of_objects(store: Store) -> None:
    for name in ("a", "b/1", "b/2", "c"):
        put(store, name, name.encode())
    put(store, "gone", b"")
    store.delete(key("gone"))
    page = store.list_page(ListQuery(BUCKET, delimiter="/", max_keys=2))
    assert [v.key.key for v in page.objects] == ["a"]
    assert page.common_prefixes == ("b/",)
    assert page.has_more
    rest = store.list_page(ListQuery(BUCKET, delimiter="/", token=page.token, start_after="zzz"))
    assert ([v.key.key for v in rest.objects], rest.common_prefixes, rest.token) == (["c"], (), "")
    assert store.list_page(ListQuery("nobody's")).objects == ()
    after = store.list_page(ListQuery(BUCKET, start_after="b/1"))
    assert [v.key.key for v in after.objects] == ["b/2", "c"]


def test_a_token_is_of_its_listing(store: Store) -> None:
    for name in "abc":
        put(store, name, b"")
    token = store.list_page(ListQuery(BUCKET, max_keys=1)).token
    versions_token = store.list_versions(ListQuery(BUCKET, max_keys=1)).token
    for query in (
        ListQuery("other", token=token),
        ListQuery(BUCKET, prefix="a", token=token),
        ListQuery(BUCKET, delimiter="/", token=token),
        ListQuery(BUCKET, token=versions_token),
        ListQuery(BUCKET, token=token[:-1]),
        ListQuery(BUCKET, token="\ud800"),
    ):
        with pytest.raises(InvalidToken):
            store.list_page(query)
    with pytest.raises(InvalidToken):
        store.list_versions(ListQuery(BUCKET, token=token))
    for query in (ListQuery(BUCKET, prefix="\ud800"), ListQuery(BUCKET, delimiter="\ud800"), ListQuery("a/b")):
        with pytest.raises(InvalidArgument):
            store.list_page(query)


def test_a_page_stays_below_what_peers_receive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        put(store, f"{number:02}", b"", metadata={"m": "x" * 1000}, headers=Headers("text/plain"))
    monkeypatch.setattr(pages, "PAGE_BYTES", 4000)
    got: list[str] = []
    token = ""
    while True:
        page = store.list_page(ListQuery(BUCKET, token=token))
        assert 1 <= len(page.objects) <= 3
        got += [v.key.key for v in page.objects]
        token = page.token
        if not token:
            break
    assert got == [f"{number:02}" for number in range(12)]
    monkeypatch.setattr(pages, "PAGE_BYTES", 1)
    assert len(store.list_page(ListQuery(BUCKET)).objects) == 1


def test_versions_of_one_key_and_of_those_below_it(store: Store) -> None:
    ids = [put(store, "k", b"%d" % number).version_id for number in range(5)][::-1]
    below = put(store, "k/below", b"")
    got: list[str] = []
    token = ""
    while True:
        page = store.list_versions(ListQuery(BUCKET, prefix="k", token=token, max_keys=2), only_key=True)
        got += [v.version_id for v in page.versions]
        token = page.token
        if not token:
            break
    assert got == ids
    page = store.list_versions(ListQuery(BUCKET, prefix="k"))
    assert [v.version_id for v in page.versions] == [*ids, below.version_id]
    assert [v.current for v in page.versions] == [True, False, False, False, False, True]
    assert store.list_versions(ListQuery(BUCKET, prefix="nothing")).versions == ()


def test_usage_counts_shared_payloads_once(store: Store) -> None:
    for name, data in (("a", b"12345"), ("a", b"xy"), ("p/b", b"12345"), ("p/c", b"12345")):
        put(store, name, data)
    store.delete(key("p/c"))
    used = store.usage(BUCKET)
    assert (used.objects, used.versions) == (2, 4)
    assert (used.logical_bytes, used.version_bytes, used.stored_bytes) == (7, 17, 7)
    assert store.usage(BUCKET, "p/").objects == 1
    assert store.usage("nobody's").versions == 0
    with pytest.raises(InvalidArgument):
        store.usage("a/b")


@pytest.mark.parametrize("stretch", [1, 2, 3, 5, 100])
def test_usage_is_counted_in_stretches(store: Store, monkeypatch: pytest.MonkeyPatch, stretch: int) -> None:
    """A view of all rows would keep the WAL from being shortened, and nobody could stop it."""
    for turn in range(3):
        for number in range(4):
            put(store, f"p/{number}", b"%d" % (number % 2) * (turn + 1))
    put(store, "a", b"0")
    put(store, "q", b"00")
    removed = put(store, "p/1", b"removed")
    store.delete(key("p/1"), version_id=removed.version_id)
    store.delete(key("p/2"))
    monkeypatch.setattr(buckets, "STRETCH", stretch)
    told: list[int] = []
    used = store.usage(BUCKET, "p/", progress=lambda _, done, __: told.append(done))
    assert (used.objects, used.versions) == (3, 12)
    assert (used.logical_bytes, used.version_bytes, used.stored_bytes) == (9, 24, 12)
    assert len(told) == 14 // stretch
    if stretch < 5:
        with pytest.raises(Cancelled):
            store.usage(BUCKET, progress=stop)


def stop(*_: object) -> None:
    raise Cancelled("stopped")


# ---- state ----


def test_health_of_a_store_that_lost_its_database(store: Store) -> None:
    assert store.health() == ""
    (store.directory / "metadata.sqlite3").rename(store.directory / "elsewhere")
    assert "lost its database" in store.health()
    (store.directory / "elsewhere").rename(store.directory / "metadata.sqlite3")
    assert store.health() == ""


def test_one_server_at_a_time(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as first, Store.open(tmp_path / "store") as second:
        assert first.claim_server()
        assert first.claim_server()
        assert not second.claim_server()
        first.close()
        assert second.claim_server()


def test_maintenance_keeps_the_reserve(store: Store) -> None:
    store._parts.reserve.give_up()
    store.maintain()
    assert (store.directory / "reserve").stat().st_size == store._parts.reserve.wanted_bytes()


def test_of_a_disk_of_which_nothing_can_be_told_no_shortage_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(layout: Layout) -> bool:
        raise broken()

    monkeypatch.setattr(Layout, "full", fail)
    assert store.shortage() == ""
    monkeypatch.setattr(Layout, "full", lambda layout: True)
    assert "is full" in store.shortage()


def test_a_full_disk_shows_although_the_store_is_sound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (store.health(), store.shortage()) == ("", "")
    monkeypatch.setattr(Layout, "full", lambda self: True)
    assert store.health() == ""
    assert str(store.directory) in store.shortage()


def test_a_passing_fault_is_mended_without_a_write(store: Store) -> None:
    error = driver_error(IOERR, "disk I/O error")
    store._database._faults.note(error)
    assert "disk I/O error" in store.health()
    store.maintain()
    assert store.health() == ""


def test_closing_under_a_long_transaction_lets_nobody_in(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    close = Database.close
    monkeypatch.setattr(Database, "close", lambda self: close(self, timeout=0.05))
    begun, go_on = threading.Event(), threading.Event()

    def long_write() -> None:
        with store._database.write():
            begun.set()
            go_on.wait(20)

    writer = threading.Thread(target=long_write)
    writer.start()
    assert begun.wait(20)
    store.close()
    store.close()
    other = FileLock(store.directory / "write.lock")
    try:
        assert not other.try_acquire()
        go_on.set()
        writer.join(20)
        assert other.try_acquire()
    finally:
        go_on.set()
        other.close()


def test_a_store_without_a_row_for_its_default_bucket(store: Store) -> None:
    made = store.write(ObjectKey("", "k"), [b"x"])
    with store._database.write() as tx:
        tx.execute("DELETE FROM settings WHERE name = 'bucket'")
    assert store.head(ObjectKey("", "k")).version_id == made.version_id
    with store.read(ObjectKey("", "k")) as reader:
        assert reader.read() == b"x"
    with pytest.raises(NoSuchKey):
        store.head(ObjectKey("", "other"))
