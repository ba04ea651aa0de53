"""What verbs print: a line for a person, or with --json one JSON object a line.

Results go to stdout; warnings and errors go to stderr, one line each. JSON holds names and keys as they are, whatever
is in them; it is ASCII, so no locale can break it. For people, names keep their bytes in a pipe or a file, while on a
terminal what is not printable is escaped, since a key may hold any control sequence.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from gestalt_cas import sizes
from gestalt_cas.clock import instant
from gestalt_cas.objects import ObjectVersion
from gestalt_cas.system.refusals import on_stream

Record = Mapping[str, object]


def escaped(text: str) -> str:
    """`text` on one line and safe for a terminal: what is not printable in the notation of Python's strings."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def shown(name: str) -> str:
    """A name or key as it goes to stdout."""
    return escaped(name) if sys.stdout.isatty() else name


def size(count: int, *, human: bool = False) -> str:
    """A number of bytes; `human` with at most four characters and a unit, powers of 1024."""
    return sizes.human(count) if human else str(count)


def version_record(version: ObjectVersion) -> dict[str, object]:
    """The fields of a version that listings show."""
    return {
        "bucket": version.key.bucket,
        "key": version.key.key,
        "version_id": version.version_id,
        "is_latest": version.current,
        "delete_marker": version.delete_marker,
        "size": version.size,
        "etag": version.etag,
        "last_modified": instant(version.modified_ms),
    }


def then_record(version: ObjectVersion) -> dict[str, object]:
    """The fields of a version as a listing of an earlier moment shows them."""
    return {**version_record(version), "removed": version.removed}


def stat_record(version: ObjectVersion) -> dict[str, object]:
    """All fields of a version."""
    return {
        **version_record(version),
        "digest": version.digest,
        "seq": version.seq,
        **version.headers._asdict(),
        "metadata": dict(version.metadata),
    }


def dump(record: Record) -> str:
    """One line of JSON in ASCII."""
    return json.dumps(record, ensure_ascii=True, default=dict)


class Output:
    """Prints results in the form that was asked for."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def result(self, record: Record, text: str) -> None:
        """Print one result: the record with --json, else the text, on stdout."""
        with on_stream("stdout"):
            sys.stdout.write(f"{dump(record) if self.json else text}\n")

    def aside(self, record: Record, text: str = "") -> None:
        """Print a result beside an object's bytes, which have stdout: on stderr, and without --json only a text."""
        if self.json or text:
            sys.stderr.write(f"{dump(record) if self.json else text}\n")

    def warn(self, text: str) -> None:
        """Print a warning, always as text on stderr."""
        sys.stderr.write(f"gestalt-cas: {escaped(text)}\n")

    def failure(self, kind: str, message: str, code: int) -> None:
        """Print why the verb failed: one line on stderr, with --json an object under the key "error"."""
        if self.json:
            sys.stderr.write(dump({"error": {"kind": kind, "message": message, "exit": code}}) + "\n")
        else:
            self.warn(message)
