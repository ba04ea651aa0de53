"""The work that is recorded: real processes on a real store, one entry of WORKLOADS each.

A workload may prepare the directory first; that part is not recorded and counts as durable. What it then does through a
Session is marked in the log, before the call and after its answer, in a form from which `judgement.py` can tell what a
crash at any point has to leave. To add one: write a function that takes a Session, and put `@workload(...)` on it.

`recorder.py` runs them under the shim. A workload forks where it needs several processes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

import before_forks
from gestalt_cas import (
    Conditions,
    Headers,
    ObjectKey,
    ObjectVersion,
    Store,
    blobs,
    horizons,
    keys,
    releases,
    retention_runs,
    schema,
    sqlite,
    upkeep,
)
from gestalt_cas import upgrade as upgrades
from gestalt_cas.backups.restoring import restore
from gestalt_cas.checks.findings import Subset
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import ClockSuspect, Damage, PreconditionFailed
from gestalt_cas.layout import FAN_OUT, Layout
from gestalt_cas.objects import ListQuery

before_forks.make_ready()

BUCKET, BACKUP = "bucket", "backup"
SMALL, MEDIUM, LARGE = ("small", 700), ("medium", 20_000), ("large", (1 << 20) + 300_000)
"""Payloads by name and size; LARGE has two chunks."""
Payload = tuple[str, int]
INLINE = "blobs.inlineMaxBytes"


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    run: Callable[[Session], None]
    prepare: Callable[[Path], None] | None
    place: str
    """Where the store is below the recorded root."""


WORKLOADS: dict[str, Workload] = {}


def workload(
    *, prepare: Callable[[Path], None] | None = None, place: str = "store"
) -> Callable[[Callable[[Session], None]], Callable[[Session], None]]:
    def add(run: Callable[[Session], None]) -> Callable[[Session], None]:
        name = run.__name__.replace("_", "-")
        WORKLOADS[name] = Workload(name, run, prepare, place)
        return run

    return add


def bytes_of(payload: Payload) -> bytes:
    name, size = payload
    return random.Random(name).randbytes(size)


def pieces_of(payload: Payload) -> list[bytes]:
    data = bytes_of(payload)
    return [data[start : start + 100_000] for start in range(0, len(data), 100_000)]


@dataclass
class Session:
    """A recorded process's way to call the store: each call is marked before it begins and after its answer."""

    root: Path
    directory: Path
    mark: Callable[[str], None]
    _calls: int = field(default=0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, kind: str, act: Callable[[], Any], **what: Any) -> Any:
        """Mark and make a call whose answer is a JSON value or an ObjectVersion."""
        with self._lock:  # the numbers are in the order of the marks
            self._calls += 1
            number = f"{os.getpid()}.{self._calls}"
            self.mark(json.dumps({"begin": number, "kind": kind, **what}))
        answer = act()
        self.mark(json.dumps({"answered": number, "answer": _plain(answer)}))
        return answer

    def open(self, **settings: str | int) -> Store:
        def open_it() -> None:
            _left_open.append(Store.open(self.directory, settings=settings))

        self.call("open", open_it, settings=settings)
        return _left_open[-1]

    def put(
        self, store: Store, key: str, payload: Payload, hold: Callable[[], None] | None = None, **metadata: str
    ) -> ObjectVersion:
        def write() -> ObjectVersion:
            return store.write(
                ObjectKey(BUCKET, key),
                pieces_of(payload),
                headers=Headers(content_type="text/plain"),
                metadata=metadata,
                confirm=hold,
            )

        found: ObjectVersion = self.call("put", write, key=key, payload=payload, metadata=metadata)
        return found

    def copy(self, store: Store, source: str, target: str) -> ObjectVersion:
        def copy() -> ObjectVersion:
            return store.copy(ObjectKey(BUCKET, source), ObjectKey(BUCKET, target))

        found: ObjectVersion = self.call("copy", copy, source=source, key=target)
        return found

    def delete(self, store: Store, key: str) -> None:
        self.call("delete", lambda: store.delete(ObjectKey(BUCKET, key)), key=key)

    def batch(self, store: Store, *calls: Mapping[str, Any]) -> None:
        """Puts, copies and deletes in one transaction: after a crash all of them are there or none."""

        def commit() -> list[Any]:
            with store.transaction() as changes:
                for call in calls:
                    key = ObjectKey(BUCKET, call["key"])
                    if call["kind"] == "put":
                        headers = Headers(content_type="text/plain")
                        changes.put(key, pieces_of(call["payload"]), headers=headers, metadata=call["metadata"])
                    elif call["kind"] == "copy":
                        changes.copy(ObjectKey(BUCKET, call["source"]), key)
                    else:
                        changes.delete(key)
                return [change.version for change in changes.commit()]

        self.call("batch", commit, calls=calls)

    def remember(self, store: Store) -> int:
        """The present moment, to which `roll_back` may be asked to go."""
        seq: int = self.call("remember", lambda: store.moment().seq)
        return seq

    def roll_back(self, store: Store, to: int, prefix: str = "") -> None:
        """In one transaction: after a crash every key below the prefix is as it was then, or none is touched."""

        def roll_back() -> list[ObjectVersion]:
            done = store.rollback(BUCKET, prefix, to=str(to))
            pages = [store.list_versions(ListQuery(BUCKET, prefix=one.key.key), only_key=True) for one in done.steps()]
            return [page.versions[0] for page in pages]

        self.call("rollback", roll_back, to=to, prefix=prefix)

    def remove(self, store: Store, version: ObjectVersion) -> None:
        name, wanted = version.key.key, version.version_id
        self.call("remove", lambda: store.delete(version.key, version_id=wanted), key=name, version_id=wanted)

    def change(self, store: Store, **settings: str | int) -> None:
        self.call("change", lambda: store.change_settings(settings).by_name(), settings=settings)

    def inline(self, store: Store, most: int) -> None:
        self.change(store, **{INLINE: most})

    def together(self, store: Store, writes: Sequence[tuple[str, Payload]], *, refuse: bool = False) -> None:
        """Write from as many threads at once: all but the first share a COMMIT.

        The first holds its transaction open until the others wait for the next; keys differ, so that it does not matter
        in which order they come. With `refuse` one more is refused in that COMMIT, since by then the first has made its
        key; it is not marked, as it has no effect whatever happens.
        """
        committer, asked, holding = store._database._committer, iter([False, True]), threading.Event()

        def hold() -> None:
            if next(asked):  # in its transaction, which takes nobody in any more
                holding.set()
                until(lambda: len(committer._waiting) == len(writes) - 1 + refuse)

        def write(number: int) -> None:
            key, payload = writes[number]
            self.put(store, key, payload, hold=None if number else hold)

        def be_refused() -> None:
            try:
                store.write(ObjectKey(BUCKET, writes[0][0]), [b"lost"], conditions=Conditions(if_none_match="*"))
            except PreconditionFailed:
                return
            raise AssertionError(f"{writes[0][0]} exists and was written")

        with ThreadPoolExecutor(len(writes) + 1) as pool:
            first = pool.submit(write, 0)
            until(lambda: holding.is_set() or first.done())
            others = [pool.submit(write, number) for number in range(1, len(writes))]
            if refuse:
                others.append(pool.submit(be_refused))
            for done in (first, *others):
                done.result()

    def rot_row(self, store: Store, payload: Payload) -> None:
        """Flip a bit of the payload in its row, durably."""
        self.mark(json.dumps({"rotten": payload}))
        data = bytes_of(payload)
        digest = blake3(data).digest()
        with store._database.write() as tx:
            wrong = bytes([data[0] ^ 1]) + data[1:]
            changed = tx.execute(
                "UPDATE inlined SET data = ? WHERE id = (SELECT place FROM blobs WHERE digest = ?)", (wrong, digest)
            )
            assert changed.rowcount == 1

    def purge(self, store: Store, key: str) -> None:
        self.call("purge", lambda: store.purge(ObjectKey(BUCKET, key)).files, key=key)

    def undelete(self, store: Store, key: str) -> None:
        self.call("undelete", lambda: store.undelete(ObjectKey(BUCKET, key)).seq, key=key)

    def bring_back(self, store: Store, version: ObjectVersion) -> ObjectVersion:
        key, wanted = version.key, version.version_id
        found: ObjectVersion = self.call(
            "bring back", lambda: store.restore_version(key, wanted), key=key.key, version_id=wanted
        )
        return found

    def gc(self, store: Store) -> None:
        self.call("gc", lambda: store.collect_garbage().files)

    def snapshot(self, store: Store, name: str, prefix: str = "") -> None:
        self.call("snapshot", lambda: store.create_snapshot(name, BUCKET, prefix).seq, name=name, prefix=prefix)

    def forget_snapshot(self, store: Store, name: str) -> None:
        self.call("forget snapshot", lambda: store.delete_snapshot(name), name=name)

    def retain(self, store: Store, going: Sequence[tuple[str, str]] = (), forgotten: int = 0) -> None:
        """Apply the store's rules, a version in each transaction; `going` has what they remove, in that order.

        Then the history forgets so many versions. Each is marked as a call of its own, since a crash may come between
        any two.
        """
        removals = [{"kind": "remove", "key": key, "version_id": version_id} for key, version_id in going]
        coming = iter([*removals, *([{"kind": "forget"}] * forgotten)])
        done: dict[str, int] = {}
        number = ""

        def told(what: str, count: int, _total: int) -> None:
            if count > done.get(what, 0):
                done[what] = count
                self.mark(json.dumps({"answered": number, "answer": None}))
                begin()

        def begin() -> None:
            nonlocal number
            following = next(coming, None)
            number = ""
            if following is not None:
                self._calls += 1
                number = f"{os.getpid()}.{self._calls}"
                self.mark(json.dumps({"begin": number, **following}))

        begin()
        assert store.apply_retention(progress=told).anything
        assert not number, "not all of it went"

    def checkpoint(self, store: Store, *, restart: bool = False) -> None:
        assert store._database.checkpoint(restart=restart)

    def rot(self, store: Store, payload: Payload) -> None:
        """Flip a bit of the payload on the disk itself, durably, and have a reader find it."""
        path = store._blobs.path(blake3(bytes_of(payload)).digest())
        self.mark(json.dumps({"rotten": payload}))
        path.chmod(0o600)
        fd = os.open(path, os.O_RDWR)
        first = os.pread(fd, 1, 0)
        os.pwrite(fd, bytes([first[0] ^ 1]), 0)
        os.fsync(fd)
        os.close(fd)
        path.chmod(0o400)

    def take_away(self, store: Store, payload: Payload) -> None:
        """Remove the payload's file behind the store's back, durably."""
        self.mark(json.dumps({"rotten": payload}))
        path = store._blobs.path(blake3(bytes_of(payload)).digest())
        path.unlink()
        fd = os.open(path.parent, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    def find_damage(self, store: Store, key: str) -> None:
        try:
            with store.read(ObjectKey(BUCKET, key)) as reader:
                reader.read()
        except Damage:
            return
        raise AssertionError(f"{key} is damaged and was served")

    def in_process(self, work: Callable[[], None], expect: int = 0) -> None:
        """Do the work in a process of its own and wait for its end."""
        self._wait(self._start(work), expect)

    def side_by_side(self, *works: Callable[[], None]) -> None:
        """Do each in a process of its own, at the same time."""
        for pid in [self._start(work) for work in works]:
            self._wait(pid, 0)

    def _start(self, work: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
        return pid

    def _wait(self, pid: int, expect: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == expect, f"a forked process ended with {code}"


def until(condition: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not come to that")


def _plain(answer: Any) -> Any:
    if isinstance(answer, ObjectVersion):
        return {"version_id": answer.version_id, "seq": answer.seq, "modified_ms": answer.modified_ms}
    return [_plain(one) for one in answer] if isinstance(answer, list) else answer


_left_open: list[Store] = []
"""A store that nothing refers to would close its database."""


def has_objects(name: str) -> bool:
    """Whether the workload begins with the objects of PREPARED."""
    return WORKLOADS[name].prepare not in (None, an_empty_store, a_store_without_directories, a_backup)


# Preparations


def an_empty_store(directory: Path) -> None:
    Store.open(directory).close()


def a_store_with_objects(directory: Path) -> None:
    """Not marked, so the judgement takes it from here: `PREPARED`."""
    with Store.open(directory) as opened:
        for key, payloads in PREPARED.items():
            for payload in payloads:
                opened.write(ObjectKey(BUCKET, key), pieces_of(payload))


PREPARED: Mapping[str, list[Payload]] = {"old": [("old one", 300), ("old two", 9000)], "kept": [("kept", 1000)]}


def a_store_without_directories(directory: Path) -> None:
    """As a copy of a running one that leaves out empty directories: with a WAL, for which SQLite syncs no directory."""
    opened = Store.open(directory)
    opened.change_settings({"versioning": "suspended"})
    _left_open.append(opened)
    shutil.rmtree(directory / "blobs")
    shutil.rmtree(directory / "staging")


def a_store_with_a_quarantine(directory: Path) -> None:
    """As check leaves one that set a damaged payload aside; the payload was healed since."""
    a_store_with_objects(directory)
    aside = directory / "quarantine"
    aside.mkdir(0o700)
    name = blake3(bytes_of(PREPARED["old"][0])).hexdigest()
    (aside / f"{name}.1700000000000").write_bytes(bytes_of(PREPARED["old"][0])[:100])
    (aside / f"{name}.1700000000000.json").write_text("{}")


def a_backup(directory: Path) -> None:
    """A backup with keys, of a store that is then gone."""
    source = directory.with_name("source")
    a_store_with_objects(source)
    keys.create(source / "keys.json")
    with Store.open(source) as opened:
        opened.back_up(directory.with_name(BACKUP), with_keys=True)
    shutil.rmtree(source)


def a_store_of_the_first_format(directory: Path) -> None:
    """One as the first release left it: what later revisions added is taken away again."""
    a_store_with_objects(directory)
    connection = sqlite.driver.connect(directory / "metadata.sqlite3", isolation_level=None)
    for table in set(schema.metadata.tables) - {"versions", "current", "blobs", "settings", "counter", "pins"}:
        connection.execute(f"DROP TABLE {table}")
    for index in ("versions_by_seq", "versions_gone", "versions_kept"):
        connection.execute(f"DROP INDEX {index}")
    connection.execute("ALTER TABLE versions DROP COLUMN gone_digest")
    connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.execute("PRAGMA user_version=1")
    connection.close()


# Work


@workload(place="new/nested/store")
def create(session: Session) -> None:
    """A store made in directories that do not exist yet, and used at once."""
    with session.open(versioning="suspended") as opened:
        session.put(opened, "a", SMALL)


@workload()
def create_in_a_new_directory(session: Session) -> None:
    """The directory itself was just made by somebody else, who did not sync it."""
    session.directory.mkdir()
    with session.open() as opened:
        session.put(opened, "a", SMALL)


@workload(place="new/nested/store")
def the_tree_alone(session: Session) -> None:
    """Whoever is given the tree relies on it, before there is a database whose commits sync the directory as well."""
    names = ["blobs", *(f"blobs/{name}" for name in FAN_OUT), "staging"]
    session.call("names", Layout(session.directory).make, names=names)


@workload()
def the_empty_database_alone(session: Session) -> None:
    session.directory.mkdir()
    layout = Layout(session.directory)
    layout.make()
    session.call("names", lambda: upgrades._make_empty_database(layout), names=["metadata.sqlite3"])


@workload(prepare=a_store_without_directories)
def completing(session: Session) -> None:
    """Opening makes the directories that are missing."""
    with session.open() as opened:
        session.put(opened, "a", SMALL)


@workload(prepare=an_empty_store)
def uploads(session: Session) -> None:
    with session.open() as opened:
        session.put(opened, "a", SMALL, color="red")
        session.put(opened, "b", LARGE)
        session.put(opened, "c", ("empty", 0))


@workload(prepare=a_store_with_objects)
def overwrites(session: Session) -> None:
    with session.open() as opened:
        session.put(opened, "old", SMALL)
        session.put(opened, "old", MEDIUM)
        session.put(opened, "old", SMALL)


@workload(prepare=a_store_with_objects)
def copies(session: Session) -> None:
    with session.open() as opened:
        session.copy(opened, "old", "a")
        session.put(opened, "b", SMALL)
        session.copy(opened, "b", "a")
        session.copy(opened, "b", "b")


@workload(prepare=a_store_with_objects)
def deletes(session: Session) -> None:
    with session.open() as opened:
        session.delete(opened, "old")
        first = session.put(opened, "a", SMALL)
        second = session.put(opened, "a", MEDIUM)
        session.remove(opened, second)
        session.delete(opened, "a")
        session.remove(opened, first)
        session.delete(opened, "never")


def _put(key: str, payload: Payload, **metadata: str) -> dict[str, Any]:
    return {"kind": "put", "key": key, "payload": payload, "metadata": metadata}


@workload(prepare=a_store_with_objects)
def batches(session: Session) -> None:
    """Files and rows of the database, a key twice, and what was taken in for nothing."""
    with session.open() as opened:
        session.batch(
            opened,
            _put("a", SMALL, by="me"),
            {"kind": "copy", "source": "old", "key": "b"},
            {"kind": "delete", "key": "old"},
            _put("a", MEDIUM),
        )
        session.inline(opened, 4096)
        session.batch(opened, _put("c", SMALL), _put("d", ("new and small", 300)), {"kind": "delete", "key": "b"})
        given_up = opened.transaction()
        given_up.put(ObjectKey(BUCKET, "e"), [b"for nothing"])
        given_up.close()
        opened.collect_garbage()
        session.put(opened, "a", SMALL)


@workload(prepare=a_store_with_objects)
def rollback(session: Session) -> None:
    """Back, forth, back below a prefix, and back with versioning suspended; payloads that are files and rows."""
    with session.open() as opened:
        first = session.remember(opened)
        session.put(opened, "a", SMALL, by="me")
        session.delete(opened, "kept")
        session.put(opened, "old", MEDIUM)
        session.inline(opened, 4096)
        session.put(opened, "old/below", ("new and small", 300))
        second = session.remember(opened)
        session.roll_back(opened, first)
        session.roll_back(opened, second)
        opened.collect_garbage()
        session.roll_back(opened, first, "old")
        session.change(opened, versioning="suspended")
        session.put(opened, "a", MEDIUM)
        session.put(opened, "b", SMALL)
        session.roll_back(opened, second)
        session.put(opened, "a", SMALL)


@workload(prepare=a_store_with_objects)
def dedup(session: Session) -> None:
    """The same bytes under several keys, and again after every version of them has gone."""
    with session.open() as opened:
        first = session.put(opened, "a", SMALL)
        second = session.put(opened, "b", SMALL)
        session.remove(opened, first)
        session.remove(opened, second)
        session.put(opened, "c", SMALL)
        session.put(opened, "d", ("kept", 1000))


def _one_row_at_a_time() -> None:
    """Have every transaction of a retention run change one row, so that a crash may come after each."""
    retention_runs.FIRST_BATCH_ROWS = retention_runs.BATCH_ROWS = horizons.BATCH_ROWS = releases.BATCH_ROWS = 1


@workload(prepare=a_store_with_objects)
def retention(session: Session) -> None:
    """What goes by rules, of files and of rows, with a snapshot that keeps some of it, and gc after it."""
    _one_row_at_a_time()
    with session.open() as opened:
        session.put(opened, "a", SMALL)
        session.remember(opened)
        made = [session.put(opened, "a", MEDIUM)]
        session.inline(opened, 4096)
        made += [session.put(opened, "a", ("row", 300)), session.put(opened, "a", ("row", 301))]
        first = opened.list_versions(ListQuery(BUCKET, prefix="a")).versions[-1]
        session.snapshot(opened, "now")
        session.put(opened, "a", ("last", 302))
        session.delete(opened, "marked")
        marker = opened.list_versions(ListQuery(BUCKET, prefix="marked")).versions[0]
        rule = {"keepNoncurrent": 0, "dropMarkers": True}
        opened.change_settings({"retention.rules": {f"{BUCKET}/a": rule, f"{BUCKET}/m": rule}})
        going = [first, *made, marker]
        session.retain(opened, [(version.key.key, version.version_id) for version in going])
        session.gc(opened)
        session.forget_snapshot(opened, "now")
        opened.collect_garbage()
        session.put(opened, "a", MEDIUM)


@workload(prepare=a_store_with_objects)
def snapshots(session: Session) -> None:
    """What two of them show goes in every way, is let go of when they go, and comes back as new versions."""
    _one_row_at_a_time()
    with session.open() as opened:
        first = session.put(opened, "a", SMALL, by="me")
        second = session.put(opened, "b", MEDIUM)
        session.delete(opened, "kept")
        session.snapshot(opened, "all")
        session.change(opened, versioning="suspended")
        session.put(opened, "a", ("null", 400))
        session.inline(opened, 4096)
        row = session.put(opened, "row", ("row", 300))
        session.remember(opened)
        session.snapshot(opened, "some", "row")
        session.put(opened, "row", ("another row", 301))
        session.put(opened, "a", ("null again", 401))
        session.remove(opened, second)
        session.undelete(opened, "kept")
        session.bring_back(opened, first)
        session.remove(opened, first)
        session.gc(opened)
        session.forget_snapshot(opened, "some")
        session.gc(opened)
        session.put(opened, "row", ("row", row.size))
        session.forget_snapshot(opened, "all")
        session.gc(opened)
        session.put(opened, "b", MEDIUM)


@workload(prepare=a_store_with_objects)
def aging(session: Session) -> None:
    """Weeks pass: the clock is accepted, an object expires, and the history forgets all but what a snapshot shows."""
    _one_row_at_a_time()
    with session.open() as opened:
        opened.set_quota(BUCKET, "", 1 << 22)
        first = session.put(opened, "a", SMALL)
        second = session.put(opened, "a", MEDIUM)
        other = session.put(opened, "b", SMALL)
        session.remember(opened)
        session.remove(opened, first)
        session.remember(opened)
        session.snapshot(opened, "b", "b")
        session.remove(opened, other)
        session.change(opened, versioning="suspended")
        session.put(opened, "b", ("null", 400))
        session.delete(opened, "b")
        session.remember(opened)
        session.change(opened, versioning="enabled")
        session.remove(opened, second)
        weeks = 40 * horizons.DAY_MS
        clock = retention_runs.now_ms
        retention_runs.now_ms = upkeep.now_ms = lambda: clock() + weeks
        with suppress(ClockSuspect):
            opened.apply_retention()
            raise AssertionError("a clock that is weeks ahead was not doubted")
        at_ms = clock() + weeks
        session.call("note", lambda: opened.accept_clock() or at_ms, name="clock.seen")
        session.retain(opened, forgotten=3)
        opened.change_settings({"retention.rules": {f"{BUCKET}/old": {"expireDays": 7}}})
        session.call("delete", lambda: opened.apply_retention() and None, key="old")
        session.remember(opened)
        session.forget_snapshot(opened, "b")
        session.gc(opened)
        session.retain(opened, forgotten=1)
        session.put(opened, "a", SMALL)


@workload(prepare=a_store_with_objects)
def suspended(session: Session) -> None:
    with session.open() as opened:
        session.put(opened, "a", SMALL)
        session.change(opened, versioning="suspended")
        session.put(opened, "a", MEDIUM)
        session.put(opened, "a", SMALL)
        session.delete(opened, "a")
        session.change(opened, versioning="enabled")
        session.put(opened, "a", MEDIUM)


@workload(prepare=an_empty_store)
def checkpoints(session: Session) -> None:
    """The WAL moved into the database, and begun anew, between and after commits."""
    with session.open() as opened:
        session.put(opened, "a", SMALL)
        session.checkpoint(opened)
        session.put(opened, "b", MEDIUM)
        session.checkpoint(opened, restart=True)
        session.put(opened, "a", MEDIUM)
        session.delete(opened, "b")
        session.checkpoint(opened, restart=True)
        session.put(opened, "c", SMALL)


@workload(prepare=an_empty_store)
def two_processes(session: Session) -> None:
    """One after the other; the first leaves without closing, so the second finds its WAL."""

    def first() -> None:
        opened = session.open()
        session.put(opened, "a", SMALL)
        session.put(opened, "b", MEDIUM)

    def second() -> None:
        with session.open() as opened:
            session.put(opened, "a", MEDIUM)
            session.put(opened, "c", SMALL)

    session.in_process(first)
    session.in_process(second)


@workload(prepare=a_store_with_objects)
def side_by_side(session: Session) -> None:
    """Two processes at the same time, with payloads in common and keys of their own; the second collects garbage."""

    def first() -> None:
        with session.open() as opened:
            for number in range(3):
                session.put(opened, f"a{number}", SMALL)
                session.put(opened, f"a{number}", ("common", 400 + number))

    def second() -> None:
        with session.open() as opened:
            for number in range(3):
                session.put(opened, f"b{number}", ("common", 400 + number))
                session.remove(opened, session.put(opened, f"b{number}", SMALL))
                session.gc(opened)

    session.side_by_side(first, second)


def _die_at_the_next_directory() -> None:
    """End this process, as kill -9 would, instead of syncing the next directory of a payload."""
    vars(blobs)["sync_directory"] = lambda path: os._exit(9)


def _dies_before_the_directory_is_synced(session: Session, payload: Payload) -> None:
    """Write the payload and end, as kill -9 would, when it has its name and its directory is not synced yet."""

    def write() -> None:
        opened = session.open()
        _die_at_the_next_directory()
        session.put(opened, "lost", payload)

    session.in_process(write, expect=9)


@workload(prepare=an_empty_store)
def writer_dies_between_link_and_sync(session: Session) -> None:
    """Another then writes the same bytes: it must not trust the name, which may not be on the disk."""
    _dies_before_the_directory_is_synced(session, SMALL)

    def same_bytes() -> None:
        with session.open() as opened:
            session.put(opened, "a", SMALL)
            session.put(opened, "b", SMALL)

    session.in_process(same_bytes)


@workload(prepare=a_store_with_objects)
def healer_dies_between_rename_and_sync(session: Session) -> None:
    """The payload was known to be damaged; its replacement is not synced when another writes the same bytes."""
    payload = PREPARED["kept"][0]
    with session.open() as opened:
        session.rot(opened, payload)
        session.find_damage(opened, "kept")
    _dies_before_the_directory_is_synced(session, payload)

    def same_bytes() -> None:
        with session.open() as opened:
            session.put(opened, "a", payload)

    session.in_process(same_bytes)


@workload(prepare=a_store_with_objects)
def healing(session: Session) -> None:
    """Damage is found by a read, and healed by an upload of the same bytes."""
    payload = PREPARED["kept"][0]
    with session.open() as opened:
        session.rot(opened, payload)
        session.find_damage(opened, "kept")
        session.put(opened, "a", payload)
        session.put(opened, "b", SMALL)


@workload(prepare=a_store_with_objects)
def healing_what_is_missing(session: Session) -> None:
    """A payload whose file has gone without anybody having noticed is written again, by two uploads in turn."""
    payload = PREPARED["kept"][0]
    with session.open() as opened:
        session.take_away(opened, payload)
        session.put(opened, "a", payload)
        session.put(opened, "b", payload)


@workload(prepare=a_store_with_objects)
def payload_goes_before_the_lock(session: Session) -> None:
    """It is there when an upload decides to trust it and gone when it has the lock; the upload is killed healing it."""
    payload = PREPARED["kept"][0]

    def is_killed() -> None:
        opened = session.open()
        publish = opened._payloads.publish

        def goes(staged: Any) -> bool:
            published = publish(staged)
            session.take_away(opened, payload)
            vars(opened._payloads)["publish"] = publish
            _die_at_the_next_directory()
            return published

        vars(opened._payloads)["publish"] = goes
        session.put(opened, "lost", payload)

    def same_bytes() -> None:
        with session.open() as opened:
            session.put(opened, "a", payload)

    session.in_process(is_killed, expect=9)
    session.in_process(same_bytes)


@workload(prepare=a_store_with_objects)
def cleaning(session: Session) -> None:
    """What a dead writer left in staging is removed; its bytes are then uploaded whole."""

    def ends_in_mid_stream() -> None:
        opened = session.open()

        def pieces() -> Any:
            yield bytes_of(MEDIUM)[:5000]
            os._exit(9)

        opened.write(ObjectKey(BUCKET, "lost"), pieces())

    session.in_process(ends_in_mid_stream, expect=9)
    with session.open() as opened:
        assert opened.clean_staging() == 1
        session.put(opened, "a", MEDIUM)


@workload(prepare=a_store_with_objects)
def garbage(session: Session) -> None:
    """Collected between removals, and what was collected is uploaded again."""

    def dies_before_commit() -> None:
        opened = session.open()
        opened._database.commit = lambda *_, **__: os._exit(9)  # type: ignore[method-assign]
        session.put(opened, "lost", MEDIUM)

    session.in_process(dies_before_commit, expect=9)
    with session.open() as opened:
        version = session.put(opened, "a", SMALL)
        session.remove(opened, version)
        session.gc(opened)
        session.put(opened, "b", SMALL)
        session.put(opened, "c", MEDIUM)
        session.gc(opened)


@workload(prepare=a_store_with_a_quarantine)
def purge(session: Session) -> None:
    """Bytes that must be gone when the call is answered; one of the payloads has another version."""
    with session.open() as opened:
        session.put(opened, "a", SMALL)
        session.put(opened, "a", MEDIUM)
        session.put(opened, "b", MEDIUM)
        session.purge(opened, "a")
        session.purge(opened, "old")
        session.put(opened, "c", SMALL)


@workload(prepare=a_store_with_objects)
def inlined(session: Session) -> None:
    """Payloads that are rows, beside those that are files; shared, copied, removed, collected, and written again."""
    with session.open(**{INLINE: 1000}) as opened:
        first = session.put(opened, "a", SMALL, color="red")
        session.put(opened, "b", MEDIUM)
        session.put(opened, "old", ("empty", 0))
        session.copy(opened, "a", "c")
        second = session.put(opened, "a", ("other", 900))
        session.checkpoint(opened, restart=True)
        session.remove(opened, second)
        session.gc(opened)
        session.put(opened, "d", ("other", 900))
        session.remove(opened, first)
        session.delete(opened, "c")


@workload(prepare=a_store_with_objects)
def thresholds(session: Session) -> None:
    """The threshold changes over the life of a store, and the same payloads come again at both of its values."""
    with session.open() as opened:
        first = session.put(opened, "a", SMALL)
        session.inline(opened, 30_000)
        session.put(opened, "b", SMALL)
        second = session.put(opened, "c", MEDIUM)
        session.put(opened, "d", ("kept", 1000))
        session.inline(opened, 0)
        session.put(opened, "e", MEDIUM)
        session.remove(opened, first)
        session.delete(opened, "b")
        session.remove(opened, second)
        session.gc(opened)
        session.inline(opened, 1000)
        session.put(opened, "f", SMALL)
        session.put(opened, "g", MEDIUM)


@workload(prepare=an_empty_store)
def places_change_hands(session: Session) -> None:
    """A payload that was a row is collected and comes back as a file, and the other way round."""
    with session.open(**{INLINE: 1000}) as opened:
        first = session.put(opened, "a", SMALL)
        session.remove(opened, first)
        session.gc(opened)
        session.inline(opened, 0)
        second = session.put(opened, "b", SMALL)
        session.remove(opened, second)
        session.gc(opened)
        session.inline(opened, 1000)
        session.put(opened, "c", SMALL)


@workload(prepare=an_empty_store)
def a_file_in_the_way_of_a_row(session: Session) -> None:
    """An upload published its payload and was killed before its row; the same bytes then become a row."""

    def dies_before_commit() -> None:
        opened = session.open()
        opened._database.commit = lambda *_, **__: os._exit(9)  # type: ignore[method-assign]
        session.put(opened, "lost", SMALL)

    session.in_process(dies_before_commit, expect=9)
    with session.open(**{INLINE: 1000}) as opened:
        session.put(opened, "a", SMALL)
        session.gc(opened)
        session.put(opened, "b", SMALL)


@workload(prepare=an_empty_store)
def inlined_healing(session: Session) -> None:
    """Damage of rows, healed by uploads that would be rows and by such that would be files."""
    with session.open(**{INLINE: 1000}) as opened:
        session.put(opened, "a", SMALL)
        session.put(opened, "b", ("other", 900))
        session.rot_row(opened, SMALL)
        session.find_damage(opened, "a")
        session.put(opened, "heals", SMALL)
        session.rot_row(opened, ("other", 900))
        session.find_damage(opened, "b")
        session.inline(opened, 0)
        session.put(opened, "heals too", ("other", 900))


@workload(prepare=an_empty_store)
def inlined_purge(session: Session) -> None:
    """Rows that must be gone when the call is answered; one of the payloads has another version."""
    with session.open(**{INLINE: 1000}) as opened:
        session.put(opened, "a", SMALL)
        session.put(opened, "a", ("other", 900))
        session.put(opened, "b", ("other", 900))
        session.purge(opened, "a")
        session.put(opened, "c", MEDIUM)


@workload(prepare=a_store_with_objects)
def many_writers(session: Session) -> None:
    """Several threads at once: files and rows, the same bytes twice, and one that is refused, in one COMMIT."""
    with session.open(**{INLINE: 1000}) as opened:
        writes = [("a", SMALL), ("b", ("other", 900)), ("c", MEDIUM), ("d", MEDIUM), ("e", ("other", 900))]
        session.together(opened, writes, refuse=True)
        session.checkpoint(opened, restart=True)
        session.together(opened, [("f", MEDIUM), ("b", SMALL), ("c", ("third", 100))], refuse=True)
        session.put(opened, "a", SMALL)


@workload(prepare=a_store_with_objects)
def many_writers_of_files(session: Session) -> None:
    """The same with every payload a file, in two processes after each other; the first leaves without closing."""

    def first() -> None:
        session.together(session.open(), [("a", SMALL), ("b", MEDIUM), ("c", MEDIUM), ("d", ("other", 900))])

    def second() -> None:
        with session.open(**{INLINE: 1000}) as opened:
            session.together(opened, [("e", SMALL), ("f", ("third", 100)), ("g", ("third", 100))], refuse=True)

    session.in_process(first)
    session.in_process(second)


@workload(prepare=a_store_with_objects)
def backups(session: Session) -> None:
    """Two into one directory: until the second is complete the first one is good."""
    dest = session.root / BACKUP
    session.call("keys", lambda: keys.create(session.directory / "keys.json").access_key_id)
    with session.open() as opened:
        session.call("backup", lambda: opened.back_up(dest, with_keys=True).versions, versions=3)
        session.put(opened, "a", SMALL)
        session.call("backup", lambda: opened.back_up(dest, with_keys=True).versions, versions=4)


@workload(prepare=a_backup, place="restored")
def restoring(session: Session) -> None:
    source = session.root / BACKUP
    session.call("restore", lambda: restore(source, session.directory).versions, objects=PREPARED)
    with session.open() as opened:
        session.put(opened, "a", SMALL)


@workload(prepare=a_store_with_objects)
def repair(session: Session) -> None:
    """A damaged payload is set aside; then, from a backup, its bytes are put back."""
    payload, options = PREPARED["kept"][0], CheckOptions(read_data=Subset(), repair=True)
    with session.open() as opened:
        session.rot(opened, payload)
        session.call("repair", lambda: opened.check(options) is not None, aside=payload)


@workload(prepare=an_empty_store)
def repair_of_a_row(session: Session) -> None:
    """What a damaged row holds is written down in quarantine; the row stays until the bytes come again."""
    options = CheckOptions(read_data=Subset(), repair=True)
    with session.open(**{INLINE: 1000}) as opened:
        session.put(opened, "a", SMALL)
        session.rot_row(opened, SMALL)
        session.call("keep", lambda: opened.check(options) is not None, kept=SMALL)
        session.put(opened, "heals", SMALL)


@workload(prepare=a_store_with_objects)
def repair_of_a_directory(session: Session) -> None:
    """A fan-out directory goes while the store is open; a repair makes it, and an upload uses it."""
    with session.open() as opened:
        path = opened._blobs.path(blake3(bytes_of(SMALL)).digest()).parent
        path.rmdir()
        fd = os.open(path.parent, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        assert opened.check(CheckOptions(repair=True)) is not None
        session.put(opened, "a", SMALL)


@workload(prepare=an_empty_store)
def signing_keys(session: Session) -> None:
    path = session.directory / "keys.json"
    session.call("keys", lambda: keys.create(path).access_key_id)
    session.call("keys", lambda: keys.rotate(path).access_key_id)


@workload(prepare=a_store_of_the_first_format)
def the_copy_aside_alone(session: Session) -> None:
    """The way back has to be there before the upgrade begins, whatever the upgrade's own commit would sync."""

    def copy() -> str:
        return upgrades.copy_aside(Layout(session.directory), "0001").name

    session.call("names", copy, names=["metadata.before-upgrade-from-0001.sqlite3"])


@workload(prepare=a_store_of_the_first_format)
def upgrade(session: Session) -> None:
    with session.open() as opened:
        session.put(opened, "a", SMALL)
