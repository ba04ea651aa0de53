"""Mutants that no test can tell from the original, each with the reason. A survivor that is not here needs a test."""

from __future__ import annotations

EQUIVALENT: dict[str, dict[str, str]] = {}
"""By module: the mutant's name, and why it does the same."""
