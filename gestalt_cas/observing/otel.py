"""Spans and metrics for OpenTelemetry, when this process exports to it.

Whether it does is not decided here: the SDK's runtime sets exporters up when its host names an endpoint in
OTEL_EXPORTER_OTLP_ENDPOINT, `set_up` asks the SDK for the same when there is no such runtime, and a program that embeds
the provider may have done so itself. Where nobody has, nothing of OpenTelemetry is as much as imported.

A span is made when its call has ended, in one piece: nothing inside a call needs it, that costs least, and by then it
is known whether the call failed. The W3C trace context that came with the call makes it a part of its caller's trace.
Attributes follow the semantic conventions for RPC and HTTP in their stable form (`rpc.system.name`, whole method names,
seconds). What is left out on purpose: `url.path` and `url.query`, which hold keys and signatures, and messages of
errors, which hold keys.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gestalt_cas import __version__
from gestalt_cas.figures import Distribution
from gestalt_cas.observing.calls import ABORTED, GRPC, Call, Method
from gestalt_cas.observing.families import COUNTER, HISTOGRAM, NONE, Family
from gestalt_cas.observing.readings import Readings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

SCOPE = "gestalt_cas"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"
ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_"))
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The codes that make a server's span an error (semantic conventions for gRPC)."""
_FRESH_SECONDS = 1.0
_NANO = 1_000_000_000

Attributes = dict[str, str | int]


def set_up() -> bool:
    """Have the SDK set up the export that the environment asks for; returns whether it asks for one.

    For servers that do not run under the SDK's own runtime, which does this itself.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return False
    try:
        from gestalt import telemetry
    except ImportError:
        log.warning("nothing is exported to OpenTelemetry: this gestalt-sdk has no telemetry, 0.0.1a18 and later have")
        return False
    telemetry.configure_from_environment(service_name="gestalt-cas")
    return True


def exporter(readings: Readings) -> Spans | None:
    """What hands calls and figures to OpenTelemetry; None when this process exports neither spans nor metrics."""
    trace, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    if trace is None or metrics is None:
        return None
    tracing, metering = trace.get_tracer_provider(), metrics.get_meter_provider()
    tracer = tracing.get_tracer(SCOPE, __version__, SCHEMA_URL) if _real(tracing) else None
    meter = metering.get_meter(SCOPE, __version__, SCHEMA_URL) if _real(metering) else None
    if tracer is None and meter is None:
        return None
    return Spans(readings, tracer, meter)


def flush(seconds: float) -> None:
    """Send what waits to be sent, within about so many seconds."""
    trace, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    for provider in (
        trace.get_tracer_provider() if trace is not None else None,
        metrics.get_meter_provider() if metrics is not None else None,
    ):
        send: Callable[[int], object] | None = getattr(provider, "force_flush", None)
        if send is not None:
            # An exporter whose peer is away goes on trying whatever it was told.
            thread = threading.Thread(target=send, args=(int(seconds * 500),), name="gestalt-cas-flush", daemon=True)
            thread.start()
            thread.join(seconds / 2)


def _real(provider: object) -> bool:
    """Whether a provider does something; the API's own ones only stand in for another."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


class Spans:
    """Takes note of calls. `per_second` may be changed at any time; `skipped` counts the calls without a span."""

    def __init__(self, readings: Readings, tracer: Tracer | None, meter: Meter | None) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.per_second = 0.0
        self.skipped = 0
        self._tracer = tracer
        self._nothing = Context()
        self._extract = TraceContextTextMapPropagator().extract
        self._server = trace.SpanKind.SERVER
        self._error = trace.Status(trace.StatusCode.ERROR)
        self._known: dict[tuple[Method, str], tuple[str, Attributes, bool]] = {}
        self._second, self._left = 0, {True: 0.0, False: 0.0}
        self._durations: Mapping[bool, Any] = {}
        if meter is not None:
            self._durations = {
                True: _duration(meter, "rpc.server.call.duration", "Duration of inbound RPCs."),
                False: _duration(meter, "http.server.request.duration", "Duration of HTTP server requests."),
            }
            _Instruments(readings, meter)

    def ended(self, call: Call, code: str, seconds: float, failed: bool) -> None:
        name, attributes, error = self._described(call.method, code)
        if self._durations:
            self._durations[call.method.protocol == GRPC].record(seconds, attributes)
        if self._tracer is None:
            return
        now = time.time_ns()
        if not self._room(now // _NANO, failed):
            self.skipped += 1
            return
        carried = call.carried()
        context = self._extract(carried) if "traceparent" in carried else self._nothing
        if failed:
            attributes = {**attributes, "gestalt_cas.request_id": call.id}
        span = self._tracer.start_span(
            name, context, self._server, attributes, start_time=now - int(seconds * _NANO), record_exception=False
        )
        if error:
            span.set_status(self._error)
        span.end(now)

    def _room(self, second: int, failed: bool) -> bool:
        """Whether one more span of this second is within what was configured; failing calls have room of their own."""
        if second != self._second:
            self._second, self._left = second, {True: self.per_second, False: self.per_second}
        if self._left[failed] < 1:
            return False
        self._left[failed] -= 1
        return True

    def _described(self, method: Method, code: str) -> tuple[str, Attributes, bool]:
        """The span's name, the attributes of span and duration, and whether it is an error."""
        key = method, code
        if key not in self._known:
            self._known[key] = _rpc(method, code) if method.protocol == GRPC else _http(method, code)
        return self._known[key]


def _rpc(method: Method, code: str) -> tuple[str, Attributes, bool]:
    attributes: Attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": method.path,
        "rpc.response.status_code": code,
    }
    error = code in _FAULTS
    if error:
        attributes["error.type"] = code
    return method.path, attributes, error


def _http(method: Method, code: str) -> tuple[str, Attributes, bool]:
    route = "/{bucket}/{key}"
    attributes: Attributes = {"http.request.method": method.name, "url.scheme": "http", "http.route": route}
    error = code == ABORTED or code.startswith("5")
    if code != ABORTED:
        attributes["http.response.status_code"] = int(code)
    if error:
        attributes["error.type"] = code
    return f"{'HTTP' if method.name == '_OTHER' else method.name} {route}", attributes, error


def _duration(meter: Meter, name: str, text: str) -> Any:
    return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=_SECONDS)


class _Instruments:
    """The figures of the Prometheus page as instruments that are asked when metrics are sent.

    Names are the page's with `gestalt_cas.` in front and without `_total` and the unit, which a collector that feeds
    Prometheus puts back. There is no histogram that can be asked: of the size of commit groups go count and sum, and
    durations are recorded call by call.
    """

    def __init__(self, readings: Readings, meter: Meter) -> None:
        self._readings = readings
        self._meter = meter
        self._lock = threading.Lock()
        self._taken: dict[str, Family] = {}
        self._taken_at = 0.0
        for family in self._families().values():
            if family.name.startswith("gestalt_cas_"):
                self._create(family)

    def _create(self, family: Family) -> None:
        if family.kind == HISTOGRAM:
            if family.name.endswith("_seconds"):
                return
            for part, pick in (("count", _count), ("sum", _sum)):
                self._meter.create_observable_counter(
                    f"{_name(family)}.{part}", [self._observed(family.name, pick)], "1", family.help
                )
            return
        counts = family.kind == COUNTER
        make = self._meter.create_observable_counter if counts else self._meter.create_observable_gauge
        make(_name(family), [self._observed(family.name, _itself)], _unit(family.name), family.help)

    def _observed(self, name: str, pick: Callable[[Any], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def look(_: CallbackOptions) -> list[Observation]:
            family = self._families().get(name)
            samples = family.samples if family is not None else ()
            return [Observation(pick(value), dict(labels) if labels is not NONE else None) for labels, value in samples]

        return look

    def _families(self) -> dict[str, Family]:
        with self._lock:
            if not self._taken or time.monotonic() - self._taken_at > _FRESH_SECONDS:
                self._taken = {family.name: family for family in self._readings.take()}
                self._taken_at = time.monotonic()
            return self._taken


def _itself(value: float) -> float:
    return value


def _count(value: Distribution) -> float:
    return sum(value.counts)


def _sum(value: Distribution) -> float:
    return value.total


def _name(family: Family) -> str:
    name = family.name.removeprefix("gestalt_cas_").removesuffix("_total")
    return f"gestalt_cas.{name.removesuffix('_bytes').removesuffix('_seconds')}"


def _unit(name: str) -> str:
    bare = name.removesuffix("_total")
    return "By" if bare.endswith("_bytes") else "s" if bare.endswith("_seconds") else "1"
