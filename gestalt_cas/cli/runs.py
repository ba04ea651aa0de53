"""What the verbs over whole trees share: carrying out an action on one name, and reporting it.

What concerns one name (a file that cannot be read, a key that has no path, damage) is named, and the rest goes on; the
exit code is the greatest that any name had. What concerns everything (a full disk, a busy store) ends the run. Reported
are a line or a JSON object per action, in the order of the plan, and a summary at the end.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gestalt_cas.cli import exits
from gestalt_cas.cli.listings import pages
from gestalt_cas.cli.output import Output, shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.errors import Cancelled, Damage, InvalidArgument, NoSuchKey, ObjectTooLarge, PreconditionFailed
from gestalt_cas.objects import ListQuery, ObjectVersion
from gestalt_cas.system.durability import is_full
from gestalt_cas.system.refusals import is_file_limit, is_want_of_files, longer_files
from gestalt_cas.transfers.directories import Directory, Obstacle
from gestalt_cas.transfers.paths import Parts, RemoteTree, order
from gestalt_cas.transfers.transfer_plans import Remote
from gestalt_cas.transfers.walking import LocalFile, digest_of

if TYPE_CHECKING:
    from gestalt_cas.rows.moments import AsOf
    from gestalt_cas.store import Store

_T = TypeVar("_T")
_ONE_NAME = (NoSuchKey, PreconditionFailed, Damage, InvalidArgument, ObjectTooLarge)
"""Failures that say something about one object only."""

WRITERS = 4
"""Writes at a time: each waits for the disk to sync, and several syncs cost little more than one."""


@dataclass
class Tally:
    """What a run did: counts of names, and bytes moved."""

    uploaded: int = 0
    downloaded: int = 0
    deleted: int = 0
    unchanged: int = 0
    skipped: int = 0
    bytes: int = 0


class Run:
    """One run over a tree: a context manager that carries actions out, a few at a time with `writers` above 1.

    Leaving the block by an exception (ctrl-C included) stops what is under way and waits for it, so that nothing of
    this run goes on behind the user's back.
    """

    def __init__(self, output: Output, progress: Progress, *, dry_run: bool = False, writers: int = 1) -> None:
        self.output = output
        self.dry_run = dry_run
        self.tally = Tally()
        self.code = exits.OK
        self._progress = progress
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(writers) if writers > 1 and not dry_run else None
        self._ahead = 2 * writers
        self._pending: deque[tuple[str, Callable[[], Any], Callable[[Any], None]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def carry_out(self, name: str, act: Callable[[], _T], report: Callable[[_T | None], None]) -> None:
        """Do `act` and then `report` its result, both in the order of the calls if seen from outside.

        A failure that concerns only `name` is reported as a skip instead. In a dry run `report` is called with None at
        once.
        """
        if self.dry_run:
            report(None)
            return
        self._progress.describe(name)
        if self._pool is None:
            self._settle(name, act, report)
            return
        self._pending.append((name, self._pool.submit(act).result, report))
        if len(self._pending) >= self._ahead:
            self._settle(*self._pending.popleft())

    def wait(self) -> None:
        """Wait until every action so far is done and reported."""
        while self._pending:
            self._settle(*self._pending.popleft())

    def _settle(self, name: str, result: Callable[[], _T], report: Callable[[_T | None], None]) -> None:
        try:
            found = result()
        except _ONE_NAME as error:
            self.skip(name, str(error), exits.code_of(error))
        except OSError as error:
            if is_full(error) or is_want_of_files(error):
                raise
            self.skip(name, reason(error))
        else:
            report(found)

    def advance(self, count: int) -> None:
        """Count bytes that were moved or compared; raises Cancelled when the run is being stopped."""
        if self._stopping.is_set():
            raise Cancelled("stopped")
        self._progress.advance(count)

    def note(self, what: str) -> None:
        """Say on the progress bar what is worked on."""
        self._progress.describe(what)

    def act(self, action: str, **record: object) -> None:
        """Report an action that was carried out, or would be."""
        places = " -> ".join(shown(str(record.pop(place))) for place in ("source", "target") if place in record)
        why = f" ({record['reason']})" if "reason" in record else ""
        would = "would " if self.dry_run else ""
        self.output.result({"action": action, **record, "dry_run": self.dry_run}, f"{would}{action} {places}{why}")

    def skip(self, name: str, why: str, code: int = exits.NOT_FOUND) -> None:
        """Name what is left out: on stderr, and with --json among the actions as well."""
        self.tally.skipped += 1
        self._name(name, f"skipped {name}: {why}", why, "skip", code)

    def warn(self, name: str, why: str) -> None:
        """Name what was done with a doubt, in the same way."""
        self._name(name, f"{name} {why}", why, "warn", exits.NOT_FOUND)

    def _name(self, name: str, text: str, why: str, action: str, code: int) -> None:
        self.code = max(self.code, code)
        self.output.warn(text)
        if self.output.json:
            self.output.result({"action": action, "name": name, "reason": why, "dry_run": self.dry_run}, "")

    def finish(self) -> int:
        """Wait for the last actions, print the summary and return the exit code."""
        self.wait()
        counts = asdict(self.tally)
        text = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing to do"
        note = " (dry run)" if self.dry_run else ""
        self.output.result({"summary": {**counts, "dry_run": self.dry_run}}, f"{text}{note}")
        return self.code


def reason(error: OSError) -> str:
    """Why a path could not be used, on one line."""
    text = error.strerror or str(error)
    if is_file_limit(error):
        return f"{text}; {longer_files()}"
    return f"{text}: {error.name}" if isinstance(error, Obstacle) else text


def objects_below(store: Store, tree: RemoteTree, as_of: AsOf = "") -> Iterator[Remote]:
    """Every object below the prefix, now or at a moment, by its name there, in name order."""
    for page in pages(store, ListQuery(bucket=tree.bucket, prefix=tree.prefix), as_of):
        for version in page.objects:
            yield tree.name(version.key), version


def same_bytes(run: Run, tree: Directory, file: LocalFile, version: ObjectVersion) -> bool:
    """Whether a local file has the bytes of a version; raises OSError when it cannot be read."""
    run.note(f"comparing {file.name}")
    with tree.reading(parts_of(file.name)) as opened:
        return digest_of(opened, run.advance) == version.digest


def parts_of(name: str) -> Parts:
    """The parts of a name that came from the file system or that `local_parts` has accepted."""
    return tuple(order(name).split(b"/"))
