"""Writers: threads that call a server over its socket, write the ledger, and stop when the server has gone.

Each has keys of its own, and takes part in the keys that all share. What it does and with which bytes follows from its
seed; how far it comes before a kill does not.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import grpc
from blake3 import blake3

from kills.ledger import Change, Ledger, OwnedKey, SharedKey
from kills.versions import Lost, Version
from wire import protos
from wire.client import Client, frames

KEYS = 4
RETAINED = "retained/"
"""Below it each has one more key, of which only some noncurrent versions are kept."""
MOST_VERSIONS = 10
COMMON_PAYLOADS = 12
MIB = 1 << 20
_FRAME = 256 * 1024


def payload(label: str) -> bytes:
    """The bytes of a label: mostly small, some of several MiB."""
    chosen = random.Random(label)
    largest = chosen.choices([4096, 300_000, 6 * MIB], [70, 22, 8])[0]
    return chosen.randbytes(chosen.randint(0, largest))


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()


class Writer:
    """One client of one server, on a thread of its own. `cut` tells that its last call was not answered."""

    def __init__(self, name: str, seed: str, target: str, ledger: Ledger, over: threading.Event) -> None:
        self.name = name
        self.calls = 0
        self.cut = False
        self.failure: BaseException | None = None
        self._random = random.Random(seed)
        self._seed = seed
        self._target = target
        self._over = over
        self._keys = [*(ledger.own(f"{name}/{number}") for number in range(KEYS)), ledger.retain(f"{RETAINED}{name}")]
        self._shared = [ledger.share(f"shared/{number}") for number in range(2)]
        self._created = ledger.share(f"created/{seed.partition(' ')[0]}")
        self.thread = threading.Thread(target=self._run, name=name)

    def _run(self) -> None:
        try:
            with Client(self._target, protos.BUCKETLESS) as self._client:
                while not (self._over.is_set() or self.cut):
                    self._turn()
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits for this one
            self.failure = error

    def _turn(self) -> None:
        turns = [self._write, self._write_if, self._copy, self._delete, self._remove, self._swap, self._create]
        turn = self._random.choices([*turns, self._read], [34, 12, 12, 8, 12, 10, 4, 8])[0]
        turn(self._random.choice(self._keys))

    def _body(self) -> bytes:
        if self._random.random() < 0.3:
            return payload(f"common {self._random.randrange(COMMON_PAYLOADS)}")
        return payload(f"{self._seed} {self._random.random()}")

    # ---- owned keys ----

    def _write(self, key: OwnedKey) -> None:
        if len(key.versions) > MOST_VERSIONS:
            self._remove(key)
            return
        data = self._body()
        self._add(key, digest_of(data), lambda: self._send(key.name, data))

    def _write_if(self, key: OwnedKey) -> None:
        """A conditional write that must be done, or one that must be refused."""
        data, current = self._body(), key.current
        good = self._random.random() < 0.7
        if current is None:
            condition = {"if_none_match": "*"} if good else {"if_match": f'"{"0" * 64}"'}
        else:
            condition = {"if_match": f'"{current.digest}"'} if good else {"if_none_match": "*"}
        self._add(key, digest_of(data), lambda: self._send(key.name, data, **condition), refused=not good)

    def _copy(self, key: OwnedKey) -> None:
        source = self._random.choice(self._keys)
        if source.current is None:
            self._write(key)
            return
        self._add(key, source.current.digest, lambda: self._client.copy(source.name, key.name))

    def _add(self, key: OwnedKey, digest: str, call: Callable[[], Any], refused: bool = False) -> None:
        key.pending = Change(adds=Version("", digest))
        meta = self._answer(call, refused)
        if meta is None:
            return
        if refused:
            key.refused()
            return
        if meta.etag != f'"{digest}"':
            raise Lost(f"{key.name}: {digest} was answered with {meta.etag}")
        key.answered(meta.ref.version_id)

    def _delete(self, key: OwnedKey) -> None:
        key.pending = Change(adds=Version("", ""))
        if self._answer(lambda: self._client.delete(key.name) or True) is not None:
            key.answered()

    def _remove(self, key: OwnedKey) -> None:
        known = [version.version_id for version in key.versions if version.version_id]
        if not known:
            return
        version_id = self._random.choice(known)
        key.pending = Change(removes=version_id)
        if self._answer(lambda: self._client.delete(key.name, version_id=version_id) or True) is not None:
            key.answered()

    def _read(self, key: OwnedKey) -> None:
        """What was answered can be read at once."""
        found = self._answer(lambda: self._client.body(key.name), refused=key.current is None)
        if isinstance(found, bytes) and (key.current is None or digest_of(found) != key.current.digest):
            raise Lost(f"{key.name}: read {digest_of(found)} instead of {key.current}")

    # ---- shared keys ----

    def _swap(self, _: OwnedKey) -> None:
        shared = self._random.choice(self._shared)
        found = self._answer(lambda: self._current_of(shared))
        if found is not None:
            self._attempt(shared, found, {"if_match": f'"{found}"'} if found else {"if_none_match": "*"})

    def _create(self, _: OwnedKey) -> None:
        self._attempt(self._created, "", {"if_none_match": "*"})

    def _attempt(self, shared: SharedKey, replaces: str, condition: dict[str, str]) -> None:
        data = f"{self._seed} {self._random.random()}".encode()
        attempt = shared.sent(digest_of(data), replaces)
        meta = self._answer(lambda: self._try(shared.name, data, condition))
        if meta is not None:
            attempt.outcome = meta.ref.version_id if meta else "refused"

    def _current_of(self, shared: SharedKey) -> str:
        try:
            etag: str = self._client.head(shared.name).etag
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return ""
            raise
        return etag.strip('"')

    def _try(self, name: str, data: bytes, condition: dict[str, str]) -> Any:
        """The meta of the answer, or False when the condition did not hold."""
        try:
            return self._send(name, data, **condition)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                return False
            raise

    # ---- calls ----

    def _send(self, name: str, data: bytes, **fields: str) -> Any:
        return self._client.write(name, parts=frames(data, _FRAME), **fields)

    def _answer(self, call: Callable[[], Any], refused: bool = False) -> Any:
        """What the call answered; None when it was cut off. With `refused` it must be refused, which is True."""
        try:
            answer = call()
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNAVAILABLE:
                self.cut = True
                return None
            if refused and code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND):
                self.calls += 1
                return True
            raise
        if refused:
            raise Lost("a call was done that had to be refused")
        self.calls += 1
        return answer
