"""Run tests against a mutant, in a forked process that imports the mutant's code in place of the module's file.

The parent has imported pytest, Hypothesis and the libraries, and nothing of gestalt_cas; so a judgement costs little
more than the tests that it takes until one fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest

from mutation.mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "gestalt_cas"
FOLDERS = ("rules", "rows")


def source_of(module: str) -> Path:
    """The file of the module of that name, which is one of the rules or of the SQL."""
    (found,) = (path for folder in FOLDERS if (path := PACKAGE / folder / f"{module}.py").is_file())
    return found


_LIBRARIES = ("hypothesis.stateful", "alembic.command", "blake3", "xxhash", "xml.sax")
_MEMORY = 2 << 30
"""A mutant whose loop does not end may otherwise take the machine's memory before its time is up."""
_TEST_SECONDS = 60
"""Of the clock on the wall, for a test that waits for what a mutant never does; a loop without end meets its limit of
processor time long before, which a busy machine does not shorten."""


class Outcome(Enum):
    """What became of a mutant."""

    SURVIVED = "survived"
    KILLED = "killed"
    TIMED_OUT = "timed out"
    CRASHED = "crashed"


@dataclass(frozen=True)
class Judgement:
    """The outcome, and the first test that failed; the seconds are of processor time."""

    outcome: Outcome
    by: str
    seconds: float


def warm_up() -> None:
    """Import what every judgement needs, and let the first one keep what it compiles of the rest."""
    sys.dont_write_bytecode = False
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # pytest collects garbage at its end, which need not look through all that again


def judge(mutant: Mutant | None, tests: Sequence[str], limit: float, first: Sequence[str] = ()) -> Judgement:
    """Run `tests` (paths and options of pytest) until one fails, those named `first` before the others.

    With None in place of a mutant, as it stands. They may take `limit` seconds of processor time, and ten times as many
    by the clock on the wall.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _in_child(mutant, tests, math.ceil(limit), _Plugin(writing, first))
    os.close(writing)
    status, seconds = _wait(child, time.monotonic() + 10 * limit)
    with os.fdopen(reading) as reports:
        by = reports.readline().strip()
    return Judgement(_outcome(status), by, seconds)


def _outcome(status: int | None) -> Outcome:
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return Outcome.TIMED_OUT
    if os.WIFSIGNALED(status):
        return Outcome.CRASHED
    return Outcome.SURVIVED if os.WEXITSTATUS(status) == pytest.ExitCode.OK else Outcome.KILLED


def _wait(child: int, deadline: float) -> tuple[int | None, float]:
    """The status of the child (None: it had to be ended) and its processor time. What it has started ends with it."""
    ended = None
    while ended is None and time.monotonic() < deadline:
        # Not reaped yet, so that nobody else can have its number when its group is ended.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    return status if ended else None, usage.ru_utime + usage.ru_stime


def _in_child(mutant: Mutant | None, tests: Sequence[str], seconds: int, plugin: _Plugin) -> None:
    """Never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        if mutant is not None:
            sys.meta_path.insert(0, _Finder(mutant))
        options = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:xdist"]
        # Hypothesis and its plug-in are imported already, which the rewriting of asserts warns of.
        options += [
            "-W",
            "ignore::pytest.PytestAssertRewriteWarning",
            "--hypothesis-seed=0",
            f"--timeout={_TEST_SECONDS}",
        ]
        code = int(pytest.main([*options, *tests], plugins=[plugin]))
    finally:
        os._exit(code)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        source = source_of(mutant.module)
        self._name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
        self._file = str(source)
        self._code = mutant.code

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._file, loader=_Loader(name, self._file, self._code))


class _Loader(SourceFileLoader):
    def __init__(self, name: str, file: str, code: CodeType) -> None:
        super().__init__(name, file)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class _Plugin:
    """Of pytest: puts some tests first, and writes the name of the one that failed, or that could not be collected."""

    def __init__(self, report_to: int, first: Sequence[str]) -> None:
        self._report_to = report_to
        self._ranks = {name: rank for rank, name in enumerate(first)}

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._ranks.get(item.nodeid, len(self._ranks)))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tell(report)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._tell(report)

    def _tell(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.failed:
            os.write(self._report_to, f"{report.nodeid}\n".encode())


@contextlib.contextmanager
def quick_hypothesis(storage: Path) -> Iterator[None]:
    """Examples are drawn the same way each time and a failure is not shrunk: only that there is one counts."""
    kept = {name: os.environ.get(name) for name in ("HYPOTHESIS_PROFILE", "HYPOTHESIS_STORAGE_DIRECTORY")}
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(storage)
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
