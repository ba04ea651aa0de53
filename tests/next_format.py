"""An invented format after the present one, for tests of upgrades: a table rebuilt, data copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gestalt_cas.formats import migrating
from gestalt_cas.sql import schema

BEFORE = schema.REVISION
FORMAT = schema.FORMAT + 1
REVISION = f"{FORMAT:04}"
_SCRIPT = '''
"""The next format, for tests."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "NEXT", "BEFORE", None, None


def upgrade():
    op.create_table("extra", sa.Column("seq", sa.Integer, primary_key=True), sa.Column("note", sa.Text, nullable=False))
    with op.batch_alter_table("blobs", recreate="always") as batch:
        batch.add_column(sa.Column("note", sa.Text, nullable=False, server_default="none"))
    op.execute("UPDATE blobs SET note = 'of ' || size")
    op.execute("INSERT INTO extra (seq, note) SELECT seq, 'was ' || version_id FROM versions")
    ENDING
'''


def write(directory: Path, ending: str = "") -> Path:
    """Make a directory of migrations with the next format in it; `ending` is its last statement."""
    shutil.copytree(migrating.migrations_directory(), directory, ignore=shutil.ignore_patterns("__pycache__"))
    script = _SCRIPT.replace("ENDING", ending).replace("NEXT", REVISION).replace("BEFORE", BEFORE)
    (directory / "versions" / f"{REVISION}_next.py").write_text(script)
    return directory


def install(directory: Path, patch: pytest.MonkeyPatch | None = None) -> None:
    """Make this process one of the release that works with the next format."""
    if patch is None:
        patch = pytest.MonkeyPatch()
    patch.setattr(migrating, "migrations_directory", lambda: Path(os.fspath(directory)))
    patch.setattr(schema, "REVISION", REVISION)
    patch.setattr(schema, "FORMAT", FORMAT)
