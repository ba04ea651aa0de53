"""The kit as a pytest suite, for the tests of a provider itself.

    from gestalt_cas.conformance.capabilities import Capability
    from gestalt_cas.conformance.suite import ConformanceSuite

    class TestMyProvider(ConformanceSuite):
        capabilities = frozenset({Capability.VERSIONS, Capability.SELF_COPY})

        @pytest.fixture(scope="class")
        @classmethod
        def target(cls):
            with my_server() as path:
                yield f"unix://{path}"

Each check is a test; one more explores with Hypothesis. Needs the extra `gestalt-cas[conformance]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

from gestalt_cas.conformance import machine, reports
from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.checks import all_checks
from gestalt_cas.conformance.hosting import Host
from gestalt_cas.conformance.presence import still_answers
from gestalt_cas.conformance.registry import Check
from gestalt_cas.conformance.running import Outcome, judge
from gestalt_cas.conformance.wire import DEADLINE_SECONDS, Wire, lines

_GONE = "gone"


def _skip_if_gone(wire: Wire) -> None:
    """A provider that has ended fails every check, and none of these failures says anything of it."""
    if _GONE in wire.shared:
        pytest.skip(wire.shared[_GONE])


class ConformanceSuite:
    """Subclass it and give the fixture `target`.

    `capabilities` are what the provider is held to, everything unless the class says otherwise; `bucketed` chooses the
    wire generation, and a call may take `deadline` seconds. `host` starts processes of
    the provider for the checks of its lifecycle, `restart` stops and starts the one at the target and returns where it
    serves then. `runs` and `seed` are those of the exploration.
    """

    bucketed: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)
    host: ClassVar[Host | None] = None
    restart: ClassVar[Callable[[], str] | None] = None
    deadline: ClassVar[float] = DEADLINE_SECONDS
    runs: ClassVar[int] = 30
    seed: ClassVar[int] = 0

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> str:
        """Where the provider serves, as grpc names it."""
        raise NotImplementedError("a conformance suite needs the fixture `target`")

    @pytest.fixture(scope="class", name="conformance_wire")
    @classmethod
    def conformance_wire_fixture(cls, target: str) -> Iterator[Wire]:
        with Wire(target, bucketed=cls.bucketed, deadline=cls.deadline) as wire:
            yield wire

    @pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
    def test_check(self, check: Check, conformance_wire: Wire) -> None:
        _skip_if_gone(conformance_wire)
        verdict = judge(check, conformance_wire, self.capabilities, self.host)
        if verdict.deviates and not still_answers(conformance_wire.target):
            gone = f"nobody serves any more, since {check.name}"
            conformance_wire.shared[_GONE] = gone
            words = self.host.last_words(conformance_wire.target) if self.host is not None else ""
            pytest.fail("\n".join([*reports.explained(verdict), gone, words]).rstrip(), pytrace=False)
        if verdict.failed:
            pytest.fail("\n".join(reports.explained(verdict)), pytrace=False)
        if verdict.outcome is not Outcome.PASSED:
            pytest.skip(reports.line(verdict).splitlines()[0])

    def test_exploration(self, target: str, conformance_wire: Wire) -> None:
        _skip_if_gone(conformance_wire)
        found = machine.explore(
            target,
            runs=self.runs,
            seed=self.seed,
            bucketed=self.bucketed,
            capabilities=self.capabilities,
            restart=type(self).restart,
            deadline=self.deadline,
        )
        if found.failed:
            pytest.fail("\n".join([found.deviation, *lines(found.exchanges), "", found.script]), pytrace=False)
