"""Environments for SDK releases: one venv per release under `.build/sdk` of the checkout, made once and kept.

A finished environment has a marker file that names what was installed; a directory without it is a leftover of an
interrupted run and is made anew. A lock lets test processes that run at the same time share the work.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from wire.process import ROOT

CACHE = ROOT / ".build" / "sdk"
REQUIREMENTS = {
    "0.0.1a19": ["gestalt-sdk==0.0.1a19"],
    "newest": ["--pre", "--upgrade", "gestalt-sdk"],
}


def python_of(release: str) -> Path:
    """The interpreter of the release's environment, made first if need be; raises RuntimeError that says why not."""
    directory = CACHE / release
    marker, python = directory / "installed.txt", directory / "bin" / "python"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if marker.exists() and subprocess.run([python, "-c", "import gestalt"], check=False).returncode == 0:
            return python
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory, with_pip=True)
        install = [
            str(python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--quiet",
            "install",
            *REQUIREMENTS[release],
        ]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"cannot install {' '.join(REQUIREMENTS[release])} for {sys.version.split()[0]}; these tests need a "
                f"package index that pip can reach. pip said:\n{done.stderr.strip()}"
            )
        listed = subprocess.run([python, "-m", "pip", "list", "--format=freeze"], capture_output=True, check=True)
        marker.write_bytes(listed.stdout)
    return python
