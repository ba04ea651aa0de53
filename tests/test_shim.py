"""The preloaded library: what it records is what was done, in order, and faults befall the operation that was named."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crash import shim
from crash.shim import Fault, Op
from storage import ROOT

try:
    shim.build()
except shim.Unavailable as reason:
    pytest.skip(str(reason), allow_module_level=True)


def run(code: str, root: Path, *, log: Path | None = None, fault: tuple[int, Fault, bool] | None = None) -> str:
    """Run code below `root`, with `faults` and `attempt` at hand; returns what it printed."""
    preamble = """
import errno, os, sys, threading
from pathlib import Path
from crash.shim import Fault, Faults
def attempt(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
os.chdir(sys.argv[1])
"""
    added = shim.environment(root, log=log, fault=fault)
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", preamble + textwrap.dedent(code), str(root)],
        env={**os.environ, **added, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def recorded(code: str, tmp_path: Path, **options: object) -> list[shim.Entry]:
    root = tmp_path / "root"
    root.mkdir()
    run(code, root, log=tmp_path / "log")
    return shim.read(tmp_path / "log")


def test_records_what_was_done_in_order(tmp_path: Path) -> None:
    entries = recorded(
        """
        fd = os.open("a", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"one")
        os.writev(fd, [b"two", b"three"])
        os.pwrite(fd, b"T", 3)
        os.ftruncate(fd, 9)
        os.posix_fallocate(fd, 0, 100)
        os.fdatasync(fd)
        os.mkdir("d")
        os.link("a", "d/b")
        directory = os.open("d", os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        os.close(fd)
        os.rename("d/b", "d/c")
        os.unlink("a")
        attempt(os.unlink, "a")
        os.open("/dev/null", os.O_WRONLY)
        os.unlink("d/c")
        os.rmdir("d")
        """,
        tmp_path,
    )
    assert [str(entry) for entry in entries] == [
        "open a",
        "write a [0+3]",
        "write a [3+8]",
        "write a [3+1]",
        "truncate a [0+9]",
        "allocate a [0+100]",
        "sync a",
        "mkdir d",
        "link a → d/b",
        "open d",
        "sync d",
        "close d",
        "close a",
        "rename d/b → d/c",
        "unlink a",
        f"unlink a failed: {os.strerror(errno.ENOENT)}",
        "unlink d/c",
        "rmdir d",
    ]
    assert [entry.data for entry in entries[1:4]] == [b"one", b"twothree", b"T"]
    assert entries[0].created
    assert entries[6].flags & shim.DATA_ONLY
    assert entries[10].is_directory
    assert {entry.inode for entry in entries if entry.path in ("a", "d/b", "d/c") and entry.inode} == {entries[0].inode}
    assert entries[10].inode == entries[7].inode == entries[8].other_directory == entries[13].directory


def test_records_names_by_descriptor_appends_and_copies_of_descriptors(tmp_path: Path) -> None:
    entries = recorded(
        """
        os.mkdir("d")
        at = os.open("d", os.O_RDONLY)
        fd = os.open("f", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600, dir_fd=at)
        os.write(fd, b"one")
        twin = os.dup(fd)
        os.close(fd)
        os.write(twin, b"two")
        os.rename("f", "../g", src_dir_fd=at, dst_dir_fd=at)
        os.truncate("g", 2)
        os.open("g", os.O_WRONLY | os.O_TRUNC)
        """,
        tmp_path,
    )
    shown = [str(entry) for entry in entries if entry.op is not Op.CLOSE]
    assert shown == [
        "mkdir d",
        "open d",
        "open d/f",
        "write d/f [0+3]",
        "write d/f [3+3]",
        "rename d/f → g",
        "truncate g [0+2]",
        "open g",
    ]
    assert entries[-1].length == 2
    assert not entries[-1].created


def test_sees_every_write_of_sqlite(tmp_path: Path) -> None:
    root = tmp_path / "root"
    entries = recorded(
        """
        from gestalt_cas.sql import sqlite
        connection = sqlite.connect(Path("data"))
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(os.urandom(5000),) for _ in range(20)])
        connection.execute("PRAGMA wal_checkpoint").fetchall()
        os._exit(0)
        """,
        tmp_path,
    )
    for name in ("data", "data-wal"):
        seen = bytearray()
        for entry in entries:
            if entry.path == name and entry.op is Op.WRITE:
                seen.extend(bytes(max(0, entry.offset + entry.result - len(seen))))
                seen[entry.offset : entry.offset + entry.result] = entry.data
        assert bytes(seen) == (root / name).read_bytes()
    assert {entry.path for entry in entries if entry.op is Op.MAP} <= {"data-shm"}
    assert sum(entry.op is Op.SYNC and entry.path == "data-wal" for entry in entries) > 20


def test_threads_and_processes_share_a_log_in_the_order_of_execution(tmp_path: Path) -> None:
    """Each writes to one file through O_APPEND, so the file shows the order in which the kernel took the writes."""
    entries = recorded(
        """
        fd = os.open("a", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        def work(name):
            for number in range(200):
                os.write(fd, f"{os.getpid()} {name} {number}\\n".encode())
        os.fork()
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        attempt(os.wait)
        """,
        tmp_path,
    )
    writes = [entry for entry in entries if entry.op is Op.WRITE]
    assert len(writes) == 1200
    assert len({entry.pid for entry in writes}) == 2
    assert b"".join(entry.data for entry in writes) == (tmp_path / "root" / "a").read_bytes()


def test_marks_stand_in_order(tmp_path: Path) -> None:
    entries = recorded('f = Faults(); f.mark("begin 1"); os.mkdir("d"); f.mark("answered 1")', tmp_path)
    assert [str(entry) for entry in entries] == ["mark begin 1", "mkdir d", "mark answered 1"]


STEPS = {
    "write": 'os.write(fd, b"12345678")',
    "sync": "os.fsync(fd)",
    "allocate": "os.posix_fallocate(fd, 0, 100)",
    "open": 'os.close(os.open("a", os.O_RDONLY))',
    "link": 'os.link("a", "b")',
    "unlink": 'os.unlink("b")',
}


@pytest.mark.parametrize(
    ("kind", "fitting", "shown"),
    [
        (Fault.ENOSPC, ["write", "sync", "allocate", "link"], "ENOSPC"),
        (Fault.EIO, list(STEPS), "EIO"),
        (Fault.SHORT_WRITE, ["write"], "4"),
        (Fault.FAILED_SYNC, ["sync"], "EIO"),
    ],
)
@pytest.mark.parametrize("sticky", [False, True])
def test_the_nth_fitting_operation_fails(
    tmp_path: Path, kind: Fault, fitting: list[str], shown: str, sticky: bool
) -> None:
    for number, name in enumerate(fitting, 1):
        root = tmp_path / name
        root.mkdir()
        code = f"""
        fd = os.open("a", os.O_RDWR | os.O_CREAT, 0o600)
        with Faults().armed({number}, Fault({int(kind)}), sticky={sticky}) as faults:
            for step in {list(STEPS.values())}:
                print(attempt(lambda: eval(step)))
        print(faults.fired, faults.fitting, faults.counted)
        """
        *ends, counts = run(code, root).splitlines()
        hit = fitting[number - 1 :] if sticky else [name]
        expected = {step: "8" if step == "write" else "None" for step in STEPS} | dict.fromkeys(hit, shown)
        if "link" in hit and "unlink" not in hit:
            expected["unlink"] = "ENOENT"
        assert dict(zip(STEPS, ends, strict=True)) == expected
        assert counts == f"{len(hit)} {len(fitting)} 6"


def test_descriptors_run_out_and_interruptions_are_tried_again(tmp_path: Path) -> None:
    code = """
    faults = Faults()
    with faults.armed(1, Fault.EMFILE):
        print(attempt(os.open, "a", os.O_RDWR | os.O_CREAT), Path("a").exists())
    with faults.armed(1, Fault.EINTR):
        fd = os.open("a", os.O_RDWR | os.O_CREAT)
        print(faults.fired, faults.fitting)
    """
    assert run(code, tmp_path).splitlines() == ["EMFILE False", "1 2"]


def test_a_fault_from_the_start_of_a_process_is_recorded_as_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code = 'print(attempt(os.mkdir, "a"), attempt(os.mkdir, "b"), attempt(os.mkdir, "c"))'
    assert run(code, root, log=tmp_path / "log", fault=(2, Fault.ENOSPC, False)) == "None ENOSPC None"
    faults = [entry.fault for entry in shim.read(tmp_path / "log") if entry.op is Op.MKDIR]
    assert faults == [None, Fault.ENOSPC, None]
    assert not (root / "b").exists()


def test_a_short_write_writes_half(tmp_path: Path) -> None:
    code = """
    fd = os.open("a", os.O_RDWR | os.O_CREAT)
    with Faults().armed(1, Fault.SHORT_WRITE):
        print(os.writev(fd, [b"abc", b"defg", b"hij"]))
    """
    assert run(code, tmp_path) == "5"
    assert (tmp_path / "a").read_bytes() == b"abcde"


def test_without_the_library_there_are_no_faults_to_arm() -> None:
    with pytest.raises(shim.Unavailable):
        shim.Faults()
