"""The modes of files and directories: what they should be, and putting them right."""

from __future__ import annotations

from pathlib import Path

from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection


def check_mode(run: Inspection, path: Path, mode: int, wanted: int, *, what: str, digest: str = "") -> None:
    """Report, or with `repair` put right, a mode that is not the wanted one.

    `what` names the file in the message; `digest` is that of the payload it is.
    """
    if mode == wanted:
        return
    finding = Finding(
        "mode",
        f"{what} has mode {mode:04o}",
        where=str(path),
        digest=digest,
        expected=f"{wanted:04o}",
        found=f"{mode:04o}",
        remedy=run.repair_command(),
    )
    if run.options.repair:
        path.chmod(wanted)
        finding = finding.mended(f"set mode {wanted:04o}")
    run.report(finding)
