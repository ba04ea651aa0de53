"""Counting what the store holds, which takes a pass over all rows: in the background, and only while somebody asks.

A pass begins when it is asked for and the one before is old enough; it takes at most a twentieth of the time. What it
found is shown until the next one is done.
"""

from __future__ import annotations

import logging
import threading
import time

from gestalt_cas.errors import Cancelled, ShuttingDown, StoreError
from gestalt_cas.serving.mounts import Mount, Mounts, OpenStore
from gestalt_cas.statistics import Stats

log = logging.getLogger(__name__)

_COUNT_SHARE = 20
"""A pass over all rows is followed by a pause of so many times as long."""


class Census:
    """Counts what the store holds, on a thread of its own. What it knows is of one store, the one asked for last."""

    def __init__(self, mounts: Mounts) -> None:
        self._mounts = mounts
        self._lock = threading.Lock()
        self._of: OpenStore | None = None
        self._counting = False
        self._again = 0.0
        self._stats: Stats | None = None
        self.counted_at = 0.0

    def latest(self, mount: Mount) -> Stats | None:
        """The last count of this store, None before the first; begins another one when it is due."""
        every = mount.config.telemetry.statistics_seconds
        with self._lock:
            if self._of is not mount.opened:
                self._of, self._counting, self._stats, self._again = mount.opened, False, None, 0.0
            if every and not self._counting and time.monotonic() >= self._again:
                self._begin(mount.opened, every)
            return self._stats if every else None

    def _begin(self, of: OpenStore, every: float) -> None:
        try:
            threading.Thread(target=self._count, args=(of, every), name="gestalt-cas-census", daemon=True).start()
        except RuntimeError:  # no more threads: whoever asks next tries again
            log.warning("what the store holds is not counted: no more threads can be started")
            return
        self._counting = True  # not before: a thread that cannot be started would never take it back

    def _count(self, of: OpenStore, every: float) -> None:
        began, found = time.monotonic(), None
        try:
            found = self._counted(of)
        except (Cancelled, ShuttingDown) as error:
            log.debug("not counted to the end: %s", error)
        except (StoreError, OSError) as error:
            log.warning("counting what the store holds: %s", error)
        finally:
            took = time.monotonic() - began
            with self._lock:
                if of is self._of:
                    self._counting, self._again = False, time.monotonic() + max(every, took * _COUNT_SHARE)
                    if found is not None:
                        self._stats, self.counted_at = found, time.time()

    def _counted(self, of: OpenStore) -> Stats | None:
        """The figures of this store; None when another one has taken its place."""
        with self._mounts.use() as mount:
            return mount.store.stats(progress=of.stop_if_retired) if mount.opened is of else None
