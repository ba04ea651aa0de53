"""Examples of pages, run as they stand there: console blocks pasted into a shell, Python blocks as programs."""

from __future__ import annotations

import os
import re
import secrets
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ROOT = Path(__file__).parents[1]
HOME = "/home/me"
"""What pages show in place of the directory that the examples ran in."""
ANYTHING = "…"
"""In a line that a page shows: whatever stands there; as a line of its own: any number of lines."""
ID = re.compile(r"\b[0-9a-v]{24}\b")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_VARYING = re.compile(f"({ID.pattern}|{TIME.pattern}|{ANYTHING})")
_COMMAND_SECONDS = 120
_INTERIM = re.compile(r"^HTTP/1\.1 100 Continue\n\n", re.MULTILINE)
"""What curl shows before an answer if it is one that waits for this, even with a small body; later ones do not."""


def fenced(page: str, language: str) -> list[str]:
    """The blocks of this language in a page of the repository."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(name="shell")
def shell_fixture(tmp_path: Path) -> dict[str, str]:
    """An environment in which `gestalt-cas` is the command of this checkout, and `python` has the SDK."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, command in {"gestalt-cas": [sys.executable, "-m", "gestalt_cas"], "python": [sys.executable]}.items():
        (binaries / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (binaries / name).chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if name != "GESTALT_CAS_DATA_DIR"}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, lines that go on after `> ` included, with the lines that follow it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *lines = part.rstrip("\n").split("\n")
        more = next((n for n, line in enumerate(lines) if not line.startswith("> ")), len(lines))
        yield "\n".join([first, *(line.removeprefix("> ") for line in lines[:more])]), lines[more:]


class Shell:
    """One shell, into which a page's commands are pasted: variables, directories and background jobs stay.

    What it leaves running is ended with it.
    """

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self._mark = secrets.token_hex(8)
        commands, self._commands = os.pipe()
        loop = (
            f'while IFS= read -r -d "" -u {commands} command; do eval "$command" {commands}<&-; '
            f'printf "\\n%s %d\\n" {self._mark} $?; done'
        )
        self._bash = subprocess.Popen(
            ["bash", "-c", loop],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[commands],
            start_new_session=True,
        )
        os.close(commands)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._commands)
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()

    def run(self, command: str) -> list[str]:
        """The lines that a command prints, stdout and stderr as they come, with its exit code unless that is 0.

        Empty lines at the end are left out, since a page does not show them.
        """
        os.write(self._commands, command.encode() + b"\0")
        said = self._until(re.compile(rf"\n{self._mark} (\d+)\n".encode()), command)
        lines = said[0].decode().rstrip().splitlines()
        return lines if said[1] == "0" else [*lines, f"(exit code {said[1]})"]

    def _until(self, mark: re.Pattern[bytes], command: str) -> tuple[bytes, str]:
        assert self._bash.stdout is not None
        said, deadline = b"", time.monotonic() + _COMMAND_SECONDS
        while (found := mark.search(said)) is None:
            readable, _, _ = select.select([self._bash.stdout], [], [], max(0, deadline - time.monotonic()))
            piece = os.read(self._bash.stdout.fileno(), 1 << 16) if readable else b""
            assert piece, f"{command}\nhas not ended; so far it said:\n{said.decode()}"
            said += piece
        return said[: found.start()], found[1].decode()


def run_console(told: Iterable[str], environment: dict[str, str], directory: Path, home: str = HOME) -> None:
    """Paste the commands of these blocks in turn; each prints what the page shows, but for ids, times and `…`."""
    real: dict[str, str] = {}
    with Shell(environment, directory) as shell:
        for command, expected in chain.from_iterable(map(steps, told)):
            lines = shell.run(ID.sub(lambda found: real[found[0]], command))
            said = _INTERIM.sub("", "".join(f"{line}\n" for line in lines)).replace(str(directory), home)
            match = is_shown(expected, said)
            shown = "\n".join(expected)
            assert match, f"$ {command}\nshows on the page:\n{shown}\nand says here:\n{said}"
            real.update(zip(ID.findall("\n".join(expected)), match.groups(), strict=True))


def run_python(text: str, environment: dict[str, str], directory: Path) -> None:
    """Run a program; it ends without an error."""
    ran = subprocess.run([sys.executable, "-c", text], cwd=directory, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def is_shown(expected: Iterable[str], said: str) -> re.Match[str] | None:
    """Whether the lines of a page stand for what was said, all of it; the groups are the ids in it."""
    return re.fullmatch("".join(map(_pattern, expected)), said)


def _pattern(line: str) -> str:
    """What a line of a page stands for; each id is a group."""
    if line == ANYTHING:
        return r"(?:.*\n)*?"
    return "".join(map(_part, _VARYING.split(line))) + r"\n"


def _part(text: str) -> str:
    if text == ANYTHING:
        return ".*"
    if TIME.fullmatch(text):
        return TIME.pattern
    return f"({ID.pattern})" if ID.fullmatch(text) else re.escape(text)
