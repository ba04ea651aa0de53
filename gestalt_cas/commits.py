"""Group commit: writers that come while another one commits share the next COMMIT, and with it the sync.

A writer brings its work, a function of the transaction. The first to come leads: it takes write.lock, then whoever is
waiting by then, at most MOST_MEMBERS and MOST_WEIGHT, runs their work in the order of their coming, each in a savepoint
of its own, and commits once. It never waits for company: company gathers while the group before is being synced. Then
leadership is handed on, so no caller leads for longer than its own group. The work runs on the leader's thread; there
is no writer thread, whose hand-offs cost several times as much.

    - Nobody is answered before the COMMIT of the transaction that judged it, failed conditions included: what they were
      judged on may be the work of a member before them.
    - A member whose work raises is rolled back to its savepoint, which touches no other.
    - When the transaction is lost (disk full, an I/O error), every member is judged again in one of its own.
    - When COMMIT itself meets an I/O error the outcome is unknown for those who would have been done; those who were
      refused have no effect either way, and are judged again.

Work may therefore run more than once; it must not count on the first time. Design: docs/design.md, "Group commit".
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

from gestalt_cas.errors import OutcomeUnknown, StoreError
from gestalt_cas.sqlite import Connection, DriverError

MOST_MEMBERS = 64
MOST_WEIGHT = 4 << 20
"""Bytes that the members of one group may put into the database together; one member may have more."""

_LEAST_WAIT = 5.0

Result = TypeVar("Result")
Work = Callable[[Connection], Any]


class _Member:
    """One writer: its work, when it gives up waiting for the lock, and what came of it."""

    __slots__ = ("_wake", "deadline", "error", "result", "settled", "weight", "work")

    def __init__(self, work: Work, weight: int, deadline: float) -> None:
        self.work = work
        self.weight = weight
        self.deadline = deadline
        self.result: Any = None
        self.error: Exception | None = None
        self.settled = False
        self._wake = threading.Lock()
        self._wake.acquire()

    def wait(self) -> None:
        """Wait until it is settled or is to lead."""
        self._wake.acquire()

    def wake(self) -> None:
        self._wake.release()

    def attempt(self, connection: Connection) -> bool:
        """Do the work and keep what comes of it; returns whether it was done. Failures of the database go up."""
        self.result = self.error = None
        try:
            self.result = self.work(connection)
        except DriverError:
            raise
        except Exception as error:  # noqa: BLE001 - raised again on the member's own thread, whatever it is
            self.error = error
        return self.error is None

    def answer(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


class Committer:
    """Commits the work of one process's writers. Thread-safe."""

    def __init__(self, begin: Callable[[float], AbstractContextManager[Connection]]) -> None:
        """`begin` gives a write transaction for a block, waiting at most so many seconds: `Database.write`."""
        self._begin = begin
        self._lock = threading.Lock()
        self._waiting: deque[_Member] = deque()
        self._led = False

    def commit(self, work: Callable[[Connection], Result], *, weight: int = 0, timeout: float) -> Result:
        """Do the work in a write transaction and return its result once that is committed.

        `weight` is how many bytes it puts into the database. What the work raises leaves it without effect and is
        raised here; so are StoreBusy, StoreFull, StorageFault, DatabaseDamaged (no effect) and OutcomeUnknown.
        """
        member = _Member(work, weight, time.monotonic() + timeout)
        with self._lock:
            leads = not self._led
            self._led = True
            if not leads:
                self._waiting.append(member)
        if not leads:
            self._follow(member)
        if not member.settled:
            self._lead(member)
        return cast(Result, member.answer())

    def _follow(self, member: _Member) -> None:
        """Wait until a leader has settled the member, or it is to lead itself."""
        try:
            member.wait()
        except BaseException:  # ctrl-C on the main thread
            self._leave(member)
            raise

    def _leave(self, member: _Member) -> None:
        """Take back work that no leader has taken yet; what one has taken is waited for."""
        with self._lock:
            if member in self._waiting:
                self._waiting.remove(member)
                return
        member.wait()
        if not member.settled:
            self._hand_on()

    def _lead(self, leader: _Member) -> None:
        """Commit a group with the leader in it, hand leadership on, and wake the others of the group."""
        group = [leader]
        try:
            try:
                self._together(group)
            except StoreError as failure:
                if len(group) == 1:
                    raise
                self._apart(group, failure)
        except BaseException:
            self._put_back(group[1:])
            raise
        else:
            for member in group:
                member.settled = True
        finally:
            self._hand_on()
        for member in group[1:]:
            member.wake()

    def _together(self, group: list[_Member]) -> None:
        """One transaction for the leader and whoever is waiting by now. Of a group of one, every failure goes up."""
        with self._begin(max(0.0, group[0].deadline - time.monotonic())) as connection:
            self._gather(group)
            if len(group) == 1:
                group[0].result = group[0].work(connection)
                return
            for member in group:
                connection.execute("SAVEPOINT member")
                if not member.attempt(connection):
                    connection.execute("ROLLBACK TO member")
                connection.execute("RELEASE member")

    def _gather(self, group: list[_Member]) -> None:
        weight = group[0].weight
        with self._lock:
            while self._waiting and len(group) < MOST_MEMBERS:
                weight += self._waiting[0].weight
                if weight > MOST_WEIGHT:
                    return
                group.append(self._waiting.popleft())

    def _apart(self, group: list[_Member], failure: StoreError) -> None:
        """The transaction of the group is lost, or nobody knows: settle each member by itself."""
        for member in group:
            if isinstance(failure, OutcomeUnknown) and member.error is None:
                member.error = OutcomeUnknown(str(failure))
            else:
                self._alone(member)

    def _alone(self, member: _Member) -> None:
        member.error = None
        try:
            with self._begin(max(_LEAST_WAIT, member.deadline - time.monotonic())) as connection:
                member.result = member.work(connection)
        except Exception as error:  # noqa: BLE001 - raised again on the member's own thread, whatever it is
            member.error = error

    def _put_back(self, members: list[_Member]) -> None:
        with self._lock:
            self._waiting.extendleft(reversed(members))

    def _hand_on(self) -> None:
        """Have the one who has waited longest lead next."""
        with self._lock:
            heir = self._waiting.popleft() if self._waiting else None
            self._led = heir is not None
        if heir is not None:
            heir.wake()
