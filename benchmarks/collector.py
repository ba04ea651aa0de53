"""An OpenTelemetry collector in a process of its own: takes what is exported over gRPC, counts it and drops it.

    python -m benchmarks.collector

Its URL is the first line on stdout.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.serving import started

_PACKAGE = "opentelemetry.proto.collector"
_COUNTS = "/benchmarks.Collector/Counts"


def _spans(raw: bytes) -> int:
    request = ExportTraceServiceRequest.FromString(raw)
    return sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)


def _metrics(raw: bytes) -> int:
    request = ExportMetricsServiceRequest.FromString(raw)
    return sum(len(scope.metrics) for resource in request.resource_metrics for scope in resource.scope_metrics)


KINDS = {
    f"/{_PACKAGE}.trace.v1.TraceService/Export": ("spans", _spans),
    f"/{_PACKAGE}.metrics.v1.MetricsService/Export": ("metrics", _metrics),
    f"/{_PACKAGE}.logs.v1.LogsService/Export": ("logs", len),
}


class Sink(grpc.GenericRpcHandler):
    """Answers exports with success. `counts` has the requests of each kind, and the spans and metrics in them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == _COUNTS:
            return grpc.unary_unary_rpc_method_handler(lambda _, __: json.dumps(self.counts).encode())
        if details.method not in KINDS:
            return None
        name, count = KINDS[details.method]

        def take(raw: bytes, _: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.counts[f"exports of {name}"] += 1
                self.counts[name] += count(raw)
            return b""

        return grpc.unary_unary_rpc_method_handler(take)


class Collector:
    """A running collector, seen from outside."""

    def __init__(self, url: str, channel: grpc.Channel) -> None:
        self.url = url
        self._channel = channel

    def counts(self) -> Mapping[str, int]:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_COUNTS)
        found: dict[str, int] = json.loads(ask(b"", timeout=30))
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector for the block."""
    with (
        TemporaryDirectory(prefix="gcb") as home,
        started(["-m", "benchmarks.collector"], Path(home) / "log") as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the collector did not start:\n{(Path(home) / 'log').read_text()}")
        with grpc.insecure_channel(url.removeprefix("http://")) as channel:
            yield Collector(url, channel)


def main() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Sink()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
