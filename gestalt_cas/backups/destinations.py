"""Directories that something is to be backed up or restored into: which will do, and keeping others out of them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gestalt_cas import sizes
from gestalt_cas.backups import manifests
from gestalt_cas.backups.manifests import Kind, State
from gestalt_cas.clock import instant
from gestalt_cas.errors import (
    DiskFull,
    FileSizeLimit,
    SchemaTooNew,
    StorageFault,
    StoreBusy,
    StoreError,
    StoreUnusable,
)
from gestalt_cas.files.layout import Layout
from gestalt_cas.remedies import command
from gestalt_cas.sql import schema
from gestalt_cas.system.durability import is_full
from gestalt_cas.system.locks import StoreLocks
from gestalt_cas.system.refusals import fault, free_bytes, is_file_limit
from gestalt_cas.transfers.directories import is_within

log = logging.getLogger(__name__)

CLAIM_SECONDS = 2.0
"""How long another process may still have the directory open; a short verb has left by then, a server has not."""
_UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


def refuse_nesting(source: Layout, target: Layout) -> None:
    """Raise StoreUnusable when one of the two directories is within the other, whatever links lead there."""
    if is_within(target.root, source.root):
        raise StoreUnusable(f"{target.root} is within {source.root}; name a directory outside it")
    if target.root.is_dir() and is_within(source.root, target.root):
        raise StoreUnusable(f"{source.root} is within {target.root}; name a directory that does not hold it")


def judge(target: Layout, store: str, sequence: int) -> State:
    """What DEST holds; raises StoreUnusable when a backup of this store must not go there. Changes nothing."""
    if not target.root.exists():
        return State(Kind.NONE, "")
    found = manifests.state(target.root)
    if not target.database.exists() and found.manifest is None:
        _refuse_others(target)
        return found
    known = found.manifest.store if found.manifest is not None else ""
    latest = found.manifest.sequence if found.manifest is not None else 0
    if target.database.exists():
        with _suppressed_damage():
            marks = manifests.marks_of(target.database)
            if not marks.backup:
                raise StoreUnusable(f"{target.root} holds a store that is no backup; name another directory")
            if marks.format > schema.FORMAT:
                raise SchemaTooNew(f"{target.root} holds a backup of format {marks.format}, made by a newer release")
            known, latest = marks.store, max(latest, marks.sequence)
    if known != store:
        raise StoreUnusable(f"{target.root} does not hold a backup of this store; name another directory")
    if found.kind is Kind.CHANGED:
        raise StoreUnusable(f"{found.reason}; a backup would throw that away: name another directory")
    if latest > sequence:
        raise StoreUnusable(
            f"{target.root} holds a later backup than this store could give: sequence {latest}, while the store has "
            f"{sequence}; name another directory"
        )
    return found


def _refuse_others(target: Layout) -> None:
    """Refuse a directory without a database or manifest, unless it is empty or a first backup was cut off in it."""
    if target.restore_database.exists():
        target.refuse_unfinished()
    if not target.backup_database.exists():
        target.refuse_strangers()
        target.refuse_orphans()


@contextmanager
def _suppressed_damage() -> Iterator[None]:
    """Rows that cannot be read are replaced like others; the manifest tells whose they are."""
    try:
        yield
    except StoreUnusable:
        raise
    except StoreError as error:
        log.warning("the rows of the backup before cannot be read: %s", error)


@contextmanager
def claimed(target: Layout) -> Iterator[StoreLocks]:
    """Make the directory, and keep every other process out of it for the block."""
    target.make_root()
    locks = StoreLocks(target.root)
    try:
        try:
            locks.schema.acquire(time.monotonic() + CLAIM_SECONDS)
        except StoreBusy:
            raise StoreBusy(
                f"{target.root} is in use by {locks.schema.holders()}: a server, a check, another backup or a restore; "
                "try again when that has ended"
            ) from None
        yield locks
    finally:
        locks.close()


@contextmanager
def told_about(root: Path, left: Callable[[], str]) -> Iterator[None]:
    """Say what the disk of the directory refuses in the store's words, and what is `left` there then (a sentence)."""
    try:
        yield
    except DiskFull as error:
        if error.directory not in ("", str(root)):
            raise DiskFull(f"{error}; {left()}", directory=error.directory) from error
        raise _full(root, left()) from error
    except FileSizeLimit as error:
        raise FileSizeLimit(f"{error}; {left()}") from error
    except StorageFault as error:
        # SQLite calls it an I/O error when it finds no room for some of its files.
        if root.is_dir() and Layout(root).full():
            raise _full(root, f"{left()} ({error})") from error
        raise StorageFault(f"{error}; {left()}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        if is_full(error):
            raise _full(root, left()) from error
        if is_file_limit(error):
            raise FileSizeLimit(f"{fault(f'writing to {root}', error)}; {left()}") from error
        if error.errno in _UNUSABLE:
            raise StoreUnusable(f"cannot use {root}: {reason}") from error
        raise StorageFault(f"writing to {root} failed: {reason}; {left()}") from error


def _full(root: Path, left: str) -> DiskFull:
    try:
        free = f" ({sizes.told(free_bytes(root))} are free)"
    except OSError:
        free = ""
    return DiskFull(f"the disk that holds {root} has no room for more{free}; {left}")


def left_by_backup(root: Path) -> str:
    """What a backup into the directory that was cut off leaves behind, and what to do about it."""
    try:
        before = manifests.state(root)
    except StoreError:
        before = State(Kind.NONE, "")
    if before.whole and before.manifest is not None:
        return (
            f"the backup of {instant(before.manifest.at_ms)} in it is good. What was copied beyond that stays for the "
            f"next run; to free room there: {command('gc', root)}"
        )
    return (
        f"there is no complete backup in {root}. What was copied stays and is taken up by the same command once there "
        "is room; to give it up, remove the directory"
    )


def left_by_restore(root: Path) -> str:
    """What a restore into the directory that was cut off leaves behind, and what to do about it."""
    return (
        f"{root} is no store yet. What was copied stays and is taken up by the same command once there is room; to "
        "give it up, remove the directory"
    )
