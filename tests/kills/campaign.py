"""Rounds of load, kill -9 and audit on one data directory, with one server process or two, and one that keeps house.

    python -m kills.campaign --rounds 300 --seed 7 [--processes 2] [--dir DIR]

Writers, bytes, moments and victims follow from the seed, which is printed; how the operating system lets the processes
take turns does not, so a seed repeats the work and not the interleaving.
"""

from __future__ import annotations

import argparse
import json
import random
import secrets
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gestalt_cas import Store
from kills import audit
from kills.keepers import Keeper
from kills.ledger import KEPT, Ledger
from kills.writers import RETAINED, Writer
from wire.process import Server

WRITERS = 6
LONGEST_LOAD = 0.9
COLLECT_EVERY = 4
GROUPS = 2
SETTINGS = (
    "gc.everySeconds=0.5",
    "gc.graceSeconds=0",
    "retention.everySeconds=0.5",
    "retention.rules=" + json.dumps({f"{audit.BUCKET}/{RETAINED}": {"keepNoncurrent": KEPT}}),
)
"""Garbage is collected beside the writers, and retention applied."""


@dataclass(slots=True)
class Totals:
    rounds: int = 0
    kills: int = 0
    calls: int = 0
    changes: int = 0
    took_effect: int = 0
    had_none: int = 0
    orphans: int = 0
    staging: int = 0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.kills} kills, {self.calls} answered calls and {self.changes} "
            "batches, rollbacks and snapshots; "
            f"unanswered: {self.took_effect} whole, {self.had_none} absent; "
            f"left behind: {self.orphans} payloads, {self.staging} staging files"
        )


class Campaign:
    """One data directory and its servers: a context manager that ends them."""

    def __init__(self, directory: Path, seed: int, processes: int) -> None:
        self.directory = directory
        self.totals = Totals()
        self._seed = seed
        self._processes = processes
        self._servers: dict[int, Server] = {}
        self._ledger = Ledger()
        self._seen: set[str] = set()

    def round(self) -> None:
        """Load, kill, audit; raises Lost when anything that was answered is not there."""
        self.totals.rounds += 1
        seed = f"{self._seed}.{self.totals.rounds}"
        chosen = random.Random(seed)
        self._start_missing()
        over = threading.Event()
        writers = [
            Writer(f"w{number}", f"{seed} {number}", self._target(number), self._ledger, over)
            for number in range(WRITERS)
        ]
        groups = [self._ledger.group(f"keeper{number}/") for number in range(GROUPS)]
        keeper = Keeper(self.directory, self.directory.with_name("keeper.log"), groups, seed)
        for writer in writers:
            writer.thread.start()
        time.sleep(chosen.uniform(0.05, LONGEST_LOAD))
        if chosen.random() < 0.6:
            keeper.kill()
            self.totals.kills += 1
        victims = self._kill(chosen)
        over.set()
        self._join(writers, victims)
        self.totals.changes += keeper.finish()
        if chosen.random() < 0.5:
            self._start_missing()  # then a server is the first to see what the killed one left, else the audit is
        self._audit(chosen)

    def _start_missing(self) -> None:
        missing = [number for number in range(self._processes) if number not in self._servers]
        with ThreadPoolExecutor(self._processes) as pool:
            started = pool.map(lambda _: Server(*SETTINGS, data_dir=self.directory), missing)
            self._servers.update(zip(missing, started, strict=True))

    def _target(self, writer: int) -> str:
        return self._servers[writer % self._processes].target

    def _kill(self, chosen: random.Random) -> set[int]:
        """Kill one server, or all of them at once; returns which."""
        victims = set(range(self._processes)) if chosen.random() < 0.4 else {chosen.randrange(self._processes)}
        for number in victims:
            self._servers[number].popen.kill()
        for number in victims:
            server = self._servers.pop(number)
            server.popen.wait()
            server.assert_no_traceback()
            server.forget()
        self.totals.kills += len(victims)
        return victims

    def _join(self, writers: list[Writer], victims: set[int]) -> None:
        for number, writer in enumerate(writers):
            writer.thread.join(120)
            assert not writer.thread.is_alive(), f"{writer.name} hangs"
            if writer.failure is not None:
                raise writer.failure
            assert not writer.cut or number % self._processes in victims, f"{writer.name} lost a server that lives"
            self.totals.calls += writer.calls

    def _audit(self, chosen: random.Random) -> None:
        collect = self.totals.rounds % COLLECT_EVERY == 0
        with Store.open(self.directory, create=False) as store:
            found = audit.inspect(store, self._ledger, self._seen, chosen, collect=collect)
        self.totals.took_effect += found.took_effect
        self.totals.had_none += found.had_none
        self.totals.orphans += found.orphans
        self.totals.staging += found.staging

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.forget()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--dir", type=Path, help="where to put the store; default: a temporary directory")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.processes} server processes", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="gestalt-cas-kills-", dir=options.dir) as place,
        Campaign(Path(place) / "store", options.seed, options.processes) as campaign,
    ):
        started = time.monotonic()
        while campaign.totals.rounds < options.rounds:
            campaign.round()
            if campaign.totals.rounds % 25 == 0 or campaign.totals.rounds == options.rounds:
                print(f"{campaign.totals} ({time.monotonic() - started:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
