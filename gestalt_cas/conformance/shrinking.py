"""Makes a failing sequence of steps short: fewer steps, and each as plain as it can be.

Steps are values, so leaving some out needs no more than playing the rest. Hypothesis's own shrinking, which works on
the choices behind the steps, was tried: it took a minute and left steps that had nothing to do with the failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gestalt_cas.conformance.steps import (
    ALWAYS,
    CancelledWrite,
    Copy,
    Delete,
    Head,
    List,
    Read,
    Step,
    Together,
    Write,
)

MOST_TRIES = 400

Fails = Callable[[Sequence[Step]], bool]


def shrunk(steps: Sequence[Step], fails: Fails) -> tuple[Step, ...]:
    """The shortest sequence that is found to fail still, playing at most MOST_TRIES of them."""
    search = _Search(fails)
    found = list(steps)
    before = None
    while found != before and search.left > 0:
        before = found
        found = search.plainer(search.fewer(found))
    return tuple(found)


class _Search:
    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self.left = MOST_TRIES

    def _still(self, steps: list[Step]) -> bool:
        self.left -= 1
        return self.left >= 0 and self._fails(steps)

    def fewer(self, steps: list[Step]) -> list[Step]:
        """Leave out runs of steps, long ones first."""
        size = max(1, len(steps) // 2)
        while size:
            at = 0
            while at < len(steps):
                rest = steps[:at] + steps[at + size :]
                if rest and self._still(rest):
                    steps = rest
                else:
                    at += size
            size //= 2
        return steps

    def plainer(self, steps: list[Step]) -> list[Step]:
        """Take each step in a plainer form while the sequence fails with it, too."""
        for at in range(len(steps)):
            while (plainer := self._plainer_at(steps, at)) is not None:
                steps = plainer
        return steps

    def _plainer_at(self, steps: list[Step], at: int) -> list[Step] | None:
        for other in _plainer(steps[at]):
            changed = [*steps[:at], other, *steps[at + 1 :]]
            if other != steps[at] and self._still(changed):
                return changed
        return None


def _plainer(step: Step) -> Iterator[Step]:
    """Forms of the step that lack something it has, the plainest first; none of them leads back to it."""
    if isinstance(step, Write):
        yield replace(step, content_type="", metadata={}, when=ALWAYS, frames=1, size=min(step.size, 1))
        yield from (replace(step, size=size) for size in (1, 10, 65536) if size < step.size)
        yield replace(step, frames=1)
        yield replace(step, when=ALWAYS)
        yield replace(step, content_type="")
        yield replace(step, metadata={})
    elif isinstance(step, Read):
        yield replace(step, when=ALWAYS, version=None, start=None, end=None)
        yield replace(step, when=ALWAYS)
        yield replace(step, version=None)
        yield replace(step, start=None, end=None)
        if step.start is not None and step.end is not None:
            yield replace(step, start=None)
            yield replace(step, end=None)
    elif isinstance(step, Copy):
        yield replace(step, when=ALWAYS, version=None)
        yield replace(step, when=ALWAYS)
        yield replace(step, version=None)
    elif isinstance(step, CancelledWrite):
        yield replace(step, size=min(step.size, 1))
    elif isinstance(step, Head | Delete):
        yield replace(step, version=None)
    elif isinstance(step, List):
        yield replace(step, prefix="", delimiter="", start_after="")
        yield replace(step, start_after="")
        yield replace(step, delimiter="")
        yield replace(step, prefix="")
    elif isinstance(step, Together) and len(step.calls) > 2:
        for at in range(len(step.calls)):
            yield replace(step, calls=step.calls[:at] + step.calls[at + 1 :])
