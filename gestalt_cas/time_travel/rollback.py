"""Rolling a bucket or prefix back: one transaction after which every key has what it had at an earlier moment.

Versions are only added, copies of what there was and delete markers, so a rollback can itself be rolled back, to the
sequence before it. Where a key has the same payload, headers and metadata as then, nothing is done.

The plan is made outside the writer lock (`rollback_plans.py`), while a pin keeps gc away until the end. Under the lock
only what has changed since is planned anew, and a row that has lost its payload meanwhile ends the transaction;
planning then begins once more. Whatever else ends it, a limit, a quota, a full disk, an interrupt or a kill, ends it
whole.

Others write on while the plan is made and wait while it is carried out, for MOST_SECONDS at most.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import StoreBusy, StoreError
from gestalt_cas.keeping import holds, quotas
from gestalt_cas.objects import NO_HEADERS, NO_METADATA, Headers, ObjectKey
from gestalt_cas.operations.heartbeats import HeldPin
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.rows import history, rollback_rows, versions
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.rollback_rows import Return
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.time_travel.diffs import Kind
from gestalt_cas.time_travel.rollback_plans import Plan, Scope

log = logging.getLogger(__name__)

MOST_SECONDS = 10.0
"""How long others may have to wait, unless they are told to."""
_COMMIT_SECONDS = 1.5
"""What of it is left to COMMIT, which cannot be given up: it writes some hundred MB for the most keys."""
_STEPS_AT_ONCE = 1000
_ADDING = "adding versions"
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Step:
    """What a rollback does to a key; `size` in bytes is of the object that comes back, or of the one that goes."""

    kind: Kind
    key: ObjectKey
    size: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did, or would do.

    `seq_before` and `seq_after` are the store's last sequences before and after it: rolling back to `seq_before` undoes
    it, unless it is not `undoable`: with versioning suspended it replaces null versions. They are the same when nothing
    had to be done, and with a dry run.
    """

    scope: Scope
    seq_before: int
    seq_after: int
    added: int
    changed: int
    deleted: int
    plan: Sequence[Return]
    undoable: bool

    @property
    def keys(self) -> int:
        """How many keys it changes."""
        return len(self.plan)

    def steps(self) -> Iterator[Step]:
        """What is done, in byte order of the keys."""
        for one in self.plan:
            size = one.size if one.seq is not None else one.size_now or 0
            yield Step(_kind(one), ObjectKey(self.scope.bucket, one.key.decode()), size)


class _Outdated(Exception):
    """A row that was to be copied has lost its payload since the plan was made."""


def preview(parts: Parts, scope: Scope, progress: Progress = silent) -> RolledBack:
    """What rolling back would do now; nothing is changed. Raises what `roll_back` raises before its first change."""
    plan = Plan(parts, scope, progress)
    plan.follow()
    plan.require_possible(stop_writes=True)
    with parts.database.read() as tx:
        _refuse_held(tx, scope.bucket, plan.in_order())
    return _told(plan, plan.until, plan.until)


def roll_back(parts: Parts, scope: Scope, *, stop_writes: bool = False, progress: Progress = silent) -> RolledBack:
    """Make the keys of a scope what they were at its moment; returns when that is durable.

    With `stop_writes` it may change any number of keys and take as long as that needs; others that write then fail
    when they have waited for too long. Nothing has changed when this raises, but for OutcomeUnknown: VersionRemoved
    (what a key had was removed for good since), BlobMissing, PreconditionFailed (too many keys), StoreBusy (it would
    have taken too long), QuotaExceeded, Held (of a null version that it would replace), what `moments.resolve` and what
    a write raises.
    """
    pin = HeldPin(parts, f"rollback-{secrets.token_hex(6)}", "rollback", {"where": scope.name})
    with pin:
        for _ in range(_TRIES):
            plan = Plan(parts, scope, progress)
            plan.follow()
            plan.require_possible(stop_writes=stop_writes)
            if not plan.steps:
                return _told(plan, plan.until, plan.until)
            pin.confirm()
            try:
                done = _carry_out(parts, plan, progress, stop_writes=stop_writes)
            except _Outdated:
                continue
            _shorten_wal(parts)
            return done
    raise StoreBusy(f"{scope.name}: versions lose their payloads faster than the plan can be made; try again")


def _carry_out(parts: Parts, plan: Plan, progress: Progress, *, stop_writes: bool) -> RolledBack:
    # The WAL is shortened when others have had their turn.
    with parts.database.write(relieve=False) as tx:
        check_time = _limit(plan.scope, stop_writes=stop_writes)
        plan.catch_up(tx)
        plan.require_possible(stop_writes=stop_writes)
        before, _ = history.last(tx)
        suspended = store_settings.for_writing(tx).suspended
        add = _replace if suspended else _add
        with rollback_rows.cached(tx, len(plan.steps)):
            add(tx, plan.scope.bucket, plan.in_order(), check_time, progress)
        after, _ = history.last(tx)
    return _told(plan, before, after, undoable=not suspended)


def _shorten_wal(parts: Parts) -> None:
    try:
        parts.database.tend_wal()
    except StoreError as error:  # what was done is durable; the next commit shortens the WAL
        log.warning("the WAL was not shortened after a rollback: %s", error)


def _limit(scope: Scope, *, stop_writes: bool) -> Callable[[], None]:
    """What is called now and then under the lock, from now on; it raises StoreBusy when others have waited enough."""
    deadline = time.monotonic() + MOST_SECONDS - _COMMIT_SECONDS

    def check() -> None:
        if not stop_writes and time.monotonic() >= deadline:
            raise StoreBusy(
                f"{scope.name}: rolling back takes longer than the {MOST_SECONDS:g} s that other writers may be kept "
                "waiting; nothing has changed; try again when less is going on, or with --stop-writes"
            )

    return check


def _add(
    tx: Connection, bucket: str, steps: Sequence[Return], check_time: Callable[[], None], progress: Progress
) -> None:
    """Add all versions with one commit time."""
    rollback_rows.charge(tx, bucket, steps)
    first, commit_ms = versions.draw(tx, now_ms(), len(steps))
    for start in range(0, len(steps), _STEPS_AT_ONCE):
        check_time()
        progress(_ADDING, start, len(steps))
        if not rollback_rows.add(tx, bucket, steps[start : start + _STEPS_AT_ONCE], first + start, commit_ms):
            raise _Outdated
    check_time()


def _replace(
    tx: Connection, bucket: str, steps: Sequence[Return], check_time: Callable[[], None], progress: Progress
) -> None:
    """The same with versioning suspended: each is the key's null version then, and replaces the one before."""
    at_ms = now_ms()
    counted, guarded = quotas.any_stand(tx), holds.any_stand(tx)
    for number, step in enumerate(steps):
        if number % _STEPS_AT_ONCE == 0:
            check_time()
            progress(_ADDING, number, len(steps))
        headers, metadata = _attributes(tx, bucket, step)
        versions.append(
            tx,
            ObjectKey(bucket, step.key.decode()),
            step.digest,
            step.size,
            headers=headers,
            metadata=metadata,
            suspended=True,
            counted=counted,
            guarded=guarded,
            now_ms=at_ms,
        )
    check_time()


def _refuse_held(tx: Connection, bucket: str, steps: Iterable[Return]) -> None:
    """Raise Held when `_replace` would."""
    if not store_settings.for_writing(tx).suspended or not holds.any_stand(tx):
        return
    for step in steps:
        versions.refuse_replacing(tx, bucket, step.key)


def _attributes(tx: Connection, bucket: str, step: Return) -> tuple[Headers, Mapping[str, str]]:
    if step.seq is None or step.digest is None:
        return NO_HEADERS, NO_METADATA
    row = history.at(tx, bucket, step.key, step.seq)
    if row is None or row.removed or row.digest != step.digest.hex():
        raise _Outdated
    return row.headers, row.metadata


def _told(plan: Plan, before: int, after: int, *, undoable: bool = True) -> RolledBack:
    steps = plan.in_order()
    kinds = [_kind(one) for one in steps]
    counts = (kinds.count("added"), kinds.count("changed"), kinds.count("deleted"))
    return RolledBack(plan.scope, before, after, *counts, steps, undoable)


def _kind(one: Return) -> Kind:
    if one.seq is None:
        return "deleted"
    return "added" if one.size_now is None else "changed"
