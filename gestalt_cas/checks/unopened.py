"""What can be checked of a store that cannot be opened: its database is damaged, or has gone.

Nothing is written. Payload files are named by their BLAKE3, so their bytes can be proven without any row; SQLite is
asked what it makes of its file, through a connection that can only read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from gestalt_cas.checks import wal_checks
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import CheckOptions, CheckReport, OnFinding, Pace, Tally, restore_command
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import DatabaseDamaged, NoStore, SchemaTooNew, StorageFault, StoreError, StoreUnusable
from gestalt_cas.files.layout import FAN_OUT, Layout
from gestalt_cas.files.payload_files import prove
from gestalt_cas.formats import tables
from gestalt_cas.progress import Progress
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.transactions.connections import connect

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NAME = re.compile(r"[0-9a-f]{64}")
_REVISIONS = {f"{number:04d}": number for number in range(1, schema.FORMAT + 1)}
"""The revision of each format so far."""


def is_damaged(directory: Path, error: StoreError) -> bool:
    """Whether `error`, which kept a store from being opened, comes of damage rather than of anything that passes.

    So it is where a database was, or payloads are, and what stands there is not what any release has written.
    """
    layout = Layout(Path(os.path.abspath(directory)))
    if isinstance(error, DatabaseDamaged | StorageFault):
        return True
    if isinstance(error, NoStore):
        return _has_payloads(layout)
    if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FORBIDDEN:
        return False
    if not isinstance(error, StoreUnusable) or not layout.blobs.is_dir() or not layout.database.is_file():
        return False
    try:
        with closing(connect(layout.database, mode="ro")) as connection:
            application = connection.execute("PRAGMA application_id").fetchall()[0][0]
            form = connection.execute("PRAGMA user_version").fetchall()[0][0]
            revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version").fetchall()]
    except (StoreError, *DriverError):
        return True
    if application != schema.APPLICATION_ID or len(revisions) != 1:
        return True
    known = _REVISIONS.get(revisions[0])
    return isinstance(error, SchemaTooNew) and known is not None and known != form


def check_unopened(
    directory: Path, error: StoreError, options: CheckOptions, progress: Progress, on_finding: OnFinding
) -> CheckReport:
    """Report what can be told of the store that `error` kept from being opened; nothing is repaired."""
    return _Unopened(Layout(Path(os.path.abspath(directory))), options, progress, on_finding).check(error)


class _Unopened:
    def __init__(self, layout: Layout, options: CheckOptions, progress: Progress, on_finding: OnFinding) -> None:
        self._layout = layout
        self._options = options
        self._progress = progress
        self._on_finding = on_finding
        self._pace = Pace(options.throttle)
        self._tally = Tally()
        self._findings: list[Finding] = []

    def check(self, error: StoreError) -> CheckReport:
        began_ms = now_ms()
        self._report("database", f"the store cannot be opened: {error}", self._layout.database)
        damage = wal_checks.examine(self._layout.wal)
        if damage is not None:
            text = f"frame {damage.frame} is damaged and {damage.commits} committed transactions stand behind it"
            self._report("wal", f"{self._layout.wal.name}: {text}", self._layout.wal)
        for message in self._integrity():
            self._report("database", f"SQLite's integrity check: {message}", self._layout.database)
        for first, name in enumerate(FAN_OUT):
            self._progress("checking payloads", first, len(FAN_OUT))
            self._check_directory(self._layout.blobs / name)
        return CheckReport(
            started_ms=began_ms,
            ended_ms=now_ms(),
            resumed_ms=0,
            read_data=str(self._options.read_data or ""),
            findings=tuple(self._findings),
            **asdict(self._tally),
        )

    def _integrity(self) -> list[str]:
        """What SQLite has to say of each table, as far as it can be asked."""
        if not self._layout.database.is_file():
            return []
        messages: list[str] = []
        try:
            with closing(connect(self._layout.database, mode="ro")) as connection:
                for table in tables.metadata.tables:
                    try:
                        rows = connection.execute(f"PRAGMA integrity_check('{table}')").fetchall()
                    except DriverError as error:
                        rows = [(str(sqlite.translate(error)),)]
                    messages += [f"{table}: {row[0]}" for row in rows if row[0] != "ok"]
        except StoreError as error:
            messages.append(str(error))
        except DriverError as error:
            messages.append(str(sqlite.translate(error)))
        return messages

    def _check_directory(self, directory: Path) -> None:
        try:
            names = sorted(os.listdir(directory))
        except OSError as error:
            self._report("unreadable", f"the directory {directory} cannot be read: {error.strerror}", directory)
            return
        for name in names:
            if _NAME.fullmatch(name) and name.startswith(directory.name):
                self._check_file(directory / name, bytes.fromhex(name))

    def _check_file(self, path: Path, digest: bytes) -> None:
        self._tally.payloads += 1
        try:
            regular = stat.S_ISREG(path.lstat().st_mode)
            wanted = self._options.read_data is not None and self._options.read_data.holds(digest)
            if not regular:
                self._report("type", f"no regular file stands under the name of payload {path.name}", path)
            elif wanted:
                self._tally.payloads_read += 1
                if prove(path, self._advance) != digest:
                    self._report("bytes", f"payload {path.name} is damaged", path)
        except OSError as error:
            self._report("unreadable", f"payload {path.name} cannot be read: {error.strerror}", path)

    def _advance(self, count: int) -> None:
        self._tally.bytes_read += count
        self._pace.read(count)

    def _report(self, kind: str, message: str, where: Path) -> None:
        digest = where.name if _NAME.fullmatch(where.name) else ""
        finding = Finding(kind, message, where=str(where), digest=digest, remedy=restore_command(self._layout))
        self._tally.damage += 1
        self._findings.append(finding)
        self._on_finding(finding)


def _has_payloads(layout: Layout) -> bool:
    for name in FAN_OUT:
        try:
            if os.listdir(layout.blobs / name):
                return True
        except OSError:
            continue
    return False
