"""Advisory locks of one store: flock on files that are never deleted.

flock is unfair and does not exclude threads that share a descriptor. So the writer lock is taken in three steps: a
mutex within the process, then turnstile.lock, which is held only until write.lock is had, so that a process that just
let go of write.lock cannot barge past one that already waits. Waiting is a loop of non-blocking tries, because a
blocking flock has no deadline. Design: docs/design.md, "SQLite" and "Opening and upgrading".

A forked process shares the descriptors that its parent had open, and with them what is locked: each would be let in
where the other is. So in the child they are closed, which unlocks nothing, and whoever asks for one is refused.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from weakref import WeakSet

from gestalt_cas.errors import ShuttingDown, StorageFault, StoreBusy, StoreUnusable
from gestalt_cas.system import ownership

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.002


class FileLock:
    """One lock file; the descriptor stays open for the life of the object.

    Not for use by two threads at once, but that any thread may close it: a store may be closed while others wait.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Held for each call that is given the descriptor: by then its number may be another file's.
        self._open = threading.Lock()
        self._fd = ownership.open_or_make(path, os.O_RDWR, 0o600)
        self.inherited = False
        _made.add(self)

    def require(self) -> None:
        """Raise ShuttingDown when the file was closed, StoreUnusable when it was opened before this process forked."""
        if self.inherited:
            raise StoreUnusable(
                "this process was forked while the store was open, and cannot use what its parent has open; open the "
                "store in the process that is to use it"
            )
        if self._fd < 0:
            raise ShuttingDown("the store is closed")

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take or convert the lock if that is possible at once.

        Raises what `require` raises, and StorageFault when its file system cannot lock.
        """
        self.require()  # before the mutex, which nobody may be left to let go of
        with self._open:
            self.require()
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                raise StorageFault(f"{self.path.name} cannot be locked: {error.strerror}") from error
            return True

    def acquire(self, deadline: float, *, shared: bool = False) -> None:
        """Wait for the lock until `deadline` (time.monotonic()); raises StoreBusy naming who holds it."""
        pause = _FIRST_PAUSE
        while not self.try_acquire(shared=shared):
            if time.monotonic() >= deadline:
                raise StoreBusy(f"{self.path.name} is held by {self.holders()}; try again")
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def release(self) -> None:
        """Let go of the lock; one that was closed has let go already."""
        with self._open:
            if self._fd >= 0:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the lock and the file; a second call does nothing."""
        with self._open:
            descriptor, self._fd = self._fd, -1
            if descriptor >= 0:
                os.close(descriptor)

    def leave(self) -> None:
        """In a forked process: let go of the file and leave the lock to the parent."""
        self._open = threading.Lock()  # the one before may be held by a thread that is not here
        self.close()
        self.inherited = True

    def holders(self) -> str:
        """The processes that hold the lock, as far as the kernel tells: "process 12, process 34"."""
        with self._open:
            found = holding(os.fstat(self._fd).st_ino) if self._fd >= 0 else []
        return ", ".join(f"process {pid}" for pid in found) or "another process"


_made: WeakSet[FileLock] = WeakSet()


def _leave_all() -> None:
    for lock in list(_made):
        lock.leave()


os.register_at_fork(after_in_child=_leave_all)


def holding(inode: int) -> list[int]:
    """The processes that hold flock on a file, as far as the kernel tells; changes nothing."""
    try:
        return sorted({pid for pid, *_ in listed("FLOCK", inode)})
    except (OSError, ValueError, IndexError):
        return []


def listed(kind: str, inode: int) -> Iterator[tuple[int, int, str]]:
    """The locks of a kind, "FLOCK" or "POSIX", on a file: process, first byte, last byte or "EOF" (proc_locks(5)).

    Raises OSError where the kernel does not tell, ValueError or IndexError for lines of another form.
    """
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == kind and fields[5].rsplit(":", 1)[-1] == str(inode):
            yield int(fields[4]), int(fields[6]), fields[7]


class WriterLock:
    """The one writer of a store, over all threads and processes."""

    def __init__(self, directory: Path) -> None:
        self._mutex = threading.Lock()
        self._turnstile = FileLock(directory / "turnstile.lock")
        try:
            self._write = FileLock(directory / "write.lock")
        except BaseException:
            self._turnstile.close()
            raise

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Hold the lock for the block; raises StoreBusy when it is not had within `timeout` seconds."""
        self.require()  # before the mutex, which nobody may be left to let go of
        deadline = time.monotonic() + timeout
        had: list[bool] = []
        try:
            # Ctrl-C is raised when a call returns to Python code, so also after the mutex was had and before anything
            # could say so; nobody would ever let go of it. Within a call of C code nothing is raised.
            had.extend(map(self._mutex.acquire, (True,), (timeout,)))
            if True not in had:
                busy = f"write.lock is held by another thread of this process for over {timeout:g} s; try again"
                raise StoreBusy(busy)
            try:
                try:
                    self._turnstile.acquire(deadline)
                    self._write.acquire(deadline)
                finally:
                    self._turnstile.release()
                yield
            finally:  # also when it is not known to be had, for the same reason
                self._write.release()
        finally:
            if True in had:
                self._mutex.release()

    def require(self) -> None:
        """Raise what keeps this process from ever having the lock; see `FileLock.require`."""
        self._write.require()

    def close(self) -> None:
        self._turnstile.close()
        self._write.close()


class StoreLocks:
    """The locks of one opened store: `writer`, `schema` (held shared while the store is open), and server.lock.

    server.lock says which process serves the directory; whoever has it does the background work.
    """

    def __init__(self, directory: Path) -> None:
        with ExitStack() as undo:
            self.writer = WriterLock(directory)
            undo.callback(self.writer.close)
            self.schema = FileLock(directory / "schema.lock")
            undo.callback(self.schema.close)
            self._server = FileLock(directory / "server.lock")
            undo.pop_all()
        self._serving = False
        self._mutex = threading.Lock()

    @property
    def inherited(self) -> bool:
        """Whether the store was opened by the process that this one was forked from."""
        return self.schema.inherited

    def claim_server(self) -> bool:
        """Take server.lock for good if no other process has it; returns whether this store has it now."""
        with self._mutex:
            self._serving = self._serving or self._server.try_acquire()
            return self._serving

    @contextmanager
    def server_for_now(self, *, keep: bool = False) -> Iterator[bool]:
        """Tell for the block whether no other process serves, keeping one from beginning to meanwhile.

        With `keep` this store is the one that serves from then on, unless the block raises.
        """
        with self._mutex:
            ours = self._serving or self._server.try_acquire()
            kept = self._serving
            try:
                yield ours
                kept = kept or (keep and ours)
            finally:
                if ours and not kept:
                    self._server.release()
                self._serving = kept

    def close(self, *, writing: bool = False) -> None:
        """Let go of the locks; a second call does nothing.

        With `writing` a transaction could not be waited for: whoever would be let in by the other two locks stays out
        until the process ends.
        """
        self._server.close()
        if writing:
            _kept.append(self)
        elif self not in _kept:
            self.schema.close()
            self.writer.close()


_kept: list[StoreLocks] = []
"""Locks that only the end of the process lets go of."""
