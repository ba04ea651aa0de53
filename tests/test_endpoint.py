"""The HTTP endpoint of a real server: reading, writing and removing with presigned URLs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presigned import BUCKET, Answer, Site, exchange, head_of, until_closed
from wire.client import eventually
from wire.process import Server

MIB = 1 << 20
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30) | st.lists(
    st.sampled_from(["..", ".", "", "a", "%2F", "%", "\0", " ", "+", "ü", "\U0001f600", "?", "#", "&=", "\r\n"]),
    min_size=1,
).map("/".join).filter(bool)


@pytest.fixture(scope="module", name="site")
def site_fixture() -> Iterator[Site]:
    """A server with an endpoint; whatever the tests of this module sent it, its log holds nothing unseemly."""
    with Server() as server:
        site = Site(server)
        yield site
        log = server.stderr
        assert "Traceback" not in log
        assert "unexpected" not in log
        assert not re.search("ERROR.*not offered", log), "logged as a fault of the server"
        assert site.keys.secret_access_key not in log
        assert "X-Amz-Signature" not in log
        server.stop()


@pytest.fixture(scope="module", name="small")
def small_fixture() -> Iterator[Site]:
    """A server with narrow limits."""
    with Server("limits.maxObjectBytes=100000", "limits.streamIdleSeconds=1", "limits.concurrentWrites=4") as server:
        yield Site(server)
        assert "Traceback" not in server.stderr


def content(name: str, size: int = 100) -> bytes:
    return (name.encode() * (size // len(name) + 1))[:size]


# ---- GET and HEAD ----


def test_get_and_head_of_an_object(site: Site) -> None:
    meta = site.client.write("plain", content("plain"), bucket=BUCKET)
    got = site.get("plain")
    assert (got.status, got.body) == (200, content("plain"))
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Content-Length"] == "100"
    assert got.headers["ETag"] == meta.etag
    assert got.headers["Last-Modified"] == formatdate(meta.last_modified.seconds, usegmt=True)
    assert got.headers["Accept-Ranges"] == "bytes"
    assert got.headers["x-amz-version-id"] == meta.ref.version_id
    for absent in (
        "Content-Range",
        "Content-Disposition",
        "Cache-Control",
        "x-amz-missing-meta",
        "x-amz-delete-marker",
    ):
        assert got.headers[absent] is None
    head = site.call("HEAD", "plain")
    assert (head.status, head.body) == (200, b"")
    varying = {"Date", "x-amz-request-id"}
    assert {(name, text) for name, text in head.headers.items() if name not in varying} == {
        (name, text) for name, text in got.headers.items() if name not in varying
    }


def test_get_answers_with_the_stored_headers_and_metadata(site: Site) -> None:
    site.client.write(
        "stored",
        b"x",
        bucket=BUCKET,
        content_type="text/html; charset=utf-8",
        cache_control="max-age=60",
        content_disposition='attachment; filename="a.html"',
        content_language="de, en",
        content_encoding="br",
        metadata={"color": "blue", "Mixed-Case": "1", "bad name": "1", "umlaut": "ü", "line": "a\nb", "empty": ""},
    )
    for answer in (site.get("stored"), site.call("HEAD", "stored")):
        found = answer.headers
        assert found["Content-Type"] == "text/html; charset=utf-8"
        assert found["Cache-Control"] == "max-age=60"
        assert found["Content-Disposition"] == 'attachment; filename="a.html"'
        assert found["Content-Language"] == "de, en"
        assert found["Content-Encoding"] == "br"
        assert (found["x-amz-meta-color"], found["x-amz-meta-mixed-case"], found["x-amz-meta-empty"]) == (
            "blue",
            "1",
            "",
        )
        assert found["x-amz-missing-meta"] == "3"


def test_response_overrides(site: Site) -> None:
    site.client.write("over", b"x", bucket=BUCKET, content_type="a/b", cache_control="no-store")
    query = [
        ("response-content-type", "text/plain"),
        ("response-content-disposition", 'attachment; filename="b c.txt"'),
        ("response-cache-control", "no-cache"),
        ("response-content-language", "fr"),
        ("response-content-encoding", "x-none"),
        ("response-expires", "Thu, 01 Jan 2015 00:00:00 GMT"),
    ]
    for method in ("GET", "HEAD"):
        answer = site.call(method, "over", query=query)
        assert answer.status == 200
        for name, value in query:
            assert answer.headers.get_all(name.removeprefix("response-")) == [value]
    split = site.get("over", query=[("response-content-type", "a/b\r\nX-Bad: 1")])
    assert (split.status, split.code, split.headers["X-Bad"]) == (400, "InvalidArgument", None)


def test_not_modified_brings_the_overrides_that_caches_keep(site: Site) -> None:
    """RFC 9110 section 15.4.5: a 304 has the Cache-Control and Expires that a 200 would have had."""
    site.client.write("over-304", b"x", bucket=BUCKET, cache_control="max-age=60")
    condition = {"If-None-Match": "*"}
    query = [
        ("response-cache-control", "no-store"),
        ("response-expires", "Thu, 01 Jan 2015 00:00:00 GMT"),
        ("response-content-type", "text/plain"),
    ]
    for method in ("GET", "HEAD"):
        plain = site.call(method, "over-304", condition)
        assert (plain.status, plain.headers["Cache-Control"], plain.headers["Expires"]) == (304, "max-age=60", None)
        answer = site.call(method, "over-304", condition, query=query)
        assert (answer.status, answer.headers.get_all("Cache-Control")) == (304, ["no-store"])
        assert answer.headers.get_all("Expires") == ["Thu, 01 Jan 2015 00:00:00 GMT"]
        assert (answer.headers["Content-Type"], answer.headers["Content-Length"]) == (None, None)


SIZE = 1000
BODY = bytes(range(250)) * 4


@pytest.mark.parametrize(
    ("field", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=10-19", 10, 20),
        ("bytes=999-", 999, SIZE),
        ("bytes=990-5000", 990, SIZE),
        ("bytes=-1", 999, SIZE),
        ("bytes=-250", 750, SIZE),
        ("bytes=-5000", 0, SIZE),
        ("BYTES = 1 - 2", 1, 3),
        (f"bytes=5-{'9' * 4000}", 5, SIZE),
    ],
)
def test_single_ranges(site: Site, field: str, start: int, stop: int) -> None:
    site.client.write("ranged", BODY, bucket=BUCKET)
    got = site.get("ranged", {"Range": field})
    assert (got.status, got.body) == (206, BODY[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert got.headers["Content-Length"] == str(stop - start)
    head = site.call("HEAD", "ranged", {"Range": field})
    assert (head.status, head.headers["Content-Range"]) == (206, got.headers["Content-Range"])


@pytest.mark.parametrize(
    "field",
    ["bytes=0-1,3-4", "bytes=5-4", "bytes=-", "bytes=a-b", "items=0-1", "0-1", "bytes", "bytes=0-1-2", "bytes=--1"],
)
def test_other_ranges_are_answered_whole(site: Site, field: str) -> None:
    site.client.write("ranged", BODY, bucket=BUCKET)
    got = site.get("ranged", {"Range": field})
    assert (got.status, got.body, got.headers["Content-Range"]) == (200, BODY, None)


@pytest.mark.parametrize("field", ["bytes=1000-", "bytes=1000-1001", "bytes=-0", f"bytes={'9' * 4000}-"])
def test_ranges_that_cannot_be_satisfied(site: Site, field: str) -> None:
    site.client.write("ranged", BODY, bucket=BUCKET)
    got = site.get("ranged", {"Range": field})
    assert (got.status, got.code, got.headers["Content-Range"]) == (416, "InvalidRange", f"bytes */{SIZE}")
    head = site.call("HEAD", "ranged", {"Range": field})
    assert (head.status, head.body, head.headers["Content-Range"]) == (416, b"", f"bytes */{SIZE}")


def test_two_range_fields_are_answered_whole(site: Site) -> None:
    site.client.write("ranged", BODY, bucket=BUCKET)
    got = site.send("GET", site.target("ranged"), [("Range", "bytes=0-1"), ("Range", "bytes=2-3")])
    assert (got.status, got.body) == (200, BODY)


def test_empty_objects(site: Site) -> None:
    site.client.write("empty", b"", bucket=BUCKET)
    got = site.get("empty")
    assert (got.status, got.body, got.headers["Content-Length"]) == (200, b"", "0")
    assert site.get("empty", {"Range": "bytes=0-"}).status == 416
    assert site.get("empty", {"Range": "bytes=-5"}).status == 416


def test_if_range(site: Site) -> None:
    meta = site.client.write("ifrange", BODY, bucket=BUCKET)
    date = formatdate(meta.last_modified.seconds, usegmt=True)
    before = formatdate(meta.last_modified.seconds - 1, usegmt=True)
    after = formatdate(meta.last_modified.seconds + 1, usegmt=True)
    for field, status in (
        (meta.etag, 206),
        (date, 206),
        ('"other"', 200),
        (f"W/{meta.etag}", 200),
        (before, 200),
        (after, 200),
        ("nonsense", 200),
    ):
        got = site.get("ifrange", {"Range": "bytes=0-9", "If-Range": field})
        assert (got.status, got.body) == (status, BODY[:10] if status == 206 else BODY), field


def test_conditions_of_reads(site: Site) -> None:
    meta = site.client.write("cond", BODY, bucket=BUCKET, cache_control="max-age=60")
    date = formatdate(meta.last_modified.seconds, usegmt=True)
    before = formatdate(meta.last_modified.seconds - 1, usegmt=True)
    cases: list[tuple[dict[str, str], int]] = [
        ({"If-Match": meta.etag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f'"a", {meta.etag}'}, 200),
        ({"If-Match": '"a"'}, 412),
        ({"If-None-Match": meta.etag}, 304),
        ({"If-None-Match": f'"a", W/{meta.etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"a"'}, 200),
        ({"If-Modified-Since": date}, 304),
        ({"If-Modified-Since": before}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"If-Unmodified-Since": date}, 200),
        ({"If-Unmodified-Since": before}, 412),
        ({"If-Unmodified-Since": before, "If-Match": meta.etag}, 200),
        ({"If-None-Match": '"a"', "If-Modified-Since": date}, 200),
        ({"If-Match": '"a"', "Range": "bytes=5000-"}, 412),
        ({"If-None-Match": meta.etag, "Range": "bytes=5000-"}, 304),
    ]
    for fields, status in cases:
        got, head = site.get("cond", fields), site.call("HEAD", "cond", fields)
        assert (got.status, head.status, head.body) == (status, status, b""), fields
        if status == 412:
            assert got.code == "PreconditionFailed"
        if status == 304:
            assert (got.body, got.headers["ETag"], got.headers["Last-Modified"]) == (b"", meta.etag, date)
            assert got.headers["Cache-Control"] == "max-age=60"


def test_a_condition_on_two_lines_is_one_list(site: Site) -> None:
    meta = site.client.write("cond2", BODY, bucket=BUCKET)
    got = site.send("GET", site.target("cond2"), [("If-None-Match", '"a"'), ("If-None-Match", meta.etag)])
    assert got.status == 304


def test_what_is_not_there(site: Site) -> None:
    got = site.get("absent")
    assert (got.status, got.code, got.headers["x-amz-delete-marker"]) == (404, "NoSuchKey", None)
    assert b"<Resource>/b/absent</Resource>" in got.body
    head = site.call("HEAD", "absent")
    assert (head.status, head.body) == (404, b"")
    site.client.write("there", b"x", bucket=BUCKET)
    assert site.get("there", query=[("versionId", "none")]).code == "NoSuchVersion"
    assert site.get("there", bucket="other").status == 404


def test_versions_and_delete_markers(site: Site) -> None:
    first = site.client.write("many", b"one", bucket=BUCKET).ref.version_id
    site.client.write("many", b"two", bucket=BUCKET)
    assert site.get("many", query=[("versionId", first)]).body == b"one"
    assert site.get("many").body == b"two"
    gone = site.call("DELETE", "many")
    assert (gone.status, gone.body, gone.headers["x-amz-delete-marker"]) == (204, b"", "true")
    marker = gone.headers["x-amz-version-id"]
    for method in ("GET", "HEAD"):
        absent = site.call(method, "many")
        assert (absent.status, absent.headers["x-amz-delete-marker"]) == (404, "true")
        by_id = site.call(method, "many", query=[("versionId", marker)])
        assert (by_id.status, by_id.headers["x-amz-delete-marker"], by_id.headers["Allow"]) == (405, "true", "DELETE")
    assert site.get("many").code == "NoSuchKey"
    assert site.get("many", query=[("versionId", marker)]).code == "MethodNotAllowed"
    assert site.get("many", query=[("versionId", first)]).body == b"one"
    undeleted = site.call("DELETE", "many", query=[("versionId", marker)])
    assert (undeleted.status, undeleted.headers["x-amz-version-id"]) == (204, marker)
    assert undeleted.headers["x-amz-delete-marker"] == "true"
    assert site.get("many").body == b"two"


def test_delete_of_a_version_and_of_nothing(site: Site) -> None:
    first = site.client.write("del", b"one", bucket=BUCKET).ref.version_id
    site.client.write("del", b"two", bucket=BUCKET)
    gone = site.call("DELETE", "del", query=[("versionId", first)])
    assert (gone.status, gone.headers["x-amz-version-id"], gone.headers["x-amz-delete-marker"]) == (204, first, None)
    assert site.get("del", query=[("versionId", first)]).status == 404
    assert site.call("DELETE", "del", query=[("versionId", first)]).status == 204
    assert site.get("del").body == b"two"
    assert site.call("DELETE", "never").headers["x-amz-delete-marker"] == "true"


# ---- damage ----


@pytest.mark.parametrize("where", [0, 3 * MIB + 5, 5 * MIB - 1], ids=["first", "later", "last"])
def test_damage_ends_the_connection_before_the_declared_length(site: Site, where: int) -> None:
    body = hashlib.shake_128(str(where).encode()).digest(5 * MIB)
    meta = site.client.write(f"damage-{where}", body, bucket=BUCKET)
    digest = meta.etag.strip('"')
    path = site.server.data_dir / "blobs" / digest[:2] / digest
    flipped = bytearray(body)
    flipped[where] ^= 1
    path.chmod(0o600)
    path.write_bytes(flipped)
    with site.socket() as connection:
        target = site.target(f"damage-{where}")
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
        received = until_closed(connection)
    head, _, got = received.partition(b"\r\n\r\n")
    if head:  # the abort may overtake the head
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nContent-Length: 5242880\r\n" in head
    assert len(got) <= where // MIB * MIB
    assert body.startswith(got)


# ---- PUT ----


def test_put_with_a_length_and_in_chunks(site: Site) -> None:
    body = content("put", 3 * MIB)
    chunks = (body[start : start + 70_000] for start in range(0, len(body), 70_000))
    for key, sent in (("put-length", body), ("put-chunks", chunks)):
        done = site.put(key, sent)
        meta = site.client.head(key, bucket=BUCKET)
        assert (done.status, done.body) == (200, b"")
        assert (done.headers["ETag"], done.headers["x-amz-version-id"]) == (meta.etag, meta.ref.version_id)
        assert site.client.body(key, bucket=BUCKET) == body
    assert site.put("put-empty", b"").status == 200
    assert site.put("put-empty-chunks", []).status == 200
    assert site.client.head("put-empty-chunks", bucket=BUCKET).size == 0


def test_put_stores_headers_and_metadata(site: Site) -> None:
    fields = {
        "Content-Type": "text/html",
        "Cache-Control": "max-age=1",
        "Content-Disposition": "inline",
        "Content-Encoding": "gzip",
        "Content-Language": "de",
        "x-amz-meta-Color": "blue",
        "x-amz-meta-other": "1",
    }
    body = gzip.compress(b"hello " * 1000)
    assert site.put("put-headers", body, fields).status == 200
    meta = site.client.head("put-headers", bucket=BUCKET)
    assert (meta.content_type, dict(meta.metadata)) == ("text/html", {"color": "blue", "other": "1"})
    got = site.get("put-headers")
    assert got.body == body
    for name, value in fields.items():
        assert got.headers.get_all(name) == [value]


CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "Content-MD5": lambda data: hashlib.md5(data).digest(),
    "x-amz-checksum-crc32": lambda data: zlib.crc32(data).to_bytes(4),
    "x-amz-checksum-crc32c": lambda data: google_crc32c.value(data).to_bytes(4),
    "x-amz-checksum-sha1": lambda data: hashlib.sha1(data).digest(),
    "x-amz-checksum-sha256": lambda data: hashlib.sha256(data).digest(),
}


@pytest.mark.parametrize("name", CHECKSUMS)
def test_put_checks_checksums(site: Site, name: str) -> None:
    body = content(name, 200_000)
    right = base64.b64encode(CHECKSUMS[name](body)).decode()
    wrong = base64.b64encode(CHECKSUMS[name](body + b"x")).decode()
    key = f"sum-{name}"
    for sent in (body, [body[:1000], body[1000:]]):
        refused = site.put(key, sent, {name: wrong})
        assert (refused.status, refused.code) == (400, "BadDigest")
        assert not site.exists(key)
    for malformed in ("", "x", right[:-4], base64.b64encode(b"abc").decode(), "ü"):
        with site.socket() as connection:
            target = site.target(key, "PUT", headers={name: malformed} if name.startswith("x-amz") else {})
            head = (
                f"PUT {target} HTTP/1.1\r\nHost: {site.authority}\r\n{name}: {malformed}\r\nContent-Length: 0\r\n\r\n"
            )
            connection.sendall(head.encode())
            assert head_of(connection).startswith(b"HTTP/1.1 400 "), malformed
    assert not site.exists(key)
    done = site.put(key, body, {name: right})
    assert done.status == 200
    assert done.headers[name] == (right if "checksum" in name else None)
    assert site.client.body(key, bucket=BUCKET) == body
    assert not site.server.staged()


def test_the_known_checksum_of_nine_digits(site: Site) -> None:
    """The check values of the catalogues of CRCs: both CRCs are what everybody else computes."""
    digits = b"123456789"
    for name, value in (("crc32", 0xCBF43926), ("crc32c", 0xE3069283)):
        text = base64.b64encode(value.to_bytes(4)).decode()
        assert site.put(f"known-{name}", digits, {f"x-amz-checksum-{name}": text}).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="},
        {"x-amz-checksum-sha512": "AA=="},
        {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
        {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
        {"Content-Encoding": "aws-chunked"},
        {"Content-Encoding": "gzip, aws-chunked"},
        {"x-amz-trailer": "x-amz-checksum-crc32"},
        {"Trailer": "x-amz-checksum-crc32"},
        {"x-amz-copy-source": "/b/plain"},
        {"x-amz-acl": "public-read"},
        {"x-amz-tagging": "a=b"},
        {"x-amz-storage-class": "GLACIER"},
        {"x-amz-server-side-encryption": "AES256"},
    ],
)
def test_put_refuses_what_it_does_not_have(site: Site, fields: dict[str, str]) -> None:
    for body in (b"abc", [b"abc"]):
        refused = site.put("unsupported", body, fields)
        assert (refused.status, refused.code) == (501, "NotImplemented")
    assert not site.exists("unsupported")


def test_what_is_signed_in_the_query_counts_like_a_header(site: Site) -> None:
    """The SDKs for JavaScript, Ruby and Go move x-amz headers into the URL; S3 stores metadata that stands there.

    A checksum that stands there is the JavaScript SDK's of a body that it does not know, and S3 passes it over.
    """
    moved = [
        ("x-amz-meta-color", "bl ue"),
        ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
        ("x-id", "PutObject"),
    ]
    assert site.put("moved", b"abc", query=moved).status == 200
    assert site.get("moved").headers["x-amz-meta-color"] == "bl ue"
    assert site.put("moved", b"abc", {"x-amz-meta-color": "red"}, query=moved).status == 200
    assert site.get("moved").headers["x-amz-meta-color"] == "red"
    assert site.get("moved", query=[("x-amz-checksum-mode", "ENABLED"), ("x-id", "GetObject")]).body == b"abc"
    for name, value in (("x-amz-copy-source", "/b/plain"), ("x-amz-acl", "public-read"), ("x-amz-tagging", "a=b")):
        refused = site.put("moved", b"", query=[(name, value)])
        assert (refused.status, refused.code) == (501, "NotImplemented")
    assert site.call("DELETE", "moved", query=[("x-amz-if-match-size", "1")]).status == 501
    assert site.client.body("moved", bucket=BUCKET) == b"abc"


def test_a_part_is_not_stored_as_the_whole(site: Site) -> None:
    site.client.write("part", b"0123456789", bucket=BUCKET)
    refused = site.put("part", b"ab", {"Content-Range": "bytes 0-1/10"})
    assert (refused.status, refused.code) == (400, "InvalidArgument")
    assert site.client.body("part", bucket=BUCKET) == b"0123456789"


@pytest.mark.parametrize("coding", ["gzip, chunked", "GZIP,chunked", "chunked, chunked"])
def test_other_transfer_codings_are_refused(site: Site, coding: str) -> None:
    """Only the chunks would be taken apart, and what is in them stored as it came."""
    with site.socket() as connection:
        connection.sendall(put_head(site, "coded", f"Transfer-Encoding: {coding}", "Connection: close"))
        connection.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        received = until_closed(connection)
    assert re.match(rb"HTTP/1\.[01] (501|400) ", received), received
    assert not site.exists("coded")


@pytest.mark.parametrize("name", ["uploads", "uploadId", "acl", "tagging", "partNumber", "retention"])
def test_subresources_are_refused(site: Site, name: str) -> None:
    site.client.write("sub", b"x", bucket=BUCKET)
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        body = b"new" if method == "PUT" else None
        assert site.call(method, "sub", body=body, query=[(name, "")]).status == 501
    assert site.client.body("sub", bucket=BUCKET) == b"x"


def test_the_sha256_of_the_payload_is_checked(site: Site) -> None:
    body = b"signed payload"
    right, wrong = hashlib.sha256(body).hexdigest(), hashlib.sha256(b"x").hexdigest()
    assert site.put("sha", body, {"x-amz-content-sha256": wrong}).code == "BadDigest"
    assert site.put("sha", body, {"x-amz-content-sha256": "nonsense"}).code == "InvalidArgument"
    assert not site.exists("sha")
    assert site.put("sha", body, {"x-amz-content-sha256": right}).status == 200
    assert site.put("sha", body, {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}).status == 200


def test_conditions_of_writes(site: Site) -> None:
    assert site.put("cw", b"1", {"If-Match": "*"}).code == "PreconditionFailed"
    assert site.put("cw", b"1", {"If-None-Match": "*"}).status == 200
    refused = site.put("cw", b"2", {"If-None-Match": "*"})
    assert (refused.status, refused.code) == (412, "PreconditionFailed")
    first = site.client.head("cw", bucket=BUCKET)
    assert site.put("cw", b"2", {"If-Match": '"x"'}).status == 412
    assert site.put("cw", b"2", {"If-Match": first.etag}).status == 200
    assert site.put("cw", b"3", query=[("versionId", first.ref.version_id)]).status == 412
    second = site.client.head("cw", bucket=BUCKET).ref.version_id
    assert site.put("cw", b"3", query=[("versionId", second)]).status == 200
    assert site.client.body("cw", bucket=BUCKET) == b"3"


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "If-Unmodified-Since", "x-amz-if-match-size"])
def test_conditions_that_are_not_offered_are_refused(site: Site, name: str) -> None:
    site.client.write("uncond", b"x", bucket=BUCKET)
    refused = site.call("DELETE", "uncond", {name: "*"})
    assert (refused.status, refused.code) == (501, "NotImplemented")
    assert site.put("uncond", b"y", {"If-Unmodified-Since": formatdate(0, usegmt=True)}).status == 501
    assert site.client.body("uncond", bucket=BUCKET) == b"x"


def test_put_without_a_length(site: Site) -> None:
    refused = site.put("nolength", None)
    assert refused.status in (400, 411)
    assert not site.exists("nolength")


def test_too_large_objects(small: Site) -> None:
    assert small.put("large", bytes(100_000)).status == 200
    for body in (bytes(100_001), iter([bytes(60_000), bytes(60_000)])):
        refused = small.put("larger", body)
        assert (refused.status, refused.code) == (413, "EntityTooLarge")
    assert not small.exists("larger")
    eventually(lambda: not small.server.staged(), "nothing staged")


def put_head(site: Site, key: str, *lines: str, **signing: Any) -> bytes:
    """The head of a PUT request."""
    target = site.target(key, "PUT", **signing)
    return "\r\n".join([f"PUT {target} HTTP/1.1", f"Host: {site.authority}", *lines, "", ""]).encode()


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_a_cut_off_upload_leaves_nothing(site: Site, framing: str) -> None:
    site.client.write("cut", b"before", bucket=BUCKET)
    with site.socket() as connection:
        connection.sendall(put_head(site, "cut", framing))
        connection.sendall(b"7d0\r\n" * ("chunked" in framing) + bytes(2000))
        eventually(site.server.staged, "the upload has begun")
    eventually(lambda: not site.server.staged(), "the upload is gone")
    assert site.client.body("cut", bucket=BUCKET) == b"before"
    assert len(site.client.keys(bucket=BUCKET, prefix="cut")) == 1


def test_an_idle_upload_is_dropped(small: Site) -> None:
    with small.socket() as connection:
        connection.sendall(put_head(small, "idle", "Content-Length: 1000") + b"abc")
        assert head_of(connection).startswith(b"HTTP/1.1 408 ")
    assert not small.exists("idle")
    assert not small.server.staged()


def test_an_idle_download_is_dropped() -> None:
    with Server("limits.streamIdleSeconds=1") as server:
        site = Site(server)
        site.client.write("big", bytes(64 * MIB), bucket=BUCKET)
        with site.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(f"GET {site.target('big')} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
            eventually(lambda: "ended early" in server.stderr, "the download is dropped", 30)
            assert len(until_closed(connection)) < 64 * MIB
        server.stop()


# ---- Expect ----


def test_expect_is_answered_when_the_body_is_wanted(site: Site) -> None:
    with site.socket() as connection:
        connection.sendall(put_head(site, "expect", "Expect: 100-continue", "Content-Length: 5"))
        assert head_of(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hello")
        assert head_of(connection).startswith(b"HTTP/1.1 200 ")
        connection.sendall(put_head(site, "expect2", "Expect: 100-continue", "Content-Length: 5"))
        assert head_of(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"again")
        assert head_of(connection).startswith(b"HTTP/1.1 200 ")
    assert site.client.body("expect", bucket=BUCKET) == b"hello"
    assert site.client.body("expect2", bucket=BUCKET) == b"again"


@pytest.mark.parametrize("why", ["signature", "condition", "checksum", "length", "url"])
def test_no_body_is_asked_for_in_vain(site: Site, why: str) -> None:
    site.client.write("expect3", b"x", bucket=BUCKET)
    lines = ["Expect: 100-continue", "Content-Length: 5"]
    head = put_head(site, "expect3", *lines)
    status = b"403"
    if why == "signature":
        head = head.replace(b"/expect3?", b"/expect4?")
    elif why == "condition":
        head, status = put_head(site, "expect3", *lines, "If-None-Match: *"), b"412"
    elif why == "checksum":
        head, status = put_head(site, "expect3", *lines, "Content-MD5: x"), b"400"
    elif why == "length":
        head, status = put_head(site, "expect3", lines[0], f"Content-Length: {1 << 60}"), b"413"
    else:
        head = put_head(site, "expect3", *lines, age=901)
    with site.socket() as connection:
        connection.sendall(head)
        answer = head_of(connection)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nConnection: close\r\n" in answer
    assert site.client.body("expect3", bucket=BUCKET) == b"x"


def test_expect_of_http_1_0_is_passed_over(site: Site) -> None:
    with site.socket() as connection:
        head = put_head(site, "expect10", "Expect: 100-continue", "Content-Length: 5")
        connection.sendall(head.replace(b"HTTP/1.1", b"HTTP/1.0") + b"hello")
        assert head_of(connection).split(b" ", 1)[1].startswith(b"200 ")


# ---- keys, targets, connections ----


@settings(max_examples=40)
@given(key=KEYS, data=st.binary(max_size=20))
def test_any_key_makes_the_round(site: Site, key: str, data: bytes) -> None:
    assert site.put(key, data, bucket="any").status == 200
    assert site.get(key, bucket="any").body == data
    assert site.client.body(key, bucket="any") == data
    presigned = urlsplit(site.presign(key, bucket="any").url)
    assert site.send("GET", f"{presigned.path}?{presigned.query}").body == data
    assert site.call("DELETE", key, bucket="any").status == 204
    absent = site.get(key, bucket="any")
    assert (absent.status, absent.code) == (404, "NoSuchKey")


@pytest.mark.parametrize("key", ["\U0001f600" * 512, "/" * 2048, "\0" * 2048, "../" * 682, "a"])
def test_long_keys_and_request_lines(site: Site, key: str) -> None:
    assert site.put(key, b"long").status == 200
    target = site.target(key)
    filled = site.target(key, query=[("x-fill", "f" * (32 * 1024 - len(target) - len("GET  HTTP/1.1&x-fill=")))])
    assert len(f"GET {filled} HTTP/1.1") == 32 * 1024
    assert site.send("GET", filled).body == b"long"


def test_over_long_keys_and_lines(site: Site) -> None:
    assert site.put("a" * 2049, b"").code == "InvalidArgument"
    for answer, status in (
        (site.send("GET", "/" + "a" * 100_000), 414),
        (site.send("GET", site.target("plain"), {"X-Long": "a" * 100_000}), 431),
        (site.send("GET", site.target("plain"), {"X(": "a"}), 400),
    ):
        assert (answer.status, answer.code, answer.headers["Server"]) == (status, "BadRequest", "gestalt-cas")


@pytest.mark.parametrize("target", ["/", "/b", "/b/", "//", "*", "/b/%", "/b/%zz", "/b/%ff", "/%ff/k", "/b/k?%ff=1"])
def test_targets_that_name_no_object(site: Site, target: str) -> None:
    answer = site.send("GET", target)
    assert answer.status in (400, 403)
    assert answer.code in ("InvalidURI", "AccessDenied", "BadRequest")


def test_the_absolute_form(site: Site) -> None:
    site.client.write("absolute", b"x", bucket=BUCKET)
    assert site.send("GET", site.base + site.target("absolute")).body == b"x"


def test_other_methods(site: Site) -> None:
    for method in ("POST", "PATCH", "TRACE", "PROPFIND"):
        assert site.send(method, site.target("plain")).status in (400, 403)
        refused = site.send(method, site.target("plain", method))
        assert refused.status in (400, 405)
        if refused.status == 405:
            assert refused.code == "MethodNotAllowed"
            assert refused.headers["Allow"] == "GET, HEAD, PUT, DELETE"


def test_a_connection_is_used_again_after_errors(site: Site) -> None:
    site.client.write("again", BODY, bucket=BUCKET)

    def same(method: str, target: str, body: bytes | None = None, **fields: str) -> Answer:
        return exchange(connection, method, target, fields, body, host=site.authority)

    with site.connection() as connection:
        port = None
        for _ in range(3):
            assert same("GET", site.target("again")).body == BODY
            port = port or connection.sock.getsockname()
            assert same("GET", site.target("nothing")).status == 404
            assert same("HEAD", site.target("nothing", "HEAD")).status == 404
            assert same("GET", site.target("again", age=901)).status == 403
            assert same("PUT", site.target("again", age=901), b"x" * 1000).status == 403
            assert same("GET", site.target("again"), Range="bytes=5000-").status == 416
            assert same("GET", site.target("again"), Range="bytes=1-2").body == BODY[1:3]
            assert connection.sock.getsockname() == port


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    for name in ("<p1>", "<p2>", "<p3>"):
        site.client.write(name, name.encode() * 100_000, bucket=BUCKET)
    with site.socket() as connection:
        for name in ("<p1>", "<p2>", "<p3>"):
            last = "Connection: close\r\n" * (name == "<p3>")
            connection.sendall(f"GET {site.target(name)} HTTP/1.1\r\nHost: {site.authority}\r\n{last}\r\n".encode())
        received = until_closed(connection)
    assert [received.count(name.encode()) for name in ("<p1>", "<p2>", "<p3>")] == [100_000] * 3
    assert received.index(b"<p1>") < received.index(b"<p2>") < received.index(b"<p3>")


def test_http_1_0(site: Site) -> None:
    site.client.write("old", b"old body", bucket=BUCKET)
    for target, status, body in ((site.target("old"), b"200", b"old body"), (site.target("no"), b"404", b"</Error>\n")):
        with site.socket() as connection:
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: {site.authority}\r\n\r\n".encode())
            received = until_closed(connection)
        assert received.split(b" ")[1] == status
        assert received.endswith(body)


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_other_versions_are_answered_in_one_of_ours(site: Site, version: str) -> None:
    site.client.write("versions", b"body", bucket=BUCKET)
    with site.socket() as connection:
        connection.sendall(f"GET {site.target('versions')} HTTP/{version}\r\nHost: {site.authority}\r\n\r\n".encode())
        received = until_closed(connection)
    assert re.match(rb"HTTP/1\.[01] 200 ", received)
    assert received.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "x"])
def test_who_asks_for_another_protocol_is_answered_and_not_left_waiting(site: Site, protocol: str) -> None:
    """aiohttp passes over what stands behind such a request; so the answer says that the connection ends."""
    asks = ("Connection: Upgrade", f"Upgrade: {protocol}", "Content-Length: 3")
    second = f"GET {site.target('upgrade')} HTTP/1.1\r\nHost: {site.authority}\r\nConnection: close\r\n\r\n"
    with site.socket() as connection:
        connection.settimeout(20)
        connection.sendall(put_head(site, "upgrade", *asks) + b"abc" + second.encode())
        received = until_closed(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nConnection: close\r\n" in received
    assert site.client.body("upgrade", bucket=BUCKET) == b"abc"


def test_a_chunked_body_of_http_1_0_ends_the_connection(site: Site) -> None:
    """RFC 9112 section 6.1: such a caller may mean another end of the body."""
    head = put_head(site, "old-chunks", "Connection: keep-alive", "Transfer-Encoding: chunked")
    with site.socket() as connection:
        connection.settimeout(20)
        connection.sendall(head.replace(b" HTTP/1.1", b" HTTP/1.0") + b"3\r\nabc\r\n0\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize("framing", ["Content-Length: 3", "Transfer-Encoding: chunked"])
def test_who_closes_his_side_is_answered(site: Site, framing: str) -> None:
    """As `nc -N` does: all that was sent whole is done and answered, then the connection ends."""
    large = content("half", 8 * MIB)
    site.client.write("half-large", large, bucket=BUCKET)
    get = f"GET {site.target('half-large')} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode()
    put = put_head(site, "half", framing) + (b"abc" if "Length" in framing else b"3\r\nabc\r\n0\r\n\r\n")
    for sent, statuses in (([put], [200]), ([get], [200]), ([get, put, get], [200] * 3), ([get, put[:-4]], [200])):
        with site.socket() as connection:
            connection.sendall(b"".join(sent))
            connection.shutdown(socket.SHUT_WR)
            received = until_closed(connection)
        if sent[-1] == put[:-4]:
            continue  # the last request is not whole; whether those before it are answered, nobody may rely on
        assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", received)] == statuses
        assert received.count(large) == sent.count(get)
    assert site.client.body("half", bucket=BUCKET) == b"abc"
    eventually(lambda: not site.server.staged(), "nothing staged")


def test_an_upload_cut_short_by_closing_one_side_leaves_nothing(site: Site) -> None:
    for framing in ("Content-Length: 10", "Transfer-Encoding: chunked"):
        with site.socket() as connection:
            connection.sendall(put_head(site, "half-cut", framing) + b"3\r\nabc\r\n")
            connection.shutdown(socket.SHUT_WR)
            until_closed(connection)
    eventually(lambda: not site.server.staged(), "nothing staged")
    assert not site.exists("half-cut")


def test_callers_who_leave_in_the_middle_are_no_error(site: Site) -> None:
    site.client.write("leave", bytes(32 * MIB), bucket=BUCKET)
    for _ in range(5):
        with site.socket() as connection:
            connection.sendall(f"GET {site.target('leave')} HTTP/1.1\r\nHost: {site.authority}\r\n\r\n".encode())
            connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    time.sleep(0.3)
    assert site.get("leave", {"Range": "bytes=0-1"}).body == b"\0\0"
    assert "Traceback" not in site.server.stderr


# ---- CORS ----


def preflight(site: Site, origin: str, **fields: str) -> Answer:
    wanted = {
        "Origin": origin,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type",
    }
    return site.send("OPTIONS", site.target("cors", "PUT"), {**wanted, **fields})


def test_no_origin_is_allowed_by_default(site: Site) -> None:
    answer = preflight(site, "https://app.test")
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (403, None)
    site.client.write("cors", b"x", bucket=BUCKET)
    got = site.get("cors", {"Origin": "https://app.test"})
    assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (200, None)


def test_configured_origins_are_allowed() -> None:
    with Server('http.corsOrigins=["https://app.test","http://localhost:3000"]') as server:
        site = Site(server)
        for origin in ("https://app.test", "http://localhost:3000"):
            answer = preflight(site, origin)
            assert (answer.status, answer.body) == (204, b"")
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Headers"] == "content-type"
            assert "Origin" in answer.headers["Vary"]
            done = site.put("cors", b"x", {"Origin": origin})
            assert (done.status, done.headers["Access-Control-Allow-Origin"]) == (200, origin)
            assert "ETag" in done.headers["Access-Control-Expose-Headers"]
            assert site.get("none", {"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin
        for origin in ("https://app.test.evil", "http://app.test", "null", "https://APP.test"):
            assert preflight(site, origin).status == 403
            got = site.get("cors", {"Origin": origin})
            assert (got.status, got.headers["Access-Control-Allow-Origin"], got.headers["Vary"]) == (
                200,
                None,
                "Origin",
            )
        assert site.send("OPTIONS", "/b/k", {"Origin": "https://app.test"}).status == 403  # no preflight


def test_every_origin_can_be_allowed_and_nothing_odd_comes_back() -> None:
    with Server('http.corsOrigins=["*"]') as server:
        site = Site(server)
        assert (
            preflight(site, "https://anything.test").headers["Access-Control-Allow-Origin"] == "https://anything.test"
        )
        with site.socket() as connection:
            connection.sendall(
                b"OPTIONS /b/k HTTP/1.1\r\nHost: h\r\nOrigin: \xff\xfe\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
            )
            assert head_of(connection).startswith(b"HTTP/1.1 403 ")
        with site.socket() as connection:
            connection.sendall(
                b"OPTIONS /b/k HTTP/1.1\r\nHost: h\r\nOrigin: a\r\nAccess-Control-Request-Method: PUT\r\n"
                b"Access-Control-Request-Headers: \xff\r\n\r\n"
            )
            assert head_of(connection).startswith(b"HTTP/1.1 204 ")
        server.assert_no_traceback()
