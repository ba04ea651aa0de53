"""The first format: versions, current keys, blobs, the counter, settings and pins.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("sums", sa.LargeBinary, nullable=False),
        sa.Column("damaged_ms", sa.Integer),
        sa.PrimaryKeyConstraint("digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "versions",
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("version_id", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, sa.ForeignKey("blobs.digest")),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content_type", sa.Text, nullable=False),
        sa.Column("headers", sa.Text),
        sa.Column("metadata", sa.Text),
        sa.Column("commit_ms", sa.Integer, nullable=False),
        sa.Column("gone_seq", sa.Integer),
        sa.Column("gone_ms", sa.Integer),
        sa.CheckConstraint("(gone_seq IS NULL) = (gone_ms IS NULL)", name="gone_together"),
        sa.PrimaryKeyConstraint("bucket", "key", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("versions_by_digest", "versions", ["digest"], sqlite_where=sa.text("digest IS NOT NULL"))
    op.create_index(
        "versions_null",
        "versions",
        ["bucket", "key"],
        unique=True,
        sqlite_where=sa.text("version_id = 'null' AND gone_seq IS NULL"),
    )
    op.create_table(
        "current",
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "counter",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="only_row"), primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("commit_ms", sa.Integer, nullable=False),
    )
    op.execute("INSERT INTO counter (id, seq, commit_ms) VALUES (1, 0, 0)")
    op.create_table(
        "settings",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pins",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.Column("heartbeat_ms", sa.Integer),
        sa.Column("detail", sa.Text),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
