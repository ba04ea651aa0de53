"""What keeps a store well: the tools, each a method of `Store`, and the quotas.

Every one works beside all other calls and processes. The work itself is in the modules that are named here.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from gestalt_cas import purging, quotas, statistics
from gestalt_cas import settings as store_settings
from gestalt_cas.backups import backup
from gestalt_cas.backups.backup import BackedUp
from gestalt_cas.checks import checking
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import NO_OPTIONS, CheckOptions, CheckReport
from gestalt_cas.garbage import Collected, Collector, Progress, Reclaimable
from gestalt_cas.objects import ObjectKey, check_names
from gestalt_cas.parts import Parts
from gestalt_cas.purging import Purged
from gestalt_cas.quotas import Quota
from gestalt_cas.statistics import Glance, Stats


class Upkeep:
    """The part of `Store` that is about the store as a whole."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._collector = Collector(parts)

    def collect_garbage(
        self, *, grace_seconds: float = 0.0, dry_run: bool = False, progress: Progress | None = None
    ) -> Collected:
        """Remove payloads that no version has reached for `grace_seconds`, and what dead uploads left in staging.

        With `dry_run` only say what would go. Safe beside every other call; see `gestalt_cas.garbage`.
        """
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

        A check that was cut off is gone on with by the next of the same options; see `checks/checking.py`.
        """
        return checking.check(self._parts, options, progress, on_finding, on_resume)

    def reclaimable_bytes(self) -> Reclaimable:
        """What `collect_garbage` would free, as far as a quarter of a second can tell."""
        return self._collector.reclaimable()

    def stats(self, *, progress: Progress | None = None) -> Stats:
        """Figures of the whole store; reads every row, in short views, so they are of several moments."""
        return statistics.gather(self._parts, progress)

    def glance(self) -> Glance:
        """The figures that cost next to nothing: sizes, room, and what the last runs of the tools have noted down."""
        return statistics.glance(self._parts)

    def purge(self, key: ObjectKey) -> Purged:
        """Remove every version and marker of `key` and the bytes that nothing else reaches; raises NoSuchKey."""
        check_names(key)
        with self._parts.database.read() as tx:
            target = key if key.bucket else ObjectKey(store_settings.default_bucket(tx), key.key)
        return purging.purge(self._parts, self._collector, target)

    def back_up(
        self, dest: str | os.PathLike[str], *, with_keys: bool = False, progress: Progress | None = None
    ) -> BackedUp:
        """Back the store up into a directory, while everything else goes on; see `gestalt_cas.backups.backup`.

        Signing keys go along only `with_keys`. `progress` may raise to stop: the next backup takes up what was copied.
        """
        return backup.back_up(self._parts, dest, with_keys=with_keys, progress=progress)

    def quotas(self) -> list[Quota]:
        """All quotas with what is used of them, in byte order of bucket and prefix."""
        with self._parts.database.read() as tx:
            return quotas.standing(tx)

    def set_quota(self, bucket: str, prefix: str, max_bytes: int) -> Quota:
        """Limit what all versions of keys that start with `prefix` may take together, from the next commit on.

        Adds up what they take now while no other write can pass. A maximum below that only keeps more from coming.
        """
        quotas.check(bucket, prefix, max_bytes)
        with self._parts.database.write() as tx:
            return quotas.place(tx, bucket or store_settings.default_bucket(tx), prefix, max_bytes)

    def remove_quota(self, bucket: str, prefix: str) -> bool:
        """Remove a quota; False when there is none of just this bucket and prefix."""
        with self._parts.database.write() as tx:
            return quotas.drop(tx, bucket or store_settings.default_bucket(tx), prefix)
