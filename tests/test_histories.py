"""The judge of histories: it accepts what one store could have answered, and rejects what none could."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from gestalt_cas.conformance.linearizability.checker import check
from gestalt_cas.conformance.linearizability.model import Group
from gestalt_cas.conformance.linearizability.operations import NEVER, Kind, Operation, Outcome

KEYS = ["a", "b"]
DONE, REFUSED, ABSENT, UNKNOWN = Outcome


def call(kind: Kind, key: str, begin: float, end: float, value: str = "", **more: object) -> Operation:
    return Operation("c", kind, key, begin, end, value=value, **more)  # type: ignore[arg-type]


def write(value: str, begin: float, end: float, key: str = "a", **more: object) -> Operation:
    return call(Kind.WRITE, key, begin, end, value, **more)


def read(value: str, begin: float, end: float, key: str = "a") -> Operation:
    return call(Kind.READ, key, begin, end, value, outcome=DONE if value else ABSENT)


def copy(value: str, begin: float, end: float, source: str = "a", key: str = "b", **more: object) -> Operation:
    return call(Kind.COPY, key, begin, end, value, source=source, **more)


def delete(begin: float, end: float, key: str = "a", **more: object) -> Operation:
    return call(Kind.DELETE, key, begin, end, **more)


def listed(begin: float, end: float, **seen: str) -> Operation:
    return call(Kind.LIST, "", begin, end, seen=seen)


GOOD = {
    "nothing": [],
    "one after the other": [write("1", 0, 1), read("1", 2, 3), delete(4, 5), read("", 6, 7), write("2", 8, 9)],
    "concurrent reads see before and after": [write("1", 0, 9), read("", 1, 4), read("1", 2, 5), read("1", 6, 7)],
    "writes in either order": [write("1", 0, 9), write("2", 0, 9), read("2", 10, 11), read("2", 12, 13)],
    "the other order": [write("1", 0, 9), write("2", 0, 9), read("1", 10, 11)],
    "between two writes": [write("1", 0, 9), write("2", 0, 9), read("2", 3, 4), read("1", 5, 6)],
    "touching calls are concurrent": [write("1", 0, 1), read("", 1, 2)],
    "one creator wins": [
        write("1", 0, 5, if_none_match="*"),
        write("2", 0, 5, if_none_match="*", outcome=REFUSED),
        read("1", 6, 7),
    ],
    "a creator after a delete": [
        write("1", 0, 1, if_none_match="*"),
        write("2", 2, 9, if_none_match="*"),
        delete(3, 4),
        read("2", 10, 11),
    ],
    "swap by content": [
        write("1:x", 0, 1),
        write("2:x", 2, 3),
        write("3:y", 4, 5, if_match="x"),
        write("4:z", 6, 7, if_match="x", outcome=REFUSED),
        write("5:z", 6, 7, if_none_match="y", outcome=REFUSED),
        read("3:y", 8, 9),
    ],
    "a swap of nothing is refused": [write("1", 0, 1, if_match="x", outcome=REFUSED)],
    "unknown and done": [write("1", 0, NEVER, outcome=UNKNOWN), read("", 1, 2), read("1", 8, 9)],
    "unknown and never": [write("1", 0, NEVER, outcome=UNKNOWN), read("", 1, 2), read("", 8, 9)],
    "unknown only shows by a refusal": [
        write("1", 0, NEVER, outcome=UNKNOWN),
        write("2", 1, 2, if_none_match="*", outcome=REFUSED),
        write("3", 3, 4),
        read("3", 5, 6),
    ],
    "unknown until a kill": [write("1", 0, 3, outcome=UNKNOWN), read("", 1, 2), read("1", 4, 5)],
    "unknown delete": [write("1", 0, 1), delete(2, NEVER, outcome=UNKNOWN), read("1", 3, 4), read("", 5, 6)],
    "copy": [write("1", 0, 1), copy("1", 2, 3), delete(4, 5), read("1", 6, 7, "b")],
    "copy beside a write": [write("1", 0, 1), write("2", 2, 9), copy("1", 3, 4), copy("2", 5, 6), read("2", 7, 8, "b")],
    "copy of nothing": [
        copy("", 0, 1, outcome=ABSENT),
        write("1", 2, 3),
        copy("", 4, 5, if_match="2", outcome=REFUSED),
    ],
    "unknown copy of what stood then": [
        write("1", 0, 1),
        copy("", 2, NEVER, outcome=UNKNOWN),
        write("2", 3, 4),
        read("", 5, 6, "b"),
        write("3", 7, 8),
        read("3", 9, 10, "b"),
    ],
    "a listing is one moment": [
        write("1", 0, 1),
        write("2", 2, 3, "b"),
        listed(4, 5, a="1", b="2"),
        delete(6, 9),
        listed(6, 7, a="1", b="2"),
        listed(8, 9, b="2"),
    ],
}

BAD = {
    "stale read": [write("1", 0, 1), write("2", 2, 3), read("1", 4, 5)],
    "read before its write": [read("1", 0, 1), write("1", 2, 3)],
    "read of what was never written": [write("1", 0, 1), read("9", 2, 3)],
    "an answered write is gone": [write("1", 0, 1), read("", 2, 3)],
    "new then old": [write("1", 0, 1), write("2", 2, 9), read("2", 3, 4), read("1", 5, 6)],
    "two readers disagree on the order": [
        write("1", 0, 9),
        write("2", 0, 9),
        read("1", 1, 2),
        read("2", 3, 4),
        read("1", 5, 6),
    ],
    "lost update": [
        write("0", 0, 1),
        write("1", 2, 5, if_match="0"),
        write("2", 2, 5, if_match="0"),
        read("2", 6, 7),
    ],
    "two creators win": [write("1", 0, 5, if_none_match="*"), write("2", 0, 5, if_none_match="*")],
    "a creator refused by nothing": [write("1", 0, 1, if_none_match="*", outcome=REFUSED)],
    "a refused write is read": [
        write("1", 0, 1),
        write("2", 2, 3, if_none_match="*", outcome=REFUSED),
        read("2", 4, 5),
    ],
    "resurrection after a delete": [write("1", 0, 1), delete(2, 3), read("", 4, 5), read("1", 6, 7)],
    "resurrection in a listing": [write("1", 0, 1), delete(2, 3), listed(4, 5, a="1")],
    "unknown, done, and undone": [write("1", 0, NEVER, outcome=UNKNOWN), read("1", 1, 2), read("", 3, 4)],
    "unknown, done twice": [
        write("1", 0, NEVER, outcome=UNKNOWN),
        read("1", 1, 2),
        write("2", 3, 4),
        read("2", 5, 6),
        read("1", 7, 8),
    ],
    "unknown after its end": [write("1", 0, 3, outcome=UNKNOWN), read("", 4, 5), read("1", 6, 7)],
    "unknown whose condition never held": [
        write("1", 0, NEVER, if_match="x", outcome=UNKNOWN),
        write("2", 1, 2),
        read("1", 3, 4),
    ],
    "copy of an older source": [write("1", 0, 1), write("2", 2, 3), copy("1", 4, 5)],
    "copy that reads and writes at two moments": [
        write("1", 0, 1),
        copy("1", 2, 9),
        write("2", 3, 4),
        read("2", 5, 6),
        read("", 7, 8, "b"),
        read("1", 10, 11, "b"),
    ],
    "copy of nothing done": [copy("1", 0, 1)],
    "copy lost": [write("1", 0, 1), copy("1", 2, 3), read("", 4, 5, "b")],
    "a torn listing": [write("1", 0, 1), write("2", 2, 3, "b"), listed(2, 9, b="2")],
    "a listing that misses a key": [write("1", 0, 1), listed(2, 3)],
}


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    verdict = check(KEYS, GOOD[name])
    assert verdict.linearizable, str(verdict)


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    verdict = check(KEYS, BAD[name])
    assert verdict.culprit in BAD[name]
    assert "no order of the calls explains" in str(verdict)


def by_trying_every_order(history: list[Operation]) -> bool:
    """The definition itself: some order, and some choice among the unknown calls, keeps to time and to the model."""
    unknown = [operation for operation in history if operation.outcome is UNKNOWN]
    known = [operation for operation in history if operation.outcome is not UNKNOWN]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            if any(_runs(order) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


def _runs(order: tuple[Operation, ...]) -> bool:
    if any(later.returned < earlier.invoked for earlier, later in itertools.combinations(order, 2)):
        return False
    group = Group(KEYS)
    state: tuple[str, ...] | None = group.initial
    for operation in order:
        state = group.after(state, operation)
        if state is None:
            return False
    return True


def random_call(chosen: random.Random, number: int, begin: float) -> Operation:
    """A call without an answer yet."""
    kind = chosen.choice(list(Kind))
    key, other = chosen.sample(KEYS, 2)
    condition = chosen.choice([{}, {}, {"if_match": chosen.choice("xy")}, {"if_none_match": chosen.choice("x*")}])
    if kind is Kind.WRITE:
        return write(f"{number}:{chosen.choice('xy')}", begin, NEVER, key, **condition)
    if kind is Kind.COPY:
        return copy("", begin, NEVER, other, key, **(condition if "if_match" in condition else {}))
    return call(kind, "" if kind is Kind.LIST else key, begin, NEVER)


def answered(group: Group, state: tuple[str, ...], asked: Operation) -> tuple[tuple[str, ...], Operation]:
    """Let the model do the call: the state after it, and the call with the answer that fits."""
    values = {key: value for key, value in zip(group.keys, state, strict=True) if value}
    tries = [asked]
    if asked.kind is Kind.LIST:
        tries = [replace(asked, seen=values)]
    elif asked.kind is not Kind.WRITE:
        told = values.get(asked.source if asked.kind is Kind.COPY else asked.key, "")
        tries = [replace(asked, value=told if asked.kind is not Kind.DELETE else "")]
    tries += [replace(asked, outcome=outcome) for outcome in (REFUSED, ABSENT)]
    for one in tries:
        after = group.after(state, one)
        if after is not None and not (one.kind is Kind.READ and one.outcome is REFUSED):
            return after, one
    raise AssertionError(f"no answer fits {asked}")


def real_history(chosen: random.Random, length: int) -> list[Operation]:
    """A history that has an order: calls take effect one after the other, at a moment within their time."""
    group = Group(KEYS)
    state, history = group.initial, []
    for number in range(length):
        state, done = answered(group, state, random_call(chosen, number, 0))
        reach = chosen.choice([0.4, 1.5, 4])
        done = replace(done, invoked=number - chosen.random() * reach, returned=number + chosen.random() * reach)
        if chosen.random() < 0.15 and done.kind not in (Kind.READ, Kind.LIST):
            end = chosen.choice([NEVER, done.returned])
            done = replace(done, outcome=UNKNOWN, returned=end, value=done.value if done.kind is Kind.WRITE else "")
        history.append(done)
    chosen.shuffle(history)
    return history


def disturbed(chosen: random.Random, history: list[Operation]) -> list[Operation]:
    """The history with one answer or one time changed, which may or may not leave it one that has an order."""
    number = chosen.randrange(len(history))
    one = history[number]
    others = [other.value for other in history if other.kind is Kind.WRITE]
    if one.kind is Kind.READ and others:
        value = chosen.choice(["", *others])
        one = replace(one, value=value, outcome=DONE if value else ABSENT)
    elif one.kind is Kind.LIST:
        one = replace(one, seen={key: value for key, value in one.seen.items() if chosen.random() < 0.5})
    elif one.outcome in (DONE, REFUSED) and one.kind is Kind.WRITE:
        one = replace(one, outcome=chosen.choice([DONE, REFUSED, UNKNOWN]))
    else:
        shift = chosen.uniform(-5, 5)
        one = replace(one, invoked=one.invoked + shift, returned=one.returned + shift)
    return [*history[:number], one, *history[number + 1 :]]


def test_agrees_with_trying_every_order() -> None:
    ends = {True: 0, False: 0}
    for seed in range(2000):
        chosen = random.Random(seed)
        history = real_history(chosen, chosen.randint(1, 6))
        assert check(KEYS, history).linearizable, seed
        for _ in range(chosen.randint(1, 3)):
            history = disturbed(chosen, history)
        expected = by_trying_every_order(history)
        assert check(KEYS, history).linearizable == expected, seed
        ends[expected] += 1
    assert min(ends.values()) > 100, ends


def test_judges_long_histories_of_many_clients() -> None:
    history = real_history(random.Random(7), 3000)
    unknown = sum(operation.returned == NEVER for operation in history)
    history = [one if one.returned != NEVER else replace(one, returned=one.invoked + 5) for one in history]
    assert unknown > 50
    assert check(KEYS, history).linearizable
    last = max(history, key=lambda operation: operation.returned)
    assert not check(KEYS, [*history, read("never written", last.returned + 1, last.returned + 2)]).linearizable
