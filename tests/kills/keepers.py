"""Keepers: processes on the directory itself that change many keys at once, and go back in time.

Each thread of one has the keys below a prefix of its own and makes batches, rollbacks and snapshots there, as the
command line does. What it asks and what it is told it writes into a log, so that the campaign can follow when it was
killed. Which changes it makes follows from its seed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from gestalt_cas import ObjectKey, Store
from kills.groups import Group, GroupChange
from kills.versions import Lost
from kills.writers import digest_of, payload
from wire.process import START_SECONDS

BUCKET = "default"
KEYS = 5
MOST_VERSIONS, MOST_SNAPSHOTS = 8, 3
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["kills.keepers"])


class Keeper:
    """A process of keepers under the campaign's control, from its first change on.

    `finish` brings the groups up to what its log tells.
    """

    def __init__(self, directory: Path, log: Path, groups: Sequence[Group], seed: str) -> None:
        self._groups = {group.prefix: group for group in groups}
        self._log = log
        self._log.write_bytes(b"")
        ours, theirs = _FORKS.Pipe()
        self._over = ours
        self._process = _FORKS.Process(target=keep, args=(directory, log, list(groups), seed, theirs))
        self._process.start()
        theirs.close()
        if not self._over.poll(START_SECONDS):
            self._process.kill()
            raise AssertionError("a keeper does not begin")

    def kill(self) -> None:
        self._process.kill()

    def finish(self) -> int:
        """Wait for its end, which is told here; returns how many changes were answered. Raises what it ran into."""
        self._over.close()
        self._process.join(120)
        if self._process.is_alive():
            self._process.kill()
            raise AssertionError("a keeper hangs")
        answered = 0
        for line in self._log.read_text().splitlines():
            record = json.loads(line)
            if "failure" in record:
                raise Lost(record["failure"])
            answered += self._groups[record.pop("prefix")].follow(**record)
        if self._process.exitcode not in (0, -9):
            raise Lost(f"a keeper ended with {self._process.exitcode}")
        return answered


def keep(directory: Path, log: Path, groups: Sequence[Group], seed: str, over: Connection) -> None:
    """What the process does, until the other end of `over` is closed."""
    fd = os.open(log, os.O_WRONLY | os.O_APPEND)
    begun, ended = threading.Event(), threading.Event()
    with Store.open(directory, create=False) as store:
        ones = [_One(store, fd, group, f"{seed} {group.prefix}", begun, ended) for group in groups]
        threads = [threading.Thread(target=one.run) for one in ones]
        for thread in threads:
            thread.start()
        begun.wait()
        over.send("begun")
        while not over.poll(0.05) and any(thread.is_alive() for thread in threads):
            pass  # the other end says nothing: it is readable when it has been closed
        ended.set()
        for thread in threads:
            thread.join()


class _One:
    """One thread with one group of keys."""

    def __init__(
        self, store: Store, log: int, group: Group, seed: str, begun: threading.Event, ended: threading.Event
    ) -> None:
        self._store = store
        self._log = log
        self._group = group
        self._seed = seed
        self._random = random.Random(seed)
        self._begun = begun
        self._ended = ended
        self._keys = [f"{group.prefix}{number}" for number in range(KEYS)]

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                turns = [self._batch, self._roll_back, self._snapshot, self._forget, self._remember]
                self._random.choices(turns, [50, 20, 10, 8, 12])[0]()
        except BaseException:  # noqa: BLE001 - for the campaign to show
            self._tell(failure=traceback.format_exc())
            self._begun.set()

    def _tell(self, **record: object) -> None:
        """In one write, so that a kill tears none apart."""
        os.write(self._log, f"{json.dumps({'prefix': self._group.prefix, **record})}\n".encode())

    def _begin(self, change: GroupChange) -> None:
        self._group.follow(begun=change.plain())
        self._tell(begun=change.plain())

    def _answered(self, version_ids: Sequence[str] = ()) -> None:
        self._group.follow(answered=list(version_ids))
        self._tell(answered=list(version_ids))
        self._begun.set()

    # ---- turns ----

    def _batch(self) -> None:
        adds: list[tuple[str, str]] = []
        bodies: list[bytes | None] = []
        for _ in range(self._random.randint(2, 6)):
            body = self._body() if self._random.random() < 0.75 else None
            adds.append((self._random.choice(self._keys), digest_of(body) if body is not None else ""))
            bodies.append(body)
        change = GroupChange(adds=tuple(adds), removes=tuple(self._too_many()))
        self._begin(change)
        with self._store.transaction() as changes:
            for name, version_id in change.removes:
                changes.delete(ObjectKey(BUCKET, name), version_id=version_id)
            for (name, _), body in zip(adds, bodies, strict=True):
                if body is None:
                    changes.delete(ObjectKey(BUCKET, name))
                else:
                    changes.put(ObjectKey(BUCKET, name), [body])
            made = [one.version for one in changes.commit()[len(change.removes) :]]
        self._answered([version.version_id if version is not None else "" for version in made])

    def _body(self) -> bytes:
        if self._random.random() < 0.4:
            return payload(f"common {self._random.randrange(12)}")
        return payload(f"{self._seed} {self._random.random()}")

    def _too_many(self) -> Iterator[tuple[str, str]]:
        """Some of the versions of keys that have many, for good; perhaps what a snapshot shows, or a current one."""
        for name in self._keys:
            known = [version.version_id for version in self._group.versions.get(name, ()) if version.version_id]
            if len(known) > MOST_VERSIONS:
                yield from ((name, one) for one in self._random.sample(known, 3))

    def _roll_back(self) -> None:
        then = [*self._group.moments.items(), *self._group.snapshots.items()]
        if not then:
            self._remember()
            return
        to, wanted = self._random.choice(then)
        change = GroupChange(adds=tuple(self._group.way_back(wanted)))
        self._begin(change)
        done = self._store.rollback(BUCKET, self._group.prefix, to=to)
        if done.keys != len(change.adds):
            raise Lost(f"rolling back to {to} changed {list(done.steps())}, not {change.adds}")
        self._answered([""] * len(change.adds))

    def _snapshot(self) -> None:
        if len(self._group.snapshots) == MOST_SNAPSHOTS:
            self._forget()
            return
        name = self._group.new_name(self._random.randrange(1 << 40))
        self._begin(GroupChange(makes=name))
        whole = self._random.random() < 0.3
        self._store.create_snapshot(name, BUCKET, "" if whole else self._group.prefix)
        self._answered()

    def _forget(self) -> None:
        if not self._group.snapshots:
            self._snapshot()
            return
        name = self._random.choice(sorted(self._group.snapshots))
        self._begin(GroupChange(forgets=name))
        self._store.delete_snapshot(name)
        self._answered()

    def _remember(self) -> None:
        """Name the present by its sequence; what others do meanwhile is below other prefixes."""
        seq = str(self._store.moment().seq)
        self._group.follow(remembered=seq)
        self._tell(remembered=seq)
