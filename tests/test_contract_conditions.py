"""Conformance cases 49 to 56 (contract section 5, Conditions), once per wire generation.

Every failed condition, a not-modified included, is FAILED_PRECONDITION; the order is that of RFC 9110 section 13.2.2.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from wire.client import Place, refused, status_of
from wire.fixtures import client_fixture, place_fixture, server_fixture  # noqa: F401

FAILED = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
STALE = '"' + "0" * 64 + '"'


def test_case_049_create_only_works_once(place: Place) -> None:
    place.write("k", b"first", if_none_match="*", content_type="text/plain")
    with refused(FAILED):
        place.write("k", b"second", if_none_match="*")
    assert place.body("k") == b"first"
    assert place.head("k").content_type == "text/plain"


def test_case_050_of_parallel_creators_one_wins(place: Place) -> None:
    def create(number: int) -> int | None:
        status = status_of(lambda: place.write("k", f"body {number}".encode() * 1000, if_none_match="*"))
        assert status in (grpc.StatusCode.OK, FAILED), status
        return number if status is grpc.StatusCode.OK else None

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(create, range(16)) if number is not None]
    assert len(winners) == 1
    assert place.body("k") == f"body {winners[0]}".encode() * 1000


def test_case_051_write_if_match(place: Place) -> None:
    first = place.write("k", b"one").etag
    second = place.write("k", b"two", if_match=first).etag
    with refused(FAILED):
        place.write("k", b"three", if_match=first)
    assert place.body("k") == b"two"
    place.write("k", b"three", if_match=second)
    assert place.body("k") == b"three"


def test_case_052_write_if_match_on_an_absent_object(place: Place) -> None:
    for tags in (STALE, "*", "anything"):
        with refused(FAILED):
            place.write("k", b"x", if_match=tags)
    assert not place.exists("k")


def test_case_053_read_if_none_match_of_the_current_etag(place: Place) -> None:
    etag = place.write("k", b"one").etag
    with refused(FAILED):
        place.read("k", if_none_match=etag)
    place.write("k", b"two")
    assert place.body("k", if_none_match=etag) == b"two"


def test_case_054_read_if_match(place: Place) -> None:
    etag = place.write("k", b"one").etag
    assert place.body("k", if_match=etag) == b"one"
    with refused(FAILED):
        place.read("k", if_match=STALE)


def forms(etag: str) -> tuple[list[str], list[str]]:
    """Texts that hold `etag` strongly, and texts that do not."""
    bare = etag.strip('"')
    return (
        [
            etag,
            bare,
            f" {etag} ",
            f"{STALE}, {etag}",
            f"{STALE},{bare}",
            f"W/{STALE}, {etag}",
            f"{bare} , other",
            "*",
            " * ",
        ],
        [STALE, STALE.strip('"'), bare[:-1], bare.upper(), f"{STALE}, other", '""'],
    )


def test_case_055_forms_of_if_match_on_a_read(place: Place) -> None:
    etag = place.write("k", b"one").etag
    matching, others = forms(etag)
    for tags in matching:
        assert place.body("k", if_match=tags) == b"one", tags
    for tags in (*others, f"W/{etag}", f"W/{etag}, {STALE}"):
        with refused(FAILED):
            place.read("k", if_match=tags)


def test_case_055_forms_of_if_none_match_on_a_read(place: Place) -> None:
    etag = place.write("k", b"one").etag
    matching, others = forms(etag)
    for tags in (*matching, f"W/{etag}", f"{STALE}, W/{etag}"):
        with refused(FAILED):
            place.read("k", if_none_match=tags)
    for tags in others:
        assert place.body("k", if_none_match=tags) == b"one", tags


def test_case_055_forms_of_if_match_on_a_write(place: Place) -> None:
    etag = place.write("k", b"one").etag
    matching, others = forms(etag)
    for tags in (*others, f"W/{etag}"):
        with refused(FAILED):
            place.write("k", b"other", if_match=tags)
    for tags in matching:
        assert place.write("k", b"one", if_match=tags).etag == etag


def test_case_055_forms_of_if_none_match_on_a_write(place: Place) -> None:
    etag = place.write("k", b"one").etag
    matching, others = forms(etag)
    for tags in (*matching, f"W/{etag}"):
        with refused(FAILED):
            place.write("k", b"other", if_none_match=tags)
    for tags in others:
        assert place.write("k", b"one", if_none_match=tags).etag == etag


def test_blank_conditions_are_absent(place: Place) -> None:
    place.write("k", b"one", if_match=" ", if_none_match="  ")
    assert place.body("k", if_match="  ", if_none_match=" ") == b"one"


def test_write_with_both_conditions_needs_both(place: Place) -> None:
    etag = place.write("k", b"one").etag
    with refused(FAILED):
        place.write("k", b"two", if_match=etag, if_none_match="*")
    with refused(FAILED):
        place.write("k", b"two", if_match=STALE, if_none_match=STALE)
    place.write("k", b"two", if_match=etag, if_none_match=STALE)
    assert place.body("k") == b"two"


def test_case_056_dates_of_a_read(place: Place) -> None:
    modified = place.write("k", b"one").last_modified.seconds
    for since in (modified, modified + 1, modified + 3600, 253402300799):
        with refused(FAILED):
            place.read("k", modified_since=since)
        assert place.body("k", unmodified_since=since) == b"one"
    for since in (modified - 1, modified - 3600, 1, 0, -1):
        assert place.body("k", modified_since=since) == b"one"
        with refused(FAILED):
            place.read("k", unmodified_since=since)


def test_case_056_dates_are_compared_at_whole_seconds(place: Place) -> None:
    """HTTP dates have no fraction, so a Last-Modified that is sent back must hold (contract 3.4)."""
    modified = place.write("k", b"one").last_modified.seconds
    for fraction in (0.0, 0.25, 0.999):
        with refused(FAILED):
            place.read("k", modified_since=modified + fraction)
        assert place.body("k", unmodified_since=modified + fraction) == b"one"


def test_case_056_precedence_of_tags_over_dates(place: Place) -> None:
    meta = place.write("k", b"one")
    modified, etag = meta.last_modified.seconds, meta.etag
    past, future = modified - 3600, modified + 3600
    assert place.body("k", if_match=etag, unmodified_since=past) == b"one"
    assert place.body("k", if_none_match=STALE, modified_since=future) == b"one"
    for conditions in (
        {"if_match": STALE, "unmodified_since": future},
        {"if_none_match": etag, "modified_since": past},
        {"if_match": etag, "if_none_match": etag},
        {"if_match": etag, "modified_since": future},
        {"if_none_match": STALE, "unmodified_since": past},
        {"if_match": STALE, "if_none_match": STALE},
    ):
        with refused(FAILED):
            place.read("k", **conditions)


@pytest.mark.parametrize(
    "conditions",
    [
        {"if_match": STALE},
        {"if_match": "*"},
        {"if_none_match": "*"},
        {"unmodified_since": 0},
        {"modified_since": 2**33},
    ],
)
def test_reading_an_absent_object_is_not_found_whatever_the_conditions(
    place: Place, conditions: dict[str, object]
) -> None:
    with refused(NOT_FOUND):
        place.read("absent", **conditions)


def test_a_failed_condition_says_which(place: Place) -> None:
    place.write("k", b"one")
    with refused(FAILED, "if-match"):
        place.read("k", if_match=STALE)
    with refused(FAILED, "if-none-match"):
        place.write("k", b"two", if_none_match="*")
