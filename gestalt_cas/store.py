"""The store: its operations, and the order of rows and files in each.

    write   stage the body → publish it unless a committed row vouches for the same payload → in one transaction judge
            the conditions, look at the payload again, add the version → answer after COMMIT
    read    look up and open the file in one view → serve verified chunks; an open file outlives gc
    copy    one transaction, no payload byte touched
    delete  one transaction; payloads are only ever removed by gc

So a crash leaves at worst a payload that no version reaches, never a version without its payload. A version's payload
may be shared, so a failed or overwritten write removes none. Semantics: docs/contract.md (sections 3 and 6) and the S3
API reference; design: docs/design.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import (
    BlobMissing,
    Damage,
    DiskFull,
    InvalidArgument,
)
from gestalt_cas.files.staging import Held, Staged
from gestalt_cas.keeping import holds, quotas
from gestalt_cas.objects import (
    NO_CONDITIONS,
    NO_HEADERS,
    NO_METADATA,
    ByteRange,
    Conditions,
    Headers,
    ListPage,
    ListQuery,
    ObjectKey,
    ObjectVersion,
    VersionPage,
    check_attributes,
    check_bucket,
    check_names,
    require_pieces,
    utf8,
)
from gestalt_cas.operations import allowances, pages
from gestalt_cas.operations.batches import Batch
from gestalt_cas.operations.changes import Changes, lookup, lookup_then, resolve
from gestalt_cas.operations.intake import Intake, Vouch
from gestalt_cas.operations.parts import Parts, open_parts
from gestalt_cas.operations.payloads import ObjectReader
from gestalt_cas.past import Past
from gestalt_cas.progress import Progress, silent
from gestalt_cas.rows import buckets, versions
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.moments import AsOf
from gestalt_cas.rules import conditions as rules
from gestalt_cas.rules import listing, ranges
from gestalt_cas.sql.sqlite import Connection

_OPEN_TRIES = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals below a prefix.

    `versions` counts no delete markers. `logical_bytes` counts current objects, `version_bytes` all versions,
    `stored_bytes` each payload that they reach once.
    """

    objects: int
    versions: int
    logical_bytes: int
    version_bytes: int
    stored_bytes: int


class Store(Past):
    """An open store directory. Thread-safe; other processes may have the same directory open.

    A bucket of "" is the store's default bucket; returned versions carry its real name.

    Operations raise the errors of `gestalt_cas.errors`. Beside those that a method names, each may raise
    InvalidArgument (a name or value that can never be right), ShuttingDown (the store was closed), and StorageFault or
    DatabaseDamaged (the disk); one that changes something also StoreBusy, StoreFull and OutcomeUnknown. Only after
    OutcomeUnknown may the change have been made.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._layout, self._reserve = parts.layout, parts.reserve
        self._database, self._blobs, self._payloads = parts.database, parts.blobs, parts.payloads
        self._changes = Changes(parts.database, parts.payloads)
        self._intake = Intake(parts.database, parts.blobs, parts.payloads)

    @classmethod
    def open(
        cls,
        data_dir: str | os.PathLike[str],
        *,
        create: bool = True,
        settings: Mapping[str, object] | None = None,
        limits: Limits | None = None,
    ) -> Store:
        """Open the store in `data_dir`; with `create` make an absent one and upgrade an old one.

        `settings` holds the store's settings to be changed, by dotted name (`versioning`); the others keep their
        values. Raises NoStore (nothing there and not `create`), StoreUnusable, SchemaTooNew, StoreBusy, InvalidConfig,
        or SettingsConflict when a running server uses other settings.
        """
        wanted = store_settings.validate(settings or {})
        store = cls(open_parts(data_dir, create=create, settings=wanted, limits=limits or Limits()))
        store.begin_with(wanted)
        return store

    def begin_with(self, wanted: Mapping[str, object], *, serving: bool = False) -> None:
        """`adopt`, for a store that was just opened: what keeps it from that closes it."""
        try:
            self.adopt(wanted, serving=serving)
        except BaseException as error:
            explained = self.explained(error) if isinstance(error, Exception) else error
            self.close()
            if explained is error:
                raise
            raise explained from error

    @property
    def directory(self) -> Path:
        """The data directory, as an absolute path."""
        return self._layout.root

    def close(self) -> None:
        """Close the database and let go of the locks; a second call does nothing."""
        self._parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Objects

    def write(
        self,
        key: ObjectKey,
        chunks: Iterable[bytes | bytearray | memoryview],
        *,
        headers: Headers = NO_HEADERS,
        metadata: Mapping[str, str] = NO_METADATA,
        conditions: Conditions = NO_CONDITIONS,
        expected_bytes: int = 0,
        confirm: Callable[[], None] | None = None,
    ) -> ObjectVersion:
        """Store a new version of `key` from `chunks`; it is durable when this returns.

        Headers and metadata are replaced as a whole, nothing is inherited. Conditions are judged in the transaction
        that adds the version (and once before the body is taken, to refuse early); so are holds, and quotas, for which
        `expected_bytes` says how long the body is announced to be (0: not announced). `confirm` is called before the
        body's sync and just before COMMIT and may raise to give the write up. Nothing is stored when this raises, but
        for OutcomeUnknown.

        Raises PreconditionFailed, Held (of a null version that it would replace), QuotaExceeded, ObjectTooLarge, what
        `chunks` and `confirm` raise, and TypeError for one piece of bytes in place of an iterable of them.
        """
        require_pieces(chunks)
        self._check_write(key, headers, metadata, conditions)
        seldom = self._database.recent(quotas.any_stand) is False
        chunks = allowances.within(chunks, expected_bytes, lambda: self._room(key), seldom=seldom)

        def put(tx: Connection, staged: Staged | Held, vouch: Vouch) -> ObjectVersion:
            return self._changes.put(
                tx,
                key,
                staged.digest,
                staged.size,
                headers=headers,
                metadata=metadata,
                conditions=conditions,
                vouch=vouch,
            )

        try:
            return self._intake.take(chunks, put, confirm)
        except DiskFull as error:  # say what would help
            raise DiskFull(f"{error}; {self._collector.advice()}") from error

    def head(
        self,
        key: ObjectKey,
        *,
        version_id: str = "",
        as_of: AsOf = "",
        conditions: Conditions = NO_CONDITIONS,
    ) -> ObjectVersion:
        """The current object of `key`, or the version `version_id`, or the object that it had at a moment.

        `as_of` is a sequence, a time or a snapshot's name, see `Store.moment`. Raises NoSuchKey, NoSuchVersion,
        VersionRemoved, PreconditionFailed or NotModified, and what `Store.moment` raises.
        """
        _check_lookup(key, version_id, as_of)
        version = None
        if not version_id and not as_of:
            version = self._database.ask(versions.current_of, key)
        if version is None:
            with self._database.read() as tx:
                version = _looked_up(tx, key, version_id, as_of)
        if conditions:
            rules.check_read(conditions, version)
        return version

    def read(
        self,
        key: ObjectKey,
        *,
        version_id: str = "",
        as_of: AsOf = "",
        byte_range: ByteRange | Callable[[ObjectVersion], ByteRange | None] | None = None,
        conditions: Conditions = NO_CONDITIONS,
    ) -> ObjectReader:
        """Open an object, or a range of it, for reading; the caller closes the reader.

        `byte_range` may be a function that is asked with the version at hand, for ranges that depend on it.
        Raises what `head` raises, InvalidRange, or Damage when the payload is missing or has another size.
        """
        _check_lookup(key, version_id, as_of)
        tries = _OPEN_TRIES
        while True:
            tries -= 1
            with self._database.read() as tx:
                version = _looked_up(tx, key, version_id, as_of)
                rules.check_read(conditions, version)
                wanted = byte_range(version) if callable(byte_range) else byte_range
                offset, length = ranges.resolve(wanted, version.size)
                try:
                    blob = self._payloads.open(tx, version)
                except Damage as error:
                    damage = error
                else:
                    return ObjectReader(version, offset, length, blob, self._payloads.record_damage)
            self._database.place.require()  # else all of it has gone, and nothing is damaged
            # Its last version may have gone between our view and our open: look again before calling it damage.
            if tries and isinstance(damage, BlobMissing):
                continue
            self._payloads.record_unfit(damage)
            raise damage

    def copy(
        self,
        source: ObjectKey,
        destination: ObjectKey,
        *,
        source_version_id: str = "",
        conditions: Conditions = NO_CONDITIONS,
    ) -> ObjectVersion:
        """Make the source's bytes, headers and metadata the newest version of `destination`.

        The tags of `conditions` judge the source, `conditions.current_version` the destination (contract 3.8 and
        section 6). No payload byte is read or written. Raises what `head` and `write` raise, and BlobMissing when the
        source's payload is gone.
        """
        check_names(source, "source ")
        check_names(destination, "destination ")
        rules.validate_write(conditions)
        try:
            return self._database.commit(
                lambda tx: self._changes.copy(tx, source, source_version_id, destination, conditions)
            )
        except BlobMissing as damage:
            self._payloads.record_unfit(damage)
            raise

    def delete(self, key: ObjectKey, *, version_id: str = "") -> ObjectVersion | None:
        """Append a delete marker, or remove the version `version_id` for good; returns the marker or that version.

        Deleting what is not there is no error: without an id a marker is appended all the same, with one that names
        nothing None is returned. While versioning is suspended the marker takes the place of the null version, which is
        then gone for good. Works on a full disk. Raises Held when a hold keeps what would be gone. Source: the S3 API
        reference, DeleteObject.
        """
        check_names(key)
        return self._reserve.spend_on(
            lambda: self._database.commit(lambda tx: self._changes.delete(tx, key, version_id))
        )

    def transaction(self) -> Batch:
        """Several changes that are committed all together or not at all; a context manager that commits at its end.

            with store.transaction() as changes:
                changes.put(ObjectKey("site", "index.html"), [page])
                changes.delete(ObjectKey("site", "old.html"))

        Each is judged on what those before it have done; see `gestalt_cas.operations.batches`.
        """
        return Batch(self._parts, self._changes, self._intake)

    def restore_version(self, key: ObjectKey, version_id: str) -> ObjectVersion:
        """Make an older version current again, as a new version with its bytes, headers and metadata.

        Raises what `copy` raises. The version that was current stays as history.
        """
        return self.copy(key, key, source_version_id=version_id)

    def undelete(self, key: ObjectKey) -> ObjectVersion:
        """Make the object of a deleted key current again, by removing the delete markers on top of its newest version.

        Works on a full disk. Raises NoSuchKey when there is no version to come back, PreconditionFailed when the key is
        not deleted.
        """
        check_names(key)
        return self._reserve.spend_on(lambda: self._database.commit(lambda tx: self._changes.undelete(tx, key)))

    def list_page(self, query: ListQuery, *, as_of: AsOf = "") -> ListPage:
        """One page of current objects and common prefixes, or of those of a moment; see ListQuery for the limits.

        For several pages of the past get the moment once, by `Store.moment`. Versions that were removed for good since
        are there, and say so. A page of the past that has walked keys for 100 ms which did not exist then ends early,
        perhaps empty, with a token. Raises InvalidToken for a token that was made for another bucket, prefix,
        delimiter or moment, or not by this store, and what `Store.moment` raises.
        """
        with self._database.read() as tx:
            if as_of:
                return pages.of_objects_then(tx, query, as_of)
            return pages.of_objects(tx, query)

    def list_versions(self, query: ListQuery, *, only_key: bool = False) -> VersionPage:
        """One page of versions and delete markers: keys in byte order, within a key the newest first.

        With `only_key` the query's prefix is one whole key. The query's delimiter and start_after are not used.
        `ObjectVersion.current` tells whether a version (or marker) is the newest of its key. A page that has walked for
        100 ms, most of it past versions that were removed for good, ends early, perhaps empty, with a token. Raises
        InvalidToken for a token that was made for another bucket or prefix, or not by this store. Source: the S3 API
        reference, ListObjectVersions.
        """
        with self._database.read() as tx:
            return pages.of_versions(tx, query, only_key=only_key)

    def buckets(self) -> list[str]:
        """The buckets that hold at least one version, in byte order; buckets need no creating.

        As of one moment, unless more than 100 ms of rows are walked whose versions were removed for good; then each as
        of a moment during the call.
        """
        return buckets.standing(self._database)

    def usage(self, bucket: str = "", prefix: str = "", *, progress: Progress | None = None) -> Usage:
        """Count objects, versions and bytes of the keys that start with `prefix`; reads all their rows.

        In short views, so on a busy store the figures are of several moments; below a few thousand rows of one.
        `progress` may raise to stop.
        """
        check_bucket(bucket)
        lower = utf8(prefix, "prefix")
        with self._database.read() as tx:
            name = bucket or store_settings.default_bucket(tx)
        tell, counted = progress or silent, buckets.Totals()
        after: buckets.Place | None = None
        while True:
            with self._database.read() as tx:
                more, after = buckets.totals(tx, name, lower, listing.successor(lower), after)
            counted = buckets.Totals(*map(sum, zip(counted, more, strict=True)))
            if after is None:
                return Usage(*counted)
            tell("counting versions", counted.versions, 0)

    def stand_at(self, now_ms: int | None) -> None:
        """Date changes by this time from now on, None: by the clock; none is dated before the last commit all the same.

        For tests of programs that use a server (`stamps.py`). Batches, rollbacks and retention keep the clock.
        """
        self._changes = Changes(self._database, self._payloads, now_ms)

    # Inside

    def _check_write(
        self, key: ObjectKey, headers: Headers, metadata: Mapping[str, str], conditions: Conditions
    ) -> None:
        check_names(key)
        check_attributes(headers, metadata)
        rules.validate_write(conditions)
        present = self._database.recent(store_settings.for_writing)
        replacing = present is not None and present.suspended and self._database.recent(holds.any_stand)
        if conditions or replacing:
            with self._database.read() as tx:
                target = resolve(tx, key)
                rules.check_write(conditions, key.key, versions.current(tx, target))
                if replacing and store_settings.suspended(tx):
                    versions.refuse_replacing(tx, target.bucket, target.key.encode())

    def _room(self, key: ObjectKey) -> allowances.Room | None:
        with self._database.read() as tx:
            return allowances.room(tx, key)


def _check_lookup(key: ObjectKey, version_id: str, as_of: AsOf) -> None:
    check_names(key)
    if version_id and as_of:
        raise InvalidArgument("a version id and a moment name two things; give one of them")


def _looked_up(tx: Connection, key: ObjectKey, version_id: str, as_of: AsOf) -> ObjectVersion:
    return lookup_then(tx, key, as_of) if as_of else lookup(tx, key, version_id)


__all__ = ["Limits", "ObjectReader", "Store", "Usage"]
