"""The nouns: limits of names, keys and attributes, and the small rules that the values carry."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas import objects
from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import Conditions, Headers, ListPage, ListQuery, ObjectKey, ObjectVersion

any_text = st.text()
with_surrogates = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    "key",
    [
        "a", " ", "\0", "..", "../../etc/passwd", "/", "//", "a//b", " leading and trailing ", "a?b#c+d%2F",
        "\x7f", "\U0010ffff", "ünïcödé", "x" * 2048, "é" * 1024, "\U0001f600" * 512,
    ],
)  # fmt: skip
def test_check_key_takes_any_unicode_up_to_2048_bytes(key: str) -> None:
    assert objects.check_key(key) == key.encode()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "required"),
        ("x" * 2049, "2049 bytes"),
        ("é" * 1024 + "x", "2049 bytes"),
        ("\U0001f600" * 513, "2052 bytes"),
        ("a\ud800b", "position 1"),
    ],
)
def test_check_key_refuses(key: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        objects.check_key(key)


@given(with_surrogates)
def test_check_key_returns_the_bytes_or_refuses(key: str) -> None:
    lone_surrogate = any(0xD800 <= ord(char) < 0xE000 for char in key)
    if key and not lone_surrogate:
        assert objects.check_key(key).decode() == key
    else:
        with pytest.raises(InvalidArgument):
            objects.check_key(key)


@given(st.integers(1, 4), st.integers(500, 2100))
def test_check_key_counts_bytes_not_characters(width: int, count: int) -> None:
    key = {1: "a", 2: "é", 3: "€", 4: "\U0001f600"}[width] * count
    if width * count <= 2048:
        assert len(objects.check_key(key)) == width * count
    else:
        with pytest.raises(InvalidArgument, match=f"{width * count} bytes"):
            objects.check_key(key)


@pytest.mark.parametrize(
    "bucket", ["", "a", ".", "..", "UPPER", "with space", "ünï", "x" * 255, "é" * 127 + "x", "\xa0"]
)
def test_check_bucket_takes(bucket: str) -> None:
    objects.check_bucket(bucket)


@pytest.mark.parametrize(
    ("bucket", "message"),
    [
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("a/b", "contains '/'"),
        ("/", "contains '/'"),
        ("a\0", "control character"),
        ("\x1f", "control character"),
        ("\x7f", "control character"),
        ("\x80", "control character"),
        ("\x9f", "control character"),
        ("a\nb", "control character"),
        ("\udfff", "valid Unicode"),
    ],
)
def test_check_bucket_refuses(bucket: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        objects.check_bucket(bucket)


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_check_bucket_agrees_with_unicodes_own_control_category(bucket: str) -> None:
    import unicodedata

    bad_character = any(char == "/" or unicodedata.category(char) in ("Cc", "Cs") for char in bucket)
    if bad_character or len(bucket.encode("utf-8", "surrogatepass")) > 255:
        with pytest.raises(InvalidArgument):
            objects.check_bucket(bucket)
    else:
        objects.check_bucket(bucket)


def _version(digest: str) -> ObjectVersion:
    return ObjectVersion(ObjectKey("b", "k"), "v1", 1, 3, digest, 1_700_000_000_123)


def test_etag_is_the_quoted_digest() -> None:
    assert _version("ab" * 32).etag == '"' + "ab" * 32 + '"'
    assert not _version("ab" * 32).delete_marker


def test_delete_marker_has_no_etag() -> None:
    assert _version("").etag == ""
    assert _version("").delete_marker


def test_values_cannot_be_changed() -> None:
    version = _version("ab" * 32)
    with pytest.raises(AttributeError):
        version.size = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        version.metadata["a"] = "b"  # type: ignore[index]


def test_object_key_reads_as_bucket_and_key() -> None:
    assert str(ObjectKey("bucket", "a/b")) == "bucket/a/b"


@pytest.mark.parametrize(
    ("asked", "limit"), [(0, 1000), (-1, 1000), (-(2**31), 1000), (1, 1), (999, 999), (1000, 1000), (1001, 1000)]
)
def test_page_limit(asked: int, limit: int) -> None:
    assert ListQuery(max_keys=asked).limit == limit


def test_has_more_exactly_with_a_token() -> None:
    assert ListPage((), (), "token").has_more
    assert not ListPage((), (), "").has_more


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(if_match="*"),
        Conditions(if_none_match="*"),
        Conditions(if_modified_since=0),
        Conditions(if_unmodified_since=0),
        Conditions(current_version="null"),
    ],
)
def test_conditions_are_true_when_any_is_given(conditions: Conditions) -> None:
    assert conditions
    assert not objects.NO_CONDITIONS


@pytest.mark.parametrize("name", Headers._fields)
@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\0b", "\r\nX-Other: 1"])
def test_check_attributes_refuses_line_breaks_in_every_header(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        objects.check_attributes(Headers(**{name: value}), {})


def test_check_attributes_leaves_metadata_free_of_header_rules() -> None:
    objects.check_attributes(Headers(content_type="text/plain; charset=utf-8"), {"Name": "line\r\nbreak\0", "": ""})


def test_check_attributes_names_broken_unicode() -> None:
    with pytest.raises(InvalidArgument, match="content_language"):
        objects.check_attributes(Headers(content_language="\ud800"), {})
    with pytest.raises(InvalidArgument, match="metadata value of 'name'"):
        objects.check_attributes(Headers(), {"name": "\ud800"})
    with pytest.raises(InvalidArgument, match="metadata name"):
        objects.check_attributes(Headers(), {"\ud800": ""})


parts = st.lists(st.text(st.sampled_from("aé€\U0001f600"), max_size=12), min_size=7, max_size=7)


@given(parts, st.integers(-3, 3))
def test_check_attributes_counts_all_bytes_together(texts: list[str], excess: int) -> None:
    headers = Headers(*texts[:5])
    others = sum(len(text.encode()) for text in texts) + len("filler")
    metadata = {texts[5]: texts[6], "filler": "x" * (64 * 1024 - others + excess)}
    if excess <= 0:
        objects.check_attributes(headers, metadata)
    else:
        with pytest.raises(InvalidArgument, match=f"take {64 * 1024 + excess} bytes"):
            objects.check_attributes(headers, metadata)


@given(any_text)
def test_utf8_round_trips(text: str) -> None:
    assert objects.utf8(text, "text").decode() == text


@pytest.mark.parametrize("metadata", [objects.NO_METADATA, MappingProxyType({"a": "b"}), {"a": "b"}])
def test_versions_pickle_and_copy(metadata: Mapping[str, str]) -> None:
    """A worker of a pool answers with what `Store.write` gave it."""
    version = ObjectVersion(ObjectKey("b", "k"), "v", 1, 3, "ab" * 32, 5, Headers("a/b"), metadata)
    page = ListPage((version,), (), "")
    for same in (pickle.loads(pickle.dumps(version)), copy.copy(version), copy.deepcopy(version)):
        assert type(same) is ObjectVersion
        assert same == version
        with pytest.raises(TypeError):
            same.metadata["c"] = "d"
    assert pickle.loads(pickle.dumps(page)) == copy.deepcopy(page) == page
