"""The write-ahead log, frame by frame: whether committed transactions stand behind a place that cannot be read.

SQLite ends its recovery at the first frame whose checksum is wrong, without a word: after a crash that is the torn end
of a transaction that nobody was promised. With damage in the middle it silently loses all commits behind it. The two
can be told apart. Each commit is synced before the next begins, so a crash leaves at most one transaction that is not
whole; what stands behind it, if anything, is older and does not follow from it. But a run of frames whose checksums
follow from one another, with two commits or more in it, was written by commits that came to their end.

Format: https://www.sqlite.org/fileformat2.html#walformat. The file is read without locks, which SQLite does not take on
it either; so what seems damaged is looked at again, and a log that was begun anew meanwhile is no damage.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.checks.wal_sums import Sums, checksum
from gestalt_cas.transactions.wal_file import FRAME, HEADER

_BIG_ENDIAN, _LITTLE_ENDIAN = 0x377F0683, 0x377F0682
_TRIES = 3


@dataclass(frozen=True, slots=True)
class WalDamage:
    """The first damaged frame (from 1; 0: the header), of how many, and the whole commits that stand behind it."""

    frame: int
    frames: int
    commits: int
    page: int


def check_wal(run: Inspection) -> None:
    """Report damage in the midst of the WAL."""
    path = run.parts.layout.wal
    found = examine(path)
    if found is None:
        return
    where = f"frame {found.frame} of {found.frames}" if found.frame else "the header"
    run.report(
        Finding(
            "wal",
            f"{path.name}: {where} is damaged, and {found.commits} committed transactions stand behind it, which "
            "SQLite leaves out when it opens the database anew",
            where=str(path),
            found=f"page {found.page}" if found.frame else "",
            remedy=run.restore_command(),
        )
    )


def examine(path: Path) -> WalDamage | None:
    """Look for damage in the midst of a WAL; None when there is none, and for one that is absent or empty."""
    before: WalDamage | None = None
    for _ in range(_TRIES):
        found = _scan(path)
        if found is None:
            return None
        if before is not None and found.frame == before.frame:
            return found
        before = found
    return None


def _scan(path: Path) -> WalDamage | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        header = os.pread(fd, HEADER.size, 0)
        if len(header) < HEADER.size:
            return None
        found = _Scan(fd, header).damage()
        return found if os.pread(fd, HEADER.size, 0) == header else None
    finally:
        os.close(fd)


class _Scan:
    """One look through a WAL whose header is known."""

    def __init__(self, fd: int, header: bytes) -> None:
        magic, version, page_size, _, *rest = HEADER.unpack(header)
        self._fd = fd
        self._big_endian = magic == _BIG_ENDIAN
        self._salts = tuple(rest[:2])
        self._stored: Sums = (rest[2], rest[3])
        sane = magic in (_BIG_ENDIAN, _LITTLE_ENDIAN) and version == 3007000 and 512 <= page_size <= 65536
        self._header_sound = sane and self._sum(header[:24], (0, 0)) == self._stored
        self._page_size = page_size if sane else 8192
        self._step = FRAME.size + self._page_size
        self._frames = (os.fstat(fd).st_size - HEADER.size) // self._step

    def damage(self) -> WalDamage | None:
        """The first frame (or the header) that is wrong, if at least one commit that was whole stands behind it."""
        bad, page = (None, 0) if self._header_sound else (0, 0)
        commits = 0
        before = self._stored
        for number in range(1, self._frames + 1):
            frame = os.pread(self._fd, self._step, HEADER.size + (number - 1) * self._step)
            if len(frame) < self._step:
                break
            page_number, commit, salt1, salt2, *sums = FRAME.unpack_from(frame)
            ours = (salt1, salt2) == self._salts
            stored: Sums = (sums[0], sums[1])
            follows = self._sum(frame[FRAME.size :], self._sum(frame[:8], before)) == stored
            before = stored
            if bad is None and not (ours and follows):
                bad, page = number, page_number
                commits = int(bool(commit)) if ours else 0
            elif bad is not None and ours and follows:
                commits += bool(commit)
            elif bad is not None and number > bad + 1:
                break  # what comes behind was written by others, earlier
            elif bad is not None:
                commits = 0  # the damage took the checksum that this frame follows from
        # A damaged header belongs to a log that was whole; of a torn frame the own commit was never promised.
        enough = 1 if bad == 0 else 2
        return WalDamage(bad, self._frames, commits, page) if bad is not None and commits >= enough else None

    def _sum(self, data: bytes, sums: Sums) -> Sums:
        return checksum(data, sums, big_endian=self._big_endian)
