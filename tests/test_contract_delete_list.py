"""Conformance cases 57 to 73 (contract section 5, Delete/List), once per wire generation."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from wire import protos
from wire.client import Client, Place, refused
from wire.fixtures import client_fixture, new_fixture, old_fixture, place_fixture, server_fixture  # noqa: F401
from wire.process import Server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
MANY = 1001
GRPC_DEFAULT_MESSAGE_BYTES = 4 * 2**20


def fill(place: Place, *names: str) -> None:
    for name in names:
        place.write(name, name.encode())


@pytest.fixture(scope="module", name="many")
def many_fixture(server: Server) -> Iterator[list[str]]:
    """1,001 objects `many/0000` … in the default bucket, so that both generations see them; the keys in order."""
    keys = [f"many/{number:04}" for number in range(MANY)]
    with Client(server.target, protos.BUCKETLESS) as client, ThreadPoolExecutor(8) as pool:
        client.write("source", b"x")
        list(pool.map(lambda key: client.copy("source", key), keys))
    return keys


def test_case_057_head_after_delete_is_not_found(place: Place) -> None:
    fill(place, "k", "l")
    place.delete("k")
    for call in (place.head, place.read):
        with refused(NOT_FOUND):
            call("k")
    assert place.names(place.list()) == ["l"]
    place.write("k", b"again")
    assert place.body("k") == b"again"


def test_case_058_deleting_a_missing_object_is_fine(place: Place) -> None:
    place.delete("absent")
    place.delete("absent")
    fill(place, "k")
    place.delete("k")
    place.delete("k")
    assert not place.exists("k")
    assert place.names(place.list()) == []


def test_case_059_a_prefix_in_two_pages(place: Place) -> None:
    fill(place, "docs/a", "docs/b", "docs/c", "docs/d", "other", "doc")
    first = place.list(prefix="docs/", max_keys=2)
    assert place.names(first) == ["docs/a", "docs/b"]
    assert first.has_more
    assert first.next_continuation_token
    second = place.list(prefix="docs/", max_keys=2, continuation_token=first.next_continuation_token)
    assert place.names(second) == ["docs/c", "docs/d"]
    assert not second.has_more
    assert second.next_continuation_token == ""


def test_listed_metas_are_those_of_head(place: Place) -> None:
    place.write("a", b"one", content_type="text/plain", metadata={"k": "v"})
    place.write("b", b"")
    listed = place.list().objects
    assert list(listed) == [place.head("a"), place.head("b")]


def test_case_060_the_delimiter_groups_once(place: Place) -> None:
    fill(place, "a.txt", "nested/b", "nested/c", "nested/deep/d", "z.txt")
    page = place.list(delimiter="/")
    assert place.names(page) == ["a.txt", "z.txt"]
    assert place.groups(page) == ["nested/"]
    assert not page.has_more
    below = place.list(prefix="nested/", delimiter="/")
    assert place.names(below) == ["nested/b", "nested/c"]
    assert place.groups(below) == ["nested/deep/"]


def test_a_prefix_may_end_inside_a_segment(place: Place) -> None:
    fill(place, "photos/2023/a", "photos/2024/b", "photos/21", "photo", "photos/2")
    page = place.list(prefix="photos/2", delimiter="/")
    assert place.names(page) == ["photos/2", "photos/21"]
    assert place.groups(page) == ["photos/2023/", "photos/2024/"]


def test_case_061_one_entry_a_page_never_repeats_a_prefix(place: Place) -> None:
    fill(place, "a.txt", "nested/b", "nested/c", "nested/deep/d", "z.txt")
    seen = []
    token = ""
    for last in (False, False, True):
        page = place.list(delimiter="/", max_keys=1, continuation_token=token)
        seen += place.names(page) + place.groups(page)
        assert page.has_more is not last
        token = page.next_continuation_token
    assert seen == ["a.txt", "nested/", "z.txt"]
    assert token == ""


def test_a_group_at_the_end_leaves_nothing_more(place: Place) -> None:
    fill(place, "a", "n/1", "n/2", "n/3")
    page = place.list(delimiter="/", max_keys=2)
    assert (place.names(page), place.groups(page)) == (["a"], ["n/"])
    assert not page.has_more
    assert page.next_continuation_token == ""


def test_case_062_start_after_with_a_delimiter(place: Place) -> None:
    fill(place, "a.txt", "nested/b", "nested/c", "z.txt")
    page = place.list(delimiter="/", start_after="a.txt")
    assert (place.names(page), place.groups(page)) == (["z.txt"], ["nested/"])
    inside = place.list(delimiter="/", start_after="nested/b")
    assert (place.names(inside), place.groups(inside)) == (["z.txt"], ["nested/"]), "a member is greater"
    after_all = place.list(delimiter="/", start_after="nested/c")
    assert (place.names(after_all), place.groups(after_all)) == (["z.txt"], [])
    dropped = place.list(delimiter="/", start_after="nested/")
    assert (place.names(dropped), place.groups(dropped)) == (["z.txt"], []), "it ends with the delimiter"


def test_case_063_start_after_is_exclusive(place: Place) -> None:
    fill(place, "a", "b", "b0", "c")
    assert place.names(place.list(start_after="b")) == ["b0", "c"]
    assert place.names(place.list(start_after="aa")) == ["b", "b0", "c"]
    assert place.names(place.list(start_after="c")) == []
    assert place.names(place.list(prefix="b", start_after="a")) == ["b", "b0"]
    assert place.names(place.list(prefix="b", start_after="c")) == []


def test_case_064_a_token_wins_over_start_after(place: Place) -> None:
    fill(place, "a", "b", "c", "d")
    token = place.list(max_keys=1).next_continuation_token
    assert place.names(place.list(continuation_token=token, start_after="c")) == ["b", "c", "d"]
    token = place.list(max_keys=3).next_continuation_token
    assert place.names(place.list(continuation_token=token, start_after="a")) == ["d"]


@pytest.mark.parametrize("max_keys", [0, -1, -(2**31)])
def test_case_065_no_positive_max_keys_means_1000(client: Client, many: list[str], max_keys: int) -> None:
    page = client.list(prefix="many/", max_keys=max_keys)
    assert [meta.ref.key for meta in page.objects] == many[:1000]
    assert page.has_more


@pytest.mark.parametrize("max_keys", [1000, 1001, 100_000, 2**31 - 1])
def test_case_066_a_page_never_has_more_than_1000(client: Client, many: list[str], max_keys: int) -> None:
    page = client.list(prefix="many/", max_keys=max_keys)
    assert [meta.ref.key for meta in page.objects] == many[:1000]
    assert page.has_more


@pytest.mark.parametrize("max_keys", [0, 7, 250, 500, 999])
def test_case_067_1001_keys_without_duplicates(client: Client, many: list[str], max_keys: int) -> None:
    pages = client.pages(prefix="many/", max_keys=max_keys)
    assert [meta.ref.key for page in pages for meta in page.objects] == many
    size = max_keys or 1000
    assert [len(page.objects) for page in pages[:-1]] == [size] * (len(pages) - 1)


def test_exactly_one_full_page_has_no_more(client: Client, many: list[str]) -> None:
    page = client.list(prefix="many/", start_after=many[0], max_keys=1000)
    assert [meta.ref.key for meta in page.objects] == many[1:]
    assert not page.has_more
    assert page.next_continuation_token == ""


def test_case_068_pages_of_large_metadata_stay_below_4_mib(place: Place) -> None:
    names = [f"k{number:03}" for number in range(150)]
    large = {"a": "x" * 60_000}
    place.write(names[0], b"x", metadata=large)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: place.copy(names[0], name), names[1:]))
    pages = place.pages()
    assert all(page.ByteSize() < GRPC_DEFAULT_MESSAGE_BYTES for page in pages)
    assert all(page.objects for page in pages)
    assert [name for page in pages for name in place.names(page)] == names
    assert {meta.metadata["a"] for page in pages for meta in page.objects} == {large["a"]}
    assert 2 < len(pages) < 10, "stopped early, yet not after every object"


def test_long_keys_and_groups_fit_a_page(place: Place) -> None:
    width = 2048 - len(place.prefix.encode()) - 5
    names = [f"{number:03}" + "é" * (width // 2) + "/k" for number in range(60)]
    fill(place, *names)
    assert [name for page in place.pages(max_keys=7) for name in place.names(page)] == names
    pages = place.pages(delimiter="/", max_keys=7)
    assert [group for page in pages for group in place.groups(page)] == [name[:-1] for name in names]


@pytest.mark.parametrize("delimiter", ["::", "aa", "é", "🙂", "/ ", "ab/"])
def test_case_069_a_delimiter_of_several_characters(place: Place, delimiter: str) -> None:
    half = delimiter[0]
    names = [f"x{delimiter}1", f"x{delimiter}2", f"x{delimiter}y{delimiter}3", "w", f"w{delimiter}", "v" + half * 1]
    fill(place, *names)
    page = place.list(delimiter=delimiter)
    expected = sorted({name.partition(delimiter)[0] + delimiter for name in names if delimiter in name})
    assert place.groups(page) == expected
    assert place.names(page) == sorted(name for name in names if delimiter not in name)
    one_by_one = place.pages(delimiter=delimiter, max_keys=1)
    assert [group for single in one_by_one for group in place.groups(single)] == expected


def test_case_070_an_unknown_prefix_or_bucket_is_an_empty_page(place: Place, old: Client) -> None:
    fill(place, "a")
    for page in (place.list(prefix="zzz"), old.list(bucket="never-seen"), old.list(bucket="never-seen", delimiter="/")):
        assert not page.objects
        assert not page.common_prefixes
        assert not page.has_more
        assert page.next_continuation_token == ""


def test_case_071_byte_order_of_utf_8(place: Place) -> None:
    names = ["z", "a", "A", "é", "\uffff", "\U00010000", "🙂", "\ue000", "~", "\x7f", "\x80", "0", "a\0", "a0", " "]
    fill(place, *names)
    expected = sorted(names, key=str.encode)
    assert expected.index("\uffff") < expected.index("\U00010000"), "the order UTF-16 would turn round"
    assert place.names(place.list()) == expected
    assert [name for page in place.pages(max_keys=1) for name in place.names(page)] == expected
    for position, name in enumerate(expected):
        assert place.names(place.list(start_after=name)) == expected[position + 1 :]


def test_case_072_a_token_survives_the_deletion_of_its_key(place: Place) -> None:
    fill(place, "a", "b", "c", "d", "n/1", "n/2", "o")
    first = place.list(max_keys=2)
    place.delete("b")
    place.delete("c")
    token = first.next_continuation_token
    assert place.names(place.list(continuation_token=token)) == ["d", "n/1", "n/2", "o"]
    grouped = place.list(delimiter="/", max_keys=3)
    assert (place.names(grouped), place.groups(grouped)) == (["a", "d"], ["n/"])
    place.delete("n/1")
    place.delete("n/2")
    rest = place.list(delimiter="/", continuation_token=grouped.next_continuation_token)
    assert (place.names(rest), place.groups(rest)) == (["o"], [])


def test_keys_that_come_between_pages_are_seen_when_they_lie_ahead(place: Place) -> None:
    fill(place, "b", "d", "f")
    first = place.list(max_keys=1)
    fill(place, "a", "c", "e")
    rest = place.list(continuation_token=first.next_continuation_token)
    assert place.names(rest) == ["c", "d", "e", "f"]


def test_case_073_tokens_pass_through_the_wrapping_of_a_host(place: Place) -> None:
    names = ["é/1", "é/2", "日本/\0", "日本/x", "🙂"]
    fill(place, *names)
    found: list[str] = []
    token = ""
    while True:
        page = place.list(delimiter="2", max_keys=1, continuation_token=token)
        found += place.names(page) + place.groups(page)
        if not page.has_more:
            break
        wrapped = base64.urlsafe_b64encode(page.next_continuation_token.encode()).decode().rstrip("=")
        token = base64.urlsafe_b64decode(wrapped + "=" * (-len(wrapped) % 4)).decode()
    assert found == sorted(names, key=str.encode)


def test_a_corrupt_token_is_invalid(place: Place) -> None:
    fill(place, "a", "b", "c")
    token = place.list(max_keys=1).next_continuation_token
    chance = random.Random(73)
    corrupt = [
        token[:-1],
        token[1:],
        token + "A",
        token * 2,
        "x",
        "!!!",
        "a" * 50,
        "é",
        "\0",
        " " + token,
        "A" * 10_000,
    ]
    for _ in range(30):
        position = chance.randrange(len(token) - 1)  # the last character may hold bits that base64 does not use
        other = chance.choice([char for char in "ABCDwxyz0189-_" if char != token[position]])
        corrupt.append(token[:position] + other + token[position + 1 :])
    for text in corrupt:
        with refused(INVALID, "token"):
            place.list(continuation_token=text)


def test_a_token_of_another_listing_is_invalid(place: Place) -> None:
    fill(place, "a/1", "a/2", "a/3", "b/1", "b/2")
    token = place.list(prefix="a/", max_keys=1).next_continuation_token
    for other in (
        {"prefix": "b/"},
        {"prefix": ""},
        {"prefix": "a/", "delimiter": "/"},
    ):
        with refused(INVALID, "token"):
            place.list(continuation_token=token, **other)
    if place.bucketed:
        with refused(INVALID, "token"):
            place.client.list(bucket="another", prefix="a/", continuation_token=token)


def test_the_root_listing_of_a_bucketless_store() -> None:
    """The shared server gives bucketless tests a prefix; this one lists everything there is."""
    with Server() as server, Client(server.target, protos.BUCKETLESS) as client:
        assert client.keys() == []
        for key in ("b/1", "a", "b/2", "/", "//x"):
            client.write(key, b"x")
        assert client.keys() == ["/", "//x", "a", "b/1", "b/2"]
        page = client.list(delimiter="/")
        assert [meta.ref.key for meta in page.objects] == ["a"]
        assert list(page.common_prefixes) == ["/", "b/"]
        server.stop()
