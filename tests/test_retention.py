"""Retention: which versions go by which rule, that nothing else does, and what that frees."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clocks import Clock, clock_fixture, store_fixture  # noqa: F401
from gestalt_cas import ObjectKey, Store
from gestalt_cas.errors import InvalidArgument, InvalidConfig
from gestalt_cas.keeping import retention
from gestalt_cas.removal import retention_runs
from gestalt_cas.removal.retention_previews import Foreseen, Going
from gestalt_cas.removal.retention_runs import Applied
from retaining import RULES, apply, left, letters, rule
from storage import history, key, put, rows

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
