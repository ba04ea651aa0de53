"""Query signatures: against botocore's signer for the same inputs, and against every way to alter a signed request."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidSignatureRequest, SignatureDoesNotMatch, SignatureError
from gestalt_cas.rules import sigv4, urls
from gestalt_cas.rules.sigv4 import KeyPair, Request

EXAMPLE = KeyPair("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)
HOST = "127.0.0.1:9000"
PATH = b"/bucket/key"
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.lists(
    st.sampled_from(["..", ".", "", "a", "%2F", "%", "\0", " ", "+", "ü", "\U0001f600", "?", "#", "&="]), min_size=1
).map("/".join).filter(bool)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20).filter(str.strip)


def signed(**changes: Any) -> Request:
    """The request that the bearer of a fresh URL sends, with some of it changed before it was signed."""
    expires = changes.pop("expires", 900)
    keys = changes.pop("keys", EXAMPLE)
    request = Request(**{"method": "GET", "path": PATH, "query": [], "headers": {"host": HOST}, **changes})
    query = sigv4.presign(keys, request, now=NOW, expires_seconds=expires)
    return Request(request.method, request.path, query, request.headers)


def altered(request: Request, **changes: Any) -> Request:
    values = {"method": request.method, "path": request.path, "query": request.query, "headers": request.headers}
    return Request(**{**values, **changes})


def with_parameter(request: Request, name: str, value: str | None) -> Request:
    """The request with a parameter replaced, or without it."""
    query = [(found, text if found != name else value) for found, text in request.query]
    return altered(request, query=[(found, text) for found, text in query if text is not None])


def refusal(request: Request, now: datetime = NOW) -> tuple[type[SignatureError], str]:
    with pytest.raises(SignatureError) as caught:
        sigv4.verify(EXAMPLE, request, now=now)
    assert EXAMPLE.secret_access_key not in str(caught.value)
    return type(caught.value), caught.value.code


BAD, REFUSED = InvalidSignatureRequest, SignatureDoesNotMatch
PARAMETERS = "AuthorizationQueryParametersError"


def botocore_url(
    monkeypatch: pytest.MonkeyPatch, method: str, url: str, headers: Mapping[str, str], expires: int, region: str
) -> str:
    """The URL as botocore signs it at NOW."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda remove_tzinfo=True: NOW.replace(tzinfo=None))
    credentials = Credentials(EXAMPLE.access_key_id, EXAMPLE.secret_access_key)
    request = AWSRequest(method=method, url=url, headers=dict(headers))
    S3SigV4QueryAuth(credentials, "s3", region, expires=expires).add_auth(request)
    return str(request.url)


def test_the_published_example() -> None:
    """S3 API reference, "Authenticating Requests: Using Query Parameters", the GET of test.txt with its signature."""
    request = Request("GET", b"/test.txt", [], {"host": "examplebucket.s3.amazonaws.com"})
    query = sigv4.presign(EXAMPLE, request, now=NOW, expires_seconds=86400)
    assert dict(query) == {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request",
        "X-Amz-Date": "20130524T000000Z",
        "X-Amz-Expires": "86400",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": PUBLISHED,
    }
    sigv4.verify(EXAMPLE, altered(request, query=query), now=NOW)


PUBLISHED = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


def test_the_published_example_is_what_botocore_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    url = botocore_url(monkeypatch, "GET", "https://examplebucket.s3.amazonaws.com/test.txt", {}, 86400, "us-east-1")
    assert url.endswith(f"X-Amz-Signature={PUBLISHED}")


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    key=KEYS,
    extra=st.dictionaries(st.sampled_from(["content-type", "x-amz-meta-a", "if-match"]), VALUES),
    version_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    expires=st.integers(1, 604_800),
    region=st.sampled_from(["us-east-1", "eu-central-1", "auto"]),
)
def test_signatures_are_those_of_botocore(
    method: str, key: str, extra: dict[str, str], version_id: str, expires: int, region: str
) -> None:
    path = b"/bucket/" + key.encode()
    query = [("versionId", version_id)] if version_id else []
    ours = sigv4.presign(
        EXAMPLE,
        Request(method, path, query, {"host": HOST, **extra}),
        now=NOW,
        expires_seconds=expires,
        region=region,
    )
    url = f"http://{HOST}{sigv4.encode_path(path)}"
    if version_id:
        url += f"?versionId={sigv4.encode(version_id)}"
    with pytest.MonkeyPatch.context() as monkeypatch:
        theirs = urlsplit(botocore_url(monkeypatch, method, url, extra, expires, region))
    target = urls.parse(f"{theirs.path}?{theirs.query}")
    assert target.path == path
    assert dict(target.query) == dict(ours)
    sigv4.verify(EXAMPLE, Request(method, target.path, target.query, {"host": HOST, **extra}), now=NOW)


@given(st.binary(max_size=60))
def test_encoding_is_percent_escapes_with_upper_case_digits(data: bytes) -> None:
    text = sigv4.encode_path(data)
    assert unquote_to_bytes(text) == data
    plain = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/"
    assert text == "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in data)


def test_the_canonical_request_by_hand() -> None:
    request = Request(
        "PUT",
        b"/b/a b//..",
        [("b", "2"), ("a", ""), ("a-", "x"), ("a", "/+")],
        {"host": "h", "x-amz-meta-a": " 1   2 "},
    )
    assert sigv4.canonical_request(request, ["host", "x-amz-meta-a"]) == (
        "PUT\n/b/a%20b//..\na=&a=%2F%2B&a-=x&b=2\nhost:h\nx-amz-meta-a:1 2\n\nhost;x-amz-meta-a\nUNSIGNED-PAYLOAD"
    )


# ---- time ----


@pytest.mark.parametrize(
    ("seconds", "good"),
    [(-901, False), (-900.001, False), (-900, True), (0, True), (59.999, True), (60, False), (61, False)],
)
def test_a_url_is_good_from_15_minutes_before_its_date_until_it_expires(seconds: float, good: bool) -> None:
    request, now = signed(expires=60), NOW + timedelta(seconds=seconds)
    if good:
        sigv4.verify(EXAMPLE, request, now=now)
    else:
        assert refusal(request, now) == (REFUSED, "AccessDenied")


def test_the_longest_validity_is_a_week() -> None:
    sigv4.verify(EXAMPLE, signed(expires=604_800), now=NOW + timedelta(seconds=604_799))
    assert refusal(signed(expires=604_801)) == (BAD, PARAMETERS)


# ---- what was altered ----


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "PUT"},
        {"path": b"/bucket/keY"},
        {"path": b"/bucket//key"},
        {"path": b"/bucket/./key"},
        {"headers": {"host": "127.0.0.1:9001"}},
        {"headers": {"host": HOST, "if-match": "x"}},
    ],
)
def test_what_was_signed_cannot_be_altered(changes: dict[str, Any]) -> None:
    request = signed(headers={"host": HOST, "if-match": '"a"'})
    sigv4.verify(EXAMPLE, request, now=NOW)
    assert refusal(altered(request, **changes)) == (REFUSED, "SignatureDoesNotMatch")


@pytest.mark.parametrize(
    "more", [("versionId", "x"), ("a", ""), ("x-id", "GetObject"), ("response-content-type", "a/b")]
)
def test_a_parameter_cannot_be_added_or_taken_away(more: tuple[str, str]) -> None:
    request = signed()
    assert refusal(altered(request, query=[*request.query, more])) == (REFUSED, "SignatureDoesNotMatch")
    with_more = signed(query=[more])
    sigv4.verify(EXAMPLE, with_more, now=NOW)
    assert refusal(with_parameter(with_more, more[0], None)) == (REFUSED, "SignatureDoesNotMatch")


def test_the_order_of_parameters_does_not_matter() -> None:
    request = signed(query=[("versionId", "x")])
    sigv4.verify(EXAMPLE, altered(request, query=list(reversed(request.query))), now=NOW)


def test_headers_that_are_not_signed_may_be_sent_unless_they_are_amazons() -> None:
    request = signed()
    sigv4.verify(EXAMPLE, altered(request, headers={**request.headers, "range": "bytes=0-1"}), now=NOW)
    more = altered(request, headers={**request.headers, "x-amz-meta-a": "1"})
    assert refusal(more) == (REFUSED, "AccessDenied")


def test_a_signed_header_must_be_sent() -> None:
    request = signed(headers={"host": HOST, "content-type": "a/b"})
    assert refusal(altered(request, headers={"host": HOST})) == (REFUSED, "SignatureDoesNotMatch")


def test_another_keys_signature() -> None:
    same_id = KeyPair(EXAMPLE.access_key_id, "other")
    assert refusal(signed(keys=same_id)) == (REFUSED, "SignatureDoesNotMatch")
    assert refusal(signed(keys=KeyPair("AKIDOTHER", "other"))) == (REFUSED, "InvalidAccessKeyId")
    assert refusal(signed(keys=KeyPair("ÄKID", "other"))) == (REFUSED, "InvalidAccessKeyId")


NAMES = ["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, ""])
def test_every_parameter_must_be_there(name: str, value: str | None) -> None:
    assert refusal(with_parameter(signed(), f"X-Amz-{name}", value)) == (BAD, PARAMETERS)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_may_be_there_twice(name: str) -> None:
    request = signed()
    again = (f"X-Amz-{name}", dict(request.query)[f"X-Amz-{name}"])
    assert refusal(altered(request, query=[*request.query, again])) == (BAD, "InvalidArgument")


DAY = "20130524"


@pytest.mark.parametrize(
    ("name", "value", "kind", "code"),
    [
        ("Algorithm", "AWS4-HMAC-SHA1", BAD, PARAMETERS),
        ("Algorithm", "AWS4-ECDSA-P256-SHA256", BAD, PARAMETERS),
        ("Credential", "nonsense", BAD, PARAMETERS),
        ("Credential", f"/{DAY}/us-east-1/s3/aws4_request", BAD, PARAMETERS),
        ("Credential", f"A/{DAY}//s3/aws4_request", BAD, PARAMETERS),
        ("Credential", f"A/{DAY}/us-east-1/ec2/aws4_request", BAD, PARAMETERS),
        ("Credential", f"A/{DAY}/us-east-1/s3/aws5_request", BAD, PARAMETERS),
        ("Credential", "A/20130523/us-east-1/s3/aws4_request", BAD, PARAMETERS),
        ("Credential", f"{EXAMPLE.access_key_id}/{DAY}/eu-west-1/s3/aws4_request", REFUSED, "SignatureDoesNotMatch"),
        ("Date", "20130524", BAD, PARAMETERS),
        ("Date", "20130524T000000", BAD, PARAMETERS),
        ("Date", "20130524T000000Z ", BAD, PARAMETERS),
        ("Date", "20130524T240000Z", BAD, PARAMETERS),
        ("Date", "20130524T00000\u0660Z", BAD, PARAMETERS),
        ("Date", "20130524T000001Z", REFUSED, "SignatureDoesNotMatch"),
        ("Expires", "0", BAD, PARAMETERS),
        ("Expires", "-1", BAD, PARAMETERS),
        ("Expires", "+60", BAD, PARAMETERS),
        ("Expires", "1e3", BAD, PARAMETERS),
        ("Expires", "604801", BAD, PARAMETERS),
        ("Expires", "9" * 5000, BAD, PARAMETERS),
        ("Expires", "\u0661", BAD, PARAMETERS),
        ("Expires", "901", REFUSED, "SignatureDoesNotMatch"),
        ("SignedHeaders", "x-amz-a", BAD, PARAMETERS),
        ("SignedHeaders", "Host", BAD, PARAMETERS),
        ("SignedHeaders", "host;host", BAD, PARAMETERS),
        ("SignedHeaders", "range;host", BAD, PARAMETERS),
        ("SignedHeaders", "host;", BAD, PARAMETERS),
        ("SignedHeaders", "host\n", BAD, PARAMETERS),
        ("SignedHeaders", "host;range", REFUSED, "SignatureDoesNotMatch"),
        ("Signature", "0" * 64, REFUSED, "SignatureDoesNotMatch"),
        ("Signature", "0", REFUSED, "SignatureDoesNotMatch"),
        ("Signature", "\u0660" * 64, REFUSED, "SignatureDoesNotMatch"),
    ],
)
def test_altered_parameters(name: str, value: str, kind: type[SignatureError], code: str) -> None:
    assert refusal(with_parameter(signed(), f"X-Amz-{name}", value)) == (kind, code)


def test_session_tokens_are_refused() -> None:
    assert refusal(signed(query=[("X-Amz-Security-Token", "t")])) == (BAD, "InvalidToken")


@given(
    st.lists(
        st.tuples(st.sampled_from([f"X-Amz-{name}" for name in NAMES]) | st.text(max_size=8), st.text(max_size=70))
    )
)
def test_whatever_is_in_the_query_it_is_a_refusal(query: list[tuple[str, str]]) -> None:
    kind, code = refusal(Request("GET", PATH, query, {"host": HOST}))
    assert kind in (BAD, REFUSED)
    assert code


def test_values_of_headers_that_are_not_utf_8_can_be_signed_over() -> None:
    request = signed(headers={"host": HOST, "if-match": "\udcff"})
    sigv4.verify(EXAMPLE, request, now=NOW)
    assert refusal(altered(request, headers={"host": HOST, "if-match": "\udcfe"})) == (REFUSED, "SignatureDoesNotMatch")


def test_a_key_pair_does_not_show_its_secret() -> None:
    assert EXAMPLE.secret_access_key not in f"{EXAMPLE!r} {EXAMPLE!s} {[EXAMPLE]}"
