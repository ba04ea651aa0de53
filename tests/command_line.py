"""Running `gestalt-cas` for tests, in this process or as one of its own; a test module imports the fixtures it uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gestalt_cas import ObjectKey, ObjectVersion, Store
from gestalt_cas.cli.app import run

PROGRAM = [sys.executable, "-m", "gestalt_cas"]
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON objects of stdout, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record

    @property
    def actions(self) -> list[tuple[str, str]]:
        """(action, key or path) of a run over a tree; names for what was skipped."""
        return [
            (record["action"], str(record.get("key", record.get("path", record.get("name")))))
            for record in self.records
            if "action" in record
        ]

    @property
    def summary(self) -> dict[str, Any]:
        summary = self.records[-1]["summary"]
        assert isinstance(summary, dict)
        return summary


Command = Callable[..., Result]


def command_in(data_dir: Path, capture: pytest.CaptureFixture[bytes]) -> Command:
    """The command on a data directory, run in this process."""

    def call(*words: str | Path) -> Result:
        capture.readouterr()
        code = run(["--data-dir", str(data_dir), *map(str, words)])
        captured = capture.readouterr()
        return Result(code, captured.out, captured.err.decode(errors="backslashreplace"))

    return call


def environment() -> dict[str, str]:
    """This process's, without a data directory, and with this checkout to import from."""
    kept = {name: value for name, value in os.environ.items() if name != "GESTALT_CAS_DATA_DIR"}
    return {**kept, "PYTHONPATH": str(ROOT)}


def process(*words: str | Path, data: bytes = b"", **options: Any) -> Result:
    """The command as a process of its own, with `data` on stdin."""
    done = subprocess.run(
        [*PROGRAM, *map(str, words)], input=data, capture_output=True, timeout=120, env=environment(), **options
    )
    return Result(done.returncode, done.stdout, done.stderr.decode(errors="backslashreplace"))


def blob_of(data_dir: Path, digest: str) -> Path:
    return data_dir / "blobs" / digest[:2] / digest


def damage(path: Path) -> None:
    """Flip one bit in the middle of a read-only file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


@pytest.fixture(scope="module", name="data_dir")
def data_dir_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store's directory, one for each module."""
    path = tmp_path_factory.mktemp("data") / "store"
    Store.open(path).close()
    return path


@pytest.fixture(name="store")
def store_fixture(data_dir: Path) -> Iterator[Store]:
    """The same store, open here as well, as a server would have it."""
    with Store.open(data_dir) as opened:
        yield opened


@pytest.fixture(name="cas")
def cas_fixture(data_dir: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command on that store, run in this process."""
    monkeypatch.delenv("GESTALT_CAS_DATA_DIR", raising=False)
    return command_in(data_dir, capsysbinary)


@pytest.fixture(name="bucket")
def bucket_fixture(request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own."""
    return str(request.node.name).partition("[")[0][-60:]


def write(store: Store, bucket: str, key: str, content: bytes = b"content") -> ObjectVersion:
    """Store an object."""
    return store.write(ObjectKey(bucket, key), [content])


def one_line(result: Result) -> str:
    """The one line that the command had to say on stderr, without the program's name."""
    (line,) = result.err.splitlines()
    assert line.startswith("gestalt-cas: ")
    return line.removeprefix("gestalt-cas: ")
