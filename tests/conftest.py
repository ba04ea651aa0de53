"""Hypothesis profiles for all tests: `quick` by default, `thorough` with HYPOTHESIS_PROFILE=thorough; fixtures."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from gestalt_cas import Store

# A shell starts background jobs with SIGINT ignored, which children would inherit and tests of ctrl-C would wait for.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Time limits per example only measure how busy the machine is.
settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=5000, print_blob=True)
# For tests/mutation, which wants to know whether there is a failure and not the smallest one.
settings.register_profile(
    "mutation", settings.get_profile("quick"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store of its own for one test."""
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: a killed process loses nothing there, and hundreds of runs go fast."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-crash-", dir=place) as name:
        yield Path(name)
