"""A backup that a server is started on: what the server says of it, and what it leaves alone there.

It may be what is left of a store, so it is served, and to look into one must not change it. Retention would: by rules
that go by age most of an old backup is over age. So a server does not apply them there, whatever has been written to it
since; who goes on with a backup as a store for good can have `retention run` do so, or restore it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gestalt_cas.backups import manifests
from gestalt_cas.clock import instant
from gestalt_cas.files.layout import Layout
from gestalt_cas.operations.standing import Standing
from gestalt_cas.remedies import command

log = logging.getLogger(__name__)


def is_backup(store: Standing) -> bool:
    """Whether the rows are those of a backup; of a store that was restored from one they are not."""
    return store.recall(manifests.BACKUP_NOTE) is not None


def warn(store: Standing, root: Path) -> None:
    """Log what to know before the store in `root` is served, if it is a backup."""
    if not is_backup(store):
        return
    log.warning(
        "%s is a backup%s. It is served; but what is written there makes it another store: later backups into it are "
        "refused, and restore takes it with --allow-incomplete only, as after a change of settings. Retention is left "
        "to: %s. A store to go on with comes of: gestalt-cas restore",
        root,
        _made(Layout(root)),
        command("retention run", root),
    )


def _made(layout: Layout) -> str:
    try:
        manifest = manifests.read(layout.manifest)
    except (OSError, ValueError):
        return " without a manifest that can be read"
    return f", made {instant(manifest.at_ms)} at sequence {manifest.sequence}"
