"""The three changes that callers make, put, copy and delete, each in a transaction of its caller.

A change judges its conditions on the rows as the transaction shows them, the changes before it included, and adds or
removes a version. Semantics: docs/contract.md (sections 3 and 6) and the S3 API reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gestalt_cas.clock import now_ms
from gestalt_cas.errors import BlobMissing, NoSuchKey, NoSuchVersion, PreconditionFailed, VersionRemoved
from gestalt_cas.keeping import holds, quotas
from gestalt_cas.objects import NO_HEADERS, NO_METADATA, Conditions, Headers, ObjectKey, ObjectVersion
from gestalt_cas.operations.payloads import Payloads
from gestalt_cas.rows import history, moments, versions
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.moments import AsOf
from gestalt_cas.rows.settings import Settings
from gestalt_cas.rules import conditions as rules
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.transactions.database import Database


class Changes:
    """Changes to one store. Every `tx` is a write transaction of its database."""

    def __init__(self, database: Database, payloads: Payloads, dated_ms: int | None = None) -> None:
        self._database = database
        self._payloads = payloads
        self._dated_ms = dated_ms

    def dated(self, now_ms: int) -> Changes:
        """The same, all of one time: of changes that are made together no time names a moment between them."""
        return Changes(self._database, self._payloads, now_ms)

    def put(
        self,
        tx: Connection,
        key: ObjectKey,
        digest: bytes,
        size: int,
        *,
        headers: Headers,
        metadata: Mapping[str, str],
        conditions: Conditions,
        vouch: Callable[[Settings], None],
    ) -> ObjectVersion:
        """Add a version of `key` with this payload; `vouch` makes sure of its row and bytes, or raises.

        Raises PreconditionFailed and Held before it changes anything, and QuotaExceeded, with which the transaction
        must end.
        """
        target = self._target(tx, key)
        if conditions:
            rules.check_write(conditions, key.key, versions.current(tx, target))
        present = self._database.settled(tx, store_settings.for_writing)
        vouch(present)
        return self._append(tx, target, digest, size, headers, metadata)

    def copy(
        self, tx: Connection, source: ObjectKey, source_version_id: str, to: ObjectKey, conditions: Conditions
    ) -> ObjectVersion:
        """Make the source's payload, headers and metadata the newest version of `to`.

        The tags of `conditions` judge the source, `conditions.current_version` the destination. Raises NoSuchKey,
        NoSuchVersion, PreconditionFailed, BlobMissing, Held, or QuotaExceeded, with which the transaction must end.
        """
        found = lookup(tx, source, source_version_id)
        rules.check_copy(conditions, found)
        target = self._target(tx, to)
        if conditions.current_version:
            rules.check_current_version(conditions, to.key, versions.current(tx, target))
        digest = bytes.fromhex(found.digest)
        if not self._payloads.present(tx, digest, found.size):
            text = f"payload {found.digest} of {found.key} is missing or cut short"
            raise BlobMissing(text, digest=found.digest)
        return self._append(tx, target, digest, found.size, found.headers, found.metadata)

    def delete(self, tx: Connection, key: ObjectKey, version_id: str) -> ObjectVersion | None:
        """Append a delete marker, or remove the version for good; returns what was added or removed, None for nothing.

        Deleting what is not there is no error. Raises Held before it changes anything.
        """
        target = self._target(tx, key)
        if not version_id:
            return self._append(tx, target, None, 0, NO_HEADERS, NO_METADATA)
        found = versions.by_id(tx, target, version_id)
        if found is not None:
            versions.remove(tx, found, self._now_ms(), guarded=self._guarded(tx))
        return found

    def undelete(self, tx: Connection, key: ObjectKey) -> ObjectVersion:
        """Remove the delete markers on top of the key's newest version; returns that, which is current then."""
        target = self._target(tx, key)
        markers: list[ObjectVersion] = []
        found = versions.everything(tx, target, limit=1)
        while found and found[0].delete_marker:
            markers += found
            found = versions.everything(tx, target, below=found[0].seq, limit=1)
        if not found:
            raise NoSuchKey(f"{target}: there is no version to bring back", delete_marker=bool(markers))
        if not markers:
            raise PreconditionFailed(f"{target} is not deleted")
        at_ms = self._now_ms()
        for marker in reversed(markers):  # the oldest first, so that what is then the newest is found at once
            versions.remove(tx, marker, at_ms)
        return found[0]._replace(current=True)

    def _append(
        self,
        tx: Connection,
        target: ObjectKey,
        digest: bytes | None,
        size: int,
        headers: Headers,
        metadata: Mapping[str, str],
    ) -> ObjectVersion:
        return versions.append(
            tx,
            target,
            digest,
            size,
            headers=headers,
            metadata=metadata,
            suspended=self._database.settled(tx, store_settings.for_writing).suspended,
            counted=self._database.settled(tx, quotas.any_stand),
            guarded=self._guarded(tx),
            now_ms=self._now_ms(),
        )

    def _guarded(self, tx: Connection) -> bool:
        """Whether something may be held."""
        return self._database.settled(tx, holds.any_stand)

    def _now_ms(self) -> int:
        return now_ms() if self._dated_ms is None else self._dated_ms

    def _target(self, tx: Connection, key: ObjectKey) -> ObjectKey:
        """`resolve`, asked once for many transactions."""
        return key if key.bucket else ObjectKey(self._database.settled(tx, store_settings.default_bucket), key.key)


def resolve(tx: Connection, key: ObjectKey) -> ObjectKey:
    """The key with its bucket's real name."""
    return key if key.bucket else ObjectKey(store_settings.default_bucket(tx), key.key)


def lookup(tx: Connection, key: ObjectKey, version_id: str) -> ObjectVersion:
    """The current object of a key, or one of its versions; raises NoSuchKey or NoSuchVersion."""
    if not version_id and (found := versions.current_of(tx, key)) is not None:
        return found
    target = resolve(tx, key)
    if version_id:
        found = versions.by_id(tx, target, version_id)
        if found is None or found.delete_marker:
            what = "no such version" if found is None else "that version is a delete marker"
            raise NoSuchVersion(f"{target}, version {version_id}: {what}", delete_marker=found is not None)
        return found
    # With a bucket's name that was answered above; without, it was not in a store that has no row for its default one.
    found = None if key.bucket else versions.current(tx, target)
    if found is None:
        marker = versions.newest(tx, target) is not None
        raise NoSuchKey(f"{target}: no such object" + (", it was deleted" if marker else ""), delete_marker=marker)
    return found


def lookup_then(tx: Connection, key: ObjectKey, as_of: AsOf) -> ObjectVersion:
    """The object that a key had at a moment; raises NoSuchKey, VersionRemoved, and what `moments.resolve` raises."""
    target = resolve(tx, key)
    encoded = target.key.encode()
    moment = moments.resolve(tx, as_of, target.bucket, encoded)
    found = history.at(tx, target.bucket, encoded, moment.seq)
    if found is None or found.delete_marker:
        marker = found is not None
        how = "it had been deleted by then" if marker else "no such object then"
        raise NoSuchKey(f"{target} at {moment}: {how}", delete_marker=marker)
    if found.removed:
        raise VersionRemoved(f"{target} at {moment}: version {found.version_id} was removed for good since")
    return found
