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
from dataclasses import dataclass
from pathlib import Path

from crash import recorder, shim, sites
from crash.disk import Disk, Recording, choices_text, described, parse_choices
from crash.enumeration import Candidate, Plan, candidates, normal
from crash.expectations import Expectations
from crash.judgement import Judge
from crash.trees import Tree
from crash.workloads import PREPARED, WORKLOADS, a_store_of_the_first_format, an_empty_store
from gestalt_cas import reserve

_BATCH = 100
COLLECTED = 8
"""On one state in so many garbage is collected."""
_RANDOM_ROUNDS = 6


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
    enumerated: int
    """Distinct states that the enumeration found."""
    judged: int
    findings: tuple[Finding, ...]


class Bench:
    """One recording with all that judging its states takes; states are taken in the order of their prefixes."""

    def __init__(self, workload: str, recording: Recording, place: Path, leave_out: str | None = None) -> None:
        self.workload = f"{workload}@{leave_out}" if leave_out else workload
        self._recording = recording
        made = WORKLOADS[workload].prepare
        prepared = {} if made in (None, an_empty_store) else dict(PREPARED)
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


def distinct(recording: Recording, seed: int, wanted: int) -> list[Candidate]:
    """One way to each distinct state, the latest; random subsets are added until `wanted` states or no new ones.

    When few are wanted, only some of the prefixes are looked at, drawn from the seed.
    """
    found: dict[bytes, Candidate] = {}
    share = min(1.0, wanted / len(recording.entries))
    for number in range(_RANDOM_ROUNDS):
        before, plan = len(found), Plan(seed + number, share, 2**number if number else 0, systematic=not number)
        for disk, candidate in candidates(recording, plan):
            key = disk.state(candidate.choices).key()
            if key not in found or found[key].position < candidate.position:
                found[key] = candidate
        if len(found) >= wanted or (number > 1 and len(found) == before):
            break
    return list(found.values())


def judged(
    workload: str, recording: Recording, *, states: int, seed: int, leave_out: str | None = None, stop: bool = False
) -> Outcome:
    """Judge up to `states` distinct states of a recording; with `stop` the first finding ends it."""
    found = distinct(recording, seed, states)
    random.Random(seed).shuffle(found)
    if stop:
        found.sort(key=lambda candidate: len(candidate.choices) != 1)  # most that may be found shows by a single loss
    chosen, count = found[:states], 0
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-crash-", dir=recorder.shared_memory()) as place:
        bench = Bench(workload, recording, Path(place), leave_out)
        for start in range(0, len(chosen), _BATCH if stop else len(chosen)):
            batch = chosen[start : start + _BATCH] if stop else chosen
            count += len(batch)
            findings.extend(bench.judge(batch))
            if findings and stop:
                break
    return Outcome(bench.workload, len(found), count, tuple(findings))


def replay(name: str) -> list[Finding]:
    """Judge one state again."""
    workload, position, choices = name.rsplit(":", 2)
    workload, _, leave_out = workload.partition("@")
    recording = Recording.load(recorder.saved_at(workload, leave_out or None))
    with tempfile.TemporaryDirectory(prefix="gestalt-cas-crash-", dir=recorder.shared_memory()) as place:
        bench = Bench(workload, recording, Path(place), leave_out or None)
        return list(bench.judge([Candidate(int(position), parse_choices(choices))]))


def reached_by(site: sites.Site, recordings: dict[str, Recording]) -> list[str]:
    """The workloads that come to a site, the shortest recording first."""
    mark = f"site {site.name}".encode()
    found = [
        name
        for name, recording in recordings.items()
        if site.is_pragma or any(entry.data == mark for entry in recording.entries)
    ]
    return sorted(found, key=lambda name: len(recordings[name].entries))


def missed(site: sites.Site, workloads: list[str], *, states: int, seed: int) -> Finding | None:
    """The first finding when the site's sync is left out; None when no workload's states show that it is missing."""
    for workload in workloads:
        with recorder.Recorder() as records:
            recording = records.record(workload, leave_out=site.name)
        outcome = judged(workload, recording, states=states, seed=seed, leave_out=site.name, stop=True)
        if outcome.findings:
            return outcome.findings[0]
    return None


def quiet() -> None:
    """The store reports damage and faults as it should; only the judgement is of interest. A small reserve will do."""
    logging.disable(logging.CRITICAL)
    reserve._LARGEST = 1 << 16


def _judged(job: tuple[str, int, int]) -> Outcome:
    quiet()
    workload, states, seed = job
    with recorder.Recorder() as records:
        recording = records.record(workload)
    return judged(workload, recording, states=states, seed=seed)


def _missed(job: tuple[sites.Site, list[str], int, int]) -> tuple[sites.Site, Finding | None]:
    quiet()
    site, workloads, states, seed = job
    return site, missed(site, workloads, states=states, seed=seed)


def run(names: list[str], states: int, seed: int, jobs: int) -> int:
    """Judge all workloads and print a line for each; returns the exit status."""
    share, began = -(-states // len(names)), time.monotonic()
    total, failed = 0, False
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for outcome in pool.imap_unordered(_judged, [(name, share, seed) for name in names]):
            total += outcome.judged
            print(f"{outcome.workload:40} {outcome.judged:7} states, {len(outcome.findings)} findings", flush=True)
            for finding in outcome.findings[:3]:
                print(finding, f"\n  again: python -m crash.campaign --replay '{finding.replay}'")
                failed = True
    print(f"{'in total':40} {total:7} distinct states, seed {seed}, {time.monotonic() - began:.0f} s")
    return int(failed)


def all_recordings() -> dict[str, Recording]:
    with recorder.Recorder() as records:
        return {name: records.record(name) for name in WORKLOADS}


def run_sites(states: int, seed: int, jobs: int, only: str) -> int:
    """Leave out each sync in turn; returns the exit status."""
    began, recordings = time.monotonic(), all_recordings()
    work = [(site, reached_by(site, recordings), states, seed) for site in sites.find() if only in site.name]
    kept = 0
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for site, finding in pool.imap_unordered(_missed, work):
            kept += finding is None
            found = f"{finding.replay.partition('@')[0]}: {finding.complaint}" if finding else "NOT MISSED by any state"
            print(f"{site.name:50} {found}", flush=True)
    print(f"{len(work) - kept} of {len(work)} syncs are missed when left out, {time.monotonic() - began:.0f} s")
    return int(kept > 0)


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
