"""What must not get in: altered and expired URLs, malformed requests, and whatever Hypothesis thinks of.

Every refusal has S3's status and code, changes nothing, and leaves neither a signature nor a traceback in the log.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt_cas.rules.sigv4 import KeyPair
from presigned import BUCKET, Site, until_closed
from wire.process import Server

KEY = "kept"
CONTENT = b"as it was"


@pytest.fixture(scope="module", name="site")
def site_fixture() -> Iterator[Site]:
    with Server('http.corsOrigins=["*"]') as server:
        site = Site(server)
        site.client.write(KEY, CONTENT, bucket=BUCKET)
        yield site
        log = server.stderr
        assert "Traceback" not in log
        assert "ERROR" not in log
        assert site.keys.secret_access_key not in log
        assert not re.search("[0-9a-f]{64}", log), "a signature in the log"
        assert "Signature" not in log
        server.stop()


@pytest.fixture(autouse=True)
def nothing_changes(site: Site) -> Iterator[None]:
    before = site.changes()
    yield
    assert site.changes() == before == ([KEY], 0)
    assert site.client.body(KEY, bucket=BUCKET) == CONTENT


def refused(
    site: Site, method: str, target: str, headers: dict[str, str] | None = None, host: str = ""
) -> tuple[int, str]:
    answer = site.send(method, target, headers or {}, b"changed" if method == "PUT" else None, host=host)
    assert "ETag" not in answer.headers
    if method == "HEAD":
        assert answer.body == b""
        return answer.status, ""
    assert site.keys.secret_access_key.encode() not in answer.body
    return answer.status, answer.code


METHODS = ("GET", "PUT", "DELETE")


@pytest.mark.parametrize("method", METHODS)
def test_altered_requests(site: Site, method: str) -> None:
    target = site.target(KEY, method)
    other = {"GET": "PUT", "PUT": "DELETE", "DELETE": "PUT"}[method]
    mismatch = (403, "SignatureDoesNotMatch")
    assert refused(site, other, target) == mismatch
    assert refused(site, method, target.replace("/kept?", "/kepT?")) == mismatch
    assert refused(site, method, target.replace("/b/", "/b//")) == mismatch
    assert refused(site, method, target.replace("/b/", "/b/./")) == mismatch
    assert refused(site, method, target.replace("/b/", "/x/../b/")) == mismatch
    assert refused(site, method, target.replace("/b/", "/B/")) == mismatch
    assert refused(site, method, target.replace("/kept?", "/kept%00?")) == mismatch
    assert refused(site, method, target + "&versionId=null") == mismatch
    assert refused(site, method, target + "&response-content-type=a") == mismatch
    assert refused(site, method, target.replace("Expires=900", "Expires=901")) == mismatch
    assert refused(site, method, target.replace("us-east-1", "us-east-2")) == mismatch
    assert refused(site, method, target, host="other.test") == mismatch
    assert refused(site, method, target[:-1] + ("0" if target[-1] != "0" else "1")) == mismatch
    assert refused(site, method, target[:-1]) == mismatch
    assert refused(site, method, site.target(KEY, method, keys=KeyPair(site.keys.access_key_id, "x"))) == mismatch
    assert refused(site, method, site.target(KEY, method, keys=KeyPair("x", "x"))) == (403, "InvalidAccessKeyId")


def test_the_same_path_in_other_escapes_is_the_same_path(site: Site) -> None:
    """Decoded once, as S3 does: %6b is k. A slash in escapes is still a slash of the key."""
    assert site.send("GET", site.target(KEY).replace("/kept?", "/%6bep%74?")).body == CONTENT


@pytest.mark.parametrize("method", METHODS)
def test_headers(site: Site, method: str) -> None:
    signed = site.target(KEY, method, headers={"content-type": "a/b"})
    assert refused(site, method, signed) == (403, "SignatureDoesNotMatch")
    assert refused(site, method, signed, {"Content-Type": "a/c"}) == (403, "SignatureDoesNotMatch")
    plain = site.target(KEY, method)
    assert refused(site, method, plain, {"x-amz-meta-a": "1"}) == (403, "AccessDenied")
    assert refused(site, method, plain, {"X-Amz-Acl": "private"}) == (403, "AccessDenied")
    assert refused(site, method, plain, {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}) == (403, "AccessDenied")
    assert refused(site, method, "/b/kept", {"Authorization": "Bearer x"}) == (403, "AccessDenied")


@pytest.mark.parametrize("method", METHODS)
def test_times(site: Site, method: str) -> None:
    denied = (403, "AccessDenied")
    assert refused(site, method, site.target(KEY, method, age=900)) == denied
    assert refused(site, method, site.target(KEY, method, age=2, expires=1)) == denied
    assert refused(site, method, site.target(KEY, method, age=-1000)) == denied
    assert refused(site, method, site.target(KEY, method, age=10**9)) == denied


def test_times_that_are_good(site: Site) -> None:
    for age, expires in ((-800, 60), (0, 604_800), (604_000, 604_800)):
        assert site.get(KEY, age=age, expires=expires).body == CONTENT


@pytest.mark.parametrize("method", METHODS)
def test_unsigned_and_half_signed(site: Site, method: str) -> None:
    assert refused(site, method, "/b/kept") == (403, "AccessDenied")
    assert refused(site, method, "/b/kept?versionId=null") == (403, "AccessDenied")
    target = site.target(KEY, method)
    path, _, query = target.partition("?")
    pairs = query.split("&")
    for pair in pairs:
        without = "&".join(other for other in pairs if other != pair)
        assert refused(site, method, f"{path}?{without}") == (400, "AuthorizationQueryParametersError")
        assert refused(site, method, f"{path}?{query}&{pair}") == (400, "InvalidArgument")
        name = pair.partition("=")[0]
        emptied = "&".join(other if other != pair else f"{name}=" for other in pairs)
        assert refused(site, method, f"{path}?{emptied}") == (400, "AuthorizationQueryParametersError")
    for expires in ("0", "-5", "604801", "x", "9" * 1000):
        altered = re.sub("Expires=[0-9]+", f"Expires={expires}", target)
        assert refused(site, method, altered) == (400, "AuthorizationQueryParametersError")


def test_head_is_refused_without_a_body(site: Site) -> None:
    assert refused(site, "HEAD", site.target(KEY, "GET")) == (403, "")
    assert refused(site, "HEAD", "/b/kept") == (403, "")
    assert refused(site, "HEAD", "/b/kept?X-Amz-Date=1") == (400, "")


@pytest.mark.parametrize("key", ["<a>&\"'", "\0\x01\x1f", "\ud7ff\ufffe\uffff", "]]>", "a\r\nb", "ü\U0001f600"])
def test_errors_are_well_formed_for_any_key(site: Site, key: str) -> None:
    assert site.get(key).code == "NoSuchKey"
    assert site.send("GET", site.target(key).replace("900", "901")).code == "SignatureDoesNotMatch"
    assert site.put(key, b"", {"If-Match": "*"}).code == "PreconditionFailed"
    raw = "/b/" + key.replace("\0", "").replace("\r\n", "").encode("utf-8", "surrogatepass").decode("latin-1")
    if all(" " < char < "\x7f" for char in raw):
        assert site.send("GET", raw).code in ("AccessDenied", "InvalidURI", "BadRequest")


# ---- fuzzing ----


def talk(site: Site, data: bytes) -> bytes:
    """Send these bytes and no more, and take what comes."""
    with site.socket() as connection:
        connection.settimeout(20)
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError, OSError):
            pass
        return until_closed(connection)


def judge(site: Site, received: bytes) -> None:
    """No answer is a 500, whatever it was that was sent."""
    for line in re.findall(rb"^HTTP/1\.[01] (\d+)", received, re.MULTILINE):
        assert not line.startswith(b"5") or line == b"501", received[:500]
    assert site.server.alive()


METHOD = st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "POST", "OPTIONS", "CONNECT", "TRACE", "get", "G T", ""])
NAMES = """
Host Content-Length Transfer-Encoding Expect Range If-Range If-Match If-None-Match If-Modified-Since
If-Unmodified-Since Connection Upgrade Origin Authorization Trailer Content-MD5 Content-Type Content-Encoding
Access-Control-Request-Method Access-Control-Request-Headers x-amz-checksum-crc32 x-amz-content-sha256 x-amz-meta-a X
"""
NAME = st.sampled_from([*NAMES.split(), ""])
VALUES = """
h 0 5 -1 99999999999999999999 chunked identity 100-continue bytes=0-1 bytes=-1 close keep-alive upgrade websocket
* " W/" null \xff \0
"""
DATES = ["Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 99 Jan 99999 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 +9999"]
VALUE = st.sampled_from([*VALUES.split(), *DATES, "gzip, chunked", "\r\n x", " ", ""]) | st.text(max_size=20)
PIECES = """
/ /b/kept b kept .. % %2F %ff %zz %00 ? & = # X-Amz-Signature= X-Amz-Date= X-Amz-Expires=1 versionId= http://h ://
\xff \0 ü * [ @ :99999
"""
PIECE = st.sampled_from([*PIECES.split(), "\t"])


@settings(max_examples=120)
@given(
    method=METHOD | st.text(max_size=5),
    target=st.lists(PIECE, max_size=8).map("".join) | st.text(max_size=20),
    version=st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "http/1.1", "", "HTTP/1.1 x"]),
    fields=st.lists(st.tuples(NAME, VALUE), max_size=5),
    body=st.binary(max_size=30),
    encoding=st.sampled_from(["utf-8", "latin-1"]),
)
def test_invented_requests(
    site: Site, method: str, target: str, version: str, fields: list[tuple[str, str]], body: bytes, encoding: str
) -> None:
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in fields), "", ""]
    judge(site, talk(site, "\r\n".join(lines).encode(encoding, "replace") + body))


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_random_bytes(site: Site, data: bytes) -> None:
    judge(site, talk(site, data))


FIELDS = st.lists(st.tuples(NAME.filter(lambda name: not name.startswith("x-amz")), VALUE), max_size=4)


@settings(max_examples=120)
@given(method=st.sampled_from(["GET", "HEAD", "GET"]), fields=FIELDS, version=st.sampled_from(["1.1", "1.0"]))
def test_signed_requests_with_invented_fields(
    site: Site, method: str, fields: list[tuple[str, str]], version: str
) -> None:
    lines = [f"{method} {site.target(KEY, method)} HTTP/{version}", f"Host: {site.authority}"]
    lines += [f"{name}: {value}" for name, value in fields]
    judge(site, talk(site, "\r\n".join([*lines, "", ""]).encode("utf-8", "replace")))


@settings(max_examples=120)
@given(
    method=st.sampled_from(["PUT", "DELETE"]),
    cuts=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 4), st.binary(max_size=4)), min_size=1, max_size=3),
)
def test_mutated_requests(site: Site, method: str, cuts: list[tuple[int, int, bytes]]) -> None:
    """A signed request with some bytes of its signed part replaced: never an effect, or the very same request."""
    request = f"{method} {site.target(KEY, method)} HTTP/1.1\r\nHost: {site.authority}\r\n"
    original = request.encode() + b'Content-Length: 7\r\nConnection: close\r\nIf-Match: "none"\r\n\r\nchanged'
    data = original
    for position, length, put in cuts:
        start = position % (len(request) - 2)
        data = data[:start] + put + data[start + length :]
    if method == "DELETE" and same_target(data, original):
        return
    judge(site, talk(site, data))


def same_target(data: bytes, original: bytes) -> bool:
    """Whether a mutated DELETE may well be the original, whose effect is rightful: its head decodes to the same."""
    return (
        data.replace(b"\r", b"").lower().split(b"connection")[0]
        == original.replace(b"\r", b"").lower().split(b"connection")[0]
    )
