"""Versions as answers told them, and what it means that a store has lost one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Lost(AssertionError):
    """A store does not hold what was answered, or holds what nobody asked for."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version or marker; `digest` is hex, "" for a marker, and `version_id` "" when no answer has told it."""

    version_id: str
    digest: str


def agree(expected: Sequence[Version], found: Sequence[Version]) -> bool:
    """Whether these are the same versions, as far as their ids are known."""
    return len(expected) == len(found) and all(
        one.digest == other.digest and one.version_id in ("", other.version_id)
        for one, other in zip(expected, found, strict=True)
    )
