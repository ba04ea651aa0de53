"""The verbs that look: ls, stat, versions, du. Pages are read as they are printed, each in a view of its own."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address, with_bucket
from gestalt_cas.cli.options import as_of_option, human_option, version_id_option
from gestalt_cas.cli.output import Output, shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.clock import instant
from gestalt_cas.errors import NoSuchKey
from gestalt_cas.objects import ListPage, ListQuery, ObjectVersion

if TYPE_CHECKING:
    from gestalt_cas.rows.moments import AsOf
    from gestalt_cas.store import Store, Usage

Row = tuple[str, ObjectVersion | None]
"""A key with its version, or a common prefix with None."""


def pages(store: Store, query: ListQuery, as_of: AsOf = "") -> Iterator[ListPage]:
    """Every page of a listing from `query` on, of the present or of a moment."""
    while True:
        page = store.list_page(query, as_of=as_of)
        yield page
        if not page.has_more:
            return
        query = replace(query, token=page.token)


def versions_from(store: Store, query: ListQuery, *, only_key: bool = False) -> Iterator[ObjectVersion]:
    """Every version from `query` on; a page of them can be empty and not the last."""
    while True:
        page = store.list_versions(query, only_key=only_key)
        yield from page.versions
        if not page.token:
            return
        query = replace(query, token=page.token)


def rows(page: ListPage) -> Iterator[Row]:
    """Objects and common prefixes of a page in one sequence, in byte order."""
    objects = ((version.key.key.encode(), version.key.key, version) for version in page.objects)
    prefixes = ((prefix.encode(), prefix, None) for prefix in page.common_prefixes)
    for _, name, version in heapq.merge(objects, prefixes, key=itemgetter(0)):
        yield name, version


@click.command()
@click.argument("where", type=ADDRESS, metavar="[BUCKET[/PREFIX]]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Every object, without grouping at '/'.")
@click.option("-l", "long", is_flag=True, help="Show time of change (UTC) and size as well.")
@human_option
@as_of_option
@common_options
def ls(session: Session, where: Address | None, recursive: bool, long: bool, human: bool, as_of: str) -> int:
    """List buckets, or the objects of BUCKET whose keys start with PREFIX.

    Keys that go on past a '/' after PREFIX are shown as one common prefix. PREFIX is text, as in S3: 'a/lo' shows
    'a/logo.svg' and 'a/logs/'. Buckets need no creating, so one that holds nothing is listed as empty. With --as-of
    what was there then, also what has been removed for good since, marked so.
    """
    with session.store() as store:
        if where is None:
            if as_of:
                raise click.UsageError("--as-of needs a BUCKET")
            for name in store.buckets():
                session.output.result({"bucket": name}, shown(name))
            return exits.OK
        bucket = with_bucket(store, where.bucket)
        query = ListQuery(bucket=bucket, prefix=where.rest, delimiter="" if recursive else "/")
        moment = store.moment(as_of, bucket, where.rest) if as_of else ""
        for page in pages(store, query, moment):
            for name, version in rows(page):
                _list_row(session.output, bucket, name, version, long, human, then=bool(as_of))
    return exits.OK


def _list_row(
    out: Output, bucket: str, name: str, version: ObjectVersion | None, long: bool, human: bool, *, then: bool
) -> None:
    if version is None:
        text = f"{'':24}  {'':>12}  {shown(name)}" if long else shown(name)
        out.result({"bucket": bucket, "prefix": name}, text)
        return
    columns = f"{instant(version.modified_ms)}  {output.size(version.size, human=human):>12}  " if long or human else ""
    note = "  (removed for good since)" if version.removed else ""
    record = output.then_record(version) if then else output.version_record(version)
    out.result(record, f"{columns}{shown(name)}{note}")


@click.command()
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@version_id_option
@as_of_option
@common_options
def stat(session: Session, target: Address, version_id: str, as_of: str) -> int:
    """Show everything known of an object, of one of its versions, or of what it was at an earlier moment."""
    with session.store() as store:
        record = output.stat_record(store.head(target.key(), version_id=version_id, as_of=as_of))
    if session.json:
        session.output.result(record, "")
        return exits.OK
    metadata = record.pop("metadata")
    assert isinstance(metadata, dict)
    fields = {**record, **{f"metadata {name}": value for name, value in metadata.items()}}
    for name, value in fields.items():
        session.output.result({}, f"{shown(name)}: {shown(_plain(value))}")
    return exits.OK


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command()
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@click.option(
    "--prefix", is_flag=True, help="Everything whose key begins with KEY. A KEY that ends in '/' means that, too."
)
@human_option
@common_options
def versions(session: Session, target: Address, prefix: bool, human: bool) -> int:
    """List the versions and delete markers of an object, the newest first.

    With --prefix, or below a KEY that ends in '/', those of every object: keys in order, each with its newest first.
    """
    below = prefix or not target.rest or target.rest.endswith("/")
    found = 0
    with session.store() as store:
        query = ListQuery(bucket=target.bucket, prefix=target.rest)
        for version in versions_from(store, query, only_key=not below):
            found += 1
            name = f"  {shown(str(version.key))}" if below else ""
            session.output.result(output.version_record(version), _version_line(version, human) + name)
    if not found:
        what = "nothing below it has" if below else "no such object, and it never had"
        raise NoSuchKey(f"{target}: {what} a version that is still kept")
    return exits.OK


def _version_line(version: ObjectVersion, human: bool) -> str:
    size = "-" if version.delete_marker else output.size(version.size, human=human)
    marks = [*(["latest"] if version.current else []), *(["delete marker"] if version.delete_marker else [])]
    note = f"  {', '.join(marks)}" if marks else ""
    return f"{instant(version.modified_ms)}  {size:>12}  {version.version_id}{note}"


@click.command()
@click.argument("where", type=ADDRESS, metavar="[BUCKET[/PREFIX]]", required=False)
@human_option
@common_options
def du(session: Session, where: Address | None, human: bool) -> int:
    """Count objects, versions and bytes of the keys that start with PREFIX, of a bucket, or of each bucket.

    'logical' is the bytes of the current objects, 'history' of all versions, and 'stored' of each distinct content
    once, however many objects have it; contents that two buckets share count in both. Counting goes in short steps, so
    on a busy store the figures are of several moments.
    """
    with session.store() as store, Progress("du", counted=True) as progress:
        names = store.buckets() if where is None else [with_bucket(store, where.bucket)]
        prefix = "" if where is None else where.rest
        if not session.json:
            session.output.result({}, _usage_line(("objects", "versions", "logical", "history", "stored"), "name"))
        for name in names:
            usage = store.usage(name, prefix, progress=progress.at)
            counts = (str(usage.objects), str(usage.versions), *_bytes(usage, human))
            line = _usage_line(counts, shown(f"{name}/{prefix}"))
            session.output.result(_usage_record(name, prefix, usage), line)
    return exits.OK


def _bytes(usage: Usage, human: bool) -> tuple[str, ...]:
    counts = (usage.logical_bytes, usage.version_bytes, usage.stored_bytes)
    return tuple(output.size(count, human=human) for count in counts)


def _usage_line(columns: tuple[str, ...], name: str) -> str:
    return "".join(f"{column:>12}  " for column in columns) + name


def _usage_record(bucket: str, prefix: str, usage: Usage) -> dict[str, object]:
    return {
        "bucket": bucket,
        "prefix": prefix,
        "objects": usage.objects,
        "versions": usage.versions,
        "logical_bytes": usage.logical_bytes,
        "version_bytes": usage.version_bytes,
        "stored_bytes": usage.stored_bytes,
    }
