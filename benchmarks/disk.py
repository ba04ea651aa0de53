"""Disk: metadata per object, and what an inlined object takes beside it.

python -m benchmarks.disk [--dir DIR] [--keys 1000000] [--quick]
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks import building, runs
from benchmarks.findings import Finding, at_most
from benchmarks.listing import key_at, store_of
from benchmarks.measuring import note, print_table
from benchmarks.runs import Run
from gestalt_cas import Store
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import ObjectKey

METADATA_GOAL = at_most(400, "B")
NO_INODE = at_most(0, "inodes")
_INLINED_BYTES = 1024


def metadata_bytes(directory: Path, count: int) -> float:
    """Bytes of the database per object, once nothing is left in the WAL."""
    with building.database(directory) as database:
        database.checkpoint(restart=True)
    return Layout(directory).database.stat().st_size / count


def inodes(directory: Path) -> int:
    return sum(len(directories) + len(files) for _, directories, files in os.walk(directory))


def inlined(directory: Path, count: int) -> tuple[float, float]:
    """Inodes and bytes of the database that each of `count` inlined objects took."""
    shutil.rmtree(directory, ignore_errors=True)
    with Store.open(directory, settings={building.INLINE: _INLINED_BYTES}) as store:
        # The first of a kind may make files that all others share.
        store.write(ObjectKey("", "first"), [os.urandom(_INLINED_BYTES)])
        before = inodes(directory)
        for index in range(count):
            store.write(ObjectKey("", key_at(index, count)), [os.urandom(_INLINED_BYTES)])
        taken = inodes(directory) - before
    return taken / count, metadata_bytes(directory, count)


def benchmark(run: Run) -> list[Finding]:
    per_object = metadata_bytes(store_of(run, run.keys), run.keys)
    rows = [[f"metadata per object, keys like {key_at(123, run.keys)}, {run.keys:,} objects", f"{per_object:.0f}"]]
    findings = [Finding("Disk, metadata per short-keyed object", per_object, METADATA_GOAL)]
    shutil.rmtree(run.root / "inlines", ignore_errors=True)
    if building.inlines(run.root / "inlines"):
        taken, size = inlined(run.root / "disk-inlined", run.sized(2000, 100))
        rows.append([f"database per inlined object of {_INLINED_BYTES} bytes", f"{size:.0f}"])
        findings.append(Finding("Disk, inodes per inlined object", taken, NO_INODE))
    else:
        note("this version keeps no payload in the database: nothing is inlined")
    print_table("Disk (bytes)", ["What", "Bytes"], rows)
    return findings


if __name__ == "__main__":
    runs.command("benchmarks.disk", __doc__, benchmark)
