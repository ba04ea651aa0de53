"""What garbage collection has found unreachable, quotas with the bytes counted against them, and inlined payloads.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unreachable",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("since_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "quotas",
        sa.Column("bucket", sa.Text, nullable=False),
        sa.Column("prefix", sa.LargeBinary, nullable=False),
        sa.Column("max_bytes", sa.Integer, nullable=False),
        sa.Column("used_bytes", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("bucket", "prefix"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "inlined",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
