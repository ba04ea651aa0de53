"""Rows that hold what no write stores: named by whatever meets them, never a traceback, and nothing goes by them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import pytest

from checks import found
from command_line import Command, command_in
from gestalt_cas import Store
from gestalt_cas.backups.row_copies import RowCopy
from gestalt_cas.checks import culprits
from gestalt_cas.checks.inspection import CheckOptions, Tally
from gestalt_cas.cli import exits
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import Collection, Retention
from gestalt_cas.errors import BlobMissing, DatabaseDamaged, StoreBusy
from gestalt_cas.formats import tables
from gestalt_cas.keeping import quotas
from gestalt_cas.objects import Headers, ObjectKey
from gestalt_cas.removal import soundness
from gestalt_cas.rows import settings
from gestalt_cas.serving import mounts
from gestalt_cas.serving.mounts import OpenStore
from gestalt_cas.sql import sqlite
from gestalt_cas.wrong_values import value_rules
from presigned import Site
from storage import Failing, body, change, child, history, key, payloads, put, rows
from wire import protos
from wire.client import Client
from wire.process import Server

DAY_MS = 86_400_000
SMALL, LARGE = b"inlined", b"a file" * 500


def fill(store: Store) -> None:
    """At least one row in every table, and for each a value in every column."""
    put(store, "a/one", SMALL, metadata={"colour": "blue"})
    put(store, "a/two", LARGE)
    shown = put(store, "a/shown", b"kept by the snapshot only" * 100)
    store.create_snapshot("first", "bucket", "a/")
    store.delete(key("a/shown"), version_id=shown.version_id)
    removed = put(store, "b/removed", b"removed for good" * 100)
    store.delete(key("b/removed"), version_id=removed.version_id)
    put(store, "b/twice", b"1")
    held = put(store, "b/twice", b"22")
    put(store, "b/marked", b"below a marker")
    store.delete(key("b/marked"))
    store.hold("bucket", "c/")
    store.hold("bucket", "b/twice", version_id=held.version_id)
    put(store, "c/held", b"held")
    store.set_quota("bucket", "a/", 1 << 20)
    store.change_settings({"retention.rules": {"bucket/b/": {"keepNoncurrent": 5}}})
    change(store, "INSERT INTO pins VALUES ('old', 'backup', 1, 1, '{\"pid\": 1}')")
    change(store, "INSERT INTO horizons VALUES ('elsewhere', 1, 1)")
    change(store, "INSERT INTO unreachable VALUES (zeroblob(32), 5, 1)")
    store.note("gc.last", {"at_ms": now_ms(), "result": "done"})


@pytest.fixture(scope="module", name="filled")
def filled_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "store"
    with Store.open(path, settings={"blobs.inlineMaxBytes": 100}) as store:
        fill(store)
    return path


@pytest.fixture(name="directory")
def directory_fixture(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "store"))


@pytest.fixture(name="command")
def command_fixture(directory: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(directory, capfdbinary)


def damage(directory: Path, *statements: str) -> None:
    """Change rows as bit rot does, whatever the constraints say; nobody has the store open."""
    database = directory / "metadata.sqlite3"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        schema = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table'")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            assert connection.execute(statement).rowcount, f"{statement}: no row was changed"
        connection.execute("PRAGMA writable_schema=ON")
        connection.executemany("UPDATE sqlite_master SET sql = ?2 WHERE name = ?1", schema)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for name in ("metadata.sqlite3-wal", "metadata.sqlite3-shm"):
        (directory / name).unlink(missing_ok=True)


def contents(directory: Path) -> dict[str, Any]:
    """All rows, but of notes, which every tool writes; and the payload files."""
    with closing(sqlite3.connect(f"file:{directory / 'metadata.sqlite3'}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        held: dict[str, Any] = {
            name: sorted(map(repr, connection.execute(f"SELECT {_columns(name)} FROM {name}").fetchall()))
            for name in tables.metadata.tables
            if name != "settings"
        }
        names = ", ".join(f"'{name}'" for name in settings.FIELDS)
        rows = connection.execute(f"SELECT name, value FROM settings WHERE name IN ({names})").fetchall()
    return {**held, "settings": sorted(map(repr, rows)), "files": sorted(directory.glob("blobs/*/*"))}


def _columns(table: str) -> str:
    """All but the mark of damage, which whoever meets damage sets."""
    return ", ".join(name for name in value_rules.FORMS[table] if name != "damaged_ms")


# ---- the rules ----


def test_every_column_of_every_table_has_its_form() -> None:
    for name, table in tables.metadata.tables.items():
        assert list(value_rules.FORMS[name]) == list(table.columns.keys())
        assert value_rules.KEYS[name] == tuple(table.primary_key.columns.keys())
    assert value_rules.FORMS.keys() == tables.metadata.tables.keys()


def test_what_writes_store_is_never_wrong(directory: Path) -> None:
    with Store.open(directory) as store:
        assert list(culprits.find(store._database.read)) == []
        for name in value_rules.FORMS:
            assert rows(store, f"SELECT count(*) FROM {name}") != [(0,)], "the test is of every table"
        soundness.require(store._parts)
        assert found(store) == []


def test_stretches_pass_every_row_once(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for number in range(40):
            put(store, f"k{number % 13}", b"%d" % number)
        change(store, "UPDATE versions SET size = -1 WHERE seq % 3 = 0")
        seen: list[str] = []
        place: value_rules.Place | None = value_rules.START
        with store._database.read() as tx:
            while place is not None:
                look = value_rules.look(tx, "versions", place, rows=7)
                seen += [wrong.row for wrong in look.wrong]
                place = look.place
        assert len(seen) == len(set(seen)) == 13


def test_rows_of_any_types_do_not_end_or_circle_a_pass(directory: Path) -> None:
    odd = ["x'00'", "'text'", "CAST(x'ff' AS TEXT)", "NULL", "5", "1.5"]
    inserts = [f"INSERT INTO current VALUES ({bucket}, {key}, 1)" for bucket in odd for key in odd[:3]]
    damage(directory, *(line for line in inserts if "NULL" not in line))
    with closing(sqlite3.connect(directory / "metadata.sqlite3")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM current").fetchone()
    with Store.open(directory) as store, store._database.read() as tx:
        place: value_rules.Place | None = value_rules.START
        for _ in range(3 * count):
            if place is None:
                break
            place = value_rules.look(tx, "current", place, rows=1).place
        assert place is None


def test_keys_that_are_null_do_not_end_or_circle_a_pass() -> None:
    """SQLite lets nobody store them; a bit in the header of a record does."""
    with closing(sqlite.in_memory()) as connection:
        connection.execute("CREATE TABLE current (bucket TEXT, key BLOB, seq INTEGER)")
        names = [(None, None), (None, b"a"), ("b", None), ("b", b"a"), ("c", None), ("c", b"c"), ("d", "text")]
        connection.executemany("INSERT INTO current VALUES (?, ?, 1)", names)
        seen: list[str] = []
        place: value_rules.Place | None = value_rules.START
        while place is not None:
            look = value_rules.look(connection, "current", place, rows=1)
            seen += [str(wrong) for wrong in look.wrong]
            place = look.place
    assert [text.partition(":")[0] for text in seen] == [
        "current, row NULL/NULL", "current, row b/NULL", "current, row c/NULL", "current, row d/text",
    ]  # fmt: skip


# ---- verbs ----

WRONG = {
    "integer": ("'x'", "1.5", "NULL", "-1", "9223372036854775807"),
    "text": ("x'ff'", "CAST(x'ff' AS TEXT)", "NULL", "'[1,2'"),
    "blob": ("'x'", "7", "NULL"),
}
COLUMNS = [
    (
        name,
        column.name,
        "text" if str(column.type) == "TEXT" else "integer" if str(column.type) == "INTEGER" else "blob",
    )
    for name, table in tables.metadata.tables.items()
    for column in table.columns
    if column.name != "id"
]
LOOKS: tuple[tuple[str, ...], ...] = (
    ("ls",), ("ls", "-r", "-l", "bucket"), ("ls", "--json", "-r", "bucket"), ("versions", "--prefix", "bucket/"),
    ("cat", "bucket/a/two"), ("stat", "bucket/a/one"), ("stats",), ("du", "bucket"), ("config",), ("prove", "bucket"),
    ("snapshot", "list"), ("hold", "list"), ("quota", "list"), ("diff", "bucket", "--from", "first"),
    ("ls", "-r", "bucket", "--as-of", "3"), ("retention", "preview"), ("gc", "--dry-run"), ("doctor",), ("check",),
)  # fmt: skip
CHANGES: tuple[tuple[str, ...], ...] = (
    ("retention", "run"), ("gc",), ("cp", "bucket/a/two", "bucket/new/copy"), ("rm", "bucket/a/one"),
    ("snapshot", "create", "second"), ("rollback", "bucket/b/", "--to", "first"), ("purge", "bucket/b/marked"),
    ("check", "--repair"), ("gc",), ("ls", "-r", "bucket"),
)  # fmt: skip
MAY_BE = {
    ("versions", "digest", "NULL"), ("versions", "headers", "NULL"), ("versions", "metadata", "NULL"),
    ("versions", "gone_seq", "NULL"), ("versions", "gone_ms", "NULL"), ("versions", "gone_digest", "NULL"),
    ("pins", "heartbeat_ms", "NULL"), ("pins", "detail", "NULL"), ("blobs", "damaged_ms", "NULL"),
    ("quotas", "used_bytes", "-1"), ("quotas", "used_bytes", "9223372036854775807"),
    ("quotas", "max_bytes", "9223372036854775807"), ("blobs", "damaged_ms", "-1"),
}  # fmt: skip
"""Values that some row may have."""
PERHAPS = ("'[1,2'", "9223372036854775807")
"""Wrong in some columns only."""


@pytest.mark.parametrize(("table", "column", "kind"), COLUMNS)
def test_no_verb_ends_in_a_traceback_and_check_names_the_row(
    table: str, column: str, kind: str, filled: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for number, value in enumerate(WRONG[kind]):
        directory = Path(shutil.copytree(filled, tmp_path / f"{number}" / "store"))
        keys = ", ".join(value_rules.KEYS[table])
        try:
            damage(
                directory,
                f"UPDATE {table} SET {column} = {value} WHERE ({keys}) IN (SELECT {keys} FROM {table} LIMIT 1)",
            )
        except sqlite3.IntegrityError:
            continue  # a NULL in a primary key
        command = command_in(directory, capfdbinary)
        before = contents(directory)
        for words in LOOKS:
            done = command(*words)
            if b"no write stores" in done.err.encode() and words != ("check",):
                assert done.code == exits.DAMAGE
        assert contents(directory) == before, "looking changes nothing"
        if (table, column, value) not in MAY_BE and value not in PERHAPS:
            wrong = {exits.DAMAGE} if table != "current" else {exits.DAMAGE, exits.NOT_FOUND}  # which can be made anew
            assert command("check").code in wrong, f"{table}.{column} = {value}"
        backup = tmp_path / f"{number}" / "backup"
        for words in (("backup", str(backup)), ("restore", str(backup), str(tmp_path / f"{number}" / "restored"))):
            command(*words)
        for words in CHANGES:
            command(*words)


FORMS = {
    "quotas, row a/b/a/: bucket": "UPDATE quotas SET bucket = 'a/b'",
    "quotas, row /a/: bucket is empty": "UPDATE quotas SET bucket = ''",
    "quotas, row bucket/\\xff: prefix": "UPDATE quotas SET prefix = x'ff'",
    "pins, row old: detail": "UPDATE pins SET detail = '[1]'",
    "snapshots, row 1st: name": "UPDATE snapshots SET name = '1st'",
    "holds, row bucket/b/twice, version x: version_id": "UPDATE holds SET version_id = 'x' WHERE version_id <> ''",
    "horizons, row a/b: bucket": "UPDATE horizons SET bucket = 'a/b'",
    "versions: bucket/a/two, version": "UPDATE versions SET headers = '[' WHERE key = CAST('a/two' AS BLOB)",
    "current: c/c: current names sequence 2, the newest": "INSERT INTO current VALUES ('c', x'63', 2)",
    "current: bucket/a/two: current names nothing, the newest object is sequence 2": (
        "DELETE FROM current WHERE key = CAST('a/two' AS BLOB)"
    ),
}


@pytest.mark.parametrize("stretch", [1, 1000])
@pytest.mark.parametrize("name", FORMS)
def test_rows_of_the_right_types_are_looked_into(
    name: str, stretch: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(directory, FORMS[name])
    monkeypatch.setattr(culprits, "_ROWS", stretch)
    with Store.open(directory) as store:
        (wrong,) = culprits.find(store._database.read)
        assert wrong.startswith(name)
        checked = [finding.message for finding in found(store)]
    assert any(message in wrong for message in checked), "in the same words"


SETTINGS = {
    "bucket": "'[1,2'",
    "versioning": "'\"sideways\"'",
    "blobs.inlineMaxBytes": "'{\"a\": 1}'",
    "history.keepDays": "'\"s\"'",
    "retention.rules": "'[7]'",
    "gc.last": "'{'",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_cannot_be_is_named(name: str, directory: Path, command: Command) -> None:
    damage(directory, f"UPDATE settings SET value = {SETTINGS[name]} WHERE name = '{name}'")
    for words in (*LOOKS, *CHANGES):
        command(*words)
    done = command("check")
    assert done.code == exits.DAMAGE or name == "gc.last", "a note is made anew by the next run"
    assert f"settings, row {name}: value" in done.text or name == "gc.last"


def test_the_error_names_table_row_column_and_what_to_do(directory: Path, command: Command) -> None:
    damage(directory, "UPDATE settings SET value = '[1,2' WHERE name = 'bucket'")
    done = command("config")
    assert done.code == exits.DAMAGE
    assert "settings, row bucket: value holds '[1,2', which is not JSON" in done.err
    assert f"gestalt-cas check --data-dir {directory}" in done.err
    assert "settings, row bucket: value holds '[1,2', which is not JSON" in command("check").text, "in the same words"


def test_a_pointer_that_leads_nowhere_is_named(directory: Path, command: Command) -> None:
    damage(directory, "UPDATE current SET seq = 9999 WHERE key = CAST('a/two' AS BLOB)")
    done = command("ls", "-r", "bucket")
    assert done.code == exits.DAMAGE
    words = "bucket/a/two: current names sequence 9999, the newest object is sequence 2"
    assert words in done.err
    assert words in command("check").text
    assert command("check", "--repair").code == exits.OK
    assert command("ls", "-r", "bucket").code == exits.OK


def test_a_table_that_is_missing_is_named(directory: Path, command: Command) -> None:
    damage(directory, "UPDATE current SET seq = 9999 WHERE key = CAST('a/two' AS BLOB)")
    with closing(sqlite3.connect(directory / "metadata.sqlite3")) as connection:
        connection.execute("DROP TABLE unreachable")
    done = command("ls", "-r", "bucket")
    assert done.code == exits.DAMAGE
    assert "unreachable: the table is not as every store has it: " in done.err
    assert "current: bucket/a/two: current names sequence 9999" in done.err


def test_an_open_that_adopts_settings_says_which_row_keeps_it_from_that(directory: Path) -> None:
    damage(directory, "UPDATE settings SET value = '{' WHERE name = 'versioning'")
    with pytest.raises(DatabaseDamaged, match="settings, row versioning: value holds"):
        Store.open(directory, settings={"bucket": "other"})
    with Store.open(directory) as store:
        assert body(store, "a/two") == LARGE, "whatever does not meet the row goes on"


def test_an_absent_counter_is_named(directory: Path, command: Command) -> None:
    damage(directory, "DELETE FROM counter")
    done = command("rm", "bucket/a/one")
    assert done.code == exits.DAMAGE
    assert "counter: seq is missing: the table has no row" in done.err


def test_a_printed_value_is_explained_after_the_store_was_closed(directory: Path, command: Command) -> None:
    damage(directory, "UPDATE quotas SET max_bytes = 'x'")
    done = command("quota", "list")
    assert done.code == exits.DAMAGE
    assert "quotas, row bucket/a/: max_bytes holds 'x' (text)" in done.err


# ---- faults of the program ----


def test_a_fault_of_the_program_comes_out_as_one(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = TypeError("a bug")
    monkeypatch.setattr(Store, "list_page", Failing(Store.list_page, error))
    capture = command_in(directory, None)  # type: ignore[arg-type]
    del capture
    from gestalt_cas.cli.app import run

    with pytest.raises(TypeError, match="a bug"):
        run(["--data-dir", str(directory), "ls", "bucket"])
    with Store.open(directory) as store:
        assert store.explained(error) is error


@pytest.mark.parametrize("error", [StoreBusy("busy"), BlobMissing("gone", digest=""), OSError(5, "x"), MemoryError()])
def test_what_is_said_in_words_is_not_looked_into(
    error: Exception, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(directory, "UPDATE counter SET commit_ms = 'x'")
    monkeypatch.setattr(culprits, "find", Failing(culprits.find, AssertionError("it looked")))
    with Store.open(directory) as store:
        assert store.explained(error) is error


def test_a_check_that_fails_over_sound_rows_is_a_fault(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gestalt_cas.checks import checking

    monkeypatch.setattr(checking, "check_order", Failing(checking.check_order, TypeError("a bug")))
    with Store.open(directory) as store, pytest.raises(TypeError, match="a bug"):
        store.check()


def test_a_storm_has_one_look_until_it_is_forgotten(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(directory, "UPDATE counter SET commit_ms = 'x'")
    looks: list[object] = []
    real = culprits.find

    def counted(*arguments: Any) -> Iterator[str]:
        looks.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(culprits, "find", counted)
    with Store.open(directory) as store:
        answers: list[Exception] = []
        threads = [threading.Thread(target=lambda: answers.append(store.explained(TypeError("x")))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(looks) == 1
        assert len(answers) == 8
        assert all(isinstance(answer, DatabaseDamaged) for answer in answers)
        monkeypatch.setattr(culprits, "REMEMBERED_SECONDS", 0.0)
        store._culprits._until = 0.0  # type: ignore[union-attr]
        change(store, "UPDATE counter SET commit_ms = 1")
        error = TypeError("x")
        assert store.explained(error) is error
        assert len(looks) == 2


def test_a_look_that_takes_too_long_calls_nothing_damage(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(directory, "UPDATE counter SET commit_ms = 'x'")
    monkeypatch.setattr(culprits, "LOOK_SECONDS", -1.0)
    error = TypeError("x")
    with Store.open(directory) as store:
        assert store.explained(error) is error


# ---- what is kept ----


def kept(directory: Path) -> dict[str, Any]:
    return {
        name: held for name, held in contents(directory).items() if name in ("versions", "blobs", "inlined", "files")
    }


KEEPERS = {
    "a snapshot's prefix": "UPDATE snapshots SET prefix = 'a/'",
    "a snapshot's sequence": "UPDATE snapshots SET seq = 'x'",
    "a snapshot's bucket": "UPDATE snapshots SET bucket = CAST('bucket' AS BLOB)",
    "no sequence of a snapshot": "UPDATE snapshots SET seq = NULL",
    "a digest that is NULL": "UPDATE versions SET digest = NULL WHERE key = CAST('a/two' AS BLOB)",
    "a digest that is text": "UPDATE versions SET digest = 'x' WHERE key = CAST('a/two' AS BLOB)",
    "a digest of an empty object that is NULL": "UPDATE versions SET digest = NULL WHERE key = CAST('e/typed' AS BLOB)",
    "a digest that is NULL, of an object": "UPDATE versions SET digest = NULL WHERE key = CAST('e/bare' AS BLOB)",
    "a digest of nothing": "UPDATE versions SET digest = zeroblob(32) WHERE key = CAST('a/two' AS BLOB)",
    "a bucket that is bytes": "UPDATE versions SET bucket = x'ff' WHERE key = CAST('a/two' AS BLOB)",
    "a hold's prefix": "UPDATE holds SET prefix = 'c/' WHERE version_id = ''",
    "a broken setting": "UPDATE settings SET value = '{' WHERE name = 'history.keepDays'",
    "days that are text": "UPDATE settings SET value = '\"s\"' WHERE name = 'history.keepDays'",
    "days below none": "UPDATE settings SET value = '-1' WHERE name = 'history.keepDays'",
    "a time that is early": "UPDATE versions SET gone_ms = 1 WHERE key = CAST('b/removed' AS BLOB)",
    "a time that is no number": "UPDATE versions SET gone_ms = 1.5 WHERE key = CAST('b/removed' AS BLOB)",
    "a commit time that is no number": "UPDATE versions SET commit_ms = 1.5 WHERE key = CAST('b/twice' AS BLOB)",
}


@pytest.mark.parametrize("stretch", [1, 3, value_rules.STRETCH_ROWS])
@pytest.mark.parametrize("name", KEEPERS)
def test_upkeep_removes_nothing_by_such_a_row(
    name: str, stretch: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_rules, "STRETCH_ROWS", stretch)
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {"bucket": {"keepDays": 0, "keepNoncurrent": 0}}})
        put(store, "b/garbage", b"garbage" * 100)
        put(store, "e/typed", b"", headers=Headers("text/plain"))
        put(store, "e/bare", b"")
        store.delete(key("b/garbage"), version_id=store.head(key("b/garbage")).version_id)
    damage(directory, KEEPERS[name])
    before = kept(directory)
    with Store.open(directory) as store:
        for work in (store.apply_retention, store.collect_garbage):
            with contextlib.suppress(DatabaseDamaged):
                work()
                if name not in ("a broken setting", "days that are text", "days below none"):
                    pytest.fail(f"{work.__name__} did not say that it cannot go on")
    if "days" in name or "setting" in name:  # gc has nothing to do with how long the history knows
        assert kept(directory)["versions"] == before["versions"]
        return
    assert kept(directory) == before


@pytest.mark.parametrize("work", ["versions", "history"])
@pytest.mark.parametrize("name", KEEPERS)
def test_a_preview_of_retention_says_what_the_run_says(name: str, work: str, directory: Path, command: Command) -> None:
    put_empty_objects(directory)
    with Store.open(directory) as store:
        if work == "versions":
            store.change_settings({"retention.rules": {"bucket": {"keepDays": 0, "keepNoncurrent": 0}}})
        else:
            store.change_settings({"retention.rules": {}, "history.keepDays": 1})
            change(store, f"UPDATE versions SET commit_ms = commit_ms - {3 * DAY_MS}, gone_ms = gone_ms - {3 * DAY_MS}")
    damage(directory, KEEPERS[name])
    before = contents(directory)
    preview = command("retention", "preview")
    assert contents(directory) == before
    run = command("retention", "run")
    assert (preview.code, preview.err) == (run.code, run.err)
    assert run.code == exits.DAMAGE or run.text.startswith("removed 0 versions"), "what keeps everything is in no way"
    assert not preview.text or run.code == exits.OK, "no version is shown, and no sum"


@pytest.mark.parametrize("days", [0, 1])
def test_a_preview_by_which_nothing_goes_looks_nothing_through(
    days: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soundness, "require", Failing(soundness.require, AssertionError("it looked")))
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {}, "history.keepDays": days})
        assert not any(asdict(store.preview_retention()).values())


def test_a_preview_is_told_nothing_of_before_the_rows_were_looked_through(directory: Path) -> None:
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
        told: list[object] = []
        assert store.preview_retention(each=told.append).versions == len(told) > 0, "each once"
    damage(directory, KEEPERS["a digest that is text"])
    with Store.open(directory) as store, pytest.raises(DatabaseDamaged, match="nothing is removed while that stands"):
        store.preview_retention(each=lambda _: pytest.fail("it was told"))


NULLED = "UPDATE versions SET digest = NULL WHERE key = CAST('{}' AS BLOB)"
LOST_DIGESTS = {
    "a/two": "its size is not 0",
    "e/typed": "it has a content type",
    "e/cached": "it has headers",
    "e/coloured": "it has metadata",
    "e/bare": "`current` names it as its key's object",
}
"""Objects, and what tells that their rows are no delete markers once their digests are NULL."""


def put_empty_objects(directory: Path) -> None:
    with Store.open(directory) as store:
        put(store, "e/typed", b"", headers=Headers("text/plain"))
        put(store, "e/cached", b"", headers=Headers(cache_control="no-store"))
        put(store, "e/coloured", b"", metadata={"colour": "blue"})
        put(store, "e/bare", b"")
        put(store, "e/deleted", b"")
        store.delete(key("e/deleted"))


@pytest.mark.parametrize("name", LOST_DIGESTS)
def test_no_object_that_lost_its_digest_passes_for_a_delete_marker(
    name: str, directory: Path, tmp_path: Path, command: Command
) -> None:
    put_empty_objects(directory)
    backup = tmp_path / "backup"
    assert command("backup", backup).code == exits.OK, "neither a marker nor an empty object is in its way"
    before = contents(backup)
    damage(directory, NULLED.format(name))
    done = command("backup", backup)
    assert done.code == exits.DAMAGE
    row = f"versions, row bucket/{name}, sequence "
    why = f"digest holds NULL, as only a delete marker's does, but {LOST_DIGESTS[name]}"
    assert row in done.err
    assert why in done.err
    assert f"gestalt-cas check --data-dir {directory} tells more" in done.err
    assert contents(backup) == before, "what it held is as it was"
    with Store.open(directory) as store, pytest.raises(DatabaseDamaged) as refused:
        soundness.require(store._parts)
    assert row in str(refused.value)
    assert why in str(refused.value)
    checked = command("check")
    assert checked.code in (exits.DAMAGE, exits.NOT_FOUND)
    if name == "e/bare":
        assert f"bucket/{name}: current names sequence" in checked.text
    else:
        assert f"bucket/{name}, version " in checked.text
        assert why in checked.text


def test_a_backup_in_which_an_object_has_lost_its_digest_is_restored_when_that_is_allowed(
    directory: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As releases made them that took it for a delete marker."""
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    damage(directory, NULLED.format("a/two"))
    with monkeypatch.context() as patch:
        patch.setattr(RowCopy, "lost_digest", lambda _: None)
        assert command("backup", backup).code == exits.OK
    done = command("restore", backup, restored)
    assert done.code == exits.DAMAGE
    assert "versions, row bucket/a/two, sequence 2: digest holds NULL" in done.err
    assert "restore --allow-incomplete takes what is whole" in done.err
    assert not (restored / "metadata.sqlite3").exists()
    done = command("restore", backup, restored, "--allow-incomplete")
    assert done.code == exits.DAMAGE
    assert "versions, row bucket/a/two, sequence 2: digest holds NULL" in done.err
    with Store.open(restored) as store:
        assert body(store, "c/held") == b"held"


def test_what_was_removed_is_no_object_that_lost_its_digest(directory: Path, tmp_path: Path, command: Command) -> None:
    """Purged rows keep their sizes, and markers that were removed lie in the history, too."""
    put_empty_objects(directory)
    with Store.open(directory) as store:
        (marker, _) = history(store, "e/deleted")
        assert marker.delete_marker
        store.delete(key("e/deleted"), version_id=marker.version_id)
        for name in ("e/typed", "e/coloured", "a/two"):
            store.delete(key(name), version_id=store.head(key(name)).version_id)
        for name in ("e/typed", "b/removed"):
            store.purge(key(name))
        assert rows(store, "SELECT count(*) FROM versions WHERE digest IS NULL AND size > 0") != [(0,)]
    assert command("backup", tmp_path / "backup").code == exits.OK
    assert command("check").code == exits.OK


def test_a_purge_removes_no_payload_that_a_damaged_version_may_have(directory: Path) -> None:
    with Store.open(directory) as store:
        put(store, "b/copy", LARGE)
    damage(directory, "UPDATE versions SET digest = 'x' WHERE key = CAST('a/two' AS BLOB)")
    before = kept(directory)
    with Store.open(directory) as store, pytest.raises(DatabaseDamaged, match="bucket/a/two, sequence 2: digest holds"):
        store.purge(key("b/copy"))
    assert kept(directory) == before


def test_upkeep_of_a_sound_store_goes_on(directory: Path) -> None:
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
        assert store.apply_retention().versions
        assert store.collect_garbage().files
        assert body(store, "a/two") == LARGE


def test_a_damaged_snapshot_keeps_what_is_removed_meanwhile(directory: Path) -> None:
    damage(directory, "UPDATE snapshots SET prefix = 'a/'")
    with Store.open(directory) as store:
        store.delete(key("a/two"), version_id=store.head(key("a/two")).version_id)
        assert rows(store, "SELECT digest IS NOT NULL FROM versions WHERE key = CAST('a/two' AS BLOB)") == [(1,)]
        change(store, "UPDATE snapshots SET prefix = CAST('a/' AS BLOB)")
        store.collect_garbage()
        assert len(payloads(store)) >= 2, "the snapshot shows it"
        assert body(store, "a/two", as_of="first") == LARGE


def test_nothing_is_removed_under_a_hold_that_cannot_be_read(directory: Path) -> None:
    damage(directory, "UPDATE holds SET prefix = 'c/' WHERE version_id = ''")
    with Store.open(directory) as store:
        version = store.head(key("c/held"))
        with pytest.raises(DatabaseDamaged, match="holds, row bucket/c/"):
            store.delete(key("c/held"), version_id=version.version_id)
        with pytest.raises(DatabaseDamaged, match="holds, row bucket/c/"):
            store.purge(key("c/held"))
        assert body(store, "c/held") == b"held"


@pytest.mark.parametrize("value", ["'x'", "1.5", "NULL", "-7"])
@pytest.mark.parametrize("column", ["seq", "commit_ms"])
def test_no_change_is_numbered_or_dated_by_a_broken_counter(
    column: str, value: str, directory: Path, command: Command
) -> None:
    damage(directory, f"UPDATE counter SET {column} = {value}")
    before = contents(directory)
    done = command("rm", "bucket/a/one")
    if (column, value) == ("commit_ms", "-7"):
        return  # the clock is later
    assert done.code == exits.DAMAGE
    assert f"counter: {column} holds" in done.err
    assert contents(directory) == before


# ---- quotas ----

QUOTAS = {
    "prefix is of type text, not blob": "UPDATE quotas SET prefix = 'a/'",
    "bucket is of type blob, not text": "UPDATE quotas SET bucket = CAST('bucket' AS BLOB)",
    "prefix is of type integer, not blob": "UPDATE quotas SET prefix = 7",
}


@pytest.mark.parametrize("name", QUOTAS)
def test_what_grows_below_a_quota_that_cannot_be_read_is_refused(name: str, directory: Path, command: Command) -> None:
    damage(directory, QUOTAS[name])
    refusal = rf"quotas, row bucket/(a/|7): {name}; gestalt-cas check --data-dir {directory} tells of every such row"
    with Store.open(directory) as store:
        for _ in range(2):  # the second one knows by then that there are quotas
            with pytest.raises(DatabaseDamaged, match=refusal):
                put(store, "a/new", b"new")
        with pytest.raises(DatabaseDamaged, match=refusal):
            store.copy(key("c/held"), key("a/copy"))
        with pytest.raises(DatabaseDamaged, match=refusal):
            store.quotas()
        assert not history(store, "a/new") + history(store, "a/copy"), "nothing was added"
        before = rows(store, "SELECT used_bytes FROM quotas")[0][0]
        store.delete(key("a/one"), version_id=store.head(key("a/one")).version_id)
        store.delete(key("a/two"))
        assert rows(store, "SELECT used_bytes FROM quotas") == [(before - len(SMALL),)], "removals count, and work"
        if "integer" in name:
            with pytest.raises(DatabaseDamaged, match=refusal):
                put(store, "b/beside", b"which prefix it is of cannot be told")
        else:
            put(store, "b/beside", b"what does not meet it goes on")
        store.write(ObjectKey("elsewhere", "a/new"), [b"new"])
    assert f"quotas, row bucket/{'7' if 'integer' in name else 'a/'}: " in command("check").text


@pytest.mark.parametrize("name", list(QUOTAS)[:2])
@pytest.mark.parametrize("words", [("set", "bucket/a/", "1M"), ("rm", "bucket/a/")])
def test_a_quota_that_cannot_be_read_is_set_anew_or_removed(
    name: str, words: tuple[str, ...], directory: Path, command: Command
) -> None:
    damage(directory, QUOTAS[name])
    advice = f"and this one is set anew with: gestalt-cas quota set bucket/a/ SIZE --data-dir {directory}"
    assert advice in command("quota", "list").err
    assert command("quota", *words).code == exits.OK
    assert command("check").code == exits.OK
    with Store.open(directory) as store:
        put(store, "a/new", b"new")
        used = len(SMALL) + len(LARGE) + len(b"new")
        assert [quota.used_bytes for quota in store.quotas()] == ([used] if words[0] == "set" else [])


def test_a_quota_whose_prefix_is_null_is_met_by_its_bucket() -> None:
    """SQLite lets nobody store it; a bit in the header of a record does."""
    with closing(sqlite.in_memory()) as connection:
        connection.execute("CREATE TABLE quotas (bucket TEXT, prefix BLOB, max_bytes INTEGER, used_bytes INTEGER)")
        connection.execute("INSERT INTO quotas VALUES ('bucket', NULL, 5, 0)")
        with pytest.raises(DatabaseDamaged, match="quotas, row bucket: prefix is of type null, not blob"):
            quotas.charge(connection, "bucket", b"k", 1)
        quotas.charge(connection, "bucket", b"k", -1)
        quotas.charge(connection, "elsewhere", b"k", 1)


# ---- servers ----

SERVED = {
    "settings, row bucket: value": "UPDATE settings SET value = '[1,2' WHERE name = 'bucket'",
    "current: bucket/a/two: current names sequence 9999": (
        "UPDATE current SET seq = 9999 WHERE key = CAST('a/two' AS BLOB)"
    ),
    "quotas, row bucket/a/: max_bytes": "UPDATE quotas SET max_bytes = 'x'",
    "counter: seq": "UPDATE counter SET seq = 'x'",
    "versions, row bucket/a/two, sequence 2: size": "UPDATE versions SET size = 'x' WHERE key = CAST('a/two' AS BLOB)",
    "versions: bucket/a/two, version": "UPDATE versions SET metadata = '{' WHERE key = CAST('a/two' AS BLOB)",
    "current, row bucket/a/two: seq": "UPDATE current SET seq = 'x' WHERE key = CAST('a/two' AS BLOB)",
}


@pytest.mark.parametrize("name", SERVED)
def test_calls_are_answered_with_the_row(name: str, directory: Path, filled: Path) -> None:
    del filled
    damage(directory, SERVED[name])
    answers: list[tuple[grpc.StatusCode, str]] = []
    with Server(data_dir=directory) as server, Client(server.target, protos.BUCKETED) as client:
        for call in (
            lambda: client.keys(bucket="bucket"),
            client.keys,
            lambda: client.head("a/two", bucket="bucket"),
            lambda: client.write("a/new", b"new", bucket="bucket"),
            lambda: client.delete("a/one", bucket="bucket"),
        ):
            try:
                call()
            except grpc.RpcError as error:
                answers.append((error.code(), error.details() or ""))
    assert any(code is grpc.StatusCode.DATA_LOSS and name in text for code, text in answers), answers
    assert all(code is not grpc.StatusCode.INTERNAL for code, _ in answers), answers


def test_background_work_complains_and_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage(directory, "UPDATE pins SET detail = '{'")
    monkeypatch.setattr(mounts, "_CARE_SECONDS", 0.01)
    monkeypatch.setattr(mounts, "_RETRY_SECONDS", 0.01)
    store = Store.open(directory)
    store.note("gc.last", None)
    opened = OpenStore(store, Collection(every_seconds=0.01, grace_seconds=0), Retention(every_seconds=0))
    try:
        wait = threading.Event()
        for _ in range(1000):
            if "background work: the database is damaged" in caplog.text:
                break
            wait.wait(0.01)
        assert "pins, row old: detail holds '{', which is not JSON" in caplog.text
        names = {thread.name for thread in threading.enumerate()}
        assert {"gestalt-cas-collector", "gestalt-cas-caretaker"} <= names
    finally:
        opened.retire()


# ---- files of others ----


def test_a_backup_with_such_rows_is_named(directory: Path, tmp_path: Path, command: Command) -> None:
    assert command("backup", tmp_path / "backup").code == exits.OK
    damage(tmp_path / "backup", "UPDATE settings SET value = x'ff' WHERE name = 'versioning'")
    done = command("restore", "--allow-incomplete", tmp_path / "backup", tmp_path / "restored")
    assert done.code == exits.DAMAGE
    assert "settings, row versioning: value holds" in done.err
    assert command("backup", tmp_path / "another").code == exits.OK
    damage(tmp_path / "another", "UPDATE settings SET value = '{' WHERE name = 'backup.id'")
    assert "settings, row backup.id: value" in command("restore", tmp_path / "another", tmp_path / "elsewhere").err


@pytest.mark.parametrize(
    ("row", "statement"),
    [
        ("counter: commit_ms", "UPDATE counter SET commit_ms = 'x'"),
        ("pins, row old: detail", "UPDATE pins SET detail = '{'"),
        ("settings, row gc.last: value", "UPDATE settings SET value = '{' WHERE name = 'gc.last'"),
    ],
)
def test_the_doctor_names_them(row: str, statement: str, directory: Path, command: Command) -> None:
    damage(directory, statement)
    done = command("doctor")
    assert done.code == exits.DAMAGE
    assert row in done.text


# ---- plain faults on the way ----


def test_config_shows_a_store_without_a_row_for_each_setting(directory: Path, command: Command) -> None:
    """One of an earlier release has no row for what came later; the defaults stand in for it."""
    damage(directory, "DELETE FROM settings WHERE name = 'retention.rules'")
    assert "retention.rules {}" in command("config").text
    assert command("config", "retention.rules").text == "{}\n"
    assert command("config", "--json").record["retention.rules"] == {}
    assert command("config", "--json", "retention.rules").record == {"retention.rules": {}}


def test_a_note_that_is_no_note_is_written_over(directory: Path) -> None:
    damage(directory, "UPDATE settings SET value = '{' WHERE name = 'gc.last'")
    with Store.open(directory) as store:
        store.note("gc.last", {"at_ms": 5})
        assert store.recall("gc.last") == {"at_ms": 5}


POSITIONS: dict[str, Any] = {
    "no JSON": "{",
    "no object": [],
    "no tally": {"tally": None},
    "a tally of texts": {"tally": dict.fromkeys(asdict(Tally()), "1")},
    "a time that is none": {"at_ms": "now"},
    "a place that is none": {"place": 7},
    "a key that is none": {"place": ["bucket", "zz", 1]},
}


@pytest.mark.parametrize("name", POSITIONS)
def test_a_check_goes_on_from_no_position_that_is_none(name: str, directory: Path) -> None:
    sound = {
        "identity": CheckOptions().identity,
        "stage": "rows",
        "place": None,
        "indexes": False,
        "began_ms": now_ms(),
        "at_ms": now_ms(),
        "tally": asdict(Tally()),
    }
    changed = POSITIONS[name]
    with Store.open(directory) as store:
        store.note("check.position", sound)
    text = json.dumps({**sound, **changed} if isinstance(changed, dict) else changed) if name != "no JSON" else changed
    damage(directory, f"UPDATE settings SET value = '{text}' WHERE name = 'check.position'")
    with Store.open(directory) as store:
        report = store.check()
        assert report.resumed_ms == 0
        assert report.versions, "begun anew"
        assert {finding.kind for finding in report.findings} <= {"row"}


@pytest.mark.parametrize("value", ["{", '"s"', "null", "true", "-1", "1.5", "36501"])
def test_nothing_is_foreseen_by_days_that_cannot_be(value: str, directory: Path) -> None:
    damage(directory, f"UPDATE settings SET value = '{value}' WHERE name = 'history.keepDays'")
    with Store.open(directory) as store, pytest.raises(DatabaseDamaged, match=r"settings, row history\.keepDays"):
        store.preview_retention()


def test_an_http_answer_names_no_row(directory: Path) -> None:
    with Server(data_dir=directory) as server:
        site = Site(server)
        assert site.get("a/two", bucket="bucket").status == 200
        child(
            """
            from gestalt_cas.transactions.connections import connect
            connection = connect(Path(arguments[0]) / "metadata.sqlite3")
            connection.execute("UPDATE versions SET commit_ms = 'x' WHERE key = CAST('a/two' AS BLOB)")
            connection.close()
            """,
            directory,
        )
        answer = site.get("a/two", bucket="bucket")
        assert answer.status == 500
        assert answer.code == "InternalError"
        assert b"<Message>the database is damaged</Message>" in answer.body
        assert b"commit_ms" not in answer.body
        assert "versions, row bucket/a/two, sequence 2: commit_ms holds 'x'" in server.stderr
        site.client.channel.close()
