"""Run the migrations on the connection that `gestalt_cas.formats.upgrade` hands over, inside its transaction.

The caller holds schema.lock and write.lock, has begun the transaction and commits it; nothing here does either, so all
steps of an upgrade and the revision mark stand or fall together. Batch mode, because SQLite alters few things in
place. For writing a new revision: `alembic -c migrations/alembic.ini revision -m "what"`.
"""

from __future__ import annotations

from alembic import context

from gestalt_cas.formats import tables

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("migrations run through gestalt_cas.formats.upgrade, which holds the store's locks")
context.configure(
    connection=connection,
    target_metadata=tables.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
