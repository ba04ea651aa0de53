"""What one call does to a group of keys when calls come one after the other.

A state is the value of each key of the group, in the order of the group; "" where there is none. Contract: tags of a
write judge its key, tags of a copy its source; a copy carries the source's value over, a delete always succeeds.
"""

from __future__ import annotations

from gestalt_cas.conformance.linearizability.operations import ANY, Kind, Operation, Outcome, content

State = tuple[str, ...]


class Group:
    """The keys whose calls are judged together, since a copy or a listing may touch several at one point in time."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self._place = {key: place for place, key in enumerate(keys)}
        self.initial: State = ("",) * len(keys)

    def after(self, state: State, operation: Operation) -> State | None:
        """The state after the call, if it could have been answered so in `state`; else None.

        Of an UNKNOWN call: the state after its effect, None when it would have had none.
        """
        if operation.kind is Kind.LIST:
            return state if dict(operation.seen) == self._listing(state) else None
        if operation.kind is Kind.READ:
            return self._after_read(state, operation)
        outcome, value = self._judge(state, operation)
        if operation.outcome is Outcome.UNKNOWN:
            return self._put(state, operation.key, value) if outcome is Outcome.DONE else None
        if outcome is not operation.outcome or (outcome is Outcome.DONE and value != operation.value):
            return None
        return self._put(state, operation.key, value) if outcome is Outcome.DONE else state

    def _after_read(self, state: State, operation: Operation) -> State | None:
        told = operation.value if operation.outcome is Outcome.DONE else ""
        return state if self._get(state, operation.key) == told else None

    def _judge(self, state: State, operation: Operation) -> tuple[Outcome, str]:
        """How a change ends in this state, and what its key then holds."""
        if operation.kind is Kind.DELETE:
            return Outcome.DONE, ""
        if operation.kind is Kind.COPY:
            source = self._get(state, operation.source)
            if not source:
                return Outcome.ABSENT, ""
            return (Outcome.DONE, source) if _holds(operation, source) else (Outcome.REFUSED, "")
        held = _holds(operation, self._get(state, operation.key))
        return (Outcome.DONE, operation.value) if held else (Outcome.REFUSED, "")

    def _listing(self, state: State) -> dict[str, str]:
        return {key: value for key, value in zip(self.keys, state, strict=True) if value}

    def _get(self, state: State, key: str) -> str:
        return state[self._place[key]]

    def _put(self, state: State, key: str, value: str) -> State:
        place = self._place[key]
        return (*state[:place], value, *state[place + 1 :])


def _holds(operation: Operation, current: str) -> bool:
    if operation.if_match and not (current and operation.if_match in (ANY, content(current))):
        return False
    return not (operation.if_none_match and current and operation.if_none_match in (ANY, content(current)))


def changes_nothing(operation: Operation) -> bool:
    """Whether a call, answered as it was, leaves every state as it is."""
    return operation.kind in (Kind.READ, Kind.LIST) or operation.outcome in (Outcome.REFUSED, Outcome.ABSENT)
