"""Spans and durations of calls for OpenTelemetry.

A call that ends only leaves a note: in the midst of calls every further step costs several times what it costs in a
row. Notes are made into spans and durations when there are some, when metrics are asked for, and after a second.

So a span is made in one piece when its call is over: nothing inside a call needs it, and by then it is known whether
the call failed. The W3C trace context that came with the call makes it a part of its caller's trace. Attributes follow
the semantic conventions for RPC and HTTP in their stable form (`rpc.system.name`, whole method names, seconds). What is
left out on purpose: `url.path` and `url.query`, which hold keys and signatures, and messages of errors, which hold
keys.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gestalt_cas.observing.calls import ABORTED, GRPC, Call, Method
from gestalt_cas.observing.instruments import Instruments
from gestalt_cas.observing.readings import Readings

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.trace import Tracer

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The codes that make a server's span an error (semantic conventions for gRPC)."""
_TRACE_CONTEXT = ("traceparent", "tracestate")
_NANO = 1_000_000_000
_BATCH = 64
_WAIT_SECONDS = 1.0

Attributes = dict[str, str | int]
Sent = Iterable[tuple[str, str | bytes]]
_Note = tuple[Method, str, float, int, Sent | None, str]
"""Method, code and duration of a call; when it ended, what came with it (None: no span), and the id of a failed one."""


class _Allowance:
    """So many of a second, and of any tenth of a second no more than a tenth of that: they come evenly."""

    def __init__(self) -> None:
        self._left, self._at = math.inf, time.monotonic()

    def take(self, per_second: float) -> bool:
        """Whether there is room for one more, which takes it."""
        now = time.monotonic()
        most = max(1.0, per_second / 10) if per_second else 0.0
        self._left = min(most, self._left + (now - self._at) * per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


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
        # Calls that fail have room of their own.
        self._allowed = {True: _Allowance(), False: _Allowance()}
        self._durations: Mapping[bool, Any] = {}
        self._notes: deque[_Note] = deque()
        self._noted = threading.Event()
        self._most = _BATCH
        self._settling = threading.Lock()
        self._trouble: Exception | None = None
        if meter is not None:
            self._durations = {
                True: _duration(meter, "rpc.server.call.duration", "Duration of inbound RPCs."),
                False: _duration(meter, "http.server.request.duration", "Duration of HTTP server requests."),
            }
            Instruments(readings, meter, self.settle)
        threading.Thread(target=self._see_to_the_last, name="gestalt-cas-spans", daemon=True).start()

    def ended(self, call: Call, code: str, seconds: float, failed: bool) -> None:
        """Note down a call; raises what went wrong with those before it."""
        if self._trouble is not None:
            trouble, self._trouble = self._trouble, None
            raise trouble
        now, sent = time.time_ns(), None
        if self._tracer is not None and self._allowed[failed].take(self.per_second):
            sent = call.sent_along()
        self._notes.append((call.method, code, seconds, now, sent, call.id if failed else ""))
        if len(self._notes) >= self._most:
            self.settle()
        elif not self._noted.is_set():
            self._noted.set()

    def hurry(self) -> None:
        """From now on hand every call over at once: the process is about to end."""
        self._most = 1
        self.settle()

    def settle(self) -> None:
        """Hand over all calls that have been noted down; what goes wrong is raised by the next `ended`."""
        try:
            with self._settling:
                while self._notes:
                    self._hand_over(*self._notes.popleft())
        except Exception as error:  # noqa: BLE001 - on whatever thread this is, it concerns the exporter
            self._trouble = error
            self._notes.clear()

    def _see_to_the_last(self) -> None:
        """Hand over what no further call comes after."""
        while True:
            self._noted.wait()
            time.sleep(_WAIT_SECONDS)
            self._noted.clear()
            self.settle()

    def _hand_over(self, method: Method, code: str, seconds: float, now: int, sent: Sent | None, failed: str) -> None:
        name, attributes, error = self._described(method, code)
        if self._durations:
            self._durations[method.protocol == GRPC].record(seconds, attributes)
        if self._tracer is None:
            return
        if sent is None:
            self.skipped += 1
            return
        carried = _trace_context(sent)
        context = self._extract(carried) if "traceparent" in carried else self._nothing
        if failed:
            attributes = {**attributes, "gestalt_cas.request_id": failed}
        span = self._tracer.start_span(
            name, context, self._server, attributes, start_time=now - int(seconds * _NANO), record_exception=False
        )
        if error:
            span.set_status(self._error)
        span.end(now)

    def _described(self, method: Method, code: str) -> tuple[str, Attributes, bool]:
        """The span's name, the attributes of span and duration, and whether it is an error."""
        key = method, code
        if key not in self._known:
            self._known[key] = _rpc(method, code) if method.protocol == GRPC else _http(method, code)
        return self._known[key]


def _trace_context(sent: Sent) -> dict[str, str]:
    """What a caller sent of W3C trace context."""
    found = ((name.lower(), value) for name, value in sent)
    return {name: value for name, value in found if name in _TRACE_CONTEXT and isinstance(value, str)}


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
