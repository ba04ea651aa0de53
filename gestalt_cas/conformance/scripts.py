"""A sequence of steps as a Python script that anybody with the kit can run."""

from __future__ import annotations

from collections.abc import Sequence

from gestalt_cas.conformance import steps as words
from gestalt_cas.conformance.steps import Step

_HEAD = '''"""Found by the conformance kit: {deviation}

Run it with the kit installed, against a provider that serves: python THIS-FILE TARGET
"""

import sys

from gestalt_cas.conformance.player import play
from gestalt_cas.conformance.steps import {names}

STEPS = [
'''
_TAIL = """]

play(sys.argv[1], STEPS, bucketed={bucketed})
print("every answer was as it should be")
"""


def script(steps: Sequence[Step], deviation: str, *, bucketed: bool) -> str:
    """The text of a script that plays the steps and ends with the deviation, if the provider still has it."""
    listed = "".join(f"    {step!r},\n" for step in steps)
    names = [name for name in dir(words) if f"{name}(" in listed or f"{name}." in listed]
    told = " ".join(deviation.split())[:400].replace("\\", "/").replace('"""', "'''")
    return _HEAD.format(deviation=told, names=", ".join(names)) + listed + _TAIL.format(bucketed=bucketed)
