"""The tables of metadata.sqlite3: what each column holds, its unit, and why it is there.

Nothing that serves a call imports this: statements are text (`statements.py`). `migrations/` makes and upgrades the
real tables, and a test holds the two equal; `check` compares a store's with these, and rebuilds from them what can be
rebuilt. Keys are BLOBs: NUL is valid in a key, and their byte order is the listing order. README.md, "On disk",
describes the same for readers of a store.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

metadata = MetaData()

blobs = Table(
    "blobs",
    metadata,
    Column("digest", LargeBinary, nullable=False, comment="BLAKE3-256 of the payload, 32 bytes"),
    Column("size", Integer, nullable=False, comment="payload size in bytes"),
    Column("place", Integer, nullable=False, comment="0: a file below blobs/; else the id of a row of `inlined`"),
    Column("sums", LargeBinary, nullable=False, comment="XXH3-128 of each 1 MiB chunk, 16 bytes each, big-endian"),
    Column("damaged_ms", Integer, comment="when damage was found, Unix milliseconds; NULL: none known"),
    PrimaryKeyConstraint("digest"),
    sqlite_with_rowid=False,
)

versions = Table(
    "versions",
    metadata,
    Column("bucket", Text, nullable=False),
    Column("key", LargeBinary, nullable=False, comment="UTF-8 bytes of the key"),
    Column("seq", Integer, nullable=False, comment="position in the one order of all changes; no two rows share one"),
    Column("version_id", Text, nullable=False, comment="what callers see; 'null' for S3's null version"),
    Column("digest", LargeBinary, ForeignKey("blobs.digest"), comment="the payload; NULL: a delete marker"),
    Column("size", Integer, nullable=False, comment="payload size in bytes; 0 for a delete marker"),
    Column("content_type", Text, nullable=False, comment="'' when none was given"),
    Column("headers", Text, comment="JSON object of the other stored headers; NULL: none"),
    Column("metadata", Text, comment="JSON object of the user metadata; NULL: none"),
    Column("commit_ms", Integer, nullable=False, comment="commit time, Unix milliseconds, never decreasing with seq"),
    Column("gone_seq", Integer, comment="the change that removed the version for good; NULL: not removed"),
    Column("gone_ms", Integer, comment="when that was, Unix milliseconds"),
    # No foreign key: the payload may be collected.
    Column(
        "gone_digest", LargeBinary, comment="the payload that it had; empty: purged; NULL: not removed, or a marker"
    ),
    CheckConstraint("(gone_seq IS NULL) = (gone_ms IS NULL)", name="gone_together"),
    # Rows lie in key order, not in the order of changes: a page of a listing then reads neighbours, whatever order the
    # keys came in (docs/performance.md), and a key's history is one range.
    PrimaryKeyConstraint("bucket", "key", "seq"),
    sqlite_with_rowid=False,
)
Index("versions_by_digest", versions.c.digest, sqlite_where=text("digest IS NOT NULL"))
# At most one null version per key, and found without walking the key's history.
Index(
    "versions_null",
    versions.c.bucket,
    versions.c.key,
    unique=True,
    sqlite_where=text("version_id = 'null' AND gone_seq IS NULL"),
)

# What changed between two moments, and the last change before a time.
Index("versions_by_seq", versions.c.seq)
Index("versions_gone", versions.c.gone_seq, sqlite_where=text("gone_seq IS NOT NULL"))
# Removed versions whose payloads a snapshot keeps: few, and looked for when a snapshot goes.
Index("versions_kept", versions.c.gone_seq, sqlite_where=text("gone_seq IS NOT NULL AND digest IS NOT NULL"))

current = Table(
    "current",
    metadata,
    Column("bucket", Text, nullable=False),
    Column("key", LargeBinary, nullable=False),
    # No foreign key: SQLite would scan this table for each version removed, or need one more index per object.
    Column("seq", Integer, nullable=False, comment="the key's newest version; keys ending in a marker have no row"),
    PrimaryKeyConstraint("bucket", "key"),
    sqlite_with_rowid=False,
)

counter = Table(
    "counter",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1", name="only_row"), primary_key=True),
    Column("seq", Integer, nullable=False, comment="the last sequence drawn, removals included"),
    Column("commit_ms", Integer, nullable=False, comment="the last commit time given out"),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, nullable=False, comment="dotted configuration key"),
    Column("value", Text, nullable=False, comment="JSON"),
    PrimaryKeyConstraint("name"),
    sqlite_with_rowid=False,
)

pins = Table(
    "pins",
    metadata,
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False, comment="what holds unreachable things: a backup, a snapshot, a hold"),
    Column("created_ms", Integer, nullable=False),
    Column("heartbeat_ms", Integer, comment="last sign of life; NULL: the pin does not expire"),
    Column("detail", Text, comment="JSON, by kind"),
    PrimaryKeyConstraint("name"),
    sqlite_with_rowid=False,
)

# Rows with ids: a small payload then lies in the page of its row, where a table ordered by digest would give each one
# an overflow page of its own. `blobs.place` names the id, so no index is needed.
inlined = Table(
    "inlined",
    metadata,
    Column("id", Integer, primary_key=True, comment="what blobs.place says; above 0"),
    Column("data", LargeBinary, nullable=False, comment="the payload"),
)

unreachable = Table(
    "unreachable",
    metadata,
    Column("digest", LargeBinary, nullable=False, comment="a payload that no version reached when gc looked"),
    Column("size", Integer, nullable=False, comment="of its file, in bytes"),
    # Only what stood here in an earlier commit, and is still unreachable, is removed.
    Column("since_ms", Integer, nullable=False, comment="when gc first found it, Unix milliseconds"),
    PrimaryKeyConstraint("digest"),
    sqlite_with_rowid=False,
)

quotas = Table(
    "quotas",
    metadata,
    Column("bucket", Text, nullable=False),
    Column("prefix", LargeBinary, nullable=False, comment="UTF-8 bytes; empty: the whole bucket"),
    Column("max_bytes", Integer, nullable=False, comment="what all versions below may take together"),
    Column("used_bytes", Integer, nullable=False, comment="what they take; kept by each change, checked by `check`"),
    PrimaryKeyConstraint("bucket", "prefix"),
    sqlite_with_rowid=False,
)

horizons = Table(
    "horizons",
    metadata,
    Column("bucket", Text, nullable=False, comment="'': every bucket"),
    Column("seq", Integer, nullable=False, comment="from this change on the history is exact; no row: from the first"),
    Column("ms", Integer, nullable=False, comment="when that change was, Unix milliseconds"),
    PrimaryKeyConstraint("bucket"),
    sqlite_with_rowid=False,
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("name", Text, nullable=False),
    Column("bucket", Text, nullable=False, comment="'': every bucket"),
    Column("prefix", LargeBinary, nullable=False, comment="UTF-8 bytes; empty: the whole bucket"),
    Column("seq", Integer, nullable=False, comment="the last change that it shows"),
    Column("created_ms", Integer, nullable=False, comment="Unix milliseconds"),
    PrimaryKeyConstraint("name"),
    sqlite_with_rowid=False,
)

holds = Table(
    "holds",
    metadata,
    Column("bucket", Text, nullable=False),
    Column("version_id", Text, nullable=False, comment="'': every version; else just this one, the prefix is its key"),
    Column("prefix", LargeBinary, nullable=False, comment="UTF-8 bytes; empty: the whole bucket"),
    Column("created_ms", Integer, nullable=False, comment="Unix milliseconds"),
    # In this order the held prefixes lie together, and that of a key is found by a few seeks.
    PrimaryKeyConstraint("bucket", "version_id", "prefix"),
    sqlite_with_rowid=False,
)
