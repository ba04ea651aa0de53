"""Examining what is around a store: `examine` is the way in."""

from __future__ import annotations

from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.doctor.examining import examine

__all__ = ["Finding", "Severity", "examine"]
