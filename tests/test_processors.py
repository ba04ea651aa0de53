"""Where a server's threads run: on one processor those that need the interpreter, anywhere what moves many bytes."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from gestalt_cas.system import processors
from gestalt_cas.system.processors import LONG_BYTES, Processors, better, strongest, worked
from wire import protos
from wire.client import Client, eventually
from wire.process import Server

if not hasattr(os, "sched_getaffinity"):
    pytest.skip("only Linux lets a process say where its threads run", allow_module_level=True)

Result = TypeVar("Result")

ALLOWED = frozenset(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(ALLOWED) < 2, reason="one processor")


def placed(thread: int = 0) -> frozenset[int]:
    return frozenset(os.sched_getaffinity(thread))


class Worker:
    """A thread that does what it is asked."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.native = self.pool.submit(threading.get_native_id).result()

    def do(self, call: Callable[[], Result]) -> Result:
        return self.pool.submit(call).result()

    @property
    def place(self) -> frozenset[int]:
        return placed(self.native)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.pool.shutdown()


@pytest.fixture
def gathered(worker: Worker) -> Iterator[Processors]:
    """Of this process, whose threads have gathered."""
    found = Processors()
    found.gather()
    yield found
    found.scatter()
    assert placed() == worker.place == ALLOWED


# Who shares the processor


@several
def test_threads_gather_where_the_process_may_run(gathered: Processors, worker: Worker) -> None:
    assert gathered.home in ALLOWED
    assert placed() == worker.place == {gathered.home}


@several
def test_what_they_start_joins_them(gathered: Processors) -> None:
    assert Worker().place == {gathered.home}


@several
def test_to_gather_twice_is_to_gather_once(gathered: Processors) -> None:
    watching = threading.active_count()
    gathered.gather()
    assert threading.active_count() == watching


def test_one_processor_is_left_as_it_is(worker: Worker) -> None:
    only = min(ALLOWED)
    found = Processors()

    def gather() -> int | None:
        os.sched_setaffinity(0, {only})
        found.gather()
        return found.home

    assert worker.do(gather) is None
    assert placed() == ALLOWED


def test_an_interpreter_without_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    found = Processors()
    found.gather()
    assert found.home is None
    assert placed() == ALLOWED


@several
def test_a_system_that_refuses(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", refuse)
        found = Processors()
        with caplog.at_level(logging.INFO):
            found.gather()
    assert found.home is None
    assert "does not let this process say" in caplog.text
    with found.anywhere():
        assert placed() == ALLOWED


@several
def test_a_thread_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> None:
    monkeypatch.setattr(processors, "_python_threads", lambda: [2**22 + 1, worker.native])
    found = Processors()
    found.gather()
    assert worker.place == {found.home}
    monkeypatch.setattr(processors, "_python_threads", lambda: [worker.native, threading.get_native_id()])
    found.scatter()
    assert placed() == worker.place == ALLOWED


# Who leaves it


@several
def test_a_block_anywhere(gathered: Processors, worker: Worker) -> None:
    def inside() -> frozenset[int]:
        with gathered.anywhere():
            return placed()

    assert worker.do(inside) == ALLOWED
    assert worker.place == {gathered.home}


@several
def test_a_block_that_ends_on_another_thread(gathered: Processors, worker: Worker) -> None:
    block = gathered.anywhere()
    worker.do(block.__enter__)
    assert worker.place == ALLOWED
    block.__exit__(None, None, None)
    assert worker.place == {gathered.home}


@several
def test_a_thread_that_leaves_for_good(gathered: Processors, worker: Worker) -> None:
    worker.do(gathered.leave)
    assert worker.place == ALLOWED


@several
def test_a_thread_that_had_left_before_the_others_gathered(worker: Worker) -> None:
    found = Processors()
    worker.do(found.leave)
    found.gather()
    try:
        assert placed() == {found.home}
        assert worker.place == ALLOWED
    finally:
        found.scatter()


@several
@pytest.mark.parametrize("length", [1 << 16, LONG_BYTES])
def test_a_long_transfer_leaves_and_comes_back(gathered: Processors, length: int) -> None:
    pieces = [bytes(length)] * (2 * LONG_BYTES // length)
    moved = 0
    for piece in gathered.moving(iter(pieces)):
        moved += len(piece)
        assert placed() == (ALLOWED if moved >= LONG_BYTES else {gathered.home})
    assert moved == 2 * LONG_BYTES
    assert placed() == {gathered.home}


@several
def test_a_short_transfer_stays(gathered: Processors) -> None:
    for _ in gathered.moving([memoryview(bytes(LONG_BYTES - 1))]):
        assert placed() == {gathered.home}


@several
def test_a_transfer_that_is_given_up_comes_back(gathered: Processors) -> None:
    pieces = gathered.moving(iter([bytes(LONG_BYTES), b"more"]))
    next(pieces)
    assert placed() == ALLOWED
    pieces.close()  # type: ignore[attr-defined]
    assert placed() == {gathered.home}


def test_pieces_come_as_they_are() -> None:
    pieces = [b"", b"a", bytes(LONG_BYTES), b"", b"z"]
    assert list(Processors().moving(pieces)) == pieces
    assert placed() == ALLOWED


# Moving


@several
def test_it_moves_away_from_others(gathered: Processors, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    before, away = gathered.home, Worker()
    away.do(gathered.leave)
    assert before is not None
    with caplog.at_level(logging.INFO):
        gathered.look(dict.fromkeys(ALLOWED, 0.0) | {before: 1.0}, 0.2)
    assert gathered.home != before
    assert gathered.home in ALLOWED
    assert placed() == worker.place == {gathered.home}
    assert away.place == ALLOWED
    assert f"moved from processor {before}" in caplog.text


@several
def test_it_stays_when_it_has_its_processor_for_itself(gathered: Processors) -> None:
    before = gathered.home
    assert before is not None
    gathered.look(dict.fromkeys(ALLOWED, 0.0) | {before: 1.0}, 1.0)
    assert gathered.home == before
    assert placed() == {before}


def test_what_has_not_gathered_does_not_move() -> None:
    found = Processors()
    found.look(dict.fromkeys(ALLOWED, 0.0) | {min(ALLOWED): 1.0}, 0.0)
    assert found.home is None
    assert placed() == ALLOWED


@pytest.mark.parametrize(
    ("busy", "own", "there"),
    [
        ({0: 0.0, 1: 0.0}, 0.0, None),
        ({0: 1.0, 1: 0.0}, 1.0, None),
        ({0: 1.0, 1: 0.0}, 0.0, 1),
        ({0: 1.0, 1: 1.0}, 0.0, None),
        ({0: 1.0, 1: 0.79}, 0.0, 1),
        ({0: 1.0, 1: 0.81}, 0.0, None),
        ({0: 1.0, 1: 0.0}, 0.69, 1),
        ({0: 1.0, 1: 0.0}, 0.71, None),
        ({0: 1.0, 1: 0.5, 2: 0.1, 3: 0.4}, 0.1, 2),
        ({0: 1.0, 1: 0.0}, 1.7, None),  # what it does elsewhere is not told apart
        ({0: 1.0}, 0.0, None),
        ({1: 0.5}, 0.0, None),
    ],
)
def test_which_processor_is_better(busy: dict[int, float], own: float, there: int | None) -> None:
    assert better(0, busy, own) == there


def test_what_the_system_has_counted() -> None:
    lines = [
        "cpu  900 900 900 900 900 900 900 900 0 0",
        "cpu0 100 20 30 5000 600 7 8 9 0 0",
        "cpu12 1 0 0 5 0 0 0",
        "intr 1 2 3",
        "ctxt 5",
    ]
    assert worked(lines, 100) == {0: 1.65, 12: 0.01}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, {0, 1, 2, 3}),
        ({"cpu_capacity": (446, 446, 1024, 1024)}, {2, 3}),
        ({"cpu_capacity": (1024, 1024, 1024, 1024)}, {0, 1, 2, 3}),
        ({"cpufreq/cpuinfo_max_freq": (5_800_000, 5_600_000, 4_300_000, 4_300_000)}, {0, 1}),
        ({"cpu_capacity": (446, 446, 1024, 1024), "cpufreq/cpuinfo_max_freq": (9, 9, 9, 1)}, {2, 3}),
        ({"cpu_capacity": (446, 446, 1024), "cpufreq/cpuinfo_max_freq": (9, 9, 9, 1)}, {0, 1, 2}),
        ({"cpu_capacity": ("much", "much", "more", "more")}, {0, 1, 2, 3}),
    ],
)
def test_which_are_the_strongest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, tuple[object, ...]], found: set[int]
) -> None:
    monkeypatch.setattr(processors, "_DESCRIBED", tmp_path)
    for name, strengths in files.items():
        for processor, strength in enumerate(strengths):
            path = tmp_path / f"cpu{processor}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{strength}\n")
    assert strongest(frozenset(range(4))) == found


@several
def test_threads_gather_on_a_strong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = max(ALLOWED)
    monkeypatch.setattr(processors, "strongest", lambda _: frozenset({strong}))
    for pid in range(len(ALLOWED)):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        found = Processors()
        found.gather()
        assert placed() == {found.home} == {strong}
        found.scatter()


def test_this_system_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = processors._Ticks.now()
    assert before is not None
    sum(range(3_000_000))
    now = processors._Ticks.now()
    assert now is not None
    busy, own = now.since(before, ALLOWED)
    assert set(busy) == ALLOWED
    assert 0 < own <= len(ALLOWED) + 0.5
    monkeypatch.setattr(processors, "_STATISTICS", tmp_path / "none")
    assert processors._Ticks.now() is None


@several
def test_it_looks_by_itself(gathered: Processors, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    monkeypatch.setattr(gathered, "look", lambda *_: looked.set())
    assert looked.wait(20)


# A server


def tasks(server: Server) -> list[frozenset[int]]:
    """Where each thread of the process may run."""
    return [placed(int(task.name)) for task in Path(f"/proc/{server.pid}/task").iterdir()]


@several
def test_a_server_gathers_and_grpc_does_not() -> None:
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("small", b"x")
        found = tasks(server)
        (home,) = {place for place in found if len(place) == 1}
        assert found.count(home) >= 3
        free = found.count(ALLOWED)
        assert free >= 3  # grpc's, and what works in the background
        assert found.count(home) + free == len(found)
        assert f"share processor {min(home)} of" in server.stderr
        client.write("big", bytes(24 << 20))
        reading = client.read_stream("big")
        assert next(reading).WhichOneof("result") == "meta"
        for _ in range(8):
            next(reading)
        eventually(lambda: tasks(server).count(ALLOWED) > free, "the thread of a long read leaves")
        reading.cancel()
        eventually(lambda: tasks(server).count(home) >= found.count(home), "and comes back")


@several
def test_a_server_that_does_not() -> None:
    with Server("threads.oneProcessor=false") as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("small", b"x")
        assert set(tasks(server)) == {ALLOWED}
        assert "share" not in server.stderr
