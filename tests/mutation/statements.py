"""Variants of SQL text that differ from it in one condition, comparison or clause.

A statement is put together from pieces, so a text may be a part of one. What SQLite refuses to compile dies at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeGuard

_SQL = re.compile(
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|WHERE|FROM|JOIN|AND|EXISTS|ORDER BY|LIMIT|IS NULL|IS NOT NULL)\b|[<>=] :[a-z]"
)
_VALUE = r"(?:[:\w.]+|'[^']*'|\?)"
_SIMPLE = rf"[\w.]+ (?:(?:=|!=|<=|>=|<|>) {_VALUE}|IS (?:NOT )?NULL)"
_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r">=", (">", "<")),
    (r"<=", ("<", ">")),
    (r"(?<![<>!])>(?!=)", (">=", "<=")),
    (r"<(?![=>])", ("<=", ">=")),
    (r"!=", ("=",)),
    (r"(?<=WHERE )[\w.]+ =(?= )|(?<=AND )[\w.]+ =(?= )|(?<=ON )[\w.]+ =(?= )", ("!=",)),
    (r"\bIS NOT NULL\b", ("IS NULL",)),
    (r"\bIS NULL\b", ("IS NOT NULL",)),
    (r"\bmax\(", ("min(",)),
    (r"\bmin\(", ("max(",)),
    (r"\bNOT EXISTS\b", ("EXISTS",)),
    (r" DESC\b", ("",)),
    (r"\bDISTINCT ", ("",)),
    (rf" AND {_SIMPLE}", ("",)),
    (rf"(?:(?<=WHERE )|^){_SIMPLE}\s+AND ", ("",)),
    (r" FILTER \(WHERE [^()]+\)", ("",)),
    (r"(?:^|\s+)ORDER BY [\w., ]+?(?: DESC)?(?=\s*$|\s+LIMIT)", ("",)),
    (r" LIMIT (?:1|:\w+)(?! OFFSET)", ("",)),
    (r" OFFSET [:\w]+", ("",)),
    (r"\s+ON CONFLICT .*", ("",)),
    (r" OR (?:IGNORE|REPLACE)\b", ("",)),
)
"""What is looked for, and what stands in its place: one at a time."""


def is_sql(value: object) -> TypeGuard[str]:
    """Whether a constant is the text of a statement, or a part of one."""
    return isinstance(value, str) and _SQL.search(value) is not None


def varied(text: str) -> Iterator[tuple[str, str, str]]:
    """Each variant, with the words that differ as they were and as they are."""
    for pattern, others in _WORDS:
        for found in re.finditer(pattern, text, re.DOTALL):
            before = found[0]
            for other in others:
                after = f"{before[:-1]}{other}" if other == "!=" else other
                told = " ".join(before.split()), " ".join(after.split()) or "nothing"
                yield text[: found.start()] + after + text[found.end() :], *told
