"""Create a store's tables, or bring them to the revision that this code works with.

An open store holds schema.lock shared; whoever creates or upgrades holds it exclusively, and write.lock beside it, so
an upgrade never runs under a process that works with the old tables. All steps of an upgrade, Alembic's revision mark
and user_version are one transaction: killed anywhere, the old store or the new one is there. The revision is read again
under the locks, since another process may have been faster. The steps are the subject of `migrating.py`. Design:
docs/design.md, "Opening and upgrading".
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from gestalt_cas import sizes
from gestalt_cas.errors import DiskFull, NoStore, SchemaTooNew, StoreBusy, StoreError, StoreUnusable
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import identity
from gestalt_cas.rows import settings
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import is_full, sync_directory, sync_file
from gestalt_cas.system.locks import FileLock, WriterLock
from gestalt_cas.transactions.connections import connect
from gestalt_cas.transactions.wal import Wal

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 20.0
"""Seconds that opening waits for another process's upgrade, or for every other process to leave before its own."""
_LOOK_AGAIN_SECONDS = 0.1
_STEP_PAGES = 1024
"""Pages of the old database that are copied between two looks for signals."""
_TIMES_THE_DATABASE = 3
"""What an upgrade takes at most: the copy, the WAL with what is rewritten, and as much when that moves out of it."""


def open_schema(
    layout: Layout, schema_lock: FileLock, writer_lock: WriterLock, *, create: bool, initial: Mapping[str, object]
) -> None:
    """Return with `schema_lock` held shared on a store of the current revision.

    With `create` an absent store is made, with `initial` as its settings, and an old one upgraded; without it NoStore
    or StoreUnusable is raised and nothing changes. Raises SchemaTooNew for a newer store, StoreBusy when the locks are
    not had within OPEN_TIMEOUT.
    """
    if sqlite.version() < sqlite.OLDEST:
        wanted = ".".join(str(part) for part in sqlite.OLDEST)
        raise StoreUnusable(f"SQLite {sqlite.VERSION} is too old; {wanted} or newer is needed")
    deadline = time.monotonic() + OPEN_TIMEOUT
    while True:
        schema_lock.acquire(deadline, shared=True)
        found = read_revision(layout)
        if found == schema.REVISION:
            return
        schema_lock.release()
        if not create:
            if found is None:
                raise NoStore(f"no store at {layout.root}: its creation was not finished")
            raise StoreUnusable(f"the store at {layout.root} has the older format {found}; serve it once to upgrade it")
        try:
            schema_lock.acquire(min(deadline, time.monotonic() + _LOOK_AGAIN_SECONDS))
        except StoreBusy:
            # Whoever holds it may have done our work, and then holds it shared for as long as its store is open.
            if time.monotonic() < deadline:
                continue
            if found is None:
                raise
            raise StoreBusy(
                f"the store at {layout.root} has the older format {found} and cannot be upgraded while others have it "
                f"open: {schema_lock.holders()}; stop them, then try again"
            ) from None
        try:
            with writer_lock.held(max(0.0, deadline - time.monotonic())):
                _create_or_upgrade(layout, initial)
        finally:
            schema_lock.release()


def read_revision(layout: Layout) -> str | None:
    """The store's revision; None for one whose creation was not finished. Changes nothing.

    Raises SchemaTooNew for a revision that this code does not know, StoreUnusable for another program's database.
    """
    if not layout.database.exists() or layout.database.stat().st_size == 0:
        return None
    connection = connect(layout.database, mode="ro")
    try:
        found = identity.read(connection)
    except DriverError as error:
        fault = sqlite.translate(error, connection)
        raise type(fault)(f"{layout.database}: {fault}") from error
    finally:
        connection.close()
    if found.unfinished:
        return None
    if not found.ours:
        raise StoreUnusable(f"{layout.database} is another program's database")
    if found.revisions is None or len(found.revisions) != 1:
        raise StoreUnusable(f"{layout.database} does not tell its revision")
    if found.newer:
        raise SchemaTooNew(
            f"the store at {layout.root} has format {found.form}, revision {found.revision}; this release of "
            f"gestalt-cas reads up to format {schema.FORMAT}, revision {schema.REVISION}"
        )
    return found.revision


def _create_or_upgrade(layout: Layout, initial: Mapping[str, object]) -> None:
    found = read_revision(layout)
    if found == schema.REVISION:
        return
    if found is None:
        layout.refuse_orphans()
        _make_empty_database(layout)
        _migrate(layout, found, initial)
    else:
        with _wanting_room(layout, found):
            copy_aside(layout, found)
            _migrate(layout, found, initial)


def _migrate(layout: Layout, found: str | None, initial: Mapping[str, object]) -> None:
    from gestalt_cas.formats import migrating  # SQLAlchemy and Alembic: a store that is up to date needs neither

    connection = connect(layout.database)
    try:
        connection.execute("PRAGMA foreign_keys=OFF")
        sqlite.spill(connection)
        sqlite.heed_signals(connection)
        with migrating.migrated(connection):
            if found is None:
                settings.store(connection, initial)
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise StoreUnusable(f"upgrade of {layout.root} refused: rows of {broken[0][0]} refer to nothing")
            connection.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={schema.FORMAT}")
            # Else the WAL's name might be lost while closing moves pages out of it; see `Database._keep_wal`.
            sync_directory(layout.root)
            connection.execute("COMMIT")
    except DriverError as error:
        raise sqlite.translate_spilled(connection, error) from error
    finally:
        Wal(layout.wal, layout.shared_memory).close(connection)
    log.info("store at %s %s at revision %s", layout.root, "upgraded" if found else "created", schema.REVISION)


def _make_empty_database(layout: Layout) -> None:
    """Make the empty database, owner-only, with what is fixed at creation, in place of an unfinished one.

    It gets its name when it is complete, and has it on the disk when this returns. Until a file is in WAL mode SQLite
    changes it under a rollback journal, and a journal that a killed process leaves can only be rolled back by opening
    for writing, which `read_revision` does not.
    """
    new = layout.new_database
    for leftover in (new, *layout.beside(new)):
        leftover.unlink(missing_ok=True)
    os.close(ownership.make_file(new, os.O_RDWR, 0o600))
    connection = connect(new)
    try:
        connection.execute(f"PRAGMA page_size={schema.PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchall()[0][0]
        if mode != "wal":
            raise StoreUnusable(f"the file system of {layout.root} does not support SQLite's WAL (got {mode})")
    except DriverError as error:
        raise sqlite.translate(error, connection) from error
    finally:
        connection.close()
    # What an unfinished database has in its WAL would count as the new one's.
    for leftover in layout.beside(layout.database):
        leftover.unlink(missing_ok=True)
    new.rename(layout.database)
    sync_directory(layout.root)


@contextmanager
def _wanting_room(layout: Layout, revision: str) -> Iterator[None]:
    """Where an upgrade in the block finds no room, leave none of it taken, and say what is so and what it takes.

    The old database stands then, and the release before needs what little room there is; so the copy of it goes.
    """
    try:
        yield
    except (DiskFull, OSError) as error:
        of_temporary_files = isinstance(error, DiskFull) and error.directory not in ("", str(layout.root))
        if of_temporary_files or not (isinstance(error, DiskFull) or is_full(error)):
            raise
        with suppress(StoreError, OSError):
            if read_revision(layout) == revision:
                _aside(layout, revision).unlink(missing_ok=True)
        size = sum(path.stat().st_size for path in (layout.database, layout.wal) if path.exists())
        raise DiskFull(
            f"the disk is full: the store at {layout.root} was not upgraded from the older format {revision} and is as "
            f"it was; make room: a copy of its database, {sizes.told(size)}, and the upgrade itself take up to "
            f"{sizes.told(_TIMES_THE_DATABASE * size)} ({error})"
        ) from error


def _aside(layout: Layout, revision: str) -> Path:
    return layout.root / f"metadata.before-upgrade-from-{revision}.sqlite3"


def copy_aside(layout: Layout, revision: str) -> Path:
    """Copy the database of an old revision beside itself before it is upgraded; returns the copy's path.

    The copy and its name are on the disk when this returns, before the upgrade begins. What cannot be completed goes.
    """
    target = _aside(layout, revision)
    part = target.with_suffix(".part")
    for leftover in (part, *Layout.beside(part)):
        leftover.unlink(missing_ok=True)
    try:
        _copy_to(layout, part)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(target)
    sync_directory(layout.root)
    return target


def _copy_to(layout: Layout, part: Path) -> None:
    fd = ownership.make_file(part, os.O_RDWR, 0o600)
    try:
        with closing(connect(layout.database)) as source, closing(sqlite.connect(part)) as destination:
            try:
                destination.execute("PRAGMA synchronous=OFF")  # it is synced once, when it is complete
                destination.execute("PRAGMA journal_mode=OFF").fetchall()  # and until then nobody needs what was before
                sqlite.copy(source, destination, pages=_STEP_PAGES)
            except DriverError as error:
                raise sqlite.translate(error, destination) from error
        sync_file(fd)
    except DriverError as error:
        raise sqlite.translate(error) from error
    finally:
        os.close(fd)
