"""Tokens: they come back as they went, belong to one listing, and nothing else is ever taken for one."""

from __future__ import annotations

import base64
import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidToken
from gestalt_cas.rules import tokens
from gestalt_cas.rules.listing import Position
from gestalt_cas.rules.tokens import Listing

PINNED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "tokens.json").read_text("utf-8"))
ALPHABET = string.ascii_letters + string.digits + "-_"

texts = st.text(st.characters(codec="utf-8") | st.sampled_from(["\0", "/", "\x7f", "\U0010ffff"]), max_size=20)
utf8 = texts.map(str.encode)
positions = st.builds(Position, utf8, st.booleans())
sequences = st.integers(0, 2**63 - 1)
listings = st.builds(Listing, texts, utf8, utf8, st.none() | sequences)


def within(listing: Listing, position: Position) -> Position:
    return replace(position, value=listing.prefix + position.value)


def refused(listing: Listing, token: str) -> bool:
    """Whether both kinds of listing refuse the token, with InvalidToken and nothing else."""
    refusals = 0
    for decode in (tokens.decode, tokens.decode_version):
        try:
            decode(listing, token)
        except InvalidToken:
            refusals += 1
    return refusals == 2


@given(listings, positions)
def test_round_trip(listing: Listing, relative: Position) -> None:
    position = within(listing, relative)
    token = tokens.encode(listing, position)
    assert tokens.decode(listing, token) == position
    assert set(token) <= set(ALPHABET)


@example(Listing("", b"", b""), b"k", 0, 7)  # behind the whole key, where nothing else can be known
@given(listings, utf8, sequences, st.just(0) | sequences)
def test_round_trip_of_versions(listing: Listing, relative: bytes, before: int, removed_to: int) -> None:
    """Of what is known to be removed only what lies behind the place is kept."""
    token = tokens.encode_version(listing, listing.prefix + relative, before, removed_to)
    known = removed_to if 0 < before <= removed_to else max(before - 1, 0)
    assert tokens.decode_version(listing, token) == (listing.prefix + relative, before, known)
    assert set(token) <= set(ALPHABET)


def test_the_longest_key_makes_a_token_of_moderate_length() -> None:
    token = tokens.encode(Listing("", b"", b""), Position(b"k" * 2048))
    assert len(token) == -(-(18 + 2048) * 4 // 3)


@given(listings, listings, positions)
def test_another_listing_refuses(listing: Listing, other: Listing, relative: Position) -> None:
    assume(listing != other)
    assert refused(other, tokens.encode(listing, within(listing, relative)))


@pytest.mark.parametrize(
    "other",
    [
        Listing("other", b"docs/", b"/"),
        Listing("", b"docs/", b"/"),
        Listing("bucket", b"docs", b"/"),
        Listing("bucket", b"docs/a", b"/"),
        Listing("bucket", b"", b"/"),
        Listing("bucket", b"docs/", b""),
        Listing("bucket", b"docs/", b"//"),
        Listing("bucket", b"docs/", b"/", 0),
        # The same bytes, divided at another place.
        Listing("bucketd", b"ocs/", b"/"),
        Listing("bucket", b"docs", b"//"),
    ],
)
def test_each_part_of_the_listing_counts(other: Listing) -> None:
    listing = Listing("bucket", b"docs/", b"/")
    assert refused(other, tokens.encode(listing, Position(b"docs/a")))
    assert refused(other, tokens.encode_version(listing, b"docs/a", 7, 0))


@given(listings, positions, utf8, sequences)
def test_objects_and_versions_do_not_take_each_others_tokens(
    listing: Listing, relative: Position, key: bytes, seq: int
) -> None:
    with pytest.raises(InvalidToken, match="not belong to a listing of versions"):
        tokens.decode_version(listing, tokens.encode(listing, within(listing, relative)))
    with pytest.raises(InvalidToken, match="belongs to a listing of versions"):
        tokens.decode(listing, tokens.encode_version(listing, listing.prefix + key, seq, 0))


@given(listings, positions, st.data())
def test_any_mutation_is_refused(listing: Listing, relative: Position, data: st.DataObject) -> None:
    token = tokens.encode(listing, within(listing, relative))
    at = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from(ALPHABET + "+/= \n\0é") | st.characters())
    mutated = data.draw(
        st.sampled_from(
            [
                token[:at] + character + token[at + 1 :],
                token[:at] + character + token[at:],
                token + character,
                token[:at] + token[at + 1 :],
                token[:at],
                token[at:],
                token[:at] + token[at:].swapcase(),
                token + token,
                token[::-1],
            ]
        )
    )
    assume(mutated != token)
    assert refused(listing, mutated)


@pytest.mark.parametrize("length", range(12))
def test_every_change_of_one_character_is_refused(length: int) -> None:
    """In the last character too, where some bits carry nothing and a lenient decoder ignores them."""
    listing = Listing("bucket", b"", b"/")
    token = tokens.encode(listing, Position(b"\xfb\xff\xfe"[: length % 4] + b"k" * length))
    for at in range(len(token)):
        for character in ALPHABET + "+/=":
            if character != token[at]:
                assert refused(listing, token[:at] + character + token[at + 1 :])


@pytest.mark.parametrize("added", ["=", "==", "===", "====", " ", "\n", "\0", "A", "AAAA"])
def test_nothing_may_be_added(added: str) -> None:
    listing = Listing("", b"", b"")
    for length in range(4):
        token = tokens.encode(listing, Position(b"k" * length))
        assert refused(listing, token + added)
        assert refused(listing, added + token)


@given(
    listings, st.text(st.characters(exclude_categories=())) | st.text(ALPHABET) | st.text(ALPHABET + "+/=", min_size=20)
)
@example(Listing("", b"", b""), "")
@example(Listing("", b"", b""), "=")
@example(Listing("", b"", b""), "A")
@example(Listing("", b"", b""), "AA")
@example(Listing("", b"", b""), "last/key.txt")
@example(Listing("", b"", b""), "ключ")
@example(Listing("", b"", b""), "\ud800")
@example(Listing("", b"", b""), "A" * 10_000_000)
@example(Listing("", b"", b""), "é" * 1_000_000)
@example(Listing("", b"", b""), "=" * 1_000_000)
def test_other_text_is_refused(listing: Listing, text: str) -> None:
    assert refused(listing, text)


@given(listings, st.binary(max_size=60), st.sampled_from([0, 1, 2, 3, 255]))
def test_bytes_in_the_right_shape_are_refused(listing: Listing, rest: bytes, kind: int) -> None:
    raw = bytes([tokens.FORMAT, kind]) + rest
    assert refused(listing, base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listing = Listing("", b"", b"")
    with monkeypatch.context() as patch:
        patch.setattr(tokens, "FORMAT", tokens.FORMAT + 1)
        newer = tokens.encode(listing, Position(b"key"))
    with pytest.raises(InvalidToken, match="another format"):
        tokens.decode(listing, newer)


@pytest.mark.parametrize("kind", [4, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    listing = Listing("", b"", b"")
    assert refused(listing, tokens._pack(listing, kind, b"12345678key"))


def test_a_version_without_room_for_its_sequence_is_refused() -> None:
    listing = Listing("", b"", b"")
    assert refused(listing, tokens._pack(listing, tokens._VERSION, b"1234567"))
    assert refused(listing, tokens._pack(listing, tokens._REMOVED, b"123456781234567"))


@pytest.mark.parametrize("kind", [tokens._VERSION, tokens._REMOVED])
@pytest.mark.parametrize("at", [0, 8])
def test_a_sequence_that_no_version_can_have_is_refused(kind: int, at: int) -> None:
    """Whoever can list can make a token; SQLite has no such number."""
    listing, rest = Listing("", b"", b""), bytearray(16)
    rest[at] = 0x80
    wrong = at == 0 or kind == tokens._REMOVED
    assert refused(listing, tokens._pack(listing, kind, bytes(rest))) == wrong


@pytest.mark.parametrize("pinned", PINNED, ids=lambda pinned: str(pinned["what"]))
def test_the_format_stays(pinned: dict[str, Any]) -> None:
    """Tokens outlive the process that made them; a change of format needs a new `FORMAT` and new examples."""
    moment = pinned.get("moment")
    listing = Listing(pinned["bucket"], pinned["prefix"].encode(), pinned["delimiter"].encode(), moment)
    value = pinned["value"].encode()
    if "seq" in pinned:
        removed_to = pinned.get("removed_to", 0)
        assert tokens.encode_version(listing, value, pinned["seq"], removed_to) == pinned["token"]
        known = removed_to or max(pinned["seq"] - 1, 0)
        assert tokens.decode_version(listing, pinned["token"]) == (value, pinned["seq"], known)
    else:
        position = Position(value, group=pinned["group"])
        assert tokens.encode(listing, position) == pinned["token"]
        assert tokens.decode(listing, pinned["token"]) == position
