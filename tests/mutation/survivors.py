"""Mutants that no test can tell from the original, each with the reason. A survivor that is not here needs a test."""

from __future__ import annotations

_ONE = "the list has one element, so its first is its last"
_BELOW_2_48 = "sequences are below 2**48, since version ids hold them in six bytes, so the bound is above all of them"

EQUIVALENT: dict[str, dict[str, str]] = {
    "conditions": {
        "parse_tags: 0 -> -1": "a position before the beginning is the beginning to a pattern's `match`",
    },
    "tokens": {
        "_unpack: True -> False": "characters that a lenient decoder passes over are no part of what the next line "
        "compares the token with, so it refuses them with the same words",
    },
    "versions": {
        "_NEWER_THAN_ALL: 63 -> 62": _BELOW_2_48,
        "_NEWER_THAN_ALL: 1 -> 2 #2": _BELOW_2_48,
        "append: 1 -> 2": "the first of the ids made is the same, the other one is not used",
        "history: 0 -> -1 #2": "all rows of a group have the same key",
        "current: 0 -> -1": _ONE,
        "current_of: 0 -> -1": _ONE,
        "current_of: 0 -> -1 #2": _ONE,
        "newest: 0 -> -1": _ONE,
        "by_id: 0 -> -1": _ONE,
        "by_id: 0 -> -1 #2": _ONE,
        "pointer: 0 -> -1": _ONE,
        "pointer: 0 -> -1 #2": _ONE,
        "pointer: 0 -> -1 #3": _ONE,
        "pointer: 0 -> -1 #4": _ONE,
        "draw: 0 -> -1": _ONE,
        "append: 0 -> -1": _ONE,
    },
    "buckets": {
        "standing: _HAS_OBJECT(connection, bucket=name) or _HAS_VERSION(connection, bucket=name)"
        " -> _HAS_VERSION(connection, bucket=name)": "whoever has an object has its version; asked first as the quicker"
        " question, since versions that were removed may lie before the first that was not",
        "ever: 0 -> -1": _ONE,
        "ever: 0 -> -1 #2": _ONE,
        "ever: 0 -> -1 #3": _ONE,
        "ever: 0 -> -1 #4": _ONE,
        "totals: 0 -> -1": _ONE,
        "totals: 0 -> -1 #2": _ONE,
    },
}
"""By module: the mutant's name, and why it does the same."""
