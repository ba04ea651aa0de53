"""The wall clock, in the unit that the store keeps. It dates things; it never orders them."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds since the Unix epoch, whatever the clock of the machine says."""
    return time.time_ns() // 1_000_000
