"""Request targets: decoded once, never normalised, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey
from gestalt_cas.rules import urls
from gestalt_cas.rules.sigv4 import encode, encode_path

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(bucket=TEXT.filter(lambda text: "/" not in text), key=TEXT.filter(bool), query=st.lists(st.tuples(TEXT, TEXT)))
def test_what_was_encoded_comes_back(bucket: str, key: str, query: list[tuple[str, str]]) -> None:
    path = f"/{bucket}/{key}".encode()
    query = [(name, value) for name, value in query if name or value]
    target = encode_path(path) + "?" + "&".join(f"{encode(name)}={encode(value)}" for name, value in query)
    for form in (target, "http://host:80" + target):
        parsed = urls.parse(form)
        assert (parsed.path, parsed.key, list(parsed.query)) == (path, ObjectKey(bucket, key), query)


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/b/a/../c", "a/../c"),
        ("/b/..", ".."),
        ("/b/./.", "./."),
        ("/b//", "/"),
        ("/b///k", "//k"),
        ("/b/a%2Fb", "a/b"),
        ("/b/a%252Fb", "a%2Fb"),
        ("/b/%00", "\0"),
        ("/b/a+b", "a+b"),
        ("/b/a;b=c", "a;b=c"),
        ("/b/%c3%Bc", "ü"),
        ("/b/\udcc3\udcbc", "ü"),
        ("/b/k?", "k"),
        ("/b/k#f", "k#f"),
        ("/b%2Fk", "k"),
    ],
)
def test_keys(target: str, key: str) -> None:
    assert urls.parse(target).key == ObjectKey("b", key)


NOTHING = (
    "* k b/k ? / /b /b/ /b?x=/k ftp://h/b/k http://h http:/b/k // /b/% /b/%4 /b/%4g /b/%ff /%ff/k /b/k?% /b/k?a=%f"
)


@pytest.mark.parametrize("target", ["", *NOTHING.split(), "/b/% 41", "/b/k?%ff=1", "/b/k?a=%ff", "/b/\udcff"])
def test_what_names_no_object(target: str) -> None:
    with pytest.raises(InvalidArgument):
        urls.parse(target)


def test_parameters() -> None:
    parsed = urls.parse("/b/k?a=1&b&=2&&c=%26%3D&b=x&a%3Db=c=d")
    assert parsed.query == (("a", "1"), ("b", ""), ("", "2"), ("c", "&="), ("b", "x"), ("a=b", "c=d"))
    assert (parsed.parameter("a"), parsed.parameter("c"), parsed.parameter("none")) == ("1", "&=", "")
    with pytest.raises(InvalidArgument, match="twice"):
        parsed.parameter("b")


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_whatever_comes_is_parsed_or_refused(target: str) -> None:
    try:
        target.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return
    try:
        parsed = urls.parse(target)
    except InvalidArgument:
        return
    assert parsed.path == f"/{parsed.key.bucket}/{parsed.key.key}".encode()
