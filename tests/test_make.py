"""The Makefile on its own, in a directory whose name has spaces, with stand-ins for what it would install."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TRIED = "python -c import typing_extensions"
# Notes how it was called, one line a call.
STAND_IN = '#!/bin/sh\necho "$(basename "$0") $*" >> calls\n'


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a complete environment made of stand-ins."""
    place = tmp_path / "a check out"
    place.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, place)
    for name in ("python", "gestalt-cas"):
        executable(place / ".venv/bin" / name, STAND_IN)
    for name in (".installed", ".installed-dev"):
        shutil.copy(ROOT / "pyproject.toml", place / ".venv" / name)
    return place


def make(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What make does there, whatever the tests themselves were started with, as by `make test JOBS=2`."""
    ours = ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", *re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE))
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *words], cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def calls(place: Path) -> list[str]:
    log = place / "calls"
    return log.read_text().splitlines() if log.exists() else []


def test_run_serves_at_once_from_a_complete_environment(checkout: Path) -> None:
    assert make(checkout, "run", "ARGS=--log-format json").returncode == 0
    assert calls(checkout) == ["gestalt-cas serve --data-dir .data --log-format json"]


def test_newer_but_equal_project_file_installs_nothing(checkout: Path) -> None:
    (checkout / ".venv/.installed").touch()
    (checkout / "pyproject.toml").touch()
    assert make(checkout, "run").returncode == 0
    assert not [call for call in calls(checkout) if "install" in call]
    assert calls(checkout)[-1] == "gestalt-cas serve --data-dir .data"


def test_changed_project_file_installs_once(checkout: Path) -> None:
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    assert make(checkout, "install").returncode == 0
    assert make(checkout, "install").returncode == 0
    installs = [call for call in calls(checkout) if " install " in call]
    assert installs == ["python -m pip --disable-pip-version-check install --quiet --editable ."]


def test_failed_install_is_tried_again(checkout: Path) -> None:
    (checkout / ".venv/.installed-dev").unlink()
    executable(checkout / ".venv/bin/python", STAND_IN + 'case "$*" in *" install "*) exit 1;; esac\n')
    assert make(checkout, "test").returncode != 0
    assert not (checkout / ".venv/.installed-dev").exists()
    executable(checkout / ".venv/bin/python", STAND_IN)
    assert make(checkout, "test", "TESTS=-q").returncode == 0
    assert calls(checkout)[-3:] == [
        "python -m pip --disable-pip-version-check install --quiet --editable .[dev]",
        TRIED,
        "python -m pytest -n auto --dist loadfile --no-loadscope-reorder -q",
    ]


def test_too_old_python_is_named(checkout: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    old = 'case "$1" in --version) echo Python 3.10.13;; -c) exit 1;; esac\n'
    executable(checkout / "old-python", STAND_IN + old)
    done = make(checkout, "run", "PYTHON=./old-python")
    assert done.returncode != 0
    assert "needs Python 3.11 or later; './old-python --version' says: Python 3.10.13" in done.stderr
    assert not (checkout / ".venv").exists()


def test_environment_whose_python_has_gone_is_made_anew(checkout: Path) -> None:
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/python").symlink_to("gone")
    (checkout / ".venv/.installed").unlink()
    making = (
        'case "$*" in "-m venv "*) cp stand-in .venv/bin/python.new; mv .venv/bin/python.new .venv/bin/python;; esac\n'
    )
    executable(checkout / "stand-in", STAND_IN)
    executable(checkout / "new-python", STAND_IN + making)
    assert make(checkout, "install", "PYTHON=./new-python").returncode == 0
    assert "new-python -m venv --clear .venv" in calls(checkout)
    assert calls(checkout)[-2].endswith("install --quiet --editable .")


def test_help_lists_the_targets(checkout: Path) -> None:
    shown = make(checkout).stdout
    for target in ("run", "test", "check", "proto", "clean"):
        assert f"make {target} " in shown


def test_ci_runs_what_the_readme_names() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines.index("make check") < lines.index('if make test >"$log" 2>&1; then')


@pytest.mark.parametrize("outcome", [0, 2])
def test_ci_ends_with_the_summary_and_begins_with_what_failed(tmp_path: Path, outcome: int) -> None:
    said = ["FAILED tests/test_a.py::test_b - E", "E   OSError: no room", "= 1 failed, 2 passed ="]
    tools = tmp_path / "bin"
    tools.mkdir()
    answer = "".join(f"echo '{line}'\n" for line in said) + f"exit {outcome}\n"
    (tools / "make").write_text(f'#!/bin/sh\n[ "$1" = test ] || exit 0\n{answer}')
    for name in ("nginx", "curl"):
        (tools / name).write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.run([ROOT / ".ci/run"], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == outcome
    lines = run.stdout.splitlines()
    assert lines[-1] == said[-1]
    assert (lines[: len(lines) - len(said)] != []) == bool(outcome)
    assert (said[0] in lines[:-3]) == bool(outcome)


def test_a_typing_extensions_that_this_python_cannot_import_is_replaced(checkout: Path) -> None:
    """The one that the SDK pins is such a one from Python 3.15 on."""
    (checkout / ".venv/.installed").unlink()
    assert make(checkout, "install").returncode == 0
    assert not [call for call in calls(checkout) if "typing-extensions" in call]
    (checkout / ".venv/.installed").unlink()
    broken = STAND_IN + 'case "$*" in *typing_extensions*) exit 1;; esac\n'
    executable(checkout / ".venv/bin/python", broken)
    assert make(checkout, "install").returncode == 0
    assert calls(checkout)[-2] == TRIED
    assert calls(checkout)[-1].endswith("install -qqq --no-deps --upgrade typing-extensions")
