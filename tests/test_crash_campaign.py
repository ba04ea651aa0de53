"""A bounded part of the crash campaign; `make crash` runs the long one. tests/crash/ says how it works."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from crash import campaign, recorder, shim, sites
from crash.disk import Recording
from crash.enumeration import Candidate
from crash.workloads import WORKLOADS
from gestalt_cas.files import reserve

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)

STATES = 60
"""Among which the lack of a sync must show. About ten milliseconds each."""
SOUND_STATES = 40
"""Of each workload as it is, where all must be sound."""


@pytest.fixture(scope="module")
def records() -> Iterator[recorder.Recorder]:
    with recorder.Recorder() as opened:
        yield opened


@pytest.fixture(scope="module")
def recordings(records: recorder.Recorder) -> dict[str, Recording]:
    return {name: records.record(name) for name in WORKLOADS}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stores report damage and faults as they should; a small reserve will do."""
    monkeypatch.setattr(reserve, "_LARGEST", 1 << 16)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_what_a_crash_leaves_keeps_every_promise(workload: str, recordings: dict[str, Recording]) -> None:
    chosen = campaign.all_over(recordings[workload], 1, SOUND_STATES)
    outcome = campaign.judged(workload, recordings[workload], chosen)
    assert not outcome.findings, "\n".join(map(str, outcome.findings[:3]))
    assert outcome.judged == SOUND_STATES or workload in ("signing-keys", "repair")  # short ones have few


def test_a_restore_that_is_cut_off_at_its_keys_can_be_run_again(recordings: dict[str, Recording]) -> None:
    recording = recordings["restoring"]
    places = [number for number, entry in enumerate(recording.entries, 1) if "restored/keys.json" in str(entry)]
    outcome = campaign.judged("restoring", recording, [Candidate(place, {}) for place in places])
    assert len(places) > 1
    assert not outcome.findings, "\n".join(map(str, outcome.findings))


NEEDED = [site for site in sites.find() if site.name not in sites.SPARE]


@pytest.mark.parametrize("site", NEEDED, ids=lambda site: site.name)
def test_a_sync_that_is_left_out_is_missed(
    site: sites.Site, records: recorder.Recorder, recordings: dict[str, Recording]
) -> None:
    workloads = campaign.reached_by(site, recordings)
    assert workloads, "no workload comes to this sync: add one to crash/workloads.py"
    finding = campaign.missed(site, workloads, records, states=STATES, seed=1)
    assert finding is not None, "no state shows that this sync is missing: it is needless, or the judgement too weak"


def test_syncs_that_are_spare_are_still_there() -> None:
    assert set(sites.SPARE) <= {site.name for site in sites.find()}


def test_a_state_can_be_made_and_judged_again(records: recorder.Recorder) -> None:
    leave_out = "files.keys:create:sync_directory"
    recording = records.record("signing-keys", leave_out=leave_out)
    finding = campaign.first_finding("signing-keys", recording, states=STATES, seed=1, leave_out=leave_out)
    assert finding is not None
    assert campaign.replay(finding.replay) == [finding]
    whole = finding.replay.rpartition(":")[0] + ":all"
    assert campaign.replay(whole) == []
