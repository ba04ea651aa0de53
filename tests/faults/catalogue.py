"""All operations that the disk fails."""

from __future__ import annotations

from faults import cases, keeping, past

CASES = cases.CASES | past.CASES | keeping.CASES
