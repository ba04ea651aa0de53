"""The package as users get it: the wheel, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def build_package(place: Path) -> Path:
    """Put the sdist of the checkout, and the wheel built from that sdist, into the directory `place`."""
    # Without isolation, because isolation would fetch the build backend, which is in the `dev` extra.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(ROOT)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


class Installed:
    """The wheel in an environment of its own, which takes third-party packages from the one that runs the tests."""

    def __init__(self, place: Path, wheel: Path) -> None:
        self.home = place / "home"
        self.home.mkdir()
        self.environment = place / "environment"
        venv.create(self.environment, with_pip=False)
        self.python = self.environment / "bin/python"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
        (packages,) = self.environment.glob("lib/python*/site-packages")
        # Directories named in a .pth file are searched, but .pth files in them are not obeyed: were the checkout
        # installed there as editable, it stays out of reach.
        shared = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (packages / "shared.pth").write_text("".join(f"{directory}\n" for directory in shared))

    def run(self, *command: str, expect: int = 0, data: bytes = b"") -> bytes:
        """Run a command in an empty directory, with the sparse environment that a host gives; returns its stdout."""
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8"}
        done = subprocess.run(command, cwd=self.home, env=variables, input=data, capture_output=True, check=False)
        assert done.returncode == expect, done.stderr.decode()
        return done.stdout

    def evaluate(self, script: str) -> Any:
        """The value that a script prints as JSON."""
        return json.loads(self.run(str(self.python), "-c", script))

    def command(self, *arguments: str, expect: int = 0, data: bytes = b"") -> bytes:
        return self.run(str(self.environment / "bin/gestalt-cas"), *arguments, expect=expect, data=data)
