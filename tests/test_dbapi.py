"""The driver as SQLAlchemy sees it: what its own Core gets of rows, counts, transactions and errors over APSW."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from gestalt_cas.formats import dbapi
from gestalt_cas.sql import sqlite

TABLE = sa.Table(
    "t",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("data", sa.LargeBinary),
)


@pytest.fixture
def lent() -> Iterator[sqlite.Connection]:
    connection = sqlite.in_memory()
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, data BLOB)")
    yield connection
    connection.close()


@pytest.fixture
def core(lent: sqlite.Connection) -> Iterator[sa.Connection]:
    engine = sa.create_engine(
        "sqlite://", creator=lambda: dbapi.Connection(lent), module=dbapi, poolclass=sa.StaticPool
    )
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def fill(core: sa.Connection) -> None:
    core.execute(sa.insert(TABLE), [{"name": name, "data": name.encode()} for name in ("a", "b", "c")])


def test_rows_have_names_and_come_in_pieces(core: sa.Connection) -> None:
    fill(core)
    found = core.execute(sa.select(TABLE).order_by(TABLE.c.id))
    assert list(found.keys()) == ["id", "name", "data"]
    assert found.fetchone() == (1, "a", b"a")
    assert found.fetchmany(5) == [(2, "b", b"b"), (3, "c", b"c")]
    assert core.execute(sa.select(TABLE.c.name)).fetchmany() == [("a",)]
    assert core.scalars(sa.select(TABLE.c.name).where(TABLE.c.name.regexp_match("[bc]"))).all() == ["b", "c"]


def test_a_question_without_an_answer_has_its_columns(core: sa.Connection) -> None:
    found = core.execute(sa.select(TABLE))
    assert found.returns_rows
    assert list(found.keys()) == ["id", "name", "data"]
    assert found.fetchall() == []
    assert not core.execute(sa.text("UPDATE t SET name = 'x'")).returns_rows


def test_how_many_rows_were_changed_and_which_was_inserted(core: sa.Connection) -> None:
    fill(core)
    assert core.execute(sa.update(TABLE).where(TABLE.c.id > 1).values(name="x")).rowcount == 2
    assert core.execute(sa.delete(TABLE).where(TABLE.c.id == 77)).rowcount == 0
    assert core.execute(sa.insert(TABLE).values(name="d")).inserted_primary_key == (4,)


def test_the_transaction_is_the_callers(lent: sqlite.Connection) -> None:
    seen = dbapi.Connection(lent)
    seen.rollback()  # nothing is open
    lent.execute("BEGIN")
    seen.cursor().execute("INSERT INTO t (name) VALUES ('a')")
    seen.rollback()
    assert not lent.in_transaction
    assert lent.execute("SELECT * FROM t").fetchall() == []
    lent.execute("BEGIN")
    seen.cursor().execute("INSERT INTO t (name) VALUES ('b')")
    seen.commit()
    seen.close()
    assert lent.execute("SELECT name FROM t").fetchall() == [("b",)]


def test_a_question_that_nobody_reads_to_its_end_ends_with_its_cursor(lent: sqlite.Connection) -> None:
    lent.executemany("INSERT INTO t (name) VALUES (?)", [("a",), ("b",)])
    gc.disable()
    try:
        dbapi.Connection(lent).cursor().execute("SELECT name FROM t")
        lent.execute("DROP TABLE t")
    finally:
        gc.enable()


def test_an_error_is_the_drivers(core: sa.Connection) -> None:
    with pytest.raises(sa.exc.DBAPIError) as raised:
        core.execute(sa.text("SELECT missing FROM t"))
    assert isinstance(raised.value.orig, sqlite.DriverError)
    assert "no such column: missing" in str(raised.value)
