"""Batches: all of the changes or none, judged in their order, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from gestalt_cas import Conditions, ListQuery, ObjectKey, Store
from gestalt_cas.errors import (
    Cancelled,
    InvalidArgument,
    NoSuchKey,
    PreconditionFailed,
    QuotaExceeded,
    StoreBusy,
)
from gestalt_cas.keeping import pins as pins_of
from gestalt_cas.operations import batches
from storage import BUCKET, Child, body, change, history, key, payload_path, payloads, put, rows, staged

CREATE = Conditions(if_none_match="*")


def names(store: Store) -> list[str]:
    return [version.key.key for version in store.list_page(ListQuery(BUCKET)).objects]


def pins(store: Store) -> list[tuple[str]]:
    return rows(store, "SELECT kind FROM pins")


def test_all_changes_are_made_in_their_order(store: Store) -> None:
    put(store, "old", b"old")
    with store.transaction() as changes:
        first = changes.put(key("new"), [b"one"], metadata={"a": "b"})
        copied = changes.copy(key("new"), key("copy"))
        second = changes.put(key("new"), [b"two"])
        gone = changes.delete(key("old"))
        assert names(store) == ["old"]
        assert first.version is None
    assert (body(store, "new"), body(store, "copy")) == (b"two", b"one")
    assert dict(store.head(key("copy")).metadata) == {"a": "b"}
    assert names(store) == ["copy", "new"]
    made = [change.version for change in (first, copied, second, gone)]
    assert [version is not None and version.seq for version in made] == sorted(v.seq for v in made if v is not None)
    assert store.head(key("new")) == made[2]
    assert pins(store) == []


def test_a_failed_condition_names_its_change_and_changes_nothing(store: Store) -> None:
    put(store, "there", b"before")
    seq = rows(store, "SELECT seq FROM counter")
    with (
        pytest.raises(PreconditionFailed, match=r"^change 3 \(put bucket/there\): if-none-match"),
        store.transaction() as changes,
    ):
        first = changes.put(key("a"), [b"a"])
        changes.delete(key("there"), version_id="unknown")
        changes.put(key("there"), [b"after"], conditions=CREATE)
        changes.put(key("b"), [b"b"])
    assert first.version is None
    assert names(store) == ["there"]
    assert body(store, "there") == b"before"
    after = rows(store, "SELECT seq FROM counter")
    assert after == seq
    assert pins(store) == []
    store.collect_garbage()
    store.collect_garbage()
    assert len(payloads(store)) == 1


def test_changes_are_judged_on_those_before_them(store: Store) -> None:
    put(store, "k", b"one")
    with store.transaction() as changes:
        changes.delete(key("k"))
        changes.put(key("k"), [b"two"], conditions=CREATE)
    assert body(store, "k") == b"two"
    with pytest.raises(NoSuchKey, match=r"^change 2 \(copy"), store.transaction() as changes:
        changes.delete(key("k"))
        changes.copy(key("k"), key("l"))
    assert body(store, "k") == b"two"


def test_a_block_that_raises_gives_everything_up(store: Store) -> None:
    with pytest.raises(Cancelled), store.transaction() as changes:
        changes.put(key("k"), [b"x"])
        raise Cancelled("no")
    assert names(store) == []
    assert pins(store) == []
    assert staged(store) == []


def test_a_body_that_fails_gives_everything_up(store: Store) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"), store.transaction() as changes:
        changes.put(key("a"), [b"a"])
        changes.put(key("b"), broken())
    assert names(store) == []
    assert staged(store) == []


def test_nothing_is_collected_while_a_batch_waits(store: Store) -> None:
    with store.transaction() as changes:
        changes.put(key("k"), [b"payload"])
        for _ in range(3):
            found = store.collect_garbage()
        assert found.files == 0
        assert len(payloads(store)) == 1
    assert body(store, "k") == b"payload"


def test_a_batch_whose_pin_has_gone_is_refused(store: Store) -> None:
    """As after a standstill of minutes, when gc has dropped the pin: nobody can tell what it removed since."""
    with pytest.raises(StoreBusy, match=r"the pin batch-\w+ has gone"), store.transaction() as changes:
        changes.put(key("k"), [b"payload"])
        change(store, "DELETE FROM pins")
    assert names(store) == []


def test_a_payload_that_went_all_the_same_is_told(store: Store) -> None:
    with pytest.raises(StoreBusy, match=r"^change 1 .*has gone meanwhile"), store.transaction() as changes:
        changes.put(key("k"), [b"payload"])
        payload_path(store, b"payload").unlink()
    assert names(store) == []


@pytest.mark.parametrize("inline", [0, 4096])
def test_a_batch_may_have_more_bodies_than_the_process_open_files(store: Store, inline: int) -> None:
    store.change_settings({"blobs.inlineMaxBytes": inline})
    before = len(os.listdir("/proc/self/fd"))
    with store.transaction() as changes:
        for number in range(300):
            changes.put(key(f"{number:03}"), [b"%d" % number])
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert len(names(store)) == 300
    assert body(store, "299") == b"299"


def test_readers_see_all_or_nothing(store: Store) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(len(names(store)))

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(5):
        with store.transaction() as changes:
            for number in range(40):
                changes.put(key(f"{turn}-{number}"), [b"x"])
    stop.set()
    reader.join()
    assert set(seen) <= {0, 40, 80, 120, 160, 200}


def test_a_quota_is_kept_by_the_whole(store: Store) -> None:
    store.set_quota(BUCKET, "", 10)
    with pytest.raises(QuotaExceeded, match=r"^change 3"), store.transaction() as changes:
        for name in "abc":
            changes.put(key(name), [b"xxxx"])
    assert names(store) == []
    assert store.quotas()[0].used_bytes == 0


def test_suspended_versioning_replaces_the_null_version_once_for_each_change(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    with store.transaction() as changes:
        changes.put(key("k"), [b"one"])
        changes.put(key("k"), [b"two"])
    assert [version.version_id for version in history(store, "k")] == ["null"]
    assert body(store, "k") == b"two"


def test_a_batch_is_over_when_it_was_committed(store: Store) -> None:
    changes = store.transaction()
    changes.delete(key("k"))
    assert len(changes.commit()) == len(changes) == 1
    for again in (lambda: changes.delete(key("k")), changes.commit, lambda: changes.put(key("k"), [b"x"])):
        with pytest.raises(InvalidArgument, match="committed or given up"):
            again()
    changes.close()


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gestalt-cas-heartbeat"]


@pytest.mark.parametrize("create", ["", "*"], ids=["committed", "refused"])
def test_a_batch_that_has_ended_keeps_gc_from_nothing(store: Store, create: str) -> None:
    """Whether or not its owner ever closes it."""
    put(store, "k", b"there")
    changes = store.transaction()
    changes.put(key("k"), [b"x"], conditions=Conditions(if_none_match=create))
    assert pins(store) == [("batch",)]
    with pytest.raises(PreconditionFailed) if create else nullcontext():
        changes.commit()
    assert pins(store) == []
    assert heartbeats() == []


def test_signs_of_life_end_with_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that was never closed must not keep a thread going for the rest of the process."""
    monkeypatch.setattr(pins_of, "BEAT_SECONDS", 0.01)
    abandoned = store.transaction()
    abandoned.put(key("k"), [b"x"])
    (thread,) = heartbeats()
    store.close()
    thread.join(60)
    assert not thread.is_alive()


def test_a_batch_has_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_CHANGES", 2)
    with store.transaction() as changes:
        changes.delete(key("a"))
        changes.delete(key("b"))
        with pytest.raises(InvalidArgument, match="2 changes at most"):
            changes.delete(key("c"))


def test_names_and_attributes_are_judged_when_they_are_given(store: Store) -> None:
    changes = store.transaction()
    for bad in (
        lambda: changes.put(ObjectKey(BUCKET, ""), [b"x"]),
        lambda: changes.put(key("k"), [b"x"], metadata={"a": "x" * 70_000}),
        lambda: changes.copy(key("k"), ObjectKey("a/b", "k")),
        lambda: changes.delete(ObjectKey(BUCKET, "")),
        lambda: changes.put(key("k"), [b"x"], conditions=Conditions(if_none_match="*", current_version="v")),
    ):
        with pytest.raises(InvalidArgument):
            bad()
    assert len(changes) == 0
    changes.close()


KILLED = """
import os, sys
from gestalt_cas import ObjectKey, Store
from gestalt_cas.transactions.database import Database

store = Store.open(sys.argv[1])
if sys.argv[2] == "commit":
    Database._commit = lambda *a: os._exit(9)
with store.transaction() as changes:
    for number in range(20):
        changes.put(ObjectKey("bucket", str(number)), [b"%d" % number])
        if sys.argv[2] == str(number):
            os._exit(9)
    changes.delete(ObjectKey("bucket", "before"))
    if sys.argv[2] == "commit":
        Database._commit = lambda *a: os._exit(9)
"""


@pytest.mark.parametrize("at", ["0", "10"])
def test_killed_on_the_way_nothing_has_changed(store: Store, at: str) -> None:
    put(store, "before", b"x")
    with Child(KILLED, store.directory, at) as child:
        child.finish(expect=9)
    assert names(store) == ["before"]
    assert store.check().clean


# ---- bringing back ----


def test_restoring_a_version_adds_it_again(store: Store) -> None:
    old = put(store, "k", b"old", metadata={"a": "1"})
    new = put(store, "k", b"new")
    restored = store.restore_version(key("k"), old.version_id)
    assert body(store, "k") == b"old"
    assert dict(store.head(key("k")).metadata) == {"a": "1"}
    assert [version.version_id for version in history(store, "k")] == [
        restored.version_id,
        new.version_id,
        old.version_id,
    ]


def test_undeleting_removes_the_markers_on_top(store: Store) -> None:
    put(store, "k", b"old")
    newest = put(store, "k", b"new")
    store.delete(key("k"))
    store.delete(key("k"))
    assert store.undelete(key("k")).version_id == newest.version_id
    assert body(store, "k") == b"new"
    assert len(history(store, "k")) == 2
    with pytest.raises(PreconditionFailed, match="is not deleted"):
        store.undelete(key("k"))


def test_undeleting_what_has_no_version_is_not_found(store: Store) -> None:
    store.delete(key("k"))
    for name in ("k", "never"):
        with pytest.raises(NoSuchKey, match="no version to bring back"):
            store.undelete(key(name))


def test_no_time_names_a_moment_within_a_batch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(1_800_000_000_000)
    monkeypatch.setattr("gestalt_cas.operations.changes.now_ms", lambda: next(ticks))
    monkeypatch.setattr("gestalt_cas.operations.batches.now_ms", lambda: next(ticks))
    gone = put(store, "gone", b"1")
    with store.transaction() as changes:
        for name in "abc":
            changes.put(key(name), [b"1"])
        changes.copy(key("a"), key("d"))
        changes.delete(key("gone"), version_id=gone.version_id)
        changes.delete(key("b"))
    times = rows(store, "SELECT commit_ms FROM versions WHERE seq > ? UNION SELECT gone_ms FROM versions", gone.seq)
    assert len([at for (at,) in times if at is not None]) == 1
