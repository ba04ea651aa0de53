"""Whether anybody serves gRPC at a target: asked before a run, and again when an answer was not as it should be.

A provider that has ended fails every check from then on, and none of these failures says anything of it. Nor does
making a failing sequence of calls short: each shorter one fails, too.

Asked is gRPC's own question for health. A server that does not have it says so, and that is an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import grpc

from gestalt_cas.conformance.wire import open_channel

ANSWER_SECONDS = 10.0
"""How long a server may take to answer at all."""
BACK_SECONDS = 3.0
"""How long one that was there may be away, as when something starts it again."""
_PAUSE_SECONDS = 0.1
_QUESTION = "/grpc.health.v1.Health/Check"
_NOBODY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def still_answers(target: str) -> bool:
    """Whether somebody serves where somebody did, given a moment to come back."""
    return answers(target, back_seconds=BACK_SECONDS)


def answers(target: str, *, back_seconds: float = 0.0) -> bool:
    """Whether somebody serves at the target; where nobody accepts, it is tried again for `back_seconds`."""
    until = time.monotonic() + back_seconds
    while not _answered(target):
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _answered(target: str) -> bool:
    with open_channel(target) as channel:  # one of its own each time: a channel waits longer after each failure
        try:
            ask: Callable[..., object] = channel.unary_unary(_QUESTION)
            ask(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code not in _NOBODY
    return True
