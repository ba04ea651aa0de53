"""Environments for SDK releases: one venv per release under `.build/sdk` of the checkout, made once and kept.

Each holds the SDK and what our package depends on beside it, as pip resolves our own pyproject.toml with that release,
so that a release's client can be run against our server and our provider under a release's runtime. A finished
environment has a marker file that holds what was asked for; a directory without it, or with another wish, is made anew.
A lock lets test processes that run at the same time share the work.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from wire.process import ROOT

CACHE = Path(os.environ.get("SDK_ENVIRONMENTS") or ROOT / ".build" / "sdk")


class NotInstalled(RuntimeError):
    """An environment could not be made; the text says why, in pip's words."""


def python_of(release: str) -> Path:
    """The interpreter of the environment of a release such as 0.0.1a29, made first if need be; raises NotInstalled."""
    directory = CACHE / release
    marker, python = directory / "requirements.txt", directory / "bin" / "python"
    requirements = [f"gestalt-sdk=={release}", *_own_dependencies()]
    wanted = "\n".join([f"# Python {sys.version.split()[0]}", *requirements])
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (marker.exists() and marker.read_text() == wanted and _runs(python)):
            shutil.rmtree(directory, ignore_errors=True)
            venv.create(directory, with_pip=False)
            _install(python, requirements)
            marker.write_text(wanted)
    return python


def forget(release: str) -> None:
    """Remove a release's environment; each takes about 100 MB."""
    shutil.rmtree(CACHE / release, ignore_errors=True)


def _install(python: Path, requirements: list[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--quiet", "--no-compile", *requirements]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode == 0 and subprocess.run([python, "-c", "import typing_extensions"], check=False).returncode:
        # Python 3.15 cannot import the one that every release pins; see the Makefile.
        later = [*pip, "install", "--quiet", "--no-deps", "--upgrade", "typing-extensions"]
        done = subprocess.run(later, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotInstalled(
            f"cannot install {requirements[0]} for Python {sys.version.split()[0]}; this needs a package index that "
            f"pip can reach. pip said:\n{done.stderr.strip()}"
        )


def _own_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [line for line in project["dependencies"] if not line.startswith("gestalt-sdk")]


def _runs(python: Path) -> bool:
    """Whether the interpreter still is where the environment was made from it."""
    return python.exists() and subprocess.run([python, "-c", ""], check=False).returncode == 0
