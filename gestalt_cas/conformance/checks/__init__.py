"""The named checks, a module for each area of the contract."""

from __future__ import annotations

from gestalt_cas.conformance.checks import (
    bodies,
    conditions,
    copying,
    lifecycle,
    listing,
    names,
    presigning,
    ranges,
    versions,
)
from gestalt_cas.conformance.registry import CHECKS, Check

AREAS = tuple(
    module.__name__.rpartition(".")[2]
    for module in (lifecycle, bodies, names, ranges, conditions, listing, copying, presigning, versions)
)


def all_checks() -> list[Check]:
    """Every check in the order of the contract's numbers."""
    return sorted(CHECKS, key=lambda check: check.number)
