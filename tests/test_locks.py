"""Locks: one holder over threads and processes, fair turns, a deadline that names who holds, none for the dead."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from gestalt_cas.errors import ShuttingDown, StorageFault, StoreBusy
from gestalt_cas.system.locks import FileLock, WriterLock
from storage import Child, Failing, run_together

HOLD = """
    from gestalt_cas.system.locks import FileLock, WriterLock
    with WriterLock(Path(arguments[0])).held(30):
        print("held", flush=True)
        sys.stdin.readline()
"""
HOLD_FILE = """
    from gestalt_cas.system.locks import FileLock
    lock = FileLock(Path(arguments[0]))
    lock.acquire(time.monotonic() + 30, shared=arguments[1] == "shared")
    print("held", flush=True)
    sys.stdin.readline()
"""
COUNT = """
    import threading
    from gestalt_cas.system.locks import WriterLock
    directory, times = Path(arguments[0]), int(arguments[1])
    lock, number = WriterLock(directory), directory / "number"

    def count():
        for _ in range(times):
            with lock.held(60):
                before = int(number.read_text())
                time.sleep(0.0002)
                number.write_text(str(before + 1))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
TAKE_TURNS = """
    from gestalt_cas.system.locks import WriterLock
    directory, name, turns = Path(arguments[0]), arguments[1], int(arguments[2])
    lock = WriterLock(directory)
    log = os.open(directory / "log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        with lock.held(60):
            if os.fstat(log).st_size >= turns:
                break
            os.write(log, name.encode())
            time.sleep(0.001)
"""

INTERRUPT = """
    import operator, signal, threading
    from collections import deque
    from functools import partial
    from gestalt_cas.errors import StoreBusy
    from gestalt_cas.system.locks import WriterLock
    lock, had = WriterLock(Path(arguments[0])), threading.Event()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def let_go_and_interrupt():
        lock._mutex.acquire()
        had.set()
        time.sleep(0.3)  # the main thread waits for it by then
        # In one call of C code, so that the main thread, which has the mutex from the first of the three on, does not
        # come to know that before the last one.
        last = partial(os.kill, os.getpid(), signal.SIGINT)
        deque(map(operator.call, (lock._mutex.release, partial(sum, range(5_000_000)), last)), maxlen=0)

    def try_it():
        try:
            with lock.held(1):
                print("free")
        except StoreBusy as error:
            print(error)

    threading.Thread(target=let_go_and_interrupt).start()
    had.wait()
    try:
        with lock.held(30):
            print("had")
    except KeyboardInterrupt:
        print("interrupted")
    after = threading.Thread(target=try_it)
    after.start()
    after.join()
"""


def test_one_holder_among_threads(tmp_path: Path) -> None:
    lock, inside, most = WriterLock(tmp_path), [], []

    def work() -> None:
        for _ in range(50):
            with lock.held(60):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 400
    lock.close()


def test_one_holder_among_threads_and_processes(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    with Child(COUNT, tmp_path, 40) as first, Child(COUNT, tmp_path, 40) as second:
        first.finish()
        second.finish()
    assert (tmp_path / "number").read_text() == "240"


def test_turns_are_shared_out_fairly(tmp_path: Path) -> None:
    turns, names = 600, "abc"
    children = [Child(TAKE_TURNS, tmp_path, name, turns) for name in names]
    run_together(children)
    taken = (tmp_path / "log").read_text()
    shares = {name: taken.count(name) for name in names}
    assert sum(shares.values()) == turns
    assert min(shares.values()) >= turns / len(names) / 2, shares


def test_a_deadline_names_the_process_that_holds(tmp_path: Path) -> None:
    with Child(HOLD, tmp_path) as holder:
        assert holder.line() == "held"
        lock = WriterLock(tmp_path)
        with pytest.raises(StoreBusy, match=rf"write\.lock is held by process {holder.pid};"), lock.held(0.05):
            pytest.fail("it is held by another process")
        holder.tell()
        holder.finish()
        with lock.held(0):
            assert not FileLock(tmp_path / "write.lock").try_acquire()
        lock.close()


def test_a_deadline_names_the_process_that_waits_before(tmp_path: Path) -> None:
    """The second in line waits at the turnstile, and is told who stands in it."""
    with Child(HOLD, tmp_path) as holder:
        assert holder.line() == "held"
        with Child(HOLD, tmp_path) as waiting:
            turnstile = FileLock(tmp_path / "turnstile.lock")
            while turnstile.holders() != f"process {waiting.pid}":
                time.sleep(0.005)
            lock = WriterLock(tmp_path)
            with pytest.raises(StoreBusy, match=rf"turnstile\.lock is held by process {waiting.pid};"), lock.held(0.02):
                pytest.fail("another process waits for it already")
            lock.close()
            turnstile.close()


def test_a_deadline_tells_of_another_thread(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    errors = []

    def wait() -> None:
        try:
            with lock.held(0.02):
                errors.append("had it")
        except StoreBusy as error:
            errors.append(str(error))

    with lock.held(30):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert "another thread of this process" in errors[0]
    with lock.held(0):
        assert not FileLock(tmp_path / "turnstile.lock").holders().startswith("process")
    lock.close()


def test_a_killed_holder_holds_no_more(tmp_path: Path) -> None:
    with Child(HOLD, tmp_path) as holder:
        assert holder.line() == "held"
        lock, had = WriterLock(tmp_path), threading.Event()

        def wait() -> None:
            with lock.held(60):
                had.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not had.wait(0.1)
        holder.kill()
        thread.join()
        assert had.is_set()
        lock.close()


def test_what_is_raised_inside_lets_go(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(ZeroDivisionError), lock.held(1):
        raise ZeroDivisionError
    with lock.held(0):
        assert os.path.samestat(os.stat(tmp_path / "write.lock"), os.fstat(lock._write._fd))
    lock.close()


def test_ctrl_c_as_the_turn_of_the_thread_comes_leaves_it_to_the_next(tmp_path: Path) -> None:
    with Child(INTERRUPT, tmp_path) as child:
        assert [child.line(), child.line()] == ["interrupted", "free"]
        child.finish()


@pytest.mark.parametrize("name", ["turnstile.lock", "write.lock"])
def test_ctrl_c_as_a_file_is_locked_keeps_no_process_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lock, real = WriterLock(tmp_path), fcntl.flock
    inode = (tmp_path / name).stat().st_ino

    def interrupted(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if how & fcntl.LOCK_EX and os.fstat(descriptor).st_ino == inode:
            raise KeyboardInterrupt  # it is raised when the call returns

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", interrupted)
        with pytest.raises(KeyboardInterrupt), lock.held(1):
            pytest.fail("it was interrupted before")
    for each in ("turnstile.lock", "write.lock"):
        other = FileLock(tmp_path / each)
        assert other.try_acquire()
        other.close()
    lock.close()


def test_one_that_is_closed_by_another_thread_as_it_is_taken_is_closed_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the descriptor's number may be that of another file, which would be locked in its place."""
    lock, real = FileLock(tmp_path / "write.lock"), fcntl.flock
    closing = threading.Thread(target=lock.close)

    def flock(descriptor: int, how: int) -> None:
        closing.start()
        closing.join(0.2)
        real(descriptor, how)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        assert lock.try_acquire()
    closing.join()
    assert lock.holders() == "another process"
    with pytest.raises(ShuttingDown):
        lock.try_acquire()


def test_the_turnstile_is_free_while_the_lock_is_held(tmp_path: Path) -> None:
    lock, turnstile = WriterLock(tmp_path), FileLock(tmp_path / "turnstile.lock")
    with lock.held(1):
        assert turnstile.try_acquire()
    turnstile.close()
    lock.close()


def test_a_turnstile_that_leads_nowhere_is_left_again(tmp_path: Path) -> None:
    write, turnstile, lock = FileLock(tmp_path / "write.lock"), FileLock(tmp_path / "turnstile.lock"), None
    assert write.try_acquire()
    lock = WriterLock(tmp_path)
    with pytest.raises(StoreBusy), lock.held(0.01):
        pytest.fail("write.lock is held")
    assert turnstile.try_acquire()
    turnstile.release()
    write.release()
    with lock.held(1):
        assert not write.try_acquire()
    for each in (write, turnstile, lock):
        each.close()


def test_many_share_and_one_excludes(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "schema.lock") for _ in range(3))
    deadline = time.monotonic()
    first.acquire(deadline, shared=True)
    second.acquire(deadline, shared=True)
    assert not third.try_acquire()
    with pytest.raises(StoreBusy, match=f"process {os.getpid()}"):
        third.acquire(deadline)
    first.release()
    assert not third.try_acquire()
    second.close()
    assert third.try_acquire()
    assert not first.try_acquire(shared=True)
    third.close()
    assert first.try_acquire(shared=True)
    first.close()


def test_every_holder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "schema.lock"
    with Child(HOLD_FILE, path, "shared") as first, Child(HOLD_FILE, path, "shared") as second:
        assert (first.line(), second.line()) == ("held", "held")
        lock = FileLock(path)
        assert set(lock.holders().split(", ")) == {f"process {first.pid}", f"process {second.pid}"}
        lock.close()


@pytest.mark.parametrize("table", [None, "", "1: FLOCK\n", "garbage"])
def test_without_the_kernels_table_a_holder_has_no_name(
    table: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(tmp_path / "a.lock")

    def read_text(path: Path) -> str:
        if table is None:
            raise FileNotFoundError(str(path))
        return table

    monkeypatch.setattr(Path, "read_text", read_text)
    assert lock.holders() == "another process"
    lock.close()


def test_lock_files_are_private_and_stay(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with lock.held(1):
        inodes = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    lock.close()
    lock.close()
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == inodes
    assert set(inodes) == {"turnstile.lock", "write.lock"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_file_system_that_cannot_lock_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = WriterLock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", Failing(fcntl.flock, OSError(errno.ENOLCK, "No locks available")))
        with pytest.raises(StorageFault, match=r"turnstile\.lock cannot be locked: No locks available"), lock.held(1):
            pytest.fail("it cannot be locked")
    with lock.held(1):
        assert not FileLock(tmp_path / "write.lock").try_acquire()
    lock.close()


def test_releasing_what_was_closed_does_nothing(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "a.lock")
    assert lock.try_acquire()
    lock.close()
    lock.release()


def test_a_closed_lock_says_so(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    lock.close()
    with pytest.raises(ShuttingDown), lock.held(1):
        pytest.fail("its files are closed")
