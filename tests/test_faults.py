"""Every operation of the store with the disk failing it: done, refused or unknown, nothing half-done, and on it goes.

Here a sample of the points, another one each time; `make faults` tries all of them (FAULTS_STRIDE=1), but
for the making of the 256 directories, of which it tries every twentieth.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from crash import shim
from crash.recorder import shared_memory
from faults.catalogue import CASES
from storage import ROOT

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

STRIDE = int(os.environ.get("FAULTS_STRIDE", "18"))
ALIKE = {"create a store": 20, "create a database": 5, "upgrade": 5, "back up": 3}
ALIKE |= {"restore a backup": 5, "repair from a backup": 5}
"""Cases with hundreds of points, which are tried as much more rarely."""


class Sweeper:
    """The process that does the sweeps, each in a fork and in a directory of its own; a context manager."""

    def __init__(self, place: Path) -> None:
        self._place = place
        places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.sweep"],
            env={**os.environ, **shim.environment(place), "PYTHONPATH": places},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def sweep(self, name: str, stride: int, seed: int, output: Path) -> int:
        """The exit status; what was said is in the file `output`, which must not lie where operations are counted."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory(dir=self._place) as directory:
            self._process.stdin.write(json.dumps([str(output), directory, name, str(stride), str(seed)]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        assert answer, "the process that sweeps has gone"
        return int(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


@pytest.fixture(scope="module", name="sweeper")
def sweeper_fixture() -> Iterator[Sweeper]:
    with (
        tempfile.TemporaryDirectory(prefix="gestalt-cas-crash-", dir=shared_memory()) as place,
        Sweeper(Path(place)) as started,
    ):
        yield started


@pytest.mark.parametrize("name", CASES)
@pytest.mark.timeout(1800)
def test_an_operation_on_a_failing_disk(sweeper: Sweeper, tmp_path: Path, name: str) -> None:
    seed = secrets.randbelow(1 << 32)
    stride = STRIDE * ALIKE.get(name, 1) if STRIDE > 1 or name == "create a store" else 1
    print(f"seed {seed}")
    code = sweeper.sweep(name, stride, seed, tmp_path / "said")
    said = (tmp_path / "said").read_text()
    print(said)
    assert code == 0, said[-2000:]
    ends = [line.split(": ")[1] for line in said.splitlines() if line.startswith(f"{name}, ")]
    assert ends.count("untouched") == 11, "each kind of fault, once and for a while, until the call passes"
