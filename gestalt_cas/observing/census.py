"""Counting what the store holds, which takes a pass over all rows: in the background, and only while somebody asks.

A pass begins when it is asked for and the one before is old enough; it takes at most a twentieth of the time. What it
found is shown until the next one is done.
"""

from __future__ import annotations

import logging
import threading
import time

from gestalt_cas.errors import StoreError
from gestalt_cas.mounts import Mount, Mounts
from gestalt_cas.statistics import Stats

log = logging.getLogger(__name__)

_COUNT_SHARE = 20
"""A pass over all rows is followed by a pause of so many times as long."""


class Census:
    """Counts what the store holds, on a thread of its own."""

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts
        self._lock = threading.Lock()
        self._counting = False
        self._again = 0.0
        self._of: object = None
        self._stats: Stats | None = None
        self.counted_at = 0.0

    def latest(self, mount: Mount) -> Stats | None:
        """The last count of this store, None before the first; begins another one when it is due."""
        every = mount.config.telemetry.statistics_seconds
        with self._lock:
            if self._of is not mount.opened:
                self._of, self._stats, self._again = mount.opened, None, 0.0
            if every and not self._counting and time.monotonic() >= self._again:
                self._counting = True
                threading.Thread(target=self._count, args=(every,), name="gestalt-cas-census", daemon=True).start()
            return self._stats if every else None

    def _count(self, every: float) -> None:
        began, found, of = time.monotonic(), None, None
        try:
            with self._mounts.use() as mount:
                of = mount.opened
                found = mount.store.stats(progress=of.stop_if_retired)
        except StoreError as error:
            log.warning("counting what the store holds: %s", error)
        took = time.monotonic() - began
        with self._lock:
            if found is not None and of is self._of:
                self._stats, self.counted_at = found, time.time()
            self._counting, self._again = False, time.monotonic() + max(every, took * _COUNT_SHARE)
