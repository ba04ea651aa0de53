"""The verbs that report: stats and doctor. They change nothing, but that doctor can accept the clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.options import human_option
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant
from gestalt_cas.errors import NoStore

if TYPE_CHECKING:
    from gestalt_cas.doctor.examinations import Finding
    from gestalt_cas.statistics import Stats

_LABEL = 20


@click.command()
@human_option
@common_options
def stats(session: Session, human: bool) -> int:
    """Count what the store holds, and show how it fares: room, garbage, the last runs of upkeep, quotas, SQLite.

    'logical' is the bytes of the current objects, 'history' of all versions, 'stored' of each distinct content once,
    whether or not a version still has it. Counting goes in short steps, so on a busy store the figures are of several
    moments.
    """
    with session.store() as store, Progress("stats", counted=True) as progress:
        found = store.stats(progress=progress.at)
    if session.json:
        session.output.result(_record(found), "")
    else:
        for label, value in _lines(found, human):
            session.output.result({}, f"{label:<{_LABEL}} {value}")
    return exits.OK


def _record(found: Stats) -> dict[str, object]:
    flat = asdict(found)
    contents, payloads = flat.pop("contents"), flat.pop("payloads")
    return {
        **contents,
        "payloads": payloads["count"],
        "stored_bytes": payloads["bytes"],
        "damaged": payloads["damaged"],
        "dedup_ratio": found.dedup_ratio,
        "reclaimable_bytes": found.reclaimable_bytes,
        **flat,
        "pins": [{**asdict(pin), "detail": dict(pin.detail)} for pin in found.pins],
        "quotas": [{**asdict(quota), "name": quota.name} for quota in found.quotas],
    }


def _lines(found: Stats, human: bool) -> Iterator[tuple[str, str]]:
    """Label and value of each line."""

    def size(count: int) -> str:
        return output.size(count, human=human)

    contents, payloads = found.contents, found.payloads
    yield "objects", str(contents.objects)
    yield "versions", str(contents.versions)
    yield "delete markers", str(contents.delete_markers)
    yield "logical bytes", size(contents.logical_bytes)
    yield "history bytes", size(contents.version_bytes)
    yield "stored bytes", f"{size(payloads.bytes)} in {payloads.count} payloads"
    yield "dedup ratio", "-" if found.dedup_ratio is None else f"{found.dedup_ratio:.2f}"
    yield "reclaimable bytes", size(found.reclaimable_bytes)
    yield "damaged payloads", str(payloads.damaged)
    yield "database bytes", size(found.database_bytes)
    yield "WAL bytes", size(found.wal_bytes)
    yield "staging", f"{found.staging.count} files, {size(found.staging.bytes)} bytes"
    yield "quarantine", f"{found.quarantine.count} files, {size(found.quarantine.bytes)} bytes"
    inodes = "" if found.inodes_free is None else f", {found.inodes_free} inodes"
    yield "free on disk", f"{size(found.disk_free_bytes)} of {size(found.disk_bytes)} bytes{inodes}"
    yield "reserve bytes", size(found.reserve_bytes)
    for name in ("check", "backup", "gc", "retention"):
        yield f"last {name}", _run(getattr(found, f"last_{name}"))
    if found.clock:
        yield "clock", f"{found.clock}: nothing is removed by its age (doctor says what to do)"
    for pin in found.pins:
        yield "pin", f"{shown(pin.name)} ({shown(pin.kind)}), since {instant(pin.created_ms)}"
    for quota in found.quotas:
        yield "quota", f"{shown(quota.name)}: {size(quota.used_bytes)} of {size(quota.max_bytes)} bytes used"
    for bucket, known in found.horizons.items():
        what = shown(bucket) if bucket else "every bucket"
        yield "history", f"of {what} is complete from sequence {known.seq} ({_when(known.ms)}) on"
    yield "snapshots", str(found.snapshots)
    yield "holds", str(found.holds)
    yield "sequence", f"{found.sequence}, last commit {_when(found.last_commit_ms)}"
    yield "format", f"{found.format}, revision {found.revision}"
    bug = "has the WAL-reset bug" if found.sqlite_wal_reset_bug else "without the WAL-reset bug"
    yield "SQLite", f"{found.sqlite_version}, {bug}"


def _run(note: Mapping[str, object] | None) -> str:
    """When a run was and how it ended, from what it noted down."""
    if note is None:
        return "never"
    at_ms = note.get("at_ms")
    parts = [_when(at_ms) if isinstance(at_ms, int) else "at an unknown time"]
    if isinstance(result := note.get("result"), str):
        parts.append(shown(result))
    figures = {name: count for name, count in note.items() if type(count) is int and count and name != "at_ms"}
    parts += [f"{shown(name).replace('_', ' ')} {count}" for name, count in figures.items()]
    return ", ".join(parts)


def _when(at_ms: int) -> str:
    return instant(at_ms) if at_ms else "never"


@click.command()
@click.option("--accept-clock", is_flag=True, help="First take the clock for right, so that retention and gc go on.")
@common_options
def doctor(session: Session, accept_clock: bool) -> int:
    """Examine what is around the store: permissions, file system, room, clock, versions, servers, leftovers.

    Each finding comes with its remedy. Changes nothing, but with --accept-clock, is safe beside a server, and works on
    a store that cannot be opened. What is in the store is for `check`. Exit code 1 with warnings or errors, 4 with
    damage.
    """
    from gestalt_cas.doctor.examinations import Severity
    from gestalt_cas.doctor.examining import examine

    if accept_clock:
        with session.store() as store:
            store.accept_clock()
    try:
        found = examine(session.directory)
    except NoStore as error:
        raise session.hinted(error) from None
    for finding in found:
        session.output.result(_finding(finding), _told(finding))
    worst = max(finding.severity for finding in found)
    counts = {severity.name.lower(): sum(one.severity is severity for one in found) for severity in Severity}
    if session.json:
        session.output.result({"summary": counts}, "")
    if worst is Severity.DAMAGE:
        return exits.DAMAGE
    return exits.NOT_FOUND if worst >= Severity.WARNING else exits.OK


def _finding(found: Finding) -> dict[str, object]:
    return {
        "severity": found.severity.name.lower(),
        "subject": found.subject,
        "text": found.text,
        "remedy": found.remedy,
    }


def _told(found: Finding) -> str:
    text = f"{found.severity.name.lower():<8} {found.subject + ':':<16} {shown(found.text)}"
    return f"{text}\n{'':<25} {shown(found.remedy)}" if found.remedy else text
