"""What serves where a dependency has no wheel, as pysqlite3 on 64-bit Arm: tested here, whatever this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from storage import child

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_PYSQLITE = """
import sqlite3, sys
sys.modules["pysqlite3"] = None
from gestalt_cas import cli, sqlite
assert sqlite.driver is sqlite3
assert "of the interpreter" in sqlite.describe()
sys.argv[0] = "gestalt-cas"
cli.main()
"""


def cas(*arguments: str, data: bytes = b"") -> bytes:
    """Run the command in a process that has no pysqlite3."""
    command = [sys.executable, "-c", WITHOUT_PYSQLITE, *arguments]
    done = subprocess.run(command, cwd=ROOT, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_interpreters_sqlite_does_all_that_a_store_needs(tmp_path: Path) -> None:
    store, backup, restored = (str(tmp_path / name) for name in ("store", "backup", "restored"))
    cas("init", "--data-dir", store)
    body = bytes(range(256)) * 8192
    for number in range(3):
        cas("put", "--data-dir", store, "-", f"photos/{number}", data=body + bytes([number]))
    cas("rm", "--data-dir", store, "photos/1")
    cas("batch", "--data-dir", store, "-", data=b'{"op": "copy", "from": "photos/0", "key": "photos/3"}\n')
    cas("check", "--data-dir", store, "--read-data")
    cas("gc", "--data-dir", store)
    cas("backup", "--data-dir", store, backup)
    cas("restore", backup, restored)
    cas("check", "--data-dir", restored, "--read-data")
    assert cas("cat", "--data-dir", restored, "photos/3") == body + bytes([0])
    assert cas("ls", "--data-dir", restored, "photos/").split() == [b"0", b"2", b"3"]


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [("linux", "x86_64", True), ("linux", "aarch64", False), ("darwin", "arm64", True), ("darwin", "x86_64", False)],
)
def test_pysqlite3_is_asked_for_where_it_has_wheels(system: str, machine: str, wanted: bool) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (requirement,) = (found for line in lines if (found := Requirement(line)).name == "pysqlite3")
    assert requirement.marker is not None
    cpython = {"implementation_name": "cpython", "python_version": "3.11"}
    assert requirement.marker.evaluate({**cpython, "sys_platform": system, "platform_machine": machine}) is wanted


def test_messages_on_protobuf_in_pure_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    code = """
        from google.protobuf.internal import api_implementation
        assert api_implementation.Type() == "python"
        from gestalt_cas import wire_pb2
        ref = wire_pb2.ObjectRef(bucket="b", key="grüße", version_id="v")
        request = wire_pb2.ReadObjectRequest(ref=ref)
        request.range.start = 0
        again = wire_pb2.ReadObjectRequest.FromString(request.SerializeToString())
        assert again == request
        assert again.range.HasField("start") and not again.range.HasField("end")
        print("ok")
    """
    assert "python" in os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"]
    assert child(code) == "ok\n"
