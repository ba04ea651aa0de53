"""Statements are text: SQLite compiles each for a new store, and opening one loads nothing that makes such text."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import apsw
import pytest

import gestalt_cas
from driver_aids import values_of
from gestalt_cas import Store
from gestalt_cas.sql.sqlite import DriverError
from gestalt_cas.sql.statements import Prepared
from storage import ROOT, put, rows


def everywhere() -> Iterator[tuple[str, Prepared]]:
    """Every statement of the package, by module and name; those in a dictionary by their key as well."""
    for found in pkgutil.walk_packages(gestalt_cas.__path__, "gestalt_cas."):
        if found.name.endswith(("__main__", "_pb2")):
            continue
        for name, value in vars(import_module(found.name)).items():
            several = value.items() if isinstance(value, dict) else [("", value)]
            for key, one in several:
                if isinstance(one, Prepared):
                    yield f"{found.name.removeprefix('gestalt_cas.')}.{name}{f'.{key}' if key else ''}", one


STATEMENTS = dict(everywhere())


def test_they_are_found_wherever_they_stand() -> None:
    assert {"rows.versions._CURRENT", "backups.row_copies._LINES.version", "keeping.holds._SOME"} <= STATEMENTS.keys()


@pytest.fixture(scope="module", name="new")
def new_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("statements") / "store") as opened:
        yield opened


@pytest.mark.parametrize("name", STATEMENTS)
def test_sqlite_compiles_it_for_a_new_store(new: Store, name: str) -> None:
    sql = STATEMENTS[name].sql
    assert "?" not in sql, "a value without a name"
    with new._database.write() as tx:
        assert tx.execute(f"EXPLAIN QUERY PLAN {sql}", values_of(sql)).fetchall() is not None


def test_values_go_by_their_names(store: Store) -> None:
    statement = Prepared("SELECT :second, :first, :second || :first")
    with store._database.read() as tx:
        assert statement(tx, first="a", second="b") == [("b", "a", "ba")]
        assert Prepared("SELECT :only")(tx, only=b"x") == [(b"x",)]
        assert Prepared("SELECT 1")(tx) == [(1,)]
        with pytest.raises(KeyError, match="second"):
            statement(tx, first="a")


def test_a_name_that_no_table_has_is_found(store: Store) -> None:
    with store._database.read() as tx, pytest.raises(DriverError, match="no such column"):
        Prepared("SELECT missing FROM versions WHERE key = :key")(tx, key=b"k")


def test_no_question_is_compiled_anew_for_other_values(store: Store) -> None:
    """From 3.54 on SQLite would do so, unless told to keep its plans, wherever a partial index might serve."""
    questions = [statement.sql for _, statement in everywhere() if statement.sql.startswith(("SELECT", "WITH"))]
    compiled: list[object] = []

    def looks(*what: object) -> int:  # SQLite asks it about each table and column while it compiles
        compiled.append(what)
        return apsw.SQLITE_OK

    put(store, "k", b"x")
    with store._database.read() as tx:
        tx.authorizer = looks
        for sql in questions:
            compiled.clear()
            tx.execute(sql, values_of(sql, 0)).fetchall()
            assert compiled, "nobody was asked"
            compiled.clear()
            for number in range(1, 4):
                tx.execute(sql, values_of(sql, number)).fetchall()
            assert not compiled, sql
        tx.authorizer = None


SCRIPT = """
import json, sys
from gestalt_cas import ListQuery, ObjectKey, Store
with Store.open(sys.argv[1]) as store:
    store.write(ObjectKey("", "k"), [b"x"])
    store.copy(ObjectKey("", "k"), ObjectKey("", "l"))
    store.read(ObjectKey("", "k")).read()
    store.list_page(ListQuery())
    store.list_versions(ListQuery())
    store.delete(ObjectKey("", "k"))
    store.collect_garbage()
    store.maintain()
print(json.dumps([name for name in ("sqlalchemy", "alembic") if name in sys.modules]))
"""


@pytest.mark.parametrize("made", [True, False])
def test_only_making_or_upgrading_a_store_loads_sqlalchemy(store: Store, made: bool) -> None:
    put(store, "k", b"x")
    assert rows(store, "SELECT count(*) FROM versions") == [(1,)]
    directory = store.directory if made else store.directory.with_name("another")
    command = [sys.executable, "-c", SCRIPT, str(directory)]
    loaded = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert loaded == ([] if made else ["sqlalchemy", "alembic"])


def test_a_server_loads_none_of_it() -> None:
    script = "import gestalt_cas.doctor.examinations, gestalt_cas.server, json, sys; print(json.dumps([*sys.modules]))"
    command = [sys.executable, "-c", script]
    loaded = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert "gestalt_cas.statistics" in loaded
    assert not {"sqlalchemy", "alembic"}.intersection(loaded)
