"""A history on one data directory: two servers, processes of clients, work in the background, kills; then the verdict.

    python -m histories.harness --seconds 60 --seed 7 [--kills 6]

Clients talk to either server, and one process of them works on the directory itself. Meanwhile every activity of the
background runs over and over in this process, beside what the servers do themselves, and now and then a server or a
process of clients is killed. The calls, not their timing, follow from the seed, which is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gestalt_cas import Store
from gestalt_cas.conformance.linearizability.checker import Verdict, check
from gestalt_cas.conformance.linearizability.operations import NEVER, Kind, Operation
from histories.clients import BUCKET, Orders, as_of, command, recorded
from wire.client import eventually
from wire.process import START_SECONDS, Server

ROOT = Path(__file__).resolve().parents[2]
GROUPS = [[f"g{group}/{name}" for name in "ab"] for group in range(4)]
THREADS = {"one": 4, "two": 4, "own": 2}
"""Clients by where they call: the first server, the second, or the directory itself."""
SETTINGS = ("gc.everySeconds=0.5", "gc.graceSeconds=0")
SUSPENDED = ("versioning=suspended",)
"""So that overwritten payloads become garbage and gc has something to remove."""

INLINE = "blobs.inlineMaxBytes=4096"
"""What every other seed's servers are told besides: small payloads are rows, of which most of the clients' are."""

RETAINED = ("versioning=enabled", f"retention.rules={json.dumps({BUCKET: {'keepNoncurrent': 1, 'dropMarkers': True}})}")
"""What every third seed's servers are told instead: every version stays at first, and retention makes the garbage."""

Activity = Callable[[Store], object]


def checkpoint(store: Store) -> None:
    store._database.checkpoint(restart=True)


def check_store(store: Store) -> None:
    report = store.check()
    assert report.clean, report.findings


def back_up(store: Store) -> None:
    backed_up = store.back_up(store.directory.parent / "backup")
    assert not backed_up.lost, backed_up.lost


@dataclass(frozen=True, slots=True)
class Looked:
    """What an activity has seen of the clients' keys, to be judged with what they saw themselves."""

    operations: Sequence[Operation]


def look_back(store: Store) -> Looked:
    """Name the present; what it shows, then and later, is what a listing in that moment would have shown."""
    name = f"s{secrets.token_hex(8)}"
    invoked = time.monotonic()
    store.create_snapshot(name, BUCKET)
    returned = time.monotonic()
    seen = [as_of(store, _prefix(keys), name) for keys in GROUPS]
    again = [as_of(store, _prefix(keys), name) for keys in GROUPS]
    assert again == seen, f"{name} showed {seen}, then {again}"
    store.delete_snapshot(name)
    return Looked(
        [
            Operation("snapshot", Kind.LIST, _prefix(keys), invoked, returned, seen=one)
            for keys, one in zip(GROUPS, seen, strict=True)
        ]
    )


BACKGROUND: Mapping[str, tuple[Activity, float]] = {
    "checkpoint": (checkpoint, 0.02),
    "cleaning": (Store.clean_staging, 0.02),
    "gc": (Store.collect_garbage, 0.02),
    "gc, dry": (lambda store: store.collect_garbage(dry_run=True), 0.1),
    "check": (check_store, 0.2),
    "retention": (Store.apply_retention, 0.1),
    "snapshots": (look_back, 0.1),
    "backup": (back_up, 1.0),
}
"""What runs beside the clients, each on a thread of its own, with a pause in seconds after each turn.

Whatever it raises fails the run. Backups pause long, since gc removes nothing while one runs.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What was recorded, the verdict for each group of keys, and how often each background activity ran."""

    operations: list[Operation]
    verdicts: list[Verdict]
    background: Mapping[str, int]
    kills: int

    def __str__(self) -> str:
        kinds = Counter(operation.kind.value for operation in self.operations)
        ends = Counter(operation.outcome.value for operation in self.operations)
        widest = max(verdict.widest for verdict in self.verdicts)
        return (
            f"{len(self.operations)} calls {dict(kinds)}, ends {dict(ends)}, {self.kills} kills, "
            f"background {dict(self.background)}, at most {widest} configurations"
        )

    def unlinearizable(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.linearizable]


class Clients:
    """A process of clients, and the log that it leaves."""

    def __init__(self, orders: Orders, where: str) -> None:
        self.where = where
        self.died = NEVER
        self.log = Path(orders.log)
        places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            command(orders), env={**os.environ, "PYTHONPATH": places}, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> None:
        """What it asked a server for may still happen later; what it did itself can not."""
        self.process.kill()
        self.process.wait()
        if self.where == "own":
            self.died = time.monotonic()

    def finish(self) -> list[Operation]:
        _, errors = self.process.communicate(timeout=120)
        assert self.process.returncode in (0, -9), errors
        return recorded(self.log, self.died)


class Run:
    """One history in the making: a context manager that ends all its processes."""

    def __init__(
        self, directory: Path, seed: int, seconds: float, background: Mapping[str, tuple[Activity, float]]
    ) -> None:
        self._directory = directory
        self._seed = seed
        self._random = random.Random(seed)
        self._seconds = seconds
        self._until = 0.0
        self._background = background
        self._clients: list[Clients] = []
        self._rounds: Counter[str] = Counter(dict.fromkeys(background, 0))
        self._looked: list[Operation] = []
        self._failures: list[BaseException] = []
        self._over = threading.Event()
        self._undo = ExitStack()
        self._servers: dict[str, Server] = {}

    def go(self, kills: int) -> Result:
        self._servers = {name: self._server() for name in ("one", "two")}
        self._until = time.monotonic() + self._seconds
        for where in THREADS:
            self._employ(where)
        store = self._undo.enter_context(Store.open(self._directory / "store", create=False))
        threads = [threading.Thread(target=self._repeat, args=(store, name)) for name in self._background]
        for thread in threads:
            thread.start()
        self._wait_and_kill(kills)
        operations = [operation for clients in self._clients for operation in clients.finish()]
        self._over.set()
        for thread in threads:
            thread.join()
        for failure in self._failures:
            raise failure
        operations += self._looked
        for server in self._servers.values():
            server.stop()
        return Result(operations, judge(operations), self._rounds, kills)

    def _server(self) -> Server:
        kept = SUSPENDED if self._seed % 3 else RETAINED
        settings = [*SETTINGS, *kept, *([INLINE] if self._seed % 2 else [])]
        server = Server(*settings, data_dir=self._directory / "store")
        self._undo.callback(server.forget)
        return server

    def _employ(self, where: str) -> None:
        """Start clients for the time that is left."""
        name = f"c{len(self._clients)}"
        target = self._servers[where].target if where in self._servers else ""
        left = max(0.5, self._until - time.monotonic())
        log, store = self._directory / f"{name}.log", self._directory / "store"
        orders = Orders(name, str(log), target, str(store), GROUPS, THREADS[where], left, str(self._seed))
        clients = Clients(orders, where)
        self._undo.callback(clients.process.kill)
        self._clients.append(clients)
        eventually(clients.log.exists, f"the first call of {name}", START_SECONDS)

    def _wait_and_kill(self, kills: int) -> None:
        """Kill a server, clients of a server, and clients on the directory in turn, in an order by chance."""
        victims = ["server", "clients", "own"]
        self._random.shuffle(victims)
        pause = max(0.0, self._until - time.monotonic()) / (kills + 1)
        for number in range(kills):
            time.sleep(pause * self._random.uniform(0.7, 1.3))
            victim = victims[number % len(victims)]
            where = self._random.choice(list(self._servers)) if victim != "own" else victim
            if victim == "server":
                self._kill_server(where)
            else:
                self._latest(where).kill()
            self._employ(where)

    def _kill_server(self, name: str) -> None:
        """Kill a server and put another in its place. What its clients had no answer for was done by now or never.

        (SQLite alone would allow the commit of a killed process to show later, if every process ended before any
        other commit; here others always go on.)
        """
        server = self._servers[name]
        server.kill()
        died = time.monotonic()
        for clients in self._clients:
            if clients.where == name:
                clients.died = min(clients.died, died)
        self._servers[name] = self._server()

    def _latest(self, where: str) -> Clients:
        return [clients for clients in self._clients if clients.where == where][-1]

    def _repeat(self, store: Store, name: str) -> None:
        try:
            activity, pause = self._background[name]
            while not self._over.wait(pause):
                found = activity(store)
                if isinstance(found, Looked):
                    self._looked += found.operations
                self._rounds[name] += 1
        except BaseException as error:  # noqa: BLE001 - raised where the run ends
            self._failures.append(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._undo.close()


def judge(operations: list[Operation]) -> list[Verdict]:
    """The verdict for each group of keys; a copy or a listing never leaves its group."""
    return [check(keys, [one for one in operations if one.key.startswith(_prefix(keys))]) for keys in GROUPS]


def _prefix(keys: Sequence[str]) -> str:
    return f"{keys[0].partition('/')[0]}/"


def run(
    directory: Path,
    *,
    seed: int,
    seconds: float,
    kills: int,
    background: Mapping[str, tuple[Activity, float]] = BACKGROUND,
) -> Result:
    with Run(directory, seed, seconds, background) as made:
        return made.go(kills)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    options = parser.parse_args()
    for number in range(options.runs):
        print(f"seed {options.seed + number}", flush=True)
        with tempfile.TemporaryDirectory(prefix="gestalt-cas-histories-") as place:
            started = time.monotonic()
            result = run(Path(place), seed=options.seed + number, seconds=options.seconds, kills=options.kills)
        print(f"{result} ({time.monotonic() - started:.0f} s)", flush=True)
        for verdict in result.unlinearizable():
            print(verdict)
        if result.unlinearizable():
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
