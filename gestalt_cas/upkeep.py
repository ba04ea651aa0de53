"""What keeps a store well: the tools, each a method of `Store`, and the quotas.

Every one works beside all other calls and processes. The work itself is in the modules that are named here; the larger
ones are loaded by the first call that needs them, since the command is started anew for every `put` and `get`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import NO_OPTIONS, CheckOptions, CheckReport
from gestalt_cas.clock import now_ms
from gestalt_cas.keeping import holds, quotas
from gestalt_cas.keeping.holds import Hold
from gestalt_cas.keeping.quotas import Quota
from gestalt_cas.objects import ObjectKey, check_bucket, check_names, check_prefix, utf8
from gestalt_cas.operations.changes import lookup, resolve
from gestalt_cas.operations.parts import Parts
from gestalt_cas.operations.standing import Standing
from gestalt_cas.progress import Progress, silent
from gestalt_cas.removal import clock_guard, purging
from gestalt_cas.removal.garbage import Collected, Collector, Reclaimable
from gestalt_cas.removal.purging import Purged
from gestalt_cas.rows import history
from gestalt_cas.rows import settings as store_settings

if TYPE_CHECKING:
    from gestalt_cas.backups.backup import BackedUp
    from gestalt_cas.checks.culprits import Culprits
    from gestalt_cas.removal.retention_previews import Foreseen, Going
    from gestalt_cas.removal.retention_runs import Applied
    from gestalt_cas.statistics import Glance, Stats


class Upkeep(Standing):
    """The part of `Store` that is about the store as a whole."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._collector = Collector(parts)
        self._culprits_lock = threading.Lock()
        self._culprits: Culprits | None = None

    def collect_garbage(
        self, *, grace_seconds: float = 0.0, dry_run: bool = False, progress: Progress | None = None
    ) -> Collected:
        """Remove payloads that no version has reached for `grace_seconds`, and what dead uploads left in staging.

        With `dry_run` only say what would go. Safe beside every other call; see `gestalt_cas.removal.garbage`. With
        a grace it raises ClockSuspect when the clock is not to be trusted; in a backup Protected while the one before,
        whose payloads these rows do not know, is the one that counts.
        """
        if self._parts.layout.previous_database.exists():  # seldom: only where a backup was cut off
            from gestalt_cas.backups import served

            served.require_that_it_counts(self._parts.layout)
        return self._collector.collect(grace_seconds=grace_seconds, dry_run=dry_run, progress=progress)

    def check(
        self,
        options: CheckOptions = NO_OPTIONS,
        *,
        progress: Progress | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        on_resume: Callable[[int, int], None] | None = None,
    ) -> CheckReport:
        """Look for damage and inconsistencies, beside all other calls, and repair what the options say.

        A check that was cut off is gone on with by the next of the same options: `on_resume` is then told when that one
        began (Unix milliseconds) and how many findings it had. `on_finding` hears of each finding as it is made.
        Damage is reported, never raised; see `checks/checking.py`.
        """
        from gestalt_cas.checks import checking

        return checking.check(self._parts, options, progress, on_finding, on_resume)

    def explained(self, error: Exception) -> Exception:
        """What to answer in place of an exception that ended a call: DatabaseDamaged if rows that no write stores did.

        Else the exception itself. For whoever catches what nobody expects; see `checks/culprits.py`. Takes long only
        for an exception that is not the store's or the system's.
        """
        from gestalt_cas.wrong_values import suspicions

        if not suspicions.may_be_behind(error):
            return error
        from gestalt_cas.checks import culprits

        with self._culprits_lock:
            if self._culprits is None:
                self._culprits = culprits.Culprits(self._parts)
        damage = self._culprits.behind(error)
        if damage is None:
            return error
        damage.__cause__ = error
        return damage

    def reclaimable_bytes(self) -> Reclaimable:
        """What `collect_garbage` would free, as far as a quarter of a second can tell."""
        return self._collector.reclaimable()

    def stats(self, *, progress: Progress | None = None) -> Stats:
        """Figures of the whole store; reads every row, in short views, so they are of several moments."""
        from gestalt_cas import statistics

        return statistics.gather(self._parts, progress)

    def glance(self) -> Glance:
        """The figures that cost next to nothing: sizes, room, and what the last runs of the tools have noted down."""
        from gestalt_cas import statistics

        return statistics.glance(self._parts)

    def purge(self, key: ObjectKey, *, progress: Progress | None = None) -> Purged:
        """Remove every version and marker of `key`, and the bytes that nothing else reaches, before this returns.

        Works on a full disk. Raises NoSuchKey when there is neither version nor marker, Protected while a snapshot
        shows one of them, Held while one is held; nothing was removed then, unless that came while a key of more than
        some hundred versions was under way. `progress` may raise to stop. See `gestalt_cas.removal.purging`.
        """
        check_names(key)
        with self._parts.database.read() as tx:
            target = resolve(tx, key)
        return purging.purge(self._parts, self._collector, target, progress or silent)

    def back_up(
        self, dest: str | os.PathLike[str], *, with_keys: bool = False, progress: Progress | None = None
    ) -> BackedUp:
        """Back the store up into a directory, while everything else goes on; see `gestalt_cas.backups.backup`.

        Signing keys go along only `with_keys`. `progress` may raise to stop: the next backup takes up what was copied.
        Raises StoreUnusable when `dest` holds something else or lies within the store (or the store in it), StoreBusy,
        DiskFull, StorageFault and DatabaseDamaged; a backup that `dest` held before is good after each of them.
        """
        from gestalt_cas.backups import backup

        return backup.back_up(self._parts, dest, with_keys=with_keys, progress=progress)

    def quotas(self) -> list[Quota]:
        """All quotas with what is used of them, in byte order of bucket and prefix."""
        with self._parts.database.read() as tx:
            return quotas.standing(tx)

    def set_quota(self, bucket: str, prefix: str, max_bytes: int, *, progress: Progress | None = None) -> Quota:
        """Limit what all versions of keys that start with `prefix` may take together, from the next commit on.

        `max_bytes` is inclusive, 0 or more; a quota of just this bucket and prefix is replaced. Adds up what they take,
        in short views; others only wait for the changes since to be added. A maximum below that only keeps more from
        coming. `progress` may raise to stop.
        """
        quotas.check(bucket, prefix, max_bytes)
        while True:
            name, at, used = self._counted(bucket, prefix.encode(), progress or silent)
            with self._parts.database.write() as tx:
                if name == (bucket or store_settings.default_bucket(tx)):
                    used += quotas.changed_since(tx, name, prefix.encode(), at)
                    return quotas.place(tx, name, prefix, max_bytes, used)

    def remove_quota(self, bucket: str, prefix: str) -> bool:
        """Remove a quota; False when there is none of just this bucket and prefix."""
        check_bucket(bucket)
        check_prefix(prefix)
        with self._parts.database.write() as tx:
            return quotas.drop(tx, bucket or store_settings.default_bucket(tx), prefix)

    def holds(self) -> list[Hold]:
        """All holds, in byte order of bucket and prefix."""
        with self._parts.database.read() as tx:
            return holds.standing(tx)

    def hold(self, bucket: str, prefix: str = "", *, version_id: str = "") -> Hold:
        """Have nothing remove the versions of the keys that start with `prefix`, until `release_hold`.

        With `version_id` the prefix is a whole key, and just that version is held; raises NoSuchVersion when there is
        none, or it is a delete marker. A hold that stands already stays as it is.
        """
        check_bucket(bucket)
        check_prefix(prefix)
        if version_id:
            check_names(ObjectKey(bucket, prefix))
        return self._parts.reserve.spend_on(lambda: self._place_hold(bucket, prefix, version_id))

    def release_hold(self, bucket: str, prefix: str = "", *, version_id: str = "") -> bool:
        """End a hold; False when there is none of just this. Works on a full disk."""
        check_bucket(bucket)
        check_prefix(prefix)
        utf8(version_id, "version id")
        return self._parts.reserve.spend_on(lambda: self._release_hold(bucket, prefix, version_id))

    def apply_retention(
        self, bucket: str | None = None, prefix: str = "", *, progress: Progress | None = None
    ) -> Applied:
        """Remove what the rules of `retention.rules` say, and what `history.keepDays` no longer keeps known.

        With a bucket ("": the default one) only apply the rules to its keys that start with `prefix`. Safe beside every
        other call; gc then frees the bytes. `progress` may raise to stop: the next run does the rest. Raises
        ClockSuspect when the clock is not to be trusted.
        """
        from gestalt_cas.removal import retention_runs

        return retention_runs.apply(self._parts, bucket, _checked(bucket, prefix), progress)

    def preview_retention(
        self,
        bucket: str | None = None,
        prefix: str = "",
        *,
        each: Callable[[Going], None] | None = None,
        progress: Progress | None = None,
    ) -> Foreseen:
        """What `apply_retention` would do now, and how many bytes gc would then free, exactly: judged in one view.

        `each` is called with every version that would go, keys in byte order, and should be quick. Raises
        DatabaseDamaged, before that, where `apply_retention` would.
        """
        from gestalt_cas.removal import retention_previews

        return retention_previews.preview(self._parts, bucket, _checked(bucket, prefix), each, progress or silent)

    def look_at_clock(self) -> None:
        """Raise ClockSuspect unless the clock can be trusted, and note that it was looked at; see `clock_guard`."""
        clock_guard.require(self._parts, now_ms())

    def clock_doubt(self) -> str:
        """Why nothing is removed by its age at the moment, "" when it is."""
        with self._parts.database.read() as tx:
            return clock_guard.doubt(tx, now_ms())

    def accept_clock(self) -> None:
        """Take the clock for right, so that retention and gc with a grace go on."""
        clock_guard.accept(self._parts, now_ms())

    def _counted(self, bucket: str, prefix: bytes, tell: Progress) -> tuple[str, int, int]:
        """A bucket's real name, the last sequence, and the bytes that its versions below the prefix took then."""
        with self._parts.database.read() as tx:
            name, (at, _) = bucket or store_settings.default_bucket(tx), history.last(tx)
        used = 0
        for more in quotas.counted_then(self._parts.database.read, name, prefix, at):
            used += more
            tell("adding up bytes", used, 0)
        return name, at, used

    def _place_hold(self, bucket: str, prefix: str, version_id: str) -> Hold:
        with self._parts.database.write() as tx:
            name = bucket or store_settings.default_bucket(tx)
            if version_id:
                lookup(tx, ObjectKey(name, prefix), version_id)
            return holds.place(tx, name, prefix, version_id, now_ms())

    def _release_hold(self, bucket: str, prefix: str, version_id: str) -> bool:
        with self._parts.database.write() as tx:
            return holds.release(tx, bucket or store_settings.default_bucket(tx), prefix, version_id)


def _checked(bucket: str | None, prefix: str) -> bytes:
    check_bucket(bucket or "")
    return check_prefix(prefix)
