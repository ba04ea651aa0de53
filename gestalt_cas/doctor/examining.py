"""Examining a store from outside: what keeps it from working, or soon may, and what to do about it.

Nothing is changed or kept locked, and nothing that a server needs is waited for, so it is safe beside one. The store is
not opened, so it works on one that cannot be. `check` judges what is in a store; this judges what is around it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from gestalt_cas.doctor import database, disk, files, process
from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.errors import NoStore
from gestalt_cas.files.layout import Layout


def examine(directory: str | os.PathLike[str]) -> list[Finding]:
    """Everything that was looked at, in a fixed order of subjects; raises NoStore when there is nothing to examine."""
    layout = Layout(Path(os.path.abspath(directory)))
    _require(layout)
    if shut := files.shut(layout):
        return shut  # nothing below can be looked at
    facts, found = database.examine(layout)
    examinations: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("permissions", lambda: files.permissions(layout)),
        ("directories", lambda: files.directories(layout)),
        ("file system", lambda: disk.file_system(layout)),
        ("syncs and locks", lambda: disk.trial(layout)),
        ("room", lambda: disk.room(layout)),
        ("database", lambda: found),
        ("server", lambda: process.server(layout, facts)),
        ("leftovers", lambda: files.leftovers(layout)),
        ("versions", process.versions),
        ("limits", process.limits),
    )
    return [finding for subject, look in examinations for finding in _tried(subject, look)]


def _tried(subject: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of one examination, which is one itself when the system does not let us look."""
    try:
        return look()
    except OSError as error:
        where = f" at {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        return [Finding(Severity.ERROR, subject, f"cannot be examined{where}: {error.strerror or error}")]


def _require(layout: Layout) -> None:
    """Raise NoStore for a directory in which nothing of a store is; one that lacks only its rows is to be examined."""
    try:
        names = {entry.name for entry in os.scandir(layout.root)}
    except (FileNotFoundError, NotADirectoryError):
        raise NoStore(f"no store at {layout.root}: {layout.absence()}") from None
    except OSError:
        return  # what cannot be read is what the examination tells
    if not names & {layout.database.name, layout.new_database.name, layout.blobs.name}:
        raise NoStore(f"no store at {layout.root}: it holds no {layout.database.name}")
