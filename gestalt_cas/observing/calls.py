"""Every call from its beginning to its end: counted, logged if wanted, handed to OpenTelemetry if that is exported.

What a call costs here is paid by every call, so there is little of it: two looks at a clock, one note, one context
variable. What its caller sent is not looked at before somebody asks: for the id, which every answer over HTTP has, or
for a span.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import grpc

from gestalt_cas.configuration.config import Telemetry
from gestalt_cas.figures import Tally
from gestalt_cas.request_ids import FIELD, Request, current

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"
OK = "OK"
ABORTED = "aborted"
"""What stands in the place of an HTTP status when the answer was cut off, or nobody took it any more."""
_CANCELLED = "CANCELLED"
_MESSAGE_CHARS = 500
"""What fits into a trailer: gRPC peers refuse trailers over 8 KiB, and text may triple on the way."""


class Exporter(Protocol):
    """What takes note of calls that have ended; see `otel.py`. `skipped` calls got no span."""

    skipped: int

    def ended(self, call: Call, code: str, seconds: float, failed: bool) -> None: ...


class Method:
    """One method of one protocol: `name` is "HeadObject" or "GET", `path` gRPC's whole name of it."""

    __slots__ = ("name", "observer", "path", "protocol", "tally")

    def __init__(self, observer: Observer, protocol: str, name: str, path: str = "") -> None:
        self.observer = observer
        self.protocol = protocol
        self.name = name
        self.path = path
        self.tally = Tally()


class Observer:
    """Knows the methods of one server and what is to become of their calls. Thread-safe."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, str], Method] = {}
        self.exporter: Exporter | None = None
        self.logs_refused = self.logs_all = False

    def configure(self, telemetry: Telemetry) -> None:
        self.logs_all = telemetry.log_calls == "all"
        self.logs_refused = self.logs_all or telemetry.log_calls == "refused"

    def method(self, protocol: str, name: str, path: str = "") -> Method:
        return self.methods.setdefault((protocol, name), Method(self, protocol, name, path))

    def ended(self, call: Call, code: str, seconds: float, *, failed: bool = False, reason: str = "") -> None:
        """A call is over and counted."""
        if self.logs_all or (failed and self.logs_refused):
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

    # Most calls never change these, so they need no place of their own.
    received = sent = 0
    cut = ""
    """The code with which somebody else ended it."""
    _over = False

    def __init__(self, method: Method) -> None:
        self.method = method
        current.set(self)
        self._began = time.perf_counter()

    def end(self, code: str, *, failed: bool = False, reason: str = "") -> None:
        """The call is over; a second call does nothing. `failed`: anything else than what was asked for came of it."""
        if self._over:
            return
        self._over = True
        seconds, code = time.perf_counter() - self._began, self.cut or code
        self.method.tally.add(code, seconds, self.received, self.sent)
        self.method.observer.ended(self, code, seconds, failed=failed or bool(self.cut), reason=reason)
        if current.get() is self:  # unless this thread or task has begun another one since
            current.set(None)

    def sent_along(self) -> Iterable[tuple[str, str | bytes]]:
        """Names and values that the caller sent beside the call itself; they may be kept when the call is over."""
        raise NotImplementedError


class GrpcCall(Call):
    """A gRPC call."""

    def __init__(self, method: Method, context: grpc.ServicerContext) -> None:
        # What `Call` does, without the call of it: every call pays for this.
        self.method, self.context = method, context
        current.set(self)
        self._began = time.perf_counter()

    def done(self) -> None:
        """The call has ended as it should: what `end` does, by the shortest way."""
        if self.cut:
            return self.end(OK)
        self._over = True
        method, seconds = self.method, time.perf_counter() - self._began
        method.tally.add(OK, seconds, self.received, self.sent)
        observer = method.observer
        if observer.exporter is not None or observer.logs_all:
            observer.ended(self, OK, seconds)
        current.set(None)
        return None

    def cancelled(self) -> None:
        self.end(_CANCELLED, failed=True)

    def sent_along(self) -> Iterable[tuple[str, str | bytes]]:
        return self.context.invocation_metadata() or ()

    def given(self) -> str:
        return next((value for name, value in self.sent_along() if name == FIELD and isinstance(value, str)), "")

    def told(self, text: str) -> str:
        """An error message for the caller: cut to fit, with the id by which the log knows the call."""
        brief = text if len(text) <= _MESSAGE_CHARS else f"{text[:_MESSAGE_CHARS]}…"
        return f"{brief} (request {self.id})"


class HttpCall(Call):
    """An HTTP request; `fields` are those of its header, in which names of any case are found."""

    def __init__(self, method: Method, fields: Mapping[str, str]) -> None:
        super().__init__(method)
        self._fields = fields

    def sent_along(self) -> Iterable[tuple[str, str | bytes]]:
        return self._fields.items()

    def given(self) -> str:
        return self._fields.get(FIELD, "")
