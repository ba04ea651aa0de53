"""A backup that is opened as a store: what a server says of it, and what servers and gc leave alone there.

It may be what is left of a store, so it is served, and to look into one must not change it. Retention would: by rules
that go by age most of an old backup is over age. So a server does not apply them there, whatever has been written to it
since; who goes on with a backup as a store for good can have `retention run` do so, or restore it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from gestalt_cas.backups import manifests
from gestalt_cas.clock import instant
from gestalt_cas.errors import Protected
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


def require_that_it_counts(layout: Layout) -> None:
    """Raise Protected if the rows here are those of a backup that was cut off, and the one before them counts.

    Then rows of it stand beside these, and the payloads that only it needs are nobody's by these.
    """
    if manifests.state(layout.root).rows == layout.previous_database:
        raise Protected(
            f"the backup in {layout.root} was cut off, and until it is run again the one before counts, whose payloads "
            f"gc would take for nobody's: run it again, or, to do without both, remove {layout.previous_database}"
        )


def _made(layout: Layout) -> str:
    try:
        manifest = manifests.read(layout.manifest)
    except (OSError, ValueError):
        return " without a manifest that can be read"
    return f", made {instant(manifest.at_ms)} at sequence {manifest.sequence}"
