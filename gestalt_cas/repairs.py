"""Mending payloads: what `check --repair` does about a finding that concerns one payload.

Rows are put right from proven bytes. A damaged file is set aside, never deleted, and only if it still is the one that
was judged; the same bytes are taken from a backup where one was named: verified while they are staged, and published
the way a write publishes. Everything happens under write.lock, so a live server sees the payload before or after.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace

from gestalt_cas import payload_rows, versions
from gestalt_cas.blobs import Staged
from gestalt_cas.chunks import CHUNK_BYTES
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import InvalidArgument, StoreError
from gestalt_cas.findings import Finding
from gestalt_cas.inspection import Inspection
from gestalt_cas.payload_files import PAYLOAD_MODE, Look, identity_of
from gestalt_cas.quarantine import set_aside_if


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
    path = run.parts.blobs.path(digest)
    with run.parts.database.write() as tx:
        if identity_of(path) != look.identity:
            return _not_mended(finding, "the file was replaced meanwhile; check again")
        payload_rows.set_row(tx, digest, look.size, look.sums)
    if look.mode != PAYLOAD_MODE:
        path.chmod(PAYLOAD_MODE)
    what = {"mark": "lifted the mark", "row-missing": "made the row anew from the proven bytes"}
    return finding.mended(what.get(finding.kind, "corrected the rows from the proven bytes"))


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
        aside = set_aside_if(run.parts.layout, run.parts.blobs.path(digest), look.identity, note)
        versions.mark_damaged(tx, digest, now_ms())
    return aside


def _put_back(run: Inspection, staged: Staged) -> None:
    """Publish as a write does, and record size and sums; a mark of damage is lifted."""
    published = run.parts.payloads.publish(staged)
    with run.parts.database.write() as tx:
        run.parts.payloads.vouch(tx, staged, published)
        payload_rows.set_row(tx, staged.digest, staged.size, staged.sums)


def _staged(run: Inspection, digest: bytes) -> tuple[Staged | None, str]:
    """The payload from the backup, staged and proven; or why there is none."""
    backup = run.options.backup
    name = digest.hex()
    if backup is None:
        return None, "without a backup its bytes cannot be had (--from BACKUP)"
    source = backup / "blobs" / name[:2] / name
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return None, f"{backup} does not have it: {error.strerror}"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None, f"{source} is no regular file"
        staged = run.parts.blobs.stage(_pieces(run, fd))
    finally:
        os.close(fd)
    if staged.digest == digest:
        return staged, ""
    staged.discard()
    return None, f"the copy in {backup} is damaged as well"


def _pieces(run: Inspection, fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, CHUNK_BYTES):
        run.pace.read(len(piece))
        yield piece


def _not_mended(finding: Finding, why: str) -> Finding:
    return replace(finding, unrepaired=why)
