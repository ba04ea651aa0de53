"""The wall clock, in the unit that the store keeps. It dates things; it never orders them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

DAY_MS = 86_400_000


def now_ms() -> int:
    """Milliseconds since the Unix epoch, whatever the clock of the machine says."""
    return time.time_ns() // 1_000_000


def instant(milliseconds: int) -> str:
    """ISO 8601 in UTC with milliseconds, of milliseconds since the Unix epoch."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
