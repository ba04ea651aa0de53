"""Opening a store: what is made, completed or refused, and that an open which fails closes what it has."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from gestalt_cas import Store
from gestalt_cas.errors import NoStore, SettingsConflict, StorageFault, StoreError, StoreFull, StoreUnusable
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.reserve import Reserve
from gestalt_cas.operations import parts
from gestalt_cas.transactions.database import Database
from storage import SERVER, Child, Failing, body, broken, full, history, put

DATA = b"some bytes" * 100


def test_open_makes_a_store_once(tmp_path: Path) -> None:
    directory = tmp_path / "parent" / "store"
    with Store.open(directory) as store:
        assert store.directory == directory
        put(store, "k", DATA)
    with Store.open(os.fspath(directory), create=False) as store:
        assert body(store, "k") == DATA


def test_the_tree_and_its_modes(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with Store.open(directory) as store:
        put(store, "k", DATA)
        assert directory.stat().st_mode & 0o777 == 0o700
        names = {path.name for path in directory.iterdir()}
        assert names >= {"metadata.sqlite3", "blobs", "staging", "write.lock", "turnstile.lock", "schema.lock"}
        fan_out = sorted(path.name for path in (directory / "blobs").iterdir())
        assert fan_out == [f"{number:02x}" for number in range(256)]
        for path in directory.rglob("*"):
            mode = path.stat().st_mode & 0o777
            payload = path.is_file() and path.parent.parent.name == "blobs"
            assert mode == (0o700 if path.is_dir() else 0o400 if payload else 0o600), path


def test_without_create_nothing_is_made(tmp_path: Path) -> None:
    for directory in (tmp_path / "absent", tmp_path):
        with pytest.raises(NoStore):
            Store.open(directory, create=False)
    assert not list(tmp_path.iterdir())


def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"jpeg")
    with pytest.raises(StoreUnusable, match=r"holiday\.jpg"):
        Store.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreUnusable, match="file"):
            Store.open(path)


def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StoreUnusable, match="not writable"):
        Store.open(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "expected"), [(full(), StoreFull), (broken(), StoreUnusable)])
def test_a_tree_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: type[StoreError]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", Failing(Path.mkdir, error, at=100))
        with pytest.raises(expected):
            Store.open(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        put(store, "k", DATA)


def test_a_tree_that_was_half_made_is_completed(tmp_path: Path) -> None:
    for name in ("blobs/00", "blobs/01", "staging"):
        (tmp_path / name).mkdir(parents=True)
    with Store.open(tmp_path) as store:
        put(store, "k", DATA)
    assert len(list((tmp_path / "blobs").iterdir())) == 256


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("refused", ["turnstile.lock", "write.lock", "schema.lock", "server.lock"])
def test_what_the_system_refuses_while_opening_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool, refused: str
) -> None:
    Store.open(tmp_path / "store").close()
    descriptors = len(os.listdir("/proc/self/fd"))
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name == refused:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreUnusable, match="Permission denied"):
        Store.open(tmp_path / "store", create=create)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_an_open_that_fails_closes_what_it_has(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    with Child(SERVER, tmp_path / "store") as server:
        assert server.line() == "serving"
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SettingsConflict):
            Store.open(tmp_path / "store", settings={"versioning": "suspended"})
        assert len(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize(
    ("error", "no_room", "expected"),
    [
        (full(), False, StoreFull),
        (StorageFault("cannot open"), True, StoreFull),
        (broken(), False, StoreUnusable),
        (StorageFault("cannot open"), False, StorageFault),
    ],
)
def test_a_full_disk_while_opening_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, no_room: bool, expected: type[StoreError]
) -> None:
    """SQLite says that it cannot open a file whose shared memory finds no room."""
    monkeypatch.setattr(parts, "Database", Failing(Database, error))
    monkeypatch.setattr(Layout, "full", lambda self: no_room)
    monkeypatch.setattr(Reserve, "give_up", lambda self: False)
    with pytest.raises(expected):
        Store.open(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        put(store, "k", DATA)


def test_the_directory_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("store") as store:
        monkeypatch.chdir("/")
        put(store, "k", DATA)
        assert body(store, "k") == DATA
        assert store.directory == tmp_path / "store"


def test_many_openers_in_one_process(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as first, Store.open(tmp_path / "store") as second:
        put(first, "k", b"one")
        assert body(second, "k") == b"one"
        put(second, "k", b"two")
        assert body(first, "k") == b"two"
        second.close()
        put(first, "k", b"three")
    with Store.open(tmp_path / "store") as again:
        assert len(history(again, "k")) == 3
