"""Spans and metrics for OpenTelemetry, when this process exports to it.

Whether it does is not decided here: the SDK's runtime sets exporters up when its host names an endpoint in
OTEL_EXPORTER_OTLP_ENDPOINT, `set_up` asks the SDK for the same when there is no such runtime, and a program that embeds
the provider may have done so itself. Where nobody has, nothing of OpenTelemetry is as much as imported. What is handed
over, and how, is in `spans.py` and `instruments.py`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable

from gestalt_cas import __version__
from gestalt_cas.observing.readings import Readings
from gestalt_cas.observing.spans import Spans

log = logging.getLogger(__name__)

SCOPE = "gestalt_cas"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"
ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_"))


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
            try:
                thread.start()
            except RuntimeError:  # no more threads, which must not keep a server from stopping
                log.warning("what waits to be sent to OpenTelemetry is lost: no more threads can be started")
                return
            thread.join(seconds / 2)


def _real(provider: object) -> bool:
    """Whether a provider does something; the API's own ones only stand in for another."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
