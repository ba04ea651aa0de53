"""Checks 121 on: versions and delete markers, for providers that keep them (contract 3.2, 3.6 and 6)."""

from __future__ import annotations

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_EVIDENCE = "S3 API reference, versioning; contract 3.6 and 6"


def _ids(place: Place, *bodies: bytes) -> list[str]:
    """Versions of the key k, the oldest first; answers their ids."""
    found = [place.write("k", body).ref.version_id for body in bodies]
    place.holds(all(found) and len(set(found)) == len(found), "each write to answer a version id of its own", found)
    return found


@check(121, Capability.VERSIONS, evidence=_EVIDENCE)
def an_overwritten_version_stays(place: Place) -> None:
    """What was overwritten can still be read and looked up by its version id, bytes and metadata."""
    old = place.write("k", b"old", content_type="text/old", metadata={"a": "1"}).ref.version_id
    new = place.write("k", b"new").ref.version_id
    place.same(place.body("k", version_id=old), b"old", "the body of the older version")
    for named, told in (("", new), (old, old)):
        metas = place.head("k", version_id=named), place.read("k", version_id=named)[0]
        ids = [meta.ref.version_id for meta in metas]
        place.same(ids, [told, told], f"the version ids by HeadObject and ReadObject of version {named!r}")
    head = place.head("k", version_id=old)
    place.same((head.size, head.content_type, dict(head.metadata)), (3, "text/old", {"a": "1"}), "its meta")
    place.same(place.body("k"), b"new", "the body of the current version")


@check(122, Capability.VERSIONS, evidence=_EVIDENCE)
def an_unknown_version_is_not_found(place: Place) -> None:
    """A version id that names nothing, or a version of another key, is NOT_FOUND."""
    place.fill("k")
    other = place.write("other", b"x").ref.version_id
    for version in ("never-was", other):
        with place.refused(Code.NOT_FOUND, why="the key has no such version"):
            place.head("k", version_id=version)


@check(123, Capability.VERSIONS, evidence=_EVIDENCE)
def deleting_a_version_leaves_the_others(place: Place) -> None:
    """Deleting by version id removes that version for good; the newest one left is current."""
    first, second, third = _ids(place, b"1", b"2", b"3")
    place.delete("k", version_id=second)
    with place.refused(Code.NOT_FOUND, why="that version was removed"):
        place.head("k", version_id=second)
    place.same(place.body("k"), b"3", "the current body")
    place.delete("k", version_id=third)
    place.same(place.body("k"), b"1", "the current body after the newest version went")
    place.delete("k", version_id=third)
    place.same(place.body("k", version_id=first), b"1", "the oldest version")


@check(124, Capability.VERSIONS, Capability.DELETE_MARKERS, evidence=_EVIDENCE)
def a_delete_keeps_history(place: Place) -> None:
    """A delete without a version id hides the object; its versions stay readable by id, and a write goes on."""
    first, second = _ids(place, b"1", b"2")
    place.delete("k")
    place.absent("k", "it was deleted")
    place.same(place.body("k", version_id=first), b"1", "the first version after the delete")
    place.same(place.body("k", version_id=second), b"2", "the second version after the delete")
    place.same(place.names(place.list()), [], "the keys that are listed")
    place.write("k", b"3", if_none_match="*")
    place.same(place.body("k"), b"3", "the body after a write over the marker, which counts as absent")


@check(125, Capability.VERSIONS, evidence=_EVIDENCE)
def a_copy_of_an_older_version(place: Place) -> None:
    """The version id of the source says which version is copied."""
    first, _ = _ids(place, b"1", b"2")
    copied = place.copy("k", "restored", source_version=first)
    place.same(copied.ref.version_id, place.head("restored").ref.version_id, "the version id that the copy answers")
    place.same(place.body("restored"), b"1", "the body of the copy")


@check(126, Capability.VERSIONS, evidence=_EVIDENCE)
def versions_of_equal_bytes_are_apart(place: Place) -> None:
    """Writing the same bytes again is a version of its own: removing one leaves the other."""
    first, second = _ids(place, b"same", b"same")
    place.delete("k", version_id=first)
    place.same(place.body("k", version_id=second), b"same", "the other version of the same bytes")


@check(127, Capability.WRITE_VERSION, Capability.VERSIONS, evidence="GCS backend; contract 6")
def the_version_of_a_copys_destination(place: Place) -> None:
    """The version id of a copy's destination says which version must be current there."""
    place.write("a", b"source")
    first = place.write("b", b"1").ref.version_id
    place.copy("a", "b", version_id=first)
    with place.refused(Code.FAILED_PRECONDITION, why="another version is current at the destination"):
        place.copy("a", "b", version_id=first)
    for source in ("a", "absent"):
        with place.refused(Code.INVALID_ARGUMENT, why="a version and '*' contradict each other, whatever is there"):
            place.copy(source, "b", version_id=first, if_none_match="*")
