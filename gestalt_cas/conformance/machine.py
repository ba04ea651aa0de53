"""A Hypothesis state machine that drives all seven calls against the oracle, and calls at the same time besides.

Everything that it does is a list of `steps`, so what Hypothesis has shrunk is printed as a script that plays the same.
Needs the extra `gestalt-cas[conformance]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.player import Player
from gestalt_cas.conformance.presence import still_answers
from gestalt_cas.conformance.registry import Deviation
from gestalt_cas.conformance.scripts import script
from gestalt_cas.conformance.shrinking import shrunk
from gestalt_cas.conformance.steps import (
    CancelledWrite,
    Copy,
    Delete,
    Head,
    List,
    NextPage,
    Pick,
    Presign,
    Read,
    Restart,
    Step,
    Tag,
    TagForm,
    Together,
    When,
    Write,
    chances,
)
from gestalt_cas.conformance.wire import DEADLINE_SECONDS, Exchange, Wire, told

EXPLORED = frozenset(Capability) - {
    Capability.BUCKETS,
    Capability.LARGE_FRAMES,
    Capability.OPAQUE_TOKENS,
    Capability.RAW_REQUESTS,
    Capability.START_AFTER_GROUP,
}
"""The capabilities that decide what is drawn; the others are of the checks alone."""
PROFILES = {"quick": (600, 30), "thorough": (30_000, 40)}
"""Runs and steps of each: about a minute, and about an hour, against a provider that answers in milliseconds."""

_KEYS = ["a", "a/1", "a/b/2", "A", "é?#%2F "]
_RACED = ["race-1", "race-2"]
_RACE_TRIES = 5
_TEXTS = ["x", "ab", "0123456789"]
_SIZES = [10, 2, 1, 0, 10, 65536, 65537, 200_000]

keys = st.sampled_from(_KEYS)
sizes = st.sampled_from(_SIZES)
texts = st.sampled_from(_TEXTS)
picks = st.builds(Pick, st.integers(0, 3), st.just(value=False)) | st.just(Pick(unknown=True))
maybe_version = st.none() | st.none() | picks
plain = st.just(When())
tags = st.builds(Tag, st.just(""), st.sampled_from(list(TagForm)), st.booleans()) | st.just(Tag(any=True))
dates = st.none() | st.sampled_from([-3600, 0, 3600])
positions = st.none() | st.sampled_from([0, 0, 1, 1, 2, 9, 10, 65535, 65536, 300_000, -1])
metadata = st.sampled_from([{}, {"a": "1"}, {"a": "2", "B": ""}, {"ü": "ö"}])
types = st.sampled_from(["", "text/plain", "application/octet-stream"])


@dataclass(frozen=True)
class Exploration:
    """What came of it. `steps` is the shortest failing sequence that was found, empty when there is none."""

    runs: int
    played: int
    seed: int
    left_out: tuple[Capability, ...]
    deviation: str = ""
    steps: tuple[Step, ...] = ()
    script: str = ""
    gone: bool = False
    """Whether nobody serves any more since the failing sequence, which then is as it was drawn."""
    exchanges: tuple[Exchange, ...] = ()
    """The calls of the step that failed."""

    @property
    def failed(self) -> bool:
        return bool(self.deviation)


@dataclass
class _Session:
    """What all runs of one exploration share."""

    target: str
    bucketed: bool
    capabilities: frozenset[Capability]
    restart: Callable[[], str] | None
    wire: Wire
    runs: int = 0
    played: int = 0
    failing: tuple[Step, ...] = ()
    deviation: str = ""
    exchanges: tuple[Exchange, ...] = ()

    def player(self) -> Player:
        """A new player, in a place of its own."""
        return Player(
            self.target,
            bucketed=self.bucketed,
            capabilities=self.capabilities,
            restart=self.restarted if self.restart is not None else None,
            wire=self.wire,
        )

    def fails(self, steps: Sequence[Step]) -> bool:
        """Whether the steps fail once more, and remember how; calls at the same time are given several chances."""
        for _ in range(chances(steps, _RACE_TRIES)):
            player = self.player()
            try:
                for step in steps:
                    player.play(step)
            except (Deviation, grpc.RpcError) as error:
                self.deviation = _in_words(error)
                self.exchanges = tuple(self.wire.exchanges.last())
                return True
            finally:
                player.close()
        return False

    def failed(self, steps: Sequence[Step], deviation: str) -> None:
        """Remember the first sequence that went wrong; Hypothesis plays it once more, which may go another way."""
        if not self.failing:
            self.failing, self.deviation = tuple(steps), deviation
            self.exchanges = tuple(self.wire.exchanges.last())

    def restarted(self) -> str:
        assert self.restart is not None
        self.wire.close()
        self.target = self.restart()
        self.wire = Wire(self.target, bucketed=self.bucketed, deadline=self.wire.deadline)
        return self.target


def _machine(session: _Session) -> type[RuleBasedStateMachine]:
    has = session.capabilities.__contains__

    def conditions(*, write: bool) -> Any:
        """Conditions that the provider judges: of a write by etags only if it does so, of a read all four if so."""
        if write:
            some = st.none() | (tags if has(Capability.WRITE_CONDITIONS) else st.nothing())
            create = st.none() | st.just(Tag(any=True)) | (tags if has(Capability.WRITE_CONDITIONS) else st.nothing())
            current = st.none() | (picks if has(Capability.WRITE_VERSION) else st.nothing())
            return st.builds(When, some, create, st.none(), st.none(), current)
        if not has(Capability.CONDITIONAL_READS):
            return st.just(When())
        return st.builds(When, st.none() | tags, st.none() | tags, dates, dates)

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            session.runs += 1
            self.steps: list[Step] = []
            self.player = session.player()

        def teardown(self) -> None:
            self.player.close()

        def take(self, step: Step) -> None:
            self.steps.append(step)
            session.played += 1
            try:
                self.player.play(step)
            except (Deviation, grpc.RpcError) as error:
                session.failed(self.steps, _in_words(error))
                raise

        @rule(
            key=keys,
            text=texts,
            size=sizes,
            frames=st.integers(1, 3),
            kind=types,
            meta=metadata,
            when=plain | plain | conditions(write=True),
        )
        def write(self, key: str, text: str, size: int, frames: int, kind: str, meta: Any, when: When) -> None:
            self.take(Write(key, text, size, frames, kind, meta, when))

        @rule(
            key=keys,
            start=positions,
            end=positions,
            version=maybe_version,
            when=plain | plain | conditions(write=False),
        )
        def read(self, key: str, start: int | None, end: int | None, version: Pick | None, when: When) -> None:
            if end is not None and not has(Capability.CLAMPED_RANGES):
                end = None
            self.take(Read(key, start, end, version, when))

        @rule(key=keys, version=maybe_version)
        def head(self, key: str, version: Pick | None) -> None:
            self.take(Head(key, version))

        @rule(key=keys, version=maybe_version)
        def delete(self, key: str, version: Pick | None) -> None:
            self.take(Delete(key, version))

        @rule(source=keys, to=keys, version=maybe_version, when=plain | plain | plain | conditions(write=True))
        def copy(self, source: str, to: str, version: Pick | None, when: When) -> None:
            self.take(Copy(source, to, version, When(when.if_match, when.if_none_match, None, None, when.current)))

        @rule(
            prefix=st.sampled_from(["", "a", "a/", "é", "nothing/"]),
            delimiter=st.sampled_from(["", "/", "//"]),
            after=st.sampled_from(["", "a", "a/1", "b", "zz"]),
            count=st.sampled_from([0, 1, 2, 3, 1000]),
            opened=st.none() | st.integers(0, 1),
        )
        def list_objects(self, prefix: str, delimiter: str, after: str, count: int, opened: int | None) -> None:
            self.take(List(prefix, delimiter, after, count, opened))

        @rule(number=st.integers(0, 1))
        def next_page(self, number: int) -> None:
            self.take(NextPage(number))

        @rule(key=keys, size=sizes)
        def cancelled_write(self, key: str, size: int) -> None:
            self.take(CancelledWrite(key, size))

        @precondition(lambda _: has(Capability.PRESIGN))
        @rule(key=keys, method=st.integers(0, 4), expires=st.sampled_from([-1, 0, 60, 604800, 604801]))
        def presign(self, key: str, method: int, expires: int) -> None:
            self.take(Presign(key, method, expires))

        @rule(
            key=st.sampled_from(_RACED),
            calls=st.lists(_raced(deletes=has(Capability.DELETE_MISSING)), min_size=2, max_size=6),
        )
        def together(self, key: str, calls: list[Any]) -> None:
            self.take(Together(key, tuple(calls)))

        @precondition(lambda _: session.restart is not None)
        @rule(really=st.integers(0, 9))
        def restart(self, really: int) -> None:
            if really == 0:
                self.take(Restart())

    return Machine


def _raced(*, deletes: bool) -> Any:
    create = When(if_none_match=Tag(any=True))
    write = st.builds(Write, st.just(""), texts, sizes, st.integers(1, 2), when=st.sampled_from([When(), create]))
    others = st.just(Read("")) | (st.just(Delete("")) if deletes else st.nothing())
    return write | write | others


def explore(
    target: str,
    *,
    profile: str = "quick",
    seed: int = 0,
    bucketed: bool = False,
    capabilities: frozenset[Capability] = frozenset(Capability),
    restart: Callable[[], str] | None = None,
    runs: int | None = None,
    length: int | None = None,
    serves: Callable[[str], bool] = still_answers,
    deadline: float = DEADLINE_SECONDS,
) -> Exploration:
    """Drive the provider by random sequences, and shrink the first one that goes wrong.

    The same `seed` draws the same sequences. Capabilities that are not among the declared ones are left out of them.
    `restart` stops and starts the provider and returns its target. `runs` and `length` (calls of a run, at most) are
    those of the profile unless given, and a call may take `deadline` seconds. When nobody `serves` at the target after
    a sequence that went wrong, it is kept as it was drawn.
    """
    examples, most = PROFILES[profile]
    with Wire(target, bucketed=bucketed, deadline=deadline) as wire:
        session = _Session(target, bucketed, capabilities, restart, wire)
        machine = seeded(seed)(_machine(session))
        try:
            run_state_machine_as_test(machine, settings=_settings(runs or examples, length or most))
        except (Deviation, grpc.RpcError):
            pass  # kept in the session
        except BaseException as error:
            if not session.deviation:
                raise
            if isinstance(error, KeyboardInterrupt):
                raise
        else:
            session.failing = ()
        steps, gone = _shortened(session, serves)
        session.wire.close()
    left_out = tuple(sorted(EXPLORED - capabilities, key=lambda one: one.value))
    text = script(steps, session.deviation, bucketed=bucketed, capabilities=capabilities) if steps else ""
    deviation = session.deviation if steps else ""
    return Exploration(session.runs, session.played, seed, left_out, deviation, steps, text, gone, session.exchanges)


def _in_words(error: Deviation | grpc.RpcError) -> str:
    return str(error) if isinstance(error, Deviation) else f"expected an answer; got {told(error)}"


def _shortened(session: _Session, serves: Callable[[str], bool]) -> tuple[tuple[Step, ...], bool]:
    """The failing sequence, made short unless nobody serves any more; and whether that is so."""
    if not session.failing:
        return (), False
    steps, deviation, exchanges = session.failing, session.deviation, session.exchanges
    if serves(session.target):
        shorter = shrunk(steps, session.fails)
        if serves(session.target):
            return shorter, False
    session.deviation, session.exchanges = deviation, exchanges
    return steps, True


def _settings(examples: int, length: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=length,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,  # what it found is told by us; with a flaky failure it would print its own besides
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
