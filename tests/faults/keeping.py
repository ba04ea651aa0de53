"""More operations for the sweep: holds and quotas, and what mends or moves a whole store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from faults.cases import Case, Turn, apply_rules, both, either, put_before, remove_newest, two_versions, versions, write
from gestalt_cas import Store
from gestalt_cas.backups import row_copies
from gestalt_cas.backups.restoring import restore
from gestalt_cas.checks.findings import EVERYTHING, MOST_PARTS, Subset
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import Damage, Held, QuotaExceeded, StoreError
from gestalt_cas.files import keys
from gestalt_cas.files.layout import Layout
from storage import BUCKET, body, history, key, overwrite, payload_path, put


def _oldest(store: Store, turn: Turn) -> str:
    return history(store, turn.name)[-1].version_id


def _hold_version(store: Store, turn: Turn) -> object:
    return store.hold(BUCKET, turn.name, version_id=_oldest(store, turn))


def _hold_prefix(store: Store, turn: Turn) -> object:
    return store.hold(BUCKET, turn.name)


def _held(store: Store, turn: Turn) -> bool:
    """Whether a hold of the turn's key stands, and then keeps what it is of."""
    assert versions(store, turn) == both(turn)
    found = [hold for hold in store.holds() if hold.prefix == turn.name]
    if found:
        assert len(found) == 1
        _refused(lambda: store.delete(key(turn.name), version_id=_oldest(store, turn)))
    return bool(found)


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except Held:
        return
    raise AssertionError("what is held was removed")


def _under_a_hold(store: Store, turn: Turn) -> None:
    two_versions(store, turn)
    _hold_prefix(store, turn)


def _release(store: Store, turn: Turn) -> object:
    return store.release_hold(BUCKET, turn.name)


def _remove_what_is_held(store: Store, turn: Turn) -> None:
    _refused(lambda: remove_newest(store, turn))
    _refused(lambda: store.purge(key(turn.name)))


def _still_held(store: Store, turn: Turn) -> bool:
    assert _held(store, turn), "the hold has gone"
    return True


def _held_under_a_rule(store: Store, turn: Turn) -> None:
    _under_a_hold(store, turn)
    store.change_settings({"retention.rules": {f"{BUCKET}/{turn.name}": {"keepNoncurrent": 0}}})


def _under_a_quota(store: Store, turn: Turn) -> None:
    put_before(store, turn)
    store.set_quota(BUCKET, turn.name, len(turn.before) + len(turn.data))


def _written_within(store: Store, turn: Turn) -> bool:
    """Whether the write was done; the quota counts what is there, and lets no byte more in."""
    (quota,) = [one for one in store.quotas() if one.prefix == turn.name]
    there = either(lambda turn: [turn.before], both)(store, turn)
    assert quota.used_bytes == sum(version.size for version in history(store, turn.name))
    if there:
        try:
            put(store, turn.name, b"more")
        except QuotaExceeded:
            return True
        raise AssertionError("more than the quota was let in")
    return False


def _drop_quota(store: Store, turn: Turn) -> object:
    return store.remove_quota(BUCKET, turn.name)


def _no_quota(store: Store, turn: Turn) -> bool:
    return turn.name not in [quota.prefix for quota in store.quotas()]


def _backup(turn: Turn) -> Path:
    return turn.directory.parent / "of-what-rots"


def _rotten(store: Store, turn: Turn) -> None:
    """A payload that a backup has, damaged on the disk; nobody has noticed yet."""
    put(store, turn.name, turn.data)
    store.back_up(_backup(turn))
    overwrite(payload_path(store, turn.data), b"rotten" * 9000)


def _repair(store: Store, turn: Turn) -> object:
    """Reads the turn's payload, and not those of all the turns before."""
    digest = bytes.fromhex(payload_path(store, turn.data).name)
    part = (int.from_bytes(digest[:8]) * MOST_PARTS >> 64) + 1
    options = CheckOptions(read_data=Subset(part, part, MOST_PARTS), repair=True, backup=_backup(turn), restart=True)
    return store.check(options)


def _mended(store: Store, turn: Turn) -> bool:
    """Whether the bytes are back; until then they are damaged, and never others."""
    try:
        return body(store, turn.name) == turn.data
    except Damage:
        return False


def _restored(turn: Turn) -> Path:
    return turn.beside / "restored"


def _to_be_restored(store: Store, turn: Turn) -> None:
    """One small backup for all turns, and a tree that a restore which was cut off has left."""
    source = turn.directory.parent / "small"
    if not source.exists():
        with Store.open(source) as small:
            put(small, "small", b"a small one")
            small.change_settings({"blobs.inlineMaxBytes": 4096})
            put(small, "row", b"a row")
            small.back_up(source.with_name("backup-of-small"))
    os.makedirs(turn.beside)
    Layout(_restored(turn)).make()
    row_copies.begin(Layout(_restored(turn)).restore_database)


def _restore(store: Store, turn: Turn) -> None:
    restore(turn.directory.parent / "backup-of-small", _restored(turn))


def _is_restored(store: Store, turn: Turn) -> bool:
    """Whether there is a store, then a whole one."""
    try:
        opened = Store.open(_restored(turn), create=False)
    except StoreError:
        return False
    with opened:
        assert body(opened, "small") == b"a small one"
        assert body(opened, "row") == b"a row"
        found = opened.check(CheckOptions(read_data=EVERYTHING))
        assert found.clean, found.findings
    return True


def _keys(turn: Turn) -> Path:
    return turn.directory / "keys.json"


def _with_keys(store: Store, turn: Turn) -> None:
    keys.create(_keys(turn))
    store.note("key before", keys.read(_keys(turn)).access_key_id)


def _rotate_keys(store: Store, turn: Turn) -> object:
    return keys.rotate(_keys(turn))


def _rotated(store: Store, turn: Turn) -> bool:
    return keys.read(_keys(turn)).access_key_id != store.recall("key before")


CASES: dict[str, Case] = {
    "hold a version": Case(_hold_version, _held, two_versions),
    "hold a prefix": Case(_hold_prefix, _held, two_versions),
    "release a hold": Case(_release, lambda store, turn: not _held(store, turn), _under_a_hold),
    "remove what is held": Case(_remove_what_is_held, _still_held, _under_a_hold, changes_nothing=True),
    "apply retention to what is held": Case(apply_rules, _still_held, _held_under_a_rule, changes_nothing=True),
    "write within a quota": Case(write, _written_within, _under_a_quota),
    "remove a quota": Case(_drop_quota, _no_quota, _under_a_quota),
    "repair from a backup": Case(_repair, _mended, _rotten, in_steps=True),
    "restore a backup": Case(_restore, _is_restored, _to_be_restored, in_steps=True),
    "rotate the keys": Case(_rotate_keys, _rotated, _with_keys, in_steps=True),
}
