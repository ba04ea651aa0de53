"""Numbers of bytes for people: powers of 1024, with at most four characters before the B."""

from __future__ import annotations


def human(count: int) -> str:
    """Like `13`, `1.5K`, `120M`, `3.0G`."""
    if count < 1024:
        return str(count)
    value = float(count)
    for unit in "KMGTP":
        value /= 1024
        if round(value, 1) < 10:
            return f"{value:.1f}{unit}"
        if round(value) < 1024 or unit == "P":
            return f"{value:.0f}{unit}"
    raise AssertionError("the last unit always returns")


def told(count: int) -> str:
    """Like `13B`, `1.5KB`, `120MB`, `3.0GB`."""
    return f"{human(count)}B"
