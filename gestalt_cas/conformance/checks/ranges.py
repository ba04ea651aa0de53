"""Cases 35 to 48: byte ranges. Both ends are included, either may be absent, the meta is that of the whole object."""

from __future__ import annotations

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_TESTS = "transport tests of all SDKs; contract 3.4"
_S3 = "S3 and GCS backends; RFC 9110 section 14; contract 3.4 and 6"
_LETTERS, _DIGITS = b"abcdef", b"0123456789"
_FAR = 2**62


def _read(place: Place, body: bytes, start: int | None, end: int | None, wanted: bytes) -> None:
    place.write("k", body)
    place.same(place.body("k", start=start, end=end), wanted, f"bytes {start} to {end} of {body!r}")


def _refuse(place: Place, body: bytes, *ranges: tuple[int | None, int | None]) -> None:
    place.write("k", body)
    for start, end in ranges:
        with place.refused(Code.OUT_OF_RANGE, why=f"start {start}, end {end} of {len(body)} bytes"):
            place.chunks("k", start=start, end=end)


@check(35, evidence=_TESTS)
def both_ends_are_included(place: Place) -> None:
    """Bytes 1 to 3 of "abcdef" are three bytes, although the comment in the proto file says half-open."""
    _read(place, _LETTERS, 1, 3, b"bcd")


@check(36, evidence=_TESTS)
def a_range_in_the_middle(place: Place) -> None:
    """Bytes 2 to 5 of ten digits are four bytes."""
    _read(place, _DIGITS, 2, 5, b"2345")


@check(37, evidence="S3 and GCS backends; contract 3.4")
def an_end_alone_is_a_prefix(place: Place) -> None:
    """An end without a start means from the first byte, not a suffix."""
    _read(place, _DIGITS, None, 3, b"0123")


@check(38, evidence=_TESTS)
def a_start_alone_is_the_rest(place: Place) -> None:
    """A start without an end means to the last byte."""
    _read(place, _DIGITS, 4, None, b"456789")


@check(39, evidence="contract 3.4")
def an_empty_range_is_the_whole(place: Place) -> None:
    """A range that is present with neither end is the whole object."""
    place.write("k", _LETTERS)
    place.same(place.body("k", ranged=True), _LETTERS, "the body by an empty range")


@check(40, evidence="Rust transport test; contract 3.4")
def the_size_stays_that_of_the_whole(place: Place) -> None:
    """The meta of a ranged read is that of the object: Content-Range is computed from its size."""
    place.write("k", _LETTERS)
    meta, _ = place.read("k", start=1, end=3)
    place.same(meta.size, len(_LETTERS), "the size in the meta of a ranged read")


@check(41, evidence=_TESTS)
def a_start_past_the_end(place: Place) -> None:
    """A start beyond the object is OUT_OF_RANGE."""
    _refuse(place, _LETTERS, (10, None), (10, 12), (_FAR, None))


@check(42, evidence="S3 and GCS backends; contract 3.4")
def an_end_before_the_start(place: Place) -> None:
    """Start after end is OUT_OF_RANGE, not an empty body."""
    _refuse(place, _DIGITS, (9, 1), (1, 0))


@check(43, evidence="S3 and GCS backends; contract 3.4")
def a_negative_start(place: Place) -> None:
    """A negative start is OUT_OF_RANGE; it does not count from the end."""
    _refuse(place, _LETTERS, (-1, None), (-1, 3))


@check(44, evidence="S3 and GCS backends; contract 3.4")
def a_negative_end(place: Place) -> None:
    """A negative end is OUT_OF_RANGE."""
    _refuse(place, _LETTERS, (None, -1), (0, -1))


@check(45, Capability.CLAMPED_RANGES, evidence=_S3)
def an_end_past_the_object_is_clamped(place: Place) -> None:
    """An end beyond the object means its last byte: hosts forward ends unclamped."""
    _read(place, _LETTERS, 2, 100, b"cdef")
    _read(place, _LETTERS, 0, len(_LETTERS), _LETTERS)


@check(46, evidence="contract 3.4")
def zero_to_zero_is_one_byte(place: Place) -> None:
    """Bytes 0 to 0 are the first byte."""
    _read(place, _LETTERS, 0, 0, b"a")


@check(47, evidence=_S3)
def a_start_at_the_size(place: Place) -> None:
    """The first byte after the object is OUT_OF_RANGE, with an end or without."""
    _refuse(place, _LETTERS, (len(_LETTERS), None), (len(_LETTERS), len(_LETTERS)))


@check(48, evidence=_S3)
def any_range_of_an_empty_object(place: Place) -> None:
    """An empty object has no range that could be served."""
    _refuse(place, b"", (0, None), (0, 0), (None, 0))


@check(101, evidence="contract 3.4: look-up, preconditions, range")
def a_missing_object_goes_before_its_range(place: Place) -> None:
    """An absent object is NOT_FOUND whatever range was asked for."""
    with place.refused(Code.NOT_FOUND, why="nothing is there to have a range of"):
        place.chunks("absent", start=5, end=1)


@check(102, evidence="contract 3.4: errors after the meta are a status, short bodies are not detected by clients")
def ranges_of_a_large_object(place: Place) -> None:
    """Ranges that begin and end anywhere in an object of several frames are exact."""
    body = bytes(range(256)) * 9000
    place.write("k", body)
    edges = [0, 1, 65535, 65536, 65537, 2**20 - 1, 2**20, 2**20 + 1, len(body) - 1]
    for first, last in [(a, b) for a in edges for b in edges[::3] if a <= b]:
        got = place.body("k", start=first, end=last)
        place.same(len(got), last - first + 1, f"the length of bytes {first} to {last}")
        place.holds(got == body[first : last + 1], f"bytes {first} to {last} to be those that were written")
