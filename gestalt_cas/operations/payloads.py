"""Payloads: where the rows that vouch for bytes and the files that hold them meet.

Whether an existing file may be trusted is decided here, before the writer lock and once more under it; so is what is
recorded when a file turns out to be missing or damaged. Order and reasons: docs/design.md, "Writing" and "Reading".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Self

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import Damage, DatabaseDamaged, InvalidArgument, StoreError
from gestalt_cas.files.blobs import BlobFile, Blobs
from gestalt_cas.files.staging import Held, Staged
from gestalt_cas.objects import ObjectVersion
from gestalt_cas.rows import blob_rows, inlined
from gestalt_cas.rows.inlined import InlinedBlob
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.transactions.database import WRITE_TIMEOUT, Database

log = logging.getLogger(__name__)


class ObjectReader:
    """An object opened for reading: a context manager, and an iterator over the requested bytes.

    `offset` and `length` (bytes) are the part of the object that is served; `version.size` is the whole. Each piece is
    at most 1 MiB and has been checked; damage raises instead of yielding, and is recorded.
    """

    def __init__(
        self,
        version: ObjectVersion,
        offset: int,
        length: int,
        blob: BlobFile | InlinedBlob,
        on_damage: Callable[[Damage, Callable[[], bool]], None],
    ) -> None:
        self.version = version
        self.offset = offset
        self.length = length
        self._blob = blob
        self._on_damage = on_damage
        self._closed = False

    def __iter__(self) -> Iterator[memoryview]:
        return self.pieces()

    def pieces(self, buffer: memoryview | None = None, *, skip: int = 0) -> Generator[memoryview, None, None]:
        """The requested bytes but the first `skip`, a checked piece at a time.

        With a `buffer`, as long as a chunk or as the object at least, each piece is a part of it, valid until the next
        is asked for; else each has memory of its own. Raises Damage, and InvalidArgument of a reader that was closed.
        """
        if self._closed:
            raise InvalidArgument("the reader has been closed")
        try:
            yield from self._blob.read(self.offset + skip, self.length - skip, buffer)
        except Damage as error:
            self._on_damage(error, self._blob.still_named)
            raise

    def read(self) -> bytes:
        """All requested bytes at once."""
        return b"".join(self)

    def close(self) -> None:
        """Let go of the payload; nothing more is read. A second call does nothing."""
        self._closed = True
        self._blob.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NeedsFile(Exception):
    """The payload is held in memory and must be a file: the threshold was lowered, or a file is where it belongs."""


class Vanished(Exception):
    """The file of a sound row went between `publish` and the writer lock; `publish` once more marks the row first."""


class Payloads:
    """The payloads of one store. Thread-safe."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def publish(self, staged: Staged | Held) -> bool:
        """Publish the staged file unless the store already has the payload; returns whether it was published.

        What is held in memory gets its row in the transaction of its version, see `vouch`.
        """
        if isinstance(staged, Held):
            return False
        row = self._database.ask(blob_rows.placed, staged.digest)
        if row is not None and (row.place or self._trusts_file(row, staged)):
            return False  # a place in the database is looked at by `vouch`
        if row is not None and not row.damaged:
            # Its file has gone or has another size. The mark keeps other writers from trusting the name that we are
            # about to give before its directory is synced; our commit lifts it.
            self.mark_damaged(staged.digest, lambda: not self._blobs.has(staged.digest, staged.size))
        self._blobs.publish(staged)
        return True

    def vouch(self, tx: Connection, staged: Staged | Held, published: bool, inline_max: int) -> None:
        """Make sure, under the writer lock, that the payload's row and bytes are both good; put them there if not.

        Between our publishing and our lock gc may have removed the file, or a writer of the same bytes replaced it by
        one whose directory entry is not synced yet. A payload keeps the place that its row names; one without a row is
        inlined if it is held and has up to `inline_max` bytes (0: none is). Raises NeedsFile when what is held has to
        become a file, Vanished when a sound row has lost its file.
        """
        row = blob_rows.placed(tx, staged.digest)
        if self._vouches(tx, row, staged.digest, staged.size):
            return
        place = row.place if row is not None else schema.PLACE_FILE
        if place:
            inlined.replace(tx, place, staged.read())
        elif isinstance(staged, Held):
            if row is not None or not inline_max or staged.size > inline_max:
                raise NeedsFile
            place = inlined.put(tx, staged.data)
        elif not (published and self._blobs.is_ours(staged)):
            if row is not None and not row.damaged:
                # If we ended between the link and its sync, others would trust the name: the mark has to come first.
                raise Vanished
            self._blobs.publish(staged)
        blob_rows.keep(tx, staged.digest, staged.size, staged.sums, place)

    def sound(self, tx: Connection, digest: bytes, size: int) -> bool:
        """Whether a row vouches for the payload and it is at its place: its bytes need not be given again."""
        return self._vouches(tx, blob_rows.placed(tx, digest), digest, size)

    def present(self, tx: Connection, digest: bytes, size: int) -> bool:
        """Whether the payload is at its place with this size; its bytes are not judged."""
        row = blob_rows.placed(tx, digest)
        return row is not None and self._at_its_place(tx, row, digest, size)

    def _vouches(self, tx: Connection, row: blob_rows.BlobPlace | None, digest: bytes, size: int) -> bool:
        """Whether a committed row vouches for the payload: present, of the right size, not known to be damaged.

        A file without a row is not enough: its writer may have crashed before the directory reached the disk.
        """
        return row is not None and not row.damaged and self._at_its_place(tx, row, digest, size)

    def _trusts_file(self, row: blob_rows.BlobPlace, staged: Staged) -> bool:
        """`_vouches` of a payload whose place is a file."""
        return not row.damaged and self._blobs.has(staged.digest, staged.size)

    def _at_its_place(self, tx: Connection, row: blob_rows.BlobPlace, digest: bytes, size: int) -> bool:
        return inlined.holds(tx, row.place, size) if row.place else self._blobs.has(digest, size)

    def open(self, tx: Connection, version: ObjectVersion) -> BlobFile | InlinedBlob:
        """Open the payload of a version; raises Damage when it is missing or has another size."""
        digest = bytes.fromhex(version.digest)
        row = blob_rows.row(tx, digest)
        if row is None:
            raise DatabaseDamaged(f"version {version.version_id} of {version.key} has no row for its payload")
        if row.place:
            return inlined.opened(
                tx, row.place, version.digest, version.size, row.sums, lambda: self._inlined_now(digest)
            )
        return self._blobs.open(digest, version.size, row.sums)

    def _inlined_now(self, digest: bytes) -> bytes | None:
        with self._database.read() as tx:
            row = blob_rows.placed(tx, digest)
            return inlined.get(tx, row.place) if row is not None and row.place else None

    def record_damage(self, damage: Damage, still: Callable[[], bool]) -> None:
        """Mark the payload as damaged if what was judged `still` stands under its name.

        A failure to record is logged only: the read that found the damage reports the damage.
        """
        log.error("damage: %s", damage)
        try:
            self.mark_damaged(bytes.fromhex(damage.digest), still, timeout=5.0)
        except StoreError as error:
            log.error("the damage could not be recorded: %s", error)

    def record_unfit(self, damage: Damage) -> None:
        """Record that the payload is not at its place with the size that its row says, if that still holds."""
        digest = bytes.fromhex(damage.digest)

        def still() -> bool:
            with self._database.read() as tx:
                row = blob_rows.placed(tx, digest)
                return row is not None and not self._at_its_place(tx, row, digest, row.size)

        self.record_damage(damage, still)

    def record_unsound(self, damage: Damage) -> None:
        """Record that the row of an inlined payload does not hold its bytes, if that still holds."""
        digest = bytes.fromhex(damage.digest)

        def still() -> bool:
            with self._database.read() as tx:
                row = blob_rows.placed(tx, digest)
                return row is not None and bool(row.place) and inlined.digest(tx, row.place) != digest

        self.record_damage(damage, still)

    def mark_damaged(self, digest: bytes, still: Callable[[], bool], timeout: float = WRITE_TIMEOUT) -> None:
        """Keep later writes of the same bytes from trusting the file, so that they heal it.

        `still` is asked under the writer lock.
        """
        with self._database.write(timeout) as tx:
            if still():
                blob_rows.mark_damaged(tx, digest, now_ms())
