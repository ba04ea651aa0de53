"""Continuation tokens: a listing position as opaque text.

A token is unpadded base64url of: one format byte, one kind byte, a 16-byte keyed checksum, and the position without
the listing's prefix. The checksum covers the position and the listing's bucket, prefix and delimiter, so a token that
was altered, cut, or made for another listing is refused instead of being read as some other place (contract section
6). It is no secret: whoever can list can make one. Tokens hold a position, not a snapshot, so they survive the
deletion of the key that they name and never expire. `FORMAT` changes when the meaning of the bytes does.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from blake3 import blake3

from gestalt_cas.errors import InvalidToken
from gestalt_cas.rules.listing import Position

FORMAT = 1
_KEY, _GROUP, _VERSION, _REMOVED = 0, 1, 2, 3
_CHECKSUM = 16
_MOST = (1 << 63) - 1
_CONTEXT = "gestalt-cas 2026 continuation token"
_is_base64url = re.compile("[A-Za-z0-9_-]*").fullmatch


@dataclass(frozen=True, slots=True)
class Listing:
    """What a token belongs to: tokens of one listing are refused by every other.

    `seq` is the moment of a listing of the past; None: of the present.
    """

    bucket: str
    prefix: bytes
    delimiter: bytes
    seq: int | None = None


def encode(listing: Listing, position: Position) -> str:
    """The token for a position within the listing, that is one whose value starts with the listing's prefix."""
    return _pack(listing, _GROUP if position.group else _KEY, position.value[len(listing.prefix) :])


def decode(listing: Listing, token: str) -> Position:
    """The position that `token` holds; raises InvalidToken unless `encode` made it for the same listing."""
    kind, rest = _unpack(listing, token)
    if kind not in (_KEY, _GROUP):
        raise InvalidToken("the continuation token belongs to a listing of versions")
    return Position(listing.prefix + rest, group=kind == _GROUP)


def encode_version(listing: Listing, key: bytes, before: int, removed_to: int) -> str:
    """The token that goes on in a listing of versions, behind those of `key` from the sequence `before` on.

    Rows of the key from there to `removed_to`, inclusive, are removed; none, if that is less.
    """
    rest = key[len(listing.prefix) :]
    if removed_to < before or not before:
        return _pack(listing, _VERSION, before.to_bytes(8) + rest)
    return _pack(listing, _REMOVED, before.to_bytes(8) + removed_to.to_bytes(8) + rest)


def decode_version(listing: Listing, token: str) -> tuple[bytes, int, int]:
    """The key and the two sequences that `token` holds; raises InvalidToken as `decode` does.

    The second is below the first where no more is known.
    """
    kind, rest = _unpack(listing, token)
    width = {_VERSION: 8, _REMOVED: 16}.get(kind)
    if width is None or len(rest) < width:
        raise InvalidToken("the continuation token does not belong to a listing of versions")
    before, removed_to = int.from_bytes(rest[:8]), int.from_bytes(rest[8:width])
    if max(before, removed_to) > _MOST:
        raise InvalidToken("the continuation token names a version that cannot be")
    return listing.prefix + rest[width:], before, removed_to if kind == _REMOVED else max(before - 1, 0)


def _pack(listing: Listing, kind: int, rest: bytes) -> str:
    head = bytes([FORMAT, kind])
    return _text(head + _checksum(listing, head, rest) + rest)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _raw(text: str) -> bytes:
    """The bytes that `_text` makes this text of; raises InvalidToken where there are none."""
    if _is_base64url(text) and len(text) % 4 != 1:
        raw = base64.urlsafe_b64decode(text + "==")
        if _text(raw) == text:  # the decoder also takes too much padding, and stray bits in the last character
            return raw
    raise InvalidToken("the continuation token is malformed")


def _unpack(listing: Listing, token: str) -> tuple[int, bytes]:
    raw = _raw(token)
    head, checksum, rest = raw[:2], raw[2 : 2 + _CHECKSUM], raw[2 + _CHECKSUM :]
    if len(checksum) != _CHECKSUM or head[0] != FORMAT:
        raise InvalidToken("the continuation token is malformed or of another format")
    if checksum != _checksum(listing, head, rest):
        raise InvalidToken(
            "the continuation token was made for another bucket, prefix, delimiter or moment, or was altered"
        )
    return head[1], rest


def _checksum(listing: Listing, head: bytes, rest: bytes) -> bytes:
    hasher = blake3(derive_key_context=_CONTEXT)
    moment = () if listing.seq is None else (listing.seq.to_bytes(8),)
    for part in (listing.bucket.encode(), listing.prefix, listing.delimiter, head, rest, *moment):
        hasher.update(len(part).to_bytes(8))
        hasher.update(part)
    return hasher.digest(_CHECKSUM)
