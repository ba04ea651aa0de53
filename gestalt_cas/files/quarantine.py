"""Setting damaged files aside: DIR/quarantine/<digest>.<ms> beside a note <digest>.<ms>.json that says why.

A rename within the file system, so no byte of the evidence changes and nothing is deleted; the note is on the disk
before the file moves. `check --repair` does this, under write.lock; and a write does, with a directory that keeps it
from giving its payload its name. gc leaves what is here alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gestalt_cas.clock import now_ms
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.payload_files import Identity, identity_of
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_directory, sync_file


def set_aside_if(layout: Layout, path: Path, judged: Identity, note: Mapping[str, object]) -> str:
    """Set aside what stands under `path`, if it still is what was judged; returns where to, "" if it is not.

    For the holder of write.lock.
    """
    return set_aside(layout, path, note) if identity_of(path) == judged else ""


def set_aside(layout: Layout, path: Path, note: Mapping[str, object]) -> str:
    """Move what stands under `path` into quarantine; returns where to, below the store.

    Raises OSError; a failure leaves it where it is, or where it was to go.
    """
    target = _named(layout, path.name, {"from": str(path), **note})
    try:
        os.rename(path, target)
    except OSError:
        target.with_name(f"{target.name}.json").unlink()
        raise
    sync_directory(layout.quarantine)
    sync_directory(path.parent)
    return str(target.relative_to(layout.root))


def keep(layout: Layout, name: str, data: bytes, note: Mapping[str, object]) -> str:
    """Write down the bytes of a damaged payload that is a row, whose digest is `name`; returns where to.

    They are on the disk when this returns. For the holder of write.lock. Raises OSError.
    """
    target = _named(layout, name, {"from": "inlined", **note})
    part = target.with_name(f"{target.name}.part")
    fd = ownership.open_or_make(part, os.O_WRONLY | os.O_TRUNC, 0o400)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        sync_file(fd)
    os.rename(part, target)
    sync_directory(layout.quarantine)
    return str(target.relative_to(layout.root))


def _named(layout: Layout, name: str, note: Mapping[str, object]) -> Path:
    """A name in quarantine that is free, with its note on the disk."""
    _make(layout)
    at_ms = now_ms()
    while (target := layout.quarantine / f"{name}.{at_ms}").exists() or target.is_symlink():
        at_ms += 1
    _write_note(target.with_name(f"{target.name}.json"), {"at_ms": at_ms, **note})
    return target


def _make(layout: Layout) -> None:
    try:
        found = layout.quarantine.lstat()
    except FileNotFoundError:
        ownership.make_directory(layout.quarantine, 0o700)
        sync_directory(layout.root)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(20, "not a directory", str(layout.quarantine))


def _write_note(path: Path, note: Mapping[str, object]) -> None:
    fd = ownership.make_file(path, os.O_WRONLY, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(dict(note), file, indent=1)
        file.write("\n")
        file.flush()
        sync_file(fd)
    sync_directory(path.parent)
