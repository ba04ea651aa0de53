"""The order of one write, as the real server process does it: what has reached the disk when the answer comes.

The server runs under the recording library, which logs each operation when it is done. When a client has its answer it
reads the log at once: what stands there was done before. That the answer also waits for each of these steps, instead of
happening to come later, is shown by `test_faults_served.py`, where a step that fails keeps the answer away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from crash import shim
from crash.shim import Entry, Op
from gestalt_cas.transactions.wal_file import ROOM_BYTES
from wire import protos
from wire.client import Client, eventually
from wire.process import Server

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

WAL = "metadata.sqlite3-wal"
MIB = 1 << 20


@dataclass
class Traced:
    """A served store under the recorder."""

    client: Client
    log: Path

    def during(self, call: Callable[[], object]) -> list[Entry]:
        """What the server had done to its disk when the answer came; the end of the call may not be in it."""
        before = len(shim.read(self.log))
        call()
        return shim.read(self.log)[before:]


@pytest.fixture(scope="module", name="traced")
def traced_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    place = tmp_path_factory.mktemp("trace")
    (place / "store").mkdir()
    environment = shim.environment(place / "store", log=place / "log")
    with (
        Server("gc.everySeconds=0", data_dir=place / "store", environment=environment) as server,
        Client(server.target, protos.BUCKETLESS) as client,
    ):
        client.write("warm", b"up")
        eventually(lambda: (place / "store" / WAL).stat().st_size == ROOM_BYTES, "room in the WAL")
        yield Traced(client, place / "log")
        server.stop()


def blob(data: bytes) -> str:
    digest = blake3(data).hexdigest()
    return f"blobs/{digest[:2]}/{digest}"


def last(entries: list[Entry], op: Op, path: str, *, other: bool = False) -> int:
    """The place of the last such operation; fails when there is none."""
    found = [place for place, one in enumerate(entries) if one.op is op and path == (one.other if other else one.path)]
    assert found, f"no {op.name.lower()} of {path} in {[str(entry) for entry in entries]}"
    assert all(entries[place].ok for place in found)
    return found[-1]


def none(entries: list[Entry], op: Op, beginning: str) -> bool:
    return not [one for one in entries if one.op is op and (one.path + one.other).startswith(beginning)]


def committed(entries: list[Entry]) -> tuple[int, int]:
    """The first write to the WAL, and the sync of it after the last one."""
    writes = [place for place, one in enumerate(entries) if one.op is Op.WRITE and one.path == WAL]
    synced = last(entries, Op.SYNC, WAL)
    assert writes
    assert writes[-1] < synced, "the WAL was written to after its last sync"
    return writes[0], synced


@pytest.mark.parametrize("size", [0, 10, 70_000, 3 * MIB])
def test_a_write_of_new_bytes(traced: Traced, size: int) -> None:
    for turn in range(5):
        data = f"{turn} of {size}".encode() + bytes(size)
        entries = traced.during(lambda data=data: traced.client.write(f"new {size}", data))
        staged = next(one for one in entries if one.op is Op.OPEN and one.created and one.path.startswith("staging/"))
        name = staged.path
        written = last(entries, Op.WRITE, name)
        assert sum(one.result for one in entries if one.op is Op.WRITE and one.path == name) == len(data)
        synced = last(entries, Op.SYNC, name)
        linked = last(entries, Op.LINK, blob(data), other=True)
        directory = last(entries, Op.SYNC, str(Path(blob(data)).parent))
        first, commit = committed(entries)
        unlinked = last(entries, Op.UNLINK, name)
        assert written < linked < synced < directory < first < commit < unlinked
        assert entries[linked].inode == entries[synced].inode == staged.inode, "the file that was synced got the name"
        assert entries[directory].is_directory
        assert entries[directory].inode == entries[linked].other_directory
        assert len({one.pid for one in entries}) == 1


def test_a_write_of_known_bytes_syncs_and_links_nothing_but_the_commit(traced: Traced) -> None:
    data = b"known" * 1000
    traced.client.write("first", data)
    entries = traced.during(lambda: traced.client.write("second", data))
    name = next(one.path for one in entries if one.op is Op.OPEN and one.created)
    assert last(entries, Op.WRITE, name) < committed(entries)[0]
    assert none(entries, Op.SYNC, "staging/")
    assert none(entries, Op.SYNC, "blobs/")
    assert committed(entries)[1] < last(entries, Op.UNLINK, name)
    assert none(entries, Op.LINK, "staging/")


def test_damaged_bytes_are_replaced_by_a_rename_that_is_synced(traced: Traced) -> None:
    """A payload that is cut short: its mark is committed, then the fresh file takes its name, then the version."""
    data = b"to be cut" * 100
    traced.client.write("cut", data)
    path = traced.log.parent / "store" / blob(data)
    path.chmod(0o600)
    path.write_bytes(data[:10])
    path.chmod(0o400)
    entries = traced.during(lambda: traced.client.write("cut", data))
    renamed = last(entries, Op.RENAME, blob(data), other=True)
    directory = last(entries, Op.SYNC, str(Path(blob(data)).parent))
    syncs = [place for place, one in enumerate(entries) if one.op is Op.SYNC and one.path == WAL]
    assert syncs[0] < renamed < directory < syncs[-1]
    assert entries[directory].inode == entries[renamed].other_directory
    assert traced.client.body("cut") == data


CHANGES: dict[str, Callable[[Client, str], object]] = {
    "copy": lambda client, _: client.copy("source", "copy"),
    "delete": lambda client, _: client.delete("source"),
    "removal of a version": lambda client, version_id: client.delete("source", version_id=version_id),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_without_bytes_are_synced_rows(traced: Traced, change: str) -> None:
    for _ in range(5):
        version_id = traced.client.write("source", b"source").ref.version_id
        entries = traced.during(lambda version_id=version_id: CHANGES[change](traced.client, version_id))
        first, commit = committed(entries)
        assert first < commit
        assert {one.path for one in entries if one.op in (Op.WRITE, Op.LINK, Op.UNLINK, Op.RENAME)} == {WAL}


def test_refusals_and_reads_write_nothing(traced: Traced) -> None:
    traced.client.write("read", b"read")

    def calls() -> None:
        traced.client.body("read")
        traced.client.keys(prefix="read")
        traced.client.exists("nothing")

    entries = traced.during(calls)
    assert {one.op for one in entries} <= {Op.OPEN, Op.CLOSE, Op.MAP}
