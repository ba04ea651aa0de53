"""What the server is compared with: the same server with one thing done otherwise.

    python -m benchmarks.partners KIND serve --data-dir DIR --grpc unix:///…

Each is `gestalt-cas serve` itself, its gRPC options, pools and life included, with one part exchanged before it starts:

    noop          unary calls answer a fixed message, WriteObject takes the frames and looks at none
    unstored      WriteObject parses and checks as ever, and instead of storing drops the bytes
    least         WriteObject parses and checks as ever, and does the least that storing takes (`least.py`)
    lookup        HeadObject asks for the object's row, by one statement, and answers a fixed message
    naive         WriteObject as one would write it first: protobuf frames, a file, a directory sync, a commit each
    passthrough   ReadObject sends the messages that the real one made, which were kept
    unverified    reads do not check their chunks
    unobserved    calls are neither counted nor timed, and no id, span or log line knows of them
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
from blake3 import blake3
from google.protobuf.message import Message
from xxhash import xxh3_128_digest

from benchmarks import building
from benchmarks.least import LeastStore
from gestalt_cas import server, wire_pb2
from gestalt_cas.clock import now_ms
from gestalt_cas.contract import rpc
from gestalt_cas.contract.calls import Calls
from gestalt_cas.contract.rpc import SERVICE, S3Service, abort
from gestalt_cas.figures import Histogram
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import NO_HEADERS, ObjectKey, ObjectVersion
from gestalt_cas.observing.calls import GrpcCall, Method, Observer
from gestalt_cas.rules import chunks
from gestalt_cas.serving.mounts import Mount, Mounts
from gestalt_cas.serving.pools import Pools, on_pool
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.store import Store
from gestalt_cas.system.durability import sync_directory
from gestalt_cas.transactions.connections import connect

_VERSION = ObjectVersion(
    ObjectKey(building.BUCKET, "dir12/object-000123"), "v" * 24, 1, 4096, "0" * 64, 1_700_000_000_000, NO_HEADERS, {}
)
_REPLY = wire_pb2.MetaResponse(
    meta=wire_pb2.ObjectMeta(
        ref=wire_pb2.ObjectRef(key=_VERSION.key.key, version_id=_VERSION.version_id),
        etag=_VERSION.digest,
        size=_VERSION.size,
        content_type="application/octet-stream",
    )
).SerializeToString()

Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class Exchanged(grpc.GenericRpcHandler):
    """The service with some handlers exchanged, each on the pool that its call has."""

    def __init__(self, mounts: Mounts, calls: Calls, pools: Pools, observer: Observer) -> None:
        self.mounts = mounts
        self.pools = pools
        self.own: dict[str, Any] = {}
        self._real = S3Service(mounts, calls, pools, observer)

    def on_own_pools(self) -> bool:
        return self._real.on_own_pools()

    def unary(self, name: str, behaviour: Behaviour) -> None:
        self.own[_path(name)] = grpc.unary_unary_rpc_method_handler(on_pool(behaviour, self.pools.unary))

    def upload(self, behaviour: Behaviour) -> None:
        self.own[_path("WriteObject")] = grpc.stream_unary_rpc_method_handler(on_pool(behaviour, self.pools.writes))

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self.own.get(details.method) or self._real.service(details)


def _path(name: str) -> str:
    return f"/{SERVICE}/{name}"


class Noop(Exchanged):
    def __init__(self, mounts: Mounts, calls: Calls, pools: Pools, observer: Observer) -> None:
        super().__init__(mounts, calls, pools, observer)
        for name in ("HeadObject", "DeleteObject", "CopyObject"):
            self.unary(name, lambda _, __: _REPLY)
        self.upload(_taken)


def _taken(frames: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
    for _frame in frames:
        pass
    return _REPLY


class Lookup(Exchanged):
    """The row is read whole and not looked at; each thread has a connection of its own."""

    _ROW = (
        "SELECT versions.* FROM current JOIN versions USING (bucket, key, seq)"
        " WHERE current.bucket = ? AND current.key = ?"
    )

    def __init__(self, mounts: Mounts, calls: Calls, pools: Pools, observer: Observer) -> None:
        super().__init__(mounts, calls, pools, observer)
        self._own = threading.local()
        self.unary("HeadObject", lambda raw, _: self._head(raw))

    def _head(self, raw: bytes) -> bytes:
        key = wire_pb2.HeadObjectRequest.FromString(raw).ref.key
        if not self._connection().kept.execute(self._ROW, (building.BUCKET, key.encode())).fetchall():
            raise KeyError(key)
        return _REPLY

    def _connection(self) -> Connection:
        found: Connection | None = getattr(self._own, "connection", None)
        if found is None:
            with self.mounts.use() as mount:
                found = self._own.connection = connect(Layout(mount.store.directory).database)
        return found


class Naive(Exchanged):
    """Files in a directory of their own; rows in the store's database, by its own statements and pragmas."""

    def __init__(self, mounts: Mounts, calls: Calls, pools: Pools, observer: Observer) -> None:
        super().__init__(mounts, calls, pools, observer)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.upload(lambda frames, _: self._write(frames))

    def _write(self, frames: Iterator[bytes]) -> bytes:
        with self.mounts.use() as mount:
            key = wire_pb2.WriteObjectRequest.FromString(next(frames)).open.ref.key
            digest, size, sums = _kept(mount.store.directory / "naive", frames)
            self._commit(mount.store.directory, key, digest, size, sums)
        return _REPLY

    def _commit(self, directory: Path, key: str, digest: bytes, size: int, sums: bytes) -> None:
        with self._lock:
            if self._connection is None:
                self._connection = connect(Layout(directory).database)
            self._connection.execute("BEGIN IMMEDIATE")
            building.add(self._connection, key, digest, size, sums, now_ms=now_ms())
            self._connection.execute("COMMIT")


def _kept(directory: Path, frames: Iterable[bytes]) -> tuple[bytes, int, bytes]:
    """Write the frames' data to a file named by its digest, durably; returns digest, size and chunk sums."""
    directory.mkdir(exist_ok=True)
    staged, hasher, sums = directory / secrets.token_hex(8), blake3(), []
    with staged.open("wb") as file:
        for raw in frames:
            data = wire_pb2.WriteObjectRequest.FromString(raw).data
            file.write(data)
            hasher.update(data)
            sums.append(xxh3_128_digest(data))
        file.flush()
        os.fdatasync(file.fileno())
        size = file.tell()
    digest = hasher.digest()
    staged.rename(directory / digest.hex())
    sync_directory(directory)
    return digest, size, b"".join(sums)


class Passthrough(Exchanged):
    """Keeps what the first read of each request sent."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        handler = super().service(details)
        if details.method != _path("ReadObject") or details.method in self.own:
            return handler
        kept: dict[bytes, list[bytes]] = {}

        def read(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            if raw not in kept:
                kept[raw] = list(handler.unary_stream(raw, context))
            yield from kept[raw]

        self.own[details.method] = grpc.unary_stream_rpc_method_handler(on_pool(read, self.pools.reads))
        return self.own[details.method]


class UnobservedCall(GrpcCall):
    """What handlers put down here is not looked at."""

    def __init__(self, method: Method, context: grpc.ServicerContext) -> None:
        self.method, self.context = method, context

    def end(self, *_: object, **__: object) -> None: ...

    def done(self) -> None: ...

    def told(self, text: str) -> str:
        return text


class Unobserved(S3Service):
    """Unary calls have nothing around them; streams, whose handlers hold a call, have one that does nothing."""

    def _unary(self, method: Method, serve: Callable[[Mount, bytes], Message]) -> Behaviour:
        def behaviour(raw: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                with self._mounts.use() as mount:
                    return serve(mount, raw).SerializeToString()
            except Exception as error:  # noqa: BLE001 - as in the one whose place it takes
                failure = error
            return abort(UnobservedCall(method, context), failure)

        return behaviour


def _observe_nothing() -> None:
    setattr(Histogram, "add", lambda *_: None)  # noqa: B010 - the sizes of group commits
    setattr(rpc, "GrpcCall", UnobservedCall)  # noqa: B010
    _serve(Unobserved)


def _serve(service: type[Exchanged | S3Service]) -> None:
    setattr(server, "S3Service", service)  # noqa: B010 - typed as the class that it is exchanged for


def _drop_uploads() -> None:
    def write(
        _: Store, __: ObjectKey, pieces: Iterable[object], *, confirm: Callable[[], None] | None = None, **___: object
    ) -> ObjectVersion:
        for _piece in pieces:
            pass
        if confirm is not None:
            confirm()
        return _VERSION

    setattr(Store, "write", write)  # noqa: B010 - it takes less than the method whose place it takes


def _store_the_least() -> None:
    lock, stores = threading.Lock(), dict[Path, LeastStore]()

    def write(
        store: Store, key: ObjectKey, pieces: Iterable[Any], *, confirm: Callable[[], None] | None = None, **_: object
    ) -> ObjectVersion:
        with lock:
            least = stores.get(store.directory)
            if least is None:
                inlined = bool(store.settings().inline_max_bytes)
                least = stores[store.directory] = LeastStore(store.directory, inlined=inlined)
        least.write(key.key, pieces, confirm)
        return _VERSION

    setattr(Store, "write", write)  # noqa: B010 - it takes less than the method whose place it takes


def _check_nothing() -> None:
    setattr(chunks, "matches", lambda *_: True)  # noqa: B010


class Partner:
    """Names of the kinds, and how each is made before the server starts."""

    NOOP, UNSTORED, NAIVE, PASSTHROUGH, UNVERIFIED = "noop", "unstored", "naive", "passthrough", "unverified"
    UNOBSERVED, LEAST, LOOKUP = "unobserved", "least", "lookup"
    EXCHANGES: ClassVar[dict[str, Callable[[], None]]] = {
        NOOP: lambda: _serve(Noop),
        UNSTORED: _drop_uploads,
        LEAST: _store_the_least,
        LOOKUP: lambda: _serve(Lookup),
        NAIVE: lambda: _serve(Naive),
        PASSTHROUGH: lambda: _serve(Passthrough),
        UNVERIFIED: _check_nothing,
        UNOBSERVED: _observe_nothing,
    }


def program(kind: str) -> tuple[str, ...]:
    """What the interpreter runs as the command line's `gestalt-cas`, for `serving.served`."""
    return ("-m", "benchmarks.partners", kind)


def main() -> None:
    from gestalt_cas.cli import main as command

    Partner.EXCHANGES[sys.argv.pop(1)]()
    command()


if __name__ == "__main__":
    main()
