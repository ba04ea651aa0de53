"""`gestalt-cas serve`, with a thread beside it that takes orders to fail the process's disk.

The process is the real one in all else: the same main program under the same preloaded library. Orders come over a unix
socket named in FAULTS_SOCKET, a line each, and are answered with a line:

    arm N KIND STICKY     the N-th operation from now fails (crash/shim.py)
    disarm                no more faults; answers how many operations failed since arming
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

from crash import shim
from crash.shim import Fault, Faults
from wire.process import ROOT

SOCKET = "FAULTS_SOCKET"
PROGRAM = (sys.executable, "-m", "faults.serving", "serve")


def environment(root: Path, control: Path) -> dict[str, str]:
    """What such a server needs in its environment to suffer faults below `root` and to listen at `control`."""
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**shim.environment(root), SOCKET: str(control), "PYTHONPATH": places}


class Control:
    """The test's side: arms and disarms the server's faults."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw")

    def arm(self, number: int, kind: Fault, *, sticky: bool) -> None:
        assert self._ask(f"arm {number} {int(kind)} {int(sticky)}") == "armed"

    def disarm(self) -> int:
        return int(self._ask("disarm"))

    def _ask(self, order: str) -> str:
        self._lines.write(f"{order}\n")
        self._lines.flush()
        return self._lines.readline().strip()

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def _obey(listener: socket.socket) -> None:
    faults = Faults()
    while True:
        connection = listener.accept()[0]
        with connection, connection.makefile("rw") as lines:
            for line in lines:
                order, *numbers = line.split()
                if order == "arm":
                    number, kind, sticky = map(int, numbers)
                    faults.arm(number, Fault(kind), sticky=bool(sticky))
                    lines.write("armed\n")
                else:
                    faults.disarm()
                    lines.write(f"{faults.fired}\n")
                lines.flush()


def main() -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.environ[SOCKET])
    listener.listen()
    threading.Thread(target=_obey, args=(listener,), daemon=True).start()
    from gestalt_cas import cli

    cli.main()


if __name__ == "__main__":
    main()
