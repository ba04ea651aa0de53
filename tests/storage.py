"""What the tests of the storage layers share: a look below the store's surface, faults, and child processes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
from blake3 import blake3

from gestalt_cas import ObjectKey, ObjectVersion, Store
from gestalt_cas.errors import DiskFull
from gestalt_cas.objects import ListQuery
from gestalt_cas.transactions.database import Database

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "bucket"
MIB = 1 << 20


def key(name: str, bucket: str = BUCKET) -> ObjectKey:
    return ObjectKey(bucket, name)


def put(store: Store, name: str, data: bytes, **options: Any) -> ObjectVersion:
    return store.write(key(name), [data], **options)


def body(store: Store, name: str, **options: Any) -> bytes:
    with store.read(key(name), **options) as reader:
        return reader.read()


def history(store: Store, name: str) -> list[ObjectVersion]:
    """Every version and marker of one key, newest first; a page may end early on a machine that is busy."""
    page = store.list_versions(ListQuery(BUCKET, prefix=name), only_key=True)
    found = list(page.versions)
    while page.token:
        page = store.list_versions(ListQuery(BUCKET, prefix=name, token=page.token), only_key=True)
        found += page.versions
    return found


def payload_path(store: Store, data: bytes) -> Path:
    """Where the format says the payload is, computed without the code under test."""
    name = blake3(data).hexdigest()
    return store.directory / "blobs" / name[:2] / name


def staged(store: Store) -> list[str]:
    return sorted(entry.name for entry in (store.directory / "staging").iterdir())


def payloads(store: Store) -> list[str]:
    return sorted(path.name for path in (store.directory / "blobs").glob("*/*"))


def rows(store: Store, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Rows of the store's database, through its own connection: nothing else may open the file in this process."""
    with store._database.read() as tx:
        return tx.execute(sql, parameters).fetchall()


def change(store: Store, sql: str, *parameters: object) -> None:
    with store._database.write() as tx:
        tx.execute(sql, parameters)


def damaged(store: Store, data: bytes) -> bool:
    """Whether the row of the payload carries the mark of damage."""
    ((mark,),) = rows(store, "SELECT damaged_ms FROM blobs WHERE digest = ?", blake3(data).digest())
    return mark is not None


def overwrite(path: Path, data: bytes) -> None:
    """Put other bytes under a payload's name, in the same inode, as a failing disk would."""
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(0o400)


def flip(path: Path, position: int) -> None:
    """Change one bit of a payload in place."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    overwrite(path, bytes(data))


class Failing:
    """Stands in for a function and raises at its `at`-th call (from 1), before or `after` doing what it does."""

    def __init__(self, real: Callable[..., Any], error: Exception, *, at: int = 1, after: bool = False) -> None:
        self.real = real
        self.error = error
        self.at = at
        self.after = after
        self.calls = 0

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        """Stand in for a method too."""
        return self if instance is None else partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls != self.at:
            return self.real(*args, **kwargs)
        if self.after:
            self.real(*args, **kwargs)
        raise self.error


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


_PREAMBLE = """
import os, sys, time
from pathlib import Path
from gestalt_cas import Conditions, ObjectKey, Store
arguments = sys.argv[1:]
"""


def _command(code: str, arguments: Iterable[object], preamble: str = _PREAMBLE) -> list[str]:
    return [sys.executable, "-c", preamble + textwrap.dedent(code), *(str(argument) for argument in arguments)]


def _environment() -> dict[str, str]:
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1"}


def child(code: str, *arguments: object, expect: int = 0, timeout: float = 240) -> str:
    """Run code in a process of its own and return its output; fails unless it exits with `expect`."""
    return _run(_command(code, arguments), expect, timeout)


def bare(code: str, *arguments: object) -> str:
    """As `child`, but nothing is imported before the code."""
    return _run(_command(code, arguments, preamble=""), 0)


def inside(wrapper: Iterable[str], code: str, *arguments: object) -> str:
    """As `child`, started by another program."""
    return _run([*wrapper, *_command(code, arguments)], 0)


def on_a_small_disk(code: str, mebibytes: int, *arguments: object) -> None:
    """Run code in a process whose first argument is a path on an empty file system of its own of this size."""

    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1) for a file system of its own")
    mount = f'mount -t tmpfs -o size={mebibytes}m tmpfs "$1" && shift && exec "$@"'
    wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", "/mnt"]
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode:
        pytest.skip("may not mount a file system of its own")
    inside(wrapper, code, "/mnt/store", *arguments)


def _run(command: list[str], expect: int, timeout: float = 240) -> str:
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Child:
    """Code running in a process of its own: a context manager that kills what has not ended."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            _command(code, arguments),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next line that it prints; fails with its stderr when it ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, errors = self.process.communicate()
            raise AssertionError(f"the child ended with {self.process.returncode}: {errors}")
        return line.strip()

    def tell(self, text: str = "") -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def finish(self, expect: int = 0, timeout: float = 240) -> str:
        """Wait for its end and return the rest of its output."""
        out, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode == expect, f"exit {self.process.returncode}\n{out}\n{errors}"
        return out

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def run_together(children: Sequence[Child]) -> None:
    """Have children that print a line when they are ready, and then wait for one, go on at the same time to the end."""
    try:
        for process in children:
            assert process.line() == "ready"
        for process in children:
            process.tell()
        for process in children:
            process.finish()
    finally:
        for process in children:
            process.__exit__()


SERVER = """
    with Store.open(arguments[0]) as store:
        assert store.claim_server()
        print("serving", flush=True)
        sys.stdin.readline()
"""
"""A child that serves a store until it is told a line."""


def full_at_every_other_commit(patch: pytest.MonkeyPatch) -> list[int]:
    """Have the first of every two COMMITs fail for want of room; the list's number counts those that were tried."""
    real, tried = Database._commit, [0]

    def commit(database: Database, connection: Any) -> None:
        tried[0] += 1
        if tried[0] % 2:
            connection.execute("ROLLBACK")
            raise DiskFull("the disk is full")
        real(database, connection)

    patch.setattr(Database, "_commit", commit)
    return tried
