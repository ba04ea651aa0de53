"""A client program for `driving.py`: `python -m benchmarks.driver raw`, or `sdk` for the Python SDK's client."""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any, TypeAlias

import grpc

from gestalt_cas import wire_pb2
from gestalt_cas.rules.frames import pack_data

_MOST_BYTES = 64 << 20
_OPTIONS = (("grpc.max_receive_message_length", _MOST_BYTES), ("grpc.max_send_message_length", _MOST_BYTES))
_DEADLINE_SECONDS = 120
_STAMP_BYTES = 16

Call = Callable[[int], Iterator[int]]
"""Makes the call of that number; yields the length of each message that comes."""
Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Download: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"
Upload: TypeAlias = "grpc.StreamUnaryMultiCallable[bytes, bytes]"


class Loads:
    """Runs loads over one channel for each target."""

    def __init__(self, client: Callable[[grpc.Channel, Mapping[str, Any]], Call]) -> None:
        self._client = client

    def run(self, load: Mapping[str, Any]) -> dict[str, object]:
        requests = [b64decode(request) for request in load["requests"]]
        call = self._client(channel(load["target"]), {**load, "requests": requests})
        seconds = [0.0] * len(requests)
        found: dict[str, Any] = {"bytes": 0, "largest": 0, "error": ""}
        numbers, lock = count(), threading.Lock()

        def caller() -> None:
            while (number := next(numbers)) < len(requests):
                began = time.perf_counter()
                try:
                    lengths = list(call(number))
                except Exception as error:  # noqa: BLE001 - whatever it is ends the benchmark, which shows it
                    found["error"] = f"{type(error).__name__}: {error}"
                    return
                seconds[number] = time.perf_counter() - began
                with lock:
                    found["bytes"] += sum(lengths)
                    found["largest"] = max(found["largest"], *lengths)

        cpu, started = time.process_time(), time.perf_counter()
        callers = [threading.Thread(target=caller) for _ in range(load["callers"])]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        found |= {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "calls": seconds}
        return found


@cache
def channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=_OPTIONS)


@cache
def payload(size: int, frame: int) -> list[bytes]:
    """The parts of an object, made once for each size."""
    body = random.Random(size).randbytes(size)
    return [body[at : at + frame] for at in range(0, size, frame)]


def parts(load: Mapping[str, Any], number: int) -> Iterator[bytes]:
    """The payload's parts, the first of them stamped so that no two uploads have the same bytes."""
    for index, part in enumerate(payload(load["size"], load["frame"])):
        stamp = load["seed"].to_bytes(8, "big") + number.to_bytes(8, "big")
        yield stamp + part[_STAMP_BYTES:] if index == 0 and len(part) >= _STAMP_BYTES else part


@cache
def framed(size: int, frame: int) -> list[bytes]:
    return [pack_data(part) for part in payload(size, frame)]


def raw(to: grpc.Channel, load: Mapping[str, Any]) -> Call:
    """Encoded messages, without a protobuf object."""
    method, requests = load["method"], load["requests"]
    if load["kind"] == "unary":
        unary: Unary = to.unary_unary(method)
        return lambda number: iter([len(unary(requests[number], timeout=_DEADLINE_SECONDS))])
    if load["kind"] == "download":
        download: Download = to.unary_stream(method)
        return lambda number: map(len, download(requests[number], timeout=_DEADLINE_SECONDS))
    upload: Upload = to.stream_unary(method)
    rest = framed(load["size"], load["frame"])[1:]

    def frames(number: int) -> Iterator[bytes]:
        yield requests[number]
        for part in parts(load, number):
            yield pack_data(part)
            break
        yield from rest

    return lambda number: iter([len(upload(frames(number), timeout=_DEADLINE_SECONDS))])


def sdk(to: grpc.Channel, load: Mapping[str, Any]) -> Call:
    """The same through the SDK's own client and its message classes; lengths are of payloads."""
    from gestalt.s3 import S3, ReadObjectRequest, S3ObjectRef, WriteObjectOpen

    client, requests = S3(to, timeout=_DEADLINE_SECONDS), load["requests"]

    def reference(request: wire_pb2.ObjectRef) -> S3ObjectRef:
        return S3ObjectRef(key=request.key)

    if load["method"].endswith("/HeadObject"):
        keys = [reference(wire_pb2.HeadObjectRequest.FromString(request).ref) for request in requests]
        return lambda number: iter([_size(client.head_object(ref=keys[number]))])
    if load["kind"] == "download":
        keys = [reference(wire_pb2.ReadObjectRequest.FromString(request).ref) for request in requests]
        return lambda number: map(len, client.read_object(ReadObjectRequest(ref=keys[number]))[1])
    if load["kind"] == "upload":
        keys = [reference(wire_pb2.WriteObjectRequest.FromString(request).open.ref) for request in requests]
        return lambda number: iter([_size(client.write_object(WriteObjectOpen(ref=keys[number]), parts(load, number)))])
    raise ValueError(f"the SDK client does not drive {load['method']}")


def _size(reply: Any) -> int:
    return int(reply.meta.size)


def main() -> None:
    loads = Loads({"raw": raw, "sdk": sdk}[sys.argv[1]])
    for line in sys.stdin.buffer:
        print(json.dumps(loads.run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
