"""What a transfer of a directory onto keys, or of keys onto a directory, has to do: the steps, nothing carried out.

Both sides come in the byte order of names (`walking.py` for the directory), and are merged while they are read. Names
come from `paths`; whether equal sizes mean equal bytes is asked of the caller (who compares digests; times decide
nothing).

Rules: a transfer never overwrites what it cannot compare with, and a step is one of

    Transfer    the name is missing on the target, or has other bytes there
    Unchanged   the same bytes are there already
    Skip        the name cannot be transferred; it and all below it are left alone on the target
    Removal     (with `delete`, after everything else) the target has the name and the source has not
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectVersion
from gestalt_cas.transfers.directories import is_leftover
from gestalt_cas.transfers.paths import PathLimits, RemoteTree, ancestors, local_parts, order, path_meant
from gestalt_cas.transfers.walking import Entry, LocalFile, Unusable

Remote = tuple[str, ObjectVersion]
"""The name below the prefix, and the current version."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Copy `name` to the other side; `reason` is "new" or "differs"."""

    name: str
    size: int
    reason: str
    version: ObjectVersion | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing to do for `name`: both sides have the same bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave `name` alone, for `reason`."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Removal:
    """Remove `name` from the target; `size` is what it has there."""

    name: str
    size: int


Step = Transfer | Unchanged | Skip | Removal
Same = Callable[[LocalFile, ObjectVersion], bool]
"""Whether a file has the bytes of a version of the same size. May raise OSError."""


def plan_upload(
    entries: Iterable[Entry], objects: Iterable[Remote], target: RemoteTree, same: Same, *, delete: bool
) -> Iterator[Step]:
    """The steps that bring a directory's files to `target`, whose present objects are `objects` (both in name order).

    With no objects given, every file is transferred. Nothing is removed at or below a name that was skipped.
    """
    skipped: set[str] = set()
    extra: list[Removal] = []
    for name, entry, version in _merged(entries, objects):
        if entry is None and version is not None:
            if delete:
                extra.append(Removal(name, version.size))
        elif entry is not None:
            step = _upload_step(entry, version, target, same)
            if isinstance(step, Skip):
                skipped.add(name)
            yield step
    yield from (removal for removal in extra if not _below(removal.name, skipped))


def _upload_step(entry: Entry, version: ObjectVersion | None, target: RemoteTree, same: Same) -> Step:
    try:
        if isinstance(entry, Unusable):
            return Skip(entry.name, entry.reason)
        if is_leftover(entry.name):
            return Skip(entry.name, "what a killed transfer left behind; remove it")
        target.key(entry.name)
        if version is None:
            return Transfer(entry.name, entry.size, "new")
        return _compared(entry, version, entry.size, same)
    except InvalidArgument as error:
        return Skip(entry.name, str(error))
    except OSError as error:
        return Skip(entry.name, error.strerror or str(error))


def plan_download(
    objects: Iterable[Remote], entries: Iterable[Entry], limits: PathLimits, same: Same, *, delete: bool
) -> Iterator[Step]:
    """The steps that bring objects to a directory, whose present entries are `entries` (both in name order).

    With no entries given, every object is transferred. Of an object and others that need it as a directory, the first
    is transferred and the others are skipped. Only regular files are removed, and none that a skipped name means.
    """
    skipped: set[str] = set()
    extra: list[Removal] = []
    files = _Files()
    for name, entry, version in _merged(entries, objects):
        if version is None:
            if delete and isinstance(entry, LocalFile):
                extra.append(Removal(name, entry.size))
            continue
        step = _download_step(name, version, entry, limits, files, same)
        if isinstance(step, Skip):
            skipped.add(path_meant(name))
        else:
            files.add(name)
        yield step
    yield from (removal for removal in extra if not _below(removal.name, skipped))


def _download_step(
    name: str, version: ObjectVersion, entry: Entry | None, limits: PathLimits, files: _Files, same: Same
) -> Step:
    if version.removed:
        return Skip(name, f"its version of then, {version.version_id}, was removed for good since")
    try:
        local_parts(name, limits)
        if file := files.holding(name):
            return Skip(name, f"{file!r} is an object too, and cannot be a file and a directory")
        if isinstance(entry, Unusable):
            return Skip(name, f"{entry.reason} is in the way")
        if entry is None:
            return Transfer(name, version.size, "new", version)
        return _compared(entry, version, version.size, same)
    except InvalidArgument as error:
        return Skip(name, str(error))
    except OSError as error:
        return Skip(name, error.strerror or str(error))


def _compared(file: LocalFile, version: ObjectVersion, size: int, same: Same) -> Step:
    """What to do about a name that both sides have; `size` is that of the source."""
    if file.size == version.size and same(file, version):
        return Unchanged(file.name, size)
    return Transfer(file.name, size, "differs", version)


def _below(name: str, skipped: set[str]) -> bool:
    return bool(skipped) and (name in skipped or not skipped.isdisjoint(ancestors(name)))


class _Files:
    """The objects met so far, in name order, that later ones may need as a directory.

    The names below `f` start with `f/` and come before `f0` ("0" follows "/"); these ranges nest, so a stack serves.
    """

    def __init__(self) -> None:
        self._open: list[bytes] = []

    def add(self, name: str) -> None:
        self._open.append(order(name))

    def holding(self, name: str) -> str:
        """The file that `name` would be below, or ""."""
        wanted = order(name)
        while self._open and wanted >= self._open[-1] + b"0":
            self._open.pop()
        for file in reversed(self._open):
            if wanted.startswith(file + b"/"):
                return file.decode()
        return ""


def _merged(
    entries: Iterable[Entry], objects: Iterable[Remote]
) -> Iterator[tuple[str, Entry | None, ObjectVersion | None]]:
    """Pair two streams in name order; a name that only one has comes with None for the other."""
    left: Iterator[tuple[bytes, Entry | Remote]] = ((_place(entry), entry) for entry in entries)
    right: Iterator[tuple[bytes, Entry | Remote]] = ((order(remote[0]), remote) for remote in objects)
    for _, group in itertools.groupby(heapq.merge(left, right, key=itemgetter(0)), key=itemgetter(0)):
        entry: Entry | None = None
        version: ObjectVersion | None = None
        name = ""
        for _, item in group:
            if isinstance(item, tuple):
                name, version = item
            else:
                name, entry = item.name, item
        yield name, entry, version


def _place(entry: Entry) -> bytes:
    closed = isinstance(entry, Unusable) and entry.directory
    return order(entry.name) + b"/" if closed else order(entry.name)
