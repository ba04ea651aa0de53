"""What the two processes do: one uploads, reads, holds, backs up or rolls back, the other removes payloads."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from unittest import mock

from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.files.layout import Layout
from storage import BUCKET, body, flip, history, key, payload_path, put

MOMENT = "interleavings.moment"
"""The note of the sequence that a rollback goes to."""


@lru_cache(maxsize=8)
def payload(turn: int, which: int = 0) -> bytes:
    """Bytes of their own for each turn, with a digest that begins with the byte 0."""
    for number in range(1 << 20):
        data = b"%d %d %d" % (turn, which, number)
        if not blake3(data).digest()[0]:
            return data
    raise AssertionError("one in 256 should have fit")


def _removed(store: Store, turn: int) -> None:
    """Have the payload, unreachable and found to be so."""
    version = put(store, "before", payload(turn))
    store.delete(version.key, version_id=version.version_id)
    store._collector._record(0)


def _damaged(store: Store, turn: int) -> None:
    _removed(store, turn)
    flip(payload_path(store, payload(turn)), 0)
    store._payloads.mark_damaged(blake3(payload(turn)).digest(), lambda: True)


def _planted(store: Store, turn: int) -> None:
    """A file without a row, as a crash may leave, with other bytes."""
    payload_path(store, payload(turn)).write_bytes(bytes(len(payload(turn))))


def _source(store: Store, turn: int) -> None:
    put(store, "source", payload(turn))


def _lost(store: Store, turn: int) -> None:
    """A version whose file has gone, which was noticed."""
    _source(store, turn)
    payload_path(store, payload(turn)).unlink()
    store._payloads.mark_damaged(blake3(payload(turn)).digest(), lambda: True)


def _suspended(store: Store, turn: int) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", payload(turn))


def _suspended_other(store: Store, turn: int) -> None:
    _removed(store, turn)
    store.change_settings({"versioning": "suspended"})
    put(store, "k", payload(turn, 1))


def _inlining(store: Store, turn: int) -> None:
    """Payloads become rows."""
    store.change_settings({"blobs.inlineMaxBytes": 4096})


def _row_removed(store: Store, turn: int) -> None:
    _inlining(store, turn)
    _removed(store, turn)


def _row_removed_and_lowered(store: Store, turn: int) -> None:
    """The payload is an unreachable row, and the upload would make it a file."""
    _row_removed(store, turn)
    store.change_settings({"blobs.inlineMaxBytes": 0})


def _file_removed_and_raised(store: Store, turn: int) -> None:
    _removed(store, turn)
    _inlining(store, turn)


def _row_damaged(store: Store, turn: int) -> None:
    _row_removed(store, turn)
    with store._database.write() as tx:
        tx.execute("UPDATE inlined SET data = zeroblob(length(data))")
    store._payloads.mark_damaged(blake3(payload(turn)).digest(), lambda: True)


def _row_planted(store: Store, turn: int) -> None:
    """A file without a row stands under the name of what becomes a row."""
    _planted(store, turn)
    _inlining(store, turn)


def _row_source(store: Store, turn: int) -> None:
    _inlining(store, turn)
    _source(store, turn)


def snapshot_of(turn: int) -> str:
    return f"s{turn}"


def _shown(store: Store, turn: int) -> None:
    """The payload is that of a version which was removed and which a snapshot shows."""
    version = put(store, "source", payload(turn))
    store.create_snapshot(snapshot_of(turn), BUCKET)
    store.delete(version.key, version_id=version.version_id)


def _shown_row(store: Store, turn: int) -> None:
    _inlining(store, turn)
    _shown(store, turn)


def _kept_for_nothing(store: Store, turn: int) -> None:
    """The same when the snapshot has gone, and nobody has let go of the payload yet."""
    _shown(store, turn)
    store.delete_snapshot(snapshot_of(turn))


def _overwritten(store: Store, turn: int) -> None:
    """The payload is that of a noncurrent version, which a rule would remove."""
    version = put(store, "source", payload(turn))
    store.note(MOMENT, version.seq)
    put(store, "source", payload(turn, 1))
    store.change_settings({"retention.rules": {f"{BUCKET}/source": {"keepNoncurrent": 0}}})


def _shown_below_another(store: Store, turn: int) -> None:
    """A snapshot shows the payload; its version was removed, and the key has another object now."""
    _shown(store, turn)
    put(store, "source", payload(turn, 1))


def _backed_up(prepared: Callable[[Store, int], None]) -> Callable[[Store, int], None]:
    """The same beside a backup, which a further one replaces."""

    def prepare(store: Store, turn: int) -> None:
        back_up(store, turn)
        prepared(store, turn)

    return prepare


def _nothing(store: Store, turn: int) -> None:
    """Begin with an empty store."""


def upload(store: Store, turn: int) -> str:
    return put(store, "k", payload(turn)).version_id


def copy(store: Store, turn: int) -> str:
    return store.copy(key("source"), key("k")).version_id


def read(store: Store, turn: int) -> None:
    assert body(store, "source") == payload(turn)


def batch(store: Store, turn: int) -> str:
    with store.transaction() as changes:
        changes.put(key("before"), [payload(turn, 1)])
        made = changes.put(key("k"), [payload(turn)])
    assert made.version is not None
    return made.version.version_id


def read_then(store: Store, turn: int) -> None:
    assert body(store, "source", as_of=snapshot_of(turn)) == payload(turn)


def make_snapshot(store: Store, turn: int) -> None:
    store.create_snapshot(snapshot_of(turn), BUCKET)


def roll_back(store: Store, turn: int) -> None:
    store.rollback(BUCKET, "source", to=str(store.recall(MOMENT)))


def roll_back_to_snapshot(store: Store, turn: int) -> None:
    store.rollback(BUCKET, "source", to=snapshot_of(turn))


def put_back(store: Store, turn: int) -> None:
    """Publish the bytes for versions that are there, as a repair from a backup does."""
    found = store._blobs.stage([payload(turn)])
    try:
        published = store._payloads.publish(found)
        with store._database.write() as tx:
            store._payloads.vouch(tx, found, published, inline_max=0)
    finally:
        found.discard()


def hold(store: Store, turn: int) -> None:
    """Hold the version with the payload, as somebody would who has looked for it; it may have gone since, or before."""
    wanted = blake3(payload(turn)).hexdigest()
    found = [version.version_id for version in history(store, "source") if version.digest == wanted]
    store.hold(BUCKET, "source", version_id=found[0] if found else "gone")


def backup_of(store: Store) -> Path:
    return store.directory.with_name(f"{store.directory.name}-backup")


def back_up(store: Store, turn: int) -> None:
    """Into the place of the turn before's, whose 256 directories would be as many steps of no account."""
    with mock.patch.object(Layout, "make_tree") if backup_of(store).exists() else nullcontext():
        store.back_up(backup_of(store))


def gc(store: Store, turn: int) -> None:
    assert not store.collect_garbage().stuck_files


def remove_and_gc(store: Store, turn: int) -> None:
    for version in history(store, "source"):
        store.delete(version.key, version_id=version.version_id)
    gc(store, turn)


def purge(store: Store, turn: int) -> None:
    assert not store.purge(key("source")).stuck_files


def retain_and_gc(store: Store, turn: int) -> None:
    store.apply_retention()
    gc(store, turn)


def forget_and_gc(store: Store, turn: int) -> None:
    store.delete_snapshot(snapshot_of(turn))
    gc(store, turn)


def churn(store: Store, turn: int) -> None:
    """Write the same bytes elsewhere and take them away again."""
    version = put(store, "source", payload(turn))
    store.delete(version.key, version_id=version.version_id)
    gc(store, turn)


PREPARED: dict[str, Callable[[Store, int], None]] = {
    "upload of new bytes": _nothing,
    "upload of bytes found unreachable": _removed,
    "upload of bytes marked damaged": _damaged,
    "upload of bytes with a file without a row": _planted,
    "upload of bytes that another key has": _source,
    "upload over the null version with the same bytes": _suspended,
    "upload over the null version with bytes found unreachable": _suspended_other,
    "upload of new bytes as a row": _inlining,
    "upload of a row found unreachable": _row_removed,
    "upload, as a file, of a row found unreachable": _row_removed_and_lowered,
    "upload, as a row, of a file found unreachable": _file_removed_and_raised,
    "upload of a row marked damaged": _row_damaged,
    "upload of a row with a file without a row": _row_planted,
    "copy": _source,
    "copy of a row": _row_source,
    "read": _source,
    "read of a row": _row_source,
    "putting lost bytes back": _lost,
    "another gc": _source,
    "upload of bytes kept for nothing": _kept_for_nothing,
    "batch": _removed,
    "read as of a snapshot": _shown,
    "read of a row as of a snapshot": _shown_row,
    "making a snapshot": _source,
    "hold": _source,
    "hold of a row": _row_source,
    "hold of a noncurrent version": _overwritten,
    "backup": _backed_up(_source),
    "backup of a row": _backed_up(_row_source),
    "rollback": _overwritten,
    "rollback to a snapshot": _shown_below_another,
}
VICTIM: dict[str, Callable[[Store, int], str | None]] = dict.fromkeys(PREPARED, upload)
VICTIM |= {"copy": copy, "copy of a row": copy, "read": read, "read of a row": read}
VICTIM |= {"batch": batch, "making a snapshot": make_snapshot}
VICTIM |= {"read as of a snapshot": read_then, "read of a row as of a snapshot": read_then}
HOLDS = {"hold", "hold of a row", "hold of a noncurrent version"}
BACKUPS = {"backup", "backup of a row"}
VICTIM |= dict.fromkeys(HOLDS, hold) | dict.fromkeys(BACKUPS, back_up)
VICTIM |= {"rollback": roll_back, "rollback to a snapshot": roll_back_to_snapshot}
VICTIM |= {"putting lost bytes back": put_back, "another gc": gc}
"""What the first process does in each scenario; each returns the version id of what it made, if it made one."""
REMOVERS = {"remove and gc": remove_and_gc, "purge": purge}
"""Those that take away the object `source`, where there is one."""
CHURN, FORGET, RETAIN = "write, remove and gc", "forget the snapshot and gc", "retention and gc"
OPPONENT: dict[str, Callable[[Store, int], None]] = {"gc": gc, CHURN: churn, **REMOVERS}
OPPONENT |= {FORGET: forget_and_gc, RETAIN: retain_and_gc}
WITH_SOURCE = {name for name, prepared in PREPARED.items() if prepared in (_source, _row_source, _lost, _overwritten)}
WITH_SOURCE |= BACKUPS
ROLLBACKS = {"rollback", "rollback to a snapshot"}
SHOWN = {name for name, prepared in PREPARED.items() if prepared in (_shown, _shown_row, _shown_below_another)}


def _fits(scenario: str, opponent: str) -> bool:
    if opponent in REMOVERS:
        return scenario in WITH_SOURCE
    if scenario == "backup of a row":
        return False  # rows are in the database that is copied
    wanted = {FORGET: scenario in SHOWN, RETAIN: PREPARED[scenario] is _overwritten, CHURN: scenario not in HOLDS}
    return wanted.get(opponent, True)


PAIRS = [(scenario, opponent) for scenario in PREPARED for opponent in OPPONENT if _fits(scenario, opponent)]
