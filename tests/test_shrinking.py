"""A failing sequence comes out as short and as plain as it can be and still fail; no provider is needed for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gestalt_cas.conformance.shrinking import MOST_TRIES, shrunk
from gestalt_cas.conformance.steps import (
    CancelledWrite,
    Copy,
    Delete,
    Head,
    List,
    Pick,
    Read,
    Restart,
    Step,
    Tag,
    Together,
    When,
    Write,
)

BUSY = When(if_match=Tag(any=True), if_none_match=Tag(stale=True))
WRITE = Write("a", "ab", 200_000, 3, "text/plain", {"a": "1"}, BUSY)
LONG: tuple[Step, ...] = (
    Head("b", Pick()),
    WRITE,
    Read("a", 5, 9, Pick(1), BUSY),
    Restart(),
    Copy("a", "b", Pick(2), BUSY),
    List("a/", "/", "a", 2),
    CancelledWrite("a", 65_536),
    Delete("a", Pick(3)),
    Together("r", (Write("", size=2), Read(""), Delete(""), Write("", size=3))),
)


def having(found: Callable[[Any], bool]) -> Callable[[Sequence[Step]], bool]:
    return lambda steps: any(found(step) for step in steps)


@pytest.mark.parametrize(
    ("fails", "wanted"),
    [
        (lambda step: isinstance(step, Write), Write("a", "ab")),
        (lambda step: isinstance(step, Write) and step.size > 9, Write("a", "ab", 10)),
        (lambda step: isinstance(step, Write) and step.size > 65_536, Write("a", "ab", 200_000)),
        (lambda step: isinstance(step, Write) and step.when == BUSY, Write("a", "ab", when=BUSY)),
        (lambda step: isinstance(step, Write) and step.frames == 3, Write("a", "ab", 1, 3)),
        (lambda step: isinstance(step, Write) and step.metadata, Write("a", "ab", metadata={"a": "1"})),
        (lambda step: isinstance(step, Read), Read("a")),
        (lambda step: isinstance(step, Read) and step.start, Read("a", 5)),
        (lambda step: isinstance(step, Read) and step.end, Read("a", end=9)),
        (lambda step: isinstance(step, Read) and step.start and step.end, Read("a", 5, 9)),
        (lambda step: isinstance(step, Read) and step.version, Read("a", version=Pick(1))),
        (lambda step: isinstance(step, Read) and step.when == BUSY, Read("a", when=BUSY)),
        (lambda step: isinstance(step, Copy), Copy("a", "b")),
        (lambda step: isinstance(step, Copy) and step.when == BUSY, Copy("a", "b", when=BUSY)),
        (lambda step: isinstance(step, Copy) and step.version, Copy("a", "b", Pick(2))),
        (lambda step: isinstance(step, Delete), Delete("a")),
        (lambda step: isinstance(step, List), List(max_keys=2)),
        (lambda step: isinstance(step, List) and step.delimiter, List(delimiter="/", max_keys=2)),
        (lambda step: isinstance(step, CancelledWrite), CancelledWrite("a")),
        (lambda step: isinstance(step, Restart), Restart()),
        (
            lambda step: isinstance(step, Together) and Delete("") in step.calls,
            Together("r", (Delete(""), Write("", size=3))),
        ),
    ],
)
def test_what_has_nothing_to_do_with_the_failure_goes(fails: Callable[[Any], bool], wanted: Step) -> None:
    assert shrunk(LONG, having(fails)) == (wanted,)


def test_steps_that_need_each_other_stay_in_their_order() -> None:
    def fails(steps: Sequence[Step]) -> bool:
        names = [type(step).__name__ for step in steps]
        return "Write" in names and "Delete" in names[names.index("Write") :]

    assert shrunk((*LONG, *LONG), fails) == (Write("a", "ab"), Delete("a"))


def test_it_ends_though_the_failure_comes_and_goes() -> None:
    turns: list[int] = []

    def fails(_: Sequence[Step]) -> bool:
        turns.append(1)
        return len(turns) % 3 == 0

    assert shrunk(LONG * 20, fails)
    assert len(turns) <= MOST_TRIES


def test_what_does_not_fail_again_is_left_as_it_was() -> None:
    assert shrunk(LONG, lambda _: False) == LONG
