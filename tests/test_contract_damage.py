"""Damaged and missing payloads as a client meets them: DATA_LOSS, never wrong bytes and never NOT_FOUND (section 6)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from wire import protos
from wire.client import Client, refused
from wire.process import Server

DATA_LOSS = grpc.StatusCode.DATA_LOSS
BODY = os.urandom(3 * 2**20)


@pytest.fixture(scope="module", name="damaged")
def damaged_fixture() -> Iterator[Server]:
    """A server whose log may speak of damage."""
    with Server() as server:
        yield server
        server.stop()


@pytest.fixture(name="client")
def client_fixture(damaged: Server) -> Iterator[Client]:
    with Client(damaged.target, protos.BUCKETLESS) as client:
        yield client


def blob_of(server: Server, client: Client, key: str) -> Path:
    """The payload's file: named by its BLAKE3, which is what the ETag holds (storage.md, Files of one store)."""
    digest = client.head(key).etag.strip('"')
    path = server.data_dir / "blobs" / digest[:2] / digest
    assert path.is_file()
    return path


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(0o400)


def truncate(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"x")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "first byte": lambda path: flip(path, 0),
    "middle byte": lambda path: flip(path, len(BODY) // 2),
    "last byte": lambda path: flip(path, -1),
    "one byte less": truncate,
    "one byte more": grow,
    "no file": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_read_of_damaged_bytes_ends_in_data_loss(damaged: Server, client: Client, damage: str) -> None:
    body = damage.encode() + BODY
    client.write(damage, body)
    DAMAGES[damage](blob_of(damaged, client, damage))
    received = b""
    with refused(DATA_LOSS):
        for chunk in client.read_stream(damage):
            received += chunk.data
    assert body.startswith(received), "whatever was sent was right"
    assert client.head(damage).size == len(body), "the object is damaged, not absent"
    client.write(damage, body)
    assert client.body(damage) == body, "writing the same bytes again heals"


def test_a_range_outside_the_damage_is_served_and_one_inside_is_not(damaged: Server, client: Client) -> None:
    body = b"range" + BODY
    client.write("range", body)
    flip(blob_of(damaged, client, "range"), 2 * 2**20 + 5)
    assert client.body("range", start=10, end=99) == body[10:100]
    with refused(DATA_LOSS):
        client.read("range", start=2 * 2**20 + 100, end=2 * 2**20 + 200)


def test_other_objects_and_deletes_are_untouched(damaged: Server, client: Client) -> None:
    client.write("whole", b"whole")
    client.write("gone", b"gone away")
    blob_of(damaged, client, "gone").unlink()
    with refused(DATA_LOSS):
        client.read("gone")
    assert client.body("whole") == b"whole"
    assert {"gone", "whole"} <= set(client.keys())
    client.delete("gone")
    assert not client.exists("gone")


def test_a_blob_that_was_put_back_serves_at_once(damaged: Server, client: Client) -> None:
    client.write("back", b"put back" + BODY)
    blob = blob_of(damaged, client, "back")
    aside = blob.with_name("aside")
    blob.rename(aside)
    with refused(DATA_LOSS):
        client.read("back")
    aside.rename(blob)
    assert client.body("back") == b"put back" + BODY
