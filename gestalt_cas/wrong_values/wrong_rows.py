"""How a row that no write stores is told: which one it is, its column, and what that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Wrong:
    """A row that no write stores. `row` names it as people do; `column` is the first one that is wrong.

    `key` is its primary key, texts as bytes.
    """

    table: str
    row: str
    column: str
    why: str
    key: tuple[Any, ...] = ()

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        return f"{self.table}{row}: {self.column} {self.why}"


def describe(value: object) -> str:
    """A value for a message: what it is, cut short."""
    if value is None:
        return "NULL"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def named(table: str, key: Sequence[Any]) -> str:
    """A row as people name it."""
    if table == "counter":
        return ""
    if table in ("blobs", "unreachable"):
        return key[0].hex() if isinstance(key[0], bytes) and len(key[0]) == 32 else describe(key[0])
    texts = [readable(part) if isinstance(part, bytes) else describe(part) for part in key]
    if table == "versions":
        return f"{texts[0]}/{texts[1]}, sequence {texts[2]}"
    if table == "holds":
        return f"{texts[0]}/{texts[2]}" + (f", version {texts[1]}" if texts[1] else "")
    return "/".join(texts) or "''"


def readable(value: bytes) -> str:
    """A text that need not be UTF-8."""
    return value.decode(errors="backslashreplace")
