"""Holds: what nothing may remove until they are released; and tables that early checkouts made in another way.

Revisions 0001 and 0002 were changed in the first hour after they came, under the same numbers. Checkouts from before
made `versions` in the order of changes, and no `inlined`. The steps up to here work on those tables too, and whatever
store is older comes by here, so here they become what all others have.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("version_id", sa.Text, nullable=False),
        sa.Column("prefix", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "version_id", "prefix"),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    if not sa.inspect(connection).has_table("inlined"):
        op.create_table(
            "inlined",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("data", sa.LargeBinary, nullable=False),
        )
    if sa.inspect(connection).get_pk_constraint("versions")["constrained_columns"] == ["seq"]:
        _put_versions_into_key_order()


def _put_versions_into_key_order() -> None:
    """Make `versions` anew with the primary key that it has had since; its indexes go with the old table."""
    op.create_table(
        "versions_in_key_order",
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
        sa.Column("gone_digest", sa.LargeBinary),
        sa.CheckConstraint("(gone_seq IS NULL) = (gone_ms IS NULL)", name="gone_together"),
        sa.PrimaryKeyConstraint("bucket", "key", "seq"),
        sqlite_with_rowid=False,
    )
    columns = (
        "bucket, key, seq, version_id, digest, size, content_type, headers, metadata, commit_ms, gone_seq, gone_ms, "
        "gone_digest"
    )
    op.execute(
        f"INSERT INTO versions_in_key_order ({columns}) SELECT {columns} FROM versions ORDER BY bucket, key, seq"
    )
    op.drop_table("versions")
    op.rename_table("versions_in_key_order", "versions")
    op.create_index("versions_by_digest", "versions", ["digest"], sqlite_where=sa.text("digest IS NOT NULL"))
    null = sa.text("version_id = 'null' AND gone_seq IS NULL")
    op.create_index("versions_null", "versions", ["bucket", "key"], unique=True, sqlite_where=null)
    op.create_index("versions_by_seq", "versions", ["seq"])
    op.create_index("versions_gone", "versions", ["gone_seq"], sqlite_where=sa.text("gone_seq IS NOT NULL"))
    kept = sa.text("gone_seq IS NOT NULL AND digest IS NOT NULL")
    op.create_index("versions_kept", "versions", ["gone_seq"], sqlite_where=kept)
