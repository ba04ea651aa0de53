"""Creating and upgrading: whatever is killed when, a store opens as the old one or the new one, with its data."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.config import Config
from alembic.script import ScriptDirectory

import next_format
from driver_aids import CANTOPEN, IOERR, driver_error
from gestalt_cas import Store
from gestalt_cas.errors import (
    DatabaseDamaged,
    NoStore,
    SchemaTooNew,
    StorageFault,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnusable,
)
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import dbapi, migrating, tables, upgrade
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.system.locks import FileLock
from gestalt_cas.transactions import database
from storage import Child, Failing, body, change, child, history, put, rows, run_together

DATABASE = "metadata.sqlite3"
OBJECTS = {"a": [b"one", b"two"], "b/c": [b"three"], "d\0e": [b"", b"x" * 3000]}
"""Keys with their contents, oldest first."""


def fill(store: Store) -> None:
    for name, contents in OBJECTS.items():
        for data in contents:
            put(store, name, data, metadata={"length": str(len(data))})
    put(store, "gone", b"gone")
    store.delete(history(store, "gone")[0].key)


def intact(store: Store) -> None:
    for name, contents in OBJECTS.items():
        assert body(store, name) == contents[-1]
        found = history(store, name)
        assert [version.metadata["length"] for version in found] == [str(len(data)) for data in reversed(contents)]
        for version, data in zip(found, reversed(contents), strict=True):
            assert body(store, name, version_id=version.version_id) == data
    assert [version.delete_marker for version in history(store, "gone")] == [True, False]
    assert store.usage("bucket").objects == len(OBJECTS)


def raw(path: Path) -> sqlite.Connection:
    """A connection of SQLite's own making, for stores that nobody has open."""
    return sqlite.connect(path)


def alter(path: Path, *statements: str) -> None:
    connection = raw(path)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The closed directory of a store of the present format."""
    with Store.open(tmp_path / "store") as store:
        fill(store)
    return tmp_path / "store"


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return next_format.write(tmp_path / "migrations")


@pytest.fixture
def new_release(old: Path, second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next_format.install(second, monkeypatch)


def content(directory: Path) -> dict[str, bytes]:
    """The bytes of the database files, without the shared memory and the empty WAL that any reader makes."""
    found = {path.name: path.read_bytes() for path in directory.glob(f"{DATABASE}*") if not path.name.endswith("-shm")}
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


def revision(directory: Path) -> str | None:
    return upgrade.read_revision(Layout(directory))


# ---- the schema is what tables.py says ----


def described(path: Path) -> dict[str, Any]:
    """Everything that SQLite tells about the tables and indexes of a file."""
    connection = raw(path)

    def pragma(name: str, of: str) -> list[tuple[Any, ...]]:
        return connection.execute(f"PRAGMA {name}({of!r})").fetchall()

    found: dict[str, Any] = {}
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if name.startswith(("alembic_", "sqlite_autoindex_alembic")):
            continue
        details = {"kind": kind, "sql": " ".join((sql or "").replace(",", " , ").split())}
        if kind == "table":
            details |= {"columns": pragma("table_xinfo", name), "references": pragma("foreign_key_list", name)}
            details |= {
                "indexes": sorted(row[1:] for row in pragma("index_list", name)),
                "form": pragma("table_list", name),
            }
        else:
            details |= {"columns": pragma("index_xinfo", name)}
        found[name] = details
    connection.close()
    return found


def test_the_migrated_schema_is_that_of_the_code(tmp_path: Path) -> None:
    Store.open(tmp_path / "store").close()
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: dbapi.Connection(raw(tmp_path / "plain.sqlite3")), module=dbapi
    )
    tables.metadata.create_all(engine)
    engine.dispose()
    migrated, plain = described(tmp_path / "store" / DATABASE), described(tmp_path / "plain.sqlite3")
    assert set(migrated) == set(plain)
    for name, details in plain.items():
        assert migrated[name] == details, name


def test_the_comparison_sees_what_matters(tmp_path: Path) -> None:
    """WITHOUT ROWID, descending and partial indexes, keys, nullability: each difference shows."""
    base = "CREATE TABLE t (a INTEGER NOT NULL, b BLOB, PRIMARY KEY (a)){}; CREATE INDEX i ON t (a, b{}){}"
    forms = [("", "", ""), (" WITHOUT ROWID", "", ""), ("", " DESC", ""), ("", "", " WHERE b IS NOT NULL")]
    descriptions = []
    for number, form in enumerate(forms):
        connection = raw(tmp_path / f"{number}")
        connection.execute(base.format(*form))
        connection.close()
        found = described(tmp_path / f"{number}")
        for details in found.values():
            del details["sql"]
        descriptions.append(found)
    assert all(one != other for number, one in enumerate(descriptions) for other in descriptions[:number])


def test_head_is_the_revision_of_the_code() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrating.migrations_directory()).replace("%", "%%"))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]
    assert int(schema.REVISION) == schema.FORMAT


def test_what_is_fixed_at_creation(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for pragma, expected in (
            ("application_id", schema.APPLICATION_ID),
            ("user_version", schema.FORMAT),
            ("page_size", schema.PAGE_SIZE),
            ("auto_vacuum", 2),
            ("journal_mode", "wal"),
        ):
            assert rows(store, f"PRAGMA {pragma}") == [(expected,)]
        assert rows(store, "SELECT version_num FROM alembic_version") == [(schema.REVISION,)]
    assert (tmp_path / "store" / DATABASE).stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "store").glob("*.new*"))


def test_initial_settings_are_the_given_ones_and_defaults(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", settings={"versioning": "suspended"}) as store:
        assert store.settings().by_name() == {
            "bucket": "default", "versioning": "suspended", "blobs.inlineMaxBytes": 0, "quotas": {},
            "retention.rules": {}, "history.keepDays": 30,
        }  # fmt: skip


# ---- what is not ours, or newer, stays as it is ----


@pytest.mark.parametrize(
    "statements",
    [
        (f"PRAGMA user_version={schema.FORMAT + 1}", "UPDATE alembic_version SET version_num = '9002'"),
        (f"PRAGMA user_version={schema.FORMAT + 1}",),
        ("UPDATE alembic_version SET version_num = '9002'",),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_a_newer_store_is_refused_unchanged(old: Path, statements: tuple[str, ...], create: bool) -> None:
    alter(old / DATABASE, *statements)
    before = content(old)
    with pytest.raises(SchemaTooNew, match="format"):
        Store.open(old, create=create)
    assert content(old) == before


def test_a_sqlite_that_is_too_old_opens_nothing(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(old)
    monkeypatch.setattr(sqlite, "OLDEST", (99, 0, 0))
    for directory in (old, tmp_path / "new"):
        with pytest.raises(StoreUnusable, match=r"too old; 99\.0\.0 or newer"):
            Store.open(directory)
    assert content(old) == before
    assert not (tmp_path / "new" / DATABASE).exists()


def test_a_newer_store_with_changes_in_its_wal_is_refused_unchanged(old: Path) -> None:
    """Its server was killed: what it committed is in the WAL only, and stays there."""
    code = """
        from gestalt_cas.sql import sqlite
        connection = sqlite.connect(Path(arguments[0]) / "metadata.sqlite3")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA user_version=99")
        os._exit(9)
    """
    child(code, old, expect=9)
    before = content(old)
    assert before[f"{DATABASE}-wal"]
    with pytest.raises(SchemaTooNew):
        Store.open(old)
    assert content(old) == before


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE theirs (x)", "INSERT INTO theirs VALUES (1)"),
        ("PRAGMA journal_mode=WAL", "CREATE TABLE theirs (x)"),
        ("PRAGMA application_id=1234",),
        ("CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('0001')"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_another_programs_database_is_refused_unchanged(
    tmp_path: Path, statements: tuple[str, ...], create: bool
) -> None:
    alter(tmp_path / DATABASE, *statements, "PRAGMA user_version=77")
    before = content(tmp_path)
    with pytest.raises(StoreUnusable, match="another program's database"):
        Store.open(tmp_path, create=create)
    assert content(tmp_path) == before


@pytest.mark.parametrize("statement", ["DELETE FROM alembic_version", "DROP TABLE alembic_version"])
def test_a_store_that_does_not_tell_its_revision_is_refused(old: Path, statement: str) -> None:
    alter(old / DATABASE, statement)
    before = content(old)
    with pytest.raises(StoreUnusable, match="revision"):
        Store.open(old)
    assert content(old) == before


def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"These are my notes. " * 1000)
    before = content(tmp_path)
    with pytest.raises(StoreUnusable, match=DATABASE):
        Store.open(tmp_path)
    with pytest.raises(DatabaseDamaged, match=DATABASE):
        Store.open(tmp_path, create=False)
    assert content(tmp_path) == before


def test_a_directory_in_the_databases_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).mkdir()
    with pytest.raises(StoreError):
        Store.open(tmp_path)
    assert (tmp_path / DATABASE).is_dir()


def test_an_sqlite_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "version", lambda: (3, 36, 0))
    with pytest.raises(StoreUnusable, match=r"3\.37\.0 or newer"):
        Store.open(tmp_path / "store")


def test_a_file_system_without_wal_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        def fetchall(self) -> list[tuple[str]]:
            return [("delete",)]

    class NoWal:
        def __init__(self, real: sqlite.Connection) -> None:
            self.real = real

        def execute(self, sql: str) -> object:
            return Answer() if "journal_mode" in sql else self.real.execute(sql)

        def close(self) -> None:
            self.real.close()

    connect = database.connect
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "connect", lambda path, mode="rw": NoWal(connect(path, mode=mode)))
        with pytest.raises(StoreUnusable, match="WAL"):
            Store.open(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        put(store, "k", b"a later try starts anew")


# ---- unfinished creations ----


def empty_database(path: Path) -> None:
    alter(path, "PRAGMA page_size=8192", "PRAGMA journal_mode=WAL", "VACUUM")


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def marked_only(path: Path) -> None:
    alter(path, f"PRAGMA application_id={schema.APPLICATION_ID}")


def stale_wal(path: Path) -> None:
    """The committed WAL of some other database beside no database: it must not count as the new one's."""
    code = """
        from gestalt_cas.sql import sqlite
        connection = sqlite.connect(Path(arguments[0]))
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE theirs (x)")
        os.unlink(arguments[0])
        os._exit(9)
    """
    child(code, path, expect=9)


def leftovers_of_making(path: Path) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(b"half")
    new.with_name(f"{new.name}-journal").write_bytes(b"a journal")


UNFINISHED = [empty_database, zero_bytes, marked_only, stale_wal, leftovers_of_making]


@pytest.mark.parametrize("leave", UNFINISHED)
def test_an_unfinished_creation_is_completed(tmp_path: Path, leave: Any) -> None:
    (tmp_path / "blobs").mkdir()  # the tree comes first
    leave(tmp_path / DATABASE)
    with Store.open(tmp_path) as store:
        fill(store)
        assert rows(store, "PRAGMA page_size") == [(schema.PAGE_SIZE,)]
        assert rows(store, "SELECT name FROM sqlite_master WHERE name = 'theirs'") == []
    with Store.open(tmp_path) as store:
        intact(store)
    assert not list(tmp_path.glob("*.new*"))


@pytest.mark.parametrize("leave", [empty_database, zero_bytes, marked_only])
def test_an_unfinished_creation_is_no_store_to_readers(tmp_path: Path, leave: Any) -> None:
    leave(tmp_path / DATABASE)
    before = content(tmp_path)
    with pytest.raises(NoStore, match="not finished"):
        Store.open(tmp_path, create=False)
    assert content(tmp_path) == before


def test_killed_at_every_statement_of_creation(memory: Path) -> None:
    code = """
        import kill_points, test_upgrade
        directory = Path(arguments[0])

        def prepare():
            for path in [*directory.glob("metadata*"), *directory.glob("blobs/*/*")]:
                path.unlink()

        def check(number):
            with Store.open(directory) as store:
                test_upgrade.fill(store)
                test_upgrade.intact(store)
            assert not list(directory.glob("*.new*"))

        print(kill_points.every_point(
            kill_points.at_statement, prepare, lambda: Store.open(directory).close(), check
        ))
    """
    points = int(child(code, memory / "store"))
    assert points > 30


@pytest.mark.parametrize("leave", [None, empty_database, zero_bytes, marked_only])
def test_no_empty_store_is_made_over_payloads_without_rows(old: Path, leave: Any) -> None:
    """Their database was lost. A new one would make garbage of them all."""
    (old / DATABASE).unlink()
    if leave is not None:
        leave(old / DATABASE)
    before = sorted(path.name for path in old.rglob("*"))
    with pytest.raises(StoreUnusable, match="payloads"):
        Store.open(old)
    after = sorted(path.name for path in old.rglob("*") if not path.name.endswith(("-shm", "-wal")))
    assert after == [name for name in before if not name.endswith(("-shm", "-wal"))]


def test_opening_again_keeps_the_locks_of_those_who_have_it_open(tmp_path: Path) -> None:
    """Closing any handle of our own on the database would drop what SQLite has locked in this process."""
    database_file = tmp_path / "store" / DATABASE

    def locks() -> list[list[str]]:
        inode = database_file.stat().st_ino
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return [line[1:5] for line in lines if line[1] == "POSIX" and line[5].endswith(f":{inode}")]

    with Store.open(tmp_path / "store") as store:
        fill(store)
        held = locks()
        assert held == [["POSIX", "ADVISORY", "READ", f"{os.getpid()}"]]
        for create in (True, False):
            with Store.open(tmp_path / "store", create=create) as again:
                intact(again)
            assert locks() == held


def test_full_while_creating_leaves_nothing_that_is_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = database.connect

    def small(path: Path, mode: str = "rw") -> sqlite.Connection:
        connection = connect(path, mode=mode)
        connection.execute("PRAGMA max_page_count=4")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "connect", small)
        with pytest.raises(StoreFull):
            Store.open(tmp_path / "store")
    with Store.open(tmp_path / "store") as store:
        fill(store)
        intact(store)


def test_two_processes_create_at_once(tmp_path: Path) -> None:
    code = """
        directory = Path(arguments[0])
        print("ready", flush=True)
        sys.stdin.readline()
        with Store.open(directory, settings={"versioning": "suspended"}) as store:
            assert store.settings().suspended
            store.write(ObjectKey("bucket", arguments[1]), [arguments[1].encode()])
    """
    children = [Child(code, tmp_path / "store", name) for name in "abc"]
    run_together(children)
    with Store.open(tmp_path / "store", create=False) as store:
        assert {name: body(store, name) for name in "abc"} == {"a": b"a", "b": b"b", "c": b"c"}


def test_who_comes_second_opens_what_the_first_one_made_and_keeps_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen no store; it must not wait for the first one to leave before it looks again."""
    first: list[Store] = []
    release, begun = FileLock.release, threading.Event()

    def release_and_be_overtaken(lock: FileLock) -> None:
        release(lock)
        if lock.path.name == "schema.lock" and not begun.is_set():
            begun.set()
            first.append(Store.open(tmp_path / "store"))

    monkeypatch.setattr(FileLock, "release", release_and_be_overtaken)
    monkeypatch.setattr(upgrade, "OPEN_TIMEOUT", 5.0)
    with Store.open(tmp_path / "store") as store:
        put(store, "k", b"value")
    assert body(first[0], "k") == b"value"
    first[0].close()


# ---- upgrades ----


@pytest.mark.usefixtures("new_release")
def test_an_old_store_is_upgraded_with_its_data(old: Path) -> None:
    with Store.open(old) as store:
        intact(store)
        assert rows(store, "SELECT version_num FROM alembic_version") == [(next_format.REVISION,)]
        assert rows(store, "PRAGMA user_version") == [(next_format.FORMAT,)]
        assert rows(store, "SELECT count(*) FROM blobs WHERE note = 'of ' || size") == [(6,)]
        assert rows(store, "SELECT count(*) FROM extra") == [(7,)]
        assert rows(store, "PRAGMA foreign_key_check") == []


def test_an_upgrade_works_in_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    run = migrating._run

    def seen(handed: sqlalchemy.Connection) -> None:
        found.append(handed.exec_driver_sql("PRAGMA temp_store").scalar_one())
        run(handed)

    monkeypatch.setattr(migrating, "_run", seen)
    Store.open(tmp_path / "store").close()
    assert found == [1]


def test_the_old_database_is_kept_aside(old: Path, second: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        next_format.install(second, patch)
        with Store.open(old) as store:
            put(store, "a", b"written by the new release")
    aside = old / f"metadata.before-upgrade-from-{next_format.BEFORE}.sqlite3"
    assert aside.stat().st_mode & 0o777 == 0o600
    assert not list(old.glob("*.part"))
    with pytest.raises(SchemaTooNew):
        Store.open(old)
    # Going back: the old release works with the database that was kept.
    shutil.copytree(old / "blobs", tmp_path / "back" / "blobs")
    shutil.copy(aside, tmp_path / "back" / DATABASE)
    with Store.open(tmp_path / "back") as store:
        intact(store)


@pytest.mark.usefixtures("new_release")
def test_reading_verbs_do_not_upgrade(old: Path) -> None:
    before = content(old)
    with pytest.raises(StoreUnusable, match=f"older format {next_format.BEFORE}"):
        Store.open(old, create=False)
    assert content(old) == before


def test_an_upgrade_that_fails_leaves_the_old_store(old: Path, tmp_path: Path) -> None:
    failing = next_format.write(tmp_path / "failing", 'op.execute("INSERT INTO no_such_table VALUES (1)")')
    with pytest.MonkeyPatch.context() as patch:
        next_format.install(failing, patch)
        with pytest.raises(StoreError, match="no_such_table"):
            Store.open(old)
        assert revision(old) == next_format.BEFORE
    with Store.open(old) as store:
        intact(store)


def test_an_upgrade_that_breaks_references_is_refused(old: Path, tmp_path: Path) -> None:
    breaking = next_format.write(tmp_path / "breaking", 'op.execute("DELETE FROM blobs")')
    with pytest.MonkeyPatch.context() as patch:
        next_format.install(breaking, patch)
        with pytest.raises(StoreUnusable, match="refer to nothing"):
            Store.open(old)
    with Store.open(old) as store:
        intact(store)


def test_an_upgrade_without_room_leaves_the_old_store(old: Path, second: Path) -> None:
    connect = database.connect

    def small(path: Path, mode: str = "rw") -> sqlite.Connection:
        connection = connect(path, mode=mode)
        connection.execute("PRAGMA max_page_count=1")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        next_format.install(second, patch)
        patch.setattr(upgrade, "connect", small)
        with pytest.raises(StoreFull):
            Store.open(old)
    with Store.open(old) as store:
        intact(store)


def test_an_upgrade_whose_copy_cannot_be_opened_leaves_the_old_store(old: Path, second: Path) -> None:
    connect = sqlite.connect

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith(".part"):
            raise driver_error(CANTOPEN, "unable to open database file")
        return connect(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        next_format.install(second, patch)
        patch.setattr(sqlite, "connect", refuse)
        with pytest.raises(StorageFault, match="unable to open"):
            Store.open(old)
    with Store.open(old) as store:
        intact(store)


def test_killed_at_every_statement_of_an_upgrade(memory: Path, second: Path) -> None:
    code = """
        import shutil
        import kill_points, next_format, test_upgrade
        from gestalt_cas.formats import upgrade
        directory, template = Path(arguments[0]), Path(arguments[1])
        next_format.install(Path(arguments[2]))
        seen = directory.with_name("seen")

        def prepare():
            for path in directory.glob("metadata*"):
                path.unlink()
            shutil.copy(template, directory / "metadata.sqlite3")

        def check(number):
            found = test_upgrade.revision(directory)
            with open(seen, "a") as log:
                print(found, file=log)
            with Store.open(directory) as store:
                test_upgrade.intact(store)
                assert test_upgrade.rows(store, "SELECT count(*) FROM extra") == [(7,)]

        print(kill_points.every_point(
            kill_points.at_statement, prepare, lambda: Store.open(directory).close(), check
        ))
    """
    old, template = memory / "store", memory / "template"
    with Store.open(old) as store:
        fill(store)
    shutil.copy(old / DATABASE, template)
    points = int(child(code, old, template, second))
    assert points > 30
    seen = (memory / "seen").read_text().split()
    assert set(seen) == {next_format.BEFORE, next_format.REVISION}
    assert seen == sorted(seen)  # old up to some point, new from there on


def test_two_processes_upgrade_at_once(old: Path, second: Path) -> None:
    code = """
        import next_format, test_upgrade
        next_format.install(Path(arguments[1]))
        print("ready", flush=True)
        sys.stdin.readline()
        with Store.open(arguments[0]) as store:
            test_upgrade.intact(store)
            print(test_upgrade.rows(store, "SELECT count(*) FROM extra")[0][0])
    """
    with Child(code, old, second) as first, Child(code, old, second) as other:
        for process in (first, other):
            assert process.line() == "ready"
        for process in (first, other):
            process.tell()
        assert (first.finish(), other.finish()) == ("7\n", "7\n")
    assert len(list(old.glob("metadata.before-upgrade*"))) == 1


USER = """
    with Store.open(arguments[0]) as store:
        print("open", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def user(old: Path) -> Iterator[Child]:
    """A process of the old release that has the store open."""
    with Child(USER, old) as process:
        assert process.line() == "open"
        yield process


def test_an_upgrade_waits_for_those_who_use_the_store_and_names_them(
    old: Path, second: Path, user: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(old)
    with monkeypatch.context() as patch:
        next_format.install(second, patch)
        patch.setattr(upgrade, "OPEN_TIMEOUT", 0.2)
        told = f"has the older format {next_format.BEFORE} and cannot be upgraded while others have it open: process "
        with pytest.raises(StoreBusy, match=rf"the store at {old} {told}{user.pid}; stop them, then try again"):
            Store.open(old)
    assert content(old) == before
    user.tell()
    user.finish()
    with Store.open(old) as store:
        intact(store)


@pytest.mark.usefixtures("new_release")
def test_an_upgrade_goes_ahead_when_the_last_user_has_left(old: Path, user: Child) -> None:
    def leave() -> None:
        time.sleep(0.2)
        user.tell()

    thread = threading.Thread(target=leave)
    thread.start()
    with Store.open(old) as store:
        assert rows(store, "PRAGMA user_version") == [(next_format.FORMAT,)]
    thread.join()
    user.finish()


@pytest.mark.usefixtures("new_release")
def test_opening_waits_for_another_processes_upgrade(old: Path) -> None:
    holder = upgrade.FileLock(old / "schema.lock")
    assert holder.try_acquire()
    timer = threading.Timer(0.1, holder.release)
    timer.start()
    with Store.open(old) as store:
        intact(store)
    timer.join()
    holder.close()


def test_a_store_whose_format_was_raised_under_it_writes_no_more(old: Path) -> None:
    with Store.open(old) as store:
        change(store, f"PRAGMA user_version={next_format.FORMAT}")
        with pytest.raises(SchemaTooNew):
            put(store, "a", b"three")
        assert body(store, "a") == b"two"


def test_whoever_comes_second_finds_the_work_done(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its locks another process has made or upgraded the store."""
    real, looks = upgrade.read_revision, []

    def stale(layout: Layout) -> str | None:
        looks.append(real(layout))
        return None if len(looks) == 1 else looks[-1]

    monkeypatch.setattr(upgrade, "read_revision", stale)
    with Store.open(old) as store:
        intact(store)
    assert looks == [next_format.BEFORE] * 3


class Refusing:
    """A connection on which one statement meets an I/O error."""

    def __init__(self, real: sqlite.Connection, what: str) -> None:
        self.real, self.what = real, what

    def execute(self, sql: str) -> Any:
        if self.what in sql:
            raise driver_error(IOERR, "disk I/O error")
        return self.real.execute(sql)

    def close(self) -> None:
        self.real.close()


@pytest.mark.parametrize("what", ["page_size", "foreign_keys=OFF", "application_id", "backup"])
def test_a_disk_that_fails_meanwhile_is_told_and_a_later_try_works(
    tmp_path: Path, second: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    connect = database.connect
    directory = tmp_path / "store"
    if what == "backup":
        with Store.open(directory) as store:
            fill(store)
        next_format.install(second, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(upgrade, "connect", lambda path, mode="rw": Refusing(connect(path, mode=mode), what))
        if what == "backup":
            patch.setattr(sqlite, "copy", Failing(sqlite.copy, driver_error(IOERR, "disk I/O error")))
        if what == "application_id":
            directory.mkdir()
            (directory / "blobs").mkdir()
            empty_database(directory / DATABASE)
        with pytest.raises(StorageFault):
            Store.open(directory)
    with Store.open(directory) as store:
        if what != "backup":
            fill(store)
        intact(store)


def test_an_installation_without_migrations_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrating, "__file__", os.fspath(tmp_path / "elsewhere" / "migrating.py"))
    with pytest.raises(StoreUnusable, match="install it again"):
        Store.open(tmp_path / "store")


def test_migrations_run_only_under_the_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(migrating.migrations_directory()).replace("%", "%%"))
    with pytest.raises(SystemExit, match="locks"):
        command.upgrade(config, "head")
