"""A sequence of steps as a Python script that anybody with the kit can run, and what such a script does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import grpc

from gestalt_cas.conformance import steps as words
from gestalt_cas.conformance.capabilities import Capability, chosen
from gestalt_cas.conformance.player import Player
from gestalt_cas.conformance.registry import Deviation
from gestalt_cas.conformance.steps import Step, chances
from gestalt_cas.conformance.wire import Wire, lines, told

_RACE_TRIES = 100
_HEAD = '''"""Found by the conformance kit: {deviation}

Run it with the kit installed, against a provider that serves: python THIS-FILE TARGET
"""

import sys

from gestalt_cas.conformance.scripts import replay
from gestalt_cas.conformance.steps import {names}

STEPS = [
'''
_TAIL = """]
CAPABILITIES = {capabilities}

sys.exit(replay(sys.argv[1:], STEPS, bucketed={bucketed}, capabilities=CAPABILITIES))
"""


def replay(
    arguments: Sequence[str], steps: Sequence[Step], *, bucketed: bool, capabilities: Iterable[str]
) -> str | None:
    """Play the steps against the target in `arguments`; what to end with, as `sys.exit` takes it.

    Calls at the same time go another way each time, and are given many chances to fail.
    """
    if len(arguments) != 1:
        return "give where the provider serves: unix:///PATH or tcp://HOST:PORT"
    with Wire(arguments[0], bucketed=bucketed) as wire:
        for _ in range(chances(steps, _RACE_TRIES)):
            player = Player(arguments[0], bucketed=bucketed, capabilities=chosen(capabilities), wire=wire)
            if failure := _failure(player, wire, steps):
                return failure
    print("every answer was as it should be")
    return None


def _failure(player: Player, wire: Wire, steps: Sequence[Step]) -> str:
    """Which step failed and how, "" for none."""
    for number, step in enumerate(steps, 1):
        try:
            player.play(step)
        except (Deviation, grpc.RpcError) as error:
            deviation = error if isinstance(error, Deviation) else Deviation("an answer", told(error))
            where = f"failed at step {number} of {len(steps)}: {_shown(step)}"
            return "\n".join([where, *lines(wire.exchanges.last()), str(deviation)])
    return ""


def script(steps: Sequence[Step], deviation: str, *, bucketed: bool, capabilities: Iterable[Capability]) -> str:
    """The text of a script that plays the steps and ends with the deviation, if the provider still has it.

    What the provider was held to is held to it again: without its `capabilities` a right one could fail.
    """
    listed = "".join(f"    {_shown(step)},\n" for step in steps)
    names = [name for name in dir(words) if f"{name}(" in listed or f"{name}." in listed]
    found = " ".join(deviation.split())[:400].replace("\\", "/").replace('"""', "'''")
    held_to = sorted(capability.value for capability in capabilities)
    tail = _TAIL.format(bucketed=bucketed, capabilities=held_to)
    return _HEAD.format(deviation=found, names=", ".join(names)) + listed + tail


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
