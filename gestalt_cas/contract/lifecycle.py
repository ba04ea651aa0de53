"""gestalt.provider.v1.ProviderLifecycle for every host: protocol versions 2 to 5 with one servicer.

The SDK's own servicer admits exactly its release's version. Nothing on the wire differs between the versions, so ours
offers the range and echoes what the host asks for (contract 2.2). A bad configuration is INVALID_ARGUMENT or
FAILED_PRECONDITION, never a code that hosts retry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from gestalt_cas import __version__, wire_pb2
from gestalt_cas.configuration import config
from gestalt_cas.contract.rpc import Handler, abort
from gestalt_cas.errors import AddressUnusable, NotEnabled, StoreError, StoreUnusable
from gestalt_cas.observing.calls import GRPC, GrpcCall, Observer
from gestalt_cas.serving import messages
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.sql import sqlite

log = logging.getLogger(__name__)

SERVICE = "gestalt.provider.v1.ProviderLifecycle"
KIND_S3 = 7
OLDEST_PROTOCOL, NEWEST_PROTOCOL = 2, 5


class Configurable(Protocol):
    """What the service configures: the provider with its pools and limits."""

    mounts: Mounts
    observer: Observer

    def configure(self, config: config.Config) -> None: ...


class LifecycleService(grpc.GenericRpcHandler):
    """Identity, configuration and health. With `fixed` the process was configured at its start and stays so."""

    def __init__(self, provider: Configurable, *, fixed: bool = False, warnings: tuple[str, ...] = ()) -> None:
        self._provider = provider
        self._mounts = provider.mounts
        self._fixed = fixed
        self._warnings = warnings
        self._name, self._protocol = "", NEWEST_PROTOCOL
        self._handlers: dict[str, Handler] = {
            f"/{SERVICE}/{name}": grpc.unary_unary_rpc_method_handler(self._behaviour(name, serve))
            for name, serve in (
                ("GetProviderIdentity", _bare(self._identity)),
                ("ConfigureProvider", self._configure),
                ("HealthCheck", _bare(self._health)),
                ("StartProvider", _bare(self._start)),
            )
        }

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(details.method)

    def _behaviour(self, name: str, serve: Callable[[bytes], Message]) -> Callable[[Any, grpc.ServicerContext], bytes]:
        observer = self._provider.observer
        method = observer.method(GRPC, name, f"{SERVICE}/{name}")

        def behaviour(raw: bytes, context: grpc.ServicerContext) -> bytes:
            call = GrpcCall(method, context)
            try:
                answer = serve(raw).SerializeToString()
                call.done()
                return answer
            except StoreError as error:
                log.warning("%s: %s", name, error)
                failure: Exception = error
            except Exception as error:  # noqa: BLE001 - abort() logs what is unexpected and answers INTERNAL
                failure = error
            return abort(call, failure)

        return behaviour

    def _identity(self) -> Message:
        return wire_pb2.ProviderIdentity(
            kind=KIND_S3,
            name=self._name or "cas",
            display_name="gestalt-cas",
            description="Versioned, deduplicating object store on one machine: SQLite metadata, BLAKE3 payloads",
            version=__version__,
            warnings=self._all_warnings(),
            min_protocol_version=OLDEST_PROTOCOL,
            max_protocol_version=NEWEST_PROTOCOL,
        )

    def _configure(self, raw: bytes) -> Message:
        request = messages.decode(wire_pb2.ConfigureProviderRequest, raw)
        _check_protocol(request.protocol_version)
        if self._fixed:
            raise NotEnabled("this server was configured when it was started; stop it to change its configuration")
        wanted = config.parse(_mapping(request.config), name=request.name or "default")
        try:
            self._provider.configure(wanted)
        except AddressUnusable:
            raise  # it names its own key
        except StoreUnusable as error:
            raise type(error)(f"dataDir: {error}") from error
        self._name, self._protocol = request.name, request.protocol_version
        log.info("configured as %r with the data directory %s", request.name, wanted.data_dir)
        return wire_pb2.ProtocolVersionResponse(protocol_version=request.protocol_version)

    def _health(self) -> Message:
        mount = self._mounts.present
        if mount is None:
            return wire_pb2.HealthCheckResponse(ready=False, message="the provider has not been configured yet")
        fault = mount.store.health()
        return wire_pb2.HealthCheckResponse(ready=not fault, message=fault or mount.store.shortage() or "ok")

    def _start(self) -> Message:
        return wire_pb2.ProtocolVersionResponse(protocol_version=self._protocol)

    def _all_warnings(self) -> list[str]:
        found = list(self._warnings)
        if sqlite.has_wal_reset_bug(sqlite.version()):
            found.append(f"{sqlite.describe()}; let no other program write the database")
        mount = self._mounts.present
        if mount is not None:
            found += [text for text in (mount.store.health(), mount.store.shortage()) if text]
        return found


def _check_protocol(version: int) -> None:
    if not OLDEST_PROTOCOL <= version <= NEWEST_PROTOCOL:
        raise NotEnabled(
            f"protocol version {version} is not supported; this provider speaks {OLDEST_PROTOCOL} to {NEWEST_PROTOCOL}"
        )


def _mapping(struct: Struct) -> dict[str, object]:
    """A Struct as plain values; every number is a float, infinities and NaN included, for `config` to judge."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "struct_value":
            return _mapping(value.struct_value)
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "number_value" | "string_value" | "bool_value" as kind:
            return getattr(value, kind)
        case _:
            return None


def _bare(answer: Callable[[], Message]) -> Callable[[bytes], Message]:
    """For calls whose request is google.protobuf.Empty: what cannot be one is refused like any other bad request."""

    def serve(raw: bytes) -> Message:
        messages.decode(Empty, raw)
        return answer()

    return serve
