"""Cases 1 to 11: how a host starts, configures and stops the provider. They need a process that may be started anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc

from gestalt_cas.conformance.registry import Code, Place, check
from gestalt_cas.conformance.wire import Wire

_S3_KIND = 7
_HOST = "what hosts do; contract 2.2"
_NEVER = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED)
_BIG = b"x" * (16 << 20)


@check(1, evidence=_HOST, lifecycle=True)
def identity_before_configure(place: Place) -> None:
    """The provider says that it is of kind S3, and which protocol versions it takes, before it is configured."""
    with place.running(configured=False) as running:
        identity = running.lifecycle.identity()
    place.same(identity.kind, _S3_KIND, "the kind")
    low, high = identity.min_protocol_version, identity.max_protocol_version
    fits = (low == 0 or low <= running.version) and (high == 0 or running.version <= high)
    place.holds(fits, f"a range of versions with {running.version} in it", f"{low} to {high}")


@check(2, evidence=_HOST, lifecycle=True)
def configure_echoes_the_version(place: Place) -> None:
    """Configuring answers exactly the version that the host asked for."""
    with place.running(configured=False) as running:
        answer = running.lifecycle.configure(running.config, version=running.version)
    place.same(answer.protocol_version, running.version, "the protocol version")


@check(3, evidence=_HOST, lifecycle=True)
def an_unsupported_version(place: Place) -> None:
    """A protocol version that nobody has is FAILED_PRECONDITION."""
    with place.running(configured=False) as running:
        for version in (1, 9999):
            with place.refused(Code.FAILED_PRECONDITION, why=f"there is no protocol version {version}"):
                running.lifecycle.configure(running.config, version=version)


@check(4, evidence=_HOST, lifecycle=True)
def identity_after_configure(place: Place) -> None:
    """The identity is asked for once more after configuring."""
    with place.running() as running:
        place.same(running.lifecycle.identity().kind, _S3_KIND, "the kind")


@check(5, evidence=_HOST, lifecycle=True)
def healthy_after_configure(place: Place) -> None:
    """HealthCheck says ready after configuring."""
    with place.running() as running:
        health = running.lifecycle.health()
    place.holds(health.ready, "ready to be true", health.message)


@check(6, evidence="SDKs since a18; contract 2", lifecycle=True)
def start_twice(place: Place) -> None:
    """StartProvider may be called twice; a provider that has it not answers UNIMPLEMENTED, which hosts accept."""
    with place.running() as running:
        for _ in range(2):
            try:
                running.lifecycle.start()
            except grpc.RpcError as error:
                code = error.code()
                place.holds(code is Code.UNIMPLEMENTED, "StartProvider to work, or to be UNIMPLEMENTED", code.name)


@check(7, evidence="S3 and GCS backends; contract 3.1", lifecycle=True)
def calls_before_configure(place: Place) -> None:
    """S3 calls before configuring are FAILED_PRECONDITION, and the process goes on."""
    with place.running(configured=False) as running:
        with _wire(place, running) as wire:
            calls: tuple[Callable[[], Any], ...] = (lambda: wire.head("k"), lambda: wire.write("k", b"x"), wire.list)
            for call in calls:
                with place.refused(Code.FAILED_PRECONDITION, why="it is not configured"):
                    call()
        place.holds(running.alive, "the process to go on")
        running.configure()


@check(8, evidence="hosts retry the codes of passing trouble; contract 2.2", lifecycle=True)
def a_bad_configuration(place: Place) -> None:
    """A configuration that cannot be right is refused with a code that is not retried; a good one works after it."""
    with place.running(configured=False) as running:
        bad = {"no-provider-has-this-key": {"nested": [1, None]}}
        try:
            running.lifecycle.configure({**running.config, **bad}, version=running.version)
        except grpc.RpcError as error:
            place.holds(error.code() not in _NEVER, "a code that hosts do not retry", error.code().name)
        running.configure()
        with _wire(place, running) as wire:
            wire.write("k", b"x")


@check(9, evidence="hosts kill after 2 s; contract 2.4", lifecycle=True)
def an_idle_provider_ends(place: Place) -> None:
    """SIGTERM ends an idle provider within two seconds, with exit code 0."""
    with place.running() as running:
        with _wire(place, running) as wire:
            wire.write("k", b"x")
        running.terminate()


@check(10, evidence="hosts kill after 2 s; the SDK alone does not manage it; contract 2.4", lifecycle=True)
def a_busy_provider_ends(place: Place) -> None:
    """SIGTERM ends a provider with an open read and an upload that stands still within two seconds."""
    with place.running() as running, _wire(place, running) as wire, ExitStack() as stack:
        _stalled(stack, wire, "big", reads=1, writes=1)
        running.terminate()


@check(11, evidence="the SDK's server has four threads; contract 2.5")
def blocked_streams_leave_room(place: Place) -> None:
    """With eight streams that stand still HeadObject is answered."""
    with ExitStack() as stack:
        wire = _stalled(stack, place.wire, place.key("big"), reads=4, writes=4, bucket=place.bucket)
        size = wire.head(place.key("big"), bucket=place.bucket).size
        place.same(size, len(_BIG), "the size by HeadObject beside eight streams")


def _wire(place: Place, running: Any) -> Wire:
    """A client of that process, whose calls are shown with those of the check."""
    return Wire(running.target, exchanges=place.wire.exchanges, deadline=place.wire.deadline)


def _stalled(stack: ExitStack, to: Wire, key: str, *, reads: int, writes: int, bucket: str = "") -> Wire:
    """Reads that nobody takes further and uploads that do not go on, for the life of the stack."""
    wire = stack.enter_context(Wire(to.target, bucketed=to.bucketed))
    parts = [_BIG[start : start + (1 << 20)] for start in range(0, len(_BIG), 1 << 20)]
    wire.write(key, parts=parts, bucket=bucket)
    closing = threading.Event()
    for _ in range(reads):
        # A connection of its own, so that the stalled stream cannot use up the window of another.
        apart = Wire(to.target, bucketed=to.bucketed, options=(("grpc.http2.bdp_probe", 0),))
        reader = stack.enter_context(apart)
        call = reader.read_stream(key, bucket=bucket)
        next(call)
        next(call)
        stack.callback(call.cancel)
    for number in range(writes):
        begun = threading.Event()
        upload = wire.upload(_half_open(wire, f"{key}-half-{number}", begun, closing, bucket))
        stack.callback(upload.cancel)
        begun.wait(30)
    stack.callback(closing.set)
    return wire


def _half_open(wire: Wire, key: str, begun: threading.Event, closing: threading.Event, bucket: str) -> Iterator[Any]:
    yield wire.open_frame(key, bucket=bucket)
    yield wire.data_frame(b"x" * 65536)
    begun.set()
    closing.wait(60)
