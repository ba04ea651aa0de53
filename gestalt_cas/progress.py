"""How long work tells how far it is, to whoever wants to hear it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much (0: not known); may raise to stop between two steps."""


def silent(_what: str, _done: int, _total: int) -> None:
    """For callers who want to hear nothing."""
