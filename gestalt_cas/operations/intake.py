"""Taking a body in: staged or held, published, and vouched for in the transaction that uses it.

What is to be done with the payload is a function of the transaction, since only under the writer lock is it known that
row and bytes are both good. Order and reasons: docs/design.md, "Writing".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gestalt_cas.errors import FileSizeLimit, ObjectTooLarge, StoreBusy
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.files.staging import Held, Pieces, Staged
from gestalt_cas.operations.payloads import NeedsFile, Payloads, Vanished
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.settings import Settings
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.system.refusals import longer_files
from gestalt_cas.transactions.database import Database

_PUBLISH_TRIES = 3

Result = TypeVar("Result")
Vouch = Callable[[Settings], None]
Use = Callable[[Connection, Staged | Held, Vouch], Result]
"""What to do with a payload: the transaction, the payload, and what makes sure of it there."""


class Intake:
    """Takes bodies into one store. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs, payloads: Payloads) -> None:
        self._database = database
        self._blobs = blobs
        self._payloads = payloads

    def take(self, pieces: Pieces, use: Use[Result], confirm: Callable[[], None] | None = None) -> Result:
        """Take the body and use it in a transaction that others may share; durable when this returns.

        `confirm` is called when the body is complete, and again just before COMMIT; it may raise to give up. Raises
        what `pieces` and `use` raise, StoreFull, ObjectTooLarge, StorageFault, StoreBusy or OutcomeUnknown.
        """
        self._database.require_ours()
        staged = self._taken(pieces)
        try:
            if confirm is not None:
                confirm()
            for _ in range(_PUBLISH_TRIES):
                try:
                    return self._commit(staged, use, confirm)
                except Vanished:
                    continue
                except NeedsFile:
                    data = staged.read()
                    staged.discard()  # else its bytes would count twice
                    staged = self._blobs.stage([data])
            raise StoreBusy(f"payload {staged.digest.hex()} keeps going away while it is written; try again")
        finally:
            staged.discard()

    def _taken(self, pieces: Pieces) -> Held | Staged:
        """Hold or stage the body. One that is longer than a file may be is too large, whatever else there is room for.

        So its sender is told not to try again, and of many files only those are left out.
        """
        most = self._present_settings().inline_max_bytes
        try:
            return self._blobs.hold(pieces, most) if most else self._blobs.stage(pieces)
        except FileSizeLimit:
            raise ObjectTooLarge(f"the object is larger than a file may be here; {longer_files()}") from None

    def _present_settings(self) -> Settings:
        present = self._database.recent(store_settings.for_writing)
        if present is None:
            with self._database.read() as tx:
                present = store_settings.for_writing(tx)
        return present

    def _commit(self, staged: Staged | Held, use: Use[Result], confirm: Callable[[], None] | None) -> Result:
        published = self._payloads.publish(staged)

        def work(tx: Connection) -> Result:
            def vouch(present: Settings) -> None:
                self._payloads.vouch(tx, staged, published, present.inline_max_bytes)

            result = use(tx, staged, vouch)
            if confirm is not None:
                confirm()
            return result

        return self._database.commit(work, weight=staged.size if isinstance(staged, Held) else 0)
