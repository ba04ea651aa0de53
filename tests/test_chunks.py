"""Chunk sums: the same whatever the pieces, one per chunk, and pinned, since they are on disks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128

from gestalt_cas.rules import chunks

SMALL = 8
"""A chunk size for properties, so that many chunks fit into a small example."""


def summed(pieces: list[bytes]) -> bytes:
    summer = chunks.ChunkSummer()
    for piece in pieces:
        summer.update(memoryview(piece))
    return summer.digest()


def reference(data: bytes, size: int) -> bytes:
    return b"".join(xxh3_128(data[start : start + size]).digest() for start in range(0, len(data), size))


@given(st.lists(st.binary(max_size=3 * SMALL), max_size=12))
def test_sums_are_those_of_the_chunks_however_the_payload_is_cut(pieces: list[bytes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", SMALL)
        data = b"".join(pieces)
        sums = summed(pieces)
        assert sums == reference(data, SMALL)
        assert len(sums) == chunks.count(len(data)) * chunks.SUM_BYTES
        for index in range(chunks.count(len(data))):
            assert chunks.matches(data[index * SMALL : (index + 1) * SMALL], index, sums)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 2 << 20, (2 << 20) + 7])
def test_real_chunks_are_one_mebibyte(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    assert summed([data]) == summed([data[:5], data[5:]]) == reference(data, 1 << 20)
    assert chunks.count(size) == len(reference(data, 1 << 20)) // 16


def test_digest_may_be_taken_before_the_end() -> None:
    summer = chunks.ChunkSummer()
    summer.update(memoryview(b"ab"))
    assert summer.digest() == xxh3_128(b"ab").digest()
    summer.update(memoryview(b"c"))
    assert summer.digest() == xxh3_128(b"abc").digest()


@given(st.binary(min_size=1, max_size=64), st.data())
def test_another_chunk_or_place_does_not_match(data: bytes, draw: st.DataObject) -> None:
    sums = summed([data])
    position = draw.draw(st.integers(0, len(data) * 8 - 1))
    other = bytearray(data)
    other[position // 8] ^= 1 << position % 8
    assert not chunks.matches(bytes(other), 0, sums)
    assert not chunks.matches(data[:-1], 0, sums)
    assert not chunks.matches(data + b"\0", 0, sums)
    assert not chunks.matches(data, 1, sums)


def test_sums_on_disk_do_not_change() -> None:
    assert chunks.CHUNK_BYTES == 1_048_576
    assert summed([b"abc"]).hex() == "06b05ab6733a618578af5f94892f3950"
    assert summed([bytes(1 << 20), b"z"]).hex() == (
        "b6ef17a3448492b6918780b90550bf34" + "7c282968b0591d9654a7d9dde88eadb0"
    )
