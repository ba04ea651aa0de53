"""One page of a listing: keys walked by the rules, their rows fetched, cut to what a peer can receive.

Everything happens in the transaction of the caller, so a page is one view; a token makes the next page begin where this
one ended, whatever has changed in between. Source: the S3 API reference, ListObjectsV2 and ListObjectVersions; contract
3.7.
"""

from __future__ import annotations

from collections.abc import Mapping

from gestalt_cas import listing, tokens, versions
from gestalt_cas import settings as store_settings
from gestalt_cas.objects import ListPage, ListQuery, ObjectVersion, VersionPage, check_bucket, utf8
from gestalt_cas.sqlite import Connection

PAGE_BYTES = 3 << 20
"""A listing page ends early when its entries pass this size, since Gestalt peers receive at most 4 MiB at a time."""
_ENTRY_BYTES = 192


def of_objects(tx: Connection, query: ListQuery) -> ListPage:
    """Current objects and common prefixes; raises InvalidToken, or InvalidArgument for names that cannot be."""
    check_bucket(query.bucket)
    prefix, delimiter = utf8(query.prefix, "prefix"), utf8(query.delimiter, "delimiter")
    start_after = utf8(query.start_after, "start_after")
    upper = listing.successor(prefix)
    bucket = query.bucket or store_settings.default_bucket(tx)
    scope = tokens.Listing(bucket, prefix, delimiter)
    after = tokens.decode(scope, query.token) if query.token else listing.start_position(start_after, prefix, delimiter)
    entries, more = listing.walk(
        lambda lower, limit: versions.seek(tx, bucket, lower, upper, limit), prefix, delimiter, after, query.limit
    )
    found = {
        version.seq: version
        for first, last in listing.runs(entries)
        for version in versions.current_run(tx, bucket, first, last)
    }
    fitting = _fitting(entries, found)
    more = more or fitting < len(entries)
    shown = entries[:fitting]
    return ListPage(
        tuple(found[entry.seq] for entry in shown if entry.seq is not None),
        tuple(entry.name.decode() for entry in shown if entry.seq is None),
        tokens.encode(scope, shown[-1].position) if more else "",
    )


def of_versions(tx: Connection, query: ListQuery, *, only_key: bool) -> VersionPage:
    """Versions and delete markers below the prefix, or of the one key that it is; raises as `of_objects` does."""
    check_bucket(query.bucket)
    prefix = utf8(query.prefix, "prefix")
    bucket = query.bucket or store_settings.default_bucket(tx)
    scope = tokens.Listing(bucket, prefix, b"")
    after = tokens.decode_version(scope, query.token) if query.token else None
    rows = versions.history(tx, bucket, prefix, after, query.limit + 1)
    if only_key:
        rows = [row for row in rows if row.key.key == query.prefix]
    rows = [row for row in rows if row.key.key.startswith(query.prefix)]
    if len(rows) <= query.limit:
        return VersionPage(tuple(rows), "")
    shown = rows[: query.limit]
    return VersionPage(tuple(shown), tokens.encode_version(scope, shown[-1].key.key.encode(), shown[-1].seq))


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
