"""Version ids, delete markers and the null version as a client meets them (contract section 6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from wire import protos
from wire.client import Client, Place, refused
from wire.fixtures import client_fixture, place_fixture, server_fixture  # noqa: F401
from wire.process import Server, versions

FAILED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def written(place: Place, name: str, *bodies: bytes) -> list[str]:
    """Write the bodies one over the other; their version ids."""
    return [place.write(name, body).ref.version_id for body in bodies]


def history(server: Server, place: Place, name: str) -> list[dict[str, object]]:
    return versions(server.data_dir, place.bucket or "default", place.key(name))


def test_each_version_is_read_by_its_id(place: Place) -> None:
    ids = written(place, "k", b"one", b"two", b"three")
    assert len(set(ids)) == 3
    for version_id, body in zip(ids, (b"one", b"two", b"three"), strict=True):
        meta = place.head("k", version_id=version_id)
        assert (meta.ref.version_id, meta.size) == (version_id, len(body))
        assert place.body("k", version_id=version_id) == body
        assert place.body("k", version_id=version_id, start=1, end=1) == body[1:2]
    assert place.head("k").ref.version_id == ids[-1]
    assert place.body("k") == b"three"


def test_conditions_of_a_read_judge_the_version_that_is_read(place: Place) -> None:
    old = place.write("k", b"one")
    place.write("k", b"two")
    assert place.body("k", version_id=old.ref.version_id, if_match=old.etag) == b"one"
    with refused(FAILED):
        place.read("k", if_match=old.etag)


def test_an_unknown_version_is_not_found(place: Place) -> None:
    ids = written(place, "k", b"one")
    other = written(place, "l", b"other")[0]
    for version_id in ("null", "x", "version id/1", "é" * 300, "\0", ids[0] + "0", ids[0][:-1], other, "0", "-1"):
        with refused(NOT_FOUND):
            place.head("k", version_id=version_id)
        with refused(NOT_FOUND):
            place.read("k", version_id=version_id)
        with refused(NOT_FOUND):
            place.copy("k", "c", source_version=version_id)
        place.delete("k", version_id=version_id)
    assert place.body("k") == b"one"
    assert place.body("l") == b"other"


def test_deleting_versions_brings_back_the_one_before(place: Place) -> None:
    first, second, third = written(place, "k", b"one", b"two", b"three")
    place.delete("k", version_id=second)
    assert place.body("k") == b"three"
    with refused(NOT_FOUND):
        place.read("k", version_id=second)
    place.delete("k", version_id=third)
    assert place.body("k") == b"one"
    assert place.head("k").ref.version_id == first
    assert [meta.ref.version_id for meta in place.list().objects] == [first]
    place.delete("k", version_id=first)
    assert not place.exists("k")
    assert place.names(place.list()) == []
    place.delete("k", version_id=first)


def test_a_delete_leaves_older_versions_readable(place: Place, server: Server) -> None:
    ids = written(place, "k", b"one", b"two")
    place.delete("k")
    for call in (place.head, place.read):
        with refused(NOT_FOUND):
            call("k")
    with refused(NOT_FOUND):
        place.copy("k", "c")
    assert place.body("k", version_id=ids[0]) == b"one"
    assert place.body("k", version_id=ids[1]) == b"two"
    assert place.names(place.list()) == []
    marker = history(server, place, "k")[0]
    assert marker["delete_marker"]
    assert [entry["version_id"] for entry in history(server, place, "k")][1:] == ids[::-1]


def test_a_markers_id_is_not_found_and_deleting_it_undeletes(place: Place, server: Server) -> None:
    ids = written(place, "k", b"one", b"two")
    place.delete("k")
    marker = str(history(server, place, "k")[0]["version_id"])
    with refused(NOT_FOUND):
        place.head("k", version_id=marker)
    with refused(NOT_FOUND):
        place.read("k", version_id=marker)
    with refused(NOT_FOUND):
        place.copy("k", "c", source_version=marker)
    place.delete("k", version_id=marker)
    assert place.body("k") == b"two"
    assert place.head("k").ref.version_id == ids[1]
    assert place.names(place.list()) == ["k"]


def test_a_delete_of_an_absent_key_appends_a_marker(place: Place, server: Server) -> None:
    place.delete("never")
    place.delete("never")
    found = history(server, place, "never")
    assert [entry["delete_marker"] for entry in found] == [True, True]
    for entry in found:
        place.delete("never", version_id=str(entry["version_id"]))
    place.write("never", b"x", if_none_match="*")
    assert place.body("never") == b"x"


def test_a_marker_counts_as_absent_for_every_precondition(place: Place) -> None:
    etag = place.write("k", b"one").etag
    place.delete("k")
    for conditions in ({"if_match": "*"}, {"if_match": etag}):
        with refused(FAILED):
            place.write("k", b"two", **conditions)
    with refused(NOT_FOUND):
        place.read("k", if_none_match=etag)
    place.write("k", b"two", if_none_match=etag)
    place.delete("k")
    place.write("k", b"three", if_none_match="*")
    assert place.body("k") == b"three"


def test_copy_takes_the_version_that_the_source_names(place: Place) -> None:
    first, _ = written(place, "k", b"one", b"two")
    place.copy("k", "c", source_version=first)
    assert place.body("c") == b"one"
    place.delete("k")
    place.copy("k", "k", source_version=first)
    assert place.body("k") == b"one"


def test_a_version_on_the_destination_of_a_write_is_a_precondition(place: Place) -> None:
    first, second = written(place, "k", b"one", b"two")
    for stale in (first, "null", "x"):
        with refused(FAILED, "version"):
            place.write("k", b"three", version_id=stale)
    with refused(FAILED, "version"):
        place.write("absent", b"x", version_id=first)
    meta = place.write("k", b"three", version_id=second)
    assert place.body("k") == b"three"
    assert meta.ref.version_id not in (first, second)
    place.delete("k")
    with refused(FAILED, "version"):
        place.write("k", b"four", version_id=meta.ref.version_id)
    assert not place.exists("absent")


def test_a_version_on_the_destination_of_a_copy_is_a_precondition(place: Place) -> None:
    place.write("a", b"source")
    first, second = written(place, "k", b"one", b"two")
    with refused(FAILED, "version"):
        place.copy("a", "k", version_id=first)
    with refused(FAILED, "version"):
        place.copy("a", "absent", version_id=first)
    place.copy("a", "k", version_id=second)
    assert place.body("k") == b"source"
    assert not place.exists("absent")


def test_a_destination_version_with_create_only_is_invalid(place: Place) -> None:
    (version_id,) = written(place, "k", b"one")
    with refused(INVALID, "version"):
        place.write("k", b"two", version_id=version_id, if_none_match="*")
    with refused(INVALID, "version"):
        place.write("absent", b"two", version_id=version_id, if_none_match="*")
    place.write("a", b"source")
    with refused(INVALID, "version"):
        place.copy("a", "k", version_id=version_id, if_none_match="*")
    assert place.body("k") == b"one"


def test_a_destination_version_and_if_match_must_both_hold(place: Place) -> None:
    place.write("k", b"one")
    two = place.write("k", b"two")
    with refused(FAILED):
        place.write("k", b"x", version_id=two.ref.version_id, if_match='"stale"')
    place.write("k", b"three", version_id=two.ref.version_id, if_match=two.etag)
    assert place.body("k") == b"three"


@pytest.fixture(name="directory")
def directory_fixture(tmp_path: Path) -> Path:
    return tmp_path / "store"


def serve(directory: Path, versioning: str) -> Server:
    return Server(f"versioning={versioning}", data_dir=directory)


@pytest.fixture(scope="module", name="suspended_server")
def suspended_server_fixture() -> Iterator[Server]:
    with Server("versioning=suspended") as server:
        yield server
        server.stop()


@pytest.fixture(params=sorted(protos.GENERATIONS), name="suspended")
def suspended_fixture(request: pytest.FixtureRequest, suspended_server: Server) -> Iterator[Place]:
    """A place in a store that never had versioning enabled."""
    with Client(suspended_server.target, protos.GENERATIONS[request.param]) as client:
        yield Place(client, request.node.name)


def test_suspended_writes_replace_the_null_version(suspended: Place, suspended_server: Server) -> None:
    assert written(suspended, "k", b"one", b"two") == ["null", "null"]
    assert suspended.body("k") == b"two"
    assert suspended.body("k", version_id="null") == b"two"
    assert len(history(suspended_server, suspended, "k")) == 1
    assert suspended.copy("k", "c").ref.version_id == "null"
    suspended.copy("k", "c")
    assert len(history(suspended_server, suspended, "c")) == 1


def test_suspended_deletes_replace_the_null_version_by_a_null_marker(
    suspended: Place, suspended_server: Server
) -> None:
    suspended.write("k", b"one")
    suspended.delete("k")
    suspended.delete("k")
    for version_id in ("", "null"):
        with refused(NOT_FOUND):
            suspended.head("k", version_id=version_id)
        with refused(NOT_FOUND):
            suspended.read("k", version_id=version_id)
    found = history(suspended_server, suspended, "k")
    assert [(entry["version_id"], entry["delete_marker"]) for entry in found] == [("null", True)]
    suspended.delete("k", version_id="null")
    assert suspended.write("k", b"two", if_none_match="*").ref.version_id == "null"
    assert suspended.body("k") == b"two"


def test_the_null_version_as_a_write_precondition(suspended: Place) -> None:
    with refused(FAILED, "version"):
        suspended.write("k", b"one", version_id="null")
    suspended.write("k", b"one")
    suspended.write("k", b"two", version_id="null")
    assert suspended.body("k") == b"two"
    suspended.delete("k", version_id="null")
    assert not suspended.exists("k")
    assert suspended.names(suspended.list()) == []


def test_versions_of_before_stay_while_versioning_is_suspended(directory: Path) -> None:
    with serve(directory, "enabled") as server, Client(server.target, protos.BUCKETLESS) as client:
        kept = client.write("k", b"kept").ref.version_id
        assert kept != "null"
    with serve(directory, "suspended") as server, Client(server.target, protos.BUCKETLESS) as client:
        assert client.write("k", b"null one").ref.version_id == "null"
        assert client.write("k", b"null two").ref.version_id == "null"
        assert client.body("k", version_id=kept) == b"kept"
        assert len(versions(directory, "default", "k")) == 2
        client.delete("k")
        assert not client.exists("k")
        assert client.body("k", version_id=kept) == b"kept"
        found = [(entry["version_id"], bool(entry["delete_marker"])) for entry in versions(directory, "default", "k")]
        assert found == [("null", True), (kept, False)]
        client.delete("k", version_id="null")
        assert client.body("k") == b"kept", "removing the null marker undeletes"


def test_the_null_version_stays_when_versioning_is_enabled_again(directory: Path) -> None:
    with serve(directory, "suspended") as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"null")
    with serve(directory, "enabled") as server, Client(server.target, protos.BUCKETLESS) as client:
        newer = client.write("k", b"newer").ref.version_id
        assert newer != "null"
        assert client.body("k", version_id="null") == b"null"
        client.delete("k")
        assert client.body("k", version_id="null") == b"null"
        assert client.body("k", version_id=newer) == b"newer"
        assert len(versions(directory, "default", "k")) == 3
    with serve(directory, "suspended") as server, Client(server.target, protos.BUCKETLESS) as client:
        client.write("k", b"null again")
        assert client.body("k") == b"null again", "a replaced null version is the newest"
        found = versions(directory, "default", "k")
        assert found[0]["version_id"] == "null"
        assert [bool(entry["delete_marker"]) for entry in found] == [False, True, False]


def test_an_absent_versioning_key_leaves_the_stores_setting(directory: Path) -> None:
    with serve(directory, "suspended"):
        pass
    with Server(data_dir=directory) as server, Client(server.target, protos.BUCKETLESS) as client:
        assert client.write("k", b"x").ref.version_id == "null"
