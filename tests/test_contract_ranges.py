"""Conformance cases 35 to 48 (contract section 5, Ranges), once per wire generation.

Both ends of a range are inclusive and either may be absent; `meta.size` is always that of the whole object.
"""

from __future__ import annotations

import random

import grpc
import pytest

from wire.client import Place, refused
from wire.fixtures import client_fixture, place_fixture, server_fixture  # noqa: F401

OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
MIB = 2**20
LARGEST = 2**63 - 1


@pytest.fixture(name="letters")
def letters_fixture(place: Place) -> Place:
    """A place with `letters` ("abcdef"), `digits` ("0123456789") and `empty`."""
    place.write("letters", b"abcdef", content_type="text/plain", metadata={"a": "b"})
    place.write("digits", b"0123456789")
    place.write("empty")
    return place


def test_case_035_one_to_three_is_three_bytes(letters: Place) -> None:
    assert letters.body("letters", start=1, end=3) == b"bcd"


def test_case_036_two_to_five_is_four_bytes(letters: Place) -> None:
    assert letters.body("digits", start=2, end=5) == b"2345"


def test_case_037_an_end_alone_is_the_prefix(letters: Place) -> None:
    assert letters.body("digits", end=3) == b"0123"
    assert letters.body("digits", end=0) == b"0"


def test_case_038_a_start_alone_is_the_tail(letters: Place) -> None:
    assert letters.body("digits", start=4) == b"456789"
    assert letters.body("digits", start=9) == b"9"


def test_case_039_an_empty_byte_range_is_the_whole(letters: Place) -> None:
    assert letters.body("letters", ranged=True) == b"abcdef"
    assert letters.body("empty", ranged=True) == b""


def test_case_040_the_size_stays_that_of_the_whole(letters: Place) -> None:
    whole = letters.head("letters")
    for start, end in ((1, 3), (0, 0), (None, 2), (5, None), (2, 100)):
        meta, _ = letters.read("letters", start=start, end=end)
        assert meta == whole
        assert meta.size == 6


def test_case_041_a_start_past_the_end_is_out_of_range(letters: Place) -> None:
    for start, end in ((10, None), (10, 12), (2**20, None), (LARGEST, None), (LARGEST, LARGEST)):
        with refused(OUT_OF_RANGE):
            letters.read("letters", start=start, end=end)


def test_case_042_an_end_before_the_start_is_out_of_range(letters: Place) -> None:
    for start, end in ((9, 1), (1, 0), (LARGEST, 0)):
        with refused(OUT_OF_RANGE):
            letters.read("digits", start=start, end=end)


def test_case_043_a_negative_start_is_out_of_range(letters: Place) -> None:
    for start, end in ((-1, None), (-1, 3), (-(2**63), None), (-5, -1)):
        with refused(OUT_OF_RANGE):
            letters.read("letters", start=start, end=end)


def test_case_044_a_negative_end_is_out_of_range(letters: Place) -> None:
    for start, end in ((None, -1), (0, -1), (None, -(2**63))):
        with refused(OUT_OF_RANGE):
            letters.read("letters", start=start, end=end)


def test_case_045_an_end_past_the_object_is_clamped(letters: Place) -> None:
    for end in (6, 100, LARGEST):
        assert letters.body("letters", start=2, end=end) == b"cdef"
        assert letters.body("letters", end=end) == b"abcdef"


def test_case_046_zero_to_zero_is_one_byte(letters: Place) -> None:
    assert letters.body("letters", start=0, end=0) == b"a"


def test_case_047_a_start_at_the_size_is_out_of_range(letters: Place) -> None:
    for end in (None, 6, 100):
        with refused(OUT_OF_RANGE):
            letters.read("letters", start=6, end=end)


def test_case_048_any_range_on_an_empty_object_is_out_of_range(letters: Place) -> None:
    for start, end in ((0, None), (0, 0), (None, 0), (None, 10), (1, None), (-1, None)):
        with refused(OUT_OF_RANGE):
            letters.read("empty", start=start, end=end)


def test_a_range_error_names_the_size(letters: Place) -> None:
    with refused(OUT_OF_RANGE, "6"):
        letters.read("letters", start=10)


def test_a_missing_object_is_not_found_whatever_the_range(letters: Place) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        letters.read("absent", start=-1)


def test_preconditions_are_judged_before_the_range(letters: Place) -> None:
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        letters.read("letters", start=10, if_match='"other"')


@pytest.mark.parametrize("seed", range(3))
def test_ranges_across_chunk_boundaries_of_a_large_object(place: Place, seed: int) -> None:
    chance = random.Random(seed)
    body = chance.randbytes(3 * MIB + 12_345)
    place.write("k", body)
    edges = [0, 1, 65535, 65536, MIB - 1, MIB, MIB + 1, 2 * MIB - 1, 2 * MIB, 3 * MIB, len(body) - 1]
    pairs = [sorted((chance.choice(edges), chance.choice(edges))) for _ in range(12)]
    pairs += [sorted((chance.randrange(len(body)), chance.randrange(len(body)))) for _ in range(12)]
    for start, end in pairs:
        meta, parts = place.read("k", start=start, end=end)
        assert meta.size == len(body)
        assert all(0 < len(part) < 4 * MIB for part in parts)
        assert b"".join(parts) == body[start : end + 1], (start, end)
