"""Fixtures for tests over a real socket; a test module imports those it uses.

One server serves a whole module, because a start takes a good part of a second; each test gets a `place` of its own in
it. Tests that change settings start their own `Server`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from wire import protos
from wire.client import Client, Place
from wire.process import Server

_numbers = count(1)


@pytest.fixture(scope="module", name="server")
def server_fixture() -> Iterator[Server]:
    """A running server with default settings and an empty store; its clean end is part of every module's tests."""
    with Server() as server:
        yield server
        server.stop()


@pytest.fixture(scope="module", params=sorted(protos.GENERATIONS), name="client")
def client_fixture(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    """A client of each wire generation on the module's server."""
    with Client(server.target, protos.GENERATIONS[request.param]) as client:
        yield client


@pytest.fixture(name="place")
def place_fixture(client: Client) -> Place:
    """Room for one test, in each wire generation."""
    return Place(client, f"{next(_numbers)}")


@pytest.fixture(scope="module", name="old")
def old_fixture(server: Server) -> Iterator[Client]:
    """A bucketed client (SDK a8 to a19) on the module's server."""
    with Client(server.target, protos.BUCKETED) as client:
        yield client


@pytest.fixture(scope="module", name="new")
def new_fixture(server: Server) -> Iterator[Client]:
    """A bucketless client (SDK a20 and later) on the module's server."""
    with Client(server.target, protos.BUCKETLESS) as client:
        yield client
