"""Room kept back for the hour when the disk is full.

DIR/reserve holds really allocated blocks: the least of 16 MiB, 1/16 of the file system, and what a file may have.
Deletes, removals and gc need a little room in the database before they can free any, and so does opening a store; when
they find none, the reserve is given up, they are tried once more, and what they left of it is kept again. It is remade
when twice its size is free.

A file system may run out of files before it runs out of bytes. Opening a store that nobody has open takes two, the WAL
and its shared memory, so DIR/reserve.1 and DIR/reserve.2, empty, are kept for that, and made again at closing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

from gestalt_cas import sizes
from gestalt_cas.errors import DiskFull, FileSizeLimit, StorageFault, StoreFull
from gestalt_cas.files.layout import Layout, out_of_files
from gestalt_cas.system import ownership, platforms
from gestalt_cas.system.refusals import free_bytes, longest_file

log = logging.getLogger(__name__)

_LARGEST = 16 << 20
_WORKING_BYTES = 128 << 10
"""Left free when a reserve is taken back: SQLite needs a little room to work beside it."""
Result = TypeVar("Result")


class Reserve:
    """The reserve file of one store; several processes may handle it at once."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.reserve
        self._spares = layout.spares

    def wanted_bytes(self) -> int:
        found = os.statvfs(self._path.parent)
        longest = longest_file()
        return min(_LARGEST, found.f_blocks * found.f_frsize // 16, _LARGEST if longest is None else longest)

    def make(self) -> bool:
        """Allocate the file if it is absent and twice its size is free; returns whether it is there now."""
        self._make_spares()
        wanted = self.wanted_bytes()
        if self._size() >= wanted:
            return True
        if free_bytes(self._path.parent) < 2 * wanted:
            return False
        return self._allocate(wanted)

    def _take_back(self) -> None:
        """Keep what is left of a reserve that was given up, so that the next upload does not take it.

        A failure is only logged: the removal is done, and its caller must hear that.
        """
        try:
            self._make_spares()
            left = min(self.wanted_bytes(), free_bytes(self._path.parent) - _WORKING_BYTES)
            if left > 0:
                self._allocate(left)
        except OSError as error:
            log.info("no room kept in reserve: %s", error)

    def _allocate(self, size: int) -> bool:
        fd = ownership.open_or_make(self._path, os.O_RDWR, 0o600)
        try:
            platforms.allocate(fd, size)
        except OSError as error:
            os.ftruncate(fd, 0)
            log.info("no room kept in reserve: %s", error)
            return False
        finally:
            os.close(fd)
        return True

    def keep(self) -> None:
        """Make the reserve if there is room; a store works without one, so a failure is only logged."""
        try:
            self.make()
        except OSError as error:
            log.info("no room kept in reserve: %s", error)

    def keep_spares(self) -> None:
        """Make the spare files again, now that closing has given back what opening took."""
        try:
            self._make_spares()
        except OSError as error:
            log.info("no files kept in reserve: %s", error)

    def _make_spares(self) -> None:
        missing = [path for path in self._spares if not path.exists()]
        if missing and not self._out_of_files():
            for path in missing:
                os.close(ownership.open_or_make(path, os.O_RDWR, 0o600))

    def _out_of_files(self) -> bool:
        try:
            return out_of_files(self._path.parent)
        except OSError as error:
            log.info("the file system does not tell how many files it can hold: %s", error)
            return False

    def give_up(self) -> bool:
        """Free the reserved blocks, or the spare files when it is files that lack; returns whether there were any."""
        if self._out_of_files() and self._give_up_spares():
            return True
        size = self._size()
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        log.warning("the disk is full: gave up the reserve of %s so that removals can run", sizes.told(size))
        return size > 0

    def _give_up_spares(self) -> bool:
        present = [path for path in self._spares if path.exists()]
        for path in present:
            path.unlink(missing_ok=True)
        if present:
            log.warning("the file system can hold no more files: gave up %d that were kept for this", len(present))
        return bool(present)

    def spend_on(self, removal: Callable[[], Result]) -> Result:
        """Run a call that must work on a full disk; when it finds no room, give up the reserve and run it once more.

        What the call did not need of the reserve is kept again. A file that may not grow any further is the WAL, which
        the second try may find at its beginning; room is not what lacks then. SQLite has other words for want of room
        where it makes or lengthens the files beside its database: a second try that fails in those is told in the words
        of the first.
        """
        try:
            return removal()
        except FileSizeLimit:
            return removal()
        except StoreFull as full:
            if not self._helps(full) or not self.give_up():
                raise
            try:
                return removal()
            except StorageFault as fault:
                full.args = (f"{full}; with the reserve given up: {fault}",)
                raise full from fault
            finally:
                self._take_back()

    def _helps(self, full: StoreFull) -> bool:
        """Whether the room is wanted here, as far as is known, and not where temporary files are."""
        return not isinstance(full, DiskFull) or full.directory in ("", str(self._path.parent))

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0
