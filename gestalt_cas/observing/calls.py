"""Every call from its beginning to its end: counted, logged if wanted, handed to OpenTelemetry if that is exported.

What a call costs here is paid by every call, so there is little of it: two looks at a clock, one lock, one context
variable. What its caller sent is not looked at before somebody asks: for the id, which every answer over HTTP has, or
for a span.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Protocol

import grpc

from gestalt_cas.config import Telemetry
from gestalt_cas.figures import Tally
from gestalt_cas.request_ids import FIELD, Request, current

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"
OK = "OK"
ABORTED = "aborted"
"""What stands in the place of an HTTP status when the answer was cut off, or nobody took it any more."""
_CANCELLED = "CANCELLED"
_TRACE_CONTEXT = ("traceparent", "tracestate")
_MESSAGE_CHARS = 500
"""What fits into a trailer: gRPC peers refuse trailers over 8 KiB, and text may triple on the way."""


class Exporter(Protocol):
    """What takes note of calls that have ended; see `otel.py`. `skipped` calls got no span."""

    skipped: int

    def ended(self, call: Call, code: str, seconds: float, failed: bool) -> None: ...


class Method:
    """One method of one protocol: `name` is "HeadObject" or "GET", `path` gRPC's whole name of it."""

    __slots__ = ("name", "path", "protocol", "tally")

    def __init__(self, protocol: str, name: str, path: str = "") -> None:
        self.protocol = protocol
        self.name = name
        self.path = path
        self.tally = Tally()


class Observer:
    """Knows the methods of one server and what is to become of their calls. Thread-safe."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], Method] = {}
        self.exporter: Exporter | None = None
        self._logged = "faults"

    def configure(self, telemetry: Telemetry) -> None:
        self._logged = telemetry.log_calls

    def method(self, protocol: str, name: str, path: str = "") -> Method:
        return self.methods.setdefault((protocol, name), Method(protocol, name, path))

    def ended(self, call: Call, code: str, seconds: float, failed: bool, reason: str) -> None:
        """A call is over and counted."""
        if self._logged != "faults" and (failed or self._logged == "all"):
            _log(call, code, seconds, reason)
        if self.exporter is not None:
            try:
                self.exporter.ended(call, code, seconds, failed)
            except Exception:
                self.exporter = None
                log.exception("OpenTelemetry fails, and gets no more calls until the provider is configured again")


def _log(call: Call, code: str, seconds: float, reason: str) -> None:
    fields = {
        "method": call.method.name,
        "code": code,
        "ms": round(seconds * 1000, 3),
        "received_bytes": call.received,
        "sent_bytes": call.sent,
    }
    log.info(
        "%s %s in %.1f ms%s", call.method.name, code, seconds * 1000, f": {reason}" if reason else "", extra=fields
    )


class Call(Request):
    """A call under way; it ends once, with `end`. `received` and `sent` are bytes of payloads."""

    __slots__ = ("_began", "_observer", "_over", "cut", "method", "received", "sent")

    def __init__(self, observer: Observer, method: Method) -> None:
        self._id = ""
        self._observer = observer
        self._over = False
        self.method = method
        self.received = self.sent = 0
        self.cut = ""  # the code with which somebody else ended it
        self._began = time.perf_counter()
        current.set(self)

    def end(self, code: str, *, failed: bool = False, reason: str = "") -> None:
        """The call is over; a second call does nothing. `failed`: anything else than what was asked for came of it."""
        if self._over:
            return
        self._over = True
        seconds, code = time.perf_counter() - self._began, self.cut or code
        self.method.tally.add(code, seconds, self.received, self.sent)
        self._observer.ended(self, code, seconds, failed or bool(self.cut), reason)
        if current.get() is self:  # unless this thread or task has begun another one since
            current.set(None)

    def fields(self) -> Mapping[str, str]:
        """What the caller sent beside the call itself, by lower-case names."""
        raise NotImplementedError

    def given(self) -> str:
        return self.fields().get(FIELD, "")

    def carried(self) -> Mapping[str, str]:
        """What the caller sent of W3C trace context."""
        fields = self.fields()
        return {name: fields[name] for name in _TRACE_CONTEXT if name in fields}


class GrpcCall(Call):
    """A gRPC call."""

    __slots__ = ("context",)

    def __init__(self, observer: Observer, method: Method, context: grpc.ServicerContext) -> None:
        # What `Call` does, without the call of it: every call pays for this.
        self._id = self.cut = ""
        self._observer, self.method, self.context = observer, method, context
        self._over = False
        self.received = self.sent = 0
        self._began = time.perf_counter()
        current.set(self)

    def done(self) -> None:
        self.end(OK)

    def cancelled(self) -> None:
        self.end(_CANCELLED, failed=True)

    def fields(self) -> Mapping[str, str]:
        found = self.context.invocation_metadata() or ()
        return {name: value for name, value in found if isinstance(value, str)}

    def told(self, text: str) -> str:
        """An error message for the caller: cut to fit, with the id by which the log knows the call."""
        brief = text if len(text) <= _MESSAGE_CHARS else f"{text[:_MESSAGE_CHARS]}…"
        return f"{brief} (request {self.id})"


class HttpCall(Call):
    """An HTTP request; `fields` are its header, in which names of any case are found."""

    __slots__ = ("_fields",)

    def __init__(self, observer: Observer, method: Method, fields: Mapping[str, str]) -> None:
        super().__init__(observer, method)
        self._fields = fields

    def fields(self) -> Mapping[str, str]:
        return self._fields
