"""Whether an open store still stands where it was opened.

Payloads are found by their paths, but an open database follows its file: where the directory was removed, moved away,
unmounted or replaced by another one, rows would be committed into a file that nobody will open again, with their
payloads in another store or nowhere, and a removal would be answered that never happened. So each write begins with a
look at the path, one system call, and reads look at it now and then. Put back as it was, the store works on.
"""

from __future__ import annotations

import os
import time

from gestalt_cas.errors import StorageFault
from gestalt_cas.files.layout import Layout

_GLANCE_SECONDS = 0.05


class Place:
    """Where a store was opened: its directory, and the database file that stood there. Thread-safe."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._root = layout, layout.root
        self._path = str(layout.database)
        self._opened = os.stat(self._path)
        self._look_again = 0.0

    def glance(self) -> None:
        """`require` for reads, which promise nothing: the last look holds for a moment."""
        now = time.monotonic()
        if now >= self._look_again:
            self.require()
            self._look_again = now + _GLANCE_SECONDS

    def require(self) -> None:
        """Raise StorageFault unless the path still stands for the database that was opened."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            raise StorageFault(
                f"the data directory {self._root} has lost its database: it was removed, moved or unmounted while it "
                "was open; nothing is read or written until it is back"
            ) from None
        except OSError as error:
            raise StorageFault(f"the data directory {self._root} cannot be reached: {error.strerror}") from error
        if not os.path.samestat(found, self._opened):
            raise StorageFault(
                f"another database stands in {self._root} than the one that was opened there; nothing is read or "
                "written until this process is started again"
            )

    def fault(self) -> str:
        """What keeps the store from being used, in a sentence; "" while nothing does."""
        try:
            self.require()
            if self._layout.read_only():
                return f"the file system that holds {self._root} is read-only: uploads and removals are refused"
        except StorageFault as fault:
            return str(fault)
        except OSError as error:
            return f"the data directory {self._root} cannot be reached: {error.strerror}"
        return ""
