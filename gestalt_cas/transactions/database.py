"""Transactions on metadata.sqlite3: many readers, one writer over all processes.

Settings of every connection: WAL, synchronous=FULL (a COMMIT that returned is on the disk), foreign keys on, automatic
checkpoints off. A write transaction and a checkpoint, in any process, hold write.lock; connections are closed under it
too, because closing the last one checkpoints. A connection serves one transaction at a time. Statements run on the
driver's connection: through SQLAlchemy's execution the same lookup costs several times as much.

Three ends of a write (docs/design.md, "Writing"): done; refused, with the transaction gone; or OutcomeUnknown, only
after an I/O error or want of memory in COMMIT, or want of memory around it: SQLite notes frames in the WAL's index once
they are synced, and when that fails a crash still finds them. A WAL that may not grow any further is none: the frame
that ends the transaction is the last one, and was not written. After an I/O error, or when SQLite has met something
malformed, the files are reopened and checked before the next write; what that finds makes the store refuse writes for
good.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from gestalt_cas.errors import (
    DatabaseDamaged,
    FileSizeLimit,
    OutcomeUnknown,
    SchemaTooNew,
    ShuttingDown,
    StoreBusy,
    StoreError,
)
from gestalt_cas.figures import Distribution
from gestalt_cas.files.layout import Layout
from gestalt_cas.files.place import Place
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError
from gestalt_cas.system.durability import sync_directory
from gestalt_cas.system.locks import WriterLock
from gestalt_cas.system.refusals import translated
from gestalt_cas.transactions import readers, wal
from gestalt_cas.transactions.answers import Answers
from gestalt_cas.transactions.commits import Committer
from gestalt_cas.transactions.connections import connect
from gestalt_cas.transactions.database_faults import AFTER_DAMAGE, AFTER_IO_ERROR, Faults
from gestalt_cas.transactions.readers import Readers
from gestalt_cas.transactions.wal import Wal

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Subject = TypeVar("Subject")

WRITE_TIMEOUT = 30.0
"""Seconds that a write waits for the writer lock before StoreBusy: three times as long as a rollback may hold it."""
CLOSE_TIMEOUT = 10.0
_UPKEEP_TIMEOUT = 5.0
_PROBE = "UPDATE settings SET value = value WHERE 0"
"""Changes nothing, and fails on a connection that cannot write. SQLite opens its files for reading only when it cannot
have more at that moment (too many open files, a passing error), says nothing of it, and stays with that."""


class Database:
    """An open metadata database. Thread-safe. The caller holds schema.lock shared for its life."""

    def __init__(self, layout: Layout, writer_lock: WriterLock) -> None:
        self._layout = layout
        self._writer_lock = writer_lock
        self._wal = Wal(layout.wal, layout.shared_memory)
        self._closed = False
        self._faults = Faults(layout.root)
        self._proven = False  # that the writer's connection can write
        self._writer: Connection | None = connect(layout.database)
        self.place = Place(layout)
        self._readers = Readers(layout.database, writer_lock, self._faults, self.place, self._wal)
        self._committer = Committer(self._shared_write)
        self._answers = Answers()

    def require_ours(self) -> None:
        """Raise StoreUnusable in a process that was forked since the database was opened, ShuttingDown once closed."""
        self._writer_lock.require()

    def read(self) -> AbstractContextManager[Connection]:
        """One consistent view for the block. Every SELECT in it must be fetched to its end."""
        return self._readers.view()

    @contextmanager
    def write(
        self, timeout: float = WRITE_TIMEOUT, *, committed: Callable[[], None] | None = None, relieve: bool = True
    ) -> Iterator[Connection]:
        """One write transaction for the block, committed at its end, rolled back when the block raises.

        `committed` is called after the COMMIT, before any other writer gets its turn. Not to `relieve` leaves a long
        WAL to whoever commits next: for who has kept the others waiting already, and calls `tend_wal` later.
        Raises StoreBusy, StoreFull, StorageFault, DatabaseDamaged (nothing changed) or OutcomeUnknown.
        """
        with self._shared_write(timeout, committed=committed, small=False, relieve=relieve) as connection:
            try:
                yield connection
            finally:
                self._answers.forget()  # the block may have changed anything

    @contextmanager
    def _shared_write(
        self,
        timeout: float,
        *,
        committed: Callable[[], None] | None = None,
        small: bool = True,
        relieve: bool = True,
    ) -> Iterator[Connection]:
        """`write` for what changes versions and payloads only, so that `settled` may keep its answers."""
        with self._writer_lock.held(timeout):
            connection = self._sound_writer()
            if self._faults.no_room or (not small and self._wal.crowded()):
                self._begin_wal_anew(connection)
                connection = self._sound_writer()  # another one, if the disk failed
            try:
                if connection.in_transaction:  # there was no memory to end the one before
                    self._roll_back(connection)
                connection.execute("BEGIN IMMEDIATE")
                if self._answers.may_be_old(connection):
                    _check_format(connection)
                    self._answers.hold_from_now(connection)
                yield connection
            except DriverError as error:
                self._roll_back(connection)
                raise self._faults.noted(error, connection) from error
            except BaseException:
                self._roll_back(connection)
                raise
            try:
                self._commit(connection)
                if committed is not None:
                    committed()
                if relieve:
                    self._relieve(connection, small=small)
            except MemoryError as error:  # of the interpreter's, before COMMIT, in it or after it
                self._roll_back(connection)
                raise OutcomeUnknown("outcome unknown: memory ran out around COMMIT") from error

    def commit(
        self, work: Callable[[Connection], Result], *, weight: int = 0, timeout: float = WRITE_TIMEOUT
    ) -> Result:
        """Do the work in a write transaction that it may share with other callers; returns its result after COMMIT.

        For the calls that come many at a time; see `commits.py`. The work runs on the thread of some caller, and more
        than once when a transaction is lost. Raises what it raises, and what `write` raises.
        """
        try:
            return self._committer.commit(work, weight=weight, timeout=timeout)
        except FileSizeLimit:  # the WAL is that long: by the next transaction it begins at its front again, if it can
            return self._committer.commit(work, weight=weight, timeout=timeout)

    def ask(self, question: Callable[[Connection, Subject], Result], subject: Subject) -> Result:
        """What one SELECT answers about `subject`: a view of its own, at half the cost of a transaction around it."""
        return self._readers.ask(question, subject)

    def settled(self, connection: Connection, question: Callable[[Connection], Result]) -> Result:
        """What `question` reads of settings and quotas, in a transaction of `commit`; asked once for many of them.

        An answer is kept until a transaction of `write`, or another process, may have changed it.
        """
        return self._answers.settled(connection, question)

    def recent(self, question: Callable[[Connection], Result]) -> Result | None:
        """What `settled` answered last, None when that is not known: right unless another process changed it since."""
        return self._answers.recent(question)

    def checkpoint(self, *, restart: bool = False, timeout: float = _UPKEEP_TIMEOUT) -> bool:
        """Move committed pages from the WAL into the database; returns whether all of them could be moved.

        With `restart` the WAL is cut, too, and readers are waited for a moment.
        """
        with self._writer_lock.held(timeout):
            connection = self._sound_writer()
            try:
                return self._wal.cut(connection) if restart else self._wal.move(connection)
            except DriverError as error:
                raise self._faults.noted(error, connection) from error

    def tend_wal(self) -> None:
        """Shorten the WAL as far as its length asks for it, and keep room in it; for the background work."""
        if self._wal.taken(wal.PASSIVE_BYTES) > wal.PASSIVE_BYTES:
            with self._writer_lock.held(_UPKEEP_TIMEOUT):
                connection = self._sound_writer()
                try:
                    self._wal.tend(connection)
                except DriverError as error:
                    raise self._faults.noted(error, connection) from error
        self._wal.file.keep_room()

    def mend(self, work: Callable[[Connection], None], timeout: float = WRITE_TIMEOUT, *, vacuum: bool = False) -> None:
        """Run `work` in a write transaction although the database may be known to be damaged, and judge it anew then.

        For repairs of what can be rebuilt; with `vacuum` the whole database is written anew afterwards. Raises what a
        write raises; when it is damaged still, writes stay refused.
        """
        with self._writer_lock.held(timeout):
            if self._closed:
                raise ShuttingDown("the store is closed")
            self._close_connections()
            self._faults.due = AFTER_DAMAGE
            connection = connect(self._layout.database)
            try:
                sqlite.spill(connection)
                sqlite.heed_signals(connection)
                connection.execute("BEGIN IMMEDIATE")
                self._keep_wal()
                _check_format(connection)
                work(connection)
                connection.execute("COMMIT")
                if vacuum:
                    connection.execute("VACUUM")
            except DriverError as error:
                raise self._faults.noted(error, connection, spilled=True) from error
            finally:
                self._wal.close(connection)
            self._faults.refusal = ""
            self._reopen()

    def recover(self) -> None:
        """After an I/O error: reopen and check the database now, instead of before the next write.

        Raises what a write would raise when the disk still fails.
        """
        if self._faults.passing:
            with self._writer_lock.held(_UPKEEP_TIMEOUT):
                self._sound_writer()

    @property
    def wal_bytes(self) -> int:
        """The length of the WAL file; 0 when it is absent or cannot be looked at."""
        return self._wal.file.bytes

    def wal_taken(self, bound: int = 0) -> int:
        """How many bytes of the WAL are in use: what was committed since the WAL last began at its front.

        Where that cannot be more than `bound` the length of the file will do, which takes less to find out.
        """
        return self._wal.taken(bound)

    @property
    def group_sizes(self) -> Distribution:
        """How many writers of this process shared each COMMIT since the database was opened."""
        return self._committer.sizes.read()

    @property
    def fault(self) -> str:
        """Why writes are refused, for good or until the disk works again; "" while they are not."""
        return self._faults.told

    def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Close every connection under write.lock; a second call does nothing. Returns whether all are closed.

        When the lock is not had in time the connections are left to the end of the process: commits are crash-safe,
        an unlocked checkpoint might not be.
        """
        if not self._readers.close():
            return True
        self._closed = True
        try:
            with self._writer_lock.held(timeout):
                self._close_connections()
        except StoreBusy as error:
            log.warning("database left open at close: %s", error)
            readers.abandon(self._take_connections())
            return False
        return True

    def _close_connections(self) -> None:
        for connection in self._take_connections():
            try:
                self._wal.close(connection)
            except DriverError as error:
                log.warning("closing the database: %s", error)

    def _take_connections(self) -> list[Connection]:
        """All connections that nobody is using; the caller closes them."""
        taken = self._readers.take()
        if self._writer is not None:
            taken.append(self._writer)
            self._writer = None
        return taken

    def _sound_writer(self) -> Connection:
        """The writer's connection; after a fault, a new one on a database that passed a check."""
        if self._closed:
            raise ShuttingDown("the store is closed")
        self.place.require()
        if self._faults.refusal:
            raise DatabaseDamaged(self._faults.refusal)
        if not self._proven and self._writer is not None:
            self._prove(self._writer)
        if self._faults.due or self._writer is None:
            self._reopen()
        assert self._writer is not None
        return self._writer

    def _prove(self, connection: Connection) -> None:
        """Find out whether the first connection can write; if not, it is opened again like one after a fault."""
        try:
            connection.execute(_PROBE)
        except DriverError as error:
            failure = self._faults.noted(error, connection)
            if not sqlite.is_read_only(error):
                raise failure from error
        else:
            self._keep_wal()
        self._proven = True

    def _keep_wal(self) -> None:
        """Wait until the name of the WAL, which stands by now, is on the disk: what is committed would go with it.

        SQLite syncs it, too, but by fdatasync, which is defined for the data of a file, not for a directory's names.
        """
        with translated("opening the database for writing"):
            sync_directory(self._layout.root)

    def _reopen(self) -> None:
        check = self._faults.due or AFTER_IO_ERROR
        self._close_connections()
        try:
            self._writer = self._checked(check)
        except DatabaseDamaged as damage:
            self._faults.refuse(damage)
            raise
        self._faults.passed()
        log.warning("database reopened after a fault; it passed the %s", check)

    def _checked(self, check: str) -> Connection:
        """A new connection on a database that passes the check; raises DatabaseDamaged when it does not."""
        connection = connect(self._layout.database)
        try:
            found = connection.execute(f"PRAGMA {check}(1)").fetchall()[0][0]
            if found == "ok":
                connection.execute(_PROBE)
                self._keep_wal()
        except DriverError as error:
            failure = self._faults.noted(error, connection)
            connection.close()
            raise failure from error
        except StoreError:
            connection.close()
            raise
        if found != "ok":
            connection.close()
            raise DatabaseDamaged(f"the database is damaged: {found}")
        return connection

    def _commit(self, connection: Connection) -> None:
        try:
            connection.execute("COMMIT")
        except DriverError as error:
            self._roll_back(connection)
            if sqlite.is_want_of_memory(error):
                raise OutcomeUnknown(f"outcome unknown: memory ran out during COMMIT: {error}") from error
            refused = sqlite.is_write_error(error) and sqlite.hits_file_limit(error, connection)
            failure = self._faults.noted(error, connection if refused else None)
            if sqlite.is_io_error(error) and not refused:
                failure = OutcomeUnknown(f"outcome unknown: the disk failed during COMMIT: {error}")
            raise failure from error
        except BaseException:  # ctrl-C before it or after it; the next writer must not find a transaction open
            self._roll_back(connection)
            raise

    def _roll_back(self, connection: Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except DriverError as error:
                self._faults.note(error, connection)

    def _begin_wal_anew(self, connection: Connection) -> None:
        """After a write found no room: let the next ones use the room that the WAL has, instead of lengthening it.

        Tried here and not at once, since by now the reserve may have been given up; the database may have to grow.
        """
        self._faults.no_room = False
        try:
            self._wal.begin_anew(connection)
        except DriverError as error:  # a disk that failed has the database checked; one without room says so again
            self._faults.noted(error, connection)

    def _relieve(self, connection: Connection, *, small: bool) -> None:
        try:
            self._wal.relieve(connection, small=small)
        except DriverError as error:
            # The commit stands and has been promised; the next write meets the fault in its own right.
            self._faults.note(error, connection)
            log.warning("checkpoint after a commit failed: %s", error)


def _check_format(connection: Connection) -> None:
    found = connection.execute("PRAGMA user_version").fetchall()[0][0]
    if found != schema.FORMAT:
        raise SchemaTooNew(f"the store now has format {found}; this process writes format {schema.FORMAT}")
