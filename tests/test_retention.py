"""Retention: which versions go by which rule, that nothing else does, what that frees, and that it disturbs nobody."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clocks import DAY, Clock, clock_fixture, set_clock, store_fixture  # noqa: F401
from command_line import Command, command_in
from gestalt_cas import ObjectKey, Store, retention, retention_previews, retention_runs
from gestalt_cas.database import Database
from gestalt_cas.errors import (
    BeforeHorizon,
    Cancelled,
    ClockSuspect,
    Held,
    InvalidArgument,
    InvalidConfig,
    NoSuchVersion,
)
from gestalt_cas.objects import ListQuery, ObjectVersion
from gestalt_cas.retention_previews import Foreseen, Going
from gestalt_cas.retention_runs import Applied
from storage import Child, body, full_at_every_other_commit, history, key, on_a_small_disk, put, rows

RULES = retention.SETTING


def rule(store: Store, rules: Mapping[str, object]) -> None:
    store.change_settings({RULES: rules})


def apply(store: Store, *where: str) -> Applied:
    """What a run removes at a time that somebody has accepted."""
    store.accept_clock()
    return store.apply_retention(*where)


def left(store: Store, name: str = "k") -> list[str]:
    """The versions that stand, the oldest first, by their first byte; markers are `-`."""
    found = history(store, name)[::-1]
    return ["-" if one.delete_marker else body(store, name, version_id=one.version_id).decode()[:1] for one in found]


def letters(store: Store, text: str, clock: Clock | None = None, days: float = 1, name: str = "k") -> None:
    """A version for each letter, a delete marker for `-`, each so many days after the one before."""
    for letter in text:
        if letter == "-":
            store.delete(key(name))
        else:
            put(store, name, letter.encode())
        if clock is not None:
            clock.advance(days)


# ---- the terms ----


@pytest.mark.parametrize(
    ("terms", "stay"),
    [
        ({}, "abcdef"),
        ({"keepNoncurrent": 0}, "f"),
        ({"keepNoncurrent": 2}, "def"),
        ({"keepNoncurrent": 5}, "abcdef"),
        ({"keepNoncurrent": 1_000_000}, "abcdef"),
        # Six days: each is a day younger than the one before; `e` is noncurrent since the fifth day began, a day ago.
        ({"keepDays": 0}, "f"),
        ({"keepDays": 1}, "ef"),
        ({"keepDays": 3}, "cdef"),
        ({"keepDays": 5}, "abcdef"),
        # Both bounds have to be passed.
        ({"keepNoncurrent": 1, "keepDays": 3}, "cdef"),
        ({"keepNoncurrent": 4, "keepDays": 1}, "bcdef"),
        ({"keepNoncurrent": 0, "keepDays": 36_500}, "abcdef"),
        ({"dropMarkers": True}, "abcdef"),
    ],
)
def test_noncurrent_versions_go_when_they_pass_every_bound(
    store: Store, clock: Clock, terms: dict[str, object], stay: str
) -> None:
    letters(store, "abcdef", clock)
    rule(store, {"bucket": terms})
    foreseen = store.preview_retention()
    applied = apply(store)
    assert "".join(left(store)) == stay
    assert (applied.versions, applied.bytes, applied.markers) == (6 - len(stay), 6 - len(stay), 0)
    assert (foreseen.versions, foreseen.freed_bytes) == (6 - len(stay), 6 - len(stay))
    assert apply(store) == Applied()


def test_a_day_is_a_day_to_the_millisecond(store: Store, clock: Clock) -> None:
    put(store, "k", b"a")
    clock.advance(100)  # what counts is not a version's own age
    put(store, "k", b"b")
    rule(store, {"bucket": {"keepDays": 2}})
    clock.advance(2)
    assert apply(store) == Applied()
    clock.now += 1
    assert apply(store) == Applied(versions=1, bytes=1)


def test_a_version_is_noncurrent_since_the_one_that_follows_it_now(store: Store, clock: Clock) -> None:
    """Removing a version in between only makes it longer: for a while the older one may have been current again."""
    put(store, "k", b"a")
    between = put(store, "k", b"b")
    clock.advance(5)
    store.delete(key("k"), version_id=between.version_id)
    put(store, "k", b"c")
    clock.advance(1)
    rule(store, {"bucket": {"keepDays": 2}})
    assert apply(store) == Applied()
    clock.advance(1.5)
    assert apply(store).versions == 1


def test_markers_count_as_versions(store: Store, clock: Clock) -> None:
    letters(store, "a-b-c-", clock)
    rule(store, {"bucket": {"keepNoncurrent": 2}})
    assert apply(store) == Applied(versions=2, markers=1, bytes=2)
    assert left(store) == ["-", "c", "-"]


@pytest.mark.parametrize(
    ("text", "terms", "stay"),
    [
        ("a-", {"dropMarkers": True}, "a-"),
        ("-", {"dropMarkers": True}, ""),
        ("---", {"dropMarkers": True}, ""),
        ("-a", {"dropMarkers": True}, "-a"),
        ("-", {"dropMarkers": False}, "-"),
        ("-", {"keepNoncurrent": 0}, "-"),
        ("ab-", {"keepNoncurrent": 0, "dropMarkers": True}, ""),
        ("ab--", {"keepNoncurrent": 1, "dropMarkers": True}, ""),  # only a marker stays of the noncurrent ones
        ("ab--", {"keepNoncurrent": 2, "dropMarkers": True}, "b--"),
        ("ab--", {"keepNoncurrent": 0, "keepDays": 2, "dropMarkers": True}, "b--"),
    ],
)
def test_markers_that_hide_nothing_go(
    store: Store, clock: Clock, text: str, terms: dict[str, object], stay: str
) -> None:
    letters(store, text, clock)
    rule(store, {"bucket": terms})
    going: list[Going] = []
    store.preview_retention(each=going.append)
    apply(store)
    assert left(store) == list(stay)
    assert len(going) == len(text) - len(stay)
    reasons = ["marker" if one.version.delete_marker and not stay else "noncurrent" for one in going]
    assert [one.reason for one in going] == reasons
    if not stay:
        assert rows(store, "SELECT * FROM current") == []


def test_a_current_object_expires(store: Store, clock: Clock) -> None:
    put(store, "k", b"a")
    letters(store, "b-", name="deleted")
    clock.advance(3)
    put(store, "young", b"y")
    rule(store, {"bucket": {"expireDays": 3}})
    assert apply(store) == Applied()
    clock.now += 1
    going: list[Going] = []
    foreseen = store.preview_retention(each=going.append)
    assert (foreseen.expired, foreseen.versions, foreseen.freed_bytes) == (1, 0, 0)
    assert [(one.version.key.key, one.reason) for one in going] == [("k", "expired")]
    assert apply(store) == Applied(expired=1)
    assert left(store) == ["a", "-"]
    assert left(store, "young") == ["y"]
    assert left(store, "deleted") == ["b", "-"]
    (marker, *_) = history(store, "k")
    assert marker.modified_ms == clock.now
    assert apply(store) == Applied()


def test_what_expires_becomes_noncurrent_with_that(store: Store, clock: Clock) -> None:
    letters(store, "ab")
    clock.advance(10)
    rule(store, {"bucket": {"expireDays": 5, "keepNoncurrent": 0, "dropMarkers": True}})
    assert apply(store) == Applied(versions=1, bytes=1, expired=1)
    assert left(store) == ["b", "-"]
    assert apply(store) == Applied(versions=1, markers=1, bytes=1)
    assert left(store) == []


def test_the_marker_of_a_suspended_bucket_replaces_the_null_version(store: Store, clock: Clock) -> None:
    letters(store, "ab")
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    put(store, "second", b"null as well")
    store.change_settings({"versioning": "enabled"})
    put(store, "second", b"current")
    store.change_settings({"versioning": "suspended"})
    clock.advance(2)
    rule(store, {"bucket": {"expireDays": 1}})
    going: list[Going] = []
    foreseen = store.preview_retention(each=going.append)
    assert [(one.version.size, one.reason) for one in going] == [
        (4, "expired"), (4, "replaced"), (7, "expired"), (12, "replaced"),
    ]  # fmt: skip
    assert (foreseen.versions, foreseen.bytes, foreseen.freed_bytes) == (2, 16, 16)
    assert apply(store) == Applied(versions=2, bytes=16, expired=2)
    assert left(store) == ["a", "b", "-"]
    assert left(store, "second") == ["c", "-"]
    assert store.collect_garbage().bytes == 16


def test_a_null_version_that_goes_by_another_term_is_not_counted_twice(store: Store, clock: Clock) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    store.change_settings({"versioning": "enabled"})
    put(store, "k", b"b")
    store.change_settings({"versioning": "suspended"})
    clock.advance(2)
    rule(store, {"bucket": {"expireDays": 1, "keepNoncurrent": 0}})
    assert store.preview_retention().versions == 1
    assert apply(store) == Applied(versions=1, bytes=4, expired=1)
    assert left(store) == ["b", "-"]


# ---- rules ----


def test_the_longest_prefix_counts_alone(store: Store) -> None:
    names = ["a", "logs", "logs/", "logs/keep/", "logs/keep/x", "logs/x", "logs0", "z"]
    for name in names:
        letters(store, "ab", name=name)
        store.write(ObjectKey("other", name), [b"1"])
        store.write(ObjectKey("other", name), [b"2"])
    rule(store, {"bucket/logs/": {"keepNoncurrent": 0}, "bucket/logs/keep/": {}, "other": {"keepDays": 1}})
    assert apply(store).versions == 2
    assert [name for name in names if left(store, name)[0] == "a"] == [
        "a", "logs", "logs/keep/", "logs/keep/x", "logs0", "z",
    ]  # fmt: skip
    rule(store, {"bucket/logs/": {}, "bucket": {"keepNoncurrent": 0}})
    assert apply(store).versions == 4
    assert len(left(store, "logs/keep/x")) == 2
    assert len(rows(store, "SELECT 1 FROM versions WHERE bucket = 'other' AND gone_seq IS NULL")) == 2 * len(names)


_BYTES = st.text(st.sampled_from("ab/\U0010ffff"), max_size=4)


@given(st.dictionaries(_BYTES, st.integers(0, 9) | st.none(), max_size=6), _BYTES, st.lists(_BYTES, min_size=8))
def test_stretches_cover_each_key_with_its_rule_and_nothing_twice(
    starts: dict[str, int | None], within: str, names: list[str]
) -> None:
    rules = {f"b/{start}": {} if keep is None else {"keepNoncurrent": keep} for start, keep in starts.items()}
    rules["c"] = {"keepDays": 1}
    found = retention.stretches(rules, "b", within.encode())
    for one, other in pairwise(found):
        assert one.upper is not None
        assert one.lower < one.upper <= other.lower
    for name in names:
        fits = [start for start in starts if name.startswith(start)]
        wanted = starts[max(fits, key=len)] if fits and name.startswith(within) else None
        inside = [
            one for one in found if one.lower <= name.encode() and (one.upper is None or name.encode() < one.upper)
        ]
        assert [one.rule.keep_noncurrent for one in inside] == ([] if wanted is None else [wanted])
    everywhere = retention.stretches(rules)
    assert everywhere[-1].bucket == "c"
    if not within:
        assert everywhere[:-1] == found


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        (5, "retention.rules: 5 is not an object"),
        ({"": {}}, "retention.rules: '' names no bucket"),
        ({"a": 5}, "retention.rules.a: 5 is not an object with any of keepNoncurrent, keepDays"),
        ({"a": {"keepdays": 5}}, "retention.rules.a: 'keepdays' is no term of a rule; they are keepNoncurrent,"),
        ({"a": {"keepDays": -1}}, "retention.rules.a.keepDays: -1 is not a whole number of days from 0 to 36500"),
        ({"a": {"keepDays": 1.5}}, "retention.rules.a.keepDays: 1.5 is not a whole number of days"),
        ({"a": {"keepDays": True}}, "retention.rules.a.keepDays: True is not a whole number of days"),
        ({"a": {"keepNoncurrent": "3"}}, "retention.rules.a.keepNoncurrent: '3' is not a whole number of versions"),
        ({"a/b": {"expireDays": 0}}, "retention.rules.a/b.expireDays: 0 is not a whole number of days from 1"),
        ({"a": {"dropMarkers": "yes"}}, "retention.rules.a.dropMarkers: 'yes' is neither true nor false"),
        ({"a": {}, "a/": {}}, "retention.rules: a is there twice"),
    ],
)
def test_what_can_be_no_rule_is_refused(store: Store, rules: Any, complaint: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        rule(store, rules)
    assert str(caught.value).startswith(complaint)
    assert store.settings().retention == {}


def test_rules_are_kept_as_they_mean(store: Store) -> None:
    rule(store, {"a/": {"dropMarkers": False, "keepDays": 1, "expireDays": None}, "b/c/d": {}})
    assert store.settings().retention == {"a": {"keepDays": 1, "dropMarkers": False}, "b/c/d": {}}


def test_a_rule_of_a_later_release_removes_nothing(store: Store) -> None:
    """It may mean more than this one understands, an exception perhaps."""
    letters(store, "ab")
    store.note(RULES, {"bucket": {"keepNoncurrent": 0, "unless": "tagged"}})
    with pytest.raises(InvalidConfig, match="'unless' is no term of a rule"):
        store.apply_retention()
    assert left(store) == ["a", "b"]


def test_within_a_bucket_or_prefix(store: Store) -> None:
    store.change_settings({"bucket": "bucket"})
    rule(store, {"bucket": {"keepNoncurrent": 0}, "other": {"keepNoncurrent": 0}})
    for name in ("a", "b", "ba", "c"):
        letters(store, "xy", name=name)
        store.write(ObjectKey("other", name), [b"1"])
        store.write(ObjectKey("other", name), [b"2"])
    assert store.preview_retention("", "b").versions == 2
    assert apply(store, "bucket", "b").versions == 2
    assert [len(left(store, name)) for name in ("a", "b", "ba", "c")] == [2, 1, 1, 2]
    assert apply(store, "").versions == 2
    assert apply(store, "no such").versions == 0
    assert store.recall(retention_runs.NOTE) is None  # none of them was a whole run
    assert apply(store).versions == 4
    for bad in (("a/b", ""), ("b", "x" * 2049)):
        with pytest.raises(InvalidArgument):
            store.preview_retention(*bad)
        with pytest.raises(InvalidArgument):
            store.apply_retention(*bad)


# ---- bytes ----


def test_a_payload_counts_when_everything_that_has_it_goes(store: Store) -> None:
    put(store, "a", b"shared by two that go")
    put(store, "b", b"shared by two that go")
    put(store, "c", b"shared with one that stays")
    put(store, "kept", b"shared with one that stays")
    put(store, "d", b"of a snapshot")
    store.create_snapshot("then")
    put(store, "d", b"twice")
    put(store, "d", b"twice")
    for name in "abcd":
        put(store, name, b"new")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    going: list[Going] = []
    foreseen = store.preview_retention(each=going.append)
    # Of a, b, c and d only what the snapshot does not show could go; it shows all of these four.
    assert foreseen == Foreseen(6, 0, 21 + 21 + 26 + 13 + 5 + 5, 0, 0, 4, 1, 5)
    assert sum(one.kept for one in going) == 4
    store.delete_snapshot("then")
    foreseen = store.preview_retention()
    assert (foreseen.kept, foreseen.payloads, foreseen.freed_bytes) == (0, 3, 21 + 13 + 5)
    apply(store)
    assert (store.collect_garbage().files, store.collect_garbage().files) == (3, 0)


def test_what_a_deleted_snapshot_kept_is_freed_with_the_rest(store: Store) -> None:
    put(store, "a", b"data")
    store.create_snapshot("then")
    put(store, "a", b"new")
    put(store, "b", b"data")
    put(store, "b", b"new")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    assert store.preview_retention().freed_bytes == 0
    apply(store, "bucket", "a")
    assert store.collect_garbage().files == 0
    assert store.preview_retention().freed_bytes == 0
    store.delete_snapshot("then")
    assert store.preview_retention().freed_bytes == 4
    assert apply(store).versions == 1
    assert store.collect_garbage().bytes == 4


# ---- against a model, on random histories ----


@dataclass
class Kept:
    """A version as the model has it."""

    version: ObjectVersion
    follower_ms: int | None = None


def expected(
    found: list[ObjectVersion], terms: dict[str, Any], now_ms: int, *, suspended: bool, held: Collection[str] = ()
) -> dict[str, str]:
    """What goes of a key, by version id with the reason; `found` is its versions, the newest first."""
    gone: dict[str, str] = {}
    keep, days = terms.get("keepNoncurrent"), terms.get("keepDays")
    for rank, (newer, version) in enumerate(pairwise(found)):
        by_count = keep is not None and rank >= keep
        by_age = days is not None and (now_ms - newer.modified_ms) > days * DAY
        if (by_count or keep is None) and (by_age or days is None) and (keep is not None or days is not None):
            gone[version.version_id] = "noncurrent"
    for version_id in held:
        gone.pop(version_id, None)
    stay = [version for version in found if version.version_id not in gone]
    if terms.get("dropMarkers") and stay and all(version.delete_marker for version in stay):
        gone |= {version.version_id: "marker" for version in found if version.delete_marker}
        gone |= {version.version_id: "noncurrent" for version in found if not version.delete_marker}
    expire, newest = terms.get("expireDays"), found[0]
    if expire is not None and not newest.delete_marker and now_ms - newest.modified_ms > expire * DAY:
        for version in stay:
            if suspended and version.version_id == "null" and "null" not in held:
                gone["null"] = "replaced"
    return gone


TERMS = st.fixed_dictionaries(
    {},
    optional={
        "keepNoncurrent": st.integers(0, 3),
        "keepDays": st.integers(0, 4),
        "dropMarkers": st.booleans(),
        "expireDays": st.integers(1, 4),
    },
)
KEYS = ["a", "a/b", "a/c", "b"]
STEP = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 5)),
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 5)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("remove"), st.sampled_from(KEYS), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 2.0])),
    st.tuples(st.just("versioning"), st.sampled_from(["enabled", "suspended"])),
    st.tuples(st.just("snapshot"), st.sampled_from(["", "bucket", "bucket/a/"])),
    st.tuples(st.just("forget")),
    st.tuples(st.just("hold"), st.sampled_from(KEYS), st.integers(0, 4)),
)
BODIES = [b"", b"s", b"small", b"m" * 700, b"n" * 700, b"l" * 5000]
"""The first three are rows of the database when `inline` is set."""


def play(store: Store, clock: Clock, steps: list[tuple[Any, ...]]) -> None:
    for number, step in enumerate(steps):
        with suppress(Held):
            play_one(store, clock, number, *step)


def play_one(store: Store, clock: Clock, number: int, what: str, *how: Any) -> None:
    if what == "put":
        put(store, how[0], BODIES[how[1]])
    elif what == "delete":
        store.delete(key(how[0]))
    elif what == "remove":
        found = everything(store).get(how[0], [])
        if found:
            store.delete(key(how[0]), version_id=found[how[1] % len(found)].version_id)
    elif what == "wait":
        clock.advance(how[0])
    elif what == "versioning":
        store.change_settings({"versioning": how[0]})
    elif what == "snapshot":
        bucket, _, prefix = how[0].partition("/")
        store.create_snapshot(f"s{number}", bucket, prefix)
    elif what == "hold":
        found = everything(store).get(how[0], [])
        if not how[1]:
            store.hold("bucket", how[0])
        elif found:
            with suppress(NoSuchVersion):  # a delete marker
                store.hold("bucket", how[0], version_id=found[how[1] % len(found)].version_id)
    elif store.snapshots():
        store.delete_snapshot(store.snapshots()[0].name)


def everything(store: Store) -> dict[str, list[ObjectVersion]]:
    """The versions that stand of each key, the newest first."""
    found: dict[str, list[ObjectVersion]] = {}
    for version in store.list_versions(ListQuery("bucket")).versions:
        found.setdefault(version.key.key, []).append(version)
    return found


def stored_bytes(store: Store) -> int:
    """What all payloads take, looked at from below."""
    files = sum(path.stat().st_size for path in (store.directory / "blobs").glob("*/*"))
    ((inlined,),) = rows(store, "SELECT coalesce(sum(length(data)), 0) FROM inlined")
    return files + int(inlined)


def seen(store: Store, as_of: str, prefix: str = "") -> list[tuple[str, str]]:
    return [(one.key.key, one.version_id) for one in store.list_page(ListQuery("bucket", prefix), as_of=as_of).objects]


def snapshots_served(store: Store) -> dict[str, list[tuple[str, bytes]]]:
    """Every byte that the snapshots show."""
    found = {}
    for snapshot in store.snapshots():
        names = [name for name, _ in seen(store, snapshot.name, snapshot.prefix)]
        found[snapshot.name] = [(name, body(store, name, as_of=snapshot.name)) for name in names]
    return found


SHARED = [("put", "a", 5), ("put", "a/b", 5), ("put", "a", 1), ("put", "a/b", 1), ("wait", 2.0)]


@settings(max_examples=50)
@example(SHARED, {"bucket": {"keepNoncurrent": 0}}, 30, 1, True)
@example([("snapshot", "bucket"), *SHARED, ("snapshot", ""), *SHARED], {"bucket": {"keepNoncurrent": 0}}, 1, 2, False)
@given(
    st.lists(STEP, max_size=40),
    st.dictionaries(st.sampled_from(["bucket", "bucket/a/", "bucket/a"]), TERMS, min_size=1, max_size=2),
    st.sampled_from([0, 1, 30]),
    st.sampled_from([1, 2, 5, 4000]),
    st.booleans(),
)
def test_what_goes_and_what_that_frees_on_random_histories(
    steps: list[tuple[Any, ...]], rules: dict[str, Any], keep_days: int, stretch: int, inline: bool
) -> None:
    """The model judges each key by itself, in plain words; bytes are counted on the disk."""
    with tempfile.TemporaryDirectory() as place, set_clock() as clock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "STRETCH_ROWS", stretch)
        patch.setattr(retention_runs, "FIRST_BATCH_ROWS", stretch)
        patch.setattr(retention_runs, "BATCH_ROWS", stretch)
        patch.setattr(retention_previews, "_AT_ONCE", stretch)
        inlined = {"blobs.inlineMaxBytes": 10 * inline}
        with Store.open(place, settings={**inlined, "history.keepDays": keep_days, RULES: rules}) as store:
            play(store, clock, steps)
            store.set_quota("bucket", "", 1 << 40)
            store.collect_garbage()
            before, served = stored_bytes(store), snapshots_served(store)
            ((last,),) = rows(store, "SELECT seq FROM counter")
            moments = {str(seq): seen(store, str(seq)) for seq in range(1, last + 1)}
            suspended = store.settings().suspended
            wanted: dict[tuple[str, str], str] = {}
            stay: dict[str, list[str]] = {}
            for name, found in everything(store).items():
                fits = [start for start in rules if f"bucket/{name}".startswith(start)]
                frozen = any(name.startswith(one.prefix) for one in store.holds() if not one.version_id)
                held = {one.version_id for one in store.holds() if one.version_id and one.prefix == name}
                terms = rules[max(fits, key=len)] if fits and not frozen else {}
                gone = expected(found, terms, clock.now, suspended=suspended, held=held)
                wanted |= {(name, version_id): reason for version_id, reason in gone.items()}
                stay[name] = [version.version_id for version in found if version.version_id not in gone]
            going: list[Going] = []
            foreseen = store.preview_retention(each=going.append)
            removed = {(g.version.key.key, g.version.version_id): g.reason for g in going if g.reason != "expired"}
            assert removed == wanted
            assert len(removed) == sum(one.reason != "expired" for one in going)

            applied = apply(store)
            assert applied == Applied(
                foreseen.versions, foreseen.markers, foreseen.bytes, foreseen.expired, foreseen.dropped
            )
            markers = {one.version.key.key for one in going if one.reason == "expired"}
            assert not suspended or not any(one.prefix in markers for one in store.holds() if one.version_id == "null")
            now = {name: [one.version_id for one in found] for name, found in everything(store).items()}
            for name, ids in stay.items():
                assert now.get(name, [])[name in markers :] == ids
                assert not now.get(name) or (now[name][0] not in ids) == (name in markers)
            store.collect_garbage()
            assert before - stored_bytes(store) == foreseen.freed_bytes
            assert snapshots_served(store) == served
            check_the_past(store, moments, last)
            report = store.check()
            assert (report.damage, report.faults) == (0, 0)
            assert store.quotas()[0].used_bytes == sum(v.size for found in everything(store).values() for v in found)


def check_the_past(store: Store, moments: dict[str, list[tuple[str, str]]], last: int) -> None:
    """From the horizon on every moment shows what it showed; before it none is answered."""
    found = rows(store, "SELECT seq FROM horizons WHERE bucket = 'bucket'")
    horizon = found[0][0] if found else 0
    for as_of, shown in moments.items():
        if int(as_of) >= horizon:
            assert seen(store, as_of) == shown
        else:
            with pytest.raises(BeforeHorizon):
                seen(store, as_of)


# ---- runs ----


def transactions(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[int]:
    """How many versions each transaction from now on removes."""
    found: list[int] = []
    real = Database._commit

    def commit(database: Database, connection: Any) -> None:
        before = connection.execute("SELECT count(*) FROM versions WHERE gone_seq IS NOT NULL").fetchone()[0]
        real(database, connection)
        found.append(before - sum(found))

    monkeypatch.setattr(Database, "_commit", commit)
    return found


@pytest.mark.parametrize("stretch", range(1, 9))
def test_keys_are_seen_whole_wherever_a_stretch_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(retention, "STRETCH_ROWS", stretch)
    for name, text in (("a", "1"), ("b", "123"), ("c", "12"), ("d", "1234"), ("e", "12")):
        letters(store, text, name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    assert store.preview_retention().versions == 7
    assert store.apply_retention().versions == 7
    assert [left(store, name) for name in "abcde"] == [["1"], ["3"], ["2"], ["4"], ["2"]]


def test_transactions_grow_while_they_are_quick(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction() as changes:
        for number in range(500):
            changes.put(key(f"k{number % 3}"), [b"%d" % number])
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    found = transactions(monkeypatch, store)
    told: list[tuple[str, int, int]] = []
    assert store.apply_retention(progress=lambda *what: told.append(what)).versions == 497
    sizes = [size for size in found if size]
    assert sizes == [16, 32, 64, 128, 200, 57]
    assert [done for what, done, _ in told if what == "removing versions"][-1] == 497


def test_transactions_shrink_when_they_take_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.transaction() as changes:
        for number in range(40):
            changes.put(key("k"), [b"%d" % number])
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    monkeypatch.setattr(retention_runs, "BATCH_SECONDS", -1.0)
    found = transactions(monkeypatch, store)
    assert store.apply_retention().versions == 39
    assert [size for size in found if size] == [16, 8, 4, 2, *[1] * 9]


def test_keys_that_need_judging_only_count_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found in the view may have gone by the time of the transaction, of every key."""
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 2)
    names = [f"k{number}" for number in range(5)]
    for name in names:
        letters(store, "ab", name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    judged: list[int] = []
    real_judge, real_commit = retention.judge, Database._commit

    def judge(*arguments: Any) -> Any:
        judged[-1] += 1
        return real_judge(*arguments)

    def commit(database: Database, connection: Any) -> None:
        real_commit(database, connection)
        judged.append(0)

    def remove_them(*_: object) -> None:
        if not judged:
            for name in names:
                store.delete(key(name), version_id=history(store, name)[1].version_id)
            judged.append(0)
            monkeypatch.setattr(Database, "_commit", commit)

    monkeypatch.setattr(retention, "judge", judge)
    assert store.apply_retention(progress=remove_them) == Applied()
    assert judged[:2] == [2, 3]


@pytest.mark.parametrize("terms", [{"keepNoncurrent": 1}, {"keepDays": 0, "dropMarkers": True}])
def test_a_key_is_judged_again_in_the_transaction(store: Store, clock: Clock, terms: dict[str, object]) -> None:
    """Between the look and the removal its newest versions are removed, so others have become the newest."""
    letters(store, "abcd", clock)
    first = True

    def meanwhile(*_: object) -> None:
        nonlocal first
        if first:
            for version in history(store, "k")[:2]:
                store.delete(key("k"), version_id=version.version_id)
        first = False

    rule(store, {"bucket": terms})
    store.accept_clock()
    applied = store.apply_retention(progress=meanwhile)
    stay = 2 if "keepNoncurrent" in terms else 1
    assert left(store) == ["a", "b"][-stay:]
    assert applied.versions == 2 - stay


def test_a_key_that_is_gone_by_then(store: Store, clock: Clock) -> None:
    letters(store, "abc", clock)
    letters(store, "---", clock, name="marked")
    put(store, "old", b"x")
    clock.advance(9)
    rule(store, {"bucket": {"keepDays": 1, "dropMarkers": True, "expireDays": 8}})
    gone = False

    def meanwhile(*_: object) -> None:
        nonlocal gone
        for name in () if gone else ("k", "old"):
            store.purge(key(name))
        if not gone:
            put(store, "marked", b"again")
        gone = True

    store.accept_clock()
    assert store.apply_retention(progress=meanwhile) == Applied(markers=2)
    assert left(store, "marked") == ["-", "a"]


def test_what_is_written_again_does_not_expire(store: Store, clock: Clock) -> None:
    put(store, "k", b"a")
    clock.advance(2)
    rule(store, {"bucket": {"expireDays": 1}})
    store.accept_clock()
    assert store.apply_retention(progress=lambda *_: put(store, "k", b"b") and None) == Applied()


def test_rules_that_change_count_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        letters(store, "123", name=name)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 1)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 1)
    seen_so_far: list[int] = []

    def relent(_what: str, done: int, _total: int) -> None:
        seen_so_far.append(done)
        if done == 1:
            rule(store, {"bucket": {"keepNoncurrent": 1}})

    assert store.apply_retention(progress=relent).versions == 3
    assert [left(store, name) for name in "abc"] == [["2", "3"]] * 3


def test_a_key_in_portions_expires_with_the_last(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 2)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 2)
    letters(store, "abcde")
    clock.advance(5)
    rule(store, {"bucket": {"keepNoncurrent": 0, "expireDays": 1}})
    assert apply(store) == Applied(versions=4, bytes=4, expired=1)
    assert left(store) == ["e", "-"]


@pytest.mark.parametrize("after", range(1, 7))
def test_it_stops_when_progress_raises_and_the_next_run_does_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(retention_runs, "FIRST_BATCH_ROWS", 1)
    monkeypatch.setattr(retention_runs, "BATCH_ROWS", 1)
    letters(store, "abc")
    letters(store, "d-e-", name="l")
    rule(store, {"bucket": {"keepNoncurrent": 0, "dropMarkers": True}})
    told: list[object] = []

    def stop(*what: object) -> None:
        told.append(what)
        if len(told) == after:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        store.apply_retention(progress=stop)
    standing = len(left(store)) + len(left(store, "l"))
    assert standing == max(7 - (after - 1), 1)
    assert store.recall(retention_runs.NOTE) is None
    assert store.apply_retention().markers <= 2
    assert (left(store), left(store, "l")) == (["c"], [])


def test_quotas_are_credited(store: Store) -> None:
    store.set_quota("bucket", "", 5)
    letters(store, "abcde")
    rule(store, {"bucket": {"keepNoncurrent": 1}})
    apply(store)
    assert store.quotas()[0].used_bytes == 2
    letters(store, "xyz")


def test_it_notes_down_what_it_did(store: Store, clock: Clock) -> None:
    letters(store, "ab-", clock)
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    store.preview_retention()
    assert store.recall(retention_runs.NOTE) is None
    apply(store)
    wanted = {"at_ms": clock.now, "result": "done", "versions": 2, "markers": 0, "bytes": 2, "expired": 0, "dropped": 0}
    assert store.recall(retention_runs.NOTE) == wanted
    assert store.stats().last_retention == wanted
    assert not apply(store).anything
    letters(store, "x")
    assert apply(store).anything


def test_a_clock_in_doubt_stops_it(store: Store, clock: Clock) -> None:
    letters(store, "ab")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    clock.advance(1.5)
    with pytest.raises(ClockSuspect, match=r"1\.5 days after the last commit"):
        store.apply_retention()
    assert left(store) == ["a", "b"]
    assert store.preview_retention().versions == 1
    assert apply(store).versions == 1


def test_the_reserve_is_spent_where_there_is_no_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    letters(store, "abc")
    rule(store, {"bucket": {"keepNoncurrent": 0}})
    store._reserve.make()
    tried = full_at_every_other_commit(monkeypatch)
    assert store.apply_retention() == Applied(versions=2, bytes=2)
    assert tried == [2 * 3]  # what the clock said, the removal, the note


def test_on_a_full_disk() -> None:
    on_a_small_disk(
        """
        from gestalt_cas import retention_runs
        from gestalt_cas.errors import DiskFull
        from storage import body, key, put
        import pytest
        with Store.open(arguments[0]) as store:
            with store.transaction() as changes:
                for number in range(400):
                    changes.put(key("k%d" % (number % 4)), [b"%d" % number * 100])
            store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
            with open("/mnt/filler", "ab", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(4096))
                except OSError:
                    pass
            with pytest.raises(DiskFull):
                for number in range(1000):
                    put(store, "more", os.urandom(20_000))
            assert store.apply_retention().versions >= 396
            assert store.collect_garbage().files >= 396
            put(store, "fits again", b"x" * 20_000)
            assert body(store, "k0") == b"396" * 100
        """,
        16,
    )


def test_beside_writers_and_another_process(tmp_path: Path) -> None:
    """All of them go on, what goes is what should, and no removal is counted twice."""
    with Store.open(tmp_path / "store") as store:
        beside_others(store)


def beside_others(store: Store) -> None:
    code = """
        with Store.open(arguments[0]) as store:
            print("ready", flush=True)
            sys.stdin.readline()
            print(sum(store.apply_retention().versions for _ in range(5)))
    """
    rule(store, {"bucket": {"keepNoncurrent": 1}})
    store.set_quota("bucket", "", 1 << 30)
    stop = threading.Event()
    written = [0] * 2

    def write(number: int) -> None:
        while not stop.is_set() or written[number] < 20:
            put(store, f"k{written[number] % 3}", b"%d" % number)
            written[number] += 1

    with Child(code, store.directory) as other:
        assert other.line() == "ready"
        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        other.tell()
        ours = sum(store.apply_retention().versions for _ in range(5))
        theirs = int(other.finish())
        stop.set()
        for thread in threads:
            thread.join()
    ours += store.apply_retention().versions
    assert [len(left(store, f"k{number}")) for number in range(3)] == [2] * 3
    assert ours + theirs + 6 == sum(written)
    assert store.quotas()[0].used_bytes == 6


# ---- the command line ----


@pytest.fixture(name="cas")
def cas_fixture(store: Store, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(store.directory, capsysbinary)


def test_the_verbs(store: Store, clock: Clock, cas: Command) -> None:
    rules = {"bucket": {"keepNoncurrent": 1}, "bucket/tmp/": {"expireDays": 1, "dropMarkers": True}}
    assert cas("config", RULES, json.dumps(rules)).code == 0
    assert json.loads(cas("config", RULES).text) == rules
    assert cas("config", RULES, '{"bucket": {"keep": 1}}').code == 2
    letters(store, "abc-")
    put(store, "tmp/x", b"tmp")
    put(store, "line\nbreak", b"1")
    put(store, "line\nbreak", b"22")
    put(store, "line\nbreak", b"333")
    clock.advance(1.5)
    ids = [version.version_id for version in history(store, "k")]
    tmp, broken = history(store, "tmp/x")[0].version_id, history(store, "line\nbreak")[2].version_id
    told = cas("retention", "preview")
    assert told.text == (
        f"2027-01-15T08:00:00.000Z               1  {ids[3]}  bucket/k  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               1  {ids[2]}  bucket/k  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               1  {broken}  bucket/line\nbreak  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               3  {tmp}  bucket/tmp/x  (expired)\n"
        "3 versions (3 bytes) and 0 delete markers would go; 1 objects would get a delete marker; "
        "gc would then free 3 bytes, 3 payloads\n"
    )
    assert "1.5 days after the last commit" in told.err
    assert "see gestalt-cas doctor" in told.err
    records = [json.loads(line) for line in cas("retention", "preview", "bucket/k", "--json").text.splitlines()]
    assert [(one["version_id"], one["reason"], one["kept_by_snapshot"]) for one in records[:-1]] == [
        (ids[3], "noncurrent", False), (ids[2], "noncurrent", False),
    ]  # fmt: skip
    assert records[-1] == {
        "summary": {
            "versions": 2, "markers": 0, "bytes": 2, "expired": 0, "dropped": 0, "kept": 0,
            "payloads": 2, "freed_bytes": 2,
        }
    }  # fmt: skip
    refused = cas("retention", "run")
    assert refused.code == 3
    assert f"gestalt-cas doctor --accept-clock --data-dir {store.directory}" in refused.err
    assert cas("doctor", "--accept-clock").code in (0, 1)
    assert cas("retention", "run", "bucket/k").text == "removed 2 versions (2 bytes) and 0 delete markers\n"
    assert cas("retention", "run").text == (
        "removed 1 versions (1 bytes) and 0 delete markers; 1 objects got a delete marker\n"
    )
    assert "last retention       2027-01-16T20:00:00.000Z, done, versions 1, bytes 1, expired 1\n" in cas("stats").text


def test_the_verbs_tell_of_snapshots_markers_and_the_horizon(store: Store, clock: Clock, cas: Command) -> None:
    letters(store, "a")
    store.create_snapshot("then")
    letters(store, "b")
    letters(store, "-", name="m")
    store.delete(key("gone"), version_id=put(store, "gone", b"x").version_id)
    clock.advance(31)
    store.accept_clock()
    rule(store, {"bucket": {"keepNoncurrent": 0, "dropMarkers": True}})
    lines = cas("retention", "preview").text.splitlines()
    assert lines[0].endswith("bucket/k  (noncurrent, kept by a snapshot)")
    assert "        marker  " in lines[1]
    assert lines[1].endswith("bucket/m  (marker)")
    assert lines[2] == (
        "1 versions (1 bytes) and 1 delete markers would go; snapshots keep the payloads of 1; 1 removed longer ago "
        "would no longer be known; gc would then free 0 bytes, 0 payloads"
    )
    assert cas("retention", "run").text == (
        "removed 1 versions (1 bytes) and 1 delete markers; 1 removed longer ago are no longer known\n"
    )
