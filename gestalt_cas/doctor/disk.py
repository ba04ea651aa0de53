"""The doctor's look at the file system: what it is, whether syncs and locks do what they promise, and how much is left.

Syncs and locks are tried on a file without a name, so nothing can stay behind; where the file system knows no such
files, on one in staging/ under the lock of a running upload, which a cleaner removes if this process is killed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from gestalt_cas import sizes
from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.reserve import Reserve
from gestalt_cas.remedies import command
from gestalt_cas.system.durability import is_full, sync_file

_NETWORK = (
    "a network file system: its locks and syncs may not hold, and SQLite's WAL needs all processes on one machine"
)
_MEMORY = "kept in memory: everything is gone with a restart"
_KINDS: dict[int, tuple[str, Severity, str]] = {
    0x6969: ("NFS", Severity.ERROR, _NETWORK),
    0x517B: ("SMB", Severity.ERROR, _NETWORK),
    0xFF534D42: ("CIFS", Severity.ERROR, _NETWORK),
    0xFE534D42: ("SMB 2", Severity.ERROR, _NETWORK),
    0x01021997: ("9p", Severity.ERROR, _NETWORK),
    0x00C36400: ("Ceph", Severity.ERROR, _NETWORK),
    0x5346414F: ("AFS", Severity.ERROR, _NETWORK),
    0x65735546: ("FUSE", Severity.WARNING, "whether syncs and locks hold depends on the program behind it"),
    0x01021994: ("tmpfs", Severity.WARNING, _MEMORY),
    0x858458F6: ("ramfs", Severity.WARNING, _MEMORY),
    0x794C7630: ("overlay", Severity.WARNING, "the layer of a container: the store goes when the container does"),
    0x4D44: ("FAT", Severity.ERROR, "it has no links, which uploads need"),
    0x2011BAB0: ("exFAT", Severity.ERROR, "it has no links, which uploads need"),
    0xEF53: ("ext4", Severity.OK, ""),
    0x58465342: ("XFS", Severity.OK, ""),
    0x9123683E: ("Btrfs", Severity.OK, ""),
    0x2FC12FC1: ("ZFS", Severity.OK, ""),
    0xF2F52010: ("F2FS", Severity.OK, ""),
    0xCA451A4E: ("bcachefs", Severity.OK, ""),
}
"""By the magic number that statfs gives (statfs(2))."""
_IN_MEMORY = {0x01021994, 0x858458F6}
_MOVE = "move the directory to a local disk while nothing uses it, and name it with --data-dir"
_SYNCS = 5
_TOO_FAST_SECONDS = 10e-6
"""No disk writes 4 KiB in this time; the quickest with a cache of their own take twice as long."""
_SLOW_SECONDS = 0.5
_FEW_INODES = 10_000
_EXCLUDED = 7
_TRY_LOCK = f"""
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit({_EXCLUDED})
"""


def file_system(layout: Layout) -> list[Finding]:
    """What kind it is, and how it is mounted."""
    kind, options = magic(layout.root), mount_options(layout.root)
    name, severity, why = _KINDS.get(kind, (f"kind {kind:#x}" if kind else "of unknown kind", Severity.OK, ""))
    remedy = _MOVE if severity > Severity.OK else ""
    findings = [Finding(severity, "file system", f"{name}{': ' if why else ''}{why}", remedy)]
    if "ro" in options:
        remedy = f"see the system's log for why; then: mount -o remount,rw {shlex.quote(_mount_point(layout.root))}"
        findings.append(Finding(Severity.ERROR, "file system", "mounted read-only", remedy))
    if options & {"nobarrier", "barrier=0"}:
        text = "mounted without barriers: a power cut may take what was synced"
        findings.append(Finding(Severity.WARNING, "file system", text, "mount it without nobarrier and barrier=0"))
    return findings


def magic(path: Path) -> int:
    """The file system's magic number; 0 where it cannot be had."""
    if sys.platform != "linux":
        return 0
    found = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None).statfs(os.fsencode(path), found):
        return 0
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def _mount_point(path: Path) -> str:
    """The directory at which the path's file system is mounted."""
    point = os.path.realpath(path)
    while not os.path.ismount(point):
        point = os.path.dirname(point)
    return point


def mount_options(path: Path) -> set[str]:
    """The options of the mount that holds the path, those of its file system included (proc_pid_mountinfo(5))."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    real, best, options = os.path.realpath(path), -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of two mounts on one point the later one is seen
            best, options = len(point), f"{fields[5]},{after.split(' ')[2]}"
    return set(options.split(","))


def trial(layout: Layout) -> list[Finding]:
    """Whether a sync takes the time that a disk needs, and whether a lock keeps another process out."""
    try:
        with _scratch(layout) as (fd, path):
            return [*_syncs(fd, in_memory=magic(layout.root) in _IN_MEMORY), *_locks(path)]
    except OSError as error:
        if is_full(error):
            return [Finding(Severity.NOTE, "syncs and locks", "not tried: the disk is full")]
        if error.errno == errno.EIO:
            return [Finding(Severity.DAMAGE, "syncs and locks", "the disk fails: I/O error", "see the system's log")]
        raise


@contextmanager
def _scratch(layout: Layout) -> Iterator[tuple[int, str]]:
    """A file to try things on, and a path that leads to it."""
    named: Path | None = None
    try:
        fd = os.open(layout.staging, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (AttributeError, OSError):
        named = layout.staging / f"{secrets.token_hex(12)}.part"
        fd = os.open(named, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path = str(named)
    else:
        path = f"/proc/{os.getpid()}/fd/{fd}"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd, path
    finally:
        if named is not None:
            named.unlink(missing_ok=True)
        os.close(fd)


def _syncs(fd: int, *, in_memory: bool) -> list[Finding]:
    seconds = []
    for number in range(_SYNCS):
        os.pwrite(fd, b"\1" * 4096, number * 4096)
        start = time.perf_counter()
        sync_file(fd)
        seconds.append(time.perf_counter() - start)
    typical = median(seconds)
    text = f"a sync takes {typical * 1000:.3g} ms"
    if typical < _TOO_FAST_SECONDS and not in_memory:
        text += ", less than any disk needs: something swallows syncs, and a power cut may take answered writes"
        return [Finding(Severity.WARNING, "syncs", text, "look for eatmydata, or an unsafe cache of a virtual disk")]
    if typical > _SLOW_SECONDS:
        return [Finding(Severity.WARNING, "syncs", f"{text}; every write waits for several", "a faster disk")]
    return [Finding(Severity.OK, "syncs", text)]


def _locks(path: str) -> list[Finding]:
    tried = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _TRY_LOCK, path],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if tried.returncode == _EXCLUDED:
        return [Finding(Severity.OK, "locks", "a lock keeps other processes out")]
    if tried.returncode == 0:
        text = "locks do not keep other processes out: two on this directory would destroy the store"
        return [Finding(Severity.ERROR, "locks", text, _MOVE)]
    return [Finding(Severity.NOTE, "locks", "could not be tried with a second process")]


def room(layout: Layout) -> list[Finding]:
    """Bytes and inodes that are left, and whether the reserve is there for the hour when they are not."""
    found, wanted = os.statvfs(layout.root), Reserve(layout).wanted_bytes()
    free = found.f_bavail * found.f_frsize
    text = f"{sizes.told(free)} are free"
    gc = f"{command('gc', layout.root)}  (then, if need be: rm --version-id, purge, retention run, or a larger disk)"
    if layout.full():
        findings = [Finding(Severity.ERROR, "room", f"the disk is full: {text}; uploads are refused", gc)]
    elif free < 2 * wanted:
        findings = [Finding(Severity.WARNING, "room", f"{text}, too few to remake the reserve", gc)]
    else:
        findings = [Finding(Severity.OK, "room", text)]
    if found.f_files > 0 and found.f_favail < min(_FEW_INODES, found.f_files // 10):
        text = f"{found.f_favail} inodes are free of {found.f_files}; each payload takes one"
        findings.append(Finding(Severity.WARNING, "room", text, gc))
    reserved = layout.reserve.stat().st_size if layout.reserve.exists() else 0
    if reserved < wanted:
        text = f"the reserve has {sizes.told(reserved)} instead of {sizes.told(wanted)}: it was given up, or never made"
        remedy = f"opening the store remakes it when {sizes.told(2 * wanted)} are free"
        findings.append(Finding(Severity.NOTE, "room", text, remedy))
    return findings
