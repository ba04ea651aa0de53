"""The examples of the pages below docs/, run as they stand there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pasting import fenced, run_console, run_python, shell_fixture  # noqa: F401

TOURS = ["docs/time-travel.md", "docs/retention.md"]
"""Pages whose console blocks follow each other in one empty directory, with a store at $GESTALT_CAS_DATA_DIR."""
PROGRAMS = ["docs/time-travel.md"]
"""Pages whose Python blocks are programs."""


@pytest.mark.parametrize("page", TOURS)
def test_a_tour_prints_what_the_page_shows(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    (tmp_path / "tour").mkdir()
    shell["GESTALT_CAS_DATA_DIR"] = str(tmp_path / "tour" / "store")
    run_console(fenced(page, "console"), shell, tmp_path / "tour")


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    programs = fenced(page, "python")
    assert programs
    for text in programs:
        run_python(text, shell, tmp_path)
