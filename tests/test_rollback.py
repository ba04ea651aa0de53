"""Rolling back: afterwards everything is as it was at the moment, at once or not at all, whatever happens meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas import Headers, ListQuery, ObjectKey, ObjectVersion, Store
from gestalt_cas.errors import (
    BeforeHorizon,
    BlobMissing,
    InvalidArgument,
    NoSuchSnapshot,
    PreconditionFailed,
    QuotaExceeded,
    StoreBusy,
    VersionRemoved,
)
from gestalt_cas.rows import history, rollback_rows, versions
from gestalt_cas.time_travel import rollback, rollback_plans
from gestalt_cas.time_travel.rollback import RolledBack
from gestalt_cas.transactions.database import Database
from storage import BUCKET, Child, body, change, child, key, payload_path, put, rows
from storage import history as versions_of

State = dict[str, tuple[str, Headers, dict[str, str]]]


def content(version: ObjectVersion) -> tuple[str, Headers, dict[str, str]]:
    return version.digest, version.headers, dict(version.metadata)


def state(store: Store, prefix: str = "", bucket: str = BUCKET, **options: Any) -> State:
    """What readers find, page by page."""
    page = store.list_page(ListQuery(bucket, prefix=prefix), **options)
    assert not page.token
    return {version.key.key: content(version) for version in page.objects}


def last(store: Store) -> int:
    ((seq,),) = rows(store, "SELECT seq FROM counter")
    return int(seq)


def everything(store: Store) -> list[tuple[Any, ...]]:
    """All that the store keeps of versions, and what it counts."""
    told = [rows(store, f"SELECT * FROM {name} ORDER BY 1, 2") for name in ("versions", "current", "counter", "quotas")]
    return [row for table in told for row in table]


def counts(done: RolledBack) -> tuple[int, int, int]:
    return done.added, done.changed, done.deleted


def kinds(done: RolledBack) -> list[tuple[str, str]]:
    return [(step.kind, step.key.key) for step in done.steps()]


@pytest.fixture(name="moment")
def moment_fixture(store: Store) -> str:
    return str(change_everything(store))


def change_everything(store: Store) -> int:
    """A sequence, after which each kind of change is made."""
    put(store, "changed", b"one", metadata={"a": "1"}, headers=Headers(content_type="text/plain"))
    put(store, "deleted", b"gone")
    put(store, "same", b"same")
    put(store, "told anew", b"x", metadata={"a": "1"})
    store.delete(key("never there"))
    put(store, "other/changed", b"1")
    seq = last(store)
    put(store, "changed", b"two")
    store.delete(key("deleted"))
    put(store, "new", b"new")
    put(store, "same", b"else")
    put(store, "same", b"same")
    put(store, "told anew", b"x", metadata={"a": "2"})
    put(store, "other/changed", b"2")
    put(store, "passing", b"new")
    store.delete(key("passing"))
    return seq


def test_while_the_store_never_rests_the_plan_is_finished_under_the_lock(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback_plans, "_FEW_KEYS", -1)
    wanted = state(store, as_of=moment)
    assert counts(store.rollback(BUCKET, to=moment)) == (1, 3, 1)
    assert state(store) == wanted


def test_numbers_that_no_change_has_are_not_gone_through(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are very many when the counter is damaged."""
    monkeypatch.setattr(rollback_plans, "_VIEW_CHANGES", 2)
    with store._database.write() as tx:
        tx.execute("UPDATE counter SET seq = 1000000000000000")
    real, views = history.changed, 0

    def changed(*arguments: Any) -> Iterator[bytes]:
        nonlocal views
        views += 1
        assert views < 50
        return real(*arguments)

    monkeypatch.setattr(history, "changed", changed)
    assert counts(store.rollback(BUCKET, to=moment, dry_run=True)) == (1, 3, 1)


def test_everything_is_as_it_was(store: Store, moment: str) -> None:
    wanted, before = state(store, as_of=moment), last(store)
    untouched = store.head(key("same"))
    done = store.rollback(BUCKET, to=moment)
    assert state(store) == wanted
    assert (body(store, "changed"), body(store, "deleted")) == (b"one", b"gone")
    assert counts(done) == (1, 3, 1)
    assert (done.seq_before, done.seq_after) == (before, before + 5)
    assert store.head(key("same")) == untouched
    assert len(versions_of(store, "passing")) == 2
    assert store.check().clean


@pytest.mark.parametrize("versioning", ["enabled", "suspended"])
def test_it_can_be_stopped_wherever_it_tells_how_far_it_is(store: Store, moment: str, versioning: str) -> None:
    change_everything(store)
    store.change_settings({"versioning": versioning})
    before, told, turn = everything(store), 0, 0

    def stop(*_: object) -> None:
        nonlocal told
        told += 1
        if told > turn:
            raise KeyboardInterrupt

    while True:
        told = 0
        try:
            store.rollback(BUCKET, to=moment, progress=stop)
            break
        except KeyboardInterrupt:
            assert everything(store) == before
        turn += 1
    assert turn >= 3
    assert everything(store) != before


def test_it_is_told_what_is_done_to_each_key(store: Store, moment: str) -> None:
    done = store.rollback(BUCKET, to=moment, dry_run=True)
    assert [(step.kind, step.key.key, step.size) for step in done.steps()] == [
        ("changed", "changed", 3),
        ("added", "deleted", 4),
        ("deleted", "new", 3),
        ("changed", "other/changed", 1),
        ("changed", "told anew", 1),
    ]


def test_versions_are_added_and_none_is_removed(store: Store, moment: str) -> None:
    before = {name: versions_of(store, name) for name in ("changed", "deleted", "new")}
    store.rollback(BUCKET, to=moment)
    for name, found in before.items():
        now = versions_of(store, name)
        assert [version.version_id for version in now[1:]] == [version.version_id for version in found]
        assert now[0].current
        assert store.head(key(name), version_id=now[0].version_id) == now[0] if name != "new" else now[0].delete_marker
    assert len({version_id for (version_id,) in rows(store, "SELECT version_id FROM versions")}) == len(
        rows(store, "SELECT 1 FROM versions")
    )


def test_a_rollback_is_rolled_back(store: Store, moment: str) -> None:
    before = state(store)
    done = store.rollback(BUCKET, to=moment)
    rolled_back = state(store)
    undone = store.rollback(BUCKET, to=str(done.seq_before))
    assert state(store) == before
    store.rollback(BUCKET, to=str(undone.seq_before))
    assert state(store) == rolled_back
    assert store.check().clean


def test_doing_it_again_does_nothing(store: Store, moment: str) -> None:
    store.rollback(BUCKET, to=moment)
    found = everything(store)
    again = store.rollback(BUCKET, to=moment)
    assert (again.keys, again.seq_before) == (0, again.seq_after)
    assert everything(store) == found


def test_only_what_is_below_the_prefix(store: Store, moment: str) -> None:
    before, then = state(store), state(store, "other/", as_of=moment)
    store.rollback(BUCKET, "other/", to=moment)
    assert state(store, "other/") == then
    assert {name: found for name, found in state(store).items() if not name.startswith("other/")} == {
        name: found for name, found in before.items() if not name.startswith("other/")
    }


def test_other_buckets_are_left_alone_and_the_default_one_needs_no_name(store: Store) -> None:
    for name in ("", "other"):
        store.write(ObjectKey(name, "k"), [b"one"])
    seq = last(store)
    for name in ("", "other"):
        store.write(ObjectKey(name, "k"), [b"two"])
    done = store.rollback(to=str(seq))
    assert done.scope.bucket == store.settings().bucket
    assert [store.read(ObjectKey(name, "k")).read() for name in ("", "other")] == [b"one", b"two"]


def test_headers_alone_are_a_change(store: Store) -> None:
    of_then = {"a": Headers(content_type="text/plain"), "b": Headers(cache_control="no-store"), "c": Headers()}
    for name, headers in of_then.items():
        put(store, name, b"same", headers=headers)
    seq = last(store)
    for name in of_then:
        put(store, name, b"same", headers=Headers(content_type="text/html", cache_control="no-store"))
    put(store, "b", b"same", headers=Headers(cache_control="max-age=1"))
    put(store, "a", b"same", headers=Headers(content_type="text/html"))
    assert counts(store.rollback(BUCKET, to=str(seq))) == (0, 3, 0)
    assert {name: store.head(key(name)).headers for name in of_then} == of_then


def test_to_before_the_first_change(store: Store, moment: str) -> None:
    assert moment
    done = store.rollback(BUCKET, to="0")
    assert counts(done) == (0, 0, 5)
    assert state(store) == {}
    store.rollback(BUCKET, to=str(done.seq_before))
    assert body(store, "changed") == b"two"


def test_a_dry_run_changes_nothing(store: Store, moment: str) -> None:
    found = everything(store)
    would = store.rollback(BUCKET, to=moment, dry_run=True)
    assert everything(store) == found
    assert rows(store, "SELECT name FROM pins") == []
    done = store.rollback(BUCKET, to=moment)
    assert kinds(would) == kinds(done)


def test_to_a_snapshot_which_keeps_what_was_removed(store: Store) -> None:
    version = put(store, "k", b"kept")
    store.create_snapshot("before", BUCKET)
    store.delete(key("k"), version_id=version.version_id)
    put(store, "k", b"new")
    store.collect_garbage()
    assert body(store, "k") == b"new"
    assert counts(store.rollback(BUCKET, to="before")) == (0, 1, 0)
    assert body(store, "k") == b"kept"
    with pytest.raises(NoSuchSnapshot):
        store.rollback(BUCKET, to="after")


def test_to_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_700_000_000_000, 1_800_000_000_000, 60_000))
    at = next(clock)
    monkeypatch.setattr("gestalt_cas.operations.changes.now_ms", lambda: at)
    put(store, "k", b"one")
    at = next(clock)
    put(store, "k", b"two")
    store.rollback(BUCKET, to="2023-11-14T22:13:20Z")
    assert body(store, "k") == b"one"


def test_no_time_names_a_moment_within_it(store: Store, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(5_000_000_000_000, 6_000_000_000_000))
    monkeypatch.setattr(rollback, "now_ms", lambda: next(clock))
    done = store.rollback(BUCKET, to=moment)
    times = rows(store, "SELECT DISTINCT commit_ms FROM versions WHERE seq > ?", done.seq_before)
    assert times == [(5_000_000_000_000,)]


def test_a_version_that_was_removed_for_good_makes_it_fail_before_it_begins(store: Store) -> None:
    gone = [put(store, name, b"one") for name in "abcde"]
    seq = str(last(store))
    for version in gone:
        put(store, version.key.key, b"two")
        store.delete(version.key, version_id=version.version_id)
    found = everything(store)
    for dry_run in (True, False):
        with pytest.raises(VersionRemoved, match=r"sequence 5: what a, b, c and 2 more had then was removed for good"):
            store.rollback(BUCKET, to=seq, dry_run=dry_run)
    assert everything(store) == found
    assert rows(store, "SELECT name FROM pins") == []


def test_a_removed_version_whose_content_stands_needs_nothing(store: Store) -> None:
    version = put(store, "k", b"one", metadata={"a": "b"})
    put(store, "k", b"one", metadata={"a": "b"})
    store.delete(key("k"), version_id=version.version_id)
    assert store.rollback(BUCKET, to=str(version.seq)).keys == 0
    put(store, "k", b"one", metadata={"a": "c"})
    with pytest.raises(VersionRemoved):
        store.rollback(BUCKET, to=str(version.seq))


def test_a_purged_version_is_gone(store: Store) -> None:
    version = put(store, "k", b"one")
    store.purge(key("k"))
    put(store, "k", b"one")
    with pytest.raises(VersionRemoved):
        store.rollback(BUCKET, to=str(version.seq))


@pytest.mark.parametrize("inline", [0, 4096])
def test_a_missing_payload_makes_it_fail_before_it_begins(store: Store, inline: int) -> None:
    store.change_settings({"blobs.inlineMaxBytes": inline})
    version = put(store, "k", b"one")
    put(store, "k", b"two")
    if inline:
        change(store, "DELETE FROM inlined WHERE data = ?", b"one")
    else:
        payload_path(store, b"one").unlink()
    found = everything(store)
    for dry_run in (True, False):
        with pytest.raises(
            BlobMissing, match=rf"payload {version.digest}, which {BUCKET}/k had at sequence 1, is missi"
        ):
            store.rollback(BUCKET, to=str(version.seq), dry_run=dry_run)
    assert everything(store) == found
    assert rows(store, "SELECT damaged_ms IS NULL FROM blobs WHERE digest = ?", bytes.fromhex(version.digest)) == [(0,)]


def test_a_quota_is_kept(store: Store, moment: str) -> None:
    used = store.set_quota(BUCKET, "", 1000).used_bytes
    store.set_quota(BUCKET, "other/", 2)
    store.set_quota("another", "", 0)
    found = everything(store)
    with pytest.raises(QuotaExceeded, match=r"quota bucket/other/: 2 of 2 bytes are used, and 1 more do not fit"):
        store.rollback(BUCKET, to=moment)
    assert everything(store) == found
    store.set_quota(BUCKET, "other/", 3)
    store.rollback(BUCKET, to=moment)
    assert [quota.used_bytes for quota in store.quotas()] == [0, used + 3 + 4 + 1 + 1, 3]
    assert store.check().clean


def test_a_quota_that_is_exceeded_already_lets_deletions_through(store: Store) -> None:
    seq = last(store)
    put(store, "k", b"content")
    store.set_quota(BUCKET, "", 1)
    assert counts(store.rollback(BUCKET, to=str(seq))) == (0, 0, 1)


def test_before_the_horizon_it_is_refused(store: Store, moment: str) -> None:
    change(store, "INSERT INTO horizons VALUES (?, ?, 0)", BUCKET, int(moment) + 1)
    found = everything(store)
    with pytest.raises(BeforeHorizon):
        store.rollback(BUCKET, to=moment)
    assert everything(store) == found


@pytest.mark.parametrize("to", ["99", "yesterday?", "1e3"])
def test_what_names_no_moment_is_refused(store: Store, to: str) -> None:
    with pytest.raises((InvalidArgument, NoSuchSnapshot)):
        store.rollback(BUCKET, to=to)


# ---- suspended versioning ----


def test_with_versioning_suspended_null_versions_are_replaced(store: Store) -> None:
    put(store, "k", b"one")
    put(store, "gone", b"here")
    seq = last(store)
    put(store, "k", b"two")
    store.delete(key("gone"))
    put(store, "new", b"new")
    store.change_settings({"versioning": "suspended"})
    store.set_quota(BUCKET, "", 1000)
    put(store, "k", b"three")
    wanted = state(store, as_of=str(seq))
    done = store.rollback(BUCKET, to=str(seq))
    assert state(store) == wanted
    assert counts(done) == (1, 1, 1)
    assert [version.version_id == "null" for version in versions_of(store, "k")] == [True, False, False]
    assert versions_of(store, "new")[0].delete_marker
    assert len({at for (at,) in rows(store, "SELECT commit_ms FROM versions WHERE seq > ?", done.seq_before)}) == 1
    assert store.check().clean


def test_the_null_version_itself_comes_back(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    version = put(store, "k", b"null", metadata={"a": "b"})
    store.change_settings({"versioning": "enabled"})
    put(store, "k", b"newer")
    store.change_settings({"versioning": "suspended"})
    store.rollback(BUCKET, to=str(version.seq))
    assert (body(store, "k"), dict(store.head(key("k")).metadata)) == (b"null", {"a": "b"})
    assert [found.version_id == "null" for found in versions_of(store, "k")] == [True, False]
    assert store.check().clean


def test_a_replaced_null_version_is_gone(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    version = put(store, "k", b"one")
    put(store, "k", b"two")
    with pytest.raises(VersionRemoved):
        store.rollback(BUCKET, to=str(version.seq))


# ---- limits ----


def test_many_keys_need_stop_writes(store: Store, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_plans, "MOST_KEYS", 4)
    found = everything(store)
    with pytest.raises(PreconditionFailed, match=r"5 keys would change; more than 4 .*--stop-writes"):
        store.rollback(BUCKET, to=moment)
    assert everything(store) == found
    assert store.rollback(BUCKET, to=moment, dry_run=True).keys == 5
    assert store.rollback(BUCKET, to=moment, stop_writes=True).keys == 5


@pytest.mark.parametrize("versioning", ["enabled", "suspended"])
def test_it_gives_up_when_others_have_waited_enough(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, versioning: str
) -> None:
    store.change_settings({"versioning": versioning})
    monkeypatch.setattr(rollback, "MOST_SECONDS", rollback._COMMIT_SECONDS)
    found = everything(store)
    with pytest.raises(StoreBusy, match=r"longer than .* nothing has changed"):
        store.rollback(BUCKET, to=moment)
    assert everything(store) == found
    assert store.rollback(BUCKET, to=moment, stop_writes=True).keys == 5


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_many_steps_are_added_in_parts(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(rollback, "_STEPS_AT_ONCE", at_once)
    monkeypatch.setattr(rollback_plans, "_VIEW_KEYS", at_once)
    monkeypatch.setattr(rollback_plans, "_VIEW_CHANGES", at_once)
    monkeypatch.setattr(rollback_rows, "_CACHE_KIB", 1 << 14)
    wanted, cache = state(store, as_of=moment), cache_of_the_writer(store)
    store.rollback(BUCKET, to=moment)
    assert state(store) == wanted
    assert cache_of_the_writer(store) == cache
    assert store.check().clean


def cache_of_the_writer(store: Store) -> object:
    with store._database.write() as tx:
        return tx.execute("PRAGMA cache_size").fetchall()


# ---- meanwhile ----


def just_before(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    """Have `act` done once, before the first call of a function."""
    real, todo = getattr(owner, name), [act]

    def first(*args: Any, **options: Any) -> Any:
        while todo:
            todo.pop()()
        return real(*args, **options)

    patch.setattr(owner, name, first)


def meddle(store: Store) -> None:
    """Changes of every kind, on keys that the plan has and on others."""
    put(store, "changed", b"three")
    put(store, "deleted", b"other")
    put(store, "brand new", b"!")
    store.delete(key("new"))
    store.delete(key("same"))
    newest = put(store, "other/changed", b"4")
    store.delete(key("other/changed"), version_id=newest.version_id)
    put(store, "told anew", b"x", metadata={"a": "1"})


@pytest.mark.parametrize("few", [0, 1000])
def test_what_changes_after_the_plan_is_planned_anew(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    wanted = state(store, as_of=moment)
    monkeypatch.setattr(rollback_plans, "_FEW_KEYS", few)
    just_before(monkeypatch, rollback, "_carry_out", lambda: meddle(store))
    done = store.rollback(BUCKET, to=moment)
    assert state(store) == wanted
    assert ("deleted", "brand new") in kinds(done)
    assert "told anew" not in [name for _, name in kinds(done)]
    assert store.check().clean


def test_what_changes_while_planning_is_planned_anew(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = state(store, as_of=moment)
    monkeypatch.setattr(rollback_plans, "_FEW_KEYS", 0)
    just_before(monkeypatch, rollback_rows, "needed", lambda: meddle(store))
    store.rollback(BUCKET, to=moment)
    assert state(store) == wanted


def test_a_version_removed_after_the_plan_is_met_in_time(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = versions_of(store, "changed")[1]
    just_before(monkeypatch, rollback, "_carry_out", lambda: store.delete(version.key, version_id=version.version_id))
    before = state(store)
    with pytest.raises(VersionRemoved, match="what changed had then"):
        store.rollback(BUCKET, to=moment)
    assert state(store) == before


def test_what_was_removed_may_be_there_again_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = put(store, "k", b"one")
    put(store, "k", b"two")
    put(store, "l", b"!")
    store.delete(key("k"), version_id=version.version_id)
    monkeypatch.setattr(rollback_plans, "_FEW_KEYS", 0)
    monkeypatch.setattr(rollback_plans, "_VIEW_KEYS", 1)
    real, todo = rollback_rows.needed, [lambda: put(store, "k", b"one")]

    def after_the_first(*args: Any) -> rollback_rows.Return | None:
        if args[2] == b"l" and todo:
            todo.pop()()
        return real(*args)

    monkeypatch.setattr(rollback_rows, "needed", after_the_first)
    done = store.rollback(BUCKET, to=str(version.seq))
    assert (kinds(done), body(store, "k")) == ([("deleted", "l")], b"one")


def test_the_horizon_may_move_meanwhile(store: Store, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move = lambda: change(store, "INSERT INTO horizons VALUES (?, ?, 0)", BUCKET, int(moment) + 1)  # noqa: E731
    just_before(monkeypatch, rollback, "_carry_out", move)
    with pytest.raises(BeforeHorizon):
        store.rollback(BUCKET, to=moment)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("now", [b"new", None])
def test_a_snapshot_that_is_forgotten_while_planning_is_named_and_not_what_it_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch, now: bytes | None, dry_run: bool
) -> None:
    kept_for_a_snapshot(store, now)

    def forget() -> None:
        store.delete_snapshot("before")
        store.collect_garbage()

    just_before(monkeypatch, rollback_rows, "needed", forget)
    with pytest.raises(NoSuchSnapshot):
        store.rollback(BUCKET, to="before", dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("now", [b"new", None])
def test_a_row_that_is_dropped_while_planning_is_not_taken_for_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, now: bytes | None, dry_run: bool
) -> None:
    version = kept_for_a_snapshot(store, now)

    def drop() -> None:
        """Both at once, as retention does to what no snapshot keeps."""
        with store._database.write() as tx:
            tx.execute("DELETE FROM versions WHERE seq = ?", (version.seq,))
            tx.execute("INSERT INTO horizons VALUES (?, ?, 0)", (BUCKET, version.seq + 1))

    just_before(monkeypatch, rollback_rows, "needed", drop)
    with pytest.raises(BeforeHorizon):
        store.rollback(BUCKET, to=str(version.seq), dry_run=dry_run)


def kept_for_a_snapshot(store: Store, now: bytes | None) -> ObjectVersion:
    """A version that was removed, which the snapshot `before` keeps; and what its key has now."""
    version = put(store, "k", b"kept")
    store.create_snapshot("before")
    store.delete(key("k"), version_id=version.version_id)
    if now is not None:
        put(store, "k", now)
    return version


def let_go(store: Store, version: ObjectVersion) -> None:
    """Take the payload from a removed version as deleting the snapshot that keeps it does; no change has a sequence."""
    change(store, "UPDATE versions SET gone_digest = digest, digest = NULL WHERE seq = ?", version.seq)


@pytest.mark.parametrize("versioning", ["enabled", "suspended"])
def test_a_row_that_loses_its_payload_meanwhile_has_it_planned_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch, versioning: str
) -> None:
    version = put(store, "k", b"kept")
    store.create_snapshot("before")
    store.delete(key("k"), version_id=version.version_id)
    put(store, "k", b"new")
    store.change_settings({"versioning": versioning})
    just_before(monkeypatch, rollback, "_carry_out", lambda: let_go(store, version))
    before = everything(store)
    with pytest.raises(VersionRemoved):
        store.rollback(BUCKET, to="before")
    assert body(store, "k") == b"new"
    assert len(everything(store)) == len(before)


def test_it_is_not_planned_for_ever(store: Store, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(rollback_rows, "add", never)
    before = everything(store)
    with pytest.raises(StoreBusy, match="try again"):
        store.rollback(BUCKET, to=moment)
    assert everything(store) == before


def test_gc_waits_until_it_is_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = put(store, "k", b"kept")
    store.create_snapshot("before")
    store.delete(key("k"), version_id=version.version_id)
    put(store, "k", b"new")

    def collect() -> None:
        store.delete_snapshot("before")
        assert [store.collect_garbage().files for _ in range(3)] == [0, 0, 0]

    just_before(monkeypatch, rollback, "_carry_out", collect)
    with pytest.raises(NoSuchSnapshot):
        store.rollback(BUCKET, to="before")
    assert payload_path(store, b"kept").exists()
    assert sum(store.collect_garbage().files for _ in range(2)) == 1


def test_what_gc_takes_during_a_dry_run_is_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    version = put(store, "k", b"one")
    put(store, "k", b"two")

    def goes(*_: object) -> bool:
        patch.undo()
        store.delete(key("k"), version_id=version.version_id)
        assert sum(store.collect_garbage().files for _ in range(2)) == 1
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._payloads.__class__, "present", goes)
        with pytest.raises(VersionRemoved):
            store.rollback(BUCKET, to=str(version.seq), dry_run=True)


@contextmanager
def looking(look: Callable[[], object]) -> Iterator[list[object]]:
    """What `look` finds, over and over, on a thread of its own."""
    found: list[object] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def on() -> None:
        try:
            while not stop.is_set():
                found.append(look())
        except Exception as error:  # noqa: BLE001 - raised again below, whatever it is
            failures.append(error)

    thread = threading.Thread(target=on)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()
    for failure in failures:
        raise failure


LOOKING = """
from gestalt_cas import ListQuery
store = Store.open(arguments[0])
found = set()
print("ready", flush=True)
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    found.add("".join(sorted({version.etag[1:3] for version in store.list_page(ListQuery("bucket")).objects})))
print(len(found), *sorted(found))
"""


def test_readers_see_before_or_after(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In threads and in another process, while the changes are made slowly and one by one."""
    for data in (b"one", b"two"):
        with store.transaction() as changes:
            for number in range(40):
                changes.put(key(f"{number:02}"), [data])
        if data == b"one":
            seq = last(store)
    monkeypatch.setattr(rollback, "_STEPS_AT_ONCE", 1)

    def digests() -> frozenset[str]:
        return frozenset(found[0] for found in state(store).values())

    with looking(digests) as seen, Child(LOOKING, store.directory) as other:
        assert other.line() == "ready"
        for to in (str(seq), str(last(store)), str(seq)):
            store.rollback(BUCKET, to=to)
        other.tell()
        number, *found = other.line().split()
        other.finish()
    assert {len(one) for one in seen if isinstance(one, frozenset)} == {1}
    assert len(set(seen)) == 2, "both states have to be seen"
    assert all(len(one) == 2 for one in found), found
    assert int(number) == len(found)


def test_writers_wait_and_lose_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another process and of this one write all the while; each write is there, or was rolled back whole."""
    for number in range(50):
        put(store, f"old/{number}", b"one")
    seq = last(store)
    for number in range(50):
        put(store, f"old/{number}", b"two")
    writing = """
        store = Store.open(arguments[0])
        import select
        number = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            store.write(ObjectKey("bucket", f"theirs/{number}"), [b"x"])
            store.write(ObjectKey("bucket", "old/7"), [b"%d" % number])
            number += 1
            if number == 1:
                print("ready", flush=True)
        print(number)
    """
    wanted = state(store, "old/", as_of=str(seq))
    monkeypatch.setattr(rollback, "_STEPS_AT_ONCE", 1)
    mine = iter(range(1_000_000))
    with (
        Child(writing, store.directory) as other,
        looking(lambda: put(store, f"ours/{next(mine)}", b"y").seq) as ours,
    ):
        assert other.line() == "ready"
        dones = [store.rollback(BUCKET, "old/", to=str(seq)) for _ in range(5)]
        other.tell()
        theirs = int(other.line())
        other.finish()
    for done in dones:
        assert state(store, "old/", as_of=str(done.seq_after)) == wanted
    assert len(state_of_all(store, "theirs/")) == theirs
    assert len(state_of_all(store, "ours/")) == len(ours)
    assert theirs
    assert ours
    sequences = [found for (found,) in rows(store, "SELECT seq FROM versions ORDER BY seq")]
    assert len(set(sequences)) == len(sequences)
    assert store.check().clean


def state_of_all(store: Store, prefix: str) -> set[str]:
    return {
        name
        for (name,) in rows(store, "SELECT key FROM current WHERE substr(key, 1, ?) = ?", len(prefix), prefix.encode())
    }


def test_two_rollbacks_at_once_end_as_one_after_the_other(store: Store, moment: str) -> None:
    here = str(last(store))
    allowed = [state(store), state(store, as_of=moment)]
    threads = [threading.Thread(target=store.rollback, args=(BUCKET,), kwargs={"to": to}) for to in (moment, here)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state(store) in allowed


# ---- cut off ----

KILLED = """
from gestalt_cas.time_travel import rollback
from gestalt_cas.rows import rollback_rows
from gestalt_cas.transactions.database import Database
store = Store.open(arguments[0])
rollback._STEPS_AT_ONCE = 1
calls = iter(range(100))
real = rollback_rows.add
def add(*args):
    if arguments[2] == "commit":
        store._database._commit = lambda *_: os._exit(9)
    elif next(calls) == int(arguments[2]):
        os._exit(9)
    return real(*args)
rollback_rows.add = add
store.rollback("bucket", to=arguments[1])
"""


@pytest.mark.parametrize("at", ["0", "3", "commit"])
def test_killed_on_the_way_it_leaves_no_trace(store: Store, moment: str, at: str) -> None:
    found = everything(store)
    child(KILLED, store.directory, moment, at, expect=9)
    assert everything(store) == found
    assert store.check().clean
    wanted = state(store, as_of=moment)
    store.rollback(BUCKET, to=moment)
    assert state(store) == wanted


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_interrupted_it_leaves_no_trace(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    found, cache = everything(store), cache_of_the_writer(store)
    monkeypatch.setattr(rollback, "_STEPS_AT_ONCE", 1)
    monkeypatch.setattr(rollback_rows, "_CACHE_KIB", 1 << 14)
    calls = iter(range(10))

    def add(*args: Any) -> bool:
        if next(calls) == 3:
            raise error
        return real(*args)

    with monkeypatch.context() as patch:
        real = rollback_rows.add
        patch.setattr(rollback_rows, "add", add)
        with pytest.raises(error):
            store.rollback(BUCKET, to=moment)
    assert everything(store) == found
    assert rows(store, "SELECT name FROM pins") == []
    assert cache_of_the_writer(store) == cache
    store.rollback(BUCKET, to=moment)


def test_a_wal_that_cannot_be_shortened_afterwards_is_no_failure(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(*_: object) -> None:
        raise StoreBusy("somebody has the lock")

    monkeypatch.setattr(Database, "tend_wal", busy)
    wanted = state(store, as_of=moment)
    store.rollback(BUCKET, to=moment)
    assert state(store) == wanted
    assert "the WAL was not shortened" in caplog.text


# ---- whatever is played ----

NAMES = st.sampled_from(["a", "a/b", "b", "ä"])
DATA = st.sampled_from([b"", b"1", b"22"])
CALL = st.one_of(
    st.tuples(st.just("put"), NAMES, DATA, st.sampled_from([{}, {"m": "1"}])),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("remove"), NAMES, st.integers(0, 2)),
    st.tuples(st.just("rollback"), st.integers(0, 100), st.sampled_from(["", "a"])),
    st.tuples(st.just("versioning"), st.sampled_from(["enabled", "suspended"])),
)


@pytest.fixture(name="shared", scope="module")
def shared_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("shared") / "store") as opened:
        yield opened


_numbers = iter(range(1_000_000))


@given(st.lists(CALL, max_size=14))
def test_after_any_calls_it_is_as_it_was_or_says_why_not(shared: Store, calls: list[tuple[Any, ...]]) -> None:
    bucket, states = f"played{next(_numbers)}", []
    shared.change_settings({"versioning": "enabled"})

    def noted() -> None:
        states.append((last(shared), state(shared, bucket=bucket)))

    noted()
    for what, *given_ in calls:
        if what == "put":
            name, data, metadata = given_
            shared.write(ObjectKey(bucket, name), [data], metadata=metadata)
        elif what == "delete":
            shared.delete(ObjectKey(bucket, given_[0]))
        elif what == "versioning":
            shared.change_settings({"versioning": given_[0]})
        elif what == "remove":
            name, which = given_
            page = shared.list_versions(ListQuery(bucket, prefix=name), only_key=True).versions
            if which < len(page):
                shared.delete(page[which].key, version_id=page[which].version_id)
        else:
            check_rolled_back(shared, bucket, given_[1], *states[given_[0] % len(states)])
        noted()


def check_rolled_back(store: Store, bucket: str, prefix: str, seq: int, then: State) -> None:
    before, past_objects = state(store, bucket=bucket), walked(store, bucket, seq)
    expected = {name: found for name, found in then.items() if name.startswith(prefix)}
    rest = {name: found for name, found in before.items() if not name.startswith(prefix)}
    removed = {name for name, gone in past_objects.items() if gone and name.startswith(prefix)}
    lost = {name for name in removed if before.get(name) != expected.get(name)}
    try:
        done = store.rollback(bucket, prefix, to=str(seq))
    except VersionRemoved:
        assert lost
        assert state(store, bucket=bucket) == before
        return
    assert not lost
    assert state(store, bucket=bucket) == {**rest, **expected}
    changed = {name for name in {*before, *expected} if name.startswith(prefix)}
    assert [name for _, name in kinds(done)] == sorted(
        (name for name in changed if before.get(name) != expected.get(name)), key=str.encode
    )


def walked(store: Store, bucket: str, seq: int) -> dict[str, bool]:
    """Of each key that had an object at the sequence: whether that was removed for good since."""
    with store._database.read() as tx:
        stretch = history.walk(tx, bucket, b"", None, seq, 100)
        return {one.key.key: one.removed for one in stretch.found if not one.delete_marker}


def test_a_block_leaves_what_as_many_appends_leave(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But for the random part of ids, and the time."""

    def one_by_one(tx: Any, bucket: str, block: list[rollback_rows.Return], first: int, commit_ms: int) -> bool:
        tx.execute("UPDATE counter SET seq = ?", (first - 1,))
        for one in block:
            row = history.at(tx, bucket, one.key, one.seq) if one.seq else None
            versions.append(
                tx,
                ObjectKey(bucket, one.key.decode()),
                one.digest,
                one.size,
                headers=row.headers if row else Headers(),
                metadata=row.metadata if row else {},
                suspended=False,
                now_ms=commit_ms,
            )
        return True

    def contents(of: Store) -> list[tuple[Any, ...]]:
        columns = "bucket, key, seq, length(version_id), digest, size, content_type, headers, metadata, gone_seq"
        tables = (f"{columns} FROM versions", "* FROM current", "seq, 0, 0 FROM counter", "* FROM quotas")
        return [row for table in tables for row in rows(of, f"SELECT {table} ORDER BY 1, 2, 3")]

    with Store.open(tmp_path / "other") as other:
        change_everything(other)
        for one in (store, other):
            one.set_quota(BUCKET, "o", 1000)
        assert contents(store) == contents(other)
        store.rollback(BUCKET, to=moment)
        assert contents(store) != contents(other)
        monkeypatch.setattr(rollback_rows, "add", one_by_one)
        monkeypatch.setattr(rollback_rows, "charge", lambda *_: None)
        other.rollback(BUCKET, to=moment)
        assert contents(store) == contents(other)
