"""The steps from one revision of the tables to the next, run by Alembic on a driver connection.

Loaded only when a store is made or upgraded: SQLAlchemy and Alembic take longer to import than opening a store does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from alembic import command
from alembic.config import Config

from gestalt_cas.errors import StoreUnusable
from gestalt_cas.formats import dbapi
from gestalt_cas.sql import schema, sqlite
from gestalt_cas.sql.sqlite import Connection, DriverError


def migrations_directory() -> Path:
    """Where the Alembic scripts are: inside the installed package, or at the top of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "migrations", package.parent / "migrations"):
        if (candidate / "env.py").is_file():
            return candidate
    raise StoreUnusable("this installation of gestalt-cas lacks its migrations; install it again")


@contextmanager
def migrated(connection: Connection) -> Iterator[None]:
    """Begin a transaction, bring the tables to the current revision in it, and run the block, which commits.

    SQLAlchemy begins and ends its own idea of a transaction with a rollback on the driver connection, so the real one
    begins after that and is committed before it ends. Raises the translated StoreError.
    """
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: dbapi.Connection(connection), module=dbapi, poolclass=sqlalchemy.StaticPool
    )
    try:
        with engine.connect() as handed, handed.begin() as transaction:
            connection.execute("BEGIN IMMEDIATE")
            _run(handed)
            yield
            transaction.close()
    except sqlalchemy.exc.DBAPIError as error:
        raise sqlite.translate_spilled(
            connection, error.orig if isinstance(error.orig, DriverError) else error
        ) from error


def _run(handed: sqlalchemy.Connection) -> None:
    """Run Alembic up to the current revision inside the transaction that `handed` is in."""
    config = Config()
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = handed
    command.upgrade(config, schema.REVISION)
