"""Conformance cases 83 to 89 (contract section 5, Presign), once per wire generation, and 3.9 beyond them."""

from __future__ import annotations

import time
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest

from wire import protos
from wire.client import Client, Place, refused
from wire.fixtures import client_fixture, place_fixture, server_fixture  # noqa: F401
from wire.process import Server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
GET, PUT, DELETE, HEAD = 1, 2, 3, 4
NAMES = {GET: "GET", PUT: "PUT", DELETE: "DELETE", HEAD: "HEAD"}


def presign(place: Place, name: str, method: int = 0, *, version_id: str = "", **fields: Any) -> Any:
    request = place.pb.PresignObjectRequest(ref=place.ref(name, version_id), method=method, **fields)
    return place.client.call("PresignObject", request)


def use(answer: Any, body: bytes | None = None, **headers: str) -> bytes:
    """Do what the URL is for, sending the headers of the answer."""
    request = urllib.request.Request(
        answer.url, data=body, method=NAMES[answer.method], headers={**dict(answer.headers), **headers}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return bytes(response.read())


def use_fails(answer: Any, status: int, body: bytes | None = None, **headers: str) -> None:
    with pytest.raises(HTTPError) as caught:
        use(answer, body, **headers)
    caught.value.close()
    assert caught.value.code == status


def query(answer: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(answer.url).query, keep_blank_values=True, strict_parsing=True)


def test_case_083_presign_put(place: Place) -> None:
    answer = presign(
        place,
        "k",
        PUT,
        content_type="text/plain",
        content_disposition="inline",
        headers={"x-test": "1", "Host": "evil.test", "hOST": "evil.test", "CONTENT-TYPE": "a/b"},
    )
    assert answer.method == PUT
    assert dict(answer.headers) == {"x-test": "1", "Content-Type": "text/plain", "Content-Disposition": "inline"}
    assert "response-content-type" not in query(answer)
    use(answer, b"uploaded")
    assert place.body("k") == b"uploaded"
    assert place.head("k").content_type == "text/plain"


def test_case_083_each_header_must_be_sent(place: Place) -> None:
    answer = presign(place, "k", PUT, content_type="text/plain", headers={"x-test": "1"})
    for name in ("x-test", "Content-Type"):
        use_fails(answer, 403, b"x", **{name: "other"})
    assert not place.exists("k")


@pytest.mark.parametrize("method", [0, 5, 99, -1])
def test_case_084_get_is_the_default(place: Place, method: int) -> None:
    place.write("k", b"content")
    answer = presign(place, "k", method)
    assert (answer.method, dict(answer.headers)) == (GET, {})
    assert use(answer) == b"content"


@pytest.mark.parametrize("seconds", [-1, -(2**63)])
def test_case_085_negative_expiry(place: Place, seconds: int) -> None:
    with refused(INVALID, "expires"):
        presign(place, "k", expires_seconds=seconds)


@pytest.mark.parametrize("seconds", [604_801, 2**63 - 1])
def test_case_086_more_than_seven_days(place: Place, seconds: int) -> None:
    with refused(INVALID, "expires"):
        presign(place, "k", expires_seconds=seconds)


@pytest.mark.parametrize(("seconds", "means"), [(0, 900), (1, 1), (604_800, 604_800)])
def test_case_087_expires_at(place: Place, seconds: int, means: int) -> None:
    before = int(time.time())
    answer = presign(place, "k", expires_seconds=seconds)
    assert before + means <= answer.expires_at.seconds <= time.time() + means
    assert query(answer)["X-Amz-Expires"] == [str(means)]


@pytest.mark.parametrize("method", [0, GET, HEAD, DELETE])
def test_case_088_overrides_are_carried_in_the_query(place: Place, method: int) -> None:
    place.write("k", b"content", content_type="a/b")
    disposition = 'attachment; filename="a b&c=d.txt"'
    answer = presign(place, "k", method, content_type="text/plain", content_disposition=disposition, headers={"X": "1"})
    assert dict(answer.headers) == {"X": "1"}
    assert query(answer)["response-content-type"] == ["text/plain"]
    assert query(answer)["response-content-disposition"] == [disposition]
    if method != DELETE:
        request = urllib.request.Request(answer.url, method=NAMES[answer.method], headers=dict(answer.headers))
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.headers["Content-Type"] == "text/plain"
            assert response.headers["Content-Disposition"] == disposition


@pytest.mark.parametrize("method", [GET, HEAD, DELETE, PUT])
def test_case_089_version_ids_survive_url_encoding(place: Place, method: int) -> None:
    assert query(presign(place, "k", method, version_id="version id/1"))["versionId"] == ["version id/1"]


def test_a_version_is_pinned(place: Place) -> None:
    first = place.write("k", b"first").ref.version_id
    place.write("k", b"second")
    assert use(presign(place, "k", GET, version_id=first)) == b"first"
    assert use(presign(place, "k", HEAD, version_id=first)) == b""
    use(presign(place, "k", DELETE, version_id=first))
    assert not place.exists("k", version_id=first)
    assert place.body("k") == b"second"


def test_on_put_the_version_is_a_precondition(place: Place) -> None:
    first = place.write("k", b"first").ref.version_id
    answer = presign(place, "k", PUT, version_id=first)
    use(answer, b"second")
    use_fails(answer, 412, b"third")
    assert place.body("k") == b"second"


@pytest.mark.parametrize("name", ["a/../../b", "//", "%2F", "a\0b", "ü \U0001f600", "?#&=+"])
def test_urls_hold_the_key_byte_by_byte(place: Place, name: str) -> None:
    path = urlsplit(presign(place, name).url).path
    assert unquote(path) == f"/{place.bucket or 'default'}/{place.key(name)}"
    place.write(name, b"content")
    assert use(presign(place, name)) == b"content"


def test_the_object_need_not_exist(place: Place) -> None:
    use_fails(presign(place, "absent"), 404)
    use(presign(place, "absent", DELETE))


@pytest.mark.parametrize(
    "headers", [{"a b": "1"}, {"": "1"}, {"X": "a\r\nY: b"}, {"X": "ü"}, {"X": " a"}, {"X": "1", "x": "2"}]
)
def test_headers_that_cannot_be_sent(place: Place, headers: dict[str, str]) -> None:
    with refused(INVALID, "header"):
        presign(place, "k", PUT, headers=headers)


@pytest.mark.parametrize("key", ["", "x" * 2049])
def test_keys_that_cannot_be(client: Client, key: str) -> None:
    with refused(INVALID, "key"):
        client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref(key)))


@pytest.mark.parametrize("generation", sorted(protos.GENERATIONS))
def test_a_bucketless_url_names_the_default_bucket(server: Server, generation: str) -> None:
    with Client(server.target, protos.GENERATIONS[generation]) as client:
        client.write("bucketless", b"content")
        answer = client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref("bucketless")))
        assert urlsplit(answer.url).path == "/default/bucketless"
        assert use(answer) == b"content"


def test_the_key_prefix_is_no_part_of_urls() -> None:
    with Server("keyPrefix=team/", "bucket=main") as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"content")
        answer = client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref("k")))
        assert urlsplit(answer.url).path == "/main/k"
        assert use(answer) == b"content"
        put = client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref("new"), method=PUT))
        use(put, b"by url")
        assert client.body("new") == b"by url"


def test_without_the_endpoint_presign_is_refused_with_the_reason() -> None:
    with Server("http.enabled=false") as server, Client(server.target, protos.BUCKETED) as client:
        assert "http" not in server.ready
        for method in (0, 1, 2, 3, 4):
            request = client.pb.PresignObjectRequest(ref=client.ref("k"), method=method)
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "http.enabled"):
                client.call("PresignObject", request)
