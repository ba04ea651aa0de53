"""The commands; the first that is caught ends a run with the words that replay it.

python -m interleavings all [SCENARIO ...]    every pair of stops, in both orders, and more switches at random
python -m interleavings sample COUNT SEED     some of both
python -m interleavings broken SEED           shows that each fault of broken.py is caught
python -m interleavings replay SCENARIO OPPONENT SEGMENTS
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from interleavings.broken import BROKEN
from interleavings.scenarios import PAIRS
from interleavings.schedules import Arena, Fault, everything, sample, shuffled


def main(command: str = "", *words: str) -> None:
    if command not in COMMANDS:
        sys.exit(__doc__)
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-interleavings-", dir=place) as name:
        COMMANDS[command](Path(name), *words)


def play_all(directory: Path, *scenarios: str) -> None:
    started, total = time.monotonic(), 0
    with Arena(directory / "store") as arena:
        for scenario, opponent in PAIRS:
            if scenarios and scenario not in scenarios:
                continue
            count = 0
            for schedule in everything(arena, random.Random(0), scenario, opponent):
                arena.play(*schedule)
                count += 1
            print(f"{count:6} {scenario} / {opponent} ({time.monotonic() - started:.0f} s)", flush=True)
            total += count
    print(f"{total} schedules, {time.monotonic() - started:.0f} s")


def play_sample(directory: Path, count: str, seed: str) -> None:
    with Arena(directory / "store") as arena:
        for schedule in sample(arena, random.Random(int(seed)), int(count)):
            arena.play(*schedule)
        print(f"{count} schedules")


def replay(directory: Path, scenario: str, opponent: str, segments: str) -> None:
    with Arena(directory / "store") as arena:
        arena.play(scenario, opponent, json.loads(segments))


def catch_faults(directory: Path, seed: str) -> None:
    for number, (name, broken) in enumerate(BROKEN.items()):
        with Arena(directory / str(number), broken.patch, broken.prepare) as arena:
            try:
                for schedule in shuffled(arena, random.Random(int(seed)), broken.scenario, broken.opponent):
                    arena.play(*schedule)
            except Fault as fault:
                if "TypeError" in str(fault) or "AttributeError" in str(fault):
                    sys.exit(f"{name}: the fault no longer fits the code: {fault}")
                print(f"{name}: caught by schedule {arena.turn}")
                print(f"    {str(fault).splitlines()[1].strip()[:200]}")
            else:
                sys.exit(f"{name}: not caught in {arena.turn} schedules")


COMMANDS = {"all": play_all, "sample": play_sample, "replay": replay, "broken": catch_faults}

if __name__ == "__main__":
    main(*sys.argv[1:])
