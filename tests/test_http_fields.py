"""Header fields to values and back: dates, ranges, conditions, what an object is answered with."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidRange
from gestalt_cas.objects import ByteRange, Conditions, Headers, ObjectKey, ObjectVersion
from gestalt_cas.rules import http_fields, ranges

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
SECONDS = 784_111_777


def version(**changes: Any) -> ObjectVersion:
    values = {"key": ObjectKey("b", "k"), "version_id": "v1", "seq": 1, "size": 10, "digest": "ab" * 32}
    return ObjectVersion(**{**values, "modified_ms": SECONDS * 1000 + 999, **changes})


@pytest.mark.parametrize(
    "text", [DATE, "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"], ids=["imf", "rfc850", "asctime"]
)
def test_the_three_forms_of_an_http_date(text: str) -> None:
    """RFC 9110 section 5.6.7; the old two must be read by a recipient."""
    assert http_fields.date_seconds(text) == SECONDS


@pytest.mark.parametrize(
    "text", ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 -0000"], ids=["asctime", "-0000"]
)
def test_a_date_without_a_zone_is_of_utc_wherever_the_server_stands(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        assert http_fields.date_seconds(text) == SECONDS
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40))
def test_other_dates_are_no_date(text: str) -> None:
    found = http_fields.date_seconds(text)
    assert found is None or isinstance(found, int)


@pytest.mark.parametrize(
    "text", [None, "", "nonsense", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 99999 00:00:00 GMT"]
)
def test_what_is_no_date(text: str | None) -> None:
    assert http_fields.date_seconds(text) is None


def test_dates_are_written_as_they_are_read() -> None:
    assert http_fields.http_date(SECONDS * 1000 + 999) == DATE


@given(start=st.integers(0, 30) | st.none(), end=st.integers(0, 30) | st.none(), size=st.integers(0, 20))
def test_ranges_against_a_model(start: int | None, end: int | None, size: int) -> None:
    """RFC 9110 section 14.1.2, written down once more over a list of positions."""
    text = f"bytes={'' if start is None else start}-{'' if end is None else end}"
    found = http_fields.parse_range(text, size)
    if (start is None and end is None) or (start is not None and end is not None and end < start):
        assert found is None
        return
    everything = list(range(size))
    if start is None:
        assert end is not None
        wanted = everything[-end:] if end else []
    else:
        wanted = everything[start : None if end is None else end + 1]
    assert found is not None
    try:
        offset, length = ranges.resolve(found, size)
    except InvalidRange:
        assert wanted == []
    else:
        assert everything[offset : offset + length] == wanted != []


@pytest.mark.parametrize(
    "text", [None, "", "bytes", "bytes=", "bytes=1", "lines=0-1", "bytes=0-1,2-3", "bytes=\u0661-", "a"]
)
def test_ranges_to_be_passed_over(text: str | None) -> None:
    assert http_fields.parse_range(text, 10) is None


def test_ranges_with_too_many_digits() -> None:
    many = "9" * 10_000
    assert http_fields.parse_range(f"bytes=-{many}", 10) == ByteRange(0)
    with pytest.raises(InvalidRange):
        ranges.resolve(http_fields.parse_range(f"bytes={many}-", 10), 10)
    assert ranges.resolve(http_fields.parse_range(f"bytes=2-{many}", 10), 10) == (2, 8)
    assert http_fields.parse_range(f"bytes={many}-{many[1:]}", 10) is None  # the end before the start
    assert http_fields.parse_range(f"bytes={many}-{10**18}", 10) is None
    noughts = "0" * 10_000
    assert ranges.resolve(http_fields.parse_range(f"bytes={noughts}2-{noughts}3", 10), 10) == (2, 2)
    assert http_fields.parse_range(f"bytes=-{noughts}3", 10) == ByteRange(7)
    assert http_fields.parse_range(f"bytes=-{noughts}", 10) == http_fields.parse_range("bytes=-0", 10) == ByteRange(10)


def test_fields_on_several_lines_are_one_list() -> None:
    fields = http_fields.joined(
        [("If-Match", '"a"'), ("if-match", '"b"'), ("If-None-Match", "*"), ("IF-MODIFIED-SINCE", DATE)]
    )
    assert http_fields.read_conditions(fields) == Conditions('"a","b"', "*", SECONDS)
    assert http_fields.user_metadata({"x-amz-meta-a": "1,2", "x-amz-metab": "", "a": ""}) == {"a": "1,2"}


def test_stored_headers() -> None:
    fields = {"Content-Type": "a/b", "Cache-Control": "c", "Content-Disposition": "d", "Content-Language": "l"}
    assert http_fields.stored_headers({**fields, "Content-Encoding": "e"}.items()) == Headers("a/b", "c", "d", "e", "l")
    assert http_fields.stored_headers([]) == Headers()


def test_stored_lists_keep_all_their_lines() -> None:
    lines = [("Cache-Control", "no-cache"), ("cache-control", "private"), ("Content-Language", "de")]
    once = [("Content-Type", "a/b"), ("Content-Type", "a/b"), ("Content-Encoding", "x"), ("content-encoding", "gzip")]
    assert http_fields.stored_headers(lines + once) == Headers("a/b", "no-cache, private", "", "x, gzip", "de")


def test_what_is_answered_about_an_object() -> None:
    plain = http_fields.object_fields(version(), {})
    assert plain == {
        "ETag": f'"{"ab" * 32}"',
        "Last-Modified": DATE,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "x-amz-version-id": "v1",
    }
    odd = {"a": "1", "A": "2", "b c": "", "d": "\r\n", "e": "ü", "": "x", "f": ""}
    full = http_fields.object_fields(
        version(metadata=odd, headers=Headers("ü/x", "no\rstore", "d")), {"Content-Type": "o/p"}
    )
    assert full == plain | {
        "Content-Type": "o/p",
        "Content-Disposition": "d",
        "x-amz-meta-a": "1",
        "x-amz-meta-f": "",
        "x-amz-missing-meta": "5",
    }


@given(name=st.text(max_size=5), value=st.text(max_size=10))
def test_only_what_is_legal_is_sent(name: str, value: str) -> None:
    fields = http_fields.object_fields(version(metadata={name: value}), {})
    sent = [(found, text) for found, text in fields.items() if found.startswith("x-amz-meta-")]
    assert (fields.get("x-amz-missing-meta") == "1") is (sent == [])
    for found, text in sent:
        assert text.isascii()
        assert text.isprintable() or "\t" in text
        assert text == text.strip()
        assert found.isascii()
        assert not set(found) & set(' :;,"\r\n\t/()[]{}=<>@?\\\0')
