"""The checksum of SQLite's write-ahead log, for logs of many MiB.

A step takes two words of 32 bits, and modulo 2**32 it is linear: a matrix times the two sums, plus the words. So of a
frame's words the first half, times a power of that matrix, can be added to the second half, until few are left. Python
does that for all words of a half at once when they stand in one large number, each in 64 bits of its own: a quarter of
the time that one step after the other takes.

Format: https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

from array import array
from functools import cache

Sums = tuple[int, int]
_Matrix = tuple[int, int, int, int]

_WORD = 0xFFFFFFFF
_STEP: _Matrix = (1, 1, 1, 2)
_FEW = 4


def checksum(data: bytes, sums: Sums, *, big_endian: bool) -> Sums:
    """The sums after `data`, whose length is a multiple of 8, when `sums` were those before it."""
    if big_endian:
        swapped = array("I", data)
        swapped.byteswap()
        data = swapped.tobytes()
    steps = len(data) // 8
    words, each = int.from_bytes(data, "little"), _each(steps)
    first = words & each
    second = ((words >> 32 & each) + first) & each
    left = steps
    while left > _FEW and left % 2 == 0:
        left //= 2
        first, second = _folded(first, second, left)
    return _summed(first, second, left, _times(_power(steps), sums))


def _folded(first: int, second: int, half: int) -> Sums:
    """Half as many words that give the same sums. A product of two words fills its 64 bits, so each is cut at once."""
    a, b, c, d = _power(half)
    each, beyond = _each(half), 64 * half
    early_first, early_second = first & each, second & each
    return (
        ((early_first * a & each) + (early_second * b & each) + (first >> beyond)) & each,
        ((early_first * c & each) + (early_second * d & each) + (second >> beyond)) & each,
    )


def _summed(first: int, second: int, steps: int, before: Sums) -> Sums:
    """Add to `before`, which is multiplied already, what the remaining words give, one step after the other."""
    sums = (0, 0)
    for step in range(steps):
        one, other = _times(_STEP, sums)
        sums = one + (first >> 64 * step & _WORD), other + (second >> 64 * step & _WORD)
    return (sums[0] + before[0]) & _WORD, (sums[1] + before[1]) & _WORD


def _times(matrix: _Matrix, sums: Sums) -> Sums:
    a, b, c, d = matrix
    return (a * sums[0] + b * sums[1]) & _WORD, (c * sums[0] + d * sums[1]) & _WORD


@cache
def _power(steps: int) -> _Matrix:
    """What so many steps make of sums when all words are 0."""
    if not steps:
        return 1, 0, 0, 1
    half = _power(steps // 2)
    a, c = _times(half, half[0::2])
    b, d = _times(half, half[1::2])
    if steps % 2:
        (a, c), (b, d) = _times(_STEP, (a, c)), _times(_STEP, (b, d))
    return a, b, c, d


@cache
def _each(words: int) -> int:
    """A number that has the low 32 of each 64 bits set."""
    return int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * words, "little")
