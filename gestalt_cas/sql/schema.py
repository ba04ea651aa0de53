"""What is fixed of a store's database: which one it is, its format, and how its pages and places are counted."""

from __future__ import annotations

APPLICATION_ID = 0x67634153
"""SQLite's application_id of every store ("gcAS"), so that another program's database is never taken for one."""
REVISION = "0004"
"""The Alembic revision that this code reads and writes; `FORMAT` is the same as SQLite's user_version."""
FORMAT = 4
PAGE_SIZE = 8192
"""Bytes per database page, fixed when a store is created (measured against 16384: see README.md, "On disk")."""

PLACE_FILE = 0
"""blobs.place: the payload is a file below blobs/."""
