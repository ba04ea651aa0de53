"""README.md's examples, run as they stand there: the tour in a shell, the Python snippets as programs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
RETENTION = (Path(__file__).parents[1] / "docs" / "retention.md").read_text()
HOME = "/home/me/tour"
ID = re.compile(r"\b[0-9a-v]{24}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def block(language: str, text: str) -> str:
    found = [one for one in blocks(language) if text in one]
    assert len(found) == 1, f"README.md has {len(found)} {language} blocks with {text!r}"
    return found[0]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment in which `gestalt-cas` is the command of this checkout."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "gestalt-cas"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gestalt_cas "$@"\n')
    command.chmod(0o755)
    (tmp_path / "tour").mkdir()
    inherited = {name: value for name, value in os.environ.items() if name != "GESTALT_CAS_DATA_DIR"}
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block with the lines that follow it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *lines = part.rstrip("\n").split("\n")
        yield command, lines


def test_the_tour_prints_what_the_readme_shows(shell: dict[str, str], tmp_path: Path) -> None:
    told = (block("console", "gestalt-cas sync"), block("console", "gestalt-cas purge"))
    run_console(told, shell, tmp_path / "tour")


def test_retention_does_what_its_page_shows(shell: dict[str, str], tmp_path: Path) -> None:
    run_console(re.findall(r"```console\n(.*?)```", RETENTION, flags=re.DOTALL), shell, tmp_path / "tour")


def run_console(told: Iterable[str], shell: dict[str, str], directory: Path) -> None:
    """Run the commands of console blocks, and compare what they print but for ids and times."""
    real: dict[str, str] = {}
    for command, expected in chain.from_iterable(map(steps, told)):
        text = ID.sub(lambda found: real[found[0]], command).replace("$PWD", str(directory))
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").partition(";")[0].partition("=")
            shell[name] = value
        ran = subprocess.run(["bash", "-c", text], cwd=directory, env=shell, capture_output=True, text=True)
        lines = (ran.stdout + ran.stderr).replace(str(directory), HOME).splitlines()
        if ran.returncode:
            lines.append(f"(exit code {ran.returncode})")
        assert [blank(line) for line in lines] == [blank(line) for line in expected], command
        for shown, line in zip(expected, lines, strict=True):
            real.update(zip(ID.findall(shown), ID.findall(line), strict=True))


def blank(line: str) -> str:
    return TIME.sub("TIME", ID.sub("ID", line))


def test_the_store_example_runs(shell: dict[str, str], tmp_path: Path) -> None:
    run_python(block("python", "Store.open"), shell, tmp_path)


def test_the_client_example_talks_to_a_server(shell: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "tour"
    command, expected = next(steps(block("console", "until SIGTERM or ctrl-C")))
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=directory,
        env=shell,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline().replace(str(directory), HOME))
        assert {name: ready[name] for name in json.loads(expected[0])} == json.loads(expected[0])
        run_python(block("python", "s3.write_object"), shell, directory)
    finally:
        server.terminate()
        server.communicate(timeout=10)
    assert server.returncode == 0


def run_python(text: str, environment: dict[str, str], directory: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", text], cwd=directory, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
