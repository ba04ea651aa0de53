"""The examples of the pages below docs/, run as they stand there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from subprocess import DEVNULL

import pytest

from pasting import fenced, run_console, run_python, shell_fixture  # noqa: F401
from test_old_stores import unpack

TOURS = ["docs/monitoring.md", "docs/retention.md", "docs/standalone.md", "docs/time-travel.md", "docs/upgrade.md"]
"""Pages whose console blocks follow each other in one empty directory, with a store at $GESTALT_CAS_DATA_DIR.

That of upgrade.md is an old one that is there from the beginning."""
PROGRAMS = ["docs/embed.md", "docs/time-travel.md"]
"""Pages whose Python blocks are programs."""


@pytest.mark.parametrize("page", TOURS)
def test_a_tour_prints_what_the_page_shows(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    told = fenced(page, "console")
    if any("curl " in one for one in told) and shutil.which("curl") is None:
        pytest.skip("the page uses curl")
    (tmp_path / "tour").mkdir()
    shell["GESTALT_CAS_DATA_DIR"] = str(tmp_path / "tour" / "store")
    if page == "docs/upgrade.md":
        unpack("0001", tmp_path / "tour")
    try:
        run_console(told, shell, tmp_path / "tour")
    finally:
        subprocess.run(
            ["bash", "-c", "test ! -f server.pid || kill -9 $(cat server.pid)"], cwd=tmp_path / "tour", stderr=DEVNULL
        )


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    programs = fenced(page, "python")
    assert programs
    for text in programs:
        run_python(text, shell, tmp_path)
