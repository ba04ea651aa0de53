"""A wall clock that tests set: what the store's parts see instead of the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gestalt_cas import Store, past, statistics, upkeep
from gestalt_cas.operations import batches, changes
from gestalt_cas.removal import garbage, purging, retention_previews, retention_runs, sweeps
from gestalt_cas.rows import moments
from gestalt_cas.time_travel import rollback

DAY = 86_400_000
BEGINNING = 1_800_000_000_000
_TELL_TIME = (
    *(batches, changes, garbage, moments, past, purging),
    *(retention_previews, retention_runs, rollback, statistics, sweeps, upkeep),
)


class Clock:
    """Milliseconds since the Unix epoch."""

    def __init__(self) -> None:
        self.now = BEGINNING

    def __call__(self) -> int:
        return self.now

    def advance(self, days: float) -> None:
        self.now += int(days * DAY)


@contextmanager
def set_clock() -> Iterator[Clock]:
    """A clock that commits, upkeep and what judges by age go by for the block."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        for module in _TELL_TIME:
            patch.setattr(module, "now_ms", clock)
        yield clock


@pytest.fixture(name="clock")
def clock_fixture() -> Iterator[Clock]:
    with set_clock() as clock:
        yield clock


@pytest.fixture(name="store")
def store_fixture(clock: Clock, tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened
