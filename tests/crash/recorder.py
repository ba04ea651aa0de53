"""Runs a workload in a child process under the shim and keeps what it did."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from crash import shim
from crash.disk import Recording, scan
from crash.workloads import WORKLOADS

_ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = shim.BUILD / "recordings"
"""Where recordings are kept, so that a state of one can be made again: its ids and salts differ in every run."""


def record(name: str, *, leave_out: str | None = None) -> Recording:
    """Record a workload, without the sync of the site `leave_out`; raises when the work itself fails."""
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-record-", dir=shared_memory()) as place:
        root, log = Path(place) / "root", Path(place) / "log"
        root.mkdir()
        if WORKLOADS[name].prepare is not None:
            _run(["-c", "from crash import workloads; workloads.prepare()", name, str(root)], {})
        base = scan(root)
        arguments = ["-m", "crash.workloads", name, str(root), *([leave_out] if leave_out else [])]
        _run(arguments, shim.environment(root, log=log))
        recording = Recording(base, shim.read(log))
    recording.save(saved_at(name, leave_out))
    return recording


def saved_at(name: str, leave_out: str | None) -> Path:
    return RECORDINGS / f"{name}{'@' + leave_out.replace(':', '-') if leave_out else ''}.recording"


def shared_memory() -> str | None:
    """A place in memory where there is one: syncs cost nothing there."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _run(arguments: list[str], added: dict[str, str]) -> None:
    places = os.pathsep.join([str(_ROOT), str(_ROOT / "tests")])
    environment = {**os.environ, **added, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
