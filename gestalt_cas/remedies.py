"""Commands that messages tell people to give, each with the store that it is for, to be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from gestalt_cas.sql.sqlite import Connection

_PROGRAM = "gestalt-cas"


def command(words: str, root: Path) -> str:
    """A command on the store at `root`; `words` are quoted already where they need it."""
    return f"{_PROGRAM} {words} --data-dir {shlex.quote(str(root))}"


def command_here(words: str, connection: Connection) -> str:
    """A command on the store that the connection has open, asked of the connection: for those who know nothing else."""
    path = next((row[2] for row in connection.execute("PRAGMA database_list").fetchall() if row[1] == "main"), "")
    return command(words, Path(path).parent) if path else f"{_PROGRAM} {words}"
