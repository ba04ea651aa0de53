"""The doctor's look at the rows, without opening the store: whose database it is, its revision, its clock, its pins."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from gestalt_cas import sizes
from gestalt_cas.backups import manifests
from gestalt_cas.checks import inspection
from gestalt_cas.clock import DAY_MS, instant, now_ms
from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import identity
from gestalt_cas.keeping import pins, retention
from gestalt_cas.keeping.pins import Pin
from gestalt_cas.remedies import command
from gestalt_cas.removal import clock_guard, retention_runs
from gestalt_cas.rows import settings
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.wrong_values import value_rules

NOTES = (
    *("http.port", inspection.NOTE, manifests.NOTE, clock_guard.NOTE, retention_runs.NOTE, retention.SETTING),
    manifests.BACKUP_NOTE,
)
_WAIT_SECONDS = 2.0
_AHEAD_MS = 5_000
_PLAUSIBLE_MS = 1_735_689_600_000
"""The first day of 2025: a clock that is before it was never set."""
_HOUR_MS = 3_600_000
_CHECK_DAYS = 90
_LONG_WAL_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows say; times in Unix milliseconds."""

    last_commit_ms: int = 0
    pins: tuple[Pin, ...] = ()
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def is_backup(self) -> bool:
        return self.notes.get(manifests.BACKUP_NOTE) is not None


def examine(layout: Layout) -> tuple[Facts, list[Finding]]:
    """The rows' facts, as far as they can be read, and what is to be said of them."""
    if not layout.database.exists():
        return Facts(), [_absent(layout)]
    try:
        trouble, facts = _look(layout)
    except DriverError as error:
        return Facts(), [_unreadable(layout, error)]
    if trouble:
        return facts, [trouble]
    sound = Finding(Severity.OK, "database", f"format {schema.FORMAT}, revision {schema.REVISION}")
    times = [*_clock(facts), *_retention(layout, facts)]
    return facts, [sound, *_wal(layout), *times, *_pins(layout, facts), *_upkeep(layout, facts)]


def _look(layout: Layout) -> tuple[Finding | None, Facts]:
    """What keeps the rows from being read, if anything does, or their facts."""
    at_rest = not layout.wal.exists()
    try:
        with _opened(layout, at_rest=at_rest) as connection:
            trouble = _identity(layout, connection) or _strange(layout, connection)
            return trouble, Facts() if trouble else _facts(connection)
    except DriverError:
        if not at_rest or not layout.wal.exists():
            raise
    return _look(layout)  # somebody began to write meanwhile


@contextmanager
def _opened(layout: Layout, *, at_rest: bool) -> Iterator[Connection]:
    """The database, read-only, in one view.

    A database in use has a WAL. One that has none is at rest, and is opened as immutable, since SQLite would leave an
    empty WAL beside it.
    """
    connection = sqlite.connect(layout.database, mode="ro", immutable=at_rest, wait=_WAIT_SECONDS)
    with closing(connection):
        connection.execute("BEGIN")
        yield connection


def _identity(layout: Layout, connection: Connection) -> Finding | None:
    """What keeps the database from being one that this release works with; None when nothing does."""
    found = identity.read(connection)
    if found.unfinished:
        text = "the creation of the store was not finished"
        return Finding(Severity.WARNING, "database", text, command("init", layout.root))
    if not found.ours or found.revisions is None:
        text = f"{layout.database.name} is another program's database"
        return Finding(Severity.ERROR, "database", text, "name another directory with --data-dir")
    which = f"format {found.form}, revision {found.revision}"
    if found.newer:
        text = f"{which}: written by a newer release; this one knows {schema.FORMAT}"
        return Finding(Severity.ERROR, "database", text, "install a newer gestalt-cas")
    if found.form < schema.FORMAT:
        text = f"{which}, is older than this release; the next server upgrades it"
        return Finding(Severity.WARNING, "database", text, command("serve", layout.root))
    return None


def _strange(layout: Layout, connection: Connection) -> Finding | None:
    """A row of those that are looked at here that no write stores, if there is one; of others `check` knows."""
    for table in ("counter", "settings", "pins"):
        for wrong in value_rules.look(connection, table).wrong:
            text = f"the database is damaged: it holds what no write stores: {wrong}"
            remedy = f"{command('check', layout.root)}; then gestalt-cas restore, from a backup"
            return Finding(Severity.DAMAGE, "database", text, remedy)
    return None


def _facts(connection: Connection) -> Facts:
    ((commit_ms,),) = connection.execute("SELECT commit_ms FROM counter").fetchall()
    notes = {name: settings.recall(connection, name) for name in NOTES}
    return Facts(commit_ms, tuple(pins.standing(connection)), notes)


def _absent(layout: Layout) -> Finding:
    if layout.has_payloads():
        text = f"there are payloads, but {layout.database.name} is gone"
        remedy = f"put what is left aside; then: gestalt-cas restore BACKUP {shlex.quote(str(layout.root))}"
        return Finding(Severity.DAMAGE, "database", text, remedy)
    text = "the creation of the store was not finished"
    return Finding(Severity.WARNING, "database", text, command("init", layout.root))


def _unreadable(layout: Layout, error: Exception) -> Finding:
    if sqlite.is_damage(error):
        remedy = f"{command('check', layout.root)}; then gestalt-cas restore, from a backup"
        return Finding(Severity.DAMAGE, "database", f"the database is damaged: {sqlite.told(error)}", remedy)
    return Finding(Severity.ERROR, "database", f"the database cannot be read: {error}")


def _wal(layout: Layout) -> list[Finding]:
    size = layout.wal.stat().st_size if layout.wal.exists() else 0
    if size <= _LONG_WAL_BYTES:
        return []
    text = (
        f"the WAL has {sizes.told(size)}: some program keeps a transaction open, or no server does the background work"
    )
    return [Finding(Severity.WARNING, "database", text, f"end it; then: {command('ls', layout.root)}")]


def _clock(facts: Facts) -> list[Finding]:
    now = now_ms()
    ahead = facts.last_commit_ms - now
    if now < _PLAUSIBLE_MS:
        text = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now / 1000))}; it was never set"
        return [Finding(Severity.ERROR, "clock", text, "timedatectl set-ntp true")]
    if ahead > _AHEAD_MS:
        text = f"the last commit lies {_span(ahead)} ahead of the clock; new versions get its time until then"
        remedy = "if the clock is wrong: timedatectl set-ntp true; if it was: docs/retention.md, Dates from the future"
        return [Finding(Severity.WARNING, "clock", text, remedy)]
    return [Finding(Severity.OK, "clock", "not behind the last commit")]


def _span(ms: int) -> str:
    """In days where it is more than two."""
    return f"{ms / DAY_MS:.1f} days" if ms > 2 * DAY_MS else f"{ms // 1000} s"


def _retention(layout: Layout, facts: Facts) -> list[Finding]:
    """Whether what goes by its age can go, and when that was last done."""
    fault = clock_guard.judge(now_ms(), facts.last_commit_ms, facts.notes.get(clock_guard.NOTE))
    if fault:
        text = f"{fault}: nothing is removed by its age"
        remedy = f"if the clock is right: {command('doctor --accept-clock', layout.root)}"
        return [Finding(Severity.WARNING, "retention", text, remedy)]
    note = facts.notes.get(retention_runs.NOTE)
    at_ms = note.get("at_ms") if isinstance(note, dict) else None
    if isinstance(note, dict) and isinstance(at_ms, int):
        hours = (now_ms() - at_ms) // _HOUR_MS
        when = f"{hours} hours ago" if hours >= 0 else f"at {instant(at_ms)}, by a clock that was ahead"
        text = f"last applied {when}; removed {note.get('versions')} versions, {note.get('markers')} markers"
        return [Finding(Severity.OK, "retention", text)]
    if facts.notes.get(retention.SETTING) and not facts.is_backup:
        return [Finding(Severity.NOTE, "retention", "there are rules, never applied", command("serve", layout.root))]
    return []


def _pins(layout: Layout, facts: Facts) -> list[Finding]:
    now = now_ms()
    dead = [pin.name for pin in facts.pins if not pin.live(now)]
    live = [pin.name for pin in facts.pins if pin.live(now)]
    findings = []
    if dead:
        text = f"pins whose owners have died: {', '.join(dead)}"
        findings.append(Finding(Severity.NOTE, "pins", text, command("gc", layout.root)))
    if live:
        findings.append(Finding(Severity.NOTE, "pins", f"gc removes no payload because of: {', '.join(live)}"))
    return findings


def _upkeep(layout: Layout, facts: Facts) -> list[Finding]:
    """How long ago the store was last checked and backed up; a backup is the latter itself."""
    findings = []
    looked_at = [(inspection.NOTE, "check", "checked"), (manifests.NOTE, "backup DEST", "backed up")]
    if facts.is_backup:
        text = "this is a backup: what is written to it makes it another store, and later backups into it are refused"
        findings.append(Finding(Severity.NOTE, "upkeep", text))
        del looked_at[1]
    for note, verb, done in looked_at:
        found = facts.notes.get(note)
        at_ms = found.get("at_ms") if isinstance(found, dict) else None
        days = (now_ms() - at_ms) // DAY_MS if isinstance(at_ms, int) else None
        if days is None or days > _CHECK_DAYS:
            when = f"{done} {days} days ago" if days is not None else f"never {done}"
            findings.append(Finding(Severity.NOTE, "upkeep", when, command(verb, layout.root)))
    return findings
