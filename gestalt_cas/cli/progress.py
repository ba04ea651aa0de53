"""A progress bar on stderr for transfers that take a while: only on a terminal, and gone when they end."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gestalt_cas.cli.output import escaped

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE_SECONDS = 0.5
"""What is done sooner shows no bar (and does not import rich)."""


class Progress:
    """Counts bytes, and draws them once PATIENCE_SECONDS have passed. Thread-safe; a context manager.

    Work that tells where it is (`at`) is drawn then even if nothing more is told, since a single step over a large
    store may take long: whoever waits sees that something is being done, and at what.

    `total` is in bytes, None when it is not known; with `counted` steps are counted instead of bytes. `quiet` never
    draws: the bytes themselves go to the terminal.
    """

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False, counted: bool = False) -> None:
        self._label = label
        self._total = total
        self._counted = counted
        self._lock = threading.Lock()
        self._done = 0
        self._visible = sys.stderr.isatty() and not quiet
        self._start = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._visible = False
            if self._bar is not None:
                self._bar.stop()

    def describe(self, label: str) -> None:
        """Say what is worked on now."""
        self._label = label
        self.advance(0)

    def at(self, label: str, done: int, total: int) -> None:
        """Say what is worked on and how far that is; `total` 0 is not known."""
        with self._lock:
            self._label, self._done, self._total = label, done, total or None
            if self._timer is None and self._visible:
                self._timer = threading.Timer(PATIENCE_SECONDS, self.advance, (0,))
                self._timer.daemon = True
                with suppress(RuntimeError):  # no more threads: what is told later draws it
                    self._timer.start()
        self.advance(0)

    def advance(self, count: int) -> None:
        """Count `count` more bytes."""
        with self._lock:
            self._done += count
            if not self._visible or time.monotonic() - self._start < PATIENCE_SECONDS:
                return
            if self._bar is None:
                self._bar = self._make()
                self._task = self._bar.add_task("", total=self._total)
                self._bar.start()
            if self._task is not None:
                self._bar.update(self._task, completed=self._done, total=self._total, description=escaped(self._label))

    def _make(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        of_bytes = (DownloadColumn(binary_units=True), TransferSpeedColumn())
        return Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *((MofNCompleteColumn(),) if self._counted else of_bytes),
            console=Console(stderr=True),
            transient=True,
            # Lines that go to the same terminal are put above the bar; those that go elsewhere must stay as they are.
            redirect_stdout=sys.stdout.isatty(),
        )
