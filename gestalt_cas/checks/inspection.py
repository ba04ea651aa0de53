"""One run of a check as its stages see it: the store's parts, what was asked for, the pace, and what was found so far.

The stages look and report; which there are, how they follow each other, and where a run that was cut off goes on, is
said in `checking.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from gestalt_cas.checks.findings import Finding, Subset
from gestalt_cas.errors import DatabaseDamaged, StorageFault, StoreError
from gestalt_cas.files.layout import Layout
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress
from gestalt_cas.remedies import command
from gestalt_cas.sql.sqlite import Connection

OnFinding = Callable[[Finding], None]

NOTE = "check.last"
"""What the store notes of the last check that came to its end."""
_KEPT_FINDINGS = 10_000
_SHORTEST_WORK, _LONGEST_REST = 0.005, 0.25


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """What to check, and what to do about it.

    `read_data`: the digests whose payloads are read whole and compared with their BLAKE3 and chunk sums; None: only
    those that are under suspicion. `repair` mends what can be mended; `backup` is a store directory that damaged and
    missing payloads are taken from. `throttle` is in bytes per second, 0: none. `restart` begins anew where the check
    would go on with one that was cut off.
    """

    read_data: Subset | None = None
    repair: bool = False
    backup: Path | None = None
    throttle: int = 0
    restart: bool = False

    @property
    def identity(self) -> str:
        """What has to be the same for one run to go on with another."""
        return f"read_data={self.read_data or 'none'} repair={self.repair} backup={self.backup or 'none'}"


NO_OPTIONS = CheckOptions()
"""A look at everything but the bytes of payloads, and no repair."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check looked at and found. Times in Unix milliseconds, sizes in bytes.

    `damage` and `faults` count the findings of each sort (see `findings`), `repaired_*` those that were mended. They
    include what a run that was cut off found before this one went on with it; `findings` holds this run's own, the
    first 10,000. `reclaimable_*` is what gc would remove. `resumed_ms` is when the run that was cut off began, else 0.
    """

    started_ms: int
    ended_ms: int
    resumed_ms: int
    read_data: str
    versions: int
    payloads: int
    payloads_read: int
    bytes_read: int
    damage: int
    faults: int
    repaired_damage: int
    repaired_faults: int
    reclaimable_files: int
    reclaimable_bytes: int
    findings: tuple[Finding, ...]

    @property
    def damaged(self) -> bool:
        """Whether damage stands that was not repaired."""
        return self.damage > self.repaired_damage

    @property
    def clean(self) -> bool:
        """Whether nothing stands that was not repaired."""
        return not self.damaged and self.faults == self.repaired_faults

    @property
    def result(self) -> str:
        """The outcome in a word: "damage", "clean" or "faults"."""
        return "damage" if self.damaged else "clean" if self.clean else "faults"


@dataclass
class Tally:
    """Counts of a run, kept over an interruption. A report has them under the same names."""

    versions: int = 0
    payloads: int = 0
    payloads_read: int = 0
    bytes_read: int = 0
    damage: int = 0
    faults: int = 0
    repaired_damage: int = 0
    repaired_faults: int = 0
    reclaimable_files: int = 0
    reclaimable_bytes: int = 0

    def reclaimable(self, size: int) -> None:
        """Count a file or row of so many bytes that gc would remove."""
        self.reclaimable_files += 1
        self.reclaimable_bytes += size


class Pace:
    """Keeps a check from crowding out the traffic beside it."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._due = self._began = time.monotonic()

    def batch_done(self) -> None:
        """Rest after a batch of rows: a moment, so that others get the processor; throttled, as long as it took."""
        took = time.monotonic() - self._began
        if took < _SHORTEST_WORK:
            return
        time.sleep(min(took, _LONGEST_REST) if self._rate else 0)
        self._began = time.monotonic()

    def read(self, count: int) -> None:
        """Rest for what the reading of `count` bytes may take beyond what it took."""
        if not self._rate:
            return
        now = time.monotonic()
        self._due = max(self._due, now - _LONGEST_REST) + count / self._rate
        if self._due > now:
            time.sleep(self._due - now)
        self._began = time.monotonic()


@dataclass
class Inspection:
    """A run under way. Not for use by two threads at once."""

    parts: Parts
    options: CheckOptions
    progress: Progress
    on_finding: OnFinding
    tally: Tally = field(default_factory=Tally)
    findings: list[Finding] = field(default_factory=list)
    digest_index: bool = True
    """Whether the index of versions by digest can be read, as far as is known."""
    lost: set[str] = field(default_factory=set)
    """Tables of which rows cannot be read."""

    def __post_init__(self) -> None:
        self.pace = Pace(self.options.throttle)

    def report(self, finding: Finding) -> None:
        """Count a finding and tell of it."""
        if finding.damage:
            self.tally.damage += 1
            self.tally.repaired_damage += bool(finding.repaired)
        else:
            self.tally.faults += 1
            self.tally.repaired_faults += bool(finding.repaired)
        if len(self.findings) < _KEPT_FINDINGS:
            self.findings.append(finding)
        self.on_finding(finding)

    def view(self) -> AbstractContextManager[Connection]:
        """A short view of the rows."""
        return self.parts.database.read()

    def repair_command(self, *, backup: bool = False) -> str:
        """The command that repairs what was found."""
        return command(f"check --repair{' --from BACKUP' if backup else ''}", self.parts.layout.root)

    def restore_command(self) -> str:
        """What helps where nothing here can repair."""
        return restore_command(self.parts.layout)


def restore_command(layout: Layout) -> str:
    """What helps a store that `check` cannot repair."""
    return (
        f"gestalt-cas restore BACKUP DIR, and put DIR in the place of {layout.root} when no process has that open; "
        "what was written after the backup can be salvaged with the sqlite3 shell's .recover"
    )


def broken(error: StoreError) -> bool:
    """Whether a failure says that the database, or the disk below it, is damaged; others concern this run only."""
    return isinstance(error, DatabaseDamaged | StorageFault)


def unreadable(run: Inspection, what: str, error: StoreError) -> Finding:
    """The finding that something in the database cannot be read."""
    return Finding("database", f"{what} cannot be read: {error}", where=what, remedy=run.restore_command())
