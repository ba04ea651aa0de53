"""Ranges against Python's own slicing, and every way in which one cannot be served."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidRange
from gestalt_cas.objects import ByteRange
from gestalt_cas.rules.ranges import resolve

positions = st.none() | st.integers(-3, 40) | st.sampled_from([2**31, 2**63 - 1, -(2**63)])


@pytest.mark.parametrize(
    ("start", "end", "served"),
    [
        (None, None, b"0123456789"),
        (0, None, b"0123456789"),
        (4, None, b"456789"),
        (9, None, b"9"),
        (None, 0, b"0"),
        (None, 3, b"0123"),
        (None, 9, b"0123456789"),
        (None, 10, b"0123456789"),
        (0, 0, b"0"),
        (2, 5, b"2345"),
        (9, 9, b"9"),
        (9, 10, b"9"),
        (3, 2**63 - 1, b"3456789"),
    ],
)
def test_bytes_served_of_ten_digits(start: int | None, end: int | None, served: bytes) -> None:
    offset, length = resolve(ByteRange(start, end), 10)
    assert b"0123456789"[offset : offset + length] == served
    assert length == len(served)


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [
        (10, None, 10),
        (10, 10, 10),
        (11, 20, 10),
        (2**63 - 1, None, 10),
        (9, 1, 10),
        (1, 0, 10),
        (-1, None, 10),
        (-1, 5, 10),
        (None, -1, 10),
        (0, -1, 10),
        (-5, -2, 10),
        (-(2**63), None, 10),
        (0, None, 0),
        (None, 0, 0),
        (0, 0, 0),
        (5, 9, 0),
    ],
)
def test_nothing_to_serve(start: int | None, end: int | None, size: int) -> None:
    with pytest.raises(InvalidRange) as caught:
        resolve(ByteRange(start, end), size)
    assert caught.value.size == size
    assert f"{size} bytes" in str(caught.value)


@pytest.mark.parametrize("requested", [None, ByteRange(), ByteRange(None, None)])
@pytest.mark.parametrize("size", [0, 1, 10, 5 * 2**40])
def test_no_range_is_the_whole_object(requested: ByteRange | None, size: int) -> None:
    assert resolve(requested, size) == (0, size)


def test_the_message_shows_the_range_as_it_was_asked() -> None:
    with pytest.raises(InvalidRange, match=r"range 12- cannot"):
        resolve(ByteRange(12, None), 10)
    with pytest.raises(InvalidRange, match=r"range -0 cannot"):
        resolve(ByteRange(None, 0), 0)


@given(positions, positions, st.binary(max_size=36))
@example(None, 35, bytes(36))
@example(36, None, bytes(36))
def test_agrees_with_slicing(start: int | None, end: int | None, data: bytes) -> None:
    in_order = start is None or end is None or start <= end
    well_formed = in_order and (start is None or start >= 0) and (end is None or end >= 0)
    wanted = data[start : None if end is None else end + 1] if well_formed else b""
    if wanted or (start is None and end is None):
        offset, length = resolve(ByteRange(start, end), len(data))
        assert data[offset : offset + length] == wanted
        assert 0 <= offset <= offset + length <= len(data)
        assert length == len(wanted)
    else:
        with pytest.raises(InvalidRange):
            resolve(ByteRange(start, end), len(data))
