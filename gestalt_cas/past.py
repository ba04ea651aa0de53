"""The store's past: moments, differences and snapshots, each a method of `Store`.

The work itself is in the modules that are named here; how to use it is in docs/time-travel.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from gestalt_cas.clock import now_ms
from gestalt_cas.objects import check_bucket, check_prefix
from gestalt_cas.progress import Progress, silent
from gestalt_cas.rows import buckets, moments, snapshots
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.moments import AsOf, Moment
from gestalt_cas.rows.snapshots import Snapshot
from gestalt_cas.time_travel import diffs, proofs, rollback
from gestalt_cas.time_travel.diffs import Difference
from gestalt_cas.time_travel.proofs import Proof
from gestalt_cas.time_travel.rollback import RolledBack
from gestalt_cas.time_travel.rollback_plans import Scope
from gestalt_cas.upkeep import Upkeep


class Past(Upkeep):
    """The part of `Store` that is about what was. A bucket of "" is the default bucket, but for snapshots."""

    def moment(self, as_of: AsOf = "", bucket: str = "", prefix: str = "") -> Moment:
        """What `as_of` names, fixed to a sequence, so that several calls are about the same moment; "": now.

        A sequence, a time or a snapshot's name, see `gestalt_cas.rows.moments`, to be asked about keys of `bucket` that
        start with `prefix`. Raises InvalidArgument, BeforeHorizon or NoSuchSnapshot.
        """
        return self._placed(bucket, prefix, as_of)[1][0]

    def diff(self, bucket: str = "", prefix: str = "", *, since: AsOf, until: AsOf = "") -> Iterator[Difference]:
        """What became of the keys that start with `prefix` from one moment to another ("": now), in key order.

        Raises what `moment` raises, before the first difference.
        """
        name, (first, last) = self._placed(bucket, prefix, since, until)
        return diffs.between(self._parts.database, name, prefix.encode(), first, last)

    def rollback(
        self,
        bucket: str = "",
        prefix: str = "",
        *,
        to: AsOf,
        dry_run: bool = False,
        stop_writes: bool = False,
        progress: Progress | None = None,
    ) -> RolledBack:
        """Make the keys that start with `prefix` what they were at a moment, in one transaction that adds versions.

        With `dry_run` only say what would be done. Of more keys than `rollback_plans.MOST_KEYS`, or when it takes
        longer than `rollback.MOST_SECONDS`, it is refused unless others may be kept waiting (`stop_writes`). See
        `rollback.roll_back` for what it raises. `progress` may raise to stop: then nothing has changed.
        """
        tell = progress or silent
        name, (moment,) = self._placed(bucket, prefix, to)
        scope = Scope(name, prefix, moment)
        if dry_run:
            return rollback.preview(self._parts, scope, tell)
        return rollback.roll_back(self._parts, scope, stop_writes=stop_writes, progress=tell)

    def buckets_ever(self) -> list[str]:
        """The buckets of which there is any row, in byte order, those that hold nothing any more included."""
        with self._parts.database.read() as tx:
            return buckets.ever(tx)

    def prove(
        self,
        bucket: str | None = None,
        *,
        as_of: AsOf = "",
        current: bool = False,
        progress: Progress | None = None,
    ) -> Proof:
        """One digest of all versions of a bucket, or with `current` of its objects; of the store when none is named.

        The same wherever the same is held; see `gestalt_cas.time_travel.proofs` for what it is made of and raises.
        `progress` may raise to stop.
        """
        tell = progress or silent
        if bucket is None:
            with self._parts.database.read() as tx:
                moment = moments.resolve(tx, as_of, "", b"")
            return proofs.of_store(self._parts.database, moment, current=current, progress=tell)
        name, (moment,) = self._placed(bucket, "", as_of)
        return proofs.of_bucket(self._parts.database, name, moment, current=current, progress=tell)

    def create_snapshot(self, name: str, bucket: str = "", prefix: str = "") -> Snapshot:
        """Name the present moment of the keys that start with `prefix`, and keep what is there now.

        With the bucket "" it is of every bucket, and takes no prefix. Constant time, whatever the size. A name is a
        letter and at most 127 more letters, digits, `.`, `_` or `-`. Raises InvalidArgument or SnapshotExists.
        """
        snapshots.check_scope(bucket, prefix)
        with self._parts.database.write() as tx:
            return snapshots.create(tx, name, bucket, prefix.encode(), now_ms())

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, the oldest moment first."""
        with self._parts.database.read() as tx:
            return snapshots.standing(tx)

    def delete_snapshot(self, name: str) -> None:
        """Forget a snapshot; what only it kept is gc's to remove. Works on a full disk. Raises NoSuchSnapshot."""
        self._parts.reserve.spend_on(lambda: self._delete_snapshot(name))

    def _placed(self, bucket: str, prefix: str, *as_of: AsOf) -> tuple[str, list[Moment]]:
        """The bucket's real name and the moments, all of one view."""
        check_bucket(bucket)
        encoded = check_prefix(prefix)
        with self._parts.database.read() as tx:
            name = bucket or store_settings.default_bucket(tx)
            return name, [moments.resolve(tx, one, name, encoded) for one in as_of]

    def _delete_snapshot(self, name: str) -> None:
        with self._parts.database.write() as tx:
            snapshots.drop(tx, name)
