"""Waiting for a peer on the event loop, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_LOOK_SECONDS = 0.05
"""For how long the sockets are asked again when the time is over. What has arrived by then is found at once."""


async def within(seconds: float, coming: Coroutine[Any, Any, Result]) -> Result:
    """What `coming` gives; raises TimeoutError when it takes longer.

    Unlike asyncio.timeout it looks once more at what has come when the time is over: after the process was stopped and
    continued both are due at once, and the peer was not the one who was late. (An epoll call that a stop interrupted
    reports nothing once its time has passed, so the loop would see the time first.)
    """
    task = asyncio.ensure_future(coming)
    try:
        for patience in (seconds, _LOOK_SECONDS):
            if (await asyncio.wait([task], timeout=patience))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
