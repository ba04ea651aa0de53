"""The checksum of the write-ahead log, taken for many words at once, is the one that SQLite's page describes."""

from __future__ import annotations

import random
import struct

import pytest

from gestalt_cas.checks.wal_sums import checksum

WORD = 0xFFFFFFFF


def described(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """Word by word."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & WORD
        second = (second + other + first) & WORD
    return first, second


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 24, 64, 100, 1024, 8192])
def test_it_is_the_sum_of_one_step_after_the_other(steps: int, order: str) -> None:
    drawn = random.Random(steps)
    for data in (drawn.randbytes(8 * steps), b"\xff" * 8 * steps, bytes(8 * steps)):
        for sums in ((0, 0), (WORD, WORD), (drawn.getrandbits(32), drawn.getrandbits(32))):
            assert checksum(data, sums, big_endian=order == ">") == described(data, sums, order)


def test_every_bit_counts() -> None:
    data = random.Random(0).randbytes(512)
    before = checksum(data, (1, 2), big_endian=False)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert checksum(bytes(changed), (1, 2), big_endian=False) != before
