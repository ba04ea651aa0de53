"""What an examination found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Severity(IntEnum):
    """How bad it is, in rising order. A note is worth knowing and needs nothing done."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3
    DAMAGE = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is a command where there is one, "" where nothing is to be done."""

    severity: Severity
    subject: str
    text: str
    remedy: str = ""


def listed(paths: list[Path], root: Path) -> str:
    """The first of some paths, as seen from the store's directory, and how many more there are."""
    first = "the data directory" if paths[0] == root else str(paths[0].relative_to(root))
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
