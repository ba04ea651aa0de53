"""The work that is recorded: real processes on a real store, one entry of WORKLOADS each.

A workload may have the directory prepared first (`preparing.py`). What it then does goes through a Session, so that it
is marked in the log. To add one: write a function that takes a Session, and put `@workload(...)` on it.

`recorder.py` runs them under the shim. A workload forks where it needs several processes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

import before_forks
from crash.preparing import (
    BACKUP,
    PREPARED,
    a_backup,
    a_store_of_the_first_format,
    a_store_with_a_quarantine,
    a_store_with_objects,
    a_store_without_directories,
    an_empty_store,
)
from crash.session import BUCKET, INLINE, Payload, Session, bytes_of
from gestalt_cas import ObjectKey, upkeep
from gestalt_cas.backups.restoring import restore
from gestalt_cas.checks.findings import Subset
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.clock import DAY_MS
from gestalt_cas.errors import ClockSuspect, Held
from gestalt_cas.files import blobs, keys
from gestalt_cas.files.layout import FAN_OUT, Layout
from gestalt_cas.formats import upgrade as upgrades
from gestalt_cas.objects import ListQuery
from gestalt_cas.removal import horizons, releases, retention_runs
from gestalt_cas.transactions import wal, wal_file

before_forks.make_ready()

SMALL, MEDIUM, LARGE = ("small", 700), ("medium", 20_000), ("large", (1 << 20) + 300_000)
"""Payloads by name and size; LARGE has two chunks."""


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


def has_objects(name: str) -> bool:
    """Whether the workload begins with the objects of PREPARED."""
    return WORKLOADS[name].prepare not in (None, an_empty_store, a_store_without_directories, a_backup)


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
def held(session: Session) -> None:
    """Holds are set and released beside what they refuse, and beside a quota that all of it counts in."""
    _one_row_at_a_time()
    with session.open() as opened:
        opened.set_quota(BUCKET, "", 1 << 22)
        first = session.put(opened, "a", SMALL)
        session.hold(opened, "a", first.version_id)
        second = session.put(opened, "a", MEDIUM)
        opened.change_settings({"retention.rules": {f"{BUCKET}/a": {"keepNoncurrent": 0}}})
        assert not opened.apply_retention().anything
        session.hold(opened, "k")
        for refused in (lambda: opened.purge(ObjectKey(BUCKET, "kept")), lambda: opened.purge(second.key)):
            with suppress(Held):
                refused()
                raise AssertionError("what is held was removed")
        session.delete(opened, "kept")
        session.release(opened, "a", first.version_id)
        session.retain(opened, [("a", first.version_id)])
        session.hold(opened, "a", second.version_id)
        session.release(opened, "k")
        session.purge(opened, "kept")
        session.gc(opened)
        session.release(opened, "a", second.version_id)
        session.remove(opened, second)
        opened.remove_quota(BUCKET, "")
        session.put(opened, "a", SMALL)


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
        weeks = 40 * DAY_MS
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


@workload(prepare=a_store_with_objects)
def room_in_the_wal(session: Session) -> None:
    """Commits over zeros, past them, over frames of an earlier round, and a server that appends meanwhile."""
    wal_file.ROOM_BYTES, wal_file._LEAST_FREE, wal_file._STEP, wal.PASSIVE_BYTES = 1 << 19, 1, bytes(1 << 17), 1
    with session.open() as opened:
        session.put(opened, "a", SMALL)
        appending = threading.Thread(target=opened._database._wal.file.keep_room)
        appending.start()
        session.put(opened, "b", MEDIUM)
        session.put(opened, "old", SMALL)
        appending.join()
        for number in range(6):
            session.put(opened, f"over/{number}", SMALL)
        opened.maintain()  # moves all pages, so that the next commit writes from the front
        session.put(opened, "c", MEDIUM)
        session.delete(opened, "a")
        session.checkpoint(opened, restart=True)
        session.put(opened, "d", SMALL)
        opened.maintain()
        session.put(opened, "old", MEDIUM)


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
