"""Examples of pages, run as they stand there: console blocks in a shell, Python blocks as programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOME = "/home/me"
"""What pages show in place of the directory that the examples ran in."""
ID = re.compile(r"\b[0-9a-v]{24}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def fenced(page: str, language: str) -> list[str]:
    """The blocks of this language in a page of the repository."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.fixture(name="shell")
def shell_fixture(tmp_path: Path) -> dict[str, str]:
    """An environment in which `gestalt-cas` is the command of this checkout."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "gestalt-cas"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gestalt_cas "$@"\n')
    command.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "GESTALT_CAS_DATA_DIR"}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines that follow it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *lines = part.rstrip("\n").split("\n")
        yield command, lines


def run_console(told: Iterable[str], shell: dict[str, str], directory: Path, home: str = HOME) -> None:
    """Run the commands of these blocks in turn; each prints what the page shows, but for ids and times."""
    real: dict[str, str] = {}
    for command, expected in chain.from_iterable(map(steps, told)):
        text = ID.sub(lambda found: real[found[0]], command).replace("$PWD", str(directory))
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").partition(";")[0].partition("=")
            shell[name] = value
        ran = subprocess.run(["bash", "-c", text], cwd=directory, env=shell, capture_output=True, text=True)
        lines = (ran.stdout + ran.stderr).replace(str(directory), home).splitlines()
        if ran.returncode:
            lines.append(f"(exit code {ran.returncode})")
        assert [_blank(line) for line in lines] == [_blank(line) for line in expected], command
        for shown, line in zip(expected, lines, strict=True):
            real.update(zip(ID.findall(shown), ID.findall(line), strict=True))


def run_python(text: str, environment: dict[str, str], directory: Path) -> None:
    """Run a program; it ends without an error."""
    ran = subprocess.run([sys.executable, "-c", text], cwd=directory, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def _blank(line: str) -> str:
    return TIME.sub("TIME", ID.sub("ID", line))
