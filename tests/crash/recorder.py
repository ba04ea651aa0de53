"""Runs workloads in a child process under the shim and keeps what they did.

The child imports the store once and forks for each job: a workload is prepared in one fork and recorded in another. It
reads jobs from its standard input, a line of JSON each, and answers each with a line, "" or what went wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from crash import shim, sites
from crash.disk import Recording, scan
from crash.session import Session
from crash.workloads import WORKLOADS

_ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = shim.BUILD / "recordings"
"""Where recordings are kept, so that a state of one can be made again: ids and salts differ in every run."""


class Recorder:
    """The child process; a context manager."""

    def __init__(self) -> None:
        places = os.pathsep.join([str(_ROOT), str(_ROOT / "tests")])
        self._child = subprocess.Popen(
            [sys.executable, "-m", "crash.recorder"],
            env={**os.environ, **shim.environment(None), "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def record(self, name: str, *, leave_out: str | None = None) -> Recording:
        """Record a workload, without the sync of the site `leave_out`; raises when the work itself fails."""
        with tempfile.TemporaryDirectory(prefix="gestalt-cas-record-", dir=shared_memory()) as place:
            root, log = Path(place) / "root", Path(place) / "log"
            root.mkdir()
            if WORKLOADS[name].prepare is not None:
                self._do({"prepare": name, "root": str(root)})
            base = scan(root)
            self._do({"run": name, "root": str(root), "log": str(log), "leave_out": leave_out})
            recording = Recording(base, shim.read(log))
        recording.save(saved_at(name, leave_out))
        return recording

    def _do(self, job: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps(job) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if answer != '""\n':
            raise RuntimeError(f"{job} failed: {json.loads(answer) if answer else 'the recorder has gone'}")


def saved_at(name: str, leave_out: str | None) -> Path:
    return RECORDINGS / f"{name}{'@' + leave_out.replace(':', '-') if leave_out else ''}.recording"


def shared_memory() -> str | None:
    """A place in memory where there is one: syncs cost nothing there."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _serve() -> None:
    sites.find()
    for line in sys.stdin:
        job = json.loads(line)
        answer = _in_fork(partial(_prepare if "prepare" in job else _run, job))
        print(json.dumps(answer), flush=True)


def _in_fork(work: Callable[[], None]) -> str:
    """Do the work in a forked process; returns what went wrong."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reading)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as its parent
            os.write(writing, traceback.format_exc().encode()[-4000:])
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as complaint:
        found = complaint.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return found or (f"it ended with {code}" if code else "")


def _prepare(job: dict[str, Any]) -> None:
    chosen = WORKLOADS[job["prepare"]]
    assert chosen.prepare is not None
    chosen.prepare(Path(job["root"]) / chosen.place)


def _run(job: dict[str, Any]) -> None:
    chosen, root = WORKLOADS[job["run"]], Path(job["root"])
    shim.begin(root, Path(job["log"]))
    mark = shim.Faults().mark
    sites.watch(mark, leave_out=job["leave_out"])
    chosen.run(Session(root, root / chosen.place, mark))


if __name__ == "__main__":
    _serve()
