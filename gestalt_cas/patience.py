"""Waiting for a peer on the event loop, but not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def within(seconds: float, coming: Coroutine[Any, Any, Result]) -> Result:
    """What `coming` gives; raises TimeoutError when it takes longer.

    Unlike asyncio.timeout it looks at what has come before it looks at the time: after the process was stopped and
    continued both are due at once, and the peer was not the one who was late.
    """
    task = asyncio.ensure_future(coming)
    try:
        if not (await asyncio.wait([task], timeout=seconds))[0]:
            raise TimeoutError
        return task.result()
    finally:
        task.cancel()
