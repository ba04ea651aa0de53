"""What PresignObject signs: the URL's parts, the headers that its bearer must send, and what cannot be signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey
from gestalt_cas.rules import sigv4, urls
from gestalt_cas.rules.presign import Presigned, PresignQuery, presign
from gestalt_cas.rules.sigv4 import KeyPair, Request

KEYS = KeyPair("AKID", "secret")
NOW = datetime(2026, 3, 4, 5, 6, 7, 890_000, tzinfo=UTC)
BASE = "https://files.test"


def made(key: str = "k", bucket: str = "b", **fields: object) -> Presigned:
    return presign(PresignQuery(ObjectKey(bucket, key), **fields), KEYS, BASE, NOW)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_the_bearer_is_let_in(method: str) -> None:
    signed = made("a/../ü", method=method, version_id="v 1", content_type="a/b", headers={"X-One": "two"})
    parts = urlsplit(signed.url)
    target = urls.parse(f"{parts.path}?{parts.query}")
    assert target.key == ObjectKey("b", "a/../ü")
    assert target.parameter("versionId") == "v 1"
    headers = {name.lower(): value for name, value in signed.headers.items()} | {"host": "files.test"}
    sigv4.verify(KEYS, Request(method, target.path, target.query, headers), now=NOW)
    assert "secret" not in signed.url


@pytest.mark.parametrize(("seconds", "means"), [(0, 900), (1, 1), (604_800, 604_800)])
def test_expiry(seconds: int, means: int) -> None:
    signed = made(expires_seconds=seconds)
    assert signed.expires_at == NOW.replace(microsecond=0) + timedelta(seconds=means)
    assert f"X-Amz-Expires={means}&" in signed.url
    assert "X-Amz-Date=20260304T050607Z" in signed.url


@pytest.mark.parametrize("seconds", [-1, 604_801])
def test_bad_expiry(seconds: int) -> None:
    with pytest.raises(InvalidArgument, match="expires_seconds"):
        made(expires_seconds=seconds)


def test_content_headers_replace_same_named_ones_on_put() -> None:
    headers = {"content-TYPE": "x/y", "Content-disposition": "old", "Host": "h", "hOST": "h", "X": "1"}
    signed = made(method="PUT", content_type="a/b", content_disposition="new", headers=headers)
    assert signed.headers == {"X": "1", "Content-Type": "a/b", "Content-Disposition": "new"}
    assert "response-" not in signed.url
    kept = made(method="PUT", headers=headers).headers
    assert kept == {"content-TYPE": "x/y", "Content-disposition": "old", "X": "1"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_content_headers_are_overrides_otherwise(method: str) -> None:
    signed = made(method=method, content_type="a/b", content_disposition='c; d="e&f"')
    target = urls.parse(signed.url)
    assert signed.headers == {}
    assert target.parameter("response-content-type") == "a/b"
    assert target.parameter("response-content-disposition") == 'c; d="e&f"'


@pytest.mark.parametrize(
    "headers", [{"a b": ""}, {"": ""}, {"a:": ""}, {"a": "\n"}, {"a": "\0"}, {"a": " b"}, {"a": "b\t"}, {"a": "ü"}]
)
def test_headers_that_cannot_be_sent(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="header"):
        made(headers=headers)


def test_headers_that_differ_only_in_case() -> None:
    with pytest.raises(InvalidArgument, match="twice"):
        made(headers={"a": "1", "A": "2"})


@pytest.mark.parametrize(("key", "bucket"), [("", "b"), ("k" * 2049, "b"), ("\ud800", "b"), ("k", "a/b"), ("k", "\0")])
def test_names_that_cannot_be(key: str, bucket: str) -> None:
    with pytest.raises(InvalidArgument):
        made(key, bucket)
