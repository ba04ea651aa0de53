"""The rows of versions and current, judged by the rules that every write keeps.

One pass covers both tables, as `row_reading.py` reads them. On a live store rows change between two views; whatever
looks wrong is looked at again in a transaction of its own before it is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gestalt_cas.checks import row_reading
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import Inspection, broken, unreadable
from gestalt_cas.checks.payload_judging import judge_row
from gestalt_cas.checks.row_reading import LAST, UNTOUCHED, Batch, RowReader
from gestalt_cas.checks.row_rules import (
    NULL_ID,
    Name,
    Place,
    VersionRow,
    broken_rules,
    named,
    pointer_sentence,
    sentence,
    shown,
)
from gestalt_cas.errors import StoreError
from gestalt_cas.rows import versions


@dataclass
class KeyState:
    """What was seen of the key whose versions are being passed."""

    name: Name
    newest: int = 0
    is_object: bool = False
    nulls: int = 0


class RowPass:
    """The pass over versions and current. `indexes` has each row compared with the indexes as well."""

    def __init__(self, run: Inspection, *, indexes: bool) -> None:
        self._run = run
        self._reader = RowReader(run, indexes=indexes)
        self._judged: set[bytes] = set()
        self._state: KeyState | None = None
        self._settled: Name = ("", b"")

    def batches(self, place: Place) -> Iterator[Place]:
        """Pass all rows after `place`; yields where it stands after each batch: what a later run can go on from."""
        self._settled = place[:2]
        while True:
            try:
                batch = self._reader.take(place, self._settled, row_reading.BATCH)
            except StoreError as error:
                if not broken(error):
                    raise
                skipped = self._skip(place, error)
                if skipped is None:
                    return
                place = skipped
                continue
            self._judge(batch)
            if batch.at_end:
                return
            place = batch.rows[-1].place
            yield (*self._settled, LAST)
            self._run.progress("checking rows", self._run.tally.versions, 0)
            self._run.pace.batch_done()

    def _skip(self, place: Place, error: StoreError) -> Place | None:
        """Report the rows that cannot be read; returns where rows can be read again, None when nowhere."""
        place = self._closest(place)
        self._run.lost.add("versions")
        name = self._reader.readable_after(place)
        after = f" after {shown(*place[:2])}" if place[1] else ""
        until = f" and before {shown(*name)}" if name else ""
        self._run.report(
            Finding(
                "database",
                f"the rows of versions{after}{until} cannot be read: {error}",
                where="versions",
                affected=(named(*place[:2]),) if place[1] else (),
                remedy=self._run.restore_command(),
            )
        )
        self._state = None
        if name is None:
            return None
        self._settled = name
        return (*name, UNTOUCHED)

    def _closest(self, place: Place) -> Place:
        """Read on in ever smaller batches, up to the last row before what cannot be read."""
        limit = row_reading.BATCH
        while limit:
            try:
                batch = self._reader.take(place, self._settled, limit)
            except StoreError as error:
                if not broken(error):
                    raise
                limit //= 2
            else:
                self._judge(batch)
                if batch.at_end:
                    break
                place = batch.rows[-1].place
        return place

    # ---- judging ----

    def _judge(self, batch: Batch) -> None:
        expected: dict[Name, int] = {}
        for row in batch.rows:
            self._run.tally.versions += row.gone_seq is None
            if not row.well_typed:
                continue  # `value_checks` reports it; of such values nothing can be concluded
            self._enter(row, expected)
            self._judge_row(row, batch.counter)
        if batch.complete:
            self._settle(expected)
            if batch.rows:
                self._settled = batch.rows[-1].name
        else:
            before = [row.name for row in batch.rows if row.name != batch.rows[-1].name]
            self._settled = before[-1] if before else self._settled
        if batch.pointers is None:
            return
        found = {(bucket, key): seq for bucket, key, seq in batch.pointers if _is_name(bucket, key)}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                try:
                    self._check_pointer(name)
                except StoreError as error:
                    if not broken(error):
                        raise
                    self._run.report(unreadable(self._run, f"what current and versions have of {shown(*name)}", error))

    def _enter(self, row: VersionRow, expected: dict[Name, int]) -> None:
        """Follow the key that the row belongs to."""
        if self._state is None or self._state.name != row.name:
            self._settle(expected)
            self._state = KeyState(row.name)
        if row.gone_seq is None:
            self._state.newest, self._state.is_object = row.seq, row.digest is not None
            self._state.nulls += row.version_id == NULL_ID

    def _settle(self, expected: dict[Name, int]) -> None:
        state, self._state = self._state, None
        if state is None:
            return
        if state.is_object:
            expected[state.name] = state.newest
        if state.nulls > 1:
            self._row(state.name, "", f"the key has {state.nulls} null versions", "one at most", str(state.nulls))

    def _judge_row(self, row: VersionRow, counter: tuple[int, int]) -> None:
        rules = list(broken_rules(row))
        for message in rules:
            self._row(row.name, row.id_text, message, "", "")
        if rules:
            return
        if row.last_seq > counter[0] or row.commit_ms > counter[1]:
            self._sequence(row, counter)
        if row.digest is None or row.digest in self._judged:
            return
        if not row.has_payload or row.payload_size != row.size:
            self._judged.add(row.digest)
            judge_row(self._run, row.digest)

    def _row(self, name: Name, version_id: str, message: str, expected: str, found: str) -> None:
        affected = named(*name, version_id)
        with self._run.view() as tx:
            count = tx.execute("SELECT count(*) FROM versions WHERE bucket = ? AND key = ?", name).fetchall()[0][0]
        if not count:
            return
        self._run.report(
            Finding(
                "row",
                sentence(name, version_id, message),
                where="versions",
                expected=expected,
                found=found,
                affected=(affected,),
                affected_total=1,
                remedy=self._run.restore_command(),
            )
        )

    def _sequence(self, row: VersionRow, counter: tuple[int, int]) -> None:
        seq, commit_ms = row.last_seq, row.commit_ms
        self._run.report(
            Finding(
                "sequence",
                f"{shown(*row.name)}, version {row.id_text}: sequence {seq} and commit time {commit_ms} are beyond "
                f"the counter's {counter[0]} and {counter[1]}",
                where="counter",
                expected=f"at most {counter[0]}, {counter[1]}",
                found=f"{seq}, {commit_ms}",
                affected=(named(*row.name, row.id_text),),
                affected_total=1,
                remedy=self._run.restore_command(),
            )
        )

    def _check_pointer(self, name: Name) -> None:
        """Compare current with the newest version once more; repair it where that is asked for."""
        with self._run.view() as tx:
            wanted, found = versions.pointer(tx, *name)
        if wanted == found:
            return
        finding = Finding(
            "current",
            pointer_sentence(name, wanted, found),
            where="current",
            expected="" if wanted is None else str(wanted),
            found="" if found is None else str(found),
            affected=(named(*name),),
            affected_total=1,
            remedy=self._run.repair_command(),
        )
        if self._run.options.repair:
            with self._run.parts.database.write() as tx:
                versions.repoint(tx, *name)
            finding = finding.mended("rebuilt the row from the versions")
        self._run.report(finding)


def _is_name(bucket: object, key: object) -> bool:
    """Whether these are of the types of a bucket and a key; `value_checks` reports what is not."""
    return isinstance(bucket, str) and isinstance(key, bytes)
