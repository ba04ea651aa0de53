"""Whether rows that no write stores may be behind an exception: asked before anything is looked through for it."""

from __future__ import annotations

from gestalt_cas.errors import DatabaseDamaged, StoreError
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.system import exhaustion


def may_be_behind(error: BaseException | None) -> bool:
    """Whether damaged rows may be what an exception comes of.

    Not of one that is in words, but where those only repeat what SQLite or Python says of a value; not of one of the
    system or for want of memory.
    """
    if isinstance(error, StoreError):
        cause = error.__cause__
        if sqlite.comes_of_values(cause):
            return True
        return isinstance(error, DatabaseDamaged) and not isinstance(cause, DriverError) and may_be_behind(cause)
    return isinstance(error, Exception) and not (isinstance(error, OSError) or exhaustion.is_exhaustion(error))
