"""What a database is suspected of, and what that means for the writes to come.

After an I/O error, or when SQLite has met something malformed, a check is due before the next write. What that finds
makes the store refuse writes for good; until then the fault is one that may pass.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gestalt_cas.errors import DatabaseDamaged, DiskFull, FileSizeLimit, StoreError
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection

log = logging.getLogger(__name__)

AFTER_IO_ERROR, AFTER_DAMAGE = "quick_check", "integrity_check"
"""SQLite's checks; only the second compares indexes with their tables."""
_CHECK_IS_DUE = "the next write checks the database before it does anything"


class Faults:
    """The faults that were met in one open database.

    `due` is the check that has to be passed before the next write, `refusal` why writes are refused for good; "" for
    none. `no_room` tells that a write found the disk full, or a file as long as it may be.
    """

    def __init__(self, directory: Path) -> None:
        self.due = ""
        self.refusal = ""
        self.no_room = False
        self._failing = ""
        self._directory = directory

    @property
    def passing(self) -> bool:
        """Whether there is a fault that a check may find to have passed."""
        return bool(self._failing) and not self.refusal

    @property
    def told(self) -> str:
        """Why writes are refused, for good or until the disk works again; "" while they are not."""
        return self.refusal or self._failing

    def noted(self, error: Exception, connection: Connection | None = None, *, spilled: bool = False) -> StoreError:
        """The store's word for a driver error, which is remembered for the writes to come.

        `connection` is what met it, if that writes; `spilled` tells that it works in temporary files.
        """
        self.note(error, connection)
        if spilled and connection is not None:
            failure = sqlite.translate_spilled(connection, error)
        else:
            failure = sqlite.translate(error, connection)
        if isinstance(failure, FileSizeLimit):
            self.no_room = True
        if not isinstance(failure, DiskFull) or failure.directory:
            return failure
        self.no_room = True
        return DiskFull(f"{failure}; it holds {self._directory}", directory=str(self._directory))

    def note(self, error: Exception, connection: Connection | None = None) -> None:
        """Remember a driver error, if it is one that casts doubt on the database; `connection` as in `noted`."""
        if connection is not None and sqlite.hits_file_limit(error, connection):
            return
        if sqlite.is_io_error(error) or sqlite.is_read_only(error):
            self.due = self.due or AFTER_IO_ERROR
            self._failing = f"the disk failed: {error}; {_CHECK_IS_DUE}"
            log.error("I/O error of the database: %s", error)
        elif sqlite.is_damage(error):
            self.suspect_damage(sqlite.translate(error))

    def suspect_damage(self, damage: StoreError) -> None:
        """Have the whole database checked before the next write.

        Nothing is refused yet: SQLite also calls its file malformed when the disk fails to read a page of it, and that
        may pass.
        """
        self.due = AFTER_DAMAGE
        self._failing = f"{damage}; {_CHECK_IS_DUE}"
        log.error("%s", damage)

    def refuse(self, damage: DatabaseDamaged) -> None:
        """Refuse writes from now on."""
        self.refusal = f"writes are refused: {damage}"
        log.error("%s", self.refusal)

    def passed(self) -> None:
        """The check that was due found nothing."""
        self.due = self._failing = ""
