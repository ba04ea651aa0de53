"""The plan of a rollback: what takes each key of a bucket or prefix back to what it had at a moment.

Made outside the writer lock, in short views: keys that changed since the moment are compared then and now, and every
payload that is to come back has to be at its place. Under the lock `catch_up` then plans anew only what has changed
since. What was removed for good, and how many keys others may be kept waiting for, are refused here, before anything
is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gestalt_cas.errors import BlobMissing, PreconditionFailed, VersionRemoved
from gestalt_cas.objects import ObjectKey
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.rows import history, moments, rollback_rows
from gestalt_cas.rows.moments import Moment
from gestalt_cas.rows.rollback_rows import Removed, Return
from gestalt_cas.rules import listing
from gestalt_cas.sql.sqlite import Connection

MOST_KEYS = 250_000
"""What may be changed while others wait, unless they are told to."""
_VIEW_KEYS = 500
_VIEW_CHANGES = 50_000
_FEW_KEYS = 1000
"""So few that have changed meanwhile are left to be planned under the lock."""
_ROUNDS = 5
_NAMED = 3
_COMPARING = "comparing keys"


@dataclass(frozen=True, slots=True)
class Scope:
    """What is rolled back: the keys of `bucket` (a real name) that start with `prefix`, to `moment`."""

    bucket: str
    prefix: str
    moment: Moment

    @property
    def name(self) -> str:
        """BUCKET, or BUCKET/PREFIX."""
        return f"{self.bucket}/{self.prefix}" if self.prefix else self.bucket


class Plan:
    """What takes the keys of a scope back, as the store was after the change `until`."""

    def __init__(self, parts: Parts, scope: Scope, progress: Progress = silent) -> None:
        self.scope = scope
        self.until = scope.moment.seq
        self.steps: dict[bytes, Return] = {}
        self._parts = parts
        self._progress = progress
        self._prefix = scope.prefix.encode()
        self._removed: set[bytes] = set()
        self._present: set[bytes] = set()

    def follow(self) -> None:
        """Bring the plan up to the present in short views, until little has changed while that was done.

        Raises what `moments.resolve` raises, also when the moment was lost meanwhile: what had been kept for it may
        have gone then before it was looked at, and the plan would be of something else.
        """
        for _ in range(_ROUNDS):
            present = self._last()
            keys = sorted(self._changed_until(present))
            for start in range(0, len(keys), _VIEW_KEYS):
                self._progress(_COMPARING, start, len(keys))
                self._look_at(keys[start : start + _VIEW_KEYS])
            self.until = present
            if len(keys) <= _FEW_KEYS:
                break
        self._last()

    def catch_up(self, tx: Connection) -> None:
        """Plan anew, in a write transaction, what has changed since; the plan is right then until it ends."""
        self._require_moment(tx)
        present, _ = history.last(tx)
        self._plan(tx, sorted(set(self._changed(tx, self.until, present))))
        self.until = present

    def require_possible(self, *, stop_writes: bool) -> None:
        """Raise VersionRemoved, or PreconditionFailed for more keys than others may be kept waiting for."""
        if self._removed:
            raise VersionRemoved(
                f"{self.scope.name} cannot be rolled back to {self.scope.moment}: what {self._name_removed()} had then "
                "was removed for good since"
            )
        if len(self.steps) > MOST_KEYS and not stop_writes:
            raise PreconditionFailed(
                f"{self.scope.name}: {len(self.steps)} keys would change; more than {MOST_KEYS} are rolled back with "
                "--stop-writes only, since nothing else can write meanwhile"
            )

    def in_order(self) -> list[Return]:
        """The steps in byte order of the keys, which is the order of the rows."""
        return [self.steps[key] for key in sorted(self.steps)]

    def _last(self) -> int:
        """The store's last sequence, at which the moment is known still."""
        with self._parts.database.read() as tx:
            self._require_moment(tx)
            return history.last(tx)[0]

    def _changed_until(self, present: int) -> set[bytes]:
        keys: set[bytes] = set()
        after = self.until
        while after < present:
            self._progress("looking for changes", len(keys), 0)
            until = min(after + _VIEW_CHANGES, present)
            with self._parts.database.read() as tx:
                keys.update(self._changed(tx, after, until))
                # A counter that is damaged may be any number of views beyond the last change.
                following = history.following(tx, until) if until < present else None
            after = present if following is None else following - 1
        return keys

    def _changed(self, tx: Connection, after: int, until: int) -> Iterator[bytes]:
        return history.changed(tx, self.scope.bucket, self._prefix, listing.successor(self._prefix), after, until)

    def _look_at(self, keys: Sequence[bytes]) -> None:
        try:
            with self._parts.database.read() as tx:
                self._plan(tx, keys)
        except BlobMissing:
            # Without a pin gc may have come between the view and the look; a version that stands is damaged.
            try:
                with self._parts.database.read() as tx:
                    self._plan(tx, keys)
            except BlobMissing as damage:
                self._parts.payloads.record_unfit(damage)
                raise

    def _plan(self, tx: Connection, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.steps.pop(key, None)
            self._removed.discard(key)
            try:
                step = rollback_rows.needed(tx, self.scope.bucket, key, self.scope.moment.seq)
            except Removed:
                self._removed.add(key)
                continue
            if step is not None:
                self._require_payload(tx, step)
                self.steps[key] = step

    def _require_payload(self, tx: Connection, step: Return) -> None:
        if step.digest is None or step.digest in self._present:
            return
        if not self._parts.payloads.present(tx, step.digest, step.size):
            key = ObjectKey(self.scope.bucket, step.key.decode())
            text = f"payload {step.digest.hex()}, which {key} had at {self.scope.moment}, is missing or cut short"
            raise BlobMissing(text, digest=step.digest.hex())
        self._present.add(step.digest)

    def _require_moment(self, tx: Connection) -> None:
        moments.resolve(tx, self.scope.moment, self.scope.bucket, self._prefix)

    def _name_removed(self) -> str:
        names = [key.decode() for key in sorted(self._removed)[:_NAMED]]
        more = len(self._removed) - len(names)
        return ", ".join(names) + (f" and {more} more" if more else "")
