"""More operations for the sweep: those on several versions and keys at once, and those about what was."""

from __future__ import annotations

from faults.cases import (
    Case,
    Turn,
    apply_rules,
    before,
    both,
    collect,
    collected,
    either,
    marked,
    put_before,
    remove_newest,
    two_versions,
    versions,
)
from gestalt_cas import Store
from gestalt_cas.objects import ListQuery
from gestalt_cas.removal import clock_guard
from storage import BUCKET, body, change, history, key, put, rows


def _name(turn: Turn) -> str:
    """A snapshot's."""
    return turn.name.replace(" ", "-")


def _make_snapshot(store: Store, turn: Turn) -> object:
    return store.create_snapshot(_name(turn), BUCKET)


def _shown(store: Store, turn: Turn) -> bool:
    """Whether the snapshot is there, and then shows the newest bytes of the turn's key."""
    if _name(turn) not in [snapshot.name for snapshot in store.snapshots()]:
        return False
    assert body(store, turn.name, as_of=_name(turn)) == turn.data
    return True


def _under_a_snapshot(store: Store, turn: Turn) -> None:
    two_versions(store, turn)
    _make_snapshot(store, turn)


def _removed_under_a_snapshot(store: Store, turn: Turn) -> bool:
    assert _shown(store, turn)
    return either(both, before)(store, turn)


def _forget_snapshot(store: Store, turn: Turn) -> None:
    store.delete_snapshot(_name(turn))


def _kept_for_nothing(store: Store, turn: Turn) -> None:
    """A removed version that has its payload still, although the snapshot that kept it has gone."""
    _under_a_snapshot(store, turn)
    remove_newest(store, turn)
    _forget_snapshot(store, turn)


def _two_keys(store: Store, turn: Turn) -> None:
    """Two keys with an object, then one with another and one without."""
    for name in ("a", "b"):
        put(store, f"{turn.name}/{name}", turn.before)
    _make_snapshot(store, turn)
    put(store, f"{turn.name}/a", turn.data)
    store.delete(key(f"{turn.name}/b"))


def _roll_back(store: Store, turn: Turn) -> object:
    return store.rollback(BUCKET, f"{turn.name}/", to=_name(turn))


def _batch(store: Store, turn: Turn) -> None:
    """The change that `_roll_back` makes, given one by one."""
    with store.transaction() as changes:
        changes.put(key(f"{turn.name}/a"), [turn.before])
        changes.put(key(f"{turn.name}/b"), [turn.before])


def _both_back(store: Store, turn: Turn) -> bool:
    page = store.list_page(ListQuery(BUCKET, prefix=f"{turn.name}/"))
    found = {version.key.key[-1]: body(store, version.key.key) for version in page.objects}
    assert found in ({"a": turn.data}, dict.fromkeys("ab", turn.before)), sorted(found)
    assert all(len(history(store, f"{turn.name}/{name}")) == 2 + (len(found) == 2) for name in "ab")
    return len(found) == 2


def _bring_back(store: Store, turn: Turn) -> object:
    return store.restore_version(key(turn.name), history(store, turn.name)[-1].version_id)


def _brought_back(turn: Turn) -> list[bytes | None]:
    return [turn.before, turn.data, turn.before]


def _deleted(store: Store, turn: Turn) -> None:
    put(store, turn.name, turn.before)
    store.delete(key(turn.name))


def _removed_long_ago(store: Store, turn: Turn) -> None:
    two_versions(store, turn)
    remove_newest(store, turn)
    change(store, "UPDATE versions SET commit_ms = 1, gone_ms = 1 WHERE gone_seq IS NOT NULL")


def _forgotten(store: Store, turn: Turn) -> bool:
    """Whether the history has forgotten what was removed; the horizon then says from when on it is whole."""
    assert versions(store, turn) == [turn.before]
    known = rows(store, "SELECT gone_seq FROM versions WHERE gone_seq IS NOT NULL")
    assert known or rows(store, "SELECT 1 FROM horizons WHERE bucket = ? AND ms = 1", BUCKET)
    return not known


def _doubt_clock(store: Store, turn: Turn) -> None:
    store.note(clock_guard.NOTE, {"at_ms": 1, "accepted_ms": 0})
    assert store.clock_doubt()


def _set_quota(store: Store, turn: Turn) -> object:
    return store.set_quota(BUCKET, turn.name, 1 << 30)


def _quota_there(store: Store, turn: Turn) -> bool:
    found = [quota.used_bytes for quota in store.quotas() if quota.prefix == turn.name]
    assert found in ([], [len(turn.before)])
    return bool(found)


def _remembered(store: Store, turn: Turn) -> None:
    _under_a_snapshot(store, turn)
    store.delete(key(turn.name))


def _look_back(store: Store, turn: Turn) -> None:
    assert body(store, turn.name, as_of=_name(turn)) == turn.data
    (listed,) = store.list_page(ListQuery(BUCKET, prefix=turn.name), as_of=_name(turn)).objects
    assert listed.size == len(turn.data)
    (gone,) = store.diff(BUCKET, turn.name, since=_name(turn))
    assert gone.kind == "deleted"
    assert store.rollback(BUCKET, turn.name, to=_name(turn), dry_run=True).added == 1
    assert store.prove(BUCKET).digest != store.prove(BUCKET, as_of=_name(turn)).digest
    assert not store.preview_retention().versions


def _still_remembered(store: Store, turn: Turn) -> bool:
    assert _shown(store, turn)
    assert versions(store, turn) == [None, turn.data, turn.before]
    return True


CASES: dict[str, Case] = {
    "make a snapshot": Case(_make_snapshot, _shown, two_versions),
    "delete a snapshot": Case(_forget_snapshot, lambda store, turn: not _shown(store, turn), _under_a_snapshot),
    "remove what a snapshot shows": Case(remove_newest, _removed_under_a_snapshot, _under_a_snapshot),
    "let go of what was kept": Case(collect, collected, _kept_for_nothing, in_steps=True),
    "roll back": Case(_roll_back, _both_back, _two_keys),
    "batch": Case(_batch, _both_back, _two_keys),
    "restore a version": Case(_bring_back, either(both, _brought_back), two_versions),
    "undelete": Case(lambda store, turn: store.undelete(key(turn.name)), either(marked, before), _deleted),
    "forget history": Case(apply_rules, _forgotten, _removed_long_ago, in_steps=True),
    "accept the clock": Case(
        lambda store, turn: store.accept_clock(), lambda store, turn: not store.clock_doubt(), _doubt_clock
    ),
    "set a quota": Case(_set_quota, _quota_there, put_before),
    "look back": Case(_look_back, _still_remembered, _remembered, changes_nothing=True),
}
