"""One page of a listing: keys walked by the rules, their rows fetched, cut to what a peer can receive.

Everything happens in the transaction of the caller, so a page is one view; a token makes the next page begin where this
one ended, whatever has changed in between. Source: the S3 API reference, ListObjectsV2 and ListObjectVersions; contract
3.7.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import astuple

from gestalt_cas.objects import ListPage, ListQuery, ObjectVersion, VersionPage, check_bucket, utf8
from gestalt_cas.rows import history, moments, version_walks, versions
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.version_walks import Place
from gestalt_cas.rules import listing, tokens
from gestalt_cas.sql.sqlite import Connection

PAGE_BYTES = 3 << 20
"""A listing page ends early when its entries pass this size, since Gestalt peers receive at most 4 MiB at a time."""
WALK_SECONDS = 0.1
"""How long a page may walk what it does not show: keys that did not exist then, versions that were removed for good."""
_ENTRY_BYTES = 192


def of_objects(tx: Connection, query: ListQuery) -> ListPage:
    """Current objects and common prefixes; raises InvalidToken, or InvalidArgument for names that cannot be."""
    scope, after = _begin(tx, query)
    upper = listing.successor(scope.prefix)
    entries, more = listing.walk(
        lambda lower, limit: versions.seek(tx, scope.bucket, lower, upper, limit),
        scope.prefix,
        scope.delimiter,
        after,
        query.limit,
    )
    found = {
        version.seq: version
        for first, last in listing.runs(entries)
        for version in versions.current_run(tx, scope.bucket, first, last)
    }
    return _page(scope, entries, found, entries[-1].position if more else None)


def of_objects_then(tx: Connection, query: ListQuery, as_of: moments.AsOf) -> ListPage:
    """Objects and common prefixes of a moment; raises as `of_objects` does, and as `moments.resolve`.

    A version that was removed for good since is among them, and says so. Keys that did not exist then are walked, too:
    a page on which that takes more than WALK_SECONDS ends early, perhaps without an entry, and has a token.
    """
    scope, after = _begin(tx, query, as_of)
    past = _Past(tx, scope)
    entries, more = listing.walk(past.seek, scope.prefix, scope.delimiter, after, query.limit)
    end = entries[-1].position if more else None
    if not more and past.cut is not None:
        end = listing.resuming(entries, past.cut)
    return _page(scope, entries, past.found, end)


class _Past:
    """Seeks in what was there at a moment, until the time for a page is over."""

    def __init__(self, tx: Connection, scope: tokens.Listing) -> None:
        self.found: dict[int, ObjectVersion] = {}
        self.cut: bytes | None = None
        assert scope.seq is not None
        self._tx, self._scope, self._seq = tx, scope, scope.seq
        self._upper = listing.successor(scope.prefix)
        self._deadline = time.monotonic() + WALK_SECONDS

    def seek(self, lower: bytes, limit: int) -> list[listing.Row]:
        """As `listing.Seek`; fewer rows than `limit` also when the time is over: `cut` is then the last key walked."""
        rows: list[listing.Row] = []
        step = limit
        while True:
            stretch = history.walk(self._tx, self._scope.bucket, lower, self._upper, self._seq, step)
            self.found.update((version.seq, version) for version in stretch.found)
            rows += [(version.key.key.encode(), version.seq) for version in stretch.found]
            if len(rows) >= limit or stretch.walked_to is None:
                return rows[:limit]
            if time.monotonic() > self._deadline:
                self.cut = stretch.walked_to
                return rows
            lower = stretch.walked_to + b"\0"
            step = min(step * 2, history.STRETCH)


def _begin(
    tx: Connection, query: ListQuery, as_of: moments.AsOf = ""
) -> tuple[tokens.Listing, listing.Position | None]:
    """What the query lists, and the position after which its page begins; None: at the very beginning."""
    check_bucket(query.bucket)
    prefix, delimiter = utf8(query.prefix, "prefix"), utf8(query.delimiter, "delimiter")
    start_after = utf8(query.start_after, "start_after")
    bucket = query.bucket or store_settings.default_bucket(tx)
    seq = moments.resolve(tx, as_of, bucket, prefix).seq if as_of else None
    scope = tokens.Listing(bucket, prefix, delimiter, seq)
    if query.token:
        return scope, tokens.decode(scope, query.token)
    return scope, listing.start_position(start_after, prefix, delimiter)


def _page(
    scope: tokens.Listing,
    entries: list[listing.Entry],
    found: Mapping[int, ObjectVersion],
    end: listing.Position | None,
) -> ListPage:
    """The page of these entries, as many as fit; `end` is where the next one begins, None when there is none."""
    fitting = _fitting(entries, found)
    shown = entries[:fitting]
    if fitting < len(entries):
        end = shown[-1].position
    return ListPage(
        tuple(found[entry.seq] for entry in shown if entry.seq is not None),
        tuple(entry.name.decode() for entry in shown if entry.seq is None),
        tokens.encode(scope, end) if end is not None else "",
    )


def of_versions(tx: Connection, query: ListQuery, *, only_key: bool) -> VersionPage:
    """Versions and delete markers below the prefix, or of the one key that it is; raises as `of_objects` does.

    Versions that were removed for good are walked, too, and not shown: a page on which that takes more than
    WALK_SECONDS ends early, perhaps without a version, and has a token.
    """
    check_bucket(query.bucket)
    prefix = utf8(query.prefix, "prefix")
    bucket = query.bucket or store_settings.default_bucket(tx)
    scope = tokens.Listing(bucket, prefix, b"")
    after = Place(prefix, version_walks.NEWEST) if only_key else None
    if query.token:
        after = Place(*tokens.decode_version(scope, query.token))
    upper = prefix + b"\0" if only_key else listing.successor(prefix) or version_walks.BEYOND
    walk = version_walks.Walk(tx, bucket, prefix, upper, after)
    found = _walked(walk, query.limit + 1)
    if len(found) > query.limit:
        last = found[query.limit - 1]
        token = tokens.encode_version(scope, last.key.key.encode(), last.seq, 0)
        return VersionPage(tuple(found[: query.limit]), token)
    token = "" if walk.through else tokens.encode_version(scope, *astuple(walk.place))
    return VersionPage(tuple(found), token)


def _walked(walk: version_walks.Walk, limit: int) -> list[ObjectVersion]:
    """At most `limit` versions; fewer when there are no more, and when the time for a page is over."""
    deadline = time.monotonic() + WALK_SECONDS
    found: list[ObjectVersion] = []
    step = min(limit, version_walks.STRETCH)
    while not walk.through and len(found) < limit:
        found += walk.step(step, limit - len(found))
        if time.monotonic() > deadline:
            break
        step = min(step * 2, version_walks.STRETCH)
    return found


def _fitting(entries: list[listing.Entry], found: Mapping[int, ObjectVersion]) -> int:
    """How many of the entries fit into PAGE_BYTES; at least one."""
    total = 0
    for count, entry in enumerate(entries):
        total += _ENTRY_BYTES + len(entry.name)
        if entry.seq is not None:
            version = found[entry.seq]
            total += len(version.headers.content_type) * 4 + len(version.key.bucket) * 4
            if version.metadata:
                total += sum(len(name.encode()) + len(value.encode()) + 12 for name, value in version.metadata.items())
        if total > PAGE_BYTES and count:
            return count
    return len(entries)
