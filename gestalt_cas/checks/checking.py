"""Checking a store: the stages one after the other, and going on where a run was cut off.

    wal         frames of the write-ahead log; first, since the next write would bury what stands behind a damaged one
    schema      tables, indexes, and what is fixed at creation
    integrity   SQLite's own check, table by table
    layout      directories and modes
    values      types and forms of what every row holds
    rows        versions and current, in key order
    order       commit times against sequences
    payloads    rows of blobs against files both ways, and the bytes that are to be read
    index       the index by digest against its rows, only when SQLite's check of it had to be given up
    quotas      used bytes against a recount
    holds       versions that are held are there
    references  SQLite's foreign key check

A check never deletes, and holds neither a view nor write.lock for long. Where it stands is noted in the store now and
then; a run with the same options goes on from there, however the one before it ended. Damage of the database ends a
stage, not the check. Design: docs/design.md, "Checking and repairing".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from gestalt_cas.checks import culprits, inspection, row_checks, row_reading
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.hold_checks import check_holds
from gestalt_cas.checks.index_checks import check_index_rows
from gestalt_cas.checks.inspection import CheckOptions, CheckReport, Inspection, OnFinding, Tally, broken, unreadable
from gestalt_cas.checks.integrity_checks import check_integrity, check_references
from gestalt_cas.checks.layout_checks import check_layout
from gestalt_cas.checks.order_checks import check_order
from gestalt_cas.checks.payload_checks import PayloadPass
from gestalt_cas.checks.quota_checks import check_quotas
from gestalt_cas.checks.repairs import check_backup
from gestalt_cas.checks.schema_checks import check_schema
from gestalt_cas.checks.value_checks import check_values
from gestalt_cas.checks.wal_checks import check_wal
from gestalt_cas.clock import now_ms
from gestalt_cas.errors import StoreError, TooManyStreams
from gestalt_cas.files.payload_files import is_want
from gestalt_cas.operations.parts import Parts
from gestalt_cas.progress import Progress, silent
from gestalt_cas.system.locks import FileLock
from gestalt_cas.wrong_values import suspicions

log = logging.getLogger(__name__)

POSITION = "check.position"
POSITION_SECONDS = 10.0
"""How often a run notes where it stands; each time is a commit."""
POSITION_LASTS_MS = 7 * 24 * 3600 * 1000
"""A run that was cut off longer ago is not gone on with: too much may have changed since."""


def check(
    parts: Parts,
    options: CheckOptions,
    progress: Progress | None = None,
    on_finding: OnFinding | None = None,
    on_resume: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check a store; see CheckOptions and CheckReport. `on_finding` hears each finding as soon as it is one.

    `on_resume` is told when the run that is gone on with began (Unix milliseconds), and how many findings it had.

    Raises InvalidArgument for a backup that cannot be one, StoreBusy and the like when something keeps the check from
    its work; damage is what it reports, not what it raises. Whatever ends it early, it can be gone on with.
    """
    run = Inspection(parts, options, progress or silent, on_finding or _unheard)
    check_backup(run)
    with _alone(parts) as alone:
        course = _Course(run, on_resume, resumable=alone)
        try:
            course.follow()
        except BaseException:
            course.note_position()
            raise
        return course.finish()


def _unheard(_finding: Finding) -> None:
    """For callers who read the report."""


@contextmanager
def _alone(parts: Parts) -> Iterator[bool]:
    """Tell for the block whether no other check runs on the directory; only such a one notes where it stands."""
    try:
        lock = FileLock(parts.layout.check_lock)
    except OSError as error:
        log.warning("this check cannot be gone on with if it is cut off: %s: %s", error.filename, error.strerror)
        yield False
        return
    try:
        yield lock.try_acquire()
    finally:
        lock.close()


class _Course:
    """The stages of one run, and where it stands among them."""

    def __init__(self, run: Inspection, on_resume: Callable[[int, int], None] | None, *, resumable: bool) -> None:
        self._run = run
        self._on_resume = on_resume
        self._resumable = resumable
        self._began_ms = now_ms()
        self._resumed_ms = 0
        self._stage = ""
        self._place: Any = None
        self._tally = Tally()
        self._indexes = False
        self._noted = time.monotonic()
        self._has_note = False
        self._stages: dict[str, Callable[[Any], Iterator[Any]]] = {
            "wal": self._once(check_wal),
            "schema": self._once(check_schema),
            "integrity": self._once(self._check_integrity),
            "layout": self._once(check_layout),
            "values": self._once(check_values),
            "rows": self._rows,
            "order": self._once(check_order),
            "payloads": self._payloads,
            "index": self._once(self._check_index),
            "quotas": self._once(check_quotas),
            "holds": self._once(check_holds),
            "references": self._once(check_references),
        }

    def follow(self) -> None:
        """Run the stages, from where an earlier run was cut off if there is one to go on with."""
        self._recall()
        names = list(self._stages)
        for name in names[names.index(self._stage) if self._stage else 0 :]:
            if name != self._stage:
                self._stand(name, None)
            self._follow_stage(name)

    def finish(self) -> CheckReport:
        """Note the result in the store, and report."""
        run, counts = self._run, asdict(self._run.tally)
        report = CheckReport(
            started_ms=self._began_ms,
            ended_ms=now_ms(),
            resumed_ms=self._resumed_ms,
            read_data=str(run.options.read_data or ""),
            findings=tuple(run.findings),
            **counts,
        )
        last = {"at_ms": report.ended_ms, "result": report.result, "read_data": report.read_data, **counts}
        self._note(inspection.NOTE, last)
        if self._resumable and self._has_note:
            self._note(POSITION, None)
        return report

    def note_position(self) -> None:
        """Note where the run stands, for one to come."""
        if not self._resumable or not self._stage:
            return
        self._noted, self._has_note = time.monotonic(), True
        position = {
            "identity": self._run.options.identity,
            "stage": self._stage,
            "place": self._place,
            "indexes": self._indexes,
            "began_ms": self._resumed_ms or self._began_ms,
            "at_ms": now_ms(),
            "tally": asdict(self._tally),
        }
        self._note(POSITION, position)

    # ---- inside ----

    def _stand(self, stage: str, place: Any) -> None:
        """Take note, in memory, of a place to go on from; what was counted until then belongs to it."""
        self._stage, self._place, self._tally = stage, place, replace(self._run.tally)

    def _follow_stage(self, name: str) -> None:
        run = self._run
        run.progress(f"checking: {name}", 0, 0)
        try:
            for place in self._stages[name](self._place):
                self._stand(name, place)
                if time.monotonic() - self._noted > POSITION_SECONDS:
                    self.note_position()
        except StoreError as error:
            if not broken(error):
                raise
            run.report(unreadable(run, f"what the stage {name!r} looks at", error))
        except OSError as error:
            if is_want(error):
                raise TooManyStreams(f"the check cannot go on: {error.strerror}; it can be gone on with") from error
            text = f"{error.filename or name}: {error.strerror or error}"
            run.report(Finding("unreadable", f"the stage {name!r} was cut short: {text}", where=name))
        except Exception as error:
            # Rows that no write stores are named by the stage `values`; where there are none it is a fault of ours.
            found = next(culprits.find(run.view), None) if suspicions.may_be_behind(error) else None
            if found is None:
                raise
            log.warning("check: %s: %s: %s", name, type(error).__name__, found)
            text = f"the stage {name!r} was cut short by what no write stores: {found}"
            run.report(Finding("database", text, where=name, remedy=run.restore_command()))

    def _recall(self) -> None:
        try:
            found = self._run.parts.recall(POSITION)
        except StoreError as error:
            if not broken(error):
                raise
            return  # the stages will say more
        except ValueError:
            return  # no JSON: the stage `values` names it
        if not isinstance(found, dict) or not self._resumable:
            return
        self._has_note = True
        same = found.get("identity") == self._run.options.identity and found.get("stage") in self._stages
        if same and _is_position(found) and not self._run.options.restart:
            if now_ms() - found["at_ms"] >= POSITION_LASTS_MS:
                return
            self._run.tally = tally = Tally(**found["tally"])
            self._stand(str(found["stage"]), found["place"])
            self._indexes, self._resumed_ms = bool(found["indexes"]), found["began_ms"]
            if self._on_resume is not None:
                self._on_resume(self._resumed_ms, tally.damage + tally.faults)

    def _note(self, name: str, value: object) -> None:
        try:
            self._run.parts.reserve.spend_on(lambda: self._run.parts.note(name, value))
        except StoreError as error:
            log.warning("%s could not be noted in the store: %s", name, error)

    def _once(self, stage: Callable[[Inspection], object]) -> Callable[[Any], Iterator[Any]]:
        """A stage that is short, and begun anew when it was cut off."""

        def steps(_place: Any) -> Iterator[Any]:
            stage(self._run)
            yield None

        return steps

    def _check_integrity(self, run: Inspection) -> None:
        self._indexes = not check_integrity(run)

    def _check_index(self, run: Inspection) -> None:
        if self._indexes:
            check_index_rows(run)

    def _rows(self, place: Any) -> Iterator[Any]:
        start = (place[0], bytes.fromhex(place[1]), place[2]) if place else row_reading.START
        for bucket, key, seq in row_checks.RowPass(self._run, indexes=self._indexes).batches(start):
            yield [bucket, key.hex(), seq]

    def _payloads(self, place: Any) -> Iterator[Any]:
        for digest in PayloadPass(self._run).batches(bytes.fromhex(place) if place else b""):
            yield digest.hex()


def _is_position(note: dict[str, Any]) -> bool:
    """Whether a note says where a run stood, in a form that a run notes; one that does not is not gone on with."""
    tally, place = note.get("tally"), note.get("place")
    if not isinstance(tally, dict) or tally.keys() != asdict(Tally()).keys() or "indexes" not in note:
        return False
    if not all(isinstance(count, int) for count in (*tally.values(), note.get("at_ms"), note.get("began_ms"))):
        return False
    try:
        if note["stage"] == "rows" and place is not None:
            bucket, key, seq = place
            bytes.fromhex(key)
            return isinstance(bucket, str) and isinstance(seq, int)
        if note["stage"] == "payloads" and place is not None:
            bytes.fromhex(place)
    except (ValueError, TypeError):
        return False
    return True
