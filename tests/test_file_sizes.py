"""A file that may not grow any further: the limit on the size of one is named, and all that it leaves room for goes on.

The limit is the process's own (`ulimit -f`); that of a file system fails with the same error.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from command_line import PROGRAM, Result, environment, one_line, process
from driver_aids import driver_error
from gestalt_cas import ListQuery, ObjectKey, Store
from gestalt_cas.errors import FileSizeLimit, ObjectTooLarge, OutcomeUnknown, StoreError
from gestalt_cas.files import reserve
from gestalt_cas.sql import sqlite
from gestalt_cas.system import refusals
from gestalt_cas.transactions import wal_file
from storage import MIB
from test_limits import by_url
from wire import protos
from wire.client import Client, refused, status_of
from wire.process import Server

LIMIT = 2 * MIB
TOO_LONG, FITS = os.urandom(3 * MIB), os.urandom(MIB)
REMEDY = "a higher limit on the size of files (ulimit -f, LimitFSIZE=; it is 2.0MB) would help"
STORED = ["first", "put/a", "put/z", "sync/a", "sync/z"]
NO_LONGER = "a file of the database may not grow any further"


def limit(pid: int, longest: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))


@contextmanager
def limited(longest: int) -> Iterator[None]:
    """A limit on this process's files."""
    limit(os.getpid(), longest)
    try:
        yield
    finally:
        limit(os.getpid(), resource.RLIM_INFINITY)


def verb(*words: str | Path, longest: int = LIMIT) -> Result:
    """The command under a limit; by a shell, which counts in blocks of 512 bytes."""
    script = f'ulimit -f {longest // 512}; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PROGRAM, *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        env=environment(),
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


def checked(data_dir: Path) -> None:
    found = process("check", "--read-data", "--data-dir", data_dir)
    assert found.code == 0, found


# ---- a server ----


@pytest.mark.parametrize("inline", [0, MIB // 2])
def test_a_longer_upload_is_too_large_and_leaves_nothing(inline: int) -> None:
    """It was INTERNAL and 500, as if the disk had failed, and told whoever had a URL where the store lies."""
    with Server(f"blobs.inlineMaxBytes={inline}") as server, Client(server.target, protos.BUCKETED) as client:
        client.write("before", TOO_LONG)
        limit(server.pid, LIMIT)
        with refused(grpc.StatusCode.UNIMPLEMENTED, "larger than a file may be here", REMEDY):
            client.write("k", TOO_LONG)
        status, text = by_url(client, "PUT", TOO_LONG)
        assert (status, b"<Code>EntityTooLarge</Code>" in text) == (413, True), text
        assert REMEDY in text.decode()
        assert str(server.data_dir) not in text.decode()
        assert not server.staged()
        assert status_of(lambda: client.head("k")) is grpc.StatusCode.NOT_FOUND

        client.write("k", FITS)
        assert by_url(client, "PUT", FITS, "by URL")[0] == 200
        assert client.body("before") == TOO_LONG
        limit(server.pid, resource.RLIM_INFINITY)
        client.write("k", TOO_LONG)
        assert client.body("k") == TOO_LONG
        server.stop()
        assert "ERROR" not in server.stderr
        checked(server.data_dir)


def test_small_writes_go_on_when_the_wal_is_that_long() -> None:
    """One in some fifty was told that its outcome is unknown, and the whole database was read each time."""
    with Server() as server, Client(server.target, protos.BUCKETED) as client:
        client.write("first")
        limit(server.pid, MIB)
        for number in range(150):
            client.write(f"{number:03}", bytes([number]))
        for number in range(50):
            client.delete(f"{number:03}")
        wal = server.data_dir / "metadata.sqlite3-wal"
        assert wal.stat().st_size <= MIB
        assert len(client.keys()) == 101
        server.stop()
        assert "reopened after a fault" not in server.stderr
        assert "ERROR" not in server.stderr
        checked(server.data_dir)


def test_a_database_that_may_not_grow_refuses_what_grows_it_and_loses_nothing() -> None:
    """The outcome was unknown each time; it is known, and the message says what would help."""
    body = os.urandom(30_000)
    with Server("blobs.inlineMaxBytes=65536") as server, Client(server.target, protos.BUCKETED) as client:
        limit(server.pid, LIMIT)
        stored: list[str] = []
        with suppress(grpc.RpcError):
            while len(stored) < 200:
                client.write(f"{len(stored) + 1:03}", body + bytes([len(stored) + 1]))
                stored.append(f"{len(stored) + 1:03}")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, NO_LONGER, REMEDY):
            client.write("refused", body)
        status, text = by_url(client, "PUT", body)
        assert (status, b"<Code>InsufficientStorage</Code>" in text) == (507, True), text
        assert client.keys() == stored
        assert client.body("001") == body + bytes([1])
        limit(server.pid, resource.RLIM_INFINITY)
        client.write("after", body)
        assert client.keys() == [*stored, "after"]
        server.stop()
        assert "reopened after a fault" not in server.stderr
        assert "ERROR" not in server.stderr
        checked(server.data_dir)


# ---- a store in this process ----


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "d") as store:
        store.write(ObjectKey("b", "first"), [b"x"])
        yield store


def fill_the_wal(store: Store, longest: int) -> None:
    number = 0
    while store._database.wal_taken() < longest - MIB // 8:
        number += 1
        store.write(ObjectKey("b", f"w/{number}"), [b"x"])


def test_a_large_transaction_finds_the_wal_at_its_beginning(store: Store) -> None:
    """It would not fit in behind what is there, and cannot be tried again as a small one can."""
    fill_the_wal(store, MIB)
    with limited(MIB):
        with store.transaction() as changes:
            for number in range(200):
                changes.copy(ObjectKey("b", "first"), ObjectKey("b", f"{number:0500}"))
        assert store.head(ObjectKey("b", f"{7:0500}")).size == 1


def test_a_small_write_is_tried_again_with_the_wal_at_its_beginning(store: Store) -> None:
    with limited(MIB):
        for number in range(60):
            store.write(ObjectKey("b", f"{number}"), [b"x"])
    assert store.usage("b").objects == 61
    assert store._database.wal_bytes <= MIB


def test_a_transaction_that_is_too_large_changes_nothing(store: Store) -> None:
    with limited(MIB // 2):
        changes = store.transaction()
        for number in range(1000):
            changes.copy(ObjectKey("b", "first"), ObjectKey("b", f"{number:0900}"))
        with pytest.raises(FileSizeLimit, match=NO_LONGER):
            changes.commit()
        store.write(ObjectKey("b", "small"), [b"x"])
    assert store.usage("b").objects == 2
    assert not store._database.fault


def test_a_removal_does_not_give_up_the_reserve_for_it(store: Store) -> None:
    path, tries = store.directory / "reserve", []
    before = path.stat()

    def removal() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise FileSizeLimit("the WAL is that long")
        return "removed"

    assert store._parts.reserve.spend_on(removal) == "removed"
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert len(tries) == 2


def test_what_is_kept_for_worse_days_is_as_long_as_it_may_be(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server tried once a second, and logged each time that it could not."""
    caplog.set_level(logging.INFO)
    for module in (wal_file, reserve):
        monkeypatch.setattr(module, "free_bytes", lambda _: 1 << 30)
    path, longest = store.directory / "reserve", MIB // 32
    path.unlink()
    with limited(longest):
        for _ in range(2):
            assert store._parts.reserve.make()
    assert path.stat().st_size == longest
    with limited(LIMIT):
        for _ in range(2):
            store._database.tend_wal()
    assert store._database.wal_bytes == LIMIT
    assert not caplog.messages


@pytest.mark.parametrize(
    ("code", "outcome"), [(sqlite._IOERR_WRITE, FileSizeLimit), (sqlite._IOERR_SHMSIZE, OutcomeUnknown)]
)
def test_only_a_wal_that_was_not_written_is_a_known_outcome(
    store: Store, code: int, outcome: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of the WAL is written once the transaction is whole and synced: a crash would find it."""
    real = store._database._writer

    class Refused:
        system_errno = errno.EFBIG

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def execute(self, sql: str, *values: object) -> object:
            if sql == "COMMIT":
                real.execute("ROLLBACK")  # type: ignore[union-attr]
                error = driver_error(code & 0xFF)
                error.extendedresult = code  # type: ignore[attr-defined]
                raise error
            return real.execute(sql, *values)  # type: ignore[union-attr]

    monkeypatch.setattr(store._database, "_writer", Refused())
    with pytest.raises(outcome), store._database.write():
        pass
    assert bool(store._database._faults.due) == (outcome is OutcomeUnknown)


def test_without_a_limit_of_the_process_it_is_the_file_systems(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "writev", refuse)
    with pytest.raises(ObjectTooLarge, match="here; a file system that takes larger files would help"):
        store.write(ObjectKey("b", "k"), [b"x"])
    assert not list((store.directory / "staging").iterdir())
    assert refusals.longest_file() is None


# ---- verbs ----


@pytest.fixture(name="source")
def source_fixture(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    for name, body in (("a", b"a"), ("long", TOO_LONG), ("z", FITS)):
        (source / name).write_bytes(body)
    return source


def test_of_many_files_only_the_longer_ones_are_left_out(store: Store, source: Path, tmp_path: Path) -> None:
    """The first of them ended `put -r` and `sync` as a failed disk, code 4."""
    at = ("--data-dir", store.directory)
    for words in (("put", "-r", *at, source, "b/put"), ("sync", *at, source, "b/sync")):
        done = verb(*words)
        assert done.code == 2, done
        assert one_line(done).startswith(f"skipped {source}/long: the object is larger than a file may be here; ")
        assert REMEDY in done.err
    assert [version.key.key for version in store.list_page(ListQuery("b")).objects] == STORED

    one = verb("put", *at, source / "long", "b/one")
    assert (one.code, REMEDY in one_line(one)) == (2, True), one
    changes = tmp_path / "changes"
    changes.write_text(
        "".join(f"{json.dumps({'op': 'put', 'key': f'b/{name}', 'file': str(source / name)})}\n" for name in "az")
        + json.dumps({"op": "put", "key": "b/long", "file": str(source / "long")})
    )
    batch = verb("batch", *at, changes)
    assert (batch.code, REMEDY in one_line(batch)) == (2, True), batch
    assert store.usage("b").objects == len(STORED)
    assert not list((store.directory / "staging").iterdir())


def test_what_is_got_names_the_limit_and_leaves_no_part_of_it(store: Store, source: Path, tmp_path: Path) -> None:
    """`get` ended with code 2, as if its command line were wrong, and nothing said what would help."""
    at, target = ("--data-dir", store.directory), tmp_path / "target"
    target.mkdir()
    for path in source.iterdir():
        store.write(ObjectKey("b", f"p/{path.name}"), [path.read_bytes()])
    one = verb("get", *at, "b/p/long", target / "long")
    assert one.code == 5, one
    assert one_line(one) == f"long: File too large; {REMEDY}"
    assert not list(target.iterdir())
    many = verb("get", "-r", *at, "b/p", target)
    assert many.code == 1, many
    assert one_line(many) == f"skipped b/p/long: File too large; {REMEDY}"
    assert sorted(path.name for path in target.iterdir()) == ["a", "z"]
    with (tmp_path / "stdout").open("wb") as stdout:
        script = f'ulimit -f {LIMIT // 512}; exec "$@"'
        words = ["sh", "-c", script, "sh", *PROGRAM, "cat", *map(str, at), "b/p/long"]
        done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, env=environment(), timeout=60, text=True)
    assert (done.returncode, done.stderr) == (5, f"gestalt-cas: stdout: File too large; {REMEDY}\n")


def test_a_backup_and_a_restore_name_the_limit_and_are_taken_up_without_it(store: Store, tmp_path: Path) -> None:
    """Both ended as a failed disk, code 4."""
    at, backup, restored = ("--data-dir", store.directory), tmp_path / "backup", tmp_path / "restored"
    store.write(ObjectKey("b", "long"), [TOO_LONG])
    done = verb("backup", *at, backup)
    assert (done.code, REMEDY in done.err, "there is no complete backup" in done.err) == (5, True, True), done
    assert process("backup", *at, backup).code == 0
    done = verb("restore", backup, restored)
    assert (done.code, REMEDY in done.err, "is no store yet" in done.err) == (5, True, True), done
    assert process("restore", backup, restored).code == 0
    checked(restored)


def test_rows_that_do_not_fit_into_a_file_name_the_limit(store: Store, tmp_path: Path) -> None:
    """A connection that had been closed was complained of."""
    at, backup = ("--data-dir", store.directory), tmp_path / "backup"
    assert process("backup", *at, backup).code == 0
    for words in (("backup", *at, tmp_path / "other"), ("restore", backup, tmp_path / "restored")):
        done = verb(*words, longest=MIB // 16)
        assert done.code == 5, done
        assert NO_LONGER in one_line(done)
        assert "ulimit -f" in done.err


@pytest.mark.parametrize("longest", [4096, 16384])
def test_a_store_that_cannot_even_be_opened_with_such_files_says_why(store: Store, longest: int) -> None:
    """It was a failed disk, code 4."""
    store.close()
    for words in (("ls", "b/"), ("put", __file__, "b/k")):
        done = verb(words[0], "--data-dir", store.directory, *words[1:], longest=longest)
        assert done.code == 5, done
        assert NO_LONGER in one_line(done)
        assert "ulimit -f" in done.err
