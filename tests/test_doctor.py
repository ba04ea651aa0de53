"""The doctor: it sees each thing that is wrong, says what to do, changes nothing and needs no sound store."""

from __future__ import annotations

import errno
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import PROGRAM, Command, command_in, environment, one_line
from gestalt_cas import Store
from gestalt_cas.clock import now_ms
from gestalt_cas.doctor import disk as doctor_disk
from gestalt_cas.doctor import process as doctor_process
from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.doctor.examining import examine
from gestalt_cas.errors import NoStore
from gestalt_cas.keeping import pins
from gestalt_cas.sql import sqlite
from storage import Child, broken, change, child, full, overwrite, put
from wire.process import Server

OK, NOTE, WARNING, ERROR, DAMAGE = Severity


@pytest.fixture(name="directory")
def directory_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store at rest, checked and backed up just now, with one object and a reserve as large as it should be."""
    monkeypatch.setattr("gestalt_cas.files.reserve._LARGEST", 16 << 20)
    with Store.open(tmp_path / "store") as store:
        put(store, "k", b"x" * 100)
        for name in ("check.last", "backup.last"):
            store.note(name, {"at_ms": now_ms()})
    return tmp_path / "store"


def found(directory: Path, subject: str) -> list[Finding]:
    return [finding for finding in examine(directory) if finding.subject == subject]


def worst(directory: Path, subject: str) -> Finding:
    return max(found(directory, subject), key=lambda finding: finding.severity)


def tree(directory: Path) -> dict[str, tuple[int, ...]]:
    """Everything below, with what a change would show in."""
    paths = [directory, *directory.rglob("*")]
    return {
        str(path): (status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
        for path in paths
        for status in [path.lstat()]
    }


# ---- what it leaves alone ----


def test_a_sound_store_has_nothing_to_be_done(directory: Path) -> None:
    findings = examine(directory)
    assert {finding.subject for finding in findings if finding.severity > NOTE} <= {"file system", "syncs", "limits"}
    assert {"permissions", "room", "database", "clock", "server", "locks"} <= {finding.subject for finding in findings}


@pytest.mark.parametrize("state", ["at rest", "open", "killed"])
def test_it_changes_nothing(directory: Path, state: str) -> None:
    opened = Store.open(directory) if state == "open" else None
    if state == "killed":
        code = "store = Store.open(arguments[0]); store.write(ObjectKey('b', 'k'), [b'x']); os.kill(os.getpid(), 9)"
        child(code, directory, expect=-signal.SIGKILL)
        assert (directory / "metadata.sqlite3-wal").stat().st_size
    # The shared memory of a database in use is where readers note down how far they read.
    before = {path: what for path, what in tree(directory).items() if not path.endswith(("-shm", "staging"))}
    examine(directory)
    after = {path: what for path, what in tree(directory).items() if not path.endswith(("-shm", "staging"))}
    assert after == before
    assert list((directory / "staging").iterdir()) == []
    if opened is not None:
        put(opened, "later", b"x")
        opened.close()


def test_it_is_safe_beside_a_server_and_sees_it() -> None:
    with Server() as server:
        findings = examine(server.data_dir)
        texts = [finding.text for finding in findings]
        assert f"process {server.pid} serves this directory" in texts
        assert {finding.subject: finding.severity for finding in findings}["port"] is OK
        port = int(server.ready["http"].rpartition(":")[2])
        assert f"{port} is served" in texts


def test_a_writer_that_holds_the_lock_is_not_waited_for(directory: Path) -> None:
    code = """
        with Store.open(arguments[0]) as store, store._database.write():
            print("in", flush=True)
            input()
    """
    with Child(code, directory) as writer:
        writer.line()
        assert worst(directory, "database").severity is OK
        writer.tell()
        writer.finish()


# ---- no store, or none that can be opened ----


def test_where_no_store_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(NoStore):
            examine(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unfinished_creation(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "new").mkdir(0o700)
    (tmp_path / "new/metadata.sqlite3.new").touch(0o600)
    assert worst(tmp_path / "new", "leftovers").severity is WARNING
    assert worst(tmp_path / "new", "database").text == "the creation of the store was not finished"
    assert "init --data-dir" in worst(tmp_path / "new", "directories").remedy
    overwrite(directory / "metadata.sqlite3", b"")
    assert worst(directory, "database").text == "the creation of the store was not finished"


def test_payloads_without_rows_are_damage(directory: Path) -> None:
    (directory / "metadata.sqlite3").unlink()
    finding = worst(directory, "database")
    assert (finding.severity, "restore" in finding.remedy) == (DAMAGE, True)


@pytest.mark.parametrize("content", [b"no database" * 1000, None])
def test_a_damaged_database(directory: Path, content: bytes | None) -> None:
    database = directory / "metadata.sqlite3"
    overwrite(database, content or database.read_bytes()[:100] + os.urandom(8192) + database.read_bytes()[8292:])
    finding = worst(directory, "database")
    assert (finding.severity, "restore" in finding.remedy) == (DAMAGE, True)


@pytest.mark.parametrize(
    ("sql", "severity", "text"),
    [
        ("PRAGMA user_version=99", ERROR, "written by a newer release"),
        ("UPDATE alembic_version SET version_num='x'", ERROR, "revision x"),
        ("PRAGMA user_version=1", WARNING, "older than this release"),
        ("PRAGMA application_id=1", ERROR, "another program's database"),
        ("UPDATE alembic_version SET version_num = CAST(x'78ff' AS TEXT)", DAMAGE, r"b'x\xff'"),
    ],
)
def test_another_format(directory: Path, sql: str, severity: Severity, text: str) -> None:
    connection = sqlite.connect(directory / "metadata.sqlite3")
    connection.execute(sql)
    connection.close()
    finding = worst(directory, "database")
    assert finding.severity is severity
    assert text in finding.text
    assert finding.remedy


def test_a_pipe_in_the_place_of_the_database(directory: Path) -> None:
    """In a process of its own: opening a pipe waits for who would write to it."""
    (directory / "metadata.sqlite3").unlink()
    os.mkfifo(directory / "metadata.sqlite3")
    code = """
        from gestalt_cas.doctor.examining import examine
        print(*(finding.text for finding in examine(Path(arguments[0])) if finding.subject == "database"))
    """
    assert child(code, directory, timeout=30).endswith("metadata.sqlite3 is no file\n")


def test_what_cannot_be_looked_at_is_a_finding(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def fail(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "statvfs", fail)
    finding = worst(directory, "room")
    assert (finding.severity, finding.text) == (ERROR, f"cannot be examined at {directory}: Permission denied")
    monkeypatch.setattr(os, "statvfs", real)
    assert worst(directory, "room").severity is not ERROR


# ---- permissions and directories ----


def modes(*names: str, mode: int) -> Callable[[Path], None]:
    def spoil(directory: Path) -> None:
        for name in names:
            (directory / name).touch(0o600)
            (directory / name).chmod(mode)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "severity", "named"),
    [
        (modes("metadata.sqlite3", mode=0o644), WARNING, "metadata.sqlite3"),
        (modes("blobs/7f", mode=0o755), WARNING, "blobs/7f"),
        (modes("keys.json", mode=0o640), WARNING, "keys.json"),
        (modes("keys.json", ".", mode=0o755), ERROR, "the signing keys are readable"),
        (modes("server.lock", "write.lock", mode=0o606), WARNING, "and 1 more"),
        (modes("metadata.sqlite3", mode=0o400), ERROR, "lacks permissions"),
        (modes("staging", mode=0o500), ERROR, "staging"),
    ],
)
def test_permissions(directory: Path, spoil: Callable[[Path], None], severity: Severity, named: str) -> None:
    spoil(directory)
    finding = worst(directory, "permissions")
    assert finding.severity is severity
    assert named in finding.text
    assert subprocess.run(finding.remedy, shell=True).returncode == 0
    assert worst(directory, "permissions").severity in (OK, NOTE)


def test_other_owners(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    finding = worst(directory, "permissions")
    assert (finding.severity, "belongs to user" in finding.text) == (ERROR, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(directory: Path) -> None:
    os.chown(directory / "metadata.sqlite3", 12345, -1)
    finding = worst(directory, "permissions")
    assert (finding.severity, "belongs to another user" in finding.text) == (ERROR, True)
    assert subprocess.run(finding.remedy, shell=True).returncode == 0
    assert (directory / "metadata.sqlite3").stat().st_uid == 0
    os.chown(directory, 12345, -1)
    assert "examined by root" in " ".join(finding.text for finding in found(directory, "permissions"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_whose_the_store_is(directory: Path) -> None:
    """It may not look at the database either, and that is where the examination would end with an error."""
    code = """
        from gestalt_cas.doctor.examining import examine
        os.setgroups([])
        os.setresgid(12345, 12345, 12345)
        os.setresuid(12345, 12345, 12345)
        (finding,) = examine(arguments[0])
        print(finding.severity.name, finding.text, finding.remedy, sep="|")
    """
    severity, text, remedy = child(code, directory).strip().split("|")
    assert (severity, remedy) == ("ERROR", "run gestalt-cas as its owner")
    assert text.startswith(f"{directory} cannot be looked into by this user, 12345")


def test_links_in_a_circle_are_nobodys_to_look_into(tmp_path: Path) -> None:
    """The remedy was another user."""
    (tmp_path / "loop").symlink_to("loop")
    (finding,) = examine(tmp_path / "loop")
    assert (finding.severity, finding.remedy) == (ERROR, "")
    assert finding.text.endswith(": Too many levels of symbolic links")


def test_missing_directories_come_back_by_the_remedy(directory: Path) -> None:
    (directory / "staging").rmdir()
    empty = next(path for path in (directory / "blobs").iterdir() if not any(path.iterdir()))
    empty.rmdir()
    finding = worst(directory, "directories")
    assert (finding.severity, finding.text.endswith("and 1 more is missing or no directory")) == (ERROR, True)
    words = shlex.split(finding.remedy)
    assert words[0] == "gestalt-cas"
    assert subprocess.run([*PROGRAM, *words[1:]], env=environment(), capture_output=True).returncode == 0
    assert worst(directory, "directories").severity is OK


# ---- the disk ----


@pytest.mark.parametrize(
    ("magic", "severity", "name"),
    [
        (0x6969, ERROR, "NFS"), (0xFF534D42, ERROR, "CIFS"), (0x01021997, ERROR, "9p"), (0x65735546, WARNING, "FUSE"),
        (0x01021994, WARNING, "tmpfs"), (0x794C7630, WARNING, "overlay"), (0xEF53, OK, "ext4"), (0x77, OK, "0x77"),
    ],
)  # fmt: skip
def test_file_systems(
    directory: Path, monkeypatch: pytest.MonkeyPatch, magic: int, severity: Severity, name: str
) -> None:
    monkeypatch.setattr(doctor_disk, "magic", lambda _: magic)
    finding = worst(directory, "file system")
    assert finding.severity is severity
    assert name in finding.text
    assert bool(finding.remedy) == (severity > OK)


def test_the_magic_number_is_the_systems(directory: Path) -> None:
    told = subprocess.run(["stat", "-f", "-c", "%t", directory], capture_output=True, text=True).stdout
    assert doctor_disk.magic(directory) == int(told, 16)
    assert doctor_disk.magic(directory / "none") == 0


def test_mount_options_are_those_of_the_mount_that_holds_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "1 0 8:1 / / rw,noatime shared:1 - ext4 /dev/sda1 rw\n"
        "2 1 8:2 / /srv rw - ext4 /dev/sdb rw,nobarrier\n"
        "3 1 8:3 / /srv/a\\040b rw - xfs /dev/sdc ro\n"
        "4 1 8:4 / /srvx ro - xfs /dev/sdd rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: lines)
    monkeypatch.setattr(os.path, "realpath", str)
    assert doctor_disk.mount_options(Path("/elsewhere")) == {"rw", "noatime"}
    assert doctor_disk.mount_options(Path("/srv/store")) == {"rw", "nobarrier"}
    assert doctor_disk.mount_options(Path("/srv/a b/store")) == {"rw", "ro"}


def test_mounts_that_break_promises(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_disk, "magic", lambda _: 0xEF53)
    monkeypatch.setattr(doctor_disk, "mount_options", lambda _: {"rw", "barrier=0"})
    assert "without barriers" in worst(directory, "file system").text
    monkeypatch.setattr(doctor_disk, "mount_options", lambda _: {"ro"})
    assert worst(directory, "file system").severity is ERROR


def test_syncs_that_nobody_waits_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_disk, "magic", lambda _: 0xEF53)
    ticks = iter(range(1000))
    monkeypatch.setattr(doctor_disk.time, "perf_counter", lambda: next(ticks) * 1e-6)
    assert "swallows syncs" in worst(directory, "syncs").text
    monkeypatch.setattr(doctor_disk.time, "perf_counter", lambda: next(ticks) * 1.0)
    assert "every write waits" in worst(directory, "syncs").text
    monkeypatch.setattr(doctor_disk, "magic", lambda _: 0x01021994)
    monkeypatch.setattr(doctor_disk.time, "perf_counter", lambda: next(ticks) * 1e-6)
    assert worst(directory, "syncs").severity is OK


@pytest.mark.parametrize("error", [full(), broken()])
def test_a_disk_that_fails_the_trial(directory: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(doctor_disk, "sync_file", fail)
    finding = worst(directory, "syncs and locks")
    assert finding.severity is (NOTE if error.errno == errno.ENOSPC else DAMAGE)
    assert list((directory / "staging").iterdir()) == []


@pytest.mark.parametrize("nameless", [True, False])
def test_locks_are_tried_with_a_real_process(directory: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool) -> None:
    if not nameless:
        monkeypatch.setattr(doctor_disk.os, "O_TMPFILE", os.O_CREAT | os.O_EXCL | os.O_DIRECTORY)
    assert worst(directory, "locks").severity is OK
    monkeypatch.setattr(doctor_disk.fcntl, "flock", lambda *_: None)  # a file system that only says that it locks
    assert worst(directory, "locks").severity is ERROR
    assert list((directory / "staging").iterdir()) == []


def test_a_second_process_that_cannot_be_started(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_disk.sys, "executable", "/bin/false")
    assert worst(directory, "locks").severity is NOTE


class Disk:
    """What statvfs says of a disk."""

    f_frsize = 4096

    def __init__(self, blocks: int, free: int, inodes: int = 0, inodes_free: int = 0) -> None:
        self.f_blocks, self.f_bavail, self.f_files, self.f_favail = blocks, free, inodes, inodes_free


@pytest.mark.parametrize(
    ("disk", "severity", "text"),
    [
        (Disk(1 << 30, 1 << 28), OK, "B are free"),
        (Disk(1 << 30, 10), ERROR, "the disk is full"),
        (Disk(1 << 30, 4096), WARNING, "too few to remake the reserve"),
        (Disk(1 << 30, 1 << 28, 1 << 30, 9000), WARNING, "9000 inodes are free"),
        (Disk(1 << 30, 1 << 28, 100, 50), OK, "B are free"),
        (Disk(1 << 30, 1 << 28, 100, 0), ERROR, "the disk is full"),
    ],
)
def test_room(directory: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk, severity: Severity, text: str) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    finding = worst(directory, "room")
    assert finding.severity is severity
    assert text in finding.text


def test_the_reserve(directory: Path) -> None:
    (directory / "reserve").unlink()
    assert "the reserve has 0B" in worst(directory, "room").text
    Store.open(directory).close()
    assert worst(directory, "room").severity is OK


# ---- rows ----


def changed(directory: Path, sql: str, *parameters: object) -> None:
    with Store.open(directory) as store:
        change(store, sql, *parameters)


def test_the_clock(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worst(directory, "clock").severity is OK
    changed(directory, "UPDATE counter SET commit_ms = ?", now_ms() + 3_600_000)
    finding = worst(directory, "clock")
    assert finding.severity is WARNING
    assert re.search(r"35\d\d s ahead of the clock", finding.text)
    changed(directory, "UPDATE counter SET commit_ms = ?", now_ms() + 10 * 86_400_000)
    assert "10.0 days ahead of the clock" in worst(directory, "clock").text
    monkeypatch.setattr("gestalt_cas.doctor.database.now_ms", lambda: 1000)
    assert worst(directory, "clock").text == "the clock says 1970-01-01; it was never set"


def test_pins(directory: Path) -> None:
    with Store.open(directory) as store, store._database.write() as tx:
        pins.place(tx, "alive", "backup", now_ms(), {})
        pins.place(tx, "dead", "backup", now_ms() - pins.DEAD_AFTER_MS - 1, {})
    assert [(finding.severity, finding.text) for finding in found(directory, "pins")] == [
        (NOTE, "pins whose owners have died: dead"),
        (NOTE, "gc removes no payload because of: alive"),
    ]


def test_upkeep_that_is_due(directory: Path) -> None:
    assert found(directory, "upkeep") == []
    with Store.open(directory) as store:
        store.note("check.last", {"at_ms": now_ms() - 91 * 86_400_000})
        change(store, "DELETE FROM settings WHERE name = 'backup.last'")
    assert [finding.text for finding in found(directory, "upkeep")] == ["checked 91 days ago", "never backed up"]


def test_a_backup_is_told_as_such_and_not_to_be_backed_up_or_served(directory: Path, tmp_path: Path) -> None:
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
        store.back_up(tmp_path / "backup")
    upkeep = found(tmp_path / "backup", "upkeep")
    assert [finding.severity for finding in upkeep] == [NOTE, NOTE]
    assert [finding.text.partition(":")[0] for finding in upkeep] == ["this is a backup", "never checked"]
    assert found(tmp_path / "backup", "retention") == []


def test_a_long_wal(directory: Path) -> None:
    with Store.open(directory):
        os.truncate(directory / "metadata.sqlite3-wal", 129 << 20)
        assert "the WAL has" in worst(directory, "database").text
    assert worst(directory, "database").severity is OK


# ---- processes ----


def test_the_socket(directory: Path) -> None:
    path = directory / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert worst(directory, "socket").text == "a server answers at grpc.sock"
    assert worst(directory, "socket").severity is NOTE
    path.unlink()
    path.write_text("x")
    assert worst(directory, "socket").severity is ERROR
    assert found(directory, "server")[0].text == "none runs on this directory"


def test_a_server_that_the_kernel_does_not_name_is_seen_where_it_answers(directory: Path) -> None:
    """As without /proc, and from another container."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket() as http:
        listener.bind(str(directory / "grpc.sock"))
        listener.listen()
        http.bind(("127.0.0.1", 0))
        http.listen()
        with Store.open(directory) as store:
            store.note("http.port", http.getsockname()[1])
        text = found(directory, "server")[0].text
        assert text == "a process that cannot be named from here serves this directory"
        assert worst(directory, "port").severity is OK


def test_a_socket_that_is_held_and_dead(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "grpc.sock"))
    code = """
        import fcntl
        lock = open(arguments[0], "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        print("held", flush=True)
        input()
    """
    with Child(code, directory / "grpc.sock.lock") as holder:
        holder.line()
        finding = worst(directory, "socket")
        assert (finding.severity, finding.remedy) == (WARNING, f"end it: kill {holder.pid}")
        holder.tell()
        holder.finish()


def test_the_port_of_urls(directory: Path) -> None:
    assert found(directory, "port") == []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with Store.open(directory) as store:
            store.note("http.port", listener.getsockname()[1])
        assert worst(directory, "port").severity is OK
        listener.listen()
        assert worst(directory, "port").severity is WARNING


def test_versions(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = " ".join(finding.text for finding in found(directory, "versions"))
    assert sqlite.VERSION in texts
    assert "blake3 " in texts
    monkeypatch.setattr(sqlite, "version", lambda: (3, 40, 1))
    finding = worst(directory, "versions")
    assert (finding.severity, "WAL-reset bug" in finding.text) == (NOTE, True)
    monkeypatch.setattr(sqlite, "version", lambda: (3, 30, 0))
    assert worst(directory, "versions").severity is ERROR
    monkeypatch.setattr(doctor_process, "_PACKAGES", ("blake3", "no-such-package"))
    assert "no-such-package" not in " ".join(finding.text for finding in found(directory, "versions"))


@pytest.mark.parametrize(("hard", "severity"), [(256, WARNING), (4096, OK), (resource.RLIM_INFINITY, OK)])
def test_limits(directory: Path, monkeypatch: pytest.MonkeyPatch, hard: int, severity: Severity) -> None:
    monkeypatch.setattr(doctor_process.resource, "getrlimit", lambda _: (64, hard))
    assert worst(directory, "limits").severity is severity


# ---- leftovers ----


def test_leftovers(directory: Path) -> None:
    with Store.open(directory) as store, Store.open(directory) as other:
        (directory / "staging/dead.part").write_bytes(b"12345")
        (directory / "quarantine").mkdir(0o700)
        (directory / "quarantine/ab.1").write_bytes(b"123")
        (directory / "quarantine/ab.1.json").write_bytes(b"{}")
        (directory / "metadata.before-upgrade-from-0001.sqlite3").write_bytes(b"12")
        old = directory / ".keys.json.0123"
        old.touch()
        os.utime(old, (0, 0))
        (directory / ".keys.json.4567").touch()

        def body() -> Iterator[bytes]:
            yield b"x" * 300_000
            texts = [finding.text for finding in found(directory, "leftovers")]
            assert texts == [
                "1 uploads were cut off, 5B",
                "metadata.before-upgrade-from-0001.sqlite3: the rows as they were before an upgrade, 2B",
                ".keys.json.0123: signing keys that never came into force",
                "1 damaged files were set aside in quarantine/, 3B; notes lie beside them",
            ]

        put(other, "k", b"x")
        store.write(put(store, "l", b"x").key, body())
    assert {finding.severity for finding in found(directory, "leftovers")} == {NOTE}


# ---- on the command line ----


@pytest.fixture(name="cas")
def cas_fixture(directory: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(directory, capsysbinary)


def test_the_verb(
    cas: Command, directory: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(doctor_disk, "magic", lambda _: 0xEF53)
    monkeypatch.setattr(doctor_disk, "mount_options", lambda _: set())
    monkeypatch.setattr(doctor_disk, "_syncs", lambda *_, **__: [])
    monkeypatch.setattr(doctor_process, "limits", list)
    assert cas("doctor").code == 0
    (directory / "metadata.sqlite3").chmod(0o644)
    done = cas("doctor", "--json")
    assert done.code == 1
    assert {"severity", "subject", "text", "remedy"} == set(done.records[0])
    assert done.summary["warning"] == 1
    lines = cas("doctor").text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warning "))
    assert "metadata.sqlite3" in lines[at]
    assert lines[at + 1].strip() == f"chmod -R go= {shlex.quote(str(directory))}"
    overwrite(directory / "metadata.sqlite3", b"no database" * 1000)
    assert cas("doctor").code == 4
    nothing = command_in(directory.parent, capsysbinary)("doctor")
    assert nothing.code == 10
    assert "no store at" in one_line(nothing)
