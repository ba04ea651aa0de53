"""As of an earlier moment: reads, listings, differences, against a model that remembers every state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gestalt_cas import ListQuery, Moment, ObjectKey, Store
from gestalt_cas.clock import instant
from gestalt_cas.errors import (
    BeforeHorizon,
    InvalidArgument,
    InvalidToken,
    NoSuchKey,
    NoSuchSnapshot,
    NotModified,
    VersionRemoved,
)
from gestalt_cas.objects import Conditions, ObjectVersion
from gestalt_cas.operations import pages
from gestalt_cas.rows import history, moments
from storage import BUCKET, body, change, key, put, rows

NAMES = ("a", "a/b", "a/c", "a\x00", "b", "ü/1", "ü/2", "\U0010ffff")
State = dict[str, ObjectVersion]


class Model:
    """A store beside what it held after each change."""

    def __init__(self, store: Store, bucket: str) -> None:
        self.store, self.bucket = store, bucket
        self.versions: list[ObjectVersion] = []
        self.states: dict[int, State] = {}
        self.shown: list[State] = []
        self.remember()

    def remember(self) -> None:
        self.states[self.store.moment().seq] = self.listed()

    def listed(self) -> State:
        page = self.store.list_page(ListQuery(self.bucket))
        assert not page.token
        return {version.key.key: version for version in page.objects}

    def put(self, name: str, data: bytes) -> None:
        self.versions.append(self.store.write(ObjectKey(self.bucket, name), [data]))
        self.remember()

    def delete(self, name: str) -> None:
        marker = self.store.delete(ObjectKey(self.bucket, name))
        assert marker is not None
        self.versions.append(marker)
        self.remember()

    def remove(self, number: int) -> None:
        if self.versions:
            version = self.versions.pop(number % len(self.versions))
            self.store.delete(version.key, version_id=version.version_id)
            self.remember()

    def snapshot(self) -> None:
        self.store.create_snapshot(f"s-{self.bucket}-{len(self.shown)}", self.bucket)
        self.shown.append(self.listed())

    def kept(self, version: ObjectVersion) -> bool:
        """Whether it still has its payload: it stands, or a snapshot shows it."""
        standing = self.store.list_versions(ListQuery(self.bucket)).versions
        return any(one.seq == version.seq for one in chain(standing, *(shown.values() for shown in self.shown)))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from((b"", b"1", b"22"))),
        st.tuples(st.just("delete"), st.sampled_from(NAMES)),
        st.tuples(st.just("remove"), st.integers(0, 20)),
        st.tuples(st.just("versioning"), st.sampled_from(("enabled", "suspended"))),
        st.tuples(st.just("snapshot")),
    ),
    max_size=14,
)


@pytest.fixture(name="shared", scope="module")
def shared_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("past"), settings={"blobs.inlineMaxBytes": 1}) as store:
        yield store


def played(store: Store, steps: list[tuple[object, ...]], bucket: str) -> Model:
    model = Model(store, bucket)
    for name, *given_ in steps:
        if name == "versioning":
            store.change_settings({"versioning": given_[0]})
        else:
            getattr(model, str(name))(*given_)
    return model


_COUNT = iter(range(1 << 30))


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, limit=st.integers(1, 4), delimiter=st.sampled_from(("", "/")))
def test_every_moment_is_as_it_was(shared: Store, steps: list[tuple[object, ...]], limit: int, delimiter: str) -> None:
    model = played(shared, steps, f"b{next(_COUNT)}")
    for seq, state in model.states.items():
        query = ListQuery(model.bucket, delimiter=delimiter, max_keys=limit)
        shown, prefixes = [], []
        while True:
            page = shared.list_page(query, as_of=str(seq))
            shown += page.objects
            prefixes += page.common_prefixes
            if not page.token:
                break
            query = replace(query, token=page.token)
        top = {name: version for name, version in state.items() if not delimiter or "/" not in name}
        assert [(one.key.key, one.seq, one.size) for one in shown] == [
            (name, top[name].seq, top[name].size) for name in sorted(top, key=str.encode)
        ]
        assert prefixes == sorted({name.split("/")[0] + "/" for name in state.keys() - top.keys()}, key=str.encode)
        for one in shown:
            assert one.removed is not model.kept(one)
        for name in NAMES:
            check_read(model, seq, name, state.get(name))


def check_read(model: Model, seq: int, name: str, expected: ObjectVersion | None) -> None:
    where = ObjectKey(model.bucket, name)
    if expected is None:
        with pytest.raises(NoSuchKey) as caught:
            model.store.head(where, as_of=str(seq))
        assert not isinstance(caught.value, VersionRemoved)
    elif model.kept(expected):
        found = model.store.head(where, as_of=str(seq))
        assert (found.version_id, found.digest) == (expected.version_id, expected.digest)
    else:
        with pytest.raises(VersionRemoved, match="removed for good since"):
            model.store.read(where, as_of=str(seq))


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, data=st.data())
def test_differences_are_those_of_the_two_states(
    shared: Store, steps: list[tuple[object, ...]], data: st.DataObject
) -> None:
    model = played(shared, steps, f"b{next(_COUNT)}")
    since, until = (data.draw(st.sampled_from(sorted(model.states))) for _ in range(2))
    prefix = data.draw(st.sampled_from(("", "a", "a/", "ü")))
    expected = {}
    for name in NAMES:
        before, after = (model.states[seq].get(name) for seq in (since, until))
        if name.startswith(prefix) and (before and before.digest) != (after and after.digest):
            expected[name] = "added" if before is None else "deleted" if after is None else "changed"
    found = list(shared.diff(model.bucket, prefix, since=str(since), until=str(until)))
    assert {one.key.key: one.kind for one in found} == expected
    assert [one.key.key.encode() for one in found] == sorted(name.encode() for name in expected)


def test_headers_and_metadata_are_differences_and_a_changed_mind_is_none(store: Store) -> None:
    put(store, "k", b"same")
    put(store, "k", b"same", metadata={"a": "1"})
    put(store, "k", b"same")
    assert [one.kind for one in store.diff(BUCKET, since="1", until="2")] == ["changed"]
    assert list(store.diff(BUCKET, since="1")) == []


def test_snapshots_keep_what_is_removed_until_they_go(store: Store) -> None:
    first = put(store, "k", b"first")
    store.create_snapshot("one", BUCKET)
    second = put(store, "k", b"second")
    store.create_snapshot("two")
    put(store, "k", b"third")
    for version in (first, second):
        store.delete(key("k"), version_id=version.version_id)
    assert store.collect_garbage().files == 0
    assert [body(store, "k", as_of=name) for name in ("one", "two", "")] == [b"first", b"second", b"third"]
    store.delete_snapshot("one")
    assert body(store, "k", as_of="two") == b"second"
    with pytest.raises(NoSuchSnapshot, match="no snapshot one"):
        store.head(key("k"), as_of="one")
    assert [one.name for one in store.snapshots()] == ["two"]


def test_a_moment_by_a_snapshot_is_lost_with_it(store: Store) -> None:
    put(store, "k", b"1")
    store.create_snapshot("s", BUCKET, "k")
    moment = store.moment("s", BUCKET, "k")
    assert (moment, str(moment)) == (Moment(1, "s"), "snapshot s (sequence 1)")
    assert store.head(key("k"), as_of=moment).seq == 1
    with pytest.raises(InvalidArgument, match=r"^the snapshot s is of bucket/k only$"):
        store.head(key("other"), as_of=moment)
    store.delete_snapshot("s")
    with pytest.raises(NoSuchSnapshot, match="any more"):
        store.head(key("k"), as_of=moment)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def test_a_time_is_the_last_change_not_after_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    start = at("2026-11-25T10:00:00+00:00")
    for number in range(12):
        monkeypatch.setattr("gestalt_cas.operations.changes.now_ms", lambda now=start + number // 2 * 1000: now)
        if number % 3 == 2:
            store.delete(
                key("k"), version_id=rows(store, "SELECT max(version_id) FROM versions WHERE gone_seq IS NULL")[0][0]
            )
        else:
            put(store, "k", b"%d" % number)
    for second in range(-1, 8):
        expected = max(0, min(12, second * 2 + 2))
        when = instant(start + second * 1000)
        assert store.moment(when).seq == expected
        assert store.moment(when.replace("Z", "+00:00")).seq == expected
        assert store.moment(instant(start + second * 1000 + 999)).seq == expected
    assert store.moment("2026-11-25").seq == 0
    assert store.moment("2026-11-26").seq == 12
    assert store.moment("2026-11-25T11:00:01+01:00").seq == 4


@pytest.mark.parametrize(("text", "back"), [("90s", 90), ("3m", 180), ("2h", 7200), ("2d", 172800), ("1w", 604800)])
def test_so_long_ago(store: Store, monkeypatch: pytest.MonkeyPatch, text: str, back: int) -> None:
    put(store, "k", b"1")
    ((made,),) = rows(store, "SELECT commit_ms FROM counter")
    for early, expected in ((1, 0), (0, 1)):
        monkeypatch.setattr(moments, "now_ms", lambda early=early: made + back * 1000 - early)
        assert store.moment(text).seq == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2", "sequence 2 has not been yet; the last change has 1"),
        ("9" * 40, "has not been yet"),
        ("2026-13-01", "is neither a sequence, nor a time"),
        ("-1", "is neither"),
        ("1x", "is neither"),
        ("٣", "is neither"),
    ],
)
def test_what_names_no_moment(store: Store, text: str, problem: str) -> None:
    put(store, "k", b"1")
    with pytest.raises(InvalidArgument, match=problem):
        store.moment(text)


def test_before_the_horizon_nothing_is_answered_but_snapshots(store: Store) -> None:
    put(store, "k", b"1")
    store.create_snapshot("old", BUCKET)
    put(store, "k", b"2")
    put(store, "k", b"3")
    change(store, "INSERT INTO horizons (bucket, seq, ms) VALUES (?, 2, ?)", BUCKET, at("2026-11-25T10:00:00+00:00"))
    calls: list[Callable[[], object]] = [
        lambda: store.head(key("k"), as_of="1"),
        lambda: store.read(key("k"), as_of="1"),
        lambda: store.list_page(ListQuery(BUCKET), as_of="1"),
        lambda: store.diff(BUCKET, since="1"),
        lambda: store.moment("1", BUCKET),
    ]
    for call in calls:
        with pytest.raises(BeforeHorizon, match=r"complete only from sequence 2 \(2026-11-25T10:00:00.000Z\)"):
            call()
    assert body(store, "k", as_of="old") == b"1"
    assert [one.kind for one in store.diff(BUCKET, since="old")] == ["changed"]
    assert store.moment("1", "another").seq == 1
    assert store.stats().horizons == {BUCKET: history.Horizon(2, at("2026-11-25T10:00:00+00:00"))}
    # Of a change whose row is gone the time is known by the horizon.
    assert store.moment("2026-11-25T12:00:00Z").seq == 2


def test_a_version_and_a_moment_are_two_things(store: Store) -> None:
    made = put(store, "k", b"1")
    for call in (store.head, store.read):
        with pytest.raises(InvalidArgument, match="name two things"):
            call(key("k"), version_id=made.version_id, as_of="1")


def test_conditions_are_judged_on_the_version_of_then(store: Store) -> None:
    made = put(store, "k", b"1")
    put(store, "k", b"2")
    with pytest.raises(NotModified):
        store.head(key("k"), as_of="1", conditions=Conditions(if_none_match=made.etag))


def test_a_token_is_for_its_moment(store: Store) -> None:
    for number in range(4):
        put(store, f"{number}", b"1")
    token = store.list_page(ListQuery(BUCKET, max_keys=1), as_of="3").token
    assert token
    with pytest.raises(InvalidToken, match="moment"):
        store.list_page(ListQuery(BUCKET, token=token), as_of="4")
    with pytest.raises(InvalidToken):
        store.list_page(ListQuery(BUCKET, token=token))
    rest = store.list_page(ListQuery(BUCKET, token=token), as_of="3")
    assert [version.key.key for version in rest.objects] == ["1", "2"]


@pytest.mark.parametrize("delimiter", ["", "/"])
def test_a_page_ends_early_when_the_time_is_over(store: Store, monkeypatch: pytest.MonkeyPatch, delimiter: str) -> None:
    """Even when no time at all is left every page walks on, and together they show everything once."""
    for number in range(0, 60, 10):
        put(store, f"{number:02d}/x", b"1")
        put(store, f"{number:02d}/y", b"1")
        put(store, f"{number:02d}", b"1")
    seq = store.moment().seq
    for number in range(60):
        put(store, f"{number:02d}/later", b"1")
        put(store, f"{number:02d}.later", b"1")
    monkeypatch.setattr(pages, "WALK_SECONDS", -1.0)
    query = ListQuery(BUCKET, delimiter=delimiter, max_keys=3)
    shown: list[str] = []
    empty = count = 0
    while True:
        page = store.list_page(query, as_of=str(seq))
        shown += [version.key.key for version in page.objects]
        shown += page.common_prefixes
        empty += not (page.objects or page.common_prefixes)
        count += 1
        if not page.token:
            break
        query = replace(query, token=page.token)
    tens = [f"{number:02d}" for number in range(0, 60, 10)]
    below = [f"{ten}/" for ten in tens] if delimiter else [f"{ten}/{name}" for ten in tens for name in "xy"]
    assert sorted(shown) == sorted([*tens, *below])
    assert len(shown) == len(set(shown))
    assert empty
    assert count < 150


def test_buckets_that_hold_nothing_any_more_are_in_the_history(store: Store) -> None:
    made = put(store, "k", b"1")
    store.delete(key("k"), version_id=made.version_id)
    assert (store.buckets(), store.buckets_ever()) == ([], [BUCKET])


def test_snapshots_are_of_the_store_a_bucket_or_a_prefix(store: Store) -> None:
    put(store, "k", b"1")
    for name, scope, where in (("a", (), "the whole store"), ("b", ("x",), "x"), ("c", ("x", "y/"), "x/y/")):
        assert store.create_snapshot(name, *scope).where == where
    assert [(one.name, one.seq) for one in store.snapshots()] == [("a", 1), ("b", 1), ("c", 1)]
    assert store.stats().snapshots == 3


@pytest.mark.parametrize("name", ["", "1a", "-a", "a b", "a/b", "a" * 129, "ä", "a\n"])
def test_names_that_no_snapshot_can_have(store: Store, name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot name a snapshot"):
        store.create_snapshot(name)


def test_a_snapshot_needs_a_bucket_for_its_prefix_and_a_free_name(store: Store) -> None:
    with pytest.raises(InvalidArgument, match="the prefix 'p' needs the name of its bucket"):
        store.create_snapshot("s", "", "p")
    store.create_snapshot("s")
    with pytest.raises(Exception, match="there is a snapshot s already"):
        store.create_snapshot("s")
    for name in ("t", "t\udcff"):
        with pytest.raises(NoSuchSnapshot, match="there is no snapshot t"):
            store.delete_snapshot(name)
        with pytest.raises(NoSuchSnapshot, match="there is no snapshot t"):
            store.moment(name)


def test_the_past_of_a_restarted_store(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        put(store, "k", b"1")
        put(store, "k", b"2")
    with Store.open(tmp_path / "s") as store:
        assert body(store, "k", as_of="1") == b"1"
        soon = datetime.now(UTC) + timedelta(seconds=5)
        assert body(store, "k", as_of=soon.isoformat()) == b"2"


def test_a_version_that_was_removed_since_is_told_as_that(tmp_path: Path) -> None:
    with Store.open(tmp_path / "data") as store:
        version = put(store, "k", b"what it was")
        moment = store.moment()
        store.delete(version.key, version_id=version.version_id)
        for look in (store.head, store.read):
            with pytest.raises(VersionRemoved, match=f"{version.version_id} was removed for good since"):
                look(version.key, as_of=moment)
