"""Holding a pin: set for a block, kept alive by a thread, dropped at the end.

An owner that was stopped for longer than pins.DEAD_AFTER_MS may find its pin gone: gc drops it and removes what it
kept. `confirm` is asked before anything relies on what the pin was for.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import ShuttingDown, StoreBusy, StoreError
from gestalt_cas.keeping import pins
from gestalt_cas.operations.parts import Parts

log = logging.getLogger(__name__)


class HeldPin:
    """A pin on `parts`, a context manager. `name` is its own for good; `detail` is what others read of it."""

    def __init__(self, parts: Parts, name: str, kind: str, detail: dict[str, object]) -> None:
        self.name = name
        self._parts = parts
        self._kind, self._detail = kind, detail
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="gestalt-cas-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._parts.reserve.spend_on(self._place)
        try:
            self._thread.start()
        except BaseException:  # no more threads: a pin that nobody keeps alive would keep gc off until it is dead
            self._ended.set()  # or ctrl-C once the thread was there, which would keep it alive for good
            self._let_go()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._parts.reserve.spend_on(self._drop)
        except StoreError as failure:
            # It dies by itself; what the block did, or why it failed, matters more.
            log.warning("the pin %s could not be dropped, gc will: %s", self.name, failure)

    def check(self) -> None:
        """Raise StoreBusy if the pin is known to have gone."""
        if self._lost.is_set():
            raise StoreBusy(
                f"the pin {self.name} has gone: this process gave no sign of life for over "
                f"{pins.DEAD_AFTER_MS // 1000} s, and gc may have removed what it kept; start again"
            )

    def confirm(self) -> None:
        """Give a sign of life now; raises StoreBusy if the pin has gone."""
        self._parts.reserve.spend_on(self._beat)
        self.check()

    def _place(self) -> None:
        with self._parts.database.write() as tx:
            pins.drop_dead(tx, now_ms())
            pins.place(tx, self.name, self._kind, now_ms(), self._detail)

    def _beat(self) -> None:
        with self._parts.database.write() as tx:
            if not pins.beat(tx, self.name, now_ms()):
                self._lost.set()

    def _drop(self) -> None:
        with self._parts.database.write() as tx:
            pins.drop(tx, self.name)

    def _beat_on(self) -> None:
        while not self._ended.wait(pins.BEAT_SECONDS) and not self._lost.is_set():
            try:
                self._parts.reserve.spend_on(self._beat)
            except ShuttingDown:  # the store was closed before its owner was done, and stays so
                return
            except (StoreError, OSError) as error:
                log.warning("no sign of life for the pin %s, trying again: %s", self.name, error)
