"""Mutants that no test can tell from the original, each with the reason. A survivor that is not here needs a test."""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {
    "tokens": {
        "_unpack: True -> False": "characters that a lenient decoder passes over are no part of what the next line "
        "compares the token with, so it refuses them with the same words",
    },
}
"""By module: the mutant's name, and why it does the same."""
