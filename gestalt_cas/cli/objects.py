"""The verbs on single objects: put, get, cat, cp, rm. Their -r forms are in `trees.py`."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import ADDRESS, Address
from gestalt_cas.cli.options import (
    as_of_option,
    condition_options,
    header_options,
    metadata_option,
    range_option,
    recursive_option,
    remove_version_option,
    version_id_option,
)
from gestalt_cas.cli.output import Output, shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.cli.transfers import Attributes, download, upload
from gestalt_cas.errors import InvalidArgument, NoSuchKey, NoSuchVersion
from gestalt_cas.objects import ByteRange, Conditions, Headers, ObjectKey, ObjectVersion
from gestalt_cas.system.refusals import on_stream
from gestalt_cas.transfers.directories import Directory, is_within, resolved
from gestalt_cas.transfers.paths import Parts, local_parts

if TYPE_CHECKING:
    from gestalt_cas.store import ObjectReader, Store


@click.command()
@click.argument("file")
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@recursive_option
@click.option("--follow-symlinks", is_flag=True, help="With -r, store what symbolic links lead to.")
@header_options
@metadata_option
@condition_options
@common_options
def put(
    session: Session,
    file: str,
    target: Address,
    recursive: bool,
    follow_symlinks: bool,
    metadata: dict[str, str],
    if_match: str,
    if_none_match: str,
    **headers: str,
) -> int:
    """Store FILE as BUCKET/KEY; '-' is stdin.

    A target that ends with '/' gets the file's name behind. The content type is guessed from the name unless it is
    given. With -r FILE is a directory, and each file below it becomes a key below BUCKET/PREFIX; what is no regular
    file, or has a name that no key can have, is named and skipped (exit code 1).
    """
    attributes = Attributes(Headers(**headers), metadata, Conditions(if_match, if_none_match))
    if recursive:
        from gestalt_cas.cli.uploads import UploadOptions, to_store

        return to_store(session, Path(file), target, attributes, UploadOptions(follow_symlinks=follow_symlinks))
    if follow_symlinks:
        raise click.UsageError("--follow-symlinks needs -r; a single FILE may be a symbolic link anyway")
    if file == "-":
        key = target.named("")
        attributes = Attributes(attributes.headers, metadata, attributes.conditions, guess=False)
        with session.store() as store, on_stream("stdin"):
            return _put(session, store, key, sys.stdin.buffer, "-", attributes)
    path = Path(file)
    key = target.named(path.name)
    with session.store() as store, _source(path, store.directory) as opened:
        return _put(session, store, key, opened, file, attributes)


def _source(path: Path, store: Path) -> BinaryIO:
    """Open a file that the user named; pipes and devices are read as streams."""
    if path.is_dir():
        raise click.UsageError(f"{path} is a directory; use put -r")
    if is_within(path, store):
        raise click.UsageError(f"{path} is part of the store itself")
    return path.open("rb")


def _put(session: Session, store: Store, key: ObjectKey, file: BinaryIO, name: str, attributes: Attributes) -> int:
    status = os.fstat(file.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    with Progress(name, total) as progress:
        version, changed = upload(store, key, file, name, attributes, progress.advance)
    text = f"put {shown(name)} as {shown(str(version.key))} ({version.size} bytes, version {version.version_id})"
    session.output.result(output.version_record(version), text)
    if changed:
        session.output.warn(f"{name} changed while it was read; what was read is stored")
        return exits.NOT_FOUND
    return exits.OK


@click.command()
@click.argument("source", type=ADDRESS, metavar="BUCKET/KEY")
@click.argument("file", required=False)
@recursive_option
@version_id_option
@as_of_option
@range_option
@common_options
def get(
    session: Session,
    source: Address,
    file: str | None,
    recursive: bool,
    version_id: str,
    as_of: str,
    byte_range: ByteRange | None,
) -> int:
    """Write the object BUCKET/KEY to FILE; '-' is stdout.

    Without FILE it goes to the current directory, under the last part of the key. The bytes are written beside,
    verified, and then take FILE's place, so FILE has its old bytes or all of the new ones. With -r every object below
    BUCKET/PREFIX goes to its path below the directory FILE (default: the current one); a key that has no path there
    is named and skipped (exit code 1), and nothing is ever written outside. With --as-of what was there then.
    """
    if recursive:
        if version_id or byte_range is not None:
            raise click.UsageError("--version-id and --range are for a single object, not for -r")
        from gestalt_cas.cli.downloads import DownloadOptions, from_store

        return from_store(session, source, Path(file or "."), DownloadOptions(as_of=as_of))
    key = source.key()
    with (
        session.store() as store,
        store.read(key, version_id=version_id, as_of=as_of, byte_range=byte_range) as reader,
    ):
        if file == "-":
            return _to_stdout(session, reader)
        return _get(session, store, reader, file)


@click.command()
@click.argument("source", type=ADDRESS, metavar="BUCKET/KEY")
@version_id_option
@as_of_option
@range_option
@common_options
def cat(session: Session, source: Address, version_id: str, as_of: str, byte_range: ByteRange | None) -> int:
    """Write the object BUCKET/KEY to stdout.

    Damage ends it before the damaged bytes, with exit code 4. With --json the object's record goes to stderr.
    """
    with (
        session.store() as store,
        store.read(source.key(), version_id=version_id, as_of=as_of, byte_range=byte_range) as reader,
    ):
        return _to_stdout(session, reader)


def _to_stdout(session: Session, reader: ObjectReader) -> int:
    label = str(reader.version.key)
    with Progress(label, reader.length, quiet=sys.stdout.isatty()) as progress, on_stream("stdout"):
        download(reader, sys.stdout.buffer, progress.advance)
    session.output.aside(output.version_record(reader.version))
    return exits.OK


def _get(session: Session, store: Store, reader: ObjectReader, file: str | None) -> int:
    path = Path(file) if file is not None else Path()
    with Progress(str(reader.version.key), reader.length) as progress:
        if path.is_dir():
            path = _get_below(path, store, reader, progress)
        elif file is not None and file.endswith("/"):
            raise click.UsageError(f"{file} is not a directory")
        elif path.exists() and not path.is_file():
            # A device or pipe that the user named is written to, as any program would, and not replaced by a file.
            with path.open("wb", buffering=0) as stream:
                download(reader, stream, progress.advance)
        else:
            target = resolved(path)  # a link that the user named is followed
            with Directory(target.parent, store=store.directory) as directory:
                _get_at(directory, (os.fsencode(target.name),), reader, progress)
    _say_got(session.output, reader, path)
    return exits.OK


def _get_below(above: Path, store: Store, reader: ObjectReader, progress: Progress) -> Path:
    """Write the object into a directory, under the last part of its key; returns where it went.

    The name comes from the key, not from the user, so a link or anything else there but a file is left alone.
    """
    name = reader.version.key.key.rpartition("/")[2]
    with Directory(above, store=store.directory) as directory:
        try:
            parts = local_parts(name, directory.limits())
        except InvalidArgument as error:
            raise click.UsageError(
                f"the last part of the key, {name!r}, is no file name ({error}); name a FILE"
            ) from None
        _get_at(directory, parts, reader, progress)
    return above / name


def _get_at(directory: Directory, parts: Parts, reader: ObjectReader, progress: Progress) -> None:
    with directory.replacing(parts) as target:
        download(reader, target, progress.advance)


def _say_got(out: Output, reader: ObjectReader, path: Path) -> None:
    version = reader.version
    record = {**output.version_record(version), "path": str(path), "offset": reader.offset, "length": reader.length}
    out.result(record, f"got {shown(str(version.key))} as {shown(str(path))} ({reader.length} bytes)")


@click.command()
@click.argument("source", type=ADDRESS, metavar="BUCKET/KEY")
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@version_id_option
@condition_options
@common_options
def cp(session: Session, source: Address, target: Address, version_id: str, if_match: str, if_none_match: str) -> int:
    """Copy an object with its headers and metadata; no payload byte is read or written.

    A target that ends with '/' gets the last part of the source's key behind. --version-id and the conditions are
    about the source.
    """
    origin = source.key()
    destination = target.named(origin.key.rpartition("/")[2])
    conditions = Conditions(if_match, if_none_match)
    with session.store() as store:
        version = store.copy(origin, destination, source_version_id=version_id, conditions=conditions)
    text = f"copied {shown(str(origin))} to {shown(str(version.key))} (version {version.version_id})"
    session.output.result(output.version_record(version), text)
    return exits.OK


@click.command()
@click.argument("target", type=ADDRESS, metavar="BUCKET/KEY")
@recursive_option
@remove_version_option
@click.option("-f", "--force", is_flag=True, help="What is not there is no failure.")
@click.option("--yes", is_flag=True, help="With -r, really remove a whole bucket.")
@common_options
def rm(session: Session, target: Address, recursive: bool, version_id: str, force: bool, yes: bool) -> int:
    """Remove an object: a delete marker becomes its newest version, and the older ones stay readable by id.

    With --version-id that version is removed for good; of a delete marker, this brings the object back. With -r every
    object below BUCKET/PREFIX/ is removed, which leaves BUCKET/PREFIX itself and BUCKET/PREFIXES alone.
    """
    if recursive:
        if version_id:
            raise click.UsageError("--version-id is for a single object, not for -r")
        from gestalt_cas.cli.trees import remove_tree

        return remove_tree(session, target, force=force, yes=yes)
    key = target.key()
    with session.store() as store:
        removed = _remove(store, key, version_id, force)
    if removed is None:
        record: dict[str, object] = {"bucket": key.bucket, "key": key.key, "version_id": "", "delete_marker": False}
        session.output.result(record, f"{shown(str(key))} is not there")
        return exits.OK
    what = f"version {removed.version_id} of " if version_id else ""
    how = "for good" if version_id else f"(delete marker {removed.version_id})"
    session.output.result(deletion_record(removed), f"removed {what}{shown(str(removed.key))} {how}")
    return exits.OK


def _remove(store: Store, key: ObjectKey, version_id: str, force: bool) -> ObjectVersion | None:
    """Remove an object or version; None when it was not there and `force` says that this is fine."""
    if version_id:
        removed = store.delete(key, version_id=version_id)
        if removed is None and not force:
            raise NoSuchVersion(f"{key}, version {version_id}: no such version")
        return removed
    try:
        store.head(key)
    except NoSuchKey:
        if force:
            return None
        raise
    return store.delete(key)


def deletion_record(version: ObjectVersion) -> dict[str, object]:
    """What a removal did, as S3's DeleteObject answers: the marker that was made, or the version that is gone."""
    return {
        "bucket": version.key.bucket,
        "key": version.key.key,
        "version_id": version.version_id,
        "delete_marker": version.delete_marker,
    }
