"""Group commit: who shares a COMMIT, who is rolled back, who is judged again, and who leads next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gestalt_cas.errors import DiskFull, OutcomeUnknown, PreconditionFailed, StorageFault, StoreBusy
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.transactions import commits
from gestalt_cas.transactions.commits import Committer

WAIT = 20.0


class Disk:
    """A database in memory whose transactions are counted, held up, and made to fail."""

    def __init__(self) -> None:
        self.connection = sqlite.in_memory()
        self.connection.execute("CREATE TABLE done (name TEXT)")
        self.gate = threading.Event()
        self.gate.set()
        self.begun = self.judged = 0
        self.commits: list[list[str]] = []
        self.failures: list[Exception | None] = []
        self.timeouts: list[float] = []
        self.interrupts = ""
        self.writer = threading.Lock()

    @contextmanager
    def begin(self, timeout: float, *, committed: Callable[[], None] | None = None) -> Iterator[Connection]:
        with self.writer:
            self.begun += 1
            self.timeouts.append(timeout)
            before = self.names()
            self.connection.execute("BEGIN")
            try:
                yield self.connection
                self.judged += 1
                failure = self.failures.pop(0) if self.failures else None
                if failure is not None:
                    raise failure
            except BaseException as error:
                self.connection.execute("ROLLBACK")
                if isinstance(error, DriverError):
                    raise StorageFault(str(error)) from error
                raise
            assert self.gate.wait(WAIT)
            if self.interrupts == "before":
                self.connection.execute("ROLLBACK")
                self.interrupts = ""
                raise KeyboardInterrupt
            self.connection.execute("COMMIT")
            self.commits.append(self.names()[len(before) :])
            if committed is not None:
                committed()
            if self.interrupts == "after":
                self.interrupts = ""
                raise KeyboardInterrupt

    def names(self) -> list[str]:
        return [name for (name,) in self.connection.execute("SELECT name FROM done ORDER BY rowid").fetchall()]


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.connection.close()


@pytest.fixture
def committer(disk: Disk) -> Committer:
    return Committer(disk.begin)


def adding(name: str, error: Exception | None = None) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute("INSERT INTO done VALUES (?)", (name,))
        if error is not None:
            raise error
        return name

    return work


class Crowd:
    """Callers that wait behind a first one, whose COMMIT is held up until `go`."""

    def __init__(self, disk: Disk, committer: Committer) -> None:
        self.disk, self.committer = disk, committer
        self.pool = ThreadPoolExecutor(80)
        disk.gate.clear()
        self.first = self.pool.submit(committer.commit, adding("first"), timeout=WAIT)
        until(lambda: disk.judged == 1)
        self.waiting = 0

    def come(self, work: Callable[[Connection], Any], *, weight: int = 0, timeout: float = WAIT) -> Future[Any]:
        coming = self.pool.submit(self.committer.commit, work, weight=weight, timeout=timeout)
        self.waiting += 1
        until(lambda: len(self.committer._waiting) == self.waiting)
        return coming

    def interrupt_the_next(self, when: str) -> None:
        """Have ctrl-C reach the leader of the next group `before` or `after` its COMMIT has taken effect."""
        begin = self.disk.begin

        @contextmanager
        def next_one(timeout: float, *, committed: Callable[[], None] | None = None) -> Iterator[Connection]:
            self.committer._begin = begin
            self.disk.interrupts = when
            with begin(timeout, committed=committed) as connection:
                yield connection

        self.committer._begin = next_one

    def go(self) -> None:
        self.disk.gate.set()
        assert self.first.result(WAIT) == "first"


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to that")


@pytest.fixture
def crowd(disk: Disk, committer: Committer) -> Iterator[Crowd]:
    made = Crowd(disk, committer)
    yield made
    disk.gate.set()
    made.pool.shutdown()


def test_a_single_writer_commits_alone_and_gets_its_result(disk: Disk, committer: Committer) -> None:
    assert committer.commit(adding("a"), timeout=WAIT) == "a"
    assert committer.commit(adding("b"), timeout=WAIT) == "b"
    assert disk.commits == [["a"], ["b"]]


def test_those_who_wait_share_the_next_commit_in_the_order_of_their_coming(disk: Disk, crowd: Crowd) -> None:
    coming = [crowd.come(adding(name)) for name in "abcde"]
    crowd.go()
    assert [future.result(WAIT) for future in coming] == list("abcde")
    assert disk.commits == [["first"], list("abcde")]


def test_one_that_is_refused_has_no_effect_and_leaves_the_others_theirs(disk: Disk, crowd: Crowd) -> None:
    coming = [crowd.come(adding("a")), crowd.come(adding("b", PreconditionFailed("no"))), crowd.come(adding("c"))]
    crowd.go()
    assert coming[0].result(WAIT) == "a"
    with pytest.raises(PreconditionFailed, match="no"):
        coming[1].result(WAIT)
    assert coming[2].result(WAIT) == "c"
    assert disk.names() == ["first", "a", "c"]


def test_each_sees_what_those_before_it_did(crowd: Crowd) -> None:
    def count(connection: Connection) -> int:
        connection.execute("INSERT INTO done VALUES ('counted')")
        return int(connection.execute("SELECT count(*) FROM done").fetchall()[0][0])

    coming = [crowd.come(count) for _ in range(4)]
    crowd.go()
    assert [future.result(WAIT) for future in coming] == [2, 3, 4, 5]


def test_nobody_is_answered_before_the_commit_not_even_who_is_refused(disk: Disk, crowd: Crowd) -> None:
    held = threading.Event()
    reached = threading.Event()

    def work(_: Connection) -> None:
        reached.set()
        assert held.wait(WAIT)
        raise PreconditionFailed("judged")

    refused, last = crowd.come(adding("x", PreconditionFailed("early"))), crowd.come(work)
    crowd.go()
    assert reached.wait(WAIT)
    disk.gate.clear()
    held.set()
    until(lambda: disk.begun == 2)
    assert not refused.done()
    assert not last.done()
    disk.gate.set()
    for future in (refused, last):
        with pytest.raises(PreconditionFailed):
            future.result(WAIT)


def test_a_lost_transaction_is_judged_again_one_by_one(disk: Disk, crowd: Crowd) -> None:
    disk.failures = [DiskFull("no room")]
    judged: list[str] = []

    def seen(name: str) -> Callable[[Connection], str]:
        def work(connection: Connection) -> str:
            judged.append(name)
            return adding(name)(connection)

        return work

    coming = [crowd.come(seen("a")), crowd.come(adding("b", PreconditionFailed("no"))), crowd.come(seen("c"))]
    crowd.go()
    assert coming[0].result(WAIT) == "a"
    with pytest.raises(PreconditionFailed):
        coming[1].result(WAIT)
    assert coming[2].result(WAIT) == "c"
    assert judged == ["a", "c", "a", "c"]
    assert disk.commits == [["first"], ["a"], ["c"]]


def test_each_of_a_lost_transaction_has_its_own_failure(disk: Disk, crowd: Crowd) -> None:
    disk.failures = [DiskFull("together"), DiskFull("alone"), None]
    coming = [crowd.come(adding("a")), crowd.come(adding("b"))]
    crowd.go()
    with pytest.raises(DiskFull, match="alone"):
        coming[0].result(WAIT)
    assert coming[1].result(WAIT) == "b"
    assert disk.names() == ["first", "b"]


def test_a_failure_of_the_database_in_the_work_of_one_loses_the_transaction_of_all(disk: Disk, crowd: Crowd) -> None:
    def failing(connection: Connection) -> None:
        connection.execute("INSERT INTO no_such_table VALUES (1)")

    coming = [crowd.come(adding("a")), crowd.come(failing), crowd.come(adding("c"))]
    crowd.go()
    assert coming[0].result(WAIT) == "a"
    with pytest.raises(StorageFault, match="no_such_table"):
        coming[1].result(WAIT)
    assert coming[2].result(WAIT) == "c"
    assert disk.commits == [["first"], ["a"], ["c"]]


def test_an_unknown_outcome_is_that_of_all_who_would_be_done_and_the_refused_are_judged_again(
    disk: Disk, crowd: Crowd
) -> None:
    disk.failures = [OutcomeUnknown("who knows")]
    answers = iter([PreconditionFailed("while a might be there"), None])

    def judged(connection: Connection) -> str:
        return adding("b", next(answers))(connection)

    coming = [crowd.come(adding("a")), crowd.come(judged), crowd.come(adding("c"))]
    crowd.go()
    for future in (coming[0], coming[2]):
        with pytest.raises(OutcomeUnknown, match="who knows"):
            future.result(WAIT)
    assert coming[1].result(WAIT) == "b"
    assert disk.names() == ["first", "b"]


def test_groups_have_64_members_at_most(disk: Disk, crowd: Crowd) -> None:
    coming = [crowd.come(adding(str(number))) for number in range(70)]
    crowd.go()
    assert [future.result(WAIT) for future in coming] == [str(number) for number in range(70)]
    assert [len(group) for group in disk.commits] == [1, commits.MOST_MEMBERS, 70 - commits.MOST_MEMBERS]


def test_groups_have_4_mib_at_most_but_one_member_at_least(disk: Disk, crowd: Crowd) -> None:
    mib = 1 << 20
    weights = [3 * mib, mib, 1, 9 * mib, 2 * mib, 2 * mib]
    coming = [crowd.come(adding(str(weight)), weight=weight) for weight in weights]
    crowd.go()
    for future in coming:
        future.result(WAIT)
    assert [len(group) for group in disk.commits] == [1, 2, 1, 1, 2]


def test_a_lock_that_is_not_had_is_the_failure_of_who_waited_longest(disk: Disk, crowd: Crowd) -> None:
    begin = disk.begin
    refusals = [StoreBusy("held")]

    @contextmanager
    def busy(timeout: float, *, committed: Callable[[], None] | None = None) -> Iterator[Connection]:
        if refusals:
            raise refusals.pop()
        with begin(timeout, committed=committed) as connection:
            yield connection

    crowd.committer._begin = busy
    coming = [crowd.come(adding("a")), crowd.come(adding("b"))]
    crowd.go()
    with pytest.raises(StoreBusy, match="held"):
        coming[0].result(WAIT)
    assert coming[1].result(WAIT) == "b"


def test_a_leader_waits_for_the_lock_no_longer_than_it_has_left(disk: Disk, committer: Committer) -> None:
    committer.commit(adding("a"), timeout=7.0)
    assert 6.0 < disk.timeouts[0] <= 7.0


def test_an_exception_that_is_a_bug_reaches_its_own_caller(disk: Disk, crowd: Crowd) -> None:
    coming = [crowd.come(adding("a", ZeroDivisionError("a bug"))), crowd.come(adding("b"))]
    crowd.go()
    with pytest.raises(ZeroDivisionError):
        coming[0].result(WAIT)
    assert coming[1].result(WAIT) == "b"
    assert disk.names() == ["first", "b"]


def test_a_leader_that_is_interrupted_leaves_the_others_to_the_next(disk: Disk, crowd: Crowd) -> None:
    calls = iter([True, False])

    def interrupted_once(connection: Connection) -> str:
        if next(calls):
            raise KeyboardInterrupt  # ctrl-C reaches whatever the leader's thread is doing, here another's work
        return adding("b")(connection)

    coming = [crowd.come(adding("a")), crowd.come(interrupted_once), crowd.come(adding("c"))]
    crowd.go()
    with pytest.raises(KeyboardInterrupt):
        coming[0].result(WAIT)
    assert [coming[1].result(WAIT), coming[2].result(WAIT)] == ["b", "c"]
    assert disk.commits == [["first"], ["b", "c"]]
    assert crowd.committer.commit(adding("later"), timeout=WAIT) == "later"


@pytest.mark.parametrize("refused_first", [False, True])
def test_a_leader_that_is_interrupted_after_the_commit_has_the_others_answered_and_nothing_done_twice(
    disk: Disk, crowd: Crowd, refused_first: bool
) -> None:
    error = PreconditionFailed("no") if refused_first else None
    coming = [crowd.come(adding("a")), crowd.come(adding("b", error)), crowd.come(adding("c"))]
    crowd.interrupt_the_next("after")
    crowd.go()
    with pytest.raises(KeyboardInterrupt):
        coming[0].result(WAIT)
    if refused_first:
        with pytest.raises(PreconditionFailed):
            coming[1].result(WAIT)
    else:
        assert coming[1].result(WAIT) == "b"
    assert coming[2].result(WAIT) == "c"
    assert disk.names() == (["first", "a", "c"] if refused_first else ["first", "a", "b", "c"])
    assert crowd.committer.commit(adding("later"), timeout=WAIT) == "later"


def test_a_leader_that_is_interrupted_in_commit_leaves_an_unknown_outcome_and_judges_the_refused_again(
    disk: Disk, crowd: Crowd
) -> None:
    answers = iter([PreconditionFailed("while a might be there"), None])

    def judged(connection: Connection) -> str:
        return adding("b", next(answers))(connection)

    coming = [crowd.come(adding("a")), crowd.come(judged), crowd.come(adding("c"))]
    crowd.interrupt_the_next("before")
    crowd.go()
    with pytest.raises(KeyboardInterrupt):
        coming[0].result(WAIT)
    with pytest.raises(OutcomeUnknown, match="KeyboardInterrupt"):
        coming[2].result(WAIT)
    assert coming[1].result(WAIT) == "b"
    assert disk.names() == ["first", "b"]
    assert crowd.committer.commit(adding("later"), timeout=WAIT) == "later"


class Interrupted:
    """Stands in for the lock that a follower waits on: ctrl-C at the first wait, then the real one."""

    def __init__(self, real: Any) -> None:
        self.real, self.calls = real, 0

    def locked(self) -> bool:
        return bool(self.real.locked())

    def acquire(self) -> bool:
        self.calls += 1
        if self.calls == 1:
            raise KeyboardInterrupt
        return bool(self.real.acquire())

    def release(self) -> None:
        self.real.release()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def arm() -> None:
        real = commits._Member.__init__

        def make(self: commits._Member, *arguments: Any) -> None:
            real(self, *arguments)
            self._wake = Interrupted(self._wake)  # type: ignore[assignment]
            monkeypatch.setattr(commits._Member, "__init__", real)

        monkeypatch.setattr(commits._Member, "__init__", make)

    return arm


def test_a_follower_that_is_interrupted_takes_its_work_back(
    disk: Disk, crowd: Crowd, interrupted: Callable[[], None]
) -> None:
    interrupted()
    leaving = crowd.pool.submit(crowd.committer.commit, adding("a"), timeout=WAIT)
    with pytest.raises(KeyboardInterrupt):
        leaving.result(WAIT)
    crowd.come(adding("b"))
    crowd.go()
    until(lambda: disk.names() == ["first", "b"])


def test_a_follower_that_is_interrupted_while_a_leader_works_for_it_waits_for_that(
    disk: Disk, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, held = threading.Event(), threading.Event()

    def work(connection: Connection) -> str:
        reached.set()
        assert held.wait(WAIT)
        return adding("b")(connection)

    class Late(Interrupted):
        """Ctrl-C twice, once the leader is at the work of this one."""

        def acquire(self) -> bool:
            self.calls += 1
            if self.calls <= 2:
                assert reached.wait(WAIT)
                if self.calls == 2:
                    held.set()
                raise KeyboardInterrupt
            return bool(self.real.acquire())

    real = commits._Member.__init__

    def make(self: commits._Member, *arguments: Any) -> None:
        real(self, *arguments)
        if self.work is work:
            self._wake = Late(self._wake)  # type: ignore[assignment]

    monkeypatch.setattr(commits._Member, "__init__", make)
    before, leaving = crowd.come(adding("a")), crowd.come(work)
    crowd.go()
    with pytest.raises(KeyboardInterrupt):
        leaving.result(WAIT)
    assert before.result(WAIT) == "a"
    assert disk.names() == ["first", "a", "b"]
    assert crowd.committer.commit(adding("later"), timeout=WAIT) == "later"


def test_a_follower_that_is_interrupted_as_it_is_to_lead_hands_leadership_on(
    disk: Disk, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Woken(Interrupted):
        """Ctrl-C in the moment in which the wait is over."""

        def acquire(self) -> bool:
            self.real.acquire()
            raise KeyboardInterrupt

    real, leaving = commits._Member.__init__, adding("a")

    def make(self: commits._Member, *arguments: Any) -> None:
        real(self, *arguments)
        if self.work is leaving:
            self._wake = Woken(self._wake)  # type: ignore[assignment]

    monkeypatch.setattr(commits._Member, "__init__", make)
    interrupted, after = crowd.come(leaving), crowd.come(adding("b"))
    crowd.go()
    with pytest.raises(KeyboardInterrupt):
        interrupted.result(WAIT)
    assert after.result(WAIT) == "b"
    assert disk.names() == ["first", "b"]


def test_a_wait_is_ended_and_leadership_let_go_of_once(disk: Disk, committer: Committer) -> None:
    member = commits._Member(adding("a"), 0, 0.0)
    member.wake()
    member.wake()
    member.wait()
    committer._let_go(member)
    assert committer.commit(adding("b"), timeout=WAIT) == "b"


def test_many_writers_on_a_real_database_all_stand(tmp_path: Path) -> None:
    from gestalt_cas import Store
    from storage import body, put

    with Store.open(tmp_path / "store") as store, ThreadPoolExecutor(16) as pool:
        names = [f"{number:03}" for number in range(200)]
        for version in pool.map(lambda name: put(store, name, name.encode()), names):
            assert version.seq
        assert [body(store, name) for name in names] == [name.encode() for name in names]
