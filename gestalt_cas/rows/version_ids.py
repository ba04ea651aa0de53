"""Version ids: opaque to callers, made of the version's sequence and random bits.

For tests the random bits can follow from a seed and the sequence, in the whole process. The sequence is drawn under the
writer lock, so neither threads nor processes decide about an id, and none comes twice in a store, whatever the seed.
"""

from __future__ import annotations

import base64
import binascii
import os

from blake3 import blake3

_RANDOM = 9
"""Random bytes of a version id."""
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_SHIFTS = range(110, -1, -10)
LAST_SEQUENCE = (1 << 48) - 1
"""What the 6 bytes of a sequence in an id can hold."""
_CONTEXT = "gestalt-cas 2026 seeded version id"

seed: int | None = None
"""What the ids of this process follow from, None: they are random. The server sets it when it is configured."""


def new(first: int, number: int) -> list[str]:
    """Opaque ids for so many sequences from `first` on: the sequence, so lookups need no index, and 72 random bits.

    The random part keeps a store that was restored from a backup from giving an id a second time; seeded it does not.
    """
    drawn = os.urandom(_RANDOM * number) if seed is None else _seeded(first, number)
    return [_text(first + index, drawn[index * _RANDOM : (index + 1) * _RANDOM]) for index in range(number)]


def _text(seq: int, drawn: bytes) -> str:
    """The 24 digits of the 15 bytes, as base32hex has them; the library's way takes five times as long."""
    bits = int.from_bytes(seq.to_bytes(6) + drawn)
    return "".join([_PAIRS[bits >> shift & 0x3FF] for shift in _SHIFTS])


def _seeded(first: int, number: int) -> bytes:
    texts = (f"{seed}:{first + index}".encode() for index in range(number))
    return b"".join(blake3(text, derive_key_context=_CONTEXT).digest(_RANDOM) for text in texts)


def seq_of(version_id: str) -> int | None:
    """The sequence that an id holds; None for any text that is no id."""
    try:
        raw = base64.b32hexdecode(version_id.upper().encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        return None
    return int.from_bytes(raw[:6]) if len(raw) == 15 else None


def could_be(version_id: str, seq: int) -> bool:
    """Whether a version of this sequence can have been given this id."""
    return seq_of(version_id) == seq
