"""Environments for SDK releases: one venv per release under `.build/sdk` of the checkout, made once and kept.

Each holds the SDK and what our package depends on beside it, so that a release's client can be run against our server
and our provider under a release's runtime. A finished environment has a marker file that holds what was asked for; a
directory without it, or with another wish, is made anew. A lock lets test processes that run at the same time share the
work.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

from wire.process import ROOT

CACHE = ROOT / ".build" / "sdk"
SDK = {
    "0.0.1a8": ["gestalt-sdk==0.0.1a8"],
    "0.0.1a19": ["gestalt-sdk==0.0.1a19"],
    "newest": ["--pre", "gestalt-sdk"],
}


def python_of(release: str) -> Path:
    """The interpreter of the release's environment, made first if need be; raises RuntimeError that says why not."""
    directory = CACHE / release
    marker, python = directory / "requirements.txt", directory / "bin" / "python"
    wanted = [*SDK[release], *_own_dependencies()]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists() and marker.read_text().splitlines() == wanted and _imports(python):
            return python
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory, with_pip=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", *wanted]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"cannot install {SDK[release][-1]} for Python {sys.version.split()[0]}; these tests need a package "
                f"index that pip can reach. pip said:\n{done.stderr.strip()}"
            )
        marker.write_text("\n".join(wanted))
    return python


def _own_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [line for line in project["dependencies"] if not line.startswith("gestalt-sdk")]


def _imports(python: Path) -> bool:
    """Whether the SDK can be imported: an interpreter that an environment was made with may have gone."""
    return python.exists() and subprocess.run([python, "-c", "import gestalt"], check=False).returncode == 0
