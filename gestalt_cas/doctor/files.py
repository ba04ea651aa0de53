"""The doctor's look at the files of a store: who may touch them, which are missing, and which could go."""

from __future__ import annotations

import os
import shlex
import stat
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from gestalt_cas import sizes
from gestalt_cas.doctor.examinations import Finding, Severity, listed
from gestalt_cas.files.layout import FAN_OUT, LOCKS, Layout
from gestalt_cas.files.staging import size_if_unheld
from gestalt_cas.remedies import command

_SAMPLED = 8
"""Payloads looked at in each of the 256 directories."""
_NAMED = 10
"""Paths that a remedy names; run again, the examination names the next ones."""
_YOUNG_SECONDS = 60.0
_SUBJECT = "permissions"
_OWNER = "run gestalt-cas as its owner"


def permissions(layout: Layout) -> list[Finding]:
    """Modes and owners of directories and files, and of a sample of the payloads."""
    root = layout.root
    owner, place = root.stat().st_uid, shlex.quote(str(root))
    exposed: list[Path] = []
    foreign: list[Path] = []
    unusable: dict[int, list[Path]] = {}
    for path, needed in _entries(layout):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            exposed.append(path)
        if found.st_uid != owner:
            foreign.append(path)
        if mode & needed != needed:
            unusable.setdefault(needed, []).append(path)
    findings = _owner(layout, owner)
    if exposed:
        keys = root in exposed and layout.keys in exposed
        text = f"other users may use {listed(exposed, root)}" + ("; the signing keys are readable for them" * keys)
        findings.append(Finding(Severity.ERROR if keys else Severity.WARNING, _SUBJECT, text, f"chmod -R go= {place}"))
    if foreign:
        text = f"{listed(foreign, root)} belongs to another user than the data directory"
        findings.append(Finding(Severity.ERROR, _SUBJECT, text, f"chown -R --reference={place} {place}"))
    for needed, paths in unusable.items():
        text = f"{listed(paths, root)} lacks permissions for its owner"
        names = " ".join(shlex.quote(str(path)) for path in paths[:_NAMED])
        findings.append(Finding(Severity.ERROR, _SUBJECT, text, f"chmod {needed:o} {names}"))
    return findings or [Finding(Severity.OK, _SUBJECT, "only the owner may use the files")]


def shut(layout: Layout) -> list[Finding]:
    """The finding that this user may not even look into the store; none where it may."""
    if os.access(layout.root, os.R_OK | os.X_OK):
        return []
    text = f"{layout.root} cannot be looked into by this user, {os.geteuid()}"
    try:
        owner = layout.root.stat().st_uid
    except OSError as error:
        remedy = _OWNER if isinstance(error, PermissionError) else ""
        return [Finding(Severity.ERROR, _SUBJECT, f"{text}: {error.strerror or error}", remedy)]
    if owner == os.geteuid():
        return [Finding(Severity.ERROR, _SUBJECT, text, f"chmod 700 {shlex.quote(str(layout.root))}")]
    return [Finding(Severity.ERROR, _SUBJECT, f"{text}; it belongs to user {owner}", _OWNER)]


def _owner(layout: Layout, owner: int) -> list[Finding]:
    """Whether the store is this user's, and can be written."""
    user = os.geteuid()
    if user not in (0, owner):
        text = f"the data directory belongs to user {owner}, and this is user {user}"
        return [Finding(Severity.ERROR, _SUBJECT, text, "run gestalt-cas as its owner")]
    if user != owner:
        text = f"examined by root; the store belongs to user {owner}, who is given what root makes in it"
        return [Finding(Severity.NOTE, _SUBJECT, text)]
    if not os.access(layout.root, os.W_OK | os.X_OK):
        return [Finding(Severity.ERROR, _SUBJECT, "the data directory cannot be written", "see the file system below")]
    return []


def _entries(layout: Layout) -> Iterator[tuple[Path, int]]:
    """Every path to be judged, with the permissions that its owner needs."""
    for directory in (layout.root, layout.blobs, layout.staging, layout.quarantine):
        yield directory, 0o700
    for name in FAN_OUT:
        yield layout.blobs / name, 0o700
        for path in _some(layout.blobs / name):
            yield path, 0o400
    for path in (layout.database, *layout.beside(layout.database), layout.reserve, layout.keys):
        yield path, 0o600
    for lock in LOCKS:
        yield layout.root / lock, 0o600


def _some(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in islice(entries, _SAMPLED)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def directories(layout: Layout) -> list[Finding]:
    """Whether the tree is complete."""
    wanted = [layout.blobs, layout.staging, *(layout.blobs / name for name in FAN_OUT)]
    missing = [path for path in wanted if not path.is_dir()]
    if missing:
        text = f"{listed(missing, layout.root)} is missing or no directory"
        return [Finding(Severity.ERROR, "directories", text, command("init", layout.root))]
    return [Finding(Severity.OK, "directories", "the tree is complete")]


def leftovers(layout: Layout) -> list[Finding]:
    """What processes that died left behind, and what was kept for a while."""
    findings = [*_cut_off_uploads(layout), *_copies_aside(layout), *_unfinished(layout)]
    aside = [path for path in _regular(layout.quarantine) if path.suffix != ".json"]
    if aside:
        text = f"{len(aside)} damaged files were set aside in quarantine/, {_bytes(aside)}; notes lie beside them"
        remedy = f"when they are of no more use: rm -r {shlex.quote(str(layout.quarantine))}"
        findings.append(Finding(Severity.NOTE, "leftovers", text, remedy))
    return findings or [Finding(Severity.OK, "leftovers", "none")]


def _cut_off_uploads(layout: Layout) -> list[Finding]:
    found = (size_if_unheld(path) for path in _regular(layout.staging))
    dead = [size for size in found if size is not None]
    if not dead:
        return []
    text = f"{len(dead)} uploads were cut off, {sizes.told(sum(dead))}"
    return [Finding(Severity.NOTE, "leftovers", text, command("gc", layout.root))]


def _copies_aside(layout: Layout) -> list[Finding]:
    found = sorted(layout.root.glob("metadata.before-upgrade-from-*"))
    if not found:
        return []
    text = f"{listed(found, layout.root)}: the rows as they were before an upgrade, {_bytes(found)}"
    remedy = f"when the upgrade has proved itself: rm {' '.join(shlex.quote(str(path)) for path in found)}"
    return [Finding(Severity.NOTE, "leftovers", text, remedy)]


def _unfinished(layout: Layout) -> list[Finding]:
    findings = []
    if layout.new_database.exists():
        text = f"{layout.new_database.name}: the creation of the store was cut off, or is going on"
        findings.append(Finding(Severity.WARNING, "leftovers", text, command("init", layout.root)))
    old = time.time() - _YOUNG_SECONDS
    keys = [path for path in sorted(layout.root.glob(".keys.json.*")) if path.lstat().st_mtime < old]
    if keys:
        text = f"{listed(keys, layout.root)}: signing keys that never came into force"
        remedy = f"rm {' '.join(shlex.quote(str(path)) for path in keys)}"
        findings.append(Finding(Severity.NOTE, "leftovers", text, remedy))
    return findings


def _regular(directory: Path) -> list[Path]:
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def _bytes(paths: list[Path]) -> str:
    total = 0
    for path in paths:
        if path.exists():  # else its writer was done with it
            total += path.lstat().st_size
    return sizes.told(total)
