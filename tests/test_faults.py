"""Every operation of the store with the disk failing it: done, refused or unknown, nothing half-done, and on it goes.

Here a sample of the points, another one each time; `make faults` tries all of them (FAULTS_STRIDE=1), but
for the making of the 256 directories, of which it tries every twentieth.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from crash import shim
from faults.catalogue import CASES
from storage import ROOT

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

STRIDE = int(os.environ.get("FAULTS_STRIDE", "18"))
ALIKE = {"create a store": 20, "create a database": 5, "upgrade": 5, "back up": 3}
"""Cases with hundreds of points, which are tried as much more rarely."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.timeout(1800)
def test_an_operation_on_a_failing_disk(memory: Path, name: str) -> None:
    seed = secrets.randbelow(1 << 32)
    stride = STRIDE * ALIKE.get(name, 1) if STRIDE > 1 or name == "create a store" else 1
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "faults.sweep", str(memory), name, str(stride), str(seed)]
    done = subprocess.run(
        command,
        env={**os.environ, **shim.environment(memory), "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    print(f"seed {seed}")
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    ends = [line.split(": ")[1] for line in done.stdout.splitlines()]
    assert ends.count("untouched") == 11, "each kind of fault, once and for a while, until the call passes"
