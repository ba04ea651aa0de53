"""What an opened store is made of, and how its parts come together.

The operations (`store.py`) and the upkeep (`garbage.py`, `checking.py`, `backup.py` and their neighbours) all work on
the same parts, so none of them needs another.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import DiskFull, StorageFault, StoreUnusable
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.reserve import Reserve
from gestalt_cas.formats import upgrade
from gestalt_cas.operations.payloads import Payloads
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.settings import Settings
from gestalt_cas.system.durability import is_full
from gestalt_cas.system.locks import StoreLocks
from gestalt_cas.system.refusals import fault, is_want_of_files
from gestalt_cas.transactions.database import Database


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one opened store. Thread-safe each, but for `locks`, taken through their own methods."""

    layout: Layout
    locks: StoreLocks
    database: Database
    blobs: Blobs
    payloads: Payloads
    reserve: Reserve

    def recall(self, name: str) -> object:
        """What a process of this store noted down under `name`; None when there is no such note."""
        with self.database.read() as tx:
            return store_settings.recall(tx, name)

    def note(self, name: str, value: object) -> None:
        """Note something down for the processes to come; it is no setting and decides nothing in the store."""
        with self.database.read() as tx:
            noted = store_settings.is_noted(tx, name, value)
        if not noted:
            with self.database.write() as tx:
                store_settings.store(tx, {name: value})

    def close(self) -> None:
        """Close the database and let go of the locks; a second call does nothing, nor one in a forked process."""
        if self.locks.inherited:
            return
        self.locks.close(writing=not self.database.close())
        self.reserve.keep_spares()


def open_parts(
    data_dir: str | os.PathLike[str], *, create: bool, settings: Mapping[str, object], limits: Limits
) -> Parts:
    """Open the directory, with `create` making an absent store and upgrading an old one; spends the reserve if it must.

    `settings` are those that a new store begins with, beside the defaults. Raises NoStore, StoreUnusable, SchemaTooNew,
    StoreBusy or StoreFull.
    """
    layout = Layout(Path(os.path.abspath(data_dir)))
    if create:
        layout.make()
    else:
        layout.require()
    reserve = Reserve(layout)
    opened = reserve.spend_on(lambda: _open(layout, reserve, settings, limits, create=create))
    reserve.keep()
    return opened


def _open(layout: Layout, reserve: Reserve, settings: Mapping[str, object], limits: Limits, *, create: bool) -> Parts:
    locks: StoreLocks | None = None
    try:
        locks = StoreLocks(layout.root)
        initial = {**Settings().by_name(), **settings}
        upgrade.open_schema(layout, locks.schema, locks.writer, create=create, initial=initial)
        database, blobs = Database(layout, locks.writer), Blobs(layout, limits)
    except BaseException as error:
        if locks is not None:
            locks.close()
        if is_full(error) or (isinstance(error, StorageFault) and layout.full()):
            raise DiskFull(f"the disk is full: {layout.root} cannot be opened") from error
        if is_want_of_files(error):
            raise fault(f"opening {layout.root}", error) from error
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise StoreUnusable(f"cannot use {layout.root} as a data directory: {reason}") from error
        raise
    return Parts(layout, locks, database, blobs, Payloads(database, blobs), reserve)
