"""Notes of calls become spans and durations: each once, in time, and whatever OpenTelemetry does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gestalt_cas.observing import spans as subject
from gestalt_cas.observing.calls import GRPC, HTTP, Call, GrpcCall, HttpCall, Method, Observer
from gestalt_cas.observing.families import Family, gauge
from gestalt_cas.observing.spans import Spans
from wire.client import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Figures:
    def take(self) -> list[Family]:
        return [gauge("healthy", "as on the page", 1)]


class Context:
    """What a gRPC call has of its caller."""

    def __init__(self, **metadata: str | bytes) -> None:
        self._metadata = tuple((name.replace("_", "-"), value) for name, value in metadata.items())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata


class Watched:
    """An observer whose calls are exported into memory; nothing is handed over by time unless a test wants it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, wait: float = 3600.0) -> None:
        monkeypatch.setattr(subject, "_WAIT_SECONDS", wait)
        self.kept, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(self.kept))
        metering = MeterProvider([self.reader], shutdown_on_exit=False)
        self.exporter = Spans(Figures(), tracing.get_tracer("t"), metering.get_meter("t"))  # type: ignore[arg-type]
        self.exporter.per_second = 1_000_000
        self.observer = Observer()
        self.observer.exporter = self.exporter
        self.method = self.observer.method(GRPC, "HeadObject", "S3/HeadObject")

    def call(self, **metadata: str | bytes) -> GrpcCall:
        return GrpcCall(self.method, Context(**metadata))  # type: ignore[arg-type]

    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.kept.get_finished_spans()

    def durations(self) -> dict[str, int]:
        """How many calls were timed, by code; asking makes notes into durations."""
        data = self.reader.get_metrics_data()
        return {
            str(point.attributes["rpc.response.status_code"]): point.count
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "rpc.server.call.duration"
            for point in metric.data.data_points
        }


@pytest.fixture(name="watched")
def watched_fixture(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_a_call_leaves_a_note_and_some_of_them_are_handed_over_together(watched: Watched) -> None:
    for _ in range(subject._BATCH - 1):
        watched.call().done()
    assert not watched.spans()
    watched.call().done()
    assert len(watched.spans()) == subject._BATCH
    watched.call().done()
    assert len(watched.spans()) == subject._BATCH


def test_metrics_count_the_calls_up_to_when_they_are_asked_for(watched: Watched) -> None:
    for _ in range(3):
        watched.call().done()
    watched.call().end("NOT_FOUND", failed=True)
    assert watched.durations() == {"OK": 3, "NOT_FOUND": 1}
    watched.call().done()
    assert watched.durations() == {"OK": 4, "NOT_FOUND": 1}
    assert len(watched.spans()) == 5


def test_the_last_call_is_handed_over_though_none_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, wait=0.01)
    for count in range(1, 4):
        watched.call().done()
        eventually(lambda count=count: len(watched.spans()) == count, "the span")


def test_in_a_hurry_each_call_is_handed_over_at_once(watched: Watched) -> None:
    watched.call().done()
    watched.exporter.hurry()
    assert len(watched.spans()) == 1
    watched.call().done()
    assert len(watched.spans()) == 2


def test_many_threads_hand_over_each_call_once(watched: Watched) -> None:
    each, threads = 500, 4

    def calls() -> None:
        for _ in range(each):
            watched.call().done()

    running = [threading.Thread(target=calls) for _ in range(threads)]
    for thread in running:
        thread.start()
    while any(thread.is_alive() for thread in running):
        watched.exporter.settle()
    assert watched.durations() == {"OK": each * threads}
    assert len({span.context.span_id for span in watched.spans() if span.context}) == each * threads


def test_calls_beyond_those_of_a_second_are_counted_and_failed_ones_apart(watched: Watched) -> None:
    watched.exporter.per_second = 0
    for _ in range(5):
        watched.call().done()
    watched.call().end("NOT_FOUND", failed=True)
    assert watched.durations() == {"OK": 5, "NOT_FOUND": 1}
    assert not watched.spans()
    assert watched.exporter.skipped == 6


def test_spans_come_evenly_and_failed_calls_have_room_of_their_own(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(subject.time, "monotonic", lambda: now)
    watched.exporter.per_second = 50

    def made(calls: int, code: str = "OK", *, failed: bool = False) -> int:
        before = len(watched.spans())
        for _ in range(calls):
            watched.call().end(code, failed=failed)
        watched.exporter.settle()
        return len(watched.spans()) - before

    assert made(100) == 5, "of the first tenth of a second"
    assert made(100, "NOT_FOUND", failed=True) == 5
    now += 0.03
    assert made(100) == 1
    now += 60
    assert made(100) == 5, "what was not used is not kept"
    watched.exporter.per_second = 0.5
    now += 60
    assert made(100) == 1
    now += 1
    assert made(100) == 0
    now += 1
    assert made(100) == 1


def test_a_span_has_what_its_call_had(watched: Watched) -> None:
    call = watched.call(
        traceparent=f"00-{TRACE}-{PARENT}-01", x_request_id="mine", some_bin=b"\0traceparent", tracestate="a=b"
    )
    call.end("INTERNAL", failed=True, reason="not for the collector")
    watched.call().done()
    watched.exporter.settle()
    failed, well = watched.spans()
    assert failed.context
    assert failed.parent
    assert (failed.context.trace_id, failed.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert failed.context.trace_state.get("a") == "b"
    assert dict(failed.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "S3/HeadObject",
        "rpc.response.status_code": "INTERNAL",
        "error.type": "INTERNAL",
        "gestalt_cas.request_id": "mine",
    }
    assert not failed.status.is_ok
    assert well.parent is None
    assert well.start_time is not None
    assert well.end_time is not None
    assert 0 <= well.end_time - well.start_time < 60e9


def test_http_fields_are_found_in_any_case(watched: Watched) -> None:
    method = watched.observer.method(HTTP, "GET")
    HttpCall(method, {"TraceParent": f"00-{TRACE}-{PARENT}-01"}).end("200")
    watched.exporter.settle()
    (span,) = watched.spans()
    assert span.parent
    assert span.parent.span_id == int(PARENT, 16)


Break = Callable[[Watched, pytest.MonkeyPatch], None]


def fail(*_: object, **__: object) -> None:
    raise LookupError("no such thing")


@pytest.mark.parametrize(
    "broken",
    [
        lambda watched, patch: patch.setattr(watched.exporter, "_hand_over", fail),
        lambda watched, patch: patch.setattr(HttpCall, "sent_along", fail),
    ],
    ids=["handing over", "noting down"],
)
def test_trouble_switches_exporting_off_and_fails_no_call(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: Break
) -> None:
    broken(watched, monkeypatch)
    method: Method = watched.observer.method(HTTP, "GET")
    calls: list[Call] = [HttpCall(method, {}) for _ in range(3)]
    for call in calls:
        call.end("200")
        watched.exporter.settle()
    assert watched.observer.exporter is None
    assert caplog.text.count("OpenTelemetry fails") == 1
    assert "no such thing" in caplog.text
    assert method.tally.codes == {"200": 3}
    monkeypatch.undo()
    watched.observer.exporter = watched.exporter
    watched.call().done()
    watched.exporter.settle()
    assert len(watched.spans()) == 1
    assert watched.observer.exporter is not None
