"""Data frames by hand against protobuf's own parser and serializer."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from gestalt_cas import wire_pb2
from gestalt_cas.rules.frames import pack_data, unpack_data

KINDS = (wire_pb2.WriteObjectRequest, wire_pb2.ReadObjectChunk)
EDGES = [0, 1, 2, 0x7E, 0x7F, 0x80, 0x81, 0x3FFF, 0x4000, 0x4001, 0x1FFFFF, 0x200000, 0x200001]
"""Lengths around those where the varint gets one byte longer."""


def varint(number: int, padding: int = 0) -> bytes:
    """A varint of a number, with needless continuation bytes."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    if padding:
        parts[-1] |= 0x80
        parts += [0x80] * (padding - 1) + [0]
    return bytes(parts)


def frame(data: bytes, padding: int = 0) -> bytes:
    return b"\x12" + varint(len(data), padding) + data


def field(number: int, wire_type: int, content: bytes) -> bytes:
    return varint(number << 3 | wire_type) + content


short = st.binary(max_size=300)
padded = st.builds(frame, short, st.integers(0, 11))
unknown = st.one_of(
    st.builds(lambda n, v: field(n, 0, varint(v)), st.integers(3, 2000), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, data: field(n, 2, varint(len(data)) + data), st.integers(3, 2000), short),
    st.builds(lambda n, data: field(n, 5, data), st.integers(3, 2000), st.binary(min_size=4, max_size=4)),
)
openings = st.builds(lambda data: field(1, 2, varint(len(data)) + data), st.just(b"") | short)
sequences = st.lists(padded | unknown | openings, max_size=4).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A frame with some of its bytes changed, cut off or added, mostly near its head."""
    raw = bytearray(draw(padded | sequences))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, max(0, min(len(raw), 8))))
        action = draw(st.sampled_from(["set", "insert", "remove", "cut", "append"]))
        byte = draw(st.sampled_from([0x00, 0x01, 0x12, 0x0A, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        if action == "set" and position < len(raw):
            raw[position] = byte
        elif action == "insert":
            raw.insert(position, byte)
        elif action == "remove" and position < len(raw):
            del raw[position]
        elif action == "cut":
            del raw[len(raw) - draw(st.integers(0, min(len(raw), 5))) :]
        else:
            raw.append(byte)
    return bytes(raw)


@given(st.one_of(padded, sequences, mutated(), st.binary(max_size=16), st.binary(max_size=16).map(b"\x12".__add__)))
@example(b"")
@example(b"\x12")
@example(b"\x12\x00")
@example(b"\x12\x80")
@example(b"\x12\x80\x00")
@example(b"\x12\x00\x12\x01a")
@example(b"\x12\x81\x80\x80\x80\x00a")
@example(b"\x12\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01")
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x12\x01a\x0a\x00")
def test_unpacking_agrees_with_the_parser(raw: bytes) -> None:
    data = unpack_data(raw)
    for kind in KINDS:
        try:
            message = kind.FromString(raw)
        except DecodeError:
            assert data is None
            continue
        plain = message.WhichOneof(message.DESCRIPTOR.oneofs[0].name) == "data" and message.SerializeToString() == raw
        if data is not None:
            assert plain
            assert bytes(data) == message.data
        elif plain and message.ByteSize() == len(frame(message.data)):
            pytest.fail(f"a plain frame was not taken: {raw!r}")


@given(st.binary(max_size=400))
def test_packing_is_the_serialization(data: bytes) -> None:
    for form in (data, memoryview(data)):
        packed = pack_data(form)
        assert packed == wire_pb2.ReadObjectChunk(data=data).SerializeToString()
        assert bytes(unpack_data(packed) or b"") == data


@pytest.mark.parametrize("size", EDGES)
def test_both_ways_where_the_length_grows(size: int) -> None:
    data = b"\xa5" * size
    packed = pack_data(memoryview(data))
    assert packed == wire_pb2.ReadObjectChunk(data=data).SerializeToString()
    taken = unpack_data(packed)
    assert taken is not None
    assert taken == data
    assert unpack_data(packed + b"\0") is None
    assert unpack_data(packed[:-1]) is None


def test_unpacked_bytes_are_not_copied() -> None:
    packed = pack_data(b"x" * 1000)
    taken = unpack_data(packed)
    assert taken is not None
    assert taken.obj is packed
