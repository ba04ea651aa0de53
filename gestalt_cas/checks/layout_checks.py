"""The directories of the store, and who may do what to its files. Payloads' own modes are `payload_judging`'s."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.checks.modes import check_mode
from gestalt_cas.files.layout import FAN_OUT, LOCKS
from gestalt_cas.system.durability import sync_directory
from gestalt_cas.system.ownership import make_directory

DIRECTORY_MODE, FILE_MODE = 0o700, 0o600


def check_layout(run: Inspection) -> None:
    """Check that all directories are there, and the modes of everything but payloads and staging files."""
    layout = run.parts.layout
    _check_directory(run, layout.root, required=True)
    blobs = layout.blobs
    for where in (str(blobs), str(layout.staging), *(f"{blobs}/{name}" for name in FAN_OUT)):
        _check_directory(run, where, required=True)
    _check_directory(run, layout.quarantine, required=False)
    _report_strangers(run)
    files = [layout.database, *layout.beside(layout.database), layout.reserve, layout.keys]
    for path in (*files, *(layout.root / name for name in LOCKS)):
        _check_file(run, path)
    for size in run.parts.blobs.staging.left():
        run.tally.reclaimable(size)


def _check_directory(run: Inspection, where: str | Path, *, required: bool) -> None:
    try:
        found = os.lstat(where)
    except FileNotFoundError:
        if required:
            _report_missing(run, Path(where))
        return
    if found.st_mode == stat.S_IFDIR | DIRECTORY_MODE:
        return
    path = Path(where)
    if not stat.S_ISDIR(found.st_mode):
        # The root may be a link; what is below it is ours.
        if path != run.parts.layout.root:
            text = f"{path} is not a directory"
            run.report(Finding("layout", text, where=str(path), remedy=f"move {path} elsewhere, then repair"))
        return
    check_mode(run, path, stat.S_IMODE(found.st_mode), DIRECTORY_MODE, what=str(path))


def _report_missing(run: Inspection, path: Path) -> None:
    finding = Finding("layout", f"the directory {path} is missing", where=str(path), remedy=run.repair_command())
    if run.options.repair:
        make_directory(path, DIRECTORY_MODE)
        sync_directory(path.parent)
        finding = finding.mended("made the directory")
    run.report(finding)


def _report_strangers(run: Inspection) -> None:
    """What stands beside the fan-out directories; what stands in them is seen when they are listed."""
    try:
        names = os.listdir(run.parts.layout.blobs)
    except FileNotFoundError:
        return
    for name in sorted(set(names) - set(FAN_OUT)):
        path = run.parts.layout.blobs / name
        text = f"{path} does not belong among the directories of payloads"
        run.report(Finding("layout", text, where=str(path), remedy="move it elsewhere: no store puts it there"))


def _check_file(run: Inspection, path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        check_mode(run, path, stat.S_IMODE(found.st_mode), FILE_MODE, what=str(path))
