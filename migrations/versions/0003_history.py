"""What removed versions leave behind, and from when on the history is exact.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("gone_digest", sa.LargeBinary))
    op.create_index("versions_by_seq", "versions", ["seq"])
    op.create_index("versions_gone", "versions", ["gone_seq"], sqlite_where=sa.text("gone_seq IS NOT NULL"))
    kept = sa.text("gone_seq IS NOT NULL AND digest IS NOT NULL")
    op.create_index("versions_kept", "versions", ["gone_seq"], sqlite_where=kept)
    op.create_table(
        "horizons",
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("bucket"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "snapshots",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("prefix", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    # Earlier formats kept nothing of a removed version, so what was before now cannot be told.
    op.execute("INSERT INTO horizons (bucket, seq, ms) SELECT '', seq, commit_ms FROM counter WHERE seq > 0")
