"""The verb `batch`: changes from a file of JSON lines, all of them or none."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from gestalt_cas.cli import exits, output
from gestalt_cas.cli.addresses import Address
from gestalt_cas.cli.output import shown
from gestalt_cas.cli.progress import Progress
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.cli.transfers import BLOCK_BYTES, guessed_type
from gestalt_cas.errors import InvalidArgument, StoreError
from gestalt_cas.objects import Conditions, Headers, ObjectKey
from gestalt_cas.system.refusals import on_stream
from gestalt_cas.transfers.directories import is_within

if TYPE_CHECKING:
    from gestalt_cas.operations.batches import Batch, Change

_CONDITIONS = ("if_match", "if_none_match", "current_version")
_FIELDS = {
    "put": {"key", "file", "text", "base64", "metadata", *Headers._fields, *_CONDITIONS},
    "copy": {"from", "key", "source_version_id", *_CONDITIONS},
    "delete": {"key", "version_id"},
}
_BODIES = ("file", "text", "base64")
_TOLD = 100
"""After how many lines the progress is told."""


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path), metavar="FILE")
@common_options
def batch(session: Session, file: Path) -> int:
    """Make the changes in FILE, all of them or none; '-' is stdin.

    Each line is a JSON object with "op": "put", "copy" or "delete", and "key": "BUCKET/KEY". A put has its body in
    "file", "text" or "base64", and may have "content_type" and the other headers, "metadata", and the conditions
    "if_match", "if_none_match" and "current_version". A copy has "from", and may have "source_version_id" and
    conditions; a delete may have "version_id". Bodies are taken first, and readers see all of the changes at once. A
    line that fails is named, and nothing has changed then.
    """
    made: list[tuple[int, Change]] = []
    with (
        session.store() as store,
        Progress("batch", counted=True) as progress,
        store.transaction() as changes,
        _lines(file) as lines,
    ):
        for number, text in lines:
            made.append((number, _give(changes, text, number, store.directory)))
            if len(made) % _TOLD == 0:
                progress.at("taking bodies", len(made), 0)
        progress.at("making the changes", 0, len(made))
        _commit(changes, [number for number, _ in made])
    for number, change in made:
        _tell(session, number, change)
    session.output.result({"committed": len(made)}, f"{len(made)} changes committed")
    return exits.OK


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[tuple[int, str]]]:
    """The lines of the file that have something, each with its number."""
    if str(file) == "-":
        with on_stream("stdin"):
            yield _numbered(sys.stdin.buffer)
        return
    with file.open("rb") as opened:
        yield _numbered(opened)


def _numbered(lines: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(lines, 1):
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"line {number}: not UTF-8: {error.reason}") from None
        if text.strip():
            yield number, text


def _give(changes: Batch, text: str, number: int, store: Path) -> Change:
    try:
        return _change(changes, _Line.parse(text), store)
    except StoreError as error:
        error.args = (f"line {number}: {error}", *error.args[1:])
        raise
    except OSError as error:
        raise InvalidArgument(f"line {number}: {error.filename}: {error.strerror}") from error


def _change(changes: Batch, line: _Line, store: Path) -> Change:
    key = line.address("key")
    if line.op == "delete":
        return changes.delete(key, version_id=line.text("version_id"))
    conditions = Conditions(
        line.text("if_match"), line.text("if_none_match"), current_version=line.text("current_version")
    )
    if line.op == "copy":
        version_id = line.text("source_version_id")
        return changes.copy(line.address("from"), key, source_version_id=version_id, conditions=conditions)
    headers = {name: line.text(name) for name in Headers._fields}
    path = line.text("file")
    headers["content_type"] = headers["content_type"] or guessed_type(path)
    with line.body(store) as chunks:
        return changes.put(key, chunks, headers=Headers(**headers), metadata=line.metadata(), conditions=conditions)


@dataclass(frozen=True)
class _Line:
    """One line, its fields checked for their names only."""

    op: str
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> _Line:
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise InvalidArgument("not a JSON object")
        op = fields.pop("op", None)
        if op not in _FIELDS:
            raise InvalidArgument(f"op: {op!r} is none of {', '.join(_FIELDS)}")
        unknown = sorted(fields.keys() - _FIELDS[op])
        if unknown:
            raise InvalidArgument(f"{unknown[0]}: {op} has no such field; there are {', '.join(sorted(_FIELDS[op]))}")
        return cls(op, fields)

    def text(self, name: str) -> str:
        value = self.fields.get(name, "")
        if not isinstance(value, str):
            raise InvalidArgument(f"{name}: {value!r} is not text")
        return value

    def address(self, name: str) -> ObjectKey:
        text = self.text(name)
        address = Address.parse(text) if text else None
        if address is None or not address.rest:
            raise InvalidArgument(f"{name}: {text!r} names no object; objects are named BUCKET/KEY")
        return address.key()

    def metadata(self) -> dict[str, str]:
        value = self.fields.get("metadata", {})
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise InvalidArgument("metadata: not an object of texts")
        return value

    @contextmanager
    def body(self, store: Path) -> Iterator[Iterator[bytes]]:
        """The pieces of the body of a put; exactly one of its fields must be there."""
        given = [name for name in _BODIES if name in self.fields]
        if len(given) != 1:
            raise InvalidArgument(f"a put has one of {', '.join(_BODIES)}, and not {' and '.join(given) or 'none'}")
        text = self.text(given[0])
        if given == ["file"]:
            if is_within(Path(text), store):
                raise InvalidArgument(f"file: {text} is part of the store itself")
            with Path(text).open("rb") as opened:
                yield iter(lambda: opened.read(BLOCK_BYTES), b"")
            return
        try:
            yield iter([text.encode() if given == ["text"] else base64.b64decode(text, validate=True)])
        except ValueError as error:
            raise InvalidArgument(f"{given[0]}: {error}") from None


def _commit(changes: Batch, numbers: list[int]) -> None:
    """Commit, naming the line instead of the change when one fails."""
    try:
        changes.commit()
    except StoreError as error:
        head, _, rest = str(error).partition(" ")
        number, _, why = rest.partition(" ")
        if head == "change" and number.isdigit():
            error.args = (f"line {numbers[int(number) - 1]} {why}", *error.args[1:])
        raise


def _tell(session: Session, number: int, change: Change) -> None:
    version = change.version
    if version is None:
        session.output.result({"line": number, "what": change.what}, f"{shown(change.what)}: there was none")
        return
    record = {"line": number, "what": change.what, **output.version_record(version)}
    session.output.result(record, f"{shown(change.what)} (version {version.version_id})")
