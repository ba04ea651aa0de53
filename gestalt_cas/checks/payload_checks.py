"""Payloads: rows against files both ways, or against rows of `inlined`, and the bytes of those that are to be read.

The files of a fan-out directory are listed before their rows are read, so a row always is older than the look at its
file would have to be. What looks wrong then is judged by `payload_judging.py`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from gestalt_cas.checks import payload_rows
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.payload_judging import STEP, check_mode, check_mode_of, judge_row, look_at, tell
from gestalt_cas.checks.payload_rows import PayloadRow
from gestalt_cas.errors import StoreError
from gestalt_cas.files.blobs import digest_of
from gestalt_cas.files.layout import FAN_OUT
from gestalt_cas.files.payload_files import PAYLOAD_MODE, Expected, is_want
from gestalt_cas.keeping import reachability
from gestalt_cas.rules import chunks

BATCH = 1000
DIGEST_BYTES = 32
_BEYOND = b"\xff" * (DIGEST_BYTES + 1)
Names = dict[bytes, tuple[int, int]]
"""Digest to mode (with the file's type) and size of what stands under its name."""


class PayloadPass:
    """The pass over all payloads, one fan-out directory after the other."""

    def __init__(self, run: Inspection) -> None:
        self._run = run
        self._blobs = str(run.parts.layout.blobs)
        self._gap: tuple[bytes, bytes, StoreError] | None = None
        self._next = b""
        """The first row after a place that was passed: none stands between. (One that came since is no concern.)"""

    def batches(self, after: bytes) -> Iterator[bytes]:
        """Check all payloads with digests after `after`; yields digests that a later run can go on from."""
        for first in range(after[0] if after else 0, len(FAN_OUT)):
            _, upper = reachability.bounds(first)
            start = max(after, _before(first))
            names = {
                digest: found for digest, found in _listed(self._run, self._blobs, first).items() if digest > start
            }
            reached = start
            bare = not names and self._has_no_rows(start, upper)
            for reached in (upper,) if bare else self._directory(names, start, upper):
                yield reached
                tell(self._run, reached)
                self._run.pace.batch_done()
            if reached != upper:
                yield upper
        self._close_gap()

    def _has_no_rows(self, start: bytes, upper: bytes) -> bool:
        """Whether no row stands between; in small stores that is so of most directories, and one question tells it."""
        if self._next <= start and self._gap is None:
            try:
                with self._run.view() as tx:
                    self._next = payload_rows.first_after(tx, start) or _BEYOND
            except StoreError as error:
                if not broken(error):
                    raise
        return self._next >= upper and self._gap is None

    def _directory(self, names: Names, place: bytes, upper: bytes) -> Iterator[bytes]:
        limit = BATCH if self._gap is None else 1
        while place < upper:
            try:
                rows = self._page(place, upper, limit)
            except StoreError as error:
                if not broken(error):
                    raise
                if limit > 1:
                    limit //= 2  # read on up to the last row before what cannot be read
                    continue
                place, limit = self._skip(place, upper, error), BATCH
                continue
            last = rows[-1].digest if len(rows) == limit else upper
            if self._gap is not None:
                self._close_gap(rows[0].digest if rows else None)
                limit = BATCH
            here = {digest: found for digest, found in names.items() if place < digest <= last}
            _count_orphans(self._run, here, {row.digest for row in rows})
            lengths = _lengths(self._run, rows)
            for row in rows:
                if row.inlined:
                    _check_inlined(self._run, row, here.get(row.digest), lengths.get(row.digest))
                else:
                    check_row(self._run, row, here.get(row.digest))
            place = last
            yield place

    def _page(self, place: bytes, upper: bytes, limit: int) -> list[PayloadRow]:
        """The next rows; when the index by digest is what cannot be read, without it from then on."""
        if self._run.digest_index:
            try:
                with self._run.view() as tx:
                    return payload_rows.page(tx, place, upper, limit)
            except StoreError as error:
                if not broken(error):
                    raise
        with self._run.view() as tx:
            rows = payload_rows.page(tx, place, upper, limit, indexed=False)
        self._run.digest_index = False
        return rows

    def _skip(self, place: bytes, upper: bytes, error: StoreError) -> bytes:
        """Find the next digest from which on rows can be read, in steps that grow; `upper` when there is none."""
        prefix = int.from_bytes(place[:2].ljust(2, b"\0"))
        end = upper[0] << 8 if len(upper) == 1 else STEP
        step, found = (1 if self._gap is None else 64), upper
        while prefix + step < end:
            candidate = (prefix + step).to_bytes(2)
            try:
                with self._run.view() as tx:
                    payload_rows.page(tx, candidate, upper, 1, indexed=False)
            except StoreError as again:
                if not broken(again):
                    raise
                step *= 2
            else:
                found = candidate
                break
        self._gap = (self._gap[0] if self._gap else place, found, error)
        return found

    def _close_gap(self, until: bytes | None = None) -> None:
        """Report the rows that could not be read, once it is known up to where."""
        if self._gap is None:
            return
        first, last, error = self._gap
        self._gap = None
        before = (until or last)[:4].hex()
        self._run.report(
            Finding(
                "database",
                f"the rows of blobs after digest {first.hex()} and before {before} cannot be read: {error}",
                where="blobs",
                remedy=self._run.restore_command(),
            )
        )


def _before(first: int) -> bytes:
    """What comes after all digests that begin with a lesser byte, and before all others."""
    return bytes([first - 1]) + b"\xff" * DIGEST_BYTES if first else b""


def check_row(run: Inspection, row: PayloadRow, listed: tuple[int, int] | None) -> None:
    """Judge one payload by its row and by what the directory had of it; look closer where that is called for."""
    if not _is_digest(run, row):
        return
    if not row.reached:
        if listed is None:
            return  # a crash in the midst of gc; the row vouches for no file, so it does no harm
        run.tally.reclaimable(listed[1])
    wanted = _is_wanted(run, row)
    sound = (
        row.usable
        and listed is not None
        and stat.S_ISREG(listed[0])
        and listed[1] == row.size
        and row.damaged_ms is None
        and chunks.fit(row.sums, row.size)
    )
    if sound and wanted:
        look = look_at(run, Expected(row.digest, row.size, row.sums), read=True)
        if look.kind:
            judge_row(run, row.digest, read=True)
        else:
            check_mode_of(run, row.digest, look)
    elif not sound:
        judge_row(run, row.digest, read=wanted or row.damaged_ms is not None)
    elif listed is not None and stat.S_IMODE(listed[0]) != PAYLOAD_MODE:
        check_mode(run, row.digest)


def _check_inlined(run: Inspection, row: PayloadRow, listed: tuple[int, int] | None, stored: int | None) -> None:
    """The same of a payload that is a row; a file under its name is one that nobody reads, and gc's to remove."""
    if not _is_digest(run, row):
        return
    if listed is not None and stat.S_ISREG(listed[0]):
        run.tally.reclaimable(listed[1])
    if not row.reached:
        if stored is None:
            return
        run.tally.reclaimable(max(0, stored))
    wanted = _is_wanted(run, row)
    sound = (
        stored == row.size
        and row.damaged_ms is None
        and chunks.fit(row.sums, row.size)
        and not (wanted and look_at(run, Expected(row.digest, row.size, row.sums), read=True, place=row.place).kind)
    )
    if not sound:
        judge_row(run, row.digest, read=wanted or row.damaged_ms is not None)


def _is_digest(run: Inspection, row: PayloadRow) -> bool:
    """Count the row; report one whose digest can be none."""
    run.tally.payloads += 1
    if len(row.digest) == DIGEST_BYTES:
        return True
    text = f"a row of blobs has a digest of {len(row.digest)} bytes: {row.digest.hex()}"
    run.report(Finding("row", text, where="blobs", digest=row.digest.hex(), remedy=run.restore_command()))
    return False


def _is_wanted(run: Inspection, row: PayloadRow) -> bool:
    return run.options.read_data is not None and run.options.read_data.holds(row.digest)


def _lengths(run: Inspection, rows: list[PayloadRow]) -> dict[bytes, int | None]:
    """What is stored of the payloads that are rows, in one view; each in its own where that cannot be read."""
    if not any(row.inlined for row in rows):
        return {}
    try:
        with run.view() as tx:
            return payload_rows.lengths(tx, rows)
    except StoreError as error:
        if not broken(error):
            raise
        if len(rows) == 1:
            return {rows[0].digest: -1}
    return {digest: length for row in rows for digest, length in _lengths(run, [row]).items()}


# ---- listing ----


def _listed(run: Inspection, blobs: str, first: int) -> Names:
    """What stands in a fan-out directory; reports what does not belong there."""
    directory = f"{blobs}/{FAN_OUT[first]}"
    names: Names = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                digest = digest_of(entry.name, first)
                if digest is None:
                    _report_stranger(run, entry.path)
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                names[digest] = status.st_mode, status.st_size
    except OSError as error:
        if is_want(error):
            raise
        # A directory that is missing is the layout's finding; its payloads are found missing one by one.
        if not isinstance(error, FileNotFoundError):
            text = f"the directory {directory} cannot be read: {error.strerror}"
            run.report(Finding("unreadable", text, where=directory, found=str(error.strerror)))
    return names


def _report_stranger(run: Inspection, path: str) -> None:
    run.report(
        Finding(
            "layout", f"{path} is no payload's name", where=path, remedy="move it elsewhere: no store puts it there"
        )
    )


def _count_orphans(run: Inspection, names: Names, known: set[bytes]) -> None:
    """Count files without a row: of uploads on their way, or cut off; gc removes what nobody comes to need."""
    for digest, (mode, size) in names.items():
        if digest not in known and stat.S_ISREG(mode):
            run.tally.reclaimable(size)
