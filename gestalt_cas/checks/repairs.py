"""Mending payloads, files and rows alike: what `check --repair` does about a finding that concerns one payload.

Rows are put right from proven bytes. A damaged file is set aside, never deleted, and only if it still is the one that
was judged; the same bytes are taken from a backup where one was named: verified while they are staged, and published
the way a write publishes. Everything happens under write.lock, so a live server sees the payload before or after.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gestalt_cas.backups.manifests import open_rows
from gestalt_cas.checks import inlined_checks, payload_rows
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import InvalidArgument, StoreError
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.payload_files import PAYLOAD_MODE, Identity, Look, identity_of
from gestalt_cas.files.quarantine import keep, set_aside_if
from gestalt_cas.files.staging import Staged
from gestalt_cas.rows import blob_rows, inlined
from gestalt_cas.rules.chunks import CHUNK_BYTES
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection, DriverError


def check_backup(run: Inspection) -> None:
    """Raise InvalidArgument unless the backup that is to be taken from can be one."""
    backup = run.options.backup
    if backup is None:
        return
    if not (backup / "blobs").is_dir():
        raise InvalidArgument(f"{backup} is no store or backup: it has no directory blobs")
    if os.path.samefile(backup, run.parts.layout.root):
        raise InvalidArgument(f"{backup} is the store that is being checked")


def mend_payload(run: Inspection, digest: bytes, look: Look, finding: Finding) -> Finding:
    """Mend what can be mended of a payload; returns the finding with what was done, or why nothing was."""
    try:
        if finding.kind == "mode":
            run.parts.blobs.path(digest).chmod(PAYLOAD_MODE)
            return finding.mended(f"set mode {PAYLOAD_MODE:04o}")
        if look.whole:
            return _correct_rows(run, digest, look, finding)
        return _replace(run, digest, look, finding)
    except StoreError as error:
        return _not_mended(finding, str(error))
    except OSError as error:
        return _not_mended(finding, f"{error.strerror or error}: {error.filename or ''}")


def _correct_rows(run: Inspection, digest: bytes, look: Look, finding: Finding) -> Finding:
    with run.parts.database.write() as tx:
        if identity_now(run, tx, digest, look.place) != look.identity:
            return _not_mended(finding, "the payload was replaced meanwhile; check again")
        payload_rows.set_row(tx, digest, look.size, look.sums, look.place)
    if not look.place and look.mode != PAYLOAD_MODE:
        run.parts.blobs.path(digest).chmod(PAYLOAD_MODE)
    what = {"mark": "lifted the mark", "row-missing": "made the row anew from the proven bytes"}
    return finding.mended(what.get(finding.kind, "corrected the rows from the proven bytes"))


def identity_now(run: Inspection, tx: Connection, digest: bytes, place: int) -> Identity | None:
    """What stands now where a look was taken: in the row of `inlined` at `place`, or (0) under the payload's name."""
    return inlined_checks.identity_of(tx, place) if place else identity_of(run.parts.blobs.path(digest))


def _replace(run: Inspection, digest: bytes, look: Look, finding: Finding) -> Finding:
    """Put the bytes of the backup in the place of what is damaged, which is set aside first."""
    staged, why = _staged(run, digest)
    try:
        aside = _set_aside(run, digest, look, finding) if look.identity is not None else ""
        finding = replace(finding, set_aside=aside)
        if staged is None:
            return _not_mended(finding, why)
        _put_back(run, staged)
    finally:
        if staged is not None:
            staged.discard()
    kept = f"; what was there is in {aside}" if aside else ""
    return finding.mended(f"put back from {run.options.backup}{kept}")


def _set_aside(run: Inspection, digest: bytes, look: Look, finding: Finding) -> str:
    assert look.identity is not None
    note = {
        "kind": finding.kind,
        "reason": finding.message,
        "digest": finding.digest,
        "expected": finding.expected,
        "found": finding.found,
        "mode": f"{look.mode:04o}",
        "versions": [[one.bucket, one.key, one.version_id] for one in finding.affected],
        "versions_total": finding.affected_total,
    }
    with run.parts.database.write() as tx:
        if look.place:
            aside = _keep_row(run, tx, digest, look, note)
        else:
            aside = set_aside_if(run.parts.layout, run.parts.blobs.path(digest), look.identity, note)
        blob_rows.mark_damaged(tx, digest, now_ms())
    return aside


def _keep_row(run: Inspection, tx: Connection, digest: bytes, look: Look, note: dict[str, object]) -> str:
    """Write down what a damaged row holds, if it still is what was judged; the row itself stays until it is healed."""
    data = inlined.get(tx, look.place)
    if data is None or inlined_checks.identity_of(tx, look.place) != look.identity:
        return ""
    return keep(run.parts.layout, digest.hex(), data, note)


def _put_back(run: Inspection, staged: Staged) -> None:
    """Publish as a write does, at the place that the payload has; record size and sums, and lift a mark of damage."""
    with run.parts.database.write() as tx:
        row = payload_rows.one(tx, staged.digest)
        if row is not None and not row.usable:
            payload_rows.set_suspect_file(tx, staged.digest, staged.size, staged.sums, now_ms())
    published = run.parts.payloads.publish(staged)
    with run.parts.database.write() as tx:
        run.parts.payloads.vouch(tx, staged, published, inline_max=0)
        kept = blob_rows.row(tx, staged.digest)
        place = kept.place if kept is not None else schema.PLACE_FILE
        payload_rows.set_row(tx, staged.digest, staged.size, staged.sums, place)


def _staged(run: Inspection, digest: bytes) -> tuple[Staged | None, str]:
    """The payload from the backup, its file or its row, staged and proven; or why there is none."""
    backup = run.options.backup
    if backup is None:
        return None, "without a backup its bytes cannot be had (--from BACKUP)"
    staged, why = _staged_file(run, backup, digest)
    if staged is None:
        staged, why = _staged_row(run, backup, digest, why)
    if staged is None or staged.digest == digest:
        return staged, why
    staged.discard()
    return None, f"the copy in {backup} is damaged as well"


def _staged_file(run: Inspection, backup: Path, digest: bytes) -> tuple[Staged | None, str]:
    name = digest.hex()
    source = backup / "blobs" / name[:2] / name
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return None, f"{backup} does not have it: {error.strerror}"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None, f"{source} is no regular file"
        return run.parts.blobs.stage(_pieces(run, fd)), ""
    finally:
        os.close(fd)


def _staged_row(run: Inspection, backup: Path, digest: bytes, why: str) -> tuple[Staged | None, str]:
    """The payload from the rows of the backup, where it may be inlined; `why` is returned when it is not."""
    rows = Layout(backup).database
    if not rows.exists():
        return None, why
    try:
        with closing(open_rows(rows)) as connection:
            row = blob_rows.row(connection, digest)
            data = inlined.get(connection, row.place) if row is not None and row.place else None
    except (StoreError, *DriverError) as error:
        return None, f"{why}; its rows cannot be read: {error}"
    if data is None:
        return None, why
    run.pace.read(len(data))
    return run.parts.blobs.stage([data]), ""


def _pieces(run: Inspection, fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, CHUNK_BYTES):
        run.pace.read(len(piece))
        yield piece


def _not_mended(finding: Finding, why: str) -> Finding:
    return replace(finding, unrepaired=why)
