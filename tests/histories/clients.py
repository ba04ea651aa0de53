"""Processes of clients that record what they do.

    python -m histories.clients ORDERS        (JSON, see Orders)

Each thread is one client: it calls, and writes a line before the call and one after it. What a killed process leaves
is a begin without an end. Clients reach the store over a server's socket, or open its directory themselves.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
from blake3 import blake3

from gestalt_cas import Conditions, ObjectKey, Store, errors
from gestalt_cas.conformance.linearizability.operations import ANY, Kind, Operation, Outcome, content
from gestalt_cas.objects import ListQuery
from wire import protos
from wire.client import Client

BUCKET = "default"
SIZES = (0, 20, 3_000, 70_000, 1_200_000)
"""Of the contents "0", "1", … in bytes; few, so that one payload is many objects', and comes and goes."""
WEIGHTS = {"read": 30, "write": 22, "swap": 14, "create": 8, "differ": 3, "copy": 11, "delete": 8, "list": 6}


def body_of(name: str) -> bytes:
    return random.Random(f"content {name}").randbytes(SIZES[int(name)])


BODIES = {str(number): body_of(str(number)) for number in range(len(SIZES))}
ETAGS = {name: blake3(body).hexdigest() for name, body in BODIES.items()}


class Cut(Exception):
    """The call may or may not have taken effect; whoever served it has gone, or the disk failed it."""


class Torn(AssertionError):
    """An object has other bytes than its writer gave it."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a process of clients is told. `target` is a server's socket, "" to open `directory`."""

    name: str
    log: str
    target: str
    directory: str
    groups: list[list[str]]
    threads: int
    seconds: float
    seed: str


class Access(Protocol):
    """How a client reaches the store; each returns the outcome and the value, or raises Cut."""

    def write(self, key: str, value: str, if_match: str, if_none_match: str) -> Outcome: ...
    def copy(self, source: str, key: str, if_match: str) -> tuple[Outcome, str]: ...
    def delete(self, key: str) -> None: ...
    def read(self, key: str) -> tuple[Outcome, str]: ...
    def listed(self, prefix: str) -> dict[str, str]: ...
    def close(self) -> None: ...


def _tags(if_match: str, if_none_match: str) -> dict[str, str]:
    given = {"if_match": if_match, "if_none_match": if_none_match}
    return {name: tag if tag == ANY else f'"{ETAGS[tag]}"' for name, tag in given.items() if tag}


def _checked(value: str, digest: str) -> str:
    if digest != ETAGS[content(value)]:
        raise Torn(f"the object of {value} has the digest {digest}")
    return value


class OverTheWire:
    """Calls to a server."""

    def __init__(self, target: str) -> None:
        self._client = Client(target, protos.BUCKETLESS)

    def write(self, key: str, value: str, if_match: str, if_none_match: str) -> Outcome:
        fields = {"metadata": {"value": value}, **_tags(if_match, if_none_match)}
        return self._ending(lambda: self._client.write(key, BODIES[content(value)], **fields))[0]

    def copy(self, source: str, key: str, if_match: str) -> tuple[Outcome, str]:
        outcome, meta = self._ending(lambda: self._client.copy(source, key, **_tags(if_match, "")))
        return outcome, _value(meta) if meta is not None else ""

    def delete(self, key: str) -> None:
        self._ending(lambda: self._client.delete(key))

    def read(self, key: str) -> tuple[Outcome, str]:
        outcome, found = self._ending(lambda: self._client.read(key))
        if found is None:
            return outcome, ""
        meta, parts = found
        return outcome, _checked(_value(meta), blake3(b"".join(parts)).hexdigest())

    def listed(self, prefix: str) -> dict[str, str]:
        page = self._ending(lambda: self._client.list(prefix=prefix))[1]
        return {meta.ref.key: _value(meta) for meta in page.objects}

    def close(self) -> None:
        self._client.close()

    def _ending(self, call: Callable[[], Any]) -> tuple[Outcome, Any]:
        try:
            return Outcome.DONE, call()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Cut from None
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return Outcome.REFUSED, None
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return Outcome.ABSENT, None
            raise


def _value(meta: Any) -> str:
    return _checked(meta.metadata["value"], meta.etag.strip('"'))


class InProcess:
    """Calls to the store itself, as the command line makes them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, key: str, value: str, if_match: str, if_none_match: str) -> Outcome:
        conditions = Conditions(**_tags(if_match, if_none_match))
        body, metadata = BODIES[content(value)], {"value": value}
        return self._ending(lambda: self._store.write(_key(key), [body], metadata=metadata, conditions=conditions))[0]

    def copy(self, source: str, key: str, if_match: str) -> tuple[Outcome, str]:
        conditions = Conditions(**_tags(if_match, ""))
        outcome, version = self._ending(lambda: self._store.copy(_key(source), _key(key), conditions=conditions))
        return outcome, version.metadata["value"] if version is not None else ""

    def delete(self, key: str) -> None:
        self._ending(lambda: self._store.delete(_key(key)))

    def read(self, key: str) -> tuple[Outcome, str]:
        outcome, value = self._ending(lambda: self._read(key))
        return outcome, value or ""

    def _read(self, key: str) -> str:
        with self._store.read(_key(key)) as reader:
            return _checked(reader.version.metadata["value"], blake3(reader.read()).hexdigest())

    def listed(self, prefix: str) -> dict[str, str]:
        page = self._store.list_page(ListQuery(BUCKET, prefix=prefix))
        return {version.key.key: version.metadata["value"] for version in page.objects}

    def close(self) -> None:
        pass

    def _ending(self, call: Callable[[], Any]) -> tuple[Outcome, Any]:
        try:
            return Outcome.DONE, call()
        except errors.OutcomeUnknown:
            raise Cut from None
        except errors.PreconditionFailed:
            return Outcome.REFUSED, None
        except errors.NoSuchKey:
            return Outcome.ABSENT, None


def as_of(store: Store, prefix: str, moment: str) -> dict[str, str]:
    """The values of all objects below a prefix at a moment, every byte checked."""
    found: dict[str, str] = {}
    for version in store.list_page(ListQuery(BUCKET, prefix=prefix), as_of=moment).objects:
        with store.read(version.key, as_of=moment) as reader:
            digest = blake3(reader.read()).hexdigest()
        found[version.key.key] = _checked(version.metadata["value"], digest)
    return found


def _key(name: str) -> ObjectKey:
    return ObjectKey(BUCKET, name)


class Recorder:
    """Appends begins and ends of calls to the process's log, each in one write, so that a kill tears none apart."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def put(self, **record: object) -> None:
        os.write(self._fd, f"{json.dumps(record)}\n".encode())


class One:
    """One client: calls at random, on one group of keys at a time, and records."""

    def __init__(self, name: str, access: Access, recorder: Recorder, groups: list[list[str]], seed: str) -> None:
        self.name = name
        self._access = access
        self._recorder = recorder
        self._groups = groups
        self._random = random.Random(seed)
        self._known: dict[str, str] = {}
        self._calls = 0

    def run(self, until: float) -> None:
        try:
            while time.monotonic() < until:
                self._turn()
        except Cut:
            pass  # whoever served us has gone; the call without an end is in the log
        except BaseException as error:  # noqa: BLE001 - a failure of the store under test, for the harness to show
            self._recorder.put(failure=f"{self.name}: {type(error).__name__}: {error}")
        finally:
            self._access.close()

    def _turn(self) -> None:
        self._calls += 1
        group = self._random.choice(self._groups)
        key = self._random.choice(group)
        kind = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if kind == "read":
            with self._recorded(Kind.READ, key) as ending:
                ending["outcome"], ending["value"] = self._access.read(key)
            self._known[key] = content(ending["value"])
        elif kind == "list":
            prefix = f"{group[0].partition('/')[0]}/"
            with self._recorded(Kind.LIST, prefix) as ending:
                ending["seen"] = self._access.listed(prefix)
        elif kind == "delete":
            with self._recorded(Kind.DELETE, key):
                self._access.delete(key)
        elif kind == "copy":
            self._copy(self._random.choice(group), key)
        else:
            self._write(key, kind)

    def _copy(self, source: str, key: str) -> None:
        known = self._known.get(source, "")
        condition = known if self._random.random() < 0.5 else ""
        with self._recorded(Kind.COPY, key, source=source, if_match=condition) as ending:
            ending["outcome"], ending["value"] = self._access.copy(source, key, condition)

    def _write(self, key: str, kind: str) -> None:
        value = f"{self.name}.{self._calls}:{self._random.choices(list(BODIES), [1, 3, 3, 2, 1])[0]}"
        known = self._known.get(key, "")
        if_match = known if kind == "swap" else ""
        if_none_match = ANY if kind == "create" else known if kind == "differ" else ""
        conditions = {"if_match": if_match, "if_none_match": if_none_match}
        with self._recorded(Kind.WRITE, key, value=value, **conditions) as ending:
            ending["outcome"] = self._access.write(key, value, if_match, if_none_match)
        if ending["outcome"] is Outcome.DONE:
            self._known[key] = content(value)

    @contextmanager
    def _recorded(self, kind: Kind, key: str, **asked: str) -> Iterator[dict[str, Any]]:
        call = f"{self.name}.{self._calls}"
        ending: dict[str, Any] = {"outcome": Outcome.DONE}
        self._recorder.put(call=call, client=self.name, kind=kind.value, key=key, invoked=time.monotonic(), **asked)
        yield ending
        told = {**ending, "outcome": ending["outcome"].value}
        self._recorder.put(call=call, returned=time.monotonic(), **told)


def recorded(log: Path, died: float) -> list[Operation]:
    """The calls in a log; those without an end are unknown, and took effect before `died` or not at all.

    Reads without an end are left out: they say nothing. Fails when a client reported a failure.
    """
    begun: dict[str, dict[str, Any]] = {}
    for line in log.read_text().splitlines():
        record = json.loads(line)
        assert "failure" not in record, record["failure"]
        begun.setdefault(record.pop("call"), {}).update(record)
    for call in begun.values():
        call["kind"] = Kind(call["kind"])
        call["outcome"] = Outcome(call.get("outcome", Outcome.UNKNOWN))
        call.setdefault("returned", died)
    reads = (Kind.READ, Kind.LIST)
    return [
        Operation(**call)
        for call in begun.values()
        if call["outcome"] is not Outcome.UNKNOWN or (call["kind"] not in reads and call["invoked"] < died)
    ]


def main() -> int:
    orders = Orders(**json.loads(sys.argv[1]))
    store = Store.open(orders.directory, create=False) if not orders.target else None
    recorder = Recorder(Path(orders.log))
    until = time.monotonic() + orders.seconds
    clients = []
    for number in range(orders.threads):
        access: Access = InProcess(store) if store is not None else OverTheWire(orders.target)
        clients.append(
            One(f"{orders.name}.{number}", access, recorder, orders.groups, f"{orders.seed} {orders.name} {number}")
        )
    threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if store is not None:
        store.close()
    return 0


def command(orders: Orders) -> list[str]:
    return [sys.executable, "-m", "histories.clients", json.dumps(asdict(orders))]


if __name__ == "__main__":
    sys.exit(main())
