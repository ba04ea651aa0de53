"""What a process that forks does before, so that each of the forked ones need not do it again.

The store imports some of its modules only when it needs them.
"""

from __future__ import annotations

from importlib import import_module

_LATE = (
    "alembic.command",
    "gestalt_cas.backups.backup",
    "gestalt_cas.checks.checking",
    "gestalt_cas.removal.retention_previews",
)


def make_ready() -> None:
    for name in (*_LATE, "gestalt_cas.statistics", "gestalt_cas.store"):
        import_module(name)
