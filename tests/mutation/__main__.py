"""Judge every mutant: `python -m mutation [MODULE...] [OPTION...]`, with `tests` on the path; `--help` says which.

Each is judged by the tests of its module and then by those of the store, one process at a time; a test that fails, an
end by a signal, and a test that does not end all count as killed. Exits with 1 when a mutant survives that `survivors`
does not explain, and with 2 when the tests fail as things stand.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mutation.judging import ROOT, Judgement, Outcome, judge, quick_hypothesis, source_of, warm_up
from mutation.mutants import Mutant, chosen, mutants
from mutation.survivors import EQUIVALENT

MODULES = ("conditions", "ranges", "listing", "tokens", "versions", "version_walks", "buckets", "version_rows")
_TESTED_WITH = {
    "versions": ("versions", "version_walks"),
    "version_walks": ("version_walks", "versions"),
    "buckets": ("versions", "version_walks"),
    "version_rows": ("versions",),
}
"""Modules whose tests stand with those of others, too, or only there."""
# These start processes, which import the file and not the mutant, and take their time for it.
_SLOW = (
    "test_no_acknowledged_object_is_lost_to_a_remover",
    "test_a_counter_loses_nothing_over_processes",
    "test_on_a_full_disk_reads_and_removals_work",
    "test_an_open_that_fails_closes_what_it_has",
    "test_another_process_sees_a_setting_at_its_next_commit",
    "test_other_settings_than_those_of_a_live_server_are_refused",
    "test_a_live_server_that_has_come_to_the_same_settings_is_no_conflict",
    "test_two_that_adopt_the_same_at_once_are_in_no_conflict",
)
_REMEMBERED = 12
"""Tests that come first, since they have killed lately."""
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
STORE = ["tests/test_store.py", *(f"--deselect=tests/test_store.py::{name}" for name in _SLOW)]


@dataclass
class Score:
    """What became of the mutants of one module."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    explained: int = 0
    unexplained: list[Mutant] = field(default_factory=list)

    def add(self, mutant: Mutant, judgement: Judgement) -> None:
        self.outcomes[judgement.outcome] += 1
        if judgement.outcome is Outcome.SURVIVED:
            if mutant.name in EQUIVALENT.get(mutant.module, {}):
                self.explained += 1
            else:
                self.unexplained.append(mutant)

    def __str__(self) -> str:
        every, survived = self.outcomes.total(), self.outcomes[Outcome.SURVIVED]
        killable = every - self.explained
        share = 100 * (every - survived) / killable if killable else 100.0
        timed_out = self.outcomes[Outcome.TIMED_OUT]
        return (
            f"{every:4} mutants, {every - survived:4} killed ({timed_out} by time), {self.explained:3} equivalent, "
            f"{len(self.unexplained):3} survived: {share:.1f} %"
        )


def main() -> int:
    options = _options()
    every = [mutant for module in options.modules for mutant in chosen(_of(module), options.only)]
    every = every[options.start - 1 : options.stop : options.every]
    if options.list:
        print(*(f"{mutant.module}:{mutant.line} {mutant.name}" for mutant in every), sep="\n")
        return 0
    warm_up()
    with tempfile.TemporaryDirectory(prefix="gc-mutants-", dir=_MEMORY) as place, quick_hypothesis(Path(place) / "h"):
        tests = {module: _tests(module, Path(place), own=options.own) for module in options.modules}
        limits = {module: _limit(judges) for module, judges in tests.items()}
        if None in limits.values():
            return 2
        scores = {module: Score() for module in options.modules}
        killers: list[str] = []
        for number, mutant in enumerate(every, 1):
            judgement = judge(mutant, tests[mutant.module], limits[mutant.module] or 0, killers)
            if judgement.by:  # and it may well kill the next one too
                killers = [judgement.by, *(name for name in killers if name != judgement.by)][:_REMEMBERED]
            scores[mutant.module].add(mutant, judgement)
            _tell(f"{number}/{len(every)}", mutant, judgement)
    return _summary(scores)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutation")
    parser.add_argument("modules", nargs="*", default=MODULES, help=f"which of {', '.join(MODULES)}; all by default")
    parser.add_argument("--only", default="", metavar="WORDS", help="mutants whose name contains these words")
    parser.add_argument("--from", type=int, default=1, metavar="N", dest="start", help="begin with the N-th of these")
    parser.add_argument("--to", type=int, metavar="N", dest="stop", help="end with the N-th")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="the first and each N-th after it")
    parser.add_argument("--own", action="store_true", help="judge by the tests of the module alone, not by the store's")
    parser.add_argument("--list", action="store_true", help="name the mutants and judge none")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(sorted(unknown))}")
    return options


def _of(module: str) -> list[Mutant]:
    path = source_of(module)
    return mutants(module, path.read_text("utf-8"), str(path))


def _tests(module: str, place: Path, *, own: bool) -> list[str]:
    homes = [f"tests/test_{home}.py" for home in _TESTED_WITH.get(module, (module,))]
    return [f"--rootdir={ROOT}", f"--basetemp={place / 't'}", *homes, *([] if own else STORE)]


def _limit(tests: list[str]) -> float | None:
    """How long the tests may take with a mutant: twice what they take without; None when they fail so."""
    judgement = judge(None, tests, 300)
    print(f"{tests[2]}: as it stands {judgement.outcome.value} {judgement.by} ({judgement.seconds:.1f} s)", flush=True)
    return 2 * judgement.seconds + 3 if judgement.outcome is Outcome.SURVIVED else None


def _tell(number: str, mutant: Mutant, judgement: Judgement) -> None:
    by = f" by {judgement.by.removeprefix('tests/')}" if judgement.by else ""
    told = f"{number} {judgement.outcome.value}{by} ({judgement.seconds:.1f} s)"
    print(f"{told} {mutant.module}:{mutant.line} {mutant.name}", flush=True)


def _summary(scores: dict[str, Score]) -> int:
    print()
    for module, score in scores.items():
        print(f"{module:13}{score}")
        for mutant in score.unexplained:
            print(f"    survived: line {mutant.line}, {mutant.name}")
    return 1 if any(score.unexplained for score in scores.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
