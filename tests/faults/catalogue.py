"""All operations that the disk fails."""

from __future__ import annotations

from faults import cases, past

CASES = cases.CASES | past.CASES
