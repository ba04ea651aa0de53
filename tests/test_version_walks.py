"""Pages of versions, and the list of buckets, among rows of removed versions: cut anywhere, with changes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from command_line import Command, command_in
from gestalt_cas import ListQuery, Store
from gestalt_cas.errors import InvalidToken
from gestalt_cas.keeping import holds, quotas, retention
from gestalt_cas.keeping.retention import Rule, Stretch
from gestalt_cas.objects import NO_HEADERS, ObjectKey, ObjectVersion, VersionPage
from gestalt_cas.operations import pages
from gestalt_cas.rows import blob_rows, buckets, version_walks, versions
from gestalt_cas.rows.version_walks import BEYOND, NEWEST, Place, Walk
from gestalt_cas.rules import tokens
from gestalt_cas.transactions.database import Database
from storage import BUCKET, change, key, put

NAMES = ["a", "a/b", "a/c", "b", "ü"]
PREFIXES = ["", "a", "a/", "b", "z"]
STEP = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("mark"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("passing"), st.sampled_from(NAMES), st.integers(1, 4)),
    st.tuples(st.just("purge"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("suspended"), st.sampled_from(NAMES), st.integers(0, 1)),
)
CUTS = st.lists(st.booleans(), min_size=1, max_size=12)


class Model:
    """What stands, by key, the newest first; no row of what was removed."""

    def __init__(self, store: Store, bucket: str) -> None:
        self.store, self.bucket = store, bucket
        self.standing: dict[str, list[ObjectVersion]] = {}

    def play(self, what: str, name: str, number: int) -> None:
        stack = self.standing.setdefault(name, [])
        where = key(name, self.bucket)
        if what == "remove" and stack:
            gone = stack.pop(min(number, len(stack) - 1))
            self.store.delete(where, version_id=gone.version_id)
        elif what == "passing":  # rows that are removed at once, the newest first, as by a lock that is let go
            for made in reversed([self._added(where, marker=bool(at % 2)) for at in range(number)]):
                self.store.delete(where, version_id=made.version_id)
        elif what == "purge" and stack:
            self.store.purge(where)
            stack.clear()
        elif what in ("put", "mark"):
            stack.insert(0, self._added(where, marker=what == "mark"))
        elif what == "suspended":
            self.store.change_settings({"versioning": "suspended"})
            made = self._added(where, marker=bool(number))
            stack[:] = [made, *(one for one in stack if one.version_id != "null")]
            self.store.change_settings({"versioning": "enabled"})

    def _added(self, where: ObjectKey, *, marker: bool) -> ObjectVersion:
        if not marker:
            return self.store.write(where, [b"x"])
        made = self.store.delete(where)
        assert made is not None
        return made

    def expected(self, prefix: str, *, only_key: bool) -> list[tuple[str, int, bool]]:
        """Key, sequence, and whether it is the newest, of all that a listing shows."""
        return [
            (name, version.seq, not index)
            for name in sorted(self.standing, key=str.encode)
            if (name == prefix if only_key else name.startswith(prefix))
            for index, version in enumerate(self.standing[name])
        ]


class Ticks:
    """In place of `time`: the time for a page is over at every look for which a cut was drawn, again and again."""

    def __init__(self, cuts: list[bool]) -> None:
        self._cuts, self._looks, self._now = cuts, 0, 0.0

    def monotonic(self) -> float:
        self._now += self._cuts[self._looks % len(self._cuts)]
        self._looks += 1
        return self._now


@contextmanager
def cut(rows: int, cuts: list[bool]) -> Iterator[None]:
    """Have every walk go by so many rows at a time, and its pages or views end where the cuts are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pages, buckets):
            patch.setattr(module, "time", Ticks(cuts))
        patch.setattr(pages, "WALK_SECONDS", 0.5)
        patch.setattr(buckets, "VIEW_SECONDS", 0.5)
        patch.setattr(version_walks, "STRETCH", rows)
        patch.setattr(buckets, "STRETCH", rows)
        yield


@contextmanager
def one_row_at_a_time() -> Iterator[None]:
    with cut(1, [True]):
        yield


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that each example leaves empty."""
    with Store.open(tmp_path_factory.mktemp("buckets") / "store") as store:
        yield store


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples; each takes buckets of its own."""
    with Store.open(tmp_path_factory.mktemp("walks") / "store") as store:
        yield store


class Fresh:
    """Bucket names, in an order of their own."""

    number = 0

    @classmethod
    def bucket(cls) -> str:
        cls.number += 1
        return f"{cls.number:06}"


def shown(version: ObjectVersion) -> tuple[str, int, bool]:
    return version.key.key, version.seq, version.current


def read_through(store: Store, query: ListQuery, *, only_key: bool) -> list[list[ObjectVersion]]:
    """Every page; ends, since each page with a token gets at least one row further."""
    found = []
    while True:
        page = store.list_versions(query, only_key=only_key)
        assert len(page.versions) <= query.limit
        found.append(list(page.versions))
        if not page.token:
            return found
        query = replace(query, token=page.token)


@example([("passing", "b", 4), ("put", "b", 0), ("passing", "b", 4), ("mark", "b", 0)], "b", 1, 1, [True], True)
@example([("mark", "a", 0), ("passing", "a", 4), ("put", "b", 0)], "", 3, 1, [True], False)
@given(
    st.lists(STEP, max_size=20),
    st.sampled_from(PREFIXES),
    st.integers(1, 5),
    st.integers(1, 5),
    CUTS,
    st.booleans(),
)
def test_pages_that_are_cut_show_what_one_page_shows(
    shared: Store, steps: list[tuple[str, str, int]], prefix: str, limit: int, rows: int, cuts: list[bool], only: bool
) -> None:
    model = Model(shared, Fresh.bucket())
    for step in steps:
        model.play(*step)
    query = ListQuery(model.bucket, prefix)
    expected = model.expected(prefix, only_key=only)
    assert [shown(v) for v in shared.list_versions(query, only_key=only).versions] == expected
    with cut(rows, cuts):
        found = read_through(shared, replace(query, max_keys=limit), only_key=only)
    assert [shown(version) for page in found for version in page] == expected


@example([("put", "a", 0)] * 4, [(5, 2)])
@given(st.lists(STEP, max_size=20), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5))
def test_the_steps_of_a_walk_show_what_one_page_shows(
    shared: Store, steps: list[tuple[str, str, int]], sizes: list[tuple[int, int]]
) -> None:
    """Whatever the numbers of rows and versions that each is asked for."""
    model = Model(shared, Fresh.bucket())
    for step in steps:
        model.play(*step)
    found: list[ObjectVersion] = []
    with shared._database.read() as tx:
        walk = Walk(tx, model.bucket, b"", BEYOND, None)
        for rows, limit in cycle(sizes):
            got = walk.step(rows, limit)
            assert len(got) <= limit
            found += got
            if walk.through:
                break
    assert [shown(version) for version in found] == model.expected("", only_key=False)


@example(
    # The newest, which an earlier page showed, goes; then a marker that was not is the newest.
    [("mark", "a", 0), ("passing", "a", 2), ("mark", "a", 0), ("passing", "a", 2)],
    [[], [], [("remove", "a", 0)]],
    "a", 2, 1, [True], True,
)  # fmt: skip
@example([("mark", "a", 0)] * 2, [[("remove", "a", 0)]], "a", 1, 1, [True], True)
@example(
    # All above the place was removed, then something comes above it.
    [("mark", "a", 0), ("passing", "a", 4)],
    [[], [], [("put", "a", 0)]],
    "a",
    2,
    1,
    [True],
    True,
)
# The same when the first page ends in front of the key.
@example([("mark", "a", 0), ("passing", "a", 4)], [[], [], [("put", "a", 0)]], "a", 2, 1, [True], False)
@example([("mark", "a", 0), ("passing", "a", 4)], [[("passing", "a", 4)]] * 6, "a", 2, 1, [True], True)
# The first of two that a page showed goes: the second one is newer than what follows.
@example([("put", "a", 0)] * 3, [[("remove", "a", 0)]], "a", 4, 2, [True], True)
@given(
    st.lists(STEP, max_size=16),
    st.lists(st.lists(STEP, max_size=2), max_size=8),
    st.sampled_from(PREFIXES),
    st.integers(1, 4),
    st.integers(1, 4),
    CUTS,
    st.booleans(),
)
def test_changes_between_pages_bring_nothing_twice_and_leave_nothing_out(
    shared: Store,
    steps: list[tuple[str, str, int]],
    changes: list[list[tuple[str, str, int]]],
    prefix: str,
    limit: int,
    rows: int,
    cuts: list[bool],
    only: bool,
) -> None:
    """Each page says what is so when it is asked for: what stands, and which of it is the newest of its key."""
    model = Model(shared, Fresh.bucket())
    for step in steps:
        model.play(*step)
    query = ListQuery(model.bucket, prefix, max_keys=limit)
    found: list[tuple[str, int, bool]] = []
    all_the_time = {entry[:2] for entry in model.expected(prefix, only_key=only)}
    with cut(rows, cuts):
        while True:
            now = model.expected(prefix, only_key=only)
            all_the_time &= {entry[:2] for entry in now}
            page = shared.list_versions(query, only_key=only)
            assert {shown(version) for version in page.versions} <= set(now)
            found += map(shown, page.versions)
            if not page.token:
                break
            query = replace(query, token=page.token)
            for change in changes.pop(0) if changes else []:
                model.play(*change)
    places = [(name.encode(), -seq) for name, seq, _ in found]
    assert places == sorted(set(places))
    assert all_the_time <= {entry[:2] for entry in found}


def test_a_place_behind_a_key_is_left_in_one_page(store: Store) -> None:
    """However the pages are cut, one with a token has got further: no two tokens are the same."""
    for name in ("a", "b"):
        for _ in range(3):
            store.delete(key(name), version_id=put(store, name, b"x").version_id)
    query, seen = ListQuery(BUCKET), set()
    with one_row_at_a_time():
        while (page := store.list_versions(query)).token:
            assert not page.versions
            assert page.token not in seen
            seen.add(page.token)
            query = replace(query, token=page.token)
    assert len(seen) >= 6


def test_a_step_walks_as_many_rows_as_it_may(store: Store) -> None:
    for name in "abc":
        put(store, name, b"x")
    with store._database.read() as tx:
        walk = Walk(tx, BUCKET, b"", BEYOND, None)
        assert [version.key.key for version in walk.step(9, 9)] == ["a", "b", "c"]
        assert walk.through


def test_a_step_walks_no_more_keys_than_its_rows(store: Store) -> None:
    """And no fewer: the last one's rows are left to the next step."""
    for name in "abcde":
        put(store, name, b"x")
    with store._database.read() as tx:
        walk = Walk(tx, BUCKET, b"", BEYOND, None)
        assert [version.key.key for version in walk.step(2, 9)] == ["a"]
        assert walk.place.key == b"b"


def test_a_step_walks_no_more_rows_of_a_key_than_it_may(store: Store) -> None:
    """And no fewer; what it has met says how much is known to be removed."""
    for _ in range(6):
        put(store, "k", b"x")
    found = store.list_versions(ListQuery(BUCKET)).versions
    for gone in (found[1], found[3]):
        store.delete(key("k"), version_id=gone.version_id)
    with store._database.read() as tx:
        walk = Walk(tx, BUCKET, b"", BEYOND, Place(b"k", NEWEST))
        assert [version.seq for version in walk.step(2, 9)] == [6]
        assert walk.place == Place(b"k", 5, 5)
        assert [version.seq for version in walk.step(3, 9)] == [4, 2]
        assert walk.place == Place(b"k", 2, 1)


def test_a_place_that_knows_of_nothing_removed_is_gone_on_from(store: Store) -> None:
    """What comes next is not newer than itself, though it is the one right behind the place."""
    for _ in range(2):
        put(store, "k", b"x")
    newest = put(store, "k", b"x")
    for current in (False, True):
        with store._database.read() as tx:
            walk = Walk(tx, BUCKET, b"", BEYOND, Place(b"k", newest.seq))
            assert [(version.seq, version.current) for version in walk.step(9, 9)] == [(2, current), (1, False)]
        if not current:
            store.delete(key("k"), version_id=newest.version_id)


def test_a_place_in_the_first_key_beyond_the_end_has_nothing_behind_it(store: Store) -> None:
    """A token of all that begins with a key is good for the key alone, too; of another key nothing is shown."""
    put(store, "k", b"x")
    for _ in range(2):
        put(store, "k\0", b"x")
    query = ListQuery(BUCKET, "k", max_keys=2)
    page = store.list_versions(query)
    assert [version.key.key for version in page.versions] == ["k", "k\0"]
    query = replace(query, token=page.token)
    assert [version.key.key for version in store.list_versions(query).versions] == ["k\0"]
    assert store.list_versions(query, only_key=True) == VersionPage((), "")


def test_what_another_bucket_has_of_a_key_is_not_newer(store: Store) -> None:
    store.delete(key("k"))
    newest = store.delete(key("k"))
    assert newest is not None
    query = ListQuery(BUCKET, max_keys=1)
    token = store.list_versions(query).token
    store.delete(key("k"), version_id=newest.version_id)
    store.delete(key("k", "other"))
    (version,) = store.list_versions(replace(query, token=token)).versions
    assert version.current


def test_a_cut_pages_token_is_of_its_listing(store: Store) -> None:
    put(store, "a/b", b"x")
    for _ in range(3):
        store.delete(key("a/b"), version_id=put(store, "a/b", b"x").version_id)
    put(store, "b", b"x")
    query = ListQuery(BUCKET, "a/")
    with one_row_at_a_time():
        first = store.list_versions(query)
        second = store.list_versions(replace(query, token=first.token))
    for token in (first.token, second.token):
        for other in (replace(query, prefix="a"), replace(query, bucket="other")):
            with pytest.raises(InvalidToken):
                store.list_versions(replace(other, token=token))
        with pytest.raises(InvalidToken):
            store.list_page(replace(query, token=token))
        # Of the one key that is called like the prefix nothing comes behind it.
        assert store.list_versions(replace(query, token=token), only_key=True).versions == ()


@pytest.mark.parametrize("before", [0, 1, 2, version_walks.NEWEST])
@pytest.mark.parametrize("removed_to", [0, 1, version_walks.NEWEST])
def test_tokens_that_somebody_made_are_answered(store: Store, before: int, removed_to: int) -> None:
    """Whoever can list can make one; it may say of a key what is not so, and is no reason to fail."""
    for _ in range(2):
        put(store, "k", b"x")
    put(store, "l", b"x")
    token = tokens.encode_version(tokens.Listing(BUCKET, b"", b""), b"k", before, removed_to)
    found = store.list_versions(ListQuery(BUCKET, token=token)).versions
    rest = {0: [3], 1: [3], 2: [1, 3]}.get(before, [2, 1, 3])
    assert [version.seq for version in found] == rest


# ---- buckets ----


class Between:
    """A database before each view of which, but the first, something is changed."""

    def __init__(self, database: Database, changes: list[Callable[[], None]]) -> None:
        self._database, self._changes, self.views = database, changes, 0

    @contextmanager
    def read(self) -> Iterator[Any]:
        if self.views and self._changes:
            self._changes.pop(0)()
        self.views += 1
        with self._database.read() as tx:
            yield tx


IN_BUCKET = st.tuples(STEP, st.integers(0, 2))


@example(
    # A marker that stands behind the place of the walk takes over from one in front of it.
    [(("passing", "a", 4), 0), (("mark", "ü", 0), 0)],
    [[(("mark", "a", 0), 0)], [(("remove", "ü", 0), 0)]],
    1,
    [True],
)
@example(
    [(("passing", "a", 1), 0), (("passing", "b", 4), 0), (("mark", "ü", 0), 0)],
    [[], [(("mark", "a", 0), 0)], [(("remove", "ü", 0), 0)]],
    1,
    [True],
)
# The walk of a bucket begins at its beginning, wherever that of the one before has ended.
@example([(("passing", "b", 2), 0), (("mark", "a", 0), 1)], [], 1, [False])
# What comes meanwhile counts neither for another bucket nor when it goes as well.
@example([(("passing", "a", 2), 0)], [[(("put", "a", 0), 1)]], 1, [True])
@example([(("passing", "a", 2), 0)], [[(("passing", "a", 1), 0)]], 1, [True])
@given(st.lists(IN_BUCKET, max_size=12), st.lists(st.lists(IN_BUCKET, max_size=2), max_size=6), st.integers(1, 4), CUTS)
def test_the_buckets_that_hold_a_version(
    empty: Store,
    steps: list[tuple[tuple[str, str, int], int]],
    changes: list[list[tuple[tuple[str, str, int], int]]],
    rows: int,
    cuts: list[bool],
) -> None:
    models = [Model(empty, Fresh.bucket()) for _ in range(3)]
    for step, which in steps:
        models[which].play(*step)

    def holding() -> set[str]:
        return {model.bucket for model in models if any(model.standing.values())}

    states = [holding()]

    def play(some: list[tuple[tuple[str, str, int], int]]) -> None:
        for step, which in some:
            models[which].play(*step)
            states.append(holding())

    with cut(rows, cuts):
        assert set(empty.buckets()) == states[0]
        database = Between(empty._database, [lambda some=some: play(some) for some in changes])  # type: ignore[misc]
        found = buckets.standing(cast(Database, database))
    assert found == sorted(set(found), key=str.encode)
    assert set.intersection(*states) <= set(found) <= set.union(*states)
    for table in ("versions", "current"):  # so that the examples that follow have no buckets but their own
        change(empty, f"DELETE FROM {table}")


def test_a_view_of_the_buckets_ends_when_its_time_is_over(store: Store) -> None:
    for _ in range(5):
        store.delete(key("k", "gone"), version_id=store.write(key("k", "gone"), [b"x"]).version_id)
    store.delete(key("k", "marked"))
    database = Between(store._database, [])
    with one_row_at_a_time():
        assert buckets.standing(cast(Database, database)) == ["marked"]
    assert database.views == 7
    database = Between(store._database, [])
    with cut(3, [True]):
        assert buckets.standing(cast(Database, database)) == ["marked"]
    assert database.views == 3
    database = Between(store._database, [])
    assert buckets.standing(cast(Database, database)) == ["marked"]
    assert database.views == 1


# ---- what it costs, in instructions of SQLite's machine ----

FEW, MANY = 400, 2000
STAND = 30
DIGEST = blake3(b"x").digest()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """For each of two numbers a bucket `keysN` of so many keys that hold nothing any more, and the bucket `oneN`.

    That has keys of which so many versions were removed above those that stand: `o`, whose newest is an object, and
    `m`, whose newest is a marker; and `between`, of which they were removed above a marker and below an object.
    """
    with Store.open(tmp_path_factory.mktemp("full") / "store") as store:
        with store._database.write() as tx:
            blob_rows.keep(tx, DIGEST, 1, b"")
            for count in (FEW, MANY):
                fill(tx, count)
        yield store


def fill(tx: Any, count: int) -> None:
    for number in range(count):
        versions.remove(tx, append(tx, key(f"{number:05}", f"keys{count}")), 1)
    for name in ("o", "m"):
        where = key(name, f"one{count}")
        for _ in range(STAND - 1):
            append(tx, where)
        append(tx, where, DIGEST if name == "o" else None)
        pass_by(tx, where, count)
    append(tx, key("between", f"one{count}"), None)
    pass_by(tx, key("between", f"one{count}"), count)
    append(tx, key("between", f"one{count}"))


def pass_by(tx: Any, where: ObjectKey, count: int) -> None:
    """Add so many versions of a key and remove them."""
    for version in [append(tx, where) for _ in range(count)]:
        versions.remove(tx, version, 1)


def append(tx: Any, where: ObjectKey, digest: bytes | None = DIGEST) -> ObjectVersion:
    size = 0 if digest is None else 1
    return versions.append(tx, where, digest, size, headers=NO_HEADERS, metadata={}, suspended=False, now_ms=1)


class Undone(Exception):
    """Rolls a transaction back."""


def cost(tx: Any, work: Callable[[], object]) -> int:
    """Instructions, in tens."""
    ran = 0

    def step() -> bool:
        nonlocal ran
        ran += 1
        return False

    tx.set_progress_handler(step, 10)
    try:
        work()
    finally:
        tx.set_progress_handler(None, 10)
    return ran


def costs(store: Store, work: Callable[[Any, int], object]) -> list[int]:
    """What it costs among few removed rows, and among many; what it changes is undone."""
    found = []
    for count in (FEW, MANY):
        with suppress(Undone), store._database.write() as tx:
            found.append(cost(tx, partial(work, tx, count)))
            raise Undone
    return found


def page(tx: Any, bucket: str, name: str = "", token: str = "") -> VersionPage:
    return pages.of_versions(tx, ListQuery(bucket, name, token=token), only_key=bool(name))


def marker_by_id(tx: Any, count: int) -> None:
    where = key("between", f"one{count}")
    ((version_id,),) = tx.execute(
        "SELECT version_id FROM versions WHERE bucket = ? AND key = ? ORDER BY seq LIMIT 1",
        (where.bucket, where.key.encode()),
    ).fetchall()
    found = versions.by_id(tx, where, version_id)
    assert found is not None
    assert not found.current


def by_id(tx: Any, count: int) -> None:
    where = key("o", f"one{count}")
    current = versions.current(tx, where)
    assert current is not None
    assert versions.by_id(tx, where, current.version_id) == current


def remove_from_the_newest_on(tx: Any, count: int) -> None:
    """Remove what stands of a key, as who empties a bucket by what a listing shows."""
    where = key("o", f"one{count}")
    for version in versions.everything(tx, where):
        found = versions.by_id(tx, where, version.version_id)
        assert found is not None
        assert found.current
        versions.remove(tx, found, 1)
    assert versions.current(tx, where) is None


BOUNDED: dict[str, Callable[[Any, int], object]] = {
    "a page of keys that hold nothing": lambda tx, count: page(tx, f"keys{count}"),
    "a page of one key": lambda tx, count: page(tx, f"one{count}", "o"),
    "a view of the buckets": lambda tx, _: buckets._Census().go_on(tx),
    "a look for what retention removes": lambda tx, count: retention.candidates(
        tx, Stretch(f"keys{count}", b"", None, Rule(keep_noncurrent=0)), b"", 1
    ),
    "an object by its id": by_id,
    "a marker by its id, below an object": marker_by_id,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_was_removed_costs_no_more_than_a_stretch(full: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STRETCH_ROWS", 100)
    with cut(100, [True]):
        few, many = costs(full, BOUNDED[name])
    assert many <= few * 1.1 + 5


LINEAR: dict[str, Callable[[Any, int], object]] = {
    "everything of a key": lambda tx, count: versions.everything(tx, key("o", f"one{count}")),
    "a whole page of a key": lambda tx, count: page(tx, f"one{count}", "o"),
    "a whole page of a key that ends in a marker": lambda tx, count: page(tx, f"one{count}", "m"),
    "removing from the newest on": remove_from_the_newest_on,
}


@pytest.mark.parametrize("name", LINEAR)
def test_each_removed_row_is_walked_a_few_times_only(full: Store, name: str) -> None:
    """And not for each version that stands below."""
    few, many = costs(full, LINEAR[name])
    assert (many - few) * 10 / (MANY - FEW) < STAND


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """For each of two numbers a key `below` in the bucket `oneN` with so many versions below a delete marker."""
    with Store.open(tmp_path_factory.mktemp("deep") / "store") as store:
        with store._database.write() as tx:
            blob_rows.keep(tx, DIGEST, 1, b"")
            for count in (FEW, MANY):
                for _ in range(count):
                    append(tx, key("below", f"one{count}"))
                append(tx, key("below", f"one{count}"), None)
        yield store


@pytest.mark.parametrize("held", [False, True])
def test_judging_a_key_does_not_walk_what_goes_of_it(deep: Store, held: bool) -> None:
    """Else the removal of many versions takes the square of their number."""
    rule = Rule(keep_noncurrent=0, drop_markers=True)
    found = []
    for count in (FEW, MANY):
        with suppress(Undone), deep._database.write() as tx:
            if held:
                holds.place(tx, f"one{count}", "another", "its version", 1)
            (candidate,), _ = retention.candidates(tx, Stretch(f"one{count}", b"", None, rule), b"", 1)
            verdicts: list[retention.Verdict] = []
            found.append(cost(tx, lambda: verdicts.append(retention.judge(tx, candidate, rule, 1))))  # noqa: B023
            assert [verdict.bound for verdict in verdicts] == [retention.ALL_OF_THEM]
            raise Undone
    few, many = found
    assert many <= few * 1.1 + 5


def test_a_held_object_among_many_keeps_the_markers(deep: Store) -> None:
    rule, home = Rule(keep_noncurrent=0, drop_markers=True), f"one{MANY}"
    with suppress(Undone), deep._database.write() as tx:
        oldest = versions.everything(tx, key("below", home))[-1]
        holds.place(tx, home, "below", oldest.version_id, 1)
        (candidate,), _ = retention.candidates(tx, Stretch(home, b"", None, rule), b"", 1)
        assert retention.judge(tx, candidate, rule, 1).bound != retention.ALL_OF_THEM
        raise Undone


COUNTING: dict[str, Callable[[Any, Any], tuple[object, Any]]] = {
    "usage": lambda tx, after: buckets.totals(tx, "keys", b"", None, after),
    "a quota": lambda tx, after: quotas.count_then(tx, "keys", b"", 1 << 40, after),
}


@pytest.mark.parametrize("what", COUNTING)
def test_each_stretch_of_a_bucket_is_counted_at_the_same_cost(
    deep: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """And does not step over those before it again."""
    monkeypatch.setattr(buckets, "STRETCH", 50)
    monkeypatch.setattr(quotas, "STRETCH_ROWS", 50)
    with suppress(Undone), deep._database.write() as tx:
        for number in range(MANY):
            append(tx, key(f"{number:05}", "keys"))
        found: list[int] = []
        places: list[Any] = [None]
        while places[-1] is not None or not found:
            found.append(cost(tx, lambda: places.append(COUNTING[what](tx, places[-1])[1])))
        raise Undone
    assert len(found) >= MANY // 50
    assert max(found) <= min(found[:-1]) * 1.2 + 5


def test_undeleting_does_not_read_what_lies_below(deep: Store) -> None:
    few, many = costs(deep, lambda tx, count: deep._changes.undelete(tx, key("below", f"one{count}")))
    assert many <= few * 1.1 + 5


def test_pages_of_one_key_do_not_walk_again_what_was_walked(full: Store) -> None:
    """The token says that nothing stands above: the page that meets the marker need not look."""
    costs_of_pages: list[int] = []
    shown_all: list[ObjectVersion] = []
    token = ""
    with cut(100, [True]), full._database.read() as tx:
        while token or not costs_of_pages:
            got: list[VersionPage] = []
            asked = partial(page, tx, f"one{MANY}", "m", token)
            costs_of_pages.append(cost(tx, lambda asked=asked, got=got: got.append(asked())))  # type: ignore[misc]
            token = got[0].token
            shown_all += got[0].versions
    assert [version.current for version in shown_all] == [True] + [False] * (STAND - 1)
    assert len(costs_of_pages) > MANY // 100
    empty = costs_of_pages[5]
    assert max(costs_of_pages) < empty * 3


# ---- who pages ----


@pytest.fixture
def cas(store: Store, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(store.directory, capfdbinary)


def removed_and_marked(store: Store, *names: str) -> None:
    """Of each key some versions that stand below some that were removed, and a delete marker as the newest."""
    for name in names:
        for number in range(4):
            made = put(store, name, b"%d" % number)
            if number > 1:
                store.delete(key(name), version_id=made.version_id)
        store.delete(key(name))
        for _ in range(2):
            store.delete(key(name), version_id=put(store, name, b"x").version_id)


def test_what_is_printed_does_not_depend_on_the_pages(store: Store, cas: Command) -> None:
    removed_and_marked(store, "k", "k/1", "k/2")
    store.delete(key("all gone"), version_id=put(store, "all gone", b"x").version_id)
    for words in (["versions", f"{BUCKET}/k"], ["versions", f"{BUCKET}/"], ["ls"], ["du"]):
        whole = cas(*words)
        with one_row_at_a_time():
            assert cas(*words) == whole
        assert (whole.code, bool(whole.out)) == (0, True)


def test_an_emptied_prefix_is_one_though_its_first_page_is_empty(store: Store, cas: Command, tmp_path: Path) -> None:
    """`sync --delete` from it empties the directory; from one that never was it does not."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("x")
    removed_and_marked(store, "p/k")
    with one_row_at_a_time():
        assert store.list_versions(ListQuery(BUCKET, "p/")).versions == ()
        assert cas("sync", f"{BUCKET}/q/", target, "--delete").code != 0
        assert (target / "file").exists()
        assert cas("sync", f"{BUCKET}/p/", target, "--delete").code == 0
    assert list(target.iterdir()) == []
