"""Cases 49 to 56: preconditions of writes and reads. All that fail, not-modified included, are FAILED_PRECONDITION."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check
from gestalt_cas.conformance.wire import code_of

_TESTS = "transport tests; contract 3.5"
_RFC = "RFC 9110 section 13; S3 backend; contract 3.4"
_STALE = '"' + "0" * 32 + '"'
_WRITERS = 12
_FAILED = Code.FAILED_PRECONDITION


@check(49, evidence=_TESTS)
def create_only_works_once(place: Place) -> None:
    """if_none_match '*' creates an object and never replaces one."""
    place.write("k", b"first", if_none_match="*")
    with place.refused(_FAILED, why="the object exists"):
        place.write("k", b"second", if_none_match="*")
    place.same(place.body("k"), b"first", "the body after a refused write")


@check(50, evidence="contract 3.5: conditions are judged at the commit")
def of_parallel_creators_one_wins(place: Place) -> None:
    """Of callers that create one key at the same time exactly one succeeds, and its body stands."""
    for turn in range(4):
        name = f"k{turn}"

        def create(number: int, name: str = name) -> int | None:
            body = f"body {number}".encode() * 3000
            code = code_of(lambda: place.write(name, body, if_none_match="*"))
            place.holds(code in (Code.OK, _FAILED), "a create to end with OK or FAILED_PRECONDITION", code.name)
            return number if code is Code.OK else None

        with ThreadPoolExecutor(_WRITERS) as pool:
            winners = [number for number in pool.map(create, range(_WRITERS)) if number is not None]
        place.same(len(winners), 1, f"the winners of {_WRITERS} creators of one key")
        place.same(place.body(name), f"body {winners[0]}".encode() * 3000, "the body, which is the winner's")


@check(51, Capability.WRITE_CONDITIONS, evidence=_TESTS)
def a_write_if_match(place: Place) -> None:
    """if_match lets a write through while the current object has that etag, and not afterwards."""
    etag = place.write("k", b"one").etag
    place.write("k", b"two", if_match=etag)
    with place.refused(_FAILED, why="another etag is current"):
        place.write("k", b"three", if_match=etag)
    place.same(place.body("k"), b"two", "the body after a refused write")


@check(52, Capability.WRITE_CONDITIONS, evidence="contract 6, Write if_match on absent")
def a_write_if_match_on_nothing(place: Place) -> None:
    """if_match on a key without an object fails, and creates nothing."""
    for tags in (_STALE, "*"):
        with place.refused(_FAILED, why="there is no object to match"):
            place.write("k", b"x", if_match=tags)
    place.absent("k", "the write was refused")


@check(53, Capability.CONDITIONAL_READS, evidence=_RFC)
def a_read_if_none_match(place: Place) -> None:
    """A read of what the caller has already is refused, and served when the object has changed."""
    etag = place.write("k", b"one").etag
    with place.refused(_FAILED, why="not modified"):
        place.chunks("k", if_none_match=etag)
    place.write("k", b"two")
    place.same(place.body("k", if_none_match=etag), b"two", "the body, which has changed")


@check(54, Capability.CONDITIONAL_READS, evidence=_RFC)
def a_read_if_match(place: Place) -> None:
    """A read is served while the etag matches and refused when it does not."""
    etag = place.write("k", b"one").etag
    place.same(place.body("k", if_match=etag), b"one", "the body")
    with place.refused(_FAILED, why="another etag is current"):
        place.chunks("k", if_match=_STALE)


@check(55, Capability.CONDITIONAL_READS, evidence="browser headers arrive verbatim through hosts; contract 3.4")
def tags_in_every_form(place: Place) -> None:
    """Tags come quoted, bare, in lists, as '*', weak, and with blanks; if_match compares strongly."""
    etag = place.write("k", b"one").etag
    bare = etag.strip('"')
    for tags in (f'"{bare}"', bare, f' "{bare}" ', f'{_STALE}, "{bare}"', "*"):
        place.same(place.body("k", if_match=tags), b"one", f"the body by if_match {tags!r}")
        with place.refused(_FAILED, why=f"if_none_match {tags!r} matches"):
            place.chunks("k", if_none_match=tags)
    with place.refused(_FAILED, why="a weak tag never matches strongly"):
        place.chunks("k", if_match=f'W/"{bare}"')
    with place.refused(_FAILED, why="if_none_match compares weakly"):
        place.chunks("k", if_none_match=f'W/"{bare}"')
    place.same(place.body("k", if_none_match=_STALE), b"one", "the body by another etag in if_none_match")


@check(104, Capability.WRITE_CONDITIONS, evidence="clients send etags as they got them, or bare; contract 6, ETag text")
def tags_of_writes_in_every_form(place: Place) -> None:
    """The same forms count in the conditions of a write."""
    etag = place.write("k", b"one").etag
    bare = etag.strip('"')
    for tags in (f'"{bare}"', bare, f'{_STALE}, "{bare}"', "*"):
        place.write("k", b"one", if_match=tags)
        with place.refused(_FAILED, why=f"if_none_match {tags!r} matches"):
            place.write("k", b"other", if_none_match=tags)
    with place.refused(_FAILED, why="a weak tag never matches strongly"):
        place.write("k", b"other", if_match=f'W/"{bare}"')
    with place.refused(_FAILED, why="if_none_match compares weakly"):
        place.write("k", b"other", if_none_match=f'W/"{bare}"')
    place.same(place.body("k"), b"one", "the body after refused writes")


@check(56, Capability.CONDITIONAL_READS, evidence=_RFC)
def dates_of_a_read(place: Place) -> None:
    """Dates count at whole seconds, and only where the tag of their kind is absent."""
    meta = place.write("k", b"one")
    at = meta.last_modified.seconds
    for since in (at, at + 3600):
        with place.refused(_FAILED, why="not modified since"):
            place.chunks("k", modified_since=since)
        place.same(place.body("k", unmodified_since=since), b"one", "the body, unmodified since")
    place.same(place.body("k", modified_since=at - 3600), b"one", "the body, modified since")
    with place.refused(_FAILED, why="modified since"):
        place.chunks("k", unmodified_since=at - 3600)
    place.same(place.body("k", if_match=meta.etag, unmodified_since=at - 3600), b"one", "the body: if_match goes first")
    place.same(
        place.body("k", if_none_match=_STALE, modified_since=at + 3600), b"one", "the body: if_none_match goes first"
    )
    with place.refused(_FAILED, why="if_none_match is judged beside a date of the other kind"):
        place.chunks("k", if_none_match=meta.etag, modified_since=at - 3600)


@check(105, evidence="stub and S3 backend; contract 3.4")
def nothing_is_not_found_whatever_the_conditions(place: Place) -> None:
    """Reading what is absent is NOT_FOUND, not a failed precondition."""
    for fields in ({"if_match": _STALE}, {"if_none_match": "*"}):
        with place.refused(Code.NOT_FOUND, why="nothing is there"):
            place.chunks("absent", **fields)


@check(106, Capability.WRITE_CONDITIONS, evidence="contract 3.5: evaluated atomically at the commit")
def no_update_is_lost(place: Place) -> None:
    """Of callers that replace the same etag at the same time one succeeds: nobody overwrites what it has not seen."""
    etag = place.write("k", b"0").etag
    for turn in range(6):

        def replace(number: int, turn: int = turn, etag: str = etag) -> str | None:
            body = f"{turn}-{number}".encode() * 2000
            code = code_of(lambda: place.write("k", body, if_match=etag))
            place.holds(code in (Code.OK, _FAILED), "a replacement to end with OK or FAILED_PRECONDITION", code.name)
            return f"{turn}-{number}" if code is Code.OK else None

        with ThreadPoolExecutor(8) as pool:
            done = [text for text in pool.map(replace, range(8)) if text is not None]
        place.same(len(done), 1, "the writers that replaced one etag")
        place.same(place.body("k"), done[0].encode() * 2000, "the body, which is the winner's")
        etag = place.head("k").etag


@check(107, Capability.WRITE_CONDITIONS, evidence="contract 3.5: both must hold")
def both_conditions_must_hold(place: Place) -> None:
    """A write with if_match and if_none_match needs both."""
    etag = place.write("k", b"one").etag
    with place.refused(_FAILED, why="if_none_match '*' fails although if_match holds"):
        place.write("k", b"two", if_match=etag, if_none_match="*")
    place.write("k", b"two", if_match=etag, if_none_match=_STALE)
    place.same(place.body("k"), b"two", "the body when both hold")


@check(108, Capability.WRITE_VERSION, evidence="GCS backend; contract 6, version_id on write/copy destination")
def the_version_of_the_destination_is_a_precondition(place: Place) -> None:
    """The version id in a write's reference says which version must be current."""
    first = place.write("k", b"one").ref.version_id
    place.write("k", b"two", version_id=first)
    with place.refused(_FAILED, why="another version is current"):
        place.write("k", b"three", version_id=first)
    with place.refused(Code.INVALID_ARGUMENT, why="a version and '*' contradict each other"):
        place.write("k", b"three", version_id=first, if_none_match="*")
    place.same(place.body("k"), b"two", "the body after refused writes")
