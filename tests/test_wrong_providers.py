"""The conformance kit finds what is wrong: each wrong provider by a named check, and nothing else of its area."""

from __future__ import annotations

import pytest

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.checks import AREAS, all_checks
from gestalt_cas.conformance.checks.listing import many_names
from gestalt_cas.conformance.registry import Place
from gestalt_cas.conformance.running import Verdict, judge, run
from gestalt_cas.conformance.wire import Wire
from wrong.good import Good, served
from wrong.variants import WRONG, Wrong


def verdicts(target: str, area: str = "", *, bucketed: bool = False) -> list[Verdict]:
    """Of the checks of an area, or of all of them; everything is declared."""
    checks = [check for check in all_checks() if not check.lifecycle and area in ("", check.area)]
    return run(checks, target, bucketed=bucketed, declared=frozenset(Capability))


def failed_numbers(kind: type[Wrong]) -> set[int]:
    """The checks of its area that a wrong provider fails; it begins with what the long listings need."""
    checks = [check for check in all_checks() if check.area == kind.area]
    names = many_names()
    with (
        served(kind, empty=[f"p-many/{name}" for name in names]) as target,
        Wire(target) as wire,
    ):
        wire.shared["many"] = Place(wire, "many")
        return {
            one.check.number for one in (judge(check, wire, frozenset(Capability)) for check in checks) if one.failed
        }


@pytest.mark.parametrize("bucketed", [False, True])
def test_a_provider_that_does_what_the_contract_says_passes(bucketed: bool) -> None:
    with served(Good, bucketed=bucketed) as target:
        assert [verdict.check.name for verdict in verdicts(target, bucketed=bucketed) if verdict.failed] == []


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_a_wrong_provider_is_found_by_the_checks_that_are_meant_for_it(kind: type[Wrong]) -> None:
    failed = failed_numbers(kind)
    assert failed, f"nothing finds: {kind.__doc__}"
    assert failed <= kind.killed_by, "a check that is not meant for it fails too"


def test_there_are_wrong_providers_of_every_area_and_enough_races() -> None:
    assert {kind.area for kind in WRONG} == set(AREAS) - {"lifecycle"}
    assert len(WRONG) >= 30
    assert sum(kind.race for kind in WRONG) >= 10


def test_every_number_of_the_contract_is_a_check_of_its_own() -> None:
    numbers = [check.number for check in all_checks()]
    assert len(numbers) == len(set(numbers))
    assert set(range(1, 93)) <= set(numbers)
