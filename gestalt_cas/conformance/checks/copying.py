"""Cases 74 to 82: copies. Conditions judge the source, and the destination is replaced whole."""

from __future__ import annotations

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_TESTS = "transport tests; contract 3.8"
_STALE = '"' + "0" * 32 + '"'
_FAILED = Code.FAILED_PRECONDITION


@check(74, evidence=_TESTS)
def a_copy_keeps_everything(place: Place) -> None:
    """A copy has body, content type and metadata of its source and the reference of its destination, and says so."""
    source = place.write("a", b"hello" * 100, content_type="text/plain", metadata={"x": "y"})
    copied = place.copy("a", "b")
    place.same(copied.ref.key, place.key("b"), "the key of the copy")
    place.same((copied.size, copied.content_type), (500, "text/plain"), "size and content type of the copy")
    head = place.head("b")
    place.same(dict(head.metadata), {"x": "y"}, "the metadata of the copy")
    place.agree(copied, head, "the answer to the copy")
    place.same(place.body("b"), b"hello" * 100, "the body of the copy")
    place.same(place.head("a").etag, source.etag, "the etag of the source afterwards")


@check(75, evidence=_TESTS)
def a_copy_of_the_right_etag(place: Place) -> None:
    """if_match with the etag of the source lets the copy through, quoted or bare."""
    etag = place.write("a", b"x").etag
    for number, tags in enumerate((etag, etag.strip('"'), f'"{etag.strip(chr(34))}"', "*")):
        place.copy("a", f"b{number}", if_match=tags)
        place.same(place.body(f"b{number}"), b"x", f"the body of a copy by if_match {tags!r}")


@check(76, evidence=_TESTS)
def a_copy_of_another_etag(place: Place) -> None:
    """Another etag in if_match refuses the copy."""
    place.fill("a")
    with place.refused(_FAILED, why="the source has another etag"):
        place.copy("a", "b", if_match=_STALE)
    place.absent("b", "the copy was refused")


@check(77, evidence=_TESTS)
def a_copy_if_none_match(place: Place) -> None:
    """if_none_match with the etag of the source, or '*', refuses the copy; another etag does not."""
    etag = place.write("a", b"x").etag
    for tags in (etag, "*"):
        with place.refused(_FAILED, why="the source matches"):
            place.copy("a", "b", if_none_match=tags)
    place.absent("b", "the copy was refused")
    place.copy("a", "b", if_none_match=_STALE)
    place.same(place.body("b"), b"x", "the body of the copy")


@check(120, evidence="documentation, stub and S3 backend; contract 3.8")
def conditions_judge_the_source_only(place: Place) -> None:
    """The etags of a copy are compared with the source, never with what stands at the destination."""
    source, other = place.write("a", b"source").etag, place.write("b", b"destination").etag
    with place.refused(_FAILED, why="it is the destination that has this etag"):
        place.copy("a", "b", if_match=other)
    place.same(place.body("b"), b"destination", "the destination after a refused copy")
    place.copy("a", "b", if_match=source, if_none_match=other)
    place.same(place.body("b"), b"source", "the destination after the copy")


@check(78, evidence="S3 backend; contract 6, Copy missing source + if_match")
def a_copy_of_nothing(place: Place) -> None:
    """A source that is not there is NOT_FOUND, also with conditions."""
    for fields in ({}, {"if_match": _STALE}, {"if_none_match": "*"}):
        with place.refused(Code.NOT_FOUND, why="there is no source"):
            place.copy("absent", "b", **fields)
    place.absent("b", "nothing was copied")


@check(79, evidence=_TESTS)
def a_copy_replaces_its_destination(place: Place) -> None:
    """What stood at the destination is replaced whole, metadata included."""
    place.write("a", b"new", metadata={"n": "1"})
    place.write("b", b"old and longer", content_type="text/plain", metadata={"o": "2"})
    place.copy("a", "b")
    head = place.head("b")
    place.same((head.size, head.content_type, dict(head.metadata)), (3, "", {"n": "1"}), "size, type and metadata")
    place.same(place.body("b"), b"new", "the body")


@check(80, Capability.SELF_COPY, evidence="stub and GCS; contract 3.8")
def a_copy_onto_itself(place: Place) -> None:
    """An object may be copied onto itself; its bytes stay."""
    place.write("a", b"same", metadata={"k": "v"})
    place.copy("a", "a")
    place.same((place.body("a"), dict(place.head("a").metadata)), (b"same", {"k": "v"}), "body and metadata")


@check(81, evidence=_TESTS)
def a_copy_outlives_its_source(place: Place) -> None:
    """Deleting or overwriting the source leaves the copy as it is."""
    place.write("a", b"shared" * 50_000, metadata={"k": "v"})
    place.copy("a", "b")
    place.copy("a", "c")
    place.write("a", b"overwritten", metadata={"k": "other"})
    place.delete("a")
    place.delete("b")
    place.same(place.body("c"), b"shared" * 50_000, "the body of the copy")
    place.same(dict(place.head("c").metadata), {"k": "v"}, "the metadata of the copy")


@check(82, evidence="S3 backends put the source into a header; contract 3.8")
def a_source_with_url_characters(place: Place) -> None:
    """Keys with characters that mean something in URLs can be copied, both ways."""
    place.write("a ?#+%2F", b"x")
    place.copy("a ?#+%2F", "b ?#+%2F")
    place.same(place.body("b ?#+%2F"), b"x", "the body of the copy")
