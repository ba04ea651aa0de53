"""Retention against a model, on random histories: what goes, what it frees, and that the past is served as before."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clocks import DAY, Clock, set_clock
from gestalt_cas import Store
from gestalt_cas.errors import BeforeHorizon, Held, NoSuchVersion
from gestalt_cas.keeping import retention
from gestalt_cas.objects import ListQuery, ObjectVersion
from gestalt_cas.removal import retention_previews, retention_runs
from gestalt_cas.removal.retention_previews import Going
from gestalt_cas.removal.retention_runs import Applied
from retaining import RULES, apply
from storage import body, key, put, rows


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
