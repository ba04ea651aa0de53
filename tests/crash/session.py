"""How a recorded process calls the store: each call is marked in the log before it begins and after its answer.

The marks say what was asked and answered, in a form from which `expectations.py` can tell what was promised at any
point. Payloads are named, and made of their names, so that a mark can name one.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

import forking
from gestalt_cas import Conditions, Headers, ObjectKey, ObjectVersion, Store
from gestalt_cas.errors import Damage, PreconditionFailed
from gestalt_cas.objects import ListQuery

BUCKET = "bucket"
INLINE = "blobs.inlineMaxBytes"
Payload = tuple[str, int]
"""The name and size of a payload."""
left_open: list[Store] = []
"""A store that nothing refers to would close its database."""


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
            left_open.append(Store.open(self.directory, settings=settings))

        self.call("open", open_it, settings=settings)
        return left_open[-1]

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
            tx.execute(
                "UPDATE inlined SET data = ? WHERE id = (SELECT place FROM blobs WHERE digest = ?)", (wrong, digest)
            )
            assert tx.changes() == 1

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

    def hold(self, store: Store, prefix: str, version_id: str = "") -> None:
        def place() -> bool:
            return bool(store.hold(BUCKET, prefix, version_id=version_id))

        self.call("hold", place, hold=[prefix, version_id])

    def release(self, store: Store, prefix: str, version_id: str = "") -> None:
        self.call(
            "release", lambda: store.release_hold(BUCKET, prefix, version_id=version_id), hold=[prefix, version_id]
        )

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
        self._wait(forking.start(work), expect)

    def side_by_side(self, *works: Callable[[], None]) -> None:
        """Do each in a process of its own, at the same time."""
        for pid in [forking.start(work) for work in works]:
            self._wait(pid, 0)

    def _wait(self, pid: int, expect: int) -> None:
        code = forking.ended(pid)
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
