"""The n-th operation of the disk fails, for every n until the call passes untouched; then the fault is lifted.

    python -m faults.sweep DIRECTORY CASE STRIDE SEED [KIND]
    python -m faults.sweep                                      jobs from standard input, see `serve`

With a stride only every so many-th point is tried, from one that the seed chooses. Every kind of fault is tried, once
and for a while. Runs under the preloaded library (crash/shim.py), which counts and fails what happens below DIRECTORY.
Each point runs in a fork, so that imports are paid once. Prints a line for each: how the call ended. What is judged:

- the call ends as done, refused, or OutcomeUnknown, the latter only when the disk failed the database; never with
  anything but a StoreError;
- done is there, refused is not, unknown is there whole or not at all; also after the store was opened again;
- while the fault stays, further calls end in order, too; once it is gone the next ones work, among them the same again;
- nothing half-done stays: no staging file after cleaning up, no row without its payload, no open file, no counted byte.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import forking
import kill_points
from crash.shim import Fault, Faults
from faults.cases import Case, Turn
from faults.catalogue import CASES
from gestalt_cas import Store
from gestalt_cas.errors import OutcomeUnknown, StoreError
from gestalt_cas.files import reserve
from storage import body, key, put, rows, staged

DONE, REFUSED, UNKNOWN, UNTOUCHED = "done", "refused", "unknown", "untouched"
TROUBLES_COMMIT = {Fault.EIO, Fault.FAILED_SYNC, Fault.ENOSPC, Fault.EINTR}
"""What may leave a COMMIT open: a sync that says that the disk is full, or was interrupted, has failed to SQLite."""
_SYNC_OF_SQLITE = "disk I/O error"
"""What SQLite makes of an interrupted sync; all else is tried again by it or by Python."""
MOST_POINTS = 5000


def sweep(directory: Path, name: str, kind: Fault, *, sticky: bool, first: int, stride: int) -> None:
    """All points of one case, from the first on."""
    number = first
    while True:
        ended = _point(directory, name, kind, sticky, number)
        print(f"{name}, {kind.name}{' from' if sticky else ' at'} {number}: {ended}", flush=True)
        if ended.startswith(UNTOUCHED):
            return
        assert number < MOST_POINTS
        number += stride


def _point(directory: Path, name: str, kind: Fault, sticky: bool, number: int) -> str:
    turn = Turn(directory / "store", f"{kind.name} {sticky} {number:04}")  # no name begins another one
    reader, writer = os.pipe()

    def work() -> None:
        os.write(writer, Point(CASES[name], turn, kind, sticky).run(number).encode())

    kill_points.in_fork(work)
    os.close(writer)
    ended = os.read(reader, 1000).decode()
    os.close(reader)
    if turn.beside.exists():
        shutil.rmtree(turn.beside)
    return ended


class Point:
    """One call with one fault. Runs in a process of its own."""

    def __init__(self, case: Case, turn: Turn, kind: Fault, sticky: bool) -> None:
        self._case = case
        self._turn = turn
        self._kind = kind
        self._sticky = sticky
        self._faults = Faults()

    def run(self, number: int) -> str:
        """How the call ended, and by which error; "untouched" when it made fewer than `number` fitting operations."""
        with Store.open(self._turn.directory) as store:
            self._case.prepare(store, self._turn)
            put(store, "probe", b"probe")
            open_before = _open_payloads()
            with self._faults.armed(number, self._kind, sticky=self._sticky):
                ended, error = self._attempt(store)
                fired = self._faults.fired
                if self._sticky and fired:
                    self._go_on(store)
            if not fired:
                assert ended == DONE, f"failed without a fault: {error}"
                return UNTOUCHED
            self._judge(store, ended, error)
            present = self._case.there(store, self._turn)
            self._works_again(store, present)
            present = self._case.there(store, self._turn)
            _sound(store)
            assert _open_payloads() == open_before, "files of payloads stay open"
        with Store.open(self._turn.directory) as store:
            assert self._case.there(store, self._turn) == present, "opening the store again changed what is there"
            _sound(store)
        return f"{ended} {error}".strip()

    def _attempt(self, store: Store) -> tuple[str, str]:
        try:
            self._case.call(store, self._turn)
        except OutcomeUnknown as error:
            return UNKNOWN, f"{type(error).__name__}: {error}"
        except StoreError as error:
            return REFUSED, f"{type(error).__name__}: {error}"
        return DONE, ""

    def _go_on(self, store: Store) -> None:
        """While the disk goes on failing, whatever else is asked ends in order."""
        for call in (
            lambda: body(store, "probe"),
            lambda: put(store, f"during {self._turn.name}", b"during"),
            lambda: store.delete(key(f"during {self._turn.name}")),
        ):
            with suppress(StoreError):
                call()
        with suppress(StoreError, OSError):  # as its caller does
            store.maintain()

    def _judge(self, store: Store, ended: str, error: str) -> None:
        assert ended == DONE or self._kind is not Fault.SHORT_WRITE, f"a short write showed: {error}"
        assert ended == DONE or self._kind is not Fault.EINTR or _SYNC_OF_SQLITE in error, f"EINTR showed: {error}"
        if ended == UNKNOWN:
            assert self._kind in TROUBLES_COMMIT, error
            return
        there = self._case.there(store, self._turn)
        if not self._case.in_steps:
            assert there == (ended == DONE) or self._case.changes_nothing, f"{ended}, and there is {there}; {error}"

    def _works_again(self, store: Store, present: bool) -> None:
        """The fault is gone: the same call works, and so do others; the store calls itself healthy."""
        if not present or self._case.changes_nothing:
            (self._case.again or self._case.call)(store, self._turn)
            assert self._case.there(store, self._turn)
        put(store, f"next {self._turn.name}", b"next")
        assert body(store, f"next {self._turn.name}") == b"next"
        assert body(store, "probe") == b"probe"
        store.maintain()
        assert store.health() == ""


def _sound(store: Store) -> None:
    """Nothing half-done, once leftovers are cleaned up."""
    store.clean_staging()
    assert staged(store) == [], "left in staging"
    assert store._blobs.staging.budget._taken == 0, "bytes of finished uploads still count"
    assert rows(store, "PRAGMA integrity_check") == [("ok",)]
    columns = "v.digest, v.size, b.size, b.place, length(i.data)"
    joined = "versions v LEFT JOIN blobs b USING (digest) LEFT JOIN inlined i ON i.id = b.place"
    for digest, size, kept, place, stored in rows(store, f"SELECT DISTINCT {columns} FROM {joined}"):
        if digest is not None:
            assert kept == size, "a version without a sound row for its payload"
        if place:
            assert stored == size, "a row without its payload"
        elif digest is not None:
            path = store.directory / "blobs" / digest.hex()[:2] / digest.hex()
            assert path.stat().st_size == size, "a row without its payload"


def _open_payloads() -> list[str]:
    """Descriptors of staging files, payloads and directories; the database's and the locks' come and go."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if "/staging" in target or "/blobs" in target:
            found.append(target)
    return sorted(found)


def run(directory: str, name: str, stride: str, seed: str, *kinds: str) -> None:
    """Sweep one case."""
    reserve._LARGEST = 1 << 16  # it is made and given back at every point
    kill_points.in_fork(lambda: Store.open(f"{directory}/store").close())
    for kind in [Fault[kind] for kind in kinds] or list(Fault):
        for sticky in (False, True):
            if sticky and kind is Fault.EINTR:
                continue  # Python and SQLite would try again for ever
            first = random.Random(f"{seed} {name} {kind.name} {sticky}").randint(1, int(stride))
            sweep(Path(directory), name, kind, sticky=sticky, first=first, stride=int(stride))


def serve() -> None:
    """Do jobs in forks, since what is imported first takes longer than most of them.

    A job is a line with the JSON list of a file's name and the words of a command line; what the job prints, errors
    included, goes into the file. Each is answered by a line with the exit status.
    """
    for line in sys.stdin:
        output, *words = json.loads(line)
        print(forking.ended(forking.start(partial(_run_into, output, words))), flush=True)


def _run_into(output: str, words: list[str]) -> None:
    with open(output, "w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    run(*words)


if __name__ == "__main__":
    run(*sys.argv[1:]) if sys.argv[1:] else serve()
