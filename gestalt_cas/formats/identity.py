"""What a database says of itself: whose it is, and which release's tables it has."""

from __future__ import annotations

from dataclasses import dataclass

from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection


@dataclass(frozen=True, slots=True)
class Identity:
    """`form` is SQLite's user_version, `application` its application_id; `empty` tells that there is no table.

    `revisions` are those that Alembic has noted, of which there is one in a store; None without the table for them, and
    for another program's database.
    """

    empty: bool
    application: int
    form: int
    revisions: tuple[str, ...] | None

    @property
    def unfinished(self) -> bool:
        """Whether it is what a creation leaves that was cut off."""
        return self.empty and self.application in (0, schema.APPLICATION_ID)

    @property
    def ours(self) -> bool:
        """Whether it is a store's, as opposed to another program's."""
        return self.application == schema.APPLICATION_ID

    @property
    def revision(self) -> str:
        """The revision of its tables; "" when it tells none."""
        return self.revisions[0] if self.revisions else ""

    @property
    def newer(self) -> bool:
        """Whether a newer release has written it.

        Number and revision are raised together, so another revision under our number is one that we do not know either.
        """
        return self.form > schema.FORMAT or (self.form == schema.FORMAT and self.revision != schema.REVISION)


def read(connection: Connection) -> Identity:
    """Ask a database; changes nothing. Raises DriverError."""
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()}
    application = connection.execute("PRAGMA application_id").fetchall()[0][0]
    form = connection.execute("PRAGMA user_version").fetchall()[0][0]
    revisions = None
    if application == schema.APPLICATION_ID and "alembic_version" in names:  # another program's may be anything
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        revisions = tuple(str(row[0]) for row in rows)
    return Identity(not names, application, form, revisions)
