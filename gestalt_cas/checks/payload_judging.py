"""Judging one payload by its rows and its bytes: a finding is what still holds in a transaction of its own.

What looks wrong is looked at again, and becomes a finding only in a transaction under write.lock, in which the row
still stands, a version reaches it, and the very file (or absence) that was judged is still there: while the lock is
held nobody commits a version, removes a payload, or records one as healed. That transaction also records the damage. So
a payload that is being written, removed or healed meanwhile never is a finding.
"""

from __future__ import annotations

import shlex
import stat
from contextlib import suppress
from dataclasses import dataclass

from gestalt_cas.checks import inlined_checks, modes, payload_rows
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken
from gestalt_cas.checks.payload_rows import PayloadRow, Reached
from gestalt_cas.checks.repairs import identity_now, mend_payload
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import StoreError
from gestalt_cas.files.payload_files import PAYLOAD_MODE, Expected, Look, examine
from gestalt_cas.rows import blob_rows
from gestalt_cas.sql.sqlite import Connection

_TRIES = 5
_LOCK_SECONDS = 20.0
STEP = 1 << 16
"""Digests are told apart by their first two bytes in what progress is told."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A look that held in a transaction of its own: the row, the versions that are concerned, and what was recorded."""

    look: Look
    row: PayloadRow | None
    reached: Reached
    unrecorded: str = ""


def judge_row(run: Inspection, digest: bytes, *, read: bool = False) -> None:
    """Find out what is wrong with a payload, if anything still is, report it, and mend it where that is asked for.

    Also for a digest that versions have and `blobs` has not, and for versions that say another size than `blobs`.
    """
    try:
        verdict = _verdict(run, digest, read)
    except StoreError as error:
        if not broken(error) or not run.digest_index:
            raise
        run.digest_index = False
        verdict = _verdict(run, digest, read)
    if verdict is None or not verdict.reached.total:
        return
    finding = _finding(run, digest, verdict)
    if finding is None:
        return
    if run.options.repair:
        finding = mend_payload(run, digest, verdict.look, finding)
    run.report(finding)


def check_mode(run: Inspection, digest: bytes) -> None:
    """Report, or put right, the mode of a payload that is otherwise sound."""
    path = run.parts.blobs.path(digest)
    try:
        found = stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return  # gc was faster
    modes.check_mode(run, path, found, PAYLOAD_MODE, what=f"payload {path.name}", digest=digest.hex())


def _verdict(run: Inspection, digest: bytes, read: bool) -> Verdict | None:
    """Look until a look holds in a transaction; None when all is well, or the payload has gone meanwhile."""
    for _ in range(_TRIES):
        with run.view() as tx:
            row = payload_rows.one(tx, digest)
            reached = payload_rows.reached_by(tx, digest, indexed=run.digest_index)
        if row is None and not reached.total:
            return None
        look = _look(run, digest, row, reached, read)
        if not look.kind and not _rows_disagree(row, reached):
            check_mode_of(run, digest, look)
            if row is not None and row.damaged_ms is not None and look.whole:
                return _held(run, digest, row, look)
            return None
        if (held := _held(run, digest, row, look)) is not None:
            return held
    return None


def _look(run: Inspection, digest: bytes, row: PayloadRow | None, reached: Reached, read: bool) -> Look:
    suspicious = row is None or not row.usable or _rows_disagree(row, reached)
    size, sums = (row.size, row.sums) if row is not None and row.usable else (reached.greatest, b"")
    place = row.place if row is not None and row.inlined else 0
    return look_at(run, Expected(digest, size, sums), read=read or suspicious, place=place)


def look_at(run: Inspection, expected: Expected, *, read: bool, place: int = 0) -> Look:
    """Look at the file of a payload, or at its row of `inlined` (`place`), and count what was read."""

    def advance(count: int) -> None:
        run.tally.bytes_read += count
        run.pace.read(count)
        tell(run, expected.digest)

    if place:
        look = _examine_inlined(run, place, expected, read)
        if look.whole:
            advance(look.size)
    else:
        look = examine(run.parts.blobs.path(expected.digest), expected, read=read, advance=advance)
    run.tally.payloads_read += look.whole
    return look


def _examine_inlined(run: Inspection, place: int, expected: Expected, read: bool) -> Look:
    try:
        with run.view() as tx:
            return inlined_checks.examine(tx, place, expected, read=read)
    except StoreError as error:
        if not broken(error):
            raise
        return inlined_checks.unreadable(place, expected, str(error))


def _rows_disagree(row: PayloadRow | None, reached: Reached) -> bool:
    if row is None or not row.usable:
        return True
    return bool(reached.total) and (reached.least, reached.greatest) != (row.size, row.size)


def _held(run: Inspection, digest: bytes, row: PayloadRow | None, look: Look) -> Verdict | None:
    """The verdict, if rows and file are still what was judged; records damage in the same transaction."""
    try:
        with run.parts.database.write(_LOCK_SECONDS) as tx:
            reached = _still(run, tx, digest, row, look)
            if reached is not None and row is not None and look.kind and look.kind != "mode":
                blob_rows.mark_damaged(tx, digest, now_ms())
    except StoreError as error:
        with run.view() as tx:
            reached = _still(run, tx, digest, row, look)
        return Verdict(look, row, reached, str(error)) if reached is not None else None
    return Verdict(look, row, reached) if reached is not None else None


def _still(run: Inspection, tx: Connection, digest: bytes, row: PayloadRow | None, look: Look) -> Reached | None:
    now = payload_rows.one(tx, digest)
    same_row = (now is None) == (row is None) and (
        now is None or row is None or (now.size, now.sums, now.place) == (row.size, row.sums, row.place)
    )
    if row is not None and row.damaged_ms is not None and now is not None and now.damaged_ms is None:
        return None  # healed meanwhile
    if not same_row:
        return None
    # A row that cannot be read cannot be compared with itself.
    comparable = look.kind != "unreadable" or not look.place
    if comparable and identity_now(run, tx, digest, look.place) != look.identity:
        return None
    return payload_rows.reached_by(tx, digest, indexed=run.digest_index)


def _finding(run: Inspection, digest: bytes, verdict: Verdict) -> Finding | None:
    look, row, reached = verdict.look, verdict.row, verdict.reached
    kind, message, expected, found = look.kind, look.message, look.expected, look.found
    name = digest.hex()
    if row is None:
        state = "its file is whole" if look.whole else look.message
        kind, message = "row-missing", f"payload {name} has no row, but {reached.total} versions; {state}"
    elif not row.usable:
        kind, message = (
            "row",
            f"the row of payload {name} is not one that a write makes; {look.message or 'its file is whole'}",
        )
    elif not kind and (reached.least, reached.greatest) != (row.size, row.size):
        kind, message = "size", f"versions of payload {name} say {reached.least} to {reached.greatest} bytes"
        expected, found = str(look.size), f"{reached.least}-{reached.greatest}"
    elif not kind and row.damaged_ms is not None:
        kind, message = "mark", f"payload {name} is marked as damaged, but all its bytes are whole"
    if not kind:
        return None
    return Finding(
        kind,
        message,
        where=f"inlined, row {look.place}" if look.place else str(run.parts.blobs.path(digest)),
        digest=name,
        expected=expected,
        found=found,
        affected=reached.shown,
        affected_total=reached.total,
        remedy=_remedy(run, digest, kind, look),
        unrecorded=verdict.unrecorded,
    )


def _remedy(run: Inspection, digest: bytes, kind: str, look: Look) -> str:
    """The repair. What cannot be opened since it is another user's, that one has to give away first."""
    root = run.parts.layout.root
    with suppress(FileNotFoundError):
        if kind == "mode" and run.parts.blobs.path(digest).lstat().st_uid != root.stat().st_uid:
            place = shlex.quote(str(root))
            return f"as root: chown -R --reference={place} {place}"
    return run.repair_command(backup=not look.whole and kind != "mode")


def check_mode_of(run: Inspection, digest: bytes, look: Look) -> None:
    """`check_mode`, where the look found a file with another mode."""
    if look.identity is not None and not look.place and look.mode != PAYLOAD_MODE:
        check_mode(run, digest)


def tell(run: Inspection, digest: bytes) -> None:
    """Tell progress how far the pass over all digests is."""
    reading = run.options.read_data is not None
    run.progress("reading payloads" if reading else "checking payloads", int.from_bytes(digest[:2]), STEP)
