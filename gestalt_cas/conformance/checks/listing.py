"""Cases 57 to 73: deleting and listing, page by page."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_TESTS = "transport tests; contract 3.7"
_S3 = "S3 API reference, ListObjectsV2; contract 3.7"
_MOST_MESSAGE_BYTES = 4 << 20
_MANY = 1001


def many_names() -> list[str]:
    """The names of the objects of the long listings."""
    return [f"m{number:05}" for number in range(_MANY)]


def _many(place: Place) -> tuple[Place, list[str]]:
    """A place with many objects, the same for every check of a run, and their names."""
    names = many_names()
    found = place.wire.shared.get("many")
    if found is None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: place.write(name, parts=[]), names))
        found = place.wire.shared["many"] = place
    return found, names


@check(57, evidence=_TESTS)
def what_is_deleted_is_not_found(place: Place) -> None:
    """After a delete the object is NOT_FOUND and listed no more."""
    place.fill("k", "l")
    place.delete("k")
    place.absent("k", "it was deleted")
    with place.refused(Code.NOT_FOUND, why="it was deleted"):
        place.chunks("k")
    place.same(place.names(place.list()), ["l"], "the keys that are listed")


@check(58, Capability.DELETE_MISSING, evidence="stub and S3; contract 6, Delete missing")
def deleting_nothing_is_fine(place: Place) -> None:
    """Deleting what is not there is OK, once and again."""
    place.delete("never")
    place.fill("k")
    place.delete("k")
    place.delete("k")
    place.absent("k", "it was deleted twice")


@check(59, evidence=_TESTS)
def a_prefix_in_two_pages(place: Place) -> None:
    """A prefix is listed page by page, with has_more and a token exactly while there is more."""
    place.fill("docs/a", "docs/b", "docs/c", "docs", "doc/x", "other")
    first = place.list(prefix="docs/", max_keys=2)
    place.same(place.names(first), ["docs/a", "docs/b"], "the first page")
    place.same((first.has_more, bool(first.next_continuation_token)), (True, True), "has_more, and a token")
    second = place.list(prefix="docs/", max_keys=2, continuation_token=first.next_continuation_token)
    place.same(place.names(second), ["docs/c"], "the second page")
    place.same((second.has_more, second.next_continuation_token), (False, ""), "has_more and token of the last page")


@check(60, evidence=_TESTS)
def a_delimiter_groups(place: Place) -> None:
    """Keys with the delimiter after the prefix are one common prefix, and not listed as objects."""
    place.fill("a.txt", "nested/b", "nested/c/d", "z.txt")
    page = place.list(delimiter="/")
    place.same(place.names(page), ["a.txt", "z.txt"], "the objects")
    place.same(place.groups(page), ["nested/"], "the common prefixes")
    below = place.list(prefix="nested/", delimiter="/")
    place.same((place.names(below), place.groups(below)), (["nested/b"], ["nested/c/"]), "what lies below nested/")
    inside = place.list(prefix="nes", delimiter="/")
    place.same((place.names(inside), place.groups(inside)), ([], ["nested/"]), "a prefix that ends within a segment")


@check(61, evidence="Go transport test; contract 3.7")
def a_group_is_on_one_page_only(place: Place) -> None:
    """With one entry a page a common prefix comes once, in its place, and never again."""
    place.fill("a.txt", "nested/b", "nested/c", "nested/d", "z.txt")
    pages = place.pages(delimiter="/", max_keys=1)
    seen = [place.names(page) + place.groups(page) for page in pages]
    place.same(seen, [["a.txt"], ["nested/"], ["z.txt"]], "the pages")
    place.same(pages[-1].has_more, False, "has_more of the last page")


@check(62, evidence=_TESTS)
def start_after_beside_a_delimiter(place: Place) -> None:
    """start_after passes a key, and the groups behind it are listed."""
    place.fill("a.txt", "nested/b", "z.txt")
    page = place.list(start_after="a.txt", delimiter="/")
    place.same((place.names(page), place.groups(page)), (["z.txt"], ["nested/"]), "what comes after a.txt")


@check(113, Capability.START_AFTER_GROUP, evidence="stub and GCS; contract 6, start_after on a group")
def start_after_a_group_leaves_it_out(place: Place) -> None:
    """start_after that ends in the delimiter names a group and leaves all of it out."""
    place.fill("a.txt", "nested/b", "nested/c", "z.txt")
    page = place.list(start_after="nested/", delimiter="/")
    place.same((place.names(page), place.groups(page)), (["z.txt"], []), "what comes after nested/")


@check(63, evidence=_TESTS)
def start_after_is_exclusive(place: Place) -> None:
    """start_after is left out itself, need not exist, and need not match the prefix."""
    place.fill("a", "b", "c", "p/x")
    place.same(place.names(place.list(start_after="b")), ["c", "p/x"], "what comes after b")
    place.same(place.names(place.list(start_after="bb")), ["c", "p/x"], "what comes after bb, which is not there")
    place.same(place.names(place.list(start_after="a", prefix="p/")), ["p/x"], "what comes after a, below p/")


@check(64, evidence="stub and S3; contract 3.7")
def a_token_goes_before_start_after(place: Place) -> None:
    """With a token start_after counts no more."""
    place.fill("a", "b", "c", "d")
    first = place.list(max_keys=2)
    rest = place.list(continuation_token=first.next_continuation_token, start_after="c")
    place.same(place.names(rest), ["c", "d"], "the page of the token")


@check(65, evidence="stub and GCS; contract 3.7")
def no_page_size_means_the_default(place: Place) -> None:
    """max_keys of 0 and below means the default, not an empty page."""
    place.fill("a", "b", "c")
    for count in (0, -1):
        place.same(place.names(place.list(max_keys=count)), ["a", "b", "c"], f"the page of max_keys {count}")


@check(66, evidence=_S3)
def a_page_has_1000_entries_at_most(place: Place) -> None:
    """A larger max_keys is cut to 1,000."""
    place, names = _many(place)
    page = place.list(max_keys=100_000)
    place.holds(len(page.objects) <= 1000, "at most 1,000 entries on a page", len(page.objects))
    place.same(place.names(page), names[: len(page.objects)], "the first page")
    place.same(page.has_more, True, "has_more of a cut page")


@check(67, evidence=_S3)
def a_thousand_and_one_keys(place: Place) -> None:
    """Every key of a long listing comes exactly once, whatever the page size."""
    place, names = _many(place)
    for count in (0, 1000, 333):
        found = [name for page in place.pages(max_keys=count) for name in place.names(page)]
        place.holds(found == names, f"all {_MANY} keys once and in order by max_keys {count}", f"{len(found)} keys")


@check(68, evidence="gRPC's default receive limit of 4 MiB; contract 3.1")
def pages_stay_under_four_mebibytes(place: Place) -> None:
    """Pages of objects with large metadata end early instead of passing 4 MiB."""
    names = [f"k{number:03}" for number in range(120)]
    metadata = {"large": "x" * 50_000}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.write(name, b"x", metadata=metadata), names))
    pages = place.pages()
    for page in pages:
        place.holds(page.ByteSize() < _MOST_MESSAGE_BYTES, "a page under 4 MiB", page.ByteSize())
    place.same([name for page in pages for name in place.names(page)], names, "the keys of all pages")


@check(69, evidence="contract 3.7")
def a_delimiter_of_several_characters(place: Place) -> None:
    """A delimiter may be any text of any length."""
    place.fill("a--b--c", "a--d", "a-e", "f")
    page = place.list(delimiter="--")
    place.same((place.names(page), place.groups(page)), (["a-e", "f"], ["a--"]), "the listing by '--'")


@check(70, evidence="stub; contract 3.7")
def nothing_below_a_prefix(place: Place) -> None:
    """A prefix without keys, or a bucket that nobody used, is an empty page."""
    place.fill("a")
    pages = [place.list(prefix="nothing/")]
    if place.bucketed:
        pages.append(place.wire.list(bucket=f"{place.bucket}-unused"))
    for page in pages:
        place.same((len(page.objects), page.has_more, page.next_continuation_token), (0, False, ""), "an empty page")


@check(71, evidence="Go string order; contract 3.7")
def keys_are_in_byte_order(place: Place) -> None:
    """Keys are in the order of their UTF-8 bytes, not of UTF-16 or of a language."""
    names = ["B", "a", "b", "ä", "\uffee", "\U0001f600", "Z", "~"]
    place.fill(*names)
    wanted = sorted(names, key=str.encode)
    place.same(place.names(place.list()), wanted, "the keys")
    paged = [name for page in place.pages(max_keys=1) for name in place.names(page)]
    place.same(paged, wanted, "the keys page by page")


@check(72, evidence="contract 3.7: tokens survive the deletion of their key")
def a_token_outlives_its_key(place: Place) -> None:
    """Deleting the last key of a page does not break the token that the page brought."""
    place.fill("a", "b", "c", "d", "g/1", "g/2", "h")
    first = place.list(max_keys=2)
    place.delete("b")
    rest = place.list(continuation_token=first.next_continuation_token)
    place.same(place.names(rest), ["c", "d", "g/1", "g/2", "h"], "the page of the token")
    grouped = place.list(delimiter="/", max_keys=4)
    place.same(place.groups(grouped), ["g/"], "the group that ends the page")
    for name in ("g/1", "g/2"):
        place.delete(name)
    rest = place.list(delimiter="/", continuation_token=grouped.next_continuation_token)
    place.same((place.names(rest), place.groups(rest)), (["h"], []), "the page of the token after a group that went")


@check(73, evidence="hosts wrap tokens in base64url; contract 3.10")
def tokens_pass_through_hosts(place: Place) -> None:
    """A token is text that survives being encoded and decoded by a host."""
    place.fill("a ?#", "b\u00e9", "c")
    first = place.list(max_keys=2)
    wrapped = base64.urlsafe_b64encode(first.next_continuation_token.encode()).rstrip(b"=")
    token = base64.urlsafe_b64decode(wrapped + b"=" * (-len(wrapped) % 4)).decode()
    place.holds(len(token) < 8192, "a token of moderate length", len(token))
    place.same(place.names(place.list(continuation_token=token)), ["c"], "the page of the token")


@check(114, evidence=_S3)
def pages_end_where_the_keys_do(place: Place) -> None:
    """A page that takes the very last entry says so: no empty page follows, neither after objects nor after groups."""
    place.fill("a", "b", "c", "d", "g/1", "g/2")
    for delimiter, count in (("", 6), ("", 3), ("/", 5)):
        pages = place.pages(max_keys=count, delimiter=delimiter)
        entries = [len(page.objects) + len(page.common_prefixes) for page in pages]
        place.holds(all(entries), f"no empty page by max_keys {count}", entries)
    whole = place.list(max_keys=6)
    place.same((whole.has_more, whole.next_continuation_token), (False, ""), "has_more and token of a full last page")


@check(115, evidence="contract 3.7: max_keys counts objects and common prefixes together")
def groups_count_as_entries(place: Place) -> None:
    """max_keys counts objects and common prefixes together, in one merged order."""
    place.fill("a/1", "a/2", "b", "c/1", "d", "e/1")
    pages = place.pages(delimiter="/", max_keys=2)
    seen = [sorted(place.names(page) + place.groups(page)) for page in pages]
    place.same(seen, [["a/", "b"], ["c/", "d"], ["e/"]], "the pages of two entries")


@check(116, Capability.OPAQUE_TOKENS, evidence="contract 6, Token")
def a_token_belongs_to_its_listing(place: Place) -> None:
    """A token of another prefix, or one that was never given out, is INVALID_ARGUMENT."""
    place.fill("a/1", "a/2", "a/3", "b/1", "b/2")
    token = place.list(prefix="a/", max_keys=1).next_continuation_token
    for fields in ({"prefix": "b/"}, {"prefix": "a/", "delimiter": "/"}):
        with place.refused(Code.INVALID_ARGUMENT, why="the token was made for another listing"):
            place.list(continuation_token=token, **fields)
    for text in ("nonsense", token + "x", "!!!"):
        with place.refused(Code.INVALID_ARGUMENT, why="such a token was never given out"):
            place.list(prefix="a/", continuation_token=text)


@check(117, evidence="contract 3.7")
def a_listed_meta_tells_what_head_does(place: Place) -> None:
    """A listed object has the key, etag, size and time of modification that HeadObject tells."""
    place.write("k", b"hello", content_type="text/plain", metadata={"a": "b"})
    head, listed = place.head("k"), place.list().objects[0]
    for name in ("etag", "size"):
        place.same(getattr(listed, name), getattr(head, name), f"the {name} of a listed object")
    place.same(listed.last_modified.seconds, head.last_modified.seconds, "last_modified of a listed object")


@check(118, evidence="contract 3.7: pages are of the moment they are asked for")
def pagination_beside_writes(place: Place) -> None:
    """Keys that stand throughout come exactly once, however many are written and deleted between the pages."""
    stable = [f"s{number:02}" for number in range(30)]
    place.fill(*stable)
    seen: list[str] = []
    fields: dict[str, Any] = {}
    for number in range(200):
        page = place.list(max_keys=3, **fields)
        seen += place.names(page)
        if not page.has_more:
            break
        place.fill(f"s{number:02}-new", f"a{number:02}")
        if number:
            place.delete(f"s{number - 1:02}-new")
        fields = {"continuation_token": page.next_continuation_token}
    place.same([name for name in seen if name in stable], stable, "the keys that stood throughout")
    place.same(len(seen), len(set(seen)), "keys that came once, among all that came")


@check(119, evidence="contract 3.10: hosts drop what lies outside the prefix silently")
def a_prefix_is_strict(place: Place) -> None:
    """Nothing outside the prefix is listed, neither a neighbour that sorts close nor the prefix without its end."""
    place.fill("pre", "pre/", "pre/a", "pre0", "prf", "Pre/a", "pre-")
    place.same(place.names(place.list(prefix="pre/")), ["pre/", "pre/a"], "the keys below pre/")
    place.same(place.groups(place.list(prefix="pre", delimiter="/")), ["pre/"], "the common prefixes of pre")
