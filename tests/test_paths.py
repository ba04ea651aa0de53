"""Keys and local paths: what maps, what is refused, and that the two never disagree."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey
from gestalt_cas.transfers.paths import PathLimits, RemoteTree, ancestors, local_parts, order, path_meant

LIMITS = PathLimits()
names = st.lists(st.sampled_from(["a", "b", ".", "..", "", "é", "\0", "...", " ", "a" * 256]), max_size=5).map("/".join)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", (b"a",)),
        ("a/b/c", (b"a", b"b", b"c")),
        ("...", (b"...",)),
        (".a/..b", (b".a", b"..b")),
        (" /\t", (b" ", b"\t")),
        ("a\\..\\b", (b"a\\..\\b",)),
        ("\x1b[2J", (b"\x1b[2J",)),
        ("é", "é".encode()),
        ("x" * 255, (b"x" * 255,)),
    ],
)
def test_names_that_have_a_path(name: str, parts: tuple[bytes, ...]) -> None:
    assert local_parts(name, LIMITS) == (parts if isinstance(parts, tuple) else (parts,))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "no file name is left"),
        ("..", "'..' is not a file name"),
        (".", "'.' is not a file name"),
        ("../a", "'..'"),
        ("a/../b", "'..'"),
        ("a/./b", "'.'"),
        ("/a", "empty part"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("/", "empty part"),
        ("a\0b", "NUL"),
        ("a/" + "x" * 256, "256 bytes long"),
        ("é" * 128, "256 bytes long"),
    ],
)
def test_names_that_have_none_say_why(name: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        local_parts(name, LIMITS)


def test_the_whole_path_is_limited_too() -> None:
    limits = PathLimits(name_max=255, path_max=9)
    assert local_parts("aaaa/bbbb", limits) == (b"aaaa", b"bbbb")
    with pytest.raises(InvalidArgument, match="10 bytes long; 9 are left"):
        local_parts("aaaa/bbbbb", limits)


@given(names)
def test_a_path_leads_back_to_its_name_and_stays_inside(name: str) -> None:
    try:
        parts = local_parts(name, LIMITS)
    except InvalidArgument:
        return
    path = b"/".join(parts).decode()
    assert path == name == posixpath.normpath(path)
    assert posixpath.normpath(f"/base/{path}").startswith("/base/")
    assert path_meant(name) == name


@given(names)
def test_path_meant_is_where_a_careless_reader_would_end(name: str) -> None:
    end = posixpath.normpath(f"/d/{name}")
    meant = path_meant(name)
    if meant:
        assert end == f"/d/{meant}"
    else:
        steps, depth = [part for part in name.split("/") if part not in ("", ".")], 0
        left = False
        for step in steps:
            depth += -1 if step == ".." else 1
            left = left or depth < 0
        assert left or end == "/d"


def test_ancestors_are_the_names_above() -> None:
    assert ancestors("a/b/c") == ["a", "a/b"]
    assert ancestors("a") == []


@given(st.lists(st.text(st.sampled_from("ab/!0é\U00010000\uffff"), max_size=5)))
def test_names_are_ordered_as_the_store_orders_keys(found: list[str]) -> None:
    assert sorted(found, key=order) == sorted(found, key=lambda name: name.encode())


@pytest.mark.parametrize(
    ("prefix", "key"),
    [("", "x"), ("site", "site/x"), ("site/", "site/x"), ("a/b", "a/b/x"), ("s//", "s//x"), ("/", "/x")],
)
def test_a_prefix_and_a_name_have_one_slash_between(prefix: str, key: str) -> None:
    tree = RemoteTree.at("b", prefix)
    assert tree.key("x") == ObjectKey("b", key)
    assert tree.name(ObjectKey("b", key)) == "x"


def test_a_key_that_would_be_too_long_is_refused() -> None:
    tree = RemoteTree.at("b", "p")
    assert len(tree.key("x" * 2046).key) == 2048
    with pytest.raises(InvalidArgument, match="2049 bytes long"):
        tree.key("x" * 2047)


def test_a_name_that_is_not_utf8_has_no_key() -> None:
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        RemoteTree.at("b", "p").key("caf\udce9")
