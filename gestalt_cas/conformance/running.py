"""Run checks against a provider and say what came of each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

import grpc

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.hosting import Host
from gestalt_cas.conformance.presence import still_answers
from gestalt_cas.conformance.registry import Check, Deviation, NotRun, Place
from gestalt_cas.conformance.wire import DEADLINE_SECONDS, Exchange, Wire, told, wanted


class Outcome(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    HAS = "has"
    """A probe of a capability that was not declared: the provider has it."""
    LACKS = "lacks"
    """A probe of a capability that was not declared: the provider has it not, or not as the contract says."""
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """What came of one check. `exchanges` are the last calls before a failure, the oldest first."""

    check: Check
    outcome: Outcome
    seconds: float
    expected: str = ""
    got: str = ""
    exchanges: tuple[Exchange, ...] = field(default=())
    bucketed: bool = False
    """The generation that was spoken."""
    printed: str = ""
    """The last that a process of the check printed, where it has ended."""

    @property
    def failed(self) -> bool:
        return self.outcome is Outcome.FAILED

    @property
    def deviates(self) -> bool:
        """Whether an answer was not as it should be, be that held against the provider or not."""
        return self.outcome in (Outcome.FAILED, Outcome.LACKS)


def run(
    checks: Iterable[Check],
    target: str,
    *,
    bucketed: bool = False,
    declared: frozenset[Capability] = frozenset(),
    host: Host | None = None,
    on_verdict: Callable[[Verdict], None] = lambda _: None,
    on_gone: Callable[[Check], None] = lambda _: None,
    serves: Callable[[str], bool] = still_answers,
    deadline: float = DEADLINE_SECONDS,
) -> list[Verdict]:
    """Run the checks in turn, each in a place of its own at the target.

    A call may take `deadline` seconds. `host` starts further processes of the provider; without one, checks of the
    lifecycle are not run and say so. When a check did not pass and nobody `serves` at the target any more, `on_gone`
    hears of that check, and the verdicts of those after it are that they were not run; `on_verdict` does not hear of
    these.
    """
    found: list[Verdict] = []
    last: Check | None = None
    with Wire(target, bucketed=bucketed, deadline=deadline) as wire:
        for check in checks:
            if last is not None:
                why = f"nobody serves any more, since {last.name}"
                found.append(Verdict(check, Outcome.NOT_RUN, 0.0, got=why, bucketed=bucketed))
                continue
            verdict = judge(check, wire, declared, host)
            on_verdict(verdict)
            found.append(verdict)
            if verdict.deviates and not serves(target):
                last = check
                on_gone(check)
    return found


def judge(check: Check, wire: Wire, declared: frozenset[Capability], host: Host | None = None) -> Verdict:
    """Run one check."""
    return replace(_judged(check, wire, declared, host), bucketed=wire.bucketed)


def _judged(check: Check, wire: Wire, declared: frozenset[Capability], host: Host | None) -> Verdict:
    began = time.monotonic()
    if check.lifecycle and host is None:
        return Verdict(check, Outcome.NOT_RUN, 0.0, got="it starts processes of the provider: give --exec")
    wire.exchanges.clear()
    expected = got = printed = ""
    try:
        check.run(Place(wire, f"{check.number}-{secrets.token_hex(4)}", host))
    except NotRun as reason:
        return Verdict(check, Outcome.NOT_RUN, time.monotonic() - began, got=str(reason))
    except Deviation as deviation:
        expected, got, printed = deviation.expected, deviation.got, deviation.printed
    except grpc.RpcError as error:
        expected, got = wanted(error, wire.deadline), told(error)
    seconds = time.monotonic() - began
    undeclared = not check.needs <= declared
    if not expected:
        return Verdict(check, Outcome.HAS if undeclared else Outcome.PASSED, seconds)
    outcome = Outcome.LACKS if undeclared else Outcome.FAILED
    return Verdict(check, outcome, seconds, expected, got, tuple(wire.exchanges.last()), printed=printed)
