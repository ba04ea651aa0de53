"""MemoryError in the midst of a change: nothing is acknowledged that does not stand, nobody hangs, later writes work.

The errors are put in, line by line; memory that really runs out is in test_edge.py.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import pytest

import gestalt_cas
from gestalt_cas import ObjectKey, Store
from gestalt_cas.errors import OutcomeUnknown, StoreError
from gestalt_cas.files import staging
from test_limits import by_url
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import Hosted

MODULES = ("transactions/commits", "transactions/database", "transactions/answers", "transactions/wal")
FILES = {str(Path(gestalt_cas.__file__).parent / f"{name}.py") for name in MODULES}
NOTHING_IS_TAKEN = ("try:", "else:", "finally:")
"""Lines at which the interpreter wants no memory."""
CALLERS = ("first", "second", "third")


class Shortage:
    """At the line of this number, counted over new lines of each thread, there is no memory; `met` says where."""

    def __init__(self, number: int) -> None:
        self._left = number
        self._reached: set[tuple[str, int, int]] = set()
        self._lock = threading.Lock()
        self.met = ""

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in FILES or self.met:
            return None
        if event == "line":
            self._step(frame)
        return self.trace

    def _step(self, frame: FrameType) -> None:
        place = frame.f_code.co_filename, frame.f_lineno, threading.get_ident()
        if linecache.getline(*place[:2]).strip() in NOTHING_IS_TAKEN:
            return
        with self._lock:
            if place in self._reached:
                return
            self._reached.add(place)
            self._left -= 1
            if self._left:
                return
            self.met = f"{Path(place[0]).stem}:{place[1]} of {threading.current_thread().name}"
        raise MemoryError


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "d", settings={"blobs.inlineMaxBytes": 1000}) as store:
        store.write(ObjectKey("b", "before"), [b"x"])
        yield store


def in_a_group(store: Store, shortage: Shortage, number: int) -> dict[str, Exception | None]:
    """What came of three writes that share a transaction."""
    outcomes: dict[str, Exception | None] = {}
    committer, threads = store._database._committer, []

    def write(name: str) -> None:
        sys.settrace(shortage.trace)
        try:
            store.write(ObjectKey("b", f"{number}/{name}"), [name.encode()])
        except (MemoryError, StoreError) as error:
            outcomes[name] = error
        else:
            outcomes[name] = None
        finally:
            sys.settrace(None)

    with store._database._writer_lock.held(10):
        for name in CALLERS:
            thread = threading.Thread(target=write, args=(name,), name=name, daemon=True)
            thread.start()
            threads.append(thread)
            eventually(lambda: came(committer, threads), "all but who has ended wait")
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), f"{thread.name} hangs: no memory at {shortage.met}"
    return outcomes


def came(committer: Any, threads: list[threading.Thread]) -> bool:
    waiting = len(committer._waiting) + (committer._leader is not None)
    return waiting >= sum(thread.is_alive() for thread in threads)


def stands(store: Store, key: str) -> bool:
    try:
        store.head(ObjectKey("b", key))
    except StoreError:
        return False
    return True


def test_wherever_a_commit_finds_no_memory_no_answer_is_wrong(store: Store) -> None:
    number, unknown = 0, 0
    while True:
        number += 1
        shortage = Shortage(number)
        outcomes = in_a_group(store, shortage, number)
        for name, error in outcomes.items():
            there = stands(store, f"{number}/{name}")
            assert there or error is not None, f"{name} was lost: {shortage.met}"
            if isinstance(error, OutcomeUnknown):
                unknown += 1
            elif isinstance(error, StoreError):
                assert not there, f"{name} was refused and stands: {shortage.met}"
        try:
            store.write(ObjectKey("b", "later"), [b"later"])
        except StoreError as error:
            raise AssertionError(f"no later write works: no memory at {shortage.met}") from error
        assert not store._database._writer.in_transaction  # type: ignore[union-attr]
        if not shortage.met:
            break
    assert number > 100
    assert unknown
    assert store.check().findings == ()
    assert not store._blobs.staging.budget._taken


def test_a_transaction_that_could_not_be_ended_is_ended_by_the_next_writer(store: Store) -> None:
    """That one was refused, since there can be only one transaction at a time."""
    writer = store._database._writer
    assert writer is not None
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM current")
    store.write(ObjectKey("b", "after"), [b"x"])
    assert stands(store, "before")
    assert stands(store, "after")


@pytest.mark.parametrize("place", ["_relieve", "_commit"])
def test_of_a_change_that_may_stand_the_outcome_is_unknown(
    store: Store, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The caller got the MemoryError, as if nothing had been done."""
    whole: Callable[..., None] = getattr(store._database, place)

    def without_memory(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        whole(*arguments, **options)
        raise MemoryError

    monkeypatch.setattr(store._database, place, without_memory)
    with pytest.raises(OutcomeUnknown, match="outcome unknown: memory ran out around COMMIT"):
        store.write(ObjectKey("b", "k"), [b"x"])
    assert stands(store, "k")
    store.write(ObjectKey("b", "k"), [b"x"])


def test_a_body_that_cannot_be_summed_counts_no_longer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes stayed counted until the server ended, and in the end uploads were refused for that."""

    def without_memory(_: bytes) -> bytes:
        raise MemoryError

    monkeypatch.setattr(staging.chunks, "sums", without_memory)
    with pytest.raises(MemoryError):
        store.write(ObjectKey("b", "k"), [b"x" * 900])
    assert not store._blobs.staging.budget._taken


def test_a_staging_file_that_nobody_could_take_hold_of_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(*_: object) -> None:
        raise MemoryError

    opened = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(staging, "Staged", without_memory)
    with pytest.raises(MemoryError):
        store.write(ObjectKey("b", "k"), [b"x" * 2000])
    assert not list((store.directory / "staging").iterdir())
    assert len(os.listdir("/proc/self/fd")) == opened


ONCE_WITHOUT_MEMORY = """
import sys
from gestalt_cas import cli
from gestalt_cas.files.staging import Staged
discard, refused = Staged.discard, []

def without_memory(staged):
    discard(staged)
    if len(refused) < 2:
        refused.append(staged)
        raise MemoryError

Staged.discard = without_memory
sys.argv.insert(1, "provider")
sys.exit(cli.main())
"""


@contextmanager
def configured(directory: Path) -> Iterator[tuple[Hosted, Client]]:
    with Hosted([sys.executable, "-c", ONCE_WITHOUT_MEMORY]) as hosted:
        lifecycle = Lifecycle(hosted.target)
        try:
            lifecycle.configure({"dataDir": str(directory)}, version=5)
        finally:
            lifecycle.close()
        with Client(hosted.target, protos.BUCKETLESS) as client:
            yield hosted, client


def test_a_caller_whose_change_may_stand_is_not_told_that_it_failed(tmp_path: Path) -> None:
    """It was INTERNAL and 500, which say that nothing was changed."""
    with configured(tmp_path / "d") as (hosted, client):
        with refused(grpc.StatusCode.UNAVAILABLE, "outcome unknown: out of memory"):
            client.write("k", b"stands")
        status, text = by_url(client, "PUT", b"stands, too", "url")
        assert (status, b"outcome unknown: out of memory" in text) == (503, True), text
        assert (client.body("k"), client.body("url")) == (b"stands", b"stands, too")
        client.write("k", b"later")
        hosted.stop()
        assert hosted.stderr.count("outcome unknown: out of memory") == 2
