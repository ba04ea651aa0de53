"""gestalt-cas: a versioned, deduplicating object store for one machine, and a Gestalt S3 provider.

    from gestalt_cas import ObjectKey, Store

    with Store.open("data") as store:
        store.write(ObjectKey("site", "index.html"), [b"<h1>hello</h1>"])

Names are loaded when first used: importing the package costs nothing, and neither does `gestalt-cas --help`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.platform == "win32":
    raise ImportError(
        "gestalt-cas does not run on Windows itself: it needs flock, unix sockets and renames over open files. "
        "Run it under WSL 2, with the data directory in the Linux file system."
    )
if sys.version_info >= (3, 15):
    from gestalt_cas.system import removed_names

    removed_names.put_back()

if TYPE_CHECKING:
    from gestalt_cas.backups.backup import BackedUp as BackedUp
    from gestalt_cas.backups.restoring import Restored as Restored
    from gestalt_cas.backups.restoring import restore as restore
    from gestalt_cas.checks.findings import Finding as Finding
    from gestalt_cas.checks.findings import Subset as Subset
    from gestalt_cas.checks.inspection import CheckOptions as CheckOptions
    from gestalt_cas.checks.inspection import CheckReport as CheckReport
    from gestalt_cas.configuration.config import Limits as Limits
    from gestalt_cas.errors import StoreError as StoreError
    from gestalt_cas.keeping.holds import Hold as Hold
    from gestalt_cas.objects import ByteRange as ByteRange
    from gestalt_cas.objects import Conditions as Conditions
    from gestalt_cas.objects import Headers as Headers
    from gestalt_cas.objects import ListPage as ListPage
    from gestalt_cas.objects import ListQuery as ListQuery
    from gestalt_cas.objects import ObjectKey as ObjectKey
    from gestalt_cas.objects import ObjectVersion as ObjectVersion
    from gestalt_cas.objects import VersionPage as VersionPage
    from gestalt_cas.operations.batches import Batch as Batch
    from gestalt_cas.operations.batches import Change as Change
    from gestalt_cas.operations.payloads import ObjectReader as ObjectReader
    from gestalt_cas.rows.moments import Moment as Moment
    from gestalt_cas.rows.snapshots import Snapshot as Snapshot
    from gestalt_cas.store import Store as Store
    from gestalt_cas.store import Usage as Usage
    from gestalt_cas.time_travel.diffs import Difference as Difference
    from gestalt_cas.time_travel.rollback import RolledBack as RolledBack

__version__ = "0.1.0"

_HOMES = {
    "BackedUp": "backups.backup",
    "Batch": "operations.batches",
    "ByteRange": "objects",
    "Change": "operations.batches",
    "CheckOptions": "checks.inspection",
    "CheckReport": "checks.inspection",
    "Conditions": "objects",
    "Difference": "time_travel.diffs",
    "Finding": "checks.findings",
    "Headers": "objects",
    "Hold": "keeping.holds",
    "ListPage": "objects",
    "ListQuery": "objects",
    "ObjectKey": "objects",
    "ObjectReader": "operations.payloads",
    "ObjectVersion": "objects",
    "Limits": "configuration.config",
    "Moment": "rows.moments",
    "Restored": "backups.restoring",
    "RolledBack": "time_travel.rollback",
    "Snapshot": "rows.snapshots",
    "Store": "store",
    "StoreError": "errors",
    "Subset": "checks.findings",
    "Usage": "store",
    "VersionPage": "objects",
    "restore": "backups.restoring",
}
__all__ = [
    "BackedUp",
    "Batch",
    "ByteRange",
    "Change",
    "CheckOptions",
    "CheckReport",
    "Conditions",
    "Difference",
    "Finding",
    "Headers",
    "Hold",
    "Limits",
    "ListPage",
    "ListQuery",
    "Moment",
    "ObjectKey",
    "ObjectReader",
    "ObjectVersion",
    "Restored",
    "RolledBack",
    "Snapshot",
    "Store",
    "StoreError",
    "Subset",
    "Usage",
    "VersionPage",
    "restore",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"gestalt_cas.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names that are loaded when first used as well, for whoever looks around or completes what he types."""
    return sorted({*globals(), *__all__})
