"""Several changes that are committed all together or not at all.

Bodies are taken when they are given: their payloads get a file or row, and a row that vouches for them, in commits of
their own, while a pin keeps gc from removing what no version reaches yet. The changes themselves wait in memory until
`commit` makes them in one transaction, in the order in which they were given; each is judged on what those before it
have done. So no reader ever sees some of them, a crash leaves none, and a batch may be larger than memory or the
number of open files. What a batch that came to nothing has taken in is garbage, and gc's to remove.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import InvalidArgument, StoreBusy, StoreError
from gestalt_cas.files.staging import Held, Staged
from gestalt_cas.objects import (
    NO_CONDITIONS,
    NO_HEADERS,
    NO_METADATA,
    Conditions,
    Headers,
    ObjectKey,
    ObjectVersion,
    check_attributes,
    check_names,
    require_pieces,
)
from gestalt_cas.operations.changes import Changes
from gestalt_cas.operations.heartbeats import HeldPin
from gestalt_cas.operations.intake import Intake, Vouch
from gestalt_cas.operations.parts import Parts
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.settings import Settings
from gestalt_cas.rules import conditions as rules
from gestalt_cas.sql.sqlite import Connection

MOST_CHANGES = 50_000
"""So that a commit holds the writer lock for seconds, not minutes: others wait for it 30 s."""

Work = Callable[[Connection], ObjectVersion | None]


class Change:
    """One change of a batch: `what` it is in words, and the `version` that it added or removed.

    `version` is None before the commit, and when there was nothing to remove.
    """

    def __init__(self, what: str, work: Work) -> None:
        self.what = what
        self.work = work
        self.version: ObjectVersion | None = None


class Batch:
    """Changes to one store, at most MOST_CHANGES, made by `Store.transaction`. For one thread.

    As a context manager it commits when the block ends, and gives everything up when the block raises. `len` tells how
    many changes wait.
    """

    def __init__(self, parts: Parts, changes: Changes, intake: Intake) -> None:
        self._parts = parts
        self._changes = changes
        self._intake = intake
        self._waiting: list[Change] = []
        self._pin: HeldPin | None = None
        self._stack = ExitStack()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None and not self._ended:
                self.commit()
        finally:
            self.close()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def changes(self) -> list[Change]:
        """The changes in their order."""
        return list(self._waiting)

    def put(
        self,
        key: ObjectKey,
        chunks: Iterable[bytes | bytearray | memoryview],
        *,
        headers: Headers = NO_HEADERS,
        metadata: Mapping[str, str] = NO_METADATA,
        conditions: Conditions = NO_CONDITIONS,
    ) -> Change:
        """Add a new version of `key`; the body is taken now. Raises what `Store.write` raises but for conditions."""
        require_pieces(chunks)
        check_names(key)
        check_attributes(headers, metadata)
        rules.validate_write(conditions)
        self._check_room()
        self._hold()
        digest, size = self._intake.take(chunks, self._keep)
        kept = dict(metadata)

        def work(tx: Connection) -> ObjectVersion:
            def vouch(_: Settings) -> None:
                if not self._parts.payloads.sound(tx, digest, size):
                    raise StoreBusy(f"the payload {digest.hex()} of {key} has gone meanwhile; try again")

            return self._changes.put(
                tx, key, digest, size, headers=headers, metadata=kept, conditions=conditions, vouch=vouch
            )

        return self._add(f"put {key}", work)

    def copy(
        self,
        source: ObjectKey,
        destination: ObjectKey,
        *,
        source_version_id: str = "",
        conditions: Conditions = NO_CONDITIONS,
    ) -> Change:
        """Copy what is the source when the batch is committed; see `Store.copy`."""
        check_names(source, "source ")
        check_names(destination, "destination ")
        rules.validate_write(conditions)
        self._check_room()
        return self._add(
            f"copy {source} to {destination}",
            lambda tx: self._changes.copy(tx, source, source_version_id, destination, conditions),
        )

    def delete(self, key: ObjectKey, *, version_id: str = "") -> Change:
        """Append a delete marker, or remove one version for good; see `Store.delete`."""
        check_names(key)
        self._check_room()
        return self._add(f"delete {key}", lambda tx: self._changes.delete(tx, key, version_id))

    def commit(self) -> list[Change]:
        """Make all changes, durably, in one transaction; returns them with their versions.

        When one of them fails nothing has changed: its error is raised, the message beginning with the number of the
        change, from 1. Either way the batch has ended: a second call, or one after `close`, raises InvalidArgument.
        """
        self._check_open()
        try:
            self._commit()
        finally:
            self.close()
        return self.changes

    def close(self) -> None:
        """Give up what was not committed; a second call does nothing."""
        self._ended = True
        self._stack.close()

    def _commit(self) -> None:
        if self._pin is not None:
            self._pin.confirm()
        made: list[ObjectVersion | None] = []
        with self._parts.database.write() as tx:
            self._changes = self._changes.dated(now_ms())
            for number, change in enumerate(self._waiting, 1):
                try:
                    made.append(change.work(tx))
                except StoreError as error:
                    raise _named(error, f"change {number} ({change.what})") from error
        for change, version in zip(self._waiting, made, strict=True):
            change.version = version

    def _add(self, what: str, work: Work) -> Change:
        change = Change(what, work)
        self._waiting.append(change)
        return change

    def _keep(self, tx: Connection, staged: Staged | Held, vouch: Vouch) -> tuple[bytes, int]:
        vouch(self._parts.database.settled(tx, store_settings.for_writing))
        return staged.digest, staged.size

    def _hold(self) -> None:
        """Keep gc away from here on."""
        if self._pin is None:
            name = f"batch-{secrets.token_hex(6)}"
            self._pin = self._stack.enter_context(HeldPin(self._parts, name, "batch", {}))

    def _check_room(self) -> None:
        self._check_open()
        if len(self._waiting) >= MOST_CHANGES:
            raise InvalidArgument(f"a batch has {MOST_CHANGES} changes at most; commit this one and begin another")

    def _check_open(self) -> None:
        if self._ended:
            raise InvalidArgument("the batch has been committed or given up")


def _named(error: StoreError, where: str) -> StoreError:
    """The same error, its message saying which change it is about."""
    error.args = (f"{where}: {error}", *error.args[1:])
    return error
