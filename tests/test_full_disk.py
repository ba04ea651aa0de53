"""Another program fills the disk to the last byte or file: what must work does, and the refusals say what helps."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from command_line import Result, process
from small_disks import EXT4, FEW_FILES, TMPFS, SmallDisk, small_disk
from storage import MIB
from wire import protos
from wire.client import Client, eventually, refused
from wire.process import Server, versions

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
FIRST, SECOND = 3 * MIB, 2 * MIB
"""Sizes of the two versions of `old`; with them most of a small disk can be freed."""
TAKEN_BACK = MIB // 2
"""More than what the reserve and the database take of the room that is freed."""
REFUSAL = re.compile(
    r"the disk is full .*; [0-9.]+[KMG]?B are free.*, ([0-9.]+[KMG]?B) reclaimable with: (gestalt-cas .*?)"
    r"(?: \(request \w+\))?$"
)

REFUSED_FOR_GOOD = re.compile(
    r"; [0-9.]+[KMG]?B are free.*, and gc knows of none to free: remove versions for good \(gestalt-cas "
)


@pytest.fixture(name="disk", params=[TMPFS, EXT4, FEW_FILES])
def disk_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(request.param, tmp_path) as disk:
        yield disk


@pytest.fixture(name="server")
def server_fixture(disk: SmallDisk) -> Iterator[Server]:
    with Server(data_dir=disk.store) as server:
        yield server


@pytest.fixture(name="client")
def client_fixture(server: Server) -> Iterator[Client]:
    with Client(server.target, protos.BUCKETED) as client:
        client.write("kept", b"kept")
        client.write("old", os.urandom(FIRST))
        client.write("old", os.urandom(SECOND))
        for number in range(10):
            client.write(f"many/{number}", bytes([number]))
        yield client


def verb(disk: SmallDisk, name: str, *words: str | Path) -> Result:
    return process(name, "--data-dir", disk.store, *words)


def done(result: Result) -> Result:
    assert result.code == 0, result
    return result


def ids(disk: SmallDisk, key: str) -> list[str]:
    """The version ids of a key, the newest first."""
    return [str(version["version_id"]) for version in versions(disk.store, "default", key)]


def advice(text: str, disk: SmallDisk) -> tuple[str, list[str]]:
    """What a refusal says: the bytes that are reclaimable, and the words of the command."""
    found = REFUSAL.search(text)
    assert found, text
    reclaimable, command = found.groups()
    words = shlex.split(command)
    assert words == ["gestalt-cas", "gc", "--data-dir", str(disk.store)]
    assert ("can hold no more files" in text) == (disk.kind == FEW_FILES)
    return reclaimable, words[1:]


def refusal(client: Client, size: int) -> str:
    """What an upload is refused with."""
    with pytest.raises(grpc.RpcError) as raised:
        client.write("new", bytes(size))
    assert raised.value.code() is EXHAUSTED
    return str(raised.value.details())


def test_uploads_say_what_helps_and_removals_and_gc_work(disk: SmallDisk, server: Server, client: Client) -> None:
    disk.fill()
    for size in (MIB, 1):
        told = refusal(client, size)
        assert REFUSED_FOR_GOOD.search(told), told
        assert ("; 0B are free, and gc " in told) == (disk.kind != FEW_FILES)
        assert ("can hold no more files" in told) == (disk.kind == FEW_FILES)
    assert not server.staged()
    assert client.body("kept") == b"kept"
    assert len(client.keys()) == 12

    client.delete("many/0")
    done(verb(disk, "rm", "default/many/1"))
    second, first = ids(disk, "old")
    done(verb(disk, "rm", "--version-id", first, "default/old"))
    disk.fill() if disk.free else None
    client.delete("old", version_id=second)
    for number in range(2, 10):
        client.delete(f"many/{number}")
    assert client.keys() == ["kept"]

    disk.fill() if disk.free else None
    refused_put = verb(disk, "put", __file__, "default/new")
    assert refused_put.code == 5, refused_put
    reclaimable, command = advice(refused_put.err, disk)
    assert reclaimable == "5.0MB"
    collected = done(process(*command, "--json"))
    assert (collected.record["files"], collected.record["bytes"]) == (2, FIRST + SECOND)
    client.write("new", bytes(FIRST + SECOND - TAKEN_BACK))
    assert client.head("new").size == FIRST + SECOND - TAKEN_BACK
    assert client.body("kept") == b"kept"
    assert len(ids(disk, "many/3")) == 2
    server.stop()
    done(verb(disk, "check", "--read-data"))


@pytest.mark.parametrize(
    ("disk", "end"), [(TMPFS, "killed"), (EXT4, "stopped"), (FEW_FILES, "killed")], indirect=["disk"]
)
def test_a_store_that_nobody_has_open_is_opened(
    disk: SmallDisk, server: Server, client: Client, tmp_path: Path, end: str
) -> None:
    (tmp_path / "a mebibyte").write_bytes(bytes(MIB))
    second, first = ids(disk, "old")
    small = {f"many/{number}": client.head(f"many/{number}").ref.version_id for number in range(2, 8)}
    server.stop() if end == "stopped" else server.kill()
    disk.fill()
    assert done(verb(disk, "ls", "default/many/", "--json")).out.count(b"many/") == 10
    assert done(verb(disk, "cat", "default/kept")).out == b"kept"
    disk.fill() if disk.free else None  # closing has cut the WAL
    assert verb(disk, "put", tmp_path / "a mebibyte", "default/new").code == 5
    done(verb(disk, "rm", "default/many/1"))
    disk.fill() if disk.free else None
    done(verb(disk, "rm", "--version-id", first, "default/old"))
    disk.fill() if disk.free else None
    with Server(data_dir=disk.store) as again, Client(again.target, protos.BUCKETED) as client:
        advice(refusal(client, MIB), disk)
        client.delete("old", version_id=second)
        for key, version_id in small.items():
            client.delete(key, version_id=version_id)
        assert client.body("kept") == b"kept"
        done(verb(disk, "gc"))
        client.write("new", bytes(FIRST + MIB))  # the reserve is made again first, and takes of what was freed
        again.stop()


@pytest.mark.parametrize("disk", [TMPFS], indirect=True)
def test_the_server_makes_room_by_itself(disk: SmallDisk) -> None:
    with (
        Server("gc.everySeconds=1", "gc.graceSeconds=0", data_dir=disk.store) as server,
        Client(server.target, protos.BUCKETED) as client,
    ):
        version = client.write("old", bytes(FIRST)).ref.version_id
        disk.fill()
        with refused(EXHAUSTED, "the disk is full"):
            client.write("new", bytes(MIB))
        client.delete("old", version_id=version)
        eventually(lambda: disk.free > FIRST - TAKEN_BACK, "collected by the server", 60)
        client.write("new", bytes(MIB))
        server.stop()


@pytest.mark.parametrize("disk", [TMPFS], indirect=True)
def test_a_new_store_finds_no_room_and_leaves_nothing_in_the_way(disk: SmallDisk) -> None:
    disk.fill()
    assert verb(disk, "init").code == 5
    (disk.path / "of another program").unlink()
    done(verb(disk, "init"))
    assert json.loads(done(verb(disk, "gc", "--json")).out)["files"] == 0
