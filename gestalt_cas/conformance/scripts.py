"""A sequence of steps as a Python script that anybody with the kit can run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

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
    listed = "".join(f"    {_shown(step)},\n" for step in steps)
    names = [name for name in dir(words) if f"{name}(" in listed or f"{name}." in listed]
    told = " ".join(deviation.split())[:400].replace("\\", "/").replace('"""', "'''")
    return _HEAD.format(deviation=told, names=", ".join(names)) + listed + _TAIL.format(bucketed=bucketed)


def _shown(value: Any) -> str:
    """A step as the call that makes it, without what is so by default."""
    if isinstance(value, tuple):
        return f"({''.join(f'{_shown(one)}, ' for one in value)})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = [
        f"{field.name}={_shown(getattr(value, field.name))}"
        for field in fields(value)
        if getattr(value, field.name) != _default(field)
    ]
    return f"{type(value).__name__}({', '.join(given)})"


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default
