"""The real server on a disk that fails at every point of a call: the status that a client sees, and what is then there.

Each call ends as OK with its effect, as a refusal without it, or as UNAVAILABLE "outcome unknown", whole or not at all;
the server lives on, and the same call works when the fault has gone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import grpc
import pytest

from crash import shim
from crash.shim import Fault
from faults import serving
from faults.serving import Control
from wire import protos
from wire.client import Client
from wire.process import Server

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

Code = grpc.StatusCode
STATUS = {
    Fault.ENOSPC: {Code.RESOURCE_EXHAUSTED},
    Fault.EIO: {Code.INTERNAL, Code.DATA_LOSS},
    Fault.EMFILE: {Code.RESOURCE_EXHAUSTED},
    Fault.FAILED_SYNC: {Code.INTERNAL},
    Fault.SHORT_WRITE: set(),
    Fault.EINTR: set(),
}
"""How a call that was refused may end; an unknown outcome is UNAVAILABLE and says so."""
BODY = bytes(300_000)


@dataclass
class Failing:
    client: Client
    control: Control


@pytest.fixture(scope="module", name="failing")
def failing_fixture() -> Iterator[Failing]:
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gc-faults-", dir=place) as name:
        root, control = Path(name) / "store", Path(name) / "control"
        root.mkdir()
        environment = serving.environment(root, control)
        with (
            Server(data_dir=root, environment=environment, program=serving.PROGRAM) as server,
            Client(server.target, protos.BUCKETLESS) as client,
        ):
            with closing(Control(control)) as faults:
                yield Failing(client, faults)
            server.stop()


_names = count(1)


@dataclass(frozen=True)
class Call:
    """A call on a key of its own: what goes before, the call, and its effect, as a test that answers yes or no."""

    make: Callable[[Client, str], object]
    there: Callable[[Client, str], bool]
    before: Callable[[Client, str], object] = lambda client, key: None


def unique(key: str) -> bytes:
    return key.encode() + BODY


def holds(key_suffix: str = "", *, otherwise: bytes | None = None) -> Callable[[Client, str], bool]:
    """Whether the key holds the bytes that were to be written; else it must hold `otherwise` (None: nothing)."""

    def there(client: Client, key: str) -> bool:
        name = key + key_suffix
        found = client.body(name) if client.exists(name) else None
        assert found in (unique(key), otherwise), f"{name} holds {len(found or b'')} bytes"
        return found == unique(key)

    return there


def write(client: Client, key: str) -> object:
    return client.write(key, unique(key))


CALLS = {
    "write": Call(write, holds()),
    "write known bytes": Call(write, holds(), lambda client, key: client.write(f"{key} too", unique(key))),
    "overwrite": Call(write, holds(otherwise=b"before"), lambda client, key: client.write(key, b"before")),
    "copy": Call(lambda client, key: client.copy(key, f"{key} copy"), holds(" copy"), write),
    "delete": Call(lambda client, key: client.delete(key), lambda client, key: not client.exists(key), write),
    "read": Call(lambda client, key: client.body(key), holds(), write),
}
WHOLE = os.environ.get("FAULTS_STRIDE") == "1"
SWEEPS = [(name, sticky) for name in CALLS for sticky in (False, True) if WHOLE or not sticky or name == "write"]


@pytest.mark.parametrize(("name", "sticky"), SWEEPS, ids=str)
def test_statuses(failing: Failing, name: str, sticky: bool) -> None:
    ends = [sweep(failing, CALLS[name], kind, sticky) for kind in Fault if not (sticky and kind is Fault.EINTR)]
    assert sum(ends) > 0, "no fault befell any of these calls"


def sweep(failing: Failing, call: Call, kind: Fault, sticky: bool) -> int:
    """All points of one call: returns how many there were."""
    client = failing.client
    for number in count(1):
        key = f"key {next(_names)}"
        call.before(client, key)
        failing.control.arm(number, kind, sticky=sticky)
        try:
            call.make(client, key)
        except grpc.RpcError as failure:
            error = failure
        else:
            error = None
        fired = failing.control.disarm()
        judge(client, call, key, kind, error)
        call.make(client, key)
        assert call.there(client, key)
        if not fired:
            assert error is None
            return number - 1
    raise AssertionError("unreachable")


def judge(client: Client, call: Call, key: str, kind: Fault, error: grpc.RpcError | None) -> None:
    there = call.there(client, key)
    if error is None:
        assert there, f"{kind.name}: answered, and not there"
    elif error.code() is Code.UNAVAILABLE:
        assert "outcome unknown" in error.details()
    else:
        assert error.code() in STATUS[kind], f"{kind.name}: {error.code()}: {error.details()}"
        assert call is CALLS["read"] or not there, f"{kind.name}: refused, and there all the same: {error.details()}"
