"""Faults put into the two processes, to show that the schedules catch them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from gestalt_cas import ObjectKey, Store, upkeep
from gestalt_cas import store as store_module
from gestalt_cas.files import staging
from gestalt_cas.keeping import reachability
from gestalt_cas.keeping.holds import Hold
from gestalt_cas.operations.changes import lookup
from gestalt_cas.operations.heartbeats import HeldPin
from gestalt_cas.operations.payloads import Payloads
from gestalt_cas.rows import blob_rows
from gestalt_cas.sql.statements import Prepared
from gestalt_cas.time_travel import rollback_plans
from gestalt_cas.transactions.answers import Answers
from gestalt_cas.transactions.database import Database
from gestalt_cas.upkeep import Upkeep
from interleavings.processes import Prepare, nothing_more
from interleavings.scenarios import FORGET


def _unlink_after_the_lock() -> AbstractContextManager[object]:
    real = Database.write

    @contextmanager
    def write(self: Database, timeout: float = 20.0, *, committed: Callable[[], None] | None = None) -> Iterator[Any]:
        with real(self, timeout) as tx:
            yield tx
        if committed is not None:
            committed()

    return mock.patch.object(Database, "write", write)


def _no_second_look() -> AbstractContextManager[object]:
    def vouch(self: Payloads, tx: Any, found: Any, published: bool, inline_max: int) -> None:
        if published:
            blob_rows.keep(tx, found.digest, found.size, found.sums)

    return mock.patch.object(Payloads, "vouch", vouch)


def _own_file_taken_for_granted() -> AbstractContextManager[object]:
    def vouch(self: Payloads, tx: Any, found: Any, published: bool, inline_max: int) -> None:
        if not self._vouches(tx, blob_rows.placed(tx, found.digest), found.digest, found.size):
            if not published:
                self._blobs.publish(found)
            blob_rows.keep(tx, found.digest, found.size, found.sums)

    return mock.patch.object(Payloads, "vouch", vouch)


def _reach_not_asked_again() -> AbstractContextManager[object]:
    text = f"""
        SELECT digest, size, {reachability._RECORD_IS_ROW} FROM unreachable
        WHERE digest > :after AND since_ms <= :until_ms ORDER BY digest LIMIT :limit
    """
    return mock.patch.object(reachability, "_RIPE", Prepared(text))


def _held_staging_removed() -> AbstractContextManager[object]:
    def remove(path: Path, dry_run: bool) -> bool:
        path.unlink(missing_ok=True)
        return True

    return mock.patch.object(staging, "_remove_if_unheld", remove)


def _no_second_read() -> AbstractContextManager[object]:
    return mock.patch.object(store_module, "_OPEN_TRIES", 1)


def _files_without_rows_trusted() -> AbstractContextManager[object]:
    def vouches(self: Payloads, tx: Any, row: Any, digest: bytes, size: int) -> bool:
        return (row is None or not row.damaged) and self._blobs.has(digest, size)

    def vouch(self: Payloads, tx: Any, found: Any, published: bool, inline_max: int) -> None:
        if not vouches(self, tx, blob_rows.placed(tx, found.digest), found.digest, found.size):
            self._blobs.publish(found)
        blob_rows.keep(tx, found.digest, found.size, found.sums)

    def publish(self: Payloads, found: Any) -> bool:
        if self._blobs.has(found.digest, found.size):
            return False
        self._blobs.publish(found)
        return True

    return mock.patch.multiple(Payloads, _vouches=vouches, vouch=vouch, publish=publish)


def _no_pin() -> AbstractContextManager[object]:
    def nothing(self: HeldPin) -> None:
        """Set no pin, and find it in its place all the same."""

    return mock.patch.multiple(HeldPin, _place=nothing, _beat=nothing)


def _plan_taken_for_granted() -> AbstractContextManager[object]:
    """What has changed since is not planned anew, and what was to be copied is not looked at again."""
    return mock.patch.multiple(
        rollback_plans.Plan,
        catch_up=lambda self, tx: None,
        _require_moment=lambda self, tx: None,
    )


def _looked_up_before() -> AbstractContextManager[object]:
    """Whether a version is there to be held is asked before the transaction that holds it."""
    real = Upkeep.hold

    def hold(self: Upkeep, bucket: str, prefix: str = "", *, version_id: str = "") -> Hold:
        with self._parts.database.read() as tx:
            lookup(tx, ObjectKey(bucket, prefix), version_id)
        with mock.patch.object(upkeep, "lookup"):
            return real(self, bucket, prefix, version_id=version_id)

    return mock.patch.object(Upkeep, "hold", hold)


def _answers_never_old() -> AbstractContextManager[object]:
    """That there are no holds is taken for known, whatever another process has done since."""
    return mock.patch.object(Answers, "may_be_old", return_value=False)


def _without_foreign_keys(store: Store) -> None:
    writer = store._database._writer
    assert writer is not None
    writer.execute("PRAGMA foreign_keys=OFF")


class Broken(NamedTuple):
    """A fault, and a scenario and opponent that it shows in."""

    patch: Callable[[], AbstractContextManager[object]]
    scenario: str
    opponent: str
    prepare: Prepare = nothing_more


BROKEN = {
    "gc unlinks after it let go of the lock": Broken(_unlink_after_the_lock, "upload of bytes found unreachable", "gc"),
    "an upload does not look again under the lock": Broken(_no_second_look, "upload of bytes found unreachable", "gc"),
    "an upload takes what it published for granted": Broken(_own_file_taken_for_granted, "upload of new bytes", "gc"),
    "an upload trusts files without rows": Broken(
        _files_without_rows_trusted, "upload of bytes with a file without a row", "gc"
    ),
    "gc does not ask again whether a payload is reached": Broken(
        _reach_not_asked_again, "upload of bytes found unreachable", "gc"
    ),
    "gc does not ask again, and foreign keys are off": Broken(
        _reach_not_asked_again, "upload of bytes found unreachable", "gc", _without_foreign_keys
    ),
    "gc removes staging files that are held": Broken(_held_staging_removed, "upload of new bytes", "gc"),
    "a read does not look again": Broken(_no_second_read, "read", "purge"),
    "a batch keeps gc away from nothing": Broken(_no_pin, "batch", "gc"),
    "a backup keeps gc away from nothing": Broken(_no_pin, "backup", "remove and gc"),
    "a hold looks for its version before its transaction": Broken(_looked_up_before, "hold", "remove and gc"),
    "a removal knows from before that there is no hold": Broken(
        _answers_never_old, "hold of a noncurrent version", "remove and gc"
    ),
    "a rollback takes its plan for granted": Broken(_plan_taken_for_granted, "rollback to a snapshot", FORGET),
}
