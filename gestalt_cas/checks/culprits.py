"""Whether rows that no write stores are behind an unexpected exception: asked only once there is one.

The code that serves calls trusts its rows, so a damaged one shows as whatever Python says of it: a TypeError over text
where a number should be, a KeyError over a row that leads nowhere. Looking at each value on its way would cost every
good call. Instead the few places where an unexpected exception ends something (a verb, a call, a request, a round of
the background work) ask here, and the whole store is looked through, by the rules that `check` goes by: first types and
forms of every table, then what rows of versions and `current` have to be beyond that. If something is wrong the answer
is DatabaseDamaged, naming the row. If nothing is, or there was no time to tell, the exception goes on as the fault of
this program that it is: a bug is never called damage for want of a better word.

A look is a chain of short views and ends after LOOK_SECONDS. What it found is remembered for a moment, so a storm of
failing calls has one look, not one each; those that come meanwhile wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

from gestalt_cas.checks.row_reading import RAW_ROWS
from gestalt_cas.checks.row_rules import VersionRow, broken_rules, pointer_sentence, sentence
from gestalt_cas.errors import DatabaseDamaged, StorageFault, StoreError
from gestalt_cas.operations.parts import Parts
from gestalt_cas.remedies import command
from gestalt_cas.rows import versions
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.wrong_values import suspicions, value_rules, wrong_rows

log = logging.getLogger(__name__)

View = Callable[[], AbstractContextManager[Connection]]

LOOK_SECONDS = 20.0
REMEMBERED_SECONDS = 15.0
MOST = 3
"""Rows that a message names."""
_ROWS = 1_000
_POINTERS = """
    SELECT CAST(c.bucket AS BLOB), c.key, v.seq IS NULL FROM (
        SELECT bucket, key, seq FROM current WHERE (bucket, key) > (CAST(? AS TEXT), ?) ORDER BY bucket, key LIMIT ?
    ) AS c LEFT JOIN versions AS v
    ON v.bucket = c.bucket AND v.key = c.key AND v.seq = c.seq AND v.gone_seq IS NULL AND v.digest IS NOT NULL
"""


class Culprits:
    """Looks for the rows behind exceptions, for one store. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._until = 0.0
        self._found = ""

    def behind(self, error: BaseException) -> DatabaseDamaged | None:
        """The damage that an exception comes of; None when it is one in words, of the system, or a fault of ours.

        Takes LOOK_SECONDS at most, or twice that when somebody else is looking.
        """
        if not suspicions.may_be_behind(error):
            return None
        found = self._look()
        if not found:
            return None
        log.warning("%s at %s, by damage: %s", type(error).__name__, _place_of(error), found)
        return DatabaseDamaged(found)

    def _look(self) -> str:
        """What is wrong, in a sentence, as far as it is known by now; "" for nothing."""
        deadline = time.monotonic() + LOOK_SECONDS
        if not self._lock.acquire(timeout=LOOK_SECONDS):
            return ""
        try:
            if time.monotonic() >= self._until:
                self._found = self._seen(deadline)
                self._until = time.monotonic() + REMEMBERED_SECONDS
            return self._found
        finally:
            self._lock.release()

    def _seen(self, deadline: float) -> str:
        try:
            found = list(islice(find(self._parts.database.read, deadline), MOST))
        except DatabaseDamaged as error:
            return str(error)
        except StoreError:
            return ""  # the store is being closed, or the disk fails: what was to be looked at cannot be
        if not found:
            return ""
        remedy = command("check", self._parts.layout.root)
        return (
            f"the database is damaged: it holds what no write stores: {'; '.join(found)}; "
            f"{remedy} tells of every such row"
        )


def _place_of(error: BaseException) -> str:
    """Where an exception was raised: enough for whoever looks for a fault behind the damage."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"


def find(view: View, deadline: float = float("inf")) -> Iterator[str]:
    """What is wrong with the rows of a store, a sentence each; ends early at the `deadline` (time.monotonic)."""
    typed = True
    for table in value_rules.FORMS:
        try:
            for wrong in _of_table(view, table, deadline):
                typed = typed and table not in ("current", "versions")
                yield str(wrong)
        except StorageFault as error:
            if not sqlite.comes_of_values(error.__cause__):
                raise
            yield f"{table}: the table is not as every store has it: {error}"
            typed = typed and table not in ("current", "versions")
    if typed:  # else what follows may fail at those very rows
        yield from _pointers(view, deadline)
        yield from _versions(view, deadline)


def _of_table(view: View, table: str, deadline: float) -> Iterator[wrong_rows.Wrong]:
    place: value_rules.Place | None = value_rules.START
    while place is not None and time.monotonic() < deadline:
        with view() as tx:
            found = value_rules.look(tx, table, place)
        yield from found.wrong
        place = found.place


def _pointers(view: View, deadline: float) -> Iterator[str]:
    """Rows of `current` that lead to no object."""
    place: tuple[bytes, bytes] = (b"", b"")
    while time.monotonic() < deadline:
        with view() as tx:
            rows = tx.execute(_POINTERS, (*place, _ROWS)).fetchall()
            wrong = [_pointer(tx, bucket, key) for bucket, key, lost in rows if lost]
        yield from filter(None, wrong)
        if len(rows) < _ROWS:
            return
        place = rows[-1][:2]


def _pointer(tx: Connection, raw: bytes, key: bytes) -> str:
    """What `current` says of a key, where that is not what its versions say; "" where it is."""
    bucket = _text(raw)
    if isinstance(bucket, bytes):
        return f"current, row {wrong_rows.describe(raw)}: bucket is not UTF-8"
    wanted, found = versions.pointer(tx, bucket, key)
    return "" if wanted == found else f"current: {pointer_sentence((bucket, key), wanted, found)}"


def _versions(view: View, deadline: float) -> Iterator[str]:
    """Rows of versions that break a rule, and objects that `current` does not know."""
    place: tuple[bytes, bytes, int] = (b"", b"", 0)
    while time.monotonic() < deadline:
        with view() as tx:
            rows = tx.execute(RAW_ROWS, (*place, _ROWS)).fetchall()
            found = [(raw, VersionRow(_text(raw), *columns), current) for raw, *columns, current in rows]
            lost = {(raw, row.key) for raw, row, current in found if row.is_object and current is None}
            wrong = [_pointer(tx, bucket, key) for bucket, key in sorted(lost)]
        for _, row, _ in found:
            yield from _broken(row)
        yield from filter(None, wrong)
        if len(rows) < _ROWS:
            return
        place = rows[-1][:3]


def _broken(row: VersionRow) -> Iterator[str]:
    for message in broken_rules(row):
        yield f"versions: {sentence(row.name, row.id_text, message)}"


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
