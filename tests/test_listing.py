"""The walk against a brute-force model over sorted text, by pages, with keys coming and going; and what it costs."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gestalt_cas.rules import tokens
from gestalt_cas.rules.listing import Entry, Position, Row, resuming, runs, start_position, successor, walk

LAST = "\U0010ffff"
SYMBOLS = ["a", "b", "/", "\0", "\x01", "\x7f", "\x80", "é", "\ud7ff", "\ue000", "\uffff", "\U00010000", LAST]
"""Every length of UTF-8, the ends of each range, and neighbours, so that order and prefixes meet at the edges."""

symbols = st.sampled_from(SYMBOLS)
few = st.sampled_from(["a", "/", "\0", LAST])
keys = st.text(few | symbols, min_size=1, max_size=6)
key_sets = st.sets(keys, max_size=40)
delimiters = st.sampled_from(["", "/", "/", "a", "//", "/a", "aa", "\0", "é", LAST, "\x7f/", LAST + LAST, "é/é"])
prefixes = st.text(few, max_size=3)


@dataclass
class Table:
    """Sorted keys behind the walk's `seek`, which counts what it is asked for and checks that it is asked rightly."""

    names: list[bytes]
    prefix: bytes = b""
    seeks: int = 0
    fetched: int = 0
    lowest: bytes = field(default=b"")
    asked: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, names: Iterable[str], prefix: str = "") -> Table:
        return cls(sorted(name.encode() for name in names), prefix.encode())

    def seek(self, lower: bytes, limit: int) -> Sequence[Row]:
        assert limit > 0
        self.asked.append(limit)
        assert lower >= self.prefix, "one lower bound: the greater of prefix and position"
        assert not self.seeks or lower > self.lowest, "the walk went back"
        first = bisect.bisect_left(self.names, lower)
        rows = [(name, at) for at, name in enumerate(self.names[first : first + limit], first)]
        rows = [row for row in rows if row[0].startswith(self.prefix)]
        self.seeks, self.fetched, self.lowest = self.seeks + 1, self.fetched + len(rows), lower
        return rows


def model(names: Collection[str], prefix: str, delimiter: str, start_after: str) -> list[tuple[str, bool]]:
    """All entries after `start_after` as (name, is a common prefix), by looking at every key."""
    found: dict[tuple[str, bool], None] = {}
    for name in sorted(names):
        if not name.startswith(prefix) or (start_after and name <= start_after):
            continue
        names_group = start_after != prefix and start_after.startswith(prefix) and start_after.endswith(delimiter)
        if start_after and delimiter and names_group and name.startswith(start_after):
            continue
        head, hit, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        found[(prefix + head + hit, True) if hit else (name, False)] = None
    return list(found)


def shown(entries: Iterable[Entry]) -> list[tuple[str, bool]]:
    return [(entry.name.decode(), entry.seq is None) for entry in entries]


def page(
    names: Iterable[str], prefix: str, delimiter: str, after: Position | None, limit: int
) -> tuple[list[Entry], bool]:
    return walk(Table.of(names, prefix).seek, prefix.encode(), delimiter.encode(), after, limit)


def all_pages(names: Collection[str], prefix: str, delimiter: str, start_after: str, limit: int) -> list[list[Entry]]:
    """Follow the listing to its end as clients do, through tokens."""
    listing = tokens.Listing("bucket", prefix.encode(), delimiter.encode())
    after = start_position(start_after.encode(), prefix.encode(), delimiter.encode())
    pages = []
    while True:
        entries, more = page(names, prefix, delimiter, after, limit)
        assert len(entries) <= limit
        assert len(entries) == limit or not more, "a page that is not full is the last"
        pages.append(entries)
        assert len(pages) <= len(names) + 1, "the listing does not end"
        if not more:
            return pages
        after = tokens.decode(listing, tokens.encode(listing, entries[-1].position))


@given(key_sets, prefixes, delimiters, st.just("") | keys, st.integers(1, 45))
@example({"a/", "a/b", "a"}, "a/", "/", "", 1)
@example({"a/", "a/b", "a0"}, "", "/", "a/", 1)
@example({"/", "//", "///", "a"}, "/", "/", "", 1)
@example({"aaa", "aaaa", "aa"}, "a", "aa", "", 1)
@example({LAST, LAST * 2, LAST * 3}, LAST, LAST, "", 1)
@example({"\0", "\0\0", "\0/"}, "\0", "\0", "\0", 1)
def test_pages_together_are_the_models_entries(
    names: set[str], prefix: str, delimiter: str, start_after: str, limit: int
) -> None:
    expected = model(names, prefix, delimiter, start_after)
    pages = all_pages(names, prefix, delimiter, start_after, limit)
    assert [item for entries in pages for item in shown(entries)] == expected
    assert len(pages) == max(1, -(-len(expected) // limit))


@given(key_sets, prefixes, delimiters, st.just("") | keys)
def test_every_page_size_shows_the_same(names: set[str], prefix: str, delimiter: str, start_after: str) -> None:
    expected = model(names, prefix, delimiter, start_after)
    for limit in range(1, len(expected) + 2):
        pages = all_pages(names, prefix, delimiter, start_after, limit)
        assert [item for entries in pages for item in shown(entries)] == expected


@given(key_sets, st.data())
def test_start_after_a_common_prefix_leaves_its_group_out(names: set[str], data: st.DataObject) -> None:
    delimiter = data.draw(st.sampled_from(["/", "a", "é/", LAST]))
    start_after = data.draw(st.text(few, max_size=3)) + delimiter
    entries, _ = page(names, "", delimiter, start_position(start_after.encode(), b"", delimiter.encode()), 1000)
    assert shown(entries) == model(names, "", delimiter, start_after)
    covered = {name for name in names if name.startswith(start_after)}
    assert not any(entry.name.decode().startswith(start_after) for entry in entries), covered


@pytest.mark.parametrize(
    ("prefix", "delimiter", "start_after", "expected"),
    [
        ("", "", "", ["a", "a/", "a/1", "a/2", "a0", "b/c/d", "z"]),
        ("", "/", "", ["a", "a/", "a0", "b/", "z"]),
        ("a", "/", "", ["a", "a/", "a0"]),
        ("a/", "/", "", ["a/", "a/1", "a/2"]),
        ("a/", "", "a/1", ["a/2"]),
        ("b/", "/", "", ["b/c/"]),
        ("b/c", "/", "", ["b/c/"]),
        ("b/c/d", "/", "", ["b/c/d"]),
        ("", "/", "a/", ["a0", "b/", "z"]),
        ("", "/", "a/1", ["a/", "a0", "b/", "z"]),
        ("", "/", "a/2", ["a0", "b/", "z"]),
        ("", "", "a/", ["a/1", "a/2", "a0", "b/c/d", "z"]),
        ("a/", "/", "a/", ["a/1", "a/2"]),
        ("a/1", "/", "a/", ["a/1"]),
        ("b", "/", "a", ["b/"]),
        ("a", "/", "b", []),
        ("", "/", "\U0010ffff", []),
        ("none", "/", "", []),
        ("", "c/", "", ["a", "a/", "a/1", "a/2", "a0", "b/c/", "z"]),
    ],
)
def test_table(prefix: str, delimiter: str, start_after: str, expected: list[str]) -> None:
    names = ["a", "a/", "a/1", "a/2", "a0", "b/c/d", "z"]
    assert [name for name, _ in model(names, prefix, delimiter, start_after)] == expected
    after = start_position(start_after.encode(), prefix.encode(), delimiter.encode())
    entries, more = page(names, prefix, delimiter, after, 1000)
    assert [entry.name.decode() for entry in entries] == expected
    assert not more


def test_entries_carry_the_sequence_of_their_key() -> None:
    rows = [(b"a", 7), (b"b/1", 8), (b"b/2", 9), (b"c", 3)]
    entries, more = walk(lambda lower, limit: [row for row in rows if row[0] >= lower][:limit], b"", b"/", None, 10)
    assert entries == [Entry(b"a", 7), Entry(b"b/", None), Entry(b"c", 3)]
    assert not more


@pytest.mark.parametrize("limit", [1, 2, 15, 16, 17, 999, 1000])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("delimiter", ["", "/", "-"])
def test_more_is_told_exactly(limit: int, beyond: int, delimiter: str) -> None:
    names = [f"{at:05}-{tail}" for at in range(limit + beyond) for tail in "ab"]
    if delimiter != "-":
        names = names[::2]
    entries, more = page(names, "", delimiter, None, limit)
    assert len(entries) == min(limit, limit + beyond)
    assert more == (beyond > 0)


# Keys coming and going


@given(st.sets(keys, max_size=15), st.lists(key_sets, min_size=1, max_size=6), prefixes, delimiters, st.integers(1, 4))
def test_changes_between_pages(
    standing: set[str], visitors: list[set[str]], prefix: str, delimiter: str, limit: int
) -> None:
    listing = tokens.Listing("", prefix.encode(), delimiter.encode())
    after: Position | None = None
    more = True
    seen: list[tuple[str, bool]] = []
    turn = 0
    while more:
        present = standing | visitors[min(turn, len(visitors) - 1)]
        entries, more = page(present, prefix, delimiter, after, limit)
        assert set(shown(entries)) <= set(model(present, prefix, delimiter, ""))
        seen += shown(entries)
        after = tokens.decode(listing, tokens.encode(listing, entries[-1].position)) if more else None
        turn += 1
        assert turn <= len(standing.union(*visitors)) + 1, "the listing does not end"
    names = [name for name, _ in seen]
    assert names == sorted(set(names)), "an entry came twice or out of order"
    assert set(model(standing, prefix, delimiter, "")) <= set(seen), "a key that stood throughout was missed"


@given(key_sets.filter(bool), delimiters, st.data())
def test_the_key_that_a_position_names_may_go(names: set[str], delimiter: str, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, len(names)))
    entries, _ = page(names, "", delimiter, None, limit)
    last, group = entries[-1].name.decode(), entries[-1].seq is None
    left = {name for name in names if not (name.startswith(last) if group else name == last)}
    following, _ = page(left, "", delimiter, entries[-1].position, 1000)
    assert shown(following) == model(names, "", delimiter, "")[limit:]


# Bounds


@given(st.binary(max_size=5) | st.text(symbols, max_size=4).map(str.encode), st.lists(st.binary(max_size=7)))
@example(b"\xff\xff", [b"\xff\xff\xff"])
@example(b"a\xff", [b"b", b"a\xff\xff"])
def test_successor_divides_the_strings_with_a_prefix_from_the_greater_ones(prefix: bytes, others: list[bytes]) -> None:
    bound = successor(prefix)
    for other in [*others, *(prefix + tail for tail in others), prefix]:
        below = other < prefix or other.startswith(prefix)
        assert below == (bound is None or other < bound)


@pytest.mark.parametrize(
    ("prefix", "bound"),
    [
        (b"", None),
        (b"a", b"b"),
        (b"a\xff", b"b"),
        (b"\xff", None),
        (b"\xff\xff", None),
        (b"a\0", b"a\1"),
        (b"~", b"\x7f"),
    ],
)
def test_successor_table(prefix: bytes, bound: bytes | None) -> None:
    assert successor(prefix) == bound


@given(st.binary(max_size=5), st.binary(max_size=6))
def test_a_position_after_a_key_leaves_out_that_key_only(value: bytes, other: bytes) -> None:
    bound = Position(value).lower_bound
    assert bound is not None
    assert (other >= bound) == (other > value)


def test_nothing_follows_a_group_without_successor() -> None:
    table = Table([b"\xff", b"\xff\xff"])
    assert walk(table.seek, b"", b"", Position(b"\xff", group=True), 10) == ([], False)
    assert table.seeks == 0


@pytest.mark.parametrize(
    ("start_after", "delimiter", "position"),
    [
        (b"", b"/", None),
        (b"", b"", None),
        (b"a", b"/", Position(b"a")),
        (b"a/", b"/", Position(b"a/", group=True)),
        (b"a/", b"", Position(b"a/")),
        (b"a//", b"//", Position(b"a//", group=True)),
        (b"a/", b"//", Position(b"a/")),
        (b"/", b"/", Position(b"/", group=True)),
    ],
)
def test_start_position(start_after: bytes, delimiter: bytes, position: Position | None) -> None:
    assert start_position(start_after, b"", delimiter) == position
    below = None if position is None else Position(b"p/" + position.value, group=position.group)
    assert start_position(start_after and b"p/" + start_after, b"p/", delimiter) == below


@pytest.mark.parametrize("start_after", [b"a/", b"a/b/", b"b/", b"a/a/a/", b"a/c/d/"])
def test_start_position_that_is_no_group_of_the_listing(start_after: bytes) -> None:
    assert start_position(start_after, b"a/b/", b"/") == Position(start_after)


# What a page is made of, and where one that was cut goes on


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], []),
        (["a/"], []),
        (["a"], [("a", "a")]),
        (["a", "b", "c"], [("a", "c")]),
        (["a", "b", "c/", "d/", "e", "f/", "g", "h"], [("a", "b"), ("e", "e"), ("g", "h")]),
    ],
)
def test_runs_lie_between_common_prefixes(names: list[str], expected: list[tuple[str, str]]) -> None:
    entries = [Entry(name.encode(), None if name.endswith("/") else at) for at, name in enumerate(names)]
    assert [(first.decode(), last.decode()) for first, last in runs(entries)] == expected


@pytest.mark.parametrize(
    ("entries", "walked_to", "position"),
    [
        ([], b"k", Position(b"k")),
        ([Entry(b"a/", None)], b"a/7", Position(b"a/", group=True)),
        ([Entry(b"a/", None)], b"b", Position(b"b")),
        ([Entry(b"a", 1)], b"ab", Position(b"ab")),
        ([Entry(b"a/", None), Entry(b"b", 1)], b"c", Position(b"c")),
        ([Entry(b"a", 1), Entry(b"b/", None)], b"b/7", Position(b"b/", group=True)),
    ],
)
def test_a_walk_goes_on_behind_the_group_that_it_was_cut_in(
    entries: list[Entry], walked_to: bytes, position: Position
) -> None:
    assert resuming(entries, walked_to) == position


# Cost

PLAIN = [f"!{at:02}" for at in range(16)]


@pytest.mark.parametrize(
    ("names", "delimiter", "limit", "asked"),
    [
        # Without a delimiter every row is an entry: all at once.
        ([f"{at:03}" for at in range(200)], "", 100, [101]),
        ([f"{at:03}" for at in range(200)], "/", 10, [11]),
        # Each batch twice the one before, up to the whole page and one more.
        ([f"{at:03}" for at in range(200)], "/", 60, [16, 32, 61]),
        # Two entries of 16 rows are an eighth and not more; four of 31 are more.
        ([f"{at:03}/{below}" for at in range(20) for below in range(8)], "/", 20, [16] * 11),
        (PLAIN + [f"{at:03}/{below}" for at in range(20) for below in range(8)], "/", 30, [16, 31, 31, 31, 31]),
    ],
)
def test_how_many_rows_are_asked_for(names: list[str], delimiter: str, limit: int, asked: list[int]) -> None:
    table = Table.of(names)
    walk(table.seek, b"", delimiter.encode(), None, limit)
    assert table.asked == asked


def cost(names: Iterable[str], limit: int = 1000, delimiter: str = "/") -> tuple[int, int, int]:
    """Entries of the first page, seeks made and rows fetched for it."""
    table = Table.of(names)
    entries, _ = walk(table.seek, b"", delimiter.encode(), None, limit)
    return len(entries), table.seeks, table.fetched


@pytest.mark.parametrize("below", [10, 100, 1000])
def test_cost_of_100_groups_does_not_grow_with_them(below: int) -> None:
    entries, seeks, fetched = cost(f"{group:03}/{key:05}" for group in range(100) for key in range(below))
    assert entries == 100
    assert seeks <= 101
    assert fetched <= 16 * 101


def test_cost_of_groups_of_one() -> None:
    entries, seeks, fetched = cost(f"{at:05}/only" for at in range(20_000))
    assert entries == 1000
    assert seeks <= 8
    assert fetched <= 2 * entries


@pytest.mark.parametrize("delimiter", ["/", ""])
def test_cost_of_plain_keys(delimiter: str) -> None:
    entries, seeks, fetched = cost((f"{at:05}" for at in range(20_000)), delimiter=delimiter)
    assert entries == 1000
    assert seeks <= (8 if delimiter else 1)
    assert fetched <= (2 * entries if delimiter else entries + 1)


def test_cost_of_one_huge_group_per_page() -> None:
    names = [f"{group}/{key:05}" for group in "abc" for key in range(30_000)]
    assert cost(names, limit=1) == (1, 2, 4)


def test_cost_of_middling_groups_after_many_plain_keys() -> None:
    """The plain keys make the batch large; groups that do not fill half of it must make it small again."""
    plain = [f"!{at:05}" for at in range(600)]
    groups = [f"{group:03}/{key:05}" for group in range(400) for key in range(334)]
    entries, seeks, fetched = cost(plain + groups)
    assert entries == 1000
    assert seeks <= 450
    assert fetched <= 24 * entries


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.sampled_from([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 40, 150, 333, 500, 600])),
        max_size=8,
    ),
    st.sampled_from([1, 2, 7, 50, 1000]),
)
@example([(60, 0)] * 4 + [(40, 333)], 1000)
def test_cost_is_bounded_by_the_entries(runs: list[tuple[int, int]], limit: int) -> None:
    """Runs of so many groups with so many keys each; 0 is a plain key."""
    names = []
    for at, (groups, below) in enumerate(runs):
        for group in range(groups):
            name = f"{at:02}-{group:03}"
            names += [f"{name}/{key:03}" for key in range(below)] if below else [name]
    entries, seeks, fetched = cost(names, limit)
    assert seeks <= entries + 1
    assert fetched <= 24 * entries + 16
