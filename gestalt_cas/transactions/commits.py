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
    - A leader that is interrupted (ctrl-C on the main thread) leaves nobody behind and nothing done twice: before its
      COMMIT the others go back into the queue, after it they are answered, and in between their outcome is unknown.

Work may therefore run more than once; it must not count on the first time. Design: docs/design.md, "Group commit".
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import Any, Protocol, TypeVar, cast

from gestalt_cas.errors import OutcomeUnknown, StoreError
from gestalt_cas.figures import Histogram
from gestalt_cas.sql.sqlite import Connection, DriverError

MOST_MEMBERS = 64
MOST_WEIGHT = 4 << 20
"""Bytes that the members of one group may put into the database together; one member may have more."""

_LEAST_WAIT = 5.0
_SIZES = (1, 2, 4, 8, 16, 32, 64)

Result = TypeVar("Result")
Work = Callable[[Connection], Any]


class Begin(Protocol):
    """`Database.write`: a write transaction for a block, waiting at most `timeout` seconds for its turn."""

    def __call__(
        self, timeout: float, *, committed: Callable[[], None] | None = None
    ) -> AbstractContextManager[Connection]: ...


class _Fate(Enum):
    """How far a member is: what whoever interrupts its leader has to know."""

    OPEN = auto()
    """Not judged, or judged in a transaction that has not come to its COMMIT: it can be judged again."""
    UNSURE = auto()
    """COMMIT has begun and has not returned."""
    SETTLED = auto()


class _Member:
    """One writer: its work, when it gives up waiting for the lock, and what came of it.

    `followers` are those whom it has taken into its group and not let go.
    """

    __slots__ = ("_wake", "deadline", "error", "fate", "followers", "result", "weight", "work")

    def __init__(self, work: Work, weight: int, deadline: float) -> None:
        self.work = work
        self.weight = weight
        self.deadline = deadline
        self.result: Any = None
        self.error: Exception | None = None
        self.fate = _Fate.OPEN
        self.followers: list[_Member] = []
        self._wake = threading.Lock()
        self._wake.acquire()

    def wait(self) -> None:
        """Wait until it is settled or is to lead."""
        self._wake.acquire()

    def wake(self) -> None:
        """End its wait; a second call does no harm."""
        if self._wake.locked():
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

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._waiting: deque[_Member] = deque()
        self._leader: _Member | None = None
        self.sizes = Histogram(_SIZES)
        """How many writers shared each COMMIT; added to under the writer lock."""

    def commit(self, work: Callable[[Connection], Result], *, weight: int = 0, timeout: float) -> Result:
        """Do the work in a write transaction and return its result once that is committed.

        `weight` is how many bytes it puts into the database. What the work raises leaves it without effect and is
        raised here; so are StoreBusy, StoreFull, StorageFault, DatabaseDamaged (no effect) and OutcomeUnknown.
        """
        member = _Member(work, weight, time.monotonic() + timeout)
        try:
            self._join(member)
            if self._leader is not member:
                member.wait()
            if member.fate is not _Fate.SETTLED:
                self._lead(member)
        except BaseException:
            self._withdraw(member)
            raise
        return cast(Result, member.answer())

    def _join(self, member: _Member) -> None:
        """Lead if nobody does, else queue."""
        with self._lock:
            if self._leader is None:
                self._leader = member
            else:
                self._waiting.append(member)

    def _withdraw(self, member: _Member) -> None:
        """Leave the queue or leadership, whatever came; what a leader has taken is waited for.

        Its work may be running now, on what its caller is about to let go of. One more interrupt does not end that
        wait: the next one to lead might be this member, and everybody would wait for it.
        """
        while not self._left(member):
            try:
                member.wait()
            except BaseException:  # noqa: BLE001 - the first one is raised once it is safe to
                continue

    def _left(self, member: _Member) -> bool:
        with self._lock:
            if member in self._waiting:
                self._waiting.remove(member)
                return True
            leads = self._leader is member
            is_led = self._leader is not None and member in self._leader.followers
        if leads or member.followers:
            self._let_go(member)
        return member.fate is _Fate.SETTLED or not is_led

    def _lead(self, leader: _Member) -> None:
        """Commit a group with the leader in it, hand leadership on, and wake the others of the group."""
        group = leader.followers
        try:
            try:
                self._together(leader, group)
            except StoreError as failure:
                if not group:
                    raise
                self._apart([leader, *group], failure)
        except BaseException as interrupt:
            self._give_up(group, interrupt)
            raise
        finally:
            self._let_go(leader)

    def _together(self, leader: _Member, group: list[_Member]) -> None:
        """One transaction for the leader and whoever is waiting by now. Of a leader alone, every failure goes up."""

        def committed() -> None:
            _all_are(_Fate.SETTLED, [leader, *group])
            self.sizes.add(1 + len(group))

        with self._begin(max(0.0, leader.deadline - time.monotonic()), committed=committed) as connection:
            self._gather(leader, group)
            if not group:
                leader.error, leader.result = None, leader.work(connection)
                return
            for member in (leader, *group):
                connection.execute("SAVEPOINT member")
                if not member.attempt(connection):
                    connection.execute("ROLLBACK TO member")
                connection.execute("RELEASE member")
            _all_are(_Fate.UNSURE, group)

    def _gather(self, leader: _Member, group: list[_Member]) -> None:
        weight = leader.weight
        with self._lock:
            while self._waiting and len(group) + 1 < MOST_MEMBERS:
                weight += self._waiting[0].weight
                if weight > MOST_WEIGHT:
                    return
                group.append(self._waiting[0])
                self._waiting.popleft()

    def _apart(self, members: list[_Member], failure: StoreError) -> None:
        """The transaction of the group is lost, or nobody knows: settle each member by itself."""
        unknown = [member for member in members if isinstance(failure, OutcomeUnknown) and member.error is None]
        for member in unknown:
            member.error, member.fate = OutcomeUnknown(str(failure)), _Fate.SETTLED
        again = [member for member in members if member not in unknown]
        _all_are(_Fate.OPEN, again)
        for member in again:
            self._alone(member)

    def _alone(self, member: _Member) -> None:
        def committed() -> None:
            member.fate = _Fate.SETTLED
            self.sizes.add(1)

        member.error = None
        try:
            with self._begin(max(_LEAST_WAIT, member.deadline - time.monotonic()), committed=committed) as connection:
                member.result = member.work(connection)
                member.fate = _Fate.UNSURE
        except Exception as error:  # noqa: BLE001 - raised again on the member's own thread, whatever it is
            member.error, member.fate = error, _Fate.SETTLED

    def _give_up(self, group: list[_Member], interrupt: BaseException) -> None:
        """The leader ends here: who is not settled is so now if the outcome is unknown, and goes back otherwise."""
        for member in group:
            if member.fate is _Fate.UNSURE and member.error is None:
                member.error = OutcomeUnknown(f"outcome unknown: its COMMIT was cut off by {interrupt!r}")
                member.fate = _Fate.SETTLED
        back = [member for member in group if member.fate is not _Fate.SETTLED]
        _all_are(_Fate.OPEN, back)
        with self._lock:
            self._waiting.extendleft(member for member in reversed(back) if member not in self._waiting)
            group[:] = [member for member in group if member not in back]

    def _let_go(self, leader: _Member) -> None:
        """Have the one who has waited longest lead next, and wake the group; done twice it does nothing more."""
        with self._lock:
            if self._leader is leader:
                self._leader = self._waiting.popleft() if self._waiting else None
                if self._leader is not None:
                    self._leader.wake()
        while leader.followers:
            leader.followers[-1].wake()
            leader.followers.pop()


def _all_are(fate: _Fate, members: list[_Member]) -> None:
    for member in members:
        member.fate = fate
