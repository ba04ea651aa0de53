"""A command does not look for garbage while it imports nor when it ends; a server does once it serves."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gestalt_cas.system import cycles
from wire.process import ROOT


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The collector as it was; what is frozen stays so."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def test_a_process_that_goes_on_collects_as_usual() -> None:
    usual = gc.get_threshold()
    cycles.begin()
    assert gc.get_threshold() == (10_000, *usual[1:])
    frozen = gc.get_freeze_count()
    kept = [[number] for number in range(1000)]
    cycles.settle()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() >= frozen + len(kept)


def test_garbage_of_later_is_still_found() -> None:
    cycles.settle()
    looped: list[object] = []
    looped.append(looped)
    del looped
    assert gc.collect() > 0


def test_a_command_looks_through_nothing_at_its_end() -> None:
    script = (
        "import atexit, gc, json, sys\n"
        "from gestalt_cas.cli import main\n"
        "atexit.register(lambda: print(json.dumps([len(gc.get_objects()), gc.get_freeze_count()]), file=sys.stderr))\n"
        "sys.argv[1:] = ['--version']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    left, frozen = json.loads(done.stderr)
    assert left < 1000 < frozen
