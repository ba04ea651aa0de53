"""Enumerates the states that a crash may leave of the recorded workloads, and judges the store on each.

    python -m crash.campaign --states 20000 --seed 1            all workloads, about that many distinct states
    python -m crash.campaign --workload uploads --states 500    one of them
    python -m crash.campaign --sites                            leave out each sync in turn: each must be missed
    python -m crash.campaign --replay ID                        one state again, from the recording that was kept

An ID is WORKLOAD[@SITE]:PREFIX:CHOICES, as a failure prints it. A state counts once however many ways lead to it; it is
judged by what had been answered at the latest of them, which is the hardest.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from crash import recorder, shim, sites
from crash.disk import Disk, Recording, choices_text, described, parse_choices
from crash.enumeration import Candidate, Plan, candidates, normal
from crash.expectations import Expectations
from crash.judgement import Judge
from crash.preparing import PREPARED, a_store_of_the_first_format
from crash.shim import Op
from crash.trees import Tree
from crash.workloads import WORKLOADS, has_objects
from gestalt_cas.files import reserve

_BATCH = 50
COLLECTED = 32
"""On one state in so many garbage is collected."""
_RANDOM_ROUNDS = 6
_SPARE = 4
"""So many times the wanted states are made at first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A state that breaks a promise."""

    replay: str
    complaint: str
    lost: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.replay}", f"  {self.complaint}", *(f"  {line}" for line in self.lost)])


@dataclass(frozen=True, slots=True)
class Outcome:
    workload: str
    judged: int
    findings: tuple[Finding, ...]


class Bench:
    """One recording with all that judging its states takes; states are taken in the order of their prefixes."""

    def __init__(self, workload: str, recording: Recording, place: Path, leave_out: str | None = None) -> None:
        self.workload = f"{workload}@{leave_out}" if leave_out else workload
        self._recording = recording
        made = WORKLOADS[workload].prepare
        prepared = dict(PREPARED) if has_objects(workload) else {}
        self._expectations = Expectations(recording, prepared)
        payloads = self._expectations.payloads()
        directory = place / WORKLOADS[workload].place
        self._judge = Judge(directory, payloads, upgraded=made is a_store_of_the_first_format)
        self._tree = Tree(place, recording, self._judge.digests())

    def judge(self, chosen: Iterable[Candidate]) -> Iterator[Finding]:
        disk = Disk(self._recording)
        for candidate in sorted(chosen, key=lambda candidate: candidate.position):
            while disk.position < candidate.position:
                disk.step()
            self._tree.become(*disk.build(candidate.choices))
            # Collecting looks at every fan-out directory, so it is done on some of the states, whichever run it is.
            collect = sum(candidate.choices) % COLLECTED == candidate.position % COLLECTED
            try:
                self._judge.judge(self._expectations.at(candidate.position), collect=collect)
            except Exception as error:  # noqa: BLE001 - whatever the store raises is a finding
                yield self._finding(disk, candidate, error)

    def _finding(self, disk: Disk, candidate: Candidate, error: Exception) -> Finding:
        last = self._recording.entries[candidate.position - 1] if candidate.position else "nothing"
        where = traceback.extract_tb(error.__traceback__)[-1]
        lines = (f"after: {last}", *described(disk, candidate.choices))
        complaint = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Finding(replay_id(self.workload, candidate), complaint, lines)


def replay_id(workload: str, candidate: Candidate) -> str:
    return f"{workload}:{candidate.position}:{choices_text(normal(candidate.choices))}"


def distinct(recording: Recording, plans: Iterable[Plan], wanted: int) -> list[Candidate]:
    """One way to each distinct state, the latest, for one plan after the other until there are `wanted`."""
    found: dict[bytes, Candidate] = {}
    for plan in plans:
        before = len(found)
        for disk, candidate in candidates(recording, plan):
            key = disk.state(candidate.choices).key()
            if key not in found or found[key].position < candidate.position:
                found[key] = candidate
        if len(found) >= wanted or (not plan.systematic and len(found) == before):
            break
    return list(found.values())


def all_over(recording: Recording, seed: int, wanted: int) -> list[Candidate]:
    """Distinct states from all prefixes, or from some of them when few are wanted; in an order drawn from the seed.

    To make a state takes a good part of the time that it takes to judge it, so of many no more are made than may do.
    """
    share = min(1.0, wanted / len(recording.entries))
    rounds = (2**number if number else 0 for number in range(_RANDOM_ROUNDS))
    plans = [Plan(seed + count, share, count, systematic=not count) for count in rounds]
    there = sum(1 for _ in candidates(recording, plans[0]))
    some = replace(plans[0], kept=min(1.0, _SPARE * wanted / there))
    found = distinct(recording, (some, *plans), wanted)
    random.Random(seed).shuffle(found)
    return found[:wanted]


def at_turns(recording: Recording, seed: int) -> list[Candidate]:
    """Distinct states from the moments when a call was answered, or a file renamed: a missing sync shows there."""
    renamed = {place + 1 for place, entry in enumerate(recording.entries) if entry.op is Op.RENAME and entry.ok}
    positions = Expectations(recording, {}).answers() | renamed
    found = distinct(recording, [Plan(seed, 1.0, 8, systematic=True, positions=positions)], 0)
    random.Random(seed).shuffle(found)
    return sorted(found, key=lambda candidate: len(candidate.choices) != 1)


@contextmanager
def bench(workload: str, recording: Recording, leave_out: str | None = None) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-crash-", dir=recorder.shared_memory()) as place:
        yield Bench(workload, recording, Path(place), leave_out)


def judged(workload: str, recording: Recording, chosen: list[Candidate]) -> Outcome:
    """Judge these states of a recording."""
    with bench(workload, recording) as judging:
        return Outcome(workload, len(chosen), tuple(judging.judge(chosen)))


def first_finding(workload: str, recording: Recording, *, states: int, seed: int, leave_out: str) -> Finding | None:
    """Judge states of a recording in which a sync was left out until one breaks a promise."""
    with bench(workload, recording, leave_out) as judging:
        for chosen in (at_turns(recording, seed), all_over(recording, seed, states)):
            for start in range(0, len(chosen), _BATCH):
                for finding in judging.judge(chosen[start : start + _BATCH]):
                    return finding
    return None


def replay(name: str) -> list[Finding]:
    """Judge one state again."""
    workload, position, choices = name.rsplit(":", 2)
    workload, _, leave_out = workload.partition("@")
    recording = Recording.load(recorder.saved_at(workload, leave_out or None))
    with bench(workload, recording, leave_out or None) as judging:
        return list(judging.judge([Candidate(int(position), parse_choices(choices))]))


def reached_by(site: sites.Site, recordings: dict[str, Recording]) -> list[str]:
    """The workloads that come to a site, the shortest recording first."""
    mark = f"site {site.name}".encode()
    found = [
        name
        for name, recording in recordings.items()
        if site.is_pragma or any(entry.data == mark for entry in recording.entries)
    ]
    return sorted(found, key=lambda name: len(recordings[name].entries))


def missed(
    site: sites.Site, workloads: list[str], records: recorder.Recorder, *, states: int, seed: int
) -> Finding | None:
    """The first finding when the site's sync is left out; None when no workload's states show that it is missing."""
    for workload in workloads:
        recording = records.record(workload, leave_out=site.name)
        finding = first_finding(workload, recording, states=states, seed=seed, leave_out=site.name)
        if finding is not None:
            return finding
    return None


def quiet() -> None:
    """The store reports damage and faults as it should; only the judgement is of interest. A small reserve will do."""
    logging.disable(logging.CRITICAL)
    reserve._LARGEST = 1 << 16


def _judged(job: tuple[str, Recording, list[Candidate]]) -> Outcome:
    quiet()
    return judged(*job)


def _missed(job: tuple[sites.Site, list[str], int, int]) -> tuple[sites.Site, Finding | None]:
    quiet()
    site, workloads, states, seed = job
    with recorder.Recorder() as records:
        return site, missed(site, workloads, records, states=states, seed=seed)


def shared_out(found: dict[str, list[Candidate]], states: int) -> dict[str, list[Candidate]]:
    """So many states in all, as evenly from the workloads as those allow that have few."""
    chosen: dict[str, list[Candidate]] = {}
    for left, name in zip(range(len(found), 0, -1), sorted(found, key=lambda name: len(found[name])), strict=True):
        chosen[name] = found[name][: -(-states // left)]
        states -= len(chosen[name])
    return chosen


def run(names: list[str], states: int, seed: int, jobs: int) -> int:
    """Judge workloads and print a line for each; returns the exit status."""
    began, recordings = time.monotonic(), all_recordings(names)
    chosen = shared_out({name: all_over(recordings[name], seed, states) for name in names}, states)
    total, failed = 0, False
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        work = [(name, recordings[name], chosen[name]) for name in names]
        for outcome in pool.imap_unordered(_judged, work):
            total += outcome.judged
            print(f"{outcome.workload:40} {outcome.judged:7} states, {len(outcome.findings)} findings", flush=True)
            for finding in outcome.findings[:3]:
                print(finding, f"\n  again: python -m crash.campaign --replay '{finding.replay}'")
                failed = True
    print(f"{'in total':40} {total:7} distinct states, seed {seed}, {time.monotonic() - began:.0f} s")
    return int(failed)


def all_recordings(names: Iterable[str]) -> dict[str, Recording]:
    with recorder.Recorder() as records:
        return {name: records.record(name) for name in names}


def run_sites(states: int, seed: int, jobs: int, only: str) -> int:
    """Leave out each sync in turn; returns the exit status."""
    began, recordings = time.monotonic(), all_recordings(WORKLOADS)
    work = [(site, reached_by(site, recordings), states, seed) for site in sites.find() if only in site.name]
    failed = shown = 0
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for site, finding in pool.imap_unordered(_missed, work):
            shown += finding is not None
            failed += (finding is None) != (site.name in sites.SPARE)
            print(f"{site.name:50} {_verdict(site, finding)}", flush=True)
    print(f"{shown} of {len(work)} syncs are missed when left out, {time.monotonic() - began:.0f} s")
    return int(failed > 0)


def _verdict(site: sites.Site, finding: Finding | None) -> str:
    if finding is not None:
        return f"{finding.replay.partition('@')[0]}: {finding.complaint}"
    return f"spare: {sites.SPARE[site.name]}" if site.name in sites.SPARE else "NOT MISSED by any state"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m crash.campaign", description=__doc__.split("\n")[0])
    parser.add_argument("--states", type=int, default=2000, help="distinct states, over all workloads")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at work")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), help="only this one")
    parser.add_argument("--sites", nargs="?", const="", metavar="PART", help="leave out syncs (whose name has PART)")
    parser.add_argument("--replay", metavar="ID", help="judge one state again")
    options = parser.parse_args()
    try:
        shim.build()
    except shim.Unavailable as reason:
        print(f"skipped: {reason}")
        return 0
    if options.replay:
        quiet()
        findings = replay(options.replay)
        print(*findings, sep="\n") if findings else print("nothing is wrong with this state")
        return int(bool(findings))
    if options.sites is not None:
        return run_sites(options.states, options.seed, options.jobs, options.sites)
    return run([options.workload] if options.workload else list(WORKLOADS), options.states, options.seed, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
