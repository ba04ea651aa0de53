"""What arrives at an OpenTelemetry collector: spans and metrics by the conventions, logs, and nothing secret."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service

from gestalt_cas.configuration import config
from gestalt_cas.observing import otel
from gestalt_cas.server import Provider
from presigned import BUCKET, Site
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import SDK_RUNTIME, Hosted, Server

KINDS = {
    "trace.v1.TraceService": trace_service.ExportTraceServiceRequest,
    "metrics.v1.MetricsService": metrics_service.ExportMetricsServiceRequest,
    "logs.v1.LogsService": logs_service.ExportLogsServiceRequest,
}
S3 = "gestalt.provider.v1.S3"
SERVER_SPAN, ERROR = 2, 2


class Collector(grpc.GenericRpcHandler):
    """Takes whatever is exported; `raw` is all of it as it came."""

    def __init__(self) -> None:
        self.raw = b""
        self.taken: dict[str, list[Any]] = {name: [] for name in KINDS}
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[self])
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_BLRP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "OTEL_SERVICE_NAME": "cas-under-test",
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        name = details.method.split("/")[1].removeprefix("opentelemetry.proto.collector.")

        def take(raw: bytes, _: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.raw += raw
                self.taken[name].append(KINDS[name].FromString(raw))
            return b""

        return grpc.unary_unary_rpc_method_handler(take)

    def spans(self) -> list[Any]:
        with self._lock:
            return [
                span
                for request in self.taken["trace.v1.TraceService"]
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    def metrics(self) -> dict[str, Any]:
        """The last state of every metric, by name."""
        with self._lock:
            return {
                metric.name: metric
                for request in self.taken["metrics.v1.MetricsService"]
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }

    def records(self) -> list[Any]:
        with self._lock:
            return [
                record
                for request in self.taken["logs.v1.LogsService"]
                for resource in request.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            ]


def attributes(thing: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in thing.attributes}


def total(metric: Any) -> float:
    """The sum of a counter over its attributes."""
    return sum(float(getattr(point, point.WhichOneof("value"))) for point in metric.sum.data_points)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    try:
        yield collector
    finally:
        collector.stop()


@pytest.fixture(scope="module", name="collector")
def collector_fixture() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module", name="site")
def site_fixture(collector: Collector) -> Iterator[Site]:
    settings = ("telemetry.statisticsSeconds=0.1", "telemetry.logCalls=refused", "telemetry.logFormat=json")
    with Server(*settings, environment=collector.environment) as server:
        site = Site(server)
        yield site
        site.client.close()


def span_of(collector: Collector, request_id: str) -> Any:
    """The span of the failed call with this id."""

    def found() -> Any:
        return next(
            (one for one in collector.spans() if attributes(one).get("gestalt_cas.request_id") == request_id), None
        )

    return eventually(found, f"the span of {request_id}")


def head(site: Site, key: str, **metadata: str) -> None:
    request = site.client.pb.HeadObjectRequest(ref=site.client.ref(key, bucket=BUCKET))
    pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
    site.client.stubs["HeadObject"](request, timeout=30, metadata=pairs)


def test_each_call_has_a_span_by_the_conventions(collector: Collector, site: Site) -> None:
    before = len(collector.spans())
    site.client.write("spanned", b"x" * 1000, bucket=BUCKET)
    site.client.body("spanned", bucket=BUCKET)
    site.client.copy("spanned", "copied", bucket=BUCKET)
    site.client.delete("copied", bucket=BUCKET)
    site.client.list(bucket=BUCKET)
    head(site, "spanned")
    methods = ("WriteObject", "ReadObject", "CopyObject", "DeleteObject", "ListObjects", "HeadObject")
    names = {f"{S3}/{name}" for name in methods}
    # Those of calls before may come in between.
    eventually(lambda: names <= {span.name for span in collector.spans()[before:]}, "a span of each call")
    spans = collector.spans()[before:]
    for span in spans:
        if span.name.startswith(S3):
            assert attributes(span) == {
                "rpc.system.name": "grpc",
                "rpc.method": span.name,
                "rpc.response.status_code": "OK",
            }
            assert span.kind == SERVER_SPAN
            assert span.status.code != ERROR
            assert not span.parent_span_id
            assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9


def test_a_span_belongs_to_the_trace_of_its_caller(collector: Collector, site: Site) -> None:
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with refused(grpc.StatusCode.NOT_FOUND):
        head(site, "nothing", traceparent=f"00-{trace_id}-{parent}-01", x_request_id="traced-1")
    span = span_of(collector, "traced-1")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, parent)
    assert attributes(span)["rpc.response.status_code"] == "NOT_FOUND"
    assert "error.type" not in attributes(span), "the caller's mistake is no error of the server"
    assert span.status.code != ERROR


def test_a_fault_of_the_server_makes_its_span_an_error(collector: Collector, site: Site) -> None:
    meta = site.client.write("rotten", b"rot" * 5000, bucket=BUCKET)
    (blob,) = (site.server.data_dir / "blobs").glob(f"??/{meta.etag.strip(chr(34))}*")
    blob.chmod(0o600)
    blob.write_bytes(b"ROT" * 5000)
    call = site.client.stubs["ReadObject"](
        site.client.read_request("rotten", bucket=BUCKET), timeout=30, metadata=(("x-request-id", "rotten-1"),)
    )
    with refused(grpc.StatusCode.DATA_LOSS):
        list(call)
    span = span_of(collector, "rotten-1")
    assert attributes(span)["error.type"] == "DATA_LOSS"
    assert span.status.code == ERROR
    assert not span.status.message


def test_http_requests_have_spans_without_paths(collector: Collector, site: Site) -> None:
    site.client.write("web", b"w", bucket=BUCKET)
    before = len(collector.spans())
    assert site.get("web").status == 200
    site.call("GET", "not there", headers={"X-Request-Id": "web-1"})
    span = span_of(collector, "web-1")
    (well,) = (one for one in collector.spans()[before:] if attributes(one).get("http.response.status_code") == 200)
    assert "gestalt_cas.request_id" not in attributes(well), "only a call that failed is looked for by its id"
    assert span.name == "GET /{bucket}/{key}"
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 404,
        "http.route": "/{bucket}/{key}",
        "url.scheme": "http",
        "gestalt_cas.request_id": "web-1",
    }


def test_metrics_have_the_conventions_names_and_the_figures_of_the_page(collector: Collector, site: Site) -> None:
    site.client.write("measured", b"x" * 1000, bucket=BUCKET)
    head(site, "measured")

    def complete() -> Any:
        found = collector.metrics()
        return found if "gestalt_cas.dedup_ratio" in found and "rpc.server.call.duration" in found else None

    found = eventually(complete, "metrics")
    duration = found["rpc.server.call.duration"]
    assert duration.unit == "s"
    codes = {attributes(point)["rpc.response.status_code"] for point in duration.histogram.data_points}
    assert "OK" in codes
    for name, unit in {
        "gestalt_cas.wal": "By",
        "gestalt_cas.healthy": "1",
        "gestalt_cas.dedup_ratio": "1",
        "gestalt_cas.statistics_timestamp": "s",
    }.items():
        assert found[name].unit == unit
        assert len(found[name].gauge.data_points) == 1
    for name in ("gestalt_cas.grpc_calls", "gestalt_cas.commit_group_size.count", "gestalt_cas.received"):
        assert found[name].sum.is_monotonic
        assert total(found[name]) > 0


def test_log_records_have_the_ids_of_calls(collector: Collector, site: Site) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        head(site, "nothing", x_request_id="logged-1")
    found = eventually(
        lambda: [one for one in collector.records() if attributes(one).get("request_id") == "logged-1"], "the record"
    )
    assert attributes(found[0])["code"] == "NOT_FOUND"
    assert site.server.stderr.count('"request_id": "logged-1"') == 1, "each line comes once on stderr"
    assert all(line.startswith("{") for line in site.server.stderr.splitlines())


def test_nothing_secret_is_exported(collector: Collector, site: Site) -> None:
    planted = ("planted-in-metadata", "planted-in-the-body", "planted-as-a-key")
    site.client.write(planted[2], planted[1].encode(), bucket=BUCKET, metadata={"k": planted[0]})
    target = site.target(planted[2])
    connection = http.client.HTTPConnection(urlsplit(site.base).netloc, timeout=30)
    connection.request("GET", target, headers={"X-Request-Id": "last-one"})
    assert connection.getresponse().read() == planted[1].encode()
    connection.request("GET", target[:-4] + "0000", headers={"X-Request-Id": "last-two"})
    assert connection.getresponse().read()
    connection.close()
    span_of(collector, "last-two")
    collected = collector.raw
    assert b"last-two" in collected
    signature = target.rpartition("X-Amz-Signature=")[2].encode()
    for secret in (
        *(text.encode() for text in planted),
        signature,
        b"X-Amz-",
        site.keys.secret_access_key.encode(),
        site.keys.access_key_id.encode(),
    ):
        assert secret not in collected


def test_the_sdks_runtime_exports_and_a_host_can_bound_the_spans() -> None:
    with collecting() as collector:
        hosted = Hosted(SDK_RUNTIME, environment=collector.environment)
        try:
            eventually(hosted.socket.exists, "the provider's socket", 60)
            lifecycle = Lifecycle(f"unix://{hosted.socket}")
            wanted = {"dataDir": str(hosted.home / "d"), "http": {"enabled": False}}
            lifecycle.configure({**wanted, "telemetry": {"spansPerSecond": 1}})
            with Client(f"unix://{hosted.socket}", protos.BUCKETLESS) as client:
                client.write("k")
                for _ in range(50):
                    client.head("k")
                eventually(lambda: "gestalt_cas.spans_skipped" in collector.metrics(), "metrics")
                eventually(lambda: total(collector.metrics()["gestalt_cas.spans_skipped"]) > 10, "calls are skipped")
                eventually(collector.spans, "a span")
                assert len(collector.spans()) < 40
                lifecycle.configure({**wanted, "telemetry": {"openTelemetry": False, "spansPerSecond": 1000}})
                count = len(collector.spans())
                for _ in range(50):
                    client.head("k")
            lifecycle.close()
            hosted.stop()
            assert len(collector.spans()) < count + 40, "nothing after it was switched off"
        finally:
            hosted.forget()


def test_trouble_in_opentelemetry_fails_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("no such propagator")

    monkeypatch.setattr(otel, "exporter", fail)
    provider = Provider()
    limits = {"streamIdleSeconds": 7, "concurrentReads": 3, "concurrentWrites": 2}
    provider.configure(config.parse({"dataDir": str(tmp_path / "d"), "http": {"enabled": False}, "limits": limits}))
    assert provider.mounts.close(30)
    assert (provider.calls.idle_seconds, provider.pools.reads.limit, provider.pools.writes.limit) == (7, 3, 2)
    assert provider.observer.exporter is None
    assert "no such propagator" in caplog.text


def test_what_waits_is_sent_when_the_server_stops() -> None:
    with collecting() as collector:
        late = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
        with Server(environment=late) as server:
            with Client(server.target, protos.BUCKETLESS) as client:
                client.write("k", b"x")
            server.stop()
        assert f"{S3}/WriteObject" in {span.name for span in collector.spans()}
        assert "rpc.server.call.duration" in collector.metrics()


def test_what_waits_is_sent_though_a_host_has_switched_it_off() -> None:
    with collecting() as collector:
        late = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
        with Hosted(environment=late) as hosted:
            lifecycle = Lifecycle(hosted.target)
            wanted = {"dataDir": str(hosted.host_home / "d"), "http": {"enabled": False}}
            lifecycle.configure(wanted)
            with Client(hosted.target, protos.BUCKETLESS) as client:
                client.write("k", b"x")
            lifecycle.configure({**wanted, "telemetry": {"openTelemetry": False}})
            lifecycle.close()
            hosted.stop()
        assert f"{S3}/WriteObject" in {span.name for span in collector.spans()}
