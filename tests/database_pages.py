"""The pages of a closed SQLite database, and what a disk may do to them, for tests of damage.

Format: https://www.sqlite.org/fileformat2.html. Nothing here is to be used while the file is open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas.sql import sqlite
from gestalt_cas.sql.schema import PAGE_SIZE

INTERIOR = {2, 5}


@dataclass(frozen=True)
class Page:
    """A page of a table or an index: its number (from 1) and its kind, "root", "interior", "leaf" or "overflow"."""

    owner: str
    number: int
    kind: str


def pages_of(database: Path, owner: str) -> list[Page]:
    """All pages of a table or an index; "sqlite_schema" begins on page 1."""
    data = database.read_bytes()
    root = 1 if owner == "sqlite_schema" else _roots(database)[owner]
    return list(_walk(data, owner, root, "root"))


def first_free(database: Path) -> int:
    """The first page of the list of free pages; 0: none."""
    return int(struct.unpack_from(">I", database.read_bytes(), 32)[0])


def overwrite_page(database: Path, number: int, content: bytes, offset: int = 0) -> None:
    """Put bytes into a page."""
    with database.open("r+b") as file:
        file.seek((number - 1) * PAGE_SIZE + offset)
        file.write(content)


def read_page(database: Path, number: int) -> bytes:
    return database.read_bytes()[(number - 1) * PAGE_SIZE : number * PAGE_SIZE]


def _roots(database: Path) -> dict[str, int]:
    with closing(sqlite.connect(database, mode="ro", immutable=True)) as connection:
        return dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0").fetchall())


def _walk(data: bytes, owner: str, number: int, kind: str) -> Iterator[Page]:
    yield Page(owner, number, kind)
    start = (number - 1) * PAGE_SIZE
    header = start + (100 if number == 1 else 0)
    sort = data[header]
    cells = struct.unpack_from(">H", data, header + 3)[0]
    pointers = header + (12 if sort in INTERIOR else 8)
    for index in range(cells):
        cell = start + struct.unpack_from(">H", data, pointers + 2 * index)[0]
        if sort in INTERIOR:
            yield from _walk(data, owner, struct.unpack_from(">I", data, cell)[0], _kind(data, cell))
        if sort != 5:
            yield from _overflow(data, owner, cell + (4 if sort == 2 else 0), sort)
    if sort in INTERIOR:
        yield from _walk(data, owner, struct.unpack_from(">I", data, header + 8)[0], _kind(data, header + 8))


def _kind(data: bytes, pointer: int) -> str:
    number = struct.unpack_from(">I", data, pointer)[0]
    return "interior" if data[(number - 1) * PAGE_SIZE] in INTERIOR else "leaf"


def _overflow(data: bytes, owner: str, position: int, sort: int) -> Iterator[Page]:
    """The overflow pages of a cell whose payload is too long for its page."""
    size, position = _varint(data, position)
    if sort == 13:
        _, position = _varint(data, position)
    most = PAGE_SIZE - 35 if sort == 13 else (PAGE_SIZE - 12) * 64 // 255 - 23
    if size <= most:
        return
    least = (PAGE_SIZE - 12) * 32 // 255 - 23
    local = least + (size - least) % (PAGE_SIZE - 4)
    number = struct.unpack_from(">I", data, position + (local if local <= most else least))[0]
    while number:
        yield Page(owner, number, "overflow")
        number = struct.unpack_from(">I", data, (number - 1) * PAGE_SIZE)[0]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for count in range(9):
        byte = data[position + count]
        if count == 8:
            return (value << 8) | byte, position + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, position + count + 1
    raise AssertionError("a varint has nine bytes at most")
