"""What the tests of `check` share: a store with a bit of everything, and ways to break its rows and files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import ObjectKey, Store
from gestalt_cas.checks.findings import Finding
from gestalt_cas.checks.inspection import CheckOptions, CheckReport
from gestalt_cas.transactions.connections import connect
from storage import MIB, flip, key, overwrite, put

LARGE = os.urandom(3 * MIB + 1000)
SMALL = b"a small payload"
TWIN = b"its twin in size"[: len(SMALL)]


def fill(store: Store) -> None:
    """Versions, a marker, an overwritten and a removed version, a shared payload, null versions, a large payload."""
    put(store, "large", LARGE)
    put(store, "small", SMALL)
    put(store, "twin", TWIN)
    put(store, "empty", b"")
    put(store, "twice", b"first")
    put(store, "twice", SMALL, metadata={"colour": "blue"})
    put(store, "gone", b"deleted later")
    store.delete(key("gone"))
    store.delete(ObjectKey("other", "never there"))
    removed = put(store, "removed", b"removed for good")
    store.delete(key("removed"), version_id=removed.version_id)
    store.change_settings({"versioning": "suspended"})
    put(store, "null", b"null version")
    put(store, "null", b"null version again")
    store.change_settings({"versioning": "enabled"})


@pytest.fixture(scope="session", name="filled")
def filled_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with a bit of everything, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "store"
    with Store.open(path) as store:
        fill(store)
    return path


@pytest.fixture(name="directory")
def directory_fixture(filled: Path, tmp_path: Path) -> Path:
    """A copy of the filled store, closed."""
    return Path(shutil.copytree(filled, tmp_path / "store"))


@pytest.fixture(name="store")
def store_fixture(directory: Path) -> Iterator[Store]:
    """A copy of the filled store, open."""
    with Store.open(directory) as opened:
        yield opened


def found(store: Store, **options: Any) -> list[Finding]:
    """The findings of a check."""
    return list(check(store, **options).findings)


def check(store: Store, **options: Any) -> CheckReport:
    return store.check(CheckOptions(**options))


def break_rows(directory: Path, *statements: str) -> None:
    """Change rows of a closed store as no process of ours does, foreign keys or not."""
    with closing(connect(directory / "metadata.sqlite3")) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            connection.execute(statement)


def path_of(directory: Path, data: bytes) -> Path:
    name = blake3(data).hexdigest()
    return directory / "blobs" / name[:2] / name


def hexed(data: bytes) -> str:
    """The digest of a payload as an SQL literal."""
    return f"x'{blake3(data).hexdigest()}'"


def put_back(path: Path, data: bytes) -> None:
    """Copy a good file back under a payload's name, as an operator would, whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_bytes(data)


def _replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


FILE_DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "first chunk": ("bytes", lambda path: flip(path, 5)),
    "middle chunk": ("bytes", lambda path: flip(path, MIB + 77)),
    "last chunk": ("bytes", lambda path: flip(path, -1)),
    "truncated": ("size", lambda path: overwrite(path, LARGE[:-1])),
    "cut to a chunk": ("size", lambda path: overwrite(path, LARGE[:MIB])),
    "lengthened": ("size", lambda path: overwrite(path, LARGE + b"x")),
    "emptied": ("size", lambda path: overwrite(path, b"")),
    "deleted": ("missing", Path.unlink),
    "swapped": ("bytes", lambda path: overwrite(path, LARGE[::-1])),
    "a directory": ("type", lambda path: _replace(path, Path.mkdir)),
    "a dangling link": ("type", lambda path: _replace(path, lambda name: name.symlink_to("nowhere"))),
    "a pipe": ("type", lambda path: _replace(path, os.mkfifo)),
}
"""What may happen to the file of LARGE, and the kind of finding that it is."""
