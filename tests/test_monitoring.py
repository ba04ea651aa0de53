"""A running server as whoever watches it sees it: figures, health, logs with the ids of calls, and nothing secret."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest

from gestalt_cas import __version__
from gestalt_cas.observing import readings
from gestalt_cas.observing.calls import Observer
from gestalt_cas.observing.readings import Readings
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.serving.pools import Pools
from presigned import BUCKET, Site
from wire import protos
from wire.client import Client, Lifecycle, eventually, refused
from wire.process import ROOT, SDK_RUNTIME, Hosted, Server

Page = dict[tuple[str, frozenset[tuple[str, str]]], float]
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{((?:{LABEL},?)*)\}})? (\S+)")
KINDS = {"counter", "gauge", "histogram"}
WATCHED = ("telemetry.metrics=loopback", "telemetry.healthz=loopback", "telemetry.logCalls=all")
PLANTED = {"header": "planted-in-metadata", "id": "planted.id-0001", "object": "planted-in-the-body"}


def fetch(base: str, path: str, *, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=30)
    try:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def parsed(text: str) -> Page:
    """The samples of a page; whatever the text format does not allow fails the test."""
    page: Page = {}
    kinds: dict[str, str] = {}
    helped: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            assert name not in helped, f"{name} is there twice"
            helped.add(name)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in KINDS
            assert (kind == "counter") == name.endswith("_total")
            kinds[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            family = found[1] if found[1] in kinds else re.sub(r"_(bucket|sum|count)$", "", found[1])
            assert family in kinds, f"{line}: no type was given before"
            assert family == found[1] or kinds[family] == "histogram"
            at = found[1], frozenset(re.findall(LABEL, found[2] or ""))
            assert at not in page, f"{line} is there twice"
            page[at] = float(found[5])
    assert helped == set(kinds)
    return page


def value(page: Page, name: str, **labels: str) -> float:
    return page.get((f"gestalt_cas_{name}", frozenset(labels.items())), 0.0)


def metrics(site: Site) -> Page:
    status, _, body = fetch(site.base, "/metrics")
    assert status == 200
    return parsed(body.decode())


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.stderr.splitlines()]


@pytest.fixture(scope="module", name="site")
def site_fixture() -> Iterator[Site]:
    with Server(*WATCHED, "telemetry.statisticsSeconds=0.1", "telemetry.logFormat=json") as server:
        site = Site(server)
        yield site
        site.client.close()


@pytest.fixture(scope="module", name="small")
def small_fixture() -> Iterator[Server]:
    """A server that is impatient, and whose store the tests may spoil."""
    settings = ("limits.streamIdleSeconds=0.5", "telemetry.logFormat=json", "telemetry.statisticsSeconds=0")
    with Server(*WATCHED, *settings) as server:
        yield server


@pytest.fixture(scope="module", name="plain")
def plain_fixture() -> Iterator[Server]:
    """A server without pages, with readable logs."""
    with Server("telemetry.logCalls=refused") as server:
        yield server


# ---- figures ----


def test_calls_are_counted_by_code_with_their_durations_and_bytes(site: Site) -> None:
    before = metrics(site)
    site.client.write("counted", b"x" * 100_000, bucket=BUCKET)
    assert len(site.client.body("counted", bucket=BUCKET)) == 100_000
    site.client.head("counted", bucket=BUCKET)
    with refused(grpc.StatusCode.NOT_FOUND):
        site.client.head("not there", bucket=BUCKET)
    after = metrics(site)

    def more(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert more("grpc_calls_total", method="WriteObject", code="OK") == 1
    assert more("grpc_calls_total", method="ReadObject", code="OK") == 1
    assert more("grpc_calls_total", method="HeadObject", code="OK") == 1
    assert more("grpc_calls_total", method="HeadObject", code="NOT_FOUND") == 1
    assert more("grpc_call_duration_seconds_count", method="HeadObject") == 2
    assert more("grpc_call_duration_seconds_bucket", method="HeadObject", le="+Inf") == 2
    assert more("grpc_call_duration_seconds_sum", method="HeadObject") > 0
    assert more("received_bytes_total", protocol="grpc") == 100_000
    assert more("sent_bytes_total", protocol="grpc") == 100_000
    assert more("commit_group_size_count") >= 1
    assert value(after, "wal_bytes") > 0
    assert value(after, "healthy") == value(after, "uploads_possible") == 1
    assert value(after, "disk_free_bytes") <= value(after, "disk_bytes")


def test_http_requests_are_counted_and_the_pages_are_not(site: Site) -> None:
    site.client.write("web", b"w" * 200_000, bucket=BUCKET)
    before = metrics(site)
    assert site.get("web").status == 200
    assert site.put("web2", b"p" * 70_000).status == 200
    assert site.get("missing").status == 404
    fetch(site.base, "/healthz")
    after = metrics(site)
    grown = {
        (dict(labels)["method"], dict(labels)["status"]): count - before.get((name, labels), 0)
        for (name, labels), count in after.items()
        if name == "gestalt_cas_http_requests_total" and count != before.get((name, labels), 0)
    }
    assert grown == {("GET", "200"): 1, ("GET", "404"): 1, ("PUT", "200"): 1}
    for way, count in (("sent", 200_000), ("received", 70_000)):
        name = f"{way}_bytes_total"
        assert value(after, name, protocol="http") - value(before, name, protocol="http") == count


def test_calls_that_their_callers_give_up_are_cancelled_ones(site: Site) -> None:
    site.client.write("long", b"l" * (8 << 20), bucket=BUCKET)
    before = value(metrics(site), "grpc_calls_total", method="ReadObject", code="CANCELLED")
    stream = site.client.read_stream("long", bucket=BUCKET)
    next(stream)
    stream.cancel()
    eventually(
        lambda: value(metrics(site), "grpc_calls_total", method="ReadObject", code="CANCELLED") > before,
        "the read is counted as cancelled",
    )


def test_what_the_store_holds_is_counted_in_the_background(site: Site) -> None:
    body = b"twice the same " * 50
    site.client.write("same/1", body, bucket=BUCKET)
    site.client.write("same/2", body, bucket=BUCKET)

    def agrees() -> bool:
        page, stats = metrics(site), command(site, "stats")
        return all(
            value(page, name) == stats[of]
            for name, of in {
                "objects": "objects",
                "versions": "versions",
                "version_bytes": "version_bytes",
                "dedup_ratio": "dedup_ratio",
            }.items()
        )

    eventually(agrees, "the page shows what stats does")
    assert value(metrics(site), "dedup_ratio") > 1


def command(site: Site, *arguments: str) -> dict[str, Any]:
    """What the command line says as JSON about the store that is served."""
    done = subprocess.run(
        [sys.executable, "-m", "gestalt_cas", *arguments, "--data-dir", str(site.server.data_dir), "--json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_gc_and_check_show_their_last_results(site: Site) -> None:
    page = metrics(site)
    assert not [name for name, _ in page if "check_last" in name]
    command(site, "gc")
    command(site, "check")
    page = metrics(site)
    assert value(page, "gc_last_result", result="done") == 1
    assert value(page, "check_last_result", result="clean") == 1
    assert value(page, "check_last_damage") == 0
    assert value(page, "gc_last_run_timestamp_seconds") > 1_700_000_000
    assert ("gestalt_cas_gc_last_bytes", frozenset()) in page


def test_the_page_of_the_documentation_names_every_figure(site: Site) -> None:
    for verb in ("gc", "check"):
        command(site, verb)
    eventually(lambda: ("gestalt_cas_objects", frozenset()) in metrics(site), "the store has been counted")
    text = (ROOT / "docs/monitoring.md").read_text()
    told = set(re.findall(r"`([a-z_]+)`", text))
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name.removeprefix("gestalt_cas_"))
        for name, _ in metrics(site)
        if name.startswith("gestalt_cas_")
    }
    assert {name for name in shown if not re.match(r"(gc|check|backup|retention)_last_", name)} <= told
    ruled = set(re.findall(r"gestalt_cas_([a-z_]+)", text.partition("groups:")[2].partition("```")[0]))
    assert ruled - {"backup_last_run_timestamp_seconds"} <= shown


def test_a_system_that_tells_nothing_of_a_process_leaves_the_other_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(readings, "_started", readings._started.__wrapped__)  # not what it remembers
    found = {family.name: family for family in Readings(Observer(), Mounts(), Pools(1, 1)).take()}
    assert "process_open_fds" not in found
    assert "process_start_time_seconds" not in found
    (labels, one), *others = found["gestalt_cas_build_info"].samples
    assert (dict(labels)["version"], one, others) == (__version__, 1, [])


# ---- who may look ----


def test_the_pages_are_for_this_machine_only(site: Site) -> None:
    port = urlsplit(site.base).port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST", f"[::ffff:127.0.0.1]:{port}"):
        assert fetch(site.base, "/metrics", Host=host)[0] == 200
    for path in ("/metrics", "/healthz"):
        for fields in (
            {"Host": "files.example.com"},
            {"X_Forwarded_For": "203.0.113.7"},
            {"Forwarded": "for=203.0.113.7"},
            {"Via": "1.1 proxy"},
            {"Host": "127.0.0.1.example.com"},
            {"Host": "[::ffff:203.0.113.7]"},
        ):
            status, _, body = fetch(site.base, path, **fields)
            says = f"telemetry.{path[1:]} says who may see it".encode()
            assert (status, says in body, b"gestalt_cas_" in body) == (403, True, False), (path, fields)


def test_a_listener_of_both_families_knows_this_machine() -> None:
    """Who comes by IPv4 has an IPv6 address there, ::ffff:127.0.0.1."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    with Server("http.listen=[::]:0", "telemetry.healthz=loopback") as server:
        port = urlsplit(server.ready["http"]).port
        assert fetch(f"http://127.0.0.1:{port}", "/healthz")[0] == 200


def test_the_pages_take_get_and_head_only(site: Site) -> None:
    status, fields, body = fetch(site.base, "/metrics", method="HEAD")
    assert (status, body) == (200, b"")
    assert fields["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert fetch(site.base, "/metrics", method="POST")[0] == 400
    assert fetch(site.base, "/metrics/", method="GET")[0] == 400
    assert fetch(site.base, "/healthz?verbose=1")[0] == 200


def test_without_configuration_there_are_no_pages(plain: Server) -> None:
    for path in ("/metrics", "/healthz"):
        status, _, body = fetch(plain.ready["http"], path)
        assert (status, b"gestalt_cas_" in body) == (403, False)
        assert (
            f"{path} is not shown to this caller: telemetry.{path[1:]} says who may see it. It is off".encode() in body
        )
        assert fetch(plain.ready["http"], path, method="HEAD")[0] == 403


def test_pages_without_presigned_urls() -> None:
    with Server("http.enabled=false", "telemetry.healthz=everyone") as server:
        base = server.ready["http"]
        assert fetch(base, "/healthz", Host="anywhere.example.com") == (
            200,
            {"cache-control": "no-store", "content-length": "3", "content-type": "text/plain; charset=utf-8"}
            | {name: fetch(base, "/healthz")[1][name] for name in ("date", "server")},
            b"ok\n",
        )
        status, _, body = fetch(base, "/metrics")
        assert (status, b"telemetry.metrics says" in body) == (403, True), "off"
        status, _, body = fetch(base, f"/{BUCKET}/k?X-Amz-Signature=1")
        assert (status, b"switched off" in body) == (403, True)
        with Client(server.target, protos.BUCKETLESS) as client:
            request = client.pb.PresignObjectRequest(ref=client.ref("k"))
            with refused(grpc.StatusCode.FAILED_PRECONDITION):
                client.call("PresignObject", request)


def test_a_store_that_lost_its_database_is_not_healthy(small: Server) -> None:
    database, base = small.data_dir / "metadata.sqlite3", small.ready["http"]
    assert fetch(base, "/healthz")[::2] == (200, b"ok\n")
    database.rename(small.data_dir / "gone")
    status, _, body = fetch(base, "/healthz")
    page = parsed(fetch(base, "/metrics")[2].decode())
    (small.data_dir / "gone").rename(database)
    assert (status, b"lost its database" in body) == (503, True)
    assert ("gestalt_cas_healthy", frozenset()) in page
    assert value(page, "healthy") == 0
    assert fetch(base, "/healthz")[0] == 200


def test_counting_can_be_switched_off(small: Server) -> None:
    with Client(small.target, protos.BUCKETLESS) as client:
        client.write("counted", b"x")
    for _ in range(2):
        page = parsed(fetch(small.ready["http"], "/metrics")[2].decode())
        assert ("gestalt_cas_healthy", frozenset()) in page
        assert ("gestalt_cas_objects", frozenset()) not in page


# ---- which call it was ----


def with_id(client: Client, key: str, given: str) -> grpc.RpcError:
    """How a look-up fails whose caller says that its id is `given`."""
    request = client.pb.HeadObjectRequest(ref=client.ref(key, bucket=BUCKET))
    with pytest.raises(grpc.RpcError) as caught:
        client.stubs["HeadObject"](request, timeout=30, metadata=(("x-request-id", given),))
    return caught.value


def test_the_callers_id_is_in_the_message_and_in_the_log(site: Site) -> None:
    error = with_id(site.client, "not there", "caller-4711")
    assert error.details().endswith(" (request caller-4711)")
    (line,) = [line for line in lines(site.server) if line.get("request_id") == "caller-4711"]
    assert (line["method"], line["code"], line["received_bytes"]) == ("HeadObject", "NOT_FOUND", 0)
    assert line["ms"] > 0


@pytest.mark.parametrize("given", ["two words", "a" * 129, 'a"b', "<x>", ""])
def test_an_id_that_cannot_stand_in_a_log_line_is_replaced(site: Site, given: str) -> None:
    error = with_id(site.client, "not there", given)
    found = re.search(r" \(request ([0-9a-f]{16})\)$", error.details())
    assert found, error.details()
    assert [line for line in lines(site.server) if line.get("request_id") == found[1]]
    assert not given or given not in error.details()


def test_an_id_is_made_for_each_call_that_brings_none(site: Site) -> None:
    ids = set()
    for _ in range(2):
        with refused(grpc.StatusCode.NOT_FOUND) as caught:
            site.client.head("nope", bucket=BUCKET)
        ids |= set(re.findall(r"\(request (\w+)\)$", caught.value.details()))
    assert len(ids) == 2


def test_http_requests_have_their_ids_too(site: Site) -> None:
    answer = site.call("GET", "not there", headers={"X-Request-Id": "browser-17"})
    assert answer.headers["x-amz-request-id"] == "browser-17"
    assert b"<RequestId>browser-17</RequestId>" in answer.body
    assert [line for line in lines(site.server) if line.get("request_id") == "browser-17"]


def test_a_message_that_is_cut_still_has_its_id(site: Site) -> None:
    error = with_id(site.client, "k" * 2040, "long-one")
    assert error.details().endswith("(request long-one)")


def test_damage_is_logged_with_the_id_of_the_call_that_met_it(small: Server) -> None:
    with Client(small.target, protos.BUCKETLESS) as client:
        digest = client.write("rotten", b"r" * 1000).etag.strip('"')
        (blob,) = (small.data_dir / "blobs").glob(f"??/{digest}")
        blob.chmod(0o600)
        blob.write_bytes(b"R" * 1000)
        stream = client.stubs["ReadObject"](
            client.read_request("rotten"), timeout=30, metadata=(("x-request-id", "victim-1"),)
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert "(request victim-1)" in caught.value.details()
        found = [line for line in lines(small) if line.get("request_id") == "victim-1"]
        errors = {line["logger"] for line in found if line["level"] == "error"}
        assert errors == {"gestalt_cas.operations.payloads", "gestalt_cas.contract.rpc"}


def test_a_peer_that_stands_still_is_told_which_call_ended(small: Server) -> None:
    over = threading.Event()
    with Client(small.target, protos.BUCKETLESS) as client:

        def frames() -> Iterator[Any]:
            yield client.open_frame("slow")
            over.wait(30)

        call = client.stubs["WriteObject"].future(frames(), timeout=30, metadata=(("x-request-id", "slow-1"),))
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED) as caught:
            call.result()
        over.set()
        assert caught.value.details().endswith("(request slow-1)")
        eventually(
            lambda: [
                line
                for line in lines(small)
                if line.get("request_id") == "slow-1" and line.get("code") == "DEADLINE_EXCEEDED"
            ],
            "the call is logged with the code that its caller got",
        )


def test_readable_lines_name_the_call(plain: Server) -> None:
    with Client(plain.target, protos.BUCKETED) as client:
        client.write("there", b"x", bucket=BUCKET)
        with_id(client, "not there", "text-1")
        told = [line for line in plain.stderr.splitlines() if "HeadObject" in line or "WriteObject" in line]
        assert len(told) == 1, "only what was refused is logged"
        assert told[0].endswith("(request text-1)")


# ---- under the SDK's runtime ----


def test_logs_and_pages_are_configured_by_the_host() -> None:
    hosted = Hosted(SDK_RUNTIME)
    try:
        eventually(hosted.socket.exists, "the provider's socket", 60)
        lifecycle = Lifecycle(f"unix://{hosted.socket}")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        telemetry = {"metrics": "loopback", "logFormat": "json", "logCalls": "all"}
        lifecycle.configure(
            {"dataDir": str(hosted.home / "d"), "http": {"listen": f"127.0.0.1:{port}"}, "telemetry": telemetry}
        )
        page = parsed(fetch(f"http://127.0.0.1:{port}", "/metrics")[2].decode())
        assert value(page, "grpc_calls_total", method="ConfigureProvider", code="OK") == 1
        logged = [json.loads(line) for line in hosted.stderr.splitlines() if line.startswith("{")]
        assert [line for line in logged if line.get("method") == "ConfigureProvider"]
        lifecycle.close()
        hosted.stop()
    finally:
        hosted.forget()


# ---- nothing secret ----


def test_nothing_secret_is_to_be_seen(site: Site) -> None:
    site.client.write("s", PLANTED["object"].encode(), bucket=BUCKET, metadata={"k": PLANTED["header"]})
    assert site.get("s").status == 200
    target = site.target("s")
    signature = re.search(r"X-Amz-Signature=([0-9a-f]{64})", target)
    assert signature
    broken = target.replace(signature[1], "f" * 64)
    assert fetch(site.base, broken)[0] == 403
    site.call("PUT", "s", headers={"x-amz-meta-k": PLANTED["header"]}, body=PLANTED["object"].encode())
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        site.client.write("s", b"", bucket=BUCKET, metadata={"k": PLANTED["header"] * 5000})
    seen = site.server.stderr + fetch(site.base, "/metrics")[2].decode()
    assert '"method": "PUT"' in seen, "calls are logged"
    for secret in (
        *PLANTED.values(),
        signature[1],
        "f" * 64,
        site.keys.secret_access_key,
        site.keys.access_key_id,
        "X-Amz-",
    ):
        assert secret not in seen
