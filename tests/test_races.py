"""Writers in each other's way: create-only has one winner, compare-and-swap loses nothing, across processes too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from wire import protos
from wire.client import Client, status_of
from wire.fixtures import server_fixture  # noqa: F401
from wire.process import Server, versions

FAILED = grpc.StatusCode.FAILED_PRECONDITION
WRITERS = 64
ROUNDS = 30


def test_of_64_creators_exactly_one_wins_every_time(server: Server) -> None:
    clients = [Client(server.target, protos.BUCKETLESS) for _ in range(8)]
    try:
        for turn in range(ROUNDS):
            key = f"race {turn}"
            if turn % 3 == 1:
                clients[0].write(key, b"before")
                clients[0].delete(key)
            calls = []
            for number in range(WRITERS):
                client = clients[number % len(clients)]
                body = f"writer {number} of round {turn}".encode()
                requests = [client.open_frame(key, if_none_match="*"), client.data_frame(body)]
                calls.append(client.upload(requests))
            refusals = [call.exception() for call in calls]
            winners = [number for number, refusal in enumerate(refusals) if refusal is None]
            assert len(winners) == 1, f"round {turn}: {winners}"
            assert {refusal.code() for refusal in refusals if refusal is not None} == {FAILED}
            assert clients[0].body(key) == f"writer {winners[0]} of round {turn}".encode()
        assert not server.staged()
    finally:
        for client in clients:
            client.close()


def increment(client: Client, key: str, times: int) -> tuple[int, list[str]]:
    """Add 1 to the number stored under `key`, `times` times; the refused attempts, and the ETags that were replaced."""
    refused, replaced = 0, []
    for _ in range(times):
        while True:
            meta, parts = client.read(key)
            value = int(b"".join(parts))
            body = str(value + 1).encode()
            status = status_of(lambda meta=meta, body=body: client.write(key, body, if_match=meta.etag))
            assert status in (grpc.StatusCode.OK, FAILED), status
            if status is grpc.StatusCode.OK:
                replaced.append(meta.etag)
                break
            refused += 1
    return refused, replaced


@pytest.mark.parametrize("processes", [1, 2])
def test_counters_incremented_by_if_match_lose_nothing(processes: int) -> None:
    threads, times = 8, 25
    servers = [Server()]
    try:
        servers += [Server(data_dir=servers[0].data_dir) for _ in range(processes - 1)]
        clients = [Client(servers[number % processes].target, protos.BUCKETLESS) for number in range(threads)]
        clients[0].write("counter", b"0")
        start = threading.Barrier(threads)

        def work(client: Client) -> tuple[int, list[str]]:
            start.wait(30)
            return increment(client, "counter", times)

        with ThreadPoolExecutor(threads) as pool:
            outcomes = list(pool.map(work, clients))
        assert int(clients[0].body("counter")) == threads * times
        replaced = [etag for _, etags in outcomes for etag in etags]
        assert len(set(replaced)) == threads * times, "each value was replaced once"
        history = versions(servers[0].data_dir, "default", "counter")
        assert len(history) == threads * times + 1
        assert sum(refused for refused, _ in outcomes) > 0, "they were never in each other's way"
        for client in clients:
            client.close()
        for server in servers:
            server.stop()
    finally:
        for server in servers:
            server.forget()


def test_version_preconditions_lose_nothing_either(server: Server) -> None:
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write("sequence", b"0")

        def add_one() -> bool:
            meta, parts = client.read("sequence")
            body = str(int(b"".join(parts)) + 1).encode()
            status = status_of(lambda: client.write("sequence", body, version_id=meta.ref.version_id))
            assert status in (grpc.StatusCode.OK, FAILED), status
            return status is grpc.StatusCode.OK

        def work(_: int) -> None:
            done = 0
            while done < 10:
                done += add_one()

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert client.body("sequence") == b"40"


def test_writes_of_two_processes_to_their_own_keys_all_stand() -> None:
    with Server() as one, Server(data_dir=one.data_dir) as two:
        clients = [Client(server.target, protos.BUCKETLESS) for server in (one, two, one, two)]

        def work(number: int) -> None:
            for turn in range(25):
                clients[number].write(f"{number}/{turn:02}", f"{turn % 5}".encode() * 1000)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        expected = [f"{number}/{turn:02}" for number in range(4) for turn in range(25)]
        for client in clients[:2]:
            assert client.keys() == expected
            assert client.body("3/07") == b"2" * 1000
        for client in clients:
            client.close()
        one.stop()
        two.stop()


def test_readers_never_see_a_torn_object_while_writers_replace_it(server: Server) -> None:
    bodies = {bytes([number]) * 700_000 for number in range(6)}
    over = threading.Event()
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write("torn", next(iter(bodies)))

        def write() -> None:
            while not over.is_set():
                for body in bodies:
                    client.write("torn", body)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(60):
                meta, parts = client.read("torn")
                assert b"".join(parts) in bodies
                assert meta.size == 700_000
        finally:
            over.set()
            writer.join(60)
