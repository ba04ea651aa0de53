"""The moments that `--as-of` can name: a sequence, a time, or a snapshot.

    1234                     the change with this sequence, and all before it
    2026-11-25T10:00:00Z     the last change whose commit time is not after this one (ISO 8601; UTC unless it says else)
    2026-11-25               midnight at the beginning of the day, UTC
    90s 10m 2h 3d 4w         so long ago; refused while the last commit is dated more than a day ahead of the clock
    before-release           the snapshot of this name; names begin with a letter

The empty text is the present. Whatever was named, what counts is the sequence that it stood for when it was resolved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from gestalt_cas.clock import DAY_MS, instant, now_ms
from gestalt_cas.errors import BeforeHorizon, InvalidArgument, NoSuchSnapshot
from gestalt_cas.rows import history, snapshots
from gestalt_cas.sql.sqlite import Connection

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_AGO = re.compile(rf"([0-9]{{1,12}})([{''.join(_UNITS_MS)}])")
_MOST = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the store: its state after the change `seq`. `snapshot` is the name that it was found by, or ""."""

    seq: int
    snapshot: str = ""

    def __str__(self) -> str:
        return f"snapshot {self.snapshot} (sequence {self.seq})" if self.snapshot else f"sequence {self.seq}"


AsOf = str | Moment
"""What callers name a moment by."""


def resolve(connection: Connection, as_of: AsOf, bucket: str, prefix: bytes) -> Moment:
    """The moment that `as_of` names, for a question about keys of `bucket` (a real name) that start with `prefix`.

    Raises InvalidArgument for a text that names none and for a snapshot that does not cover these keys, NoSuchSnapshot,
    or BeforeHorizon. What a snapshot shows is kept whatever the horizon.
    """
    moment = _named(connection, as_of)
    if moment.snapshot:
        _check_snapshot(connection, moment, bucket, prefix)
        return moment
    known = history.horizon(connection, bucket)
    if moment.seq < known.seq:
        raise BeforeHorizon(
            f"{_quoted(as_of)} is sequence {moment.seq}; the history of {bucket or 'the store'} is complete only from "
            f"sequence {known.seq} ({instant(known.ms)}) on"
        )
    return moment


def _named(connection: Connection, as_of: AsOf) -> Moment:
    if isinstance(as_of, Moment):
        return as_of
    if not as_of:
        return Moment(history.last(connection)[0])
    if as_of.isascii() and as_of.isdigit():
        return Moment(_sequence(connection, as_of))
    if as_of[:1].isascii() and as_of[:1].isalpha():
        snapshot = snapshots.find(connection, as_of)
        if snapshot is None:
            raise NoSuchSnapshot(f"there is no snapshot {as_of}")
        return Moment(snapshot.seq, snapshot.name)
    ago = _AGO.fullmatch(as_of)
    if ago is not None:
        _refuse_future(connection, as_of)
        return Moment(history.seq_at(connection, max(now_ms() - int(ago[1]) * _UNITS_MS[ago[2]], 0)))
    return Moment(history.seq_at(connection, _milliseconds(as_of)))


def _refuse_future(connection: Connection, as_of: str) -> None:
    """Refuse a time ago when a clock that was ahead has dated what was written since: it would mean before all of that.

    A rollback to an hour ago would undo the work of weeks.
    """
    seq, commit_ms = history.last(connection)
    if commit_ms - now_ms() > DAY_MS:
        raise InvalidArgument(
            f"{as_of!r} ago cannot be told from what was written since: the clock was ahead, and the last change is "
            f"dated {instant(commit_ms)}. Name a sequence (the last change has {seq}), a snapshot or a date"
        )


def _sequence(connection: Connection, text: str) -> int:
    seq, _ = history.last(connection)
    wanted = int(text) if len(text) < len(str(_MOST)) else _MOST
    if wanted > seq:
        raise InvalidArgument(f"sequence {text} has not been yet; the last change has {seq}")
    return wanted


def _milliseconds(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            f"{text!r} is neither a sequence, nor a time like 2026-11-25T10:00:00Z or 2h (ago), nor a snapshot's name"
        ) from None
    given = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    # In whole numbers: a float of today's milliseconds with their fraction would be rounded.
    since = given - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _check_snapshot(connection: Connection, moment: Moment, bucket: str, prefix: bytes) -> None:
    found = snapshots.find(connection, moment.snapshot)
    if found is None or found.seq != moment.seq:
        raise NoSuchSnapshot(f"there is no snapshot {moment.snapshot} any more")
    if not found.covers(bucket, prefix):
        raise InvalidArgument(f"the snapshot {found.name} is of {found.where} only")


def _quoted(as_of: AsOf) -> str:
    return str(as_of) if isinstance(as_of, Moment) else f"{as_of!r}"
