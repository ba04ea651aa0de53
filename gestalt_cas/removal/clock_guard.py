"""The clock guard: what removes by age stops when the clock cannot be trusted.

A clock that jumps ahead by a year makes everything old at once. So retention, dropping what the history knows, and gc
with a grace run only when the clock is within a day of the last such run. Where none is noted down the last commit is
what there is to go by. A clock that is more than a day behind the last commit is wrong as well, or was. Until somebody
says that it is right (`gestalt-cas doctor --accept-clock`) they refuse to run.

The last run is the note `clock.seen`: when it was, and which last commit time was accepted although it lies ahead. A
server that does the background work looks once an hour, and notes that down like a run. Commits do not count once there
is a note, since they take their time from the very clock that is in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping

from gestalt_cas.clock import DAY_MS, instant
from gestalt_cas.errors import ClockSuspect
from gestalt_cas.operations.parts import Parts
from gestalt_cas.remedies import command
from gestalt_cas.rows import history, settings
from gestalt_cas.sql.sqlite import Connection

NOTE = "clock.seen"


def require(parts: Parts, now_ms: int) -> None:
    """Raise ClockSuspect unless the clock, which says `now_ms`, can be trusted; note down that it was looked at."""
    with parts.database.read() as tx:
        fault, note = doubt(tx, now_ms), settings.recall(tx, NOTE)
    if fault:
        remedy = command("doctor --accept-clock", parts.layout.root)
        raise ClockSuspect(f"{fault}: nothing is removed by its age. If the clock is right: {remedy}")
    _note(parts, now_ms, _accepted_ms(note))


def accept(parts: Parts, now_ms: int) -> None:
    """Take the clock for right from now on, whatever was before."""
    with parts.database.read() as tx:
        commit_ms = history.last(tx)[1]
    _note(parts, now_ms, commit_ms)


def doubt(connection: Connection, now_ms: int) -> str:
    """Why the clock is not to be trusted, "" when it is."""
    return judge(now_ms, history.last(connection)[1], settings.recall(connection, NOTE))


def judge(now_ms: int, commit_ms: int, note: object) -> str:
    """Why a clock that says `now_ms` is not to be trusted, by the last commit (0: none) and the note; "" when it is."""
    if commit_ms - now_ms > DAY_MS and commit_ms > _accepted_ms(note):
        return _told(now_ms, "the last commit", commit_ms)
    seen_ms = note.get("at_ms") if isinstance(note, Mapping) else None
    if isinstance(seen_ms, int):
        return _told(now_ms, "the last run that removed by age", seen_ms) if abs(now_ms - seen_ms) > DAY_MS else ""
    return _told(now_ms, "the last commit", commit_ms) if commit_ms and abs(now_ms - commit_ms) > DAY_MS else ""


def _note(parts: Parts, now_ms: int, accepted_ms: int) -> None:
    note = {"at_ms": now_ms, "accepted_ms": accepted_ms}
    parts.reserve.spend_on(lambda: parts.note(NOTE, note))


def _accepted_ms(note: object) -> int:
    found = note.get("accepted_ms") if isinstance(note, Mapping) else None
    return found if isinstance(found, int) else 0


def _told(now_ms: int, what: str, other_ms: int) -> str:
    days = abs(now_ms - other_ms) / DAY_MS
    way = "after" if now_ms > other_ms else "before"
    return f"the clock says {instant(now_ms)}, {days:.1f} days {way} {what} ({instant(other_ms)})"
