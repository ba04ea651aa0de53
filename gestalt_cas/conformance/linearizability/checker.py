"""Whether a history is linearizable: each call seems to take effect at one point between its begin and its answer.

After Wing & Gong (1993) with Lowe's (2017) lateness and memory: the history is read in the order of time with the set
of all configurations that are possible so far. A configuration is a state and which of the calls on their way have
taken effect in it. When a call's answer comes it must have taken effect: each configuration is continued by calls on
their way, in every order, until it has, and no further; those in which it cannot are dropped. If none is left the
history is not linearizable. Two things keep that small: configurations that are equal are one, and a call that changes
nothing takes effect at once where its answer fits, since waiting could win nothing.

All keys of a group are one state, so a copy reads and writes at one point and a listing shows one moment: nothing is
approximated. Groups share no call, and linearizability is local, so each group is judged by itself.

An unknown call is never forced to have taken effect; when its time is over, configurations in which it has not go on
without it. Calls that meet at one instant count as concurrent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gestalt_cas.conformance.linearizability.model import Group, State, changes_nothing
from gestalt_cas.conformance.linearizability.operations import NEVER, Operation, Outcome

Configuration = tuple[State, int]
"""A state, and a bit for each place among the calls on their way that has taken effect in it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How it was judged.

    `culprit` is the call whose answer fits no order, None when the history is linearizable; `states` are those that
    were possible before it, `beside` the calls on their way then; `widest` is the most configurations at a time.
    """

    culprit: Operation | None = None
    states: tuple[State, ...] = ()
    beside: tuple[Operation, ...] = ()
    widest: int = 0

    @property
    def linearizable(self) -> bool:
        return self.culprit is None

    def __str__(self) -> str:
        if self.culprit is None:
            return "linearizable"
        lines = [f"no order of the calls explains {self.culprit}"]
        lines += [f"  possible before: {state}" for state in self.states]
        lines += [f"  on its way: {operation}" for operation in self.beside]
        return "\n".join(lines)


def check(keys: Iterable[str], history: Iterable[Operation]) -> Verdict:
    """Judge the history of a group of keys, all absent at its beginning."""
    return _Search(Group(list(keys))).run(list(history))


class _Search:
    def __init__(self, group: Group) -> None:
        self._group = group
        self._configurations: set[Configuration] = {(group.initial, 0)}
        self._open: dict[int, Operation] = {}
        """Calls on their way, by their bit."""
        self._idle: dict[int, Operation] = {}
        """Those of them that change nothing."""
        self._widest = 1

    def run(self, history: Sequence[Operation]) -> Verdict:
        bits: dict[int, int] = {}
        for number, begins in _events(history):
            operation = history[number]
            if begins:
                bits[number] = self._begin(operation)
                continue
            before = self._configurations
            self._configurations = self._end(bits[number], operation)
            if not self._configurations:
                states = tuple(sorted({state for state, _ in before}))
                beside = tuple(other for other in self._open.values() if other is not operation)
                return Verdict(operation, states, beside, self._widest)
            self._forget(bits.pop(number))
        return Verdict(widest=self._widest)

    def _begin(self, operation: Operation) -> int:
        bit = 1
        while bit in self._open:
            bit <<= 1
        self._open[bit] = operation
        if changes_nothing(operation):
            self._idle[bit] = operation
        return bit

    def _end(self, bit: int, operation: Operation) -> set[Configuration]:
        """The configurations in which the call has taken effect, its bit cleared."""
        reached = {self._settled(state, taken) for state, taken in self._configurations}
        ended: set[Configuration] = set()
        if operation.outcome is Outcome.UNKNOWN:
            ended = {(state, taken) for state, taken in reached if not taken & bit}
        waiting = list(reached)
        while waiting:
            state, taken = waiting.pop()
            if taken & bit:
                ended.add((state, taken ^ bit))
                continue
            for other, candidate in self._open.items():
                if taken & other or other in self._idle:
                    continue
                after = self._group.after(state, candidate)
                if after is None:
                    continue
                configuration = self._settled(after, taken | other)
                if configuration not in reached:
                    reached.add(configuration)
                    waiting.append(configuration)
        self._widest = max(self._widest, len(reached))
        return ended

    def _settled(self, state: State, taken: int) -> Configuration:
        """The configuration with every call in effect that changes nothing and whose answer fits."""
        for bit, operation in self._idle.items():
            if not taken & bit and self._group.after(state, operation) is not None:
                taken |= bit
        return state, taken

    def _forget(self, bit: int) -> None:
        del self._open[bit]
        self._idle.pop(bit, None)


def _events(history: Sequence[Operation]) -> list[tuple[int, bool]]:
    """Begins (True) and answers of the calls, by number, in the order of time; at one instant the begins first."""
    moments: list[tuple[float, bool, int]] = []
    for number, operation in enumerate(history):
        moments.append((operation.invoked, False, number))
        if operation.returned != NEVER:
            moments.append((operation.returned, True, number))
    return [(number, not ends) for _, ends, number in sorted(moments)]
