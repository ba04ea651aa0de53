"""Hypothesis profiles for all tests: `quick` by default, `thorough` with HYPOTHESIS_PROFILE=thorough; fixtures."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

import in_memory
from gestalt_cas import Store
from gestalt_cas.files import reserve
from gestalt_cas.system.processors import PROCESSORS

# A shell starts background jobs with SIGINT ignored, which children would inherit and tests of ctrl-C would wait for.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Images of containers say so, but then each of the many processes that tests start would compile the whole package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Time limits per example only measure how busy the machine is.
settings.register_profile("quick", max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=5000, print_blob=True)
# For tests/mutation, which wants to know whether there is a failure and not the smallest one.
settings.register_profile(
    "mutation", settings.get_profile("quick"), phases=[Phase.explicit, Phase.generate], database=None
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Have everything temporary in memory, unless somebody has said where, or there is too little."""
    if hasattr(config, "workerinput") or "TMPDIR" in os.environ or config.option.basetemp is not None:
        return
    if (place := in_memory.make()) is not None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(place)
        config.option.basetemp = str(place / "t")  # pytest's own names are too long for sockets


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: many a test waits for a while."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return len(mine) + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Have the collector of cycles leave alone what lives as long as the session: thousands of tests, all modules."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


_LONG = (
    "crash_campaign sdk_clients executable wrong_values conformance docs benchmarks contract_lifecycle cli crash",
    "wrong_providers full_disk faults backup_cut_off upgrade contract_versions lifecycle linearizability garbage races",
    "mutation cancel edge old_stores monitoring cli_objects wal damage endpoint_process kill pressure retention_model",
    "machine temporary_files contract_limits conformance_kit sqlite interleavings rollback malformed checking doctor",
    "stamps readme packaging",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the files, begin with those that take long: none shall be left alone with one at the end."""
    if hasattr(config, "workerinput"):
        rank = {f"test_{name}": number for number, name in enumerate(" ".join(_LONG).split())}
        items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(exitstatus: int) -> None:
    """Leave what tests that failed have left; the next run removes it."""
    if exitstatus == pytest.ExitCode.OK:
        in_memory.remove()


@pytest.fixture(scope="session", autouse=True)
def small_reserve() -> Iterator[None]:
    """There are thousands of stores; those that are opened in this process need not keep 16 MiB back each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reserve, "_LARGEST", 1 << 16)
        yield


@pytest.fixture(autouse=True)
def anywhere() -> Iterator[None]:
    """A server of this process may have put its threads on one processor, the tests' among them."""
    yield
    PROCESSORS.scatter()


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
