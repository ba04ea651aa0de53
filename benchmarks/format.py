"""The choices that are fixed with a store's format, each against its alternative in one run.

    python -m benchmarks.format [--dir DIR] [--keys 200000] [--repetitions 41]

Page size 8192 against 16384: bytes and time per object. A lookup on the driver's connection against the same through
SQLAlchemy Core. XXH3-128 as the sum of a 1 MiB chunk against CRC32C (needs google-crc32c, which nothing else here
does) and BLAKE3. Keys are as short as `dir12/object-000123`, every object has a payload of its own, which takes most
metadata, and they go in in random order.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy
from blake3 import blake3
from sqlalchemy import bindparam, select
from xxhash import xxh3_128_digest

from benchmarks import building
from benchmarks.findings import Finding
from benchmarks.measuring import Samples, note, place, print_machine, print_table, ratio, side_by_side, timed, us
from benchmarks.runs import Run
from gestalt_cas import Store
from gestalt_cas.files.layout import Layout
from gestalt_cas.formats import dbapi, tables
from gestalt_cas.objects import ListQuery, ObjectKey
from gestalt_cas.rules.chunks import CHUNK_BYTES
from gestalt_cas.sql import schema
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared
from gestalt_cas.transactions.connections import connect
from gestalt_cas.transactions.database import Database

PAGE_SIZES = (8192, 16384)
METADATA_GOAL = "400"
"""Bytes of metadata.sqlite3 per object with a short key, at most."""
_KEYS, _REPETITIONS = 200_000, 41
_PREFIXES = 100
_BATCHES = 20
_SINGLE_COMMITS = 50
_LOOKUPS = 200
_CHUNKS = 8


def keys_at_random(count: int) -> list[str]:
    per_prefix = -(-count // _PREFIXES)
    keys = [f"dir{index // per_prefix:02d}/object-{index % per_prefix:06d}" for index in range(count)]
    random.Random(count).shuffle(keys)
    return keys


def compare_page_sizes(root: Path, count: int, repetitions: int) -> None:
    keys = keys_at_random(count)
    directories = {size: _created(root / f"pages-{size}", size) for size in PAGE_SIZES}
    inserts = _insert_in_turn(directories, keys)
    per_object = {size: (path / "metadata.sqlite3").stat().st_size / count for size, path in directories.items()}
    commits, wal = _commit_singly(directories)
    heads, pages = _read_in_turn(directories, keys, repetitions)
    print_table(
        f"Page size ({count:,} objects)",
        ["Measure", *map(str, PAGE_SIZES), "Ratio", "Goal"],
        [
            ["metadata per object, bytes", *_compared(per_object, 0), METADATA_GOAL],
            ["WAL per commit of one object, bytes", *_compared(wal, 0), ""],
            [
                "commit of one object, ms",
                *_compared({size: commits[size].wall_median * 1e3 for size in PAGE_SIZES}),
                "",
            ],
            [
                "insert in bulk, µs per object",
                *_compared({size: inserts[size].wall_median * 1e6 for size in PAGE_SIZES}),
                "",
            ],
            ["Store.head, µs CPU", *_compared({size: heads[size].cpu_median * 1e6 for size in PAGE_SIZES}), ""],
            ["list_page of 1,000, ms CPU", *_compared({size: pages[size].cpu_median * 1e3 for size in PAGE_SIZES}), ""],
        ],
    )


@contextmanager
def _page_size(size: int) -> Iterator[None]:
    """Stores that are created within the block get this page size."""
    usual, schema.PAGE_SIZE = schema.PAGE_SIZE, size
    try:
        yield
    finally:
        schema.PAGE_SIZE = usual


def _created(directory: Path, size: int) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    with _page_size(size):
        Store.open(directory).close()
    return directory


def _insert_in_turn(directories: Mapping[int, Path], keys: Sequence[str]) -> dict[int, Samples]:
    """Insert the keys into every store, a batch at a time in turn; times are per object. The WAL is empty after it."""
    note(f"inserting {len(keys):,} objects into each of {len(directories)} stores")
    found = {size: Samples() for size in directories}
    batch = -(-len(keys) // _BATCHES)
    with _databases(directories) as databases:
        for first in range(0, len(keys), batch):
            part = keys[first : first + batch]
            for size, database in databases.items():
                found[size].add(timed(partial(_insert, database, part, first), len(part)))
        for database in databases.values():
            database.checkpoint(restart=True)
    return found


def _commit_singly(directories: Mapping[int, Path]) -> tuple[dict[int, Samples], dict[int, float]]:
    """Time per commit of one object, and the bytes that one appends to the WAL, which is new here."""
    found = {size: Samples() for size in directories}
    with _databases(directories) as databases:
        before = {size: database.wal_bytes for size, database in databases.items()}
        for number in range(_SINGLE_COMMITS):
            key = f"dir{number * 2:02d}/single-{number:06d}"
            for size, database in databases.items():
                found[size].add(timed(partial(_insert, database, [key], -1 - number)))
        wal = {size: (database.wal_bytes - before[size]) / _SINGLE_COMMITS for size, database in databases.items()}
    return found, wal


def _read_in_turn(
    directories: Mapping[int, Path], keys: Sequence[str], repetitions: int
) -> tuple[dict[int, Samples], dict[int, Samples]]:
    """Times per Store.head of a random key, and per page of 1,000 from a random key on."""
    note("measuring lookups and pages")
    drawn = random.Random(len(keys))
    wanted = [[ObjectKey("", key) for key in drawn.choices(keys, k=_LOOKUPS)] for _ in range(repetitions + 2)]

    def heads(store: Store) -> Callable[[int], object]:
        return lambda n: [store.head(key) for key in wanted[n]]

    def pages(store: Store) -> Callable[[int], object]:
        return lambda n: store.list_page(ListQuery(start_after=wanted[n][0].key))

    with ExitStack() as stack:
        stores = {size: stack.enter_context(Store.open(path)) for size, path in directories.items()}
        return (
            side_by_side({size: heads(store) for size, store in stores.items()}, repetitions, calls=_LOOKUPS),
            side_by_side({size: pages(store) for size, store in stores.items()}, repetitions),
        )


@contextmanager
def _databases(directories: Mapping[int, Path]) -> Iterator[dict[int, Database]]:
    with ExitStack() as stack:
        yield {size: stack.enter_context(building.database(path)) for size, path in directories.items()}


def _insert(database: Database, keys: Sequence[str], seed: int) -> None:
    with database.write() as tx:
        building.insert(tx, keys, seed=seed)


def _compared(values: Mapping[int, float], digits: int = 2) -> list[str]:
    usual, other = (values[size] for size in PAGE_SIZES)
    return [f"{usual:.{digits}f}", f"{other:.{digits}f}", ratio(other, usual)]


def compare_executions(root: Path, count: int, repetitions: int) -> None:
    """The same lookup, by the same statement, executed in two ways.

    Of random keys, where much of the time is SQLite's own and the same for both; of one key again and again, which
    leaves what executing costs; and of one key with a pooled connection and a transaction for each lookup, which is
    how a call of the store has it.
    """
    keys = [key.encode() for key in keys_at_random(count)]
    drawn = random.Random(count)
    wanted = [drawn.choices(keys, k=_LOOKUPS) for _ in range(repetitions + 2)]
    current, version = tables.current.c, tables.versions.c
    statement = (
        select(version.key, version.version_id, version.seq, version.size, version.digest, version.commit_ms)
        .select_from(tables.current.join(tables.versions, version.seq == current.seq))
        .where(current.bucket == bindparam("bucket"), current.key == bindparam("key"))
    )
    prepared = Prepared("""
        SELECT versions.key, version_id, versions.seq, size, digest, commit_ms
        FROM current JOIN versions ON versions.seq = current.seq WHERE current.bucket = :bucket AND current.key = :key
    """)

    def by_driver(tx: Connection, key: bytes) -> list[tuple[object, ...]]:
        return prepared(tx, bucket=building.BUCKET, key=key)

    def by_core(core: sqlalchemy.Connection, key: bytes) -> list[tuple[object, ...]]:
        return [tuple(row) for row in core.execute(statement, {"bucket": building.BUCKET, "key": key}).fetchall()]

    def driver_call(key: bytes) -> list[tuple[object, ...]]:
        with database.read() as tx:
            return by_driver(tx, key)

    def core_call(key: bytes) -> list[tuple[object, ...]]:
        with engine.connect() as core:
            core.exec_driver_sql("BEGIN")
            return by_core(core, key)

    directory = root / f"pages-{PAGE_SIZES[0]}"
    with building.database(directory) as database, _engine(Layout(directory).database) as engine:
        assert core_call(keys[0]) == driver_call(keys[0]) != []
        with database.read() as tx, engine.connect() as core:
            core.exec_driver_sql("BEGIN")
            found = side_by_side(
                {
                    "random keys, driver": lambda n: [by_driver(tx, key) for key in wanted[n]],
                    "random keys, Core": lambda n: [by_core(core, key) for key in wanted[n]],
                    "one key, driver": lambda n: [by_driver(tx, key) for key in wanted[n][:1] * _LOOKUPS],
                    "one key, Core": lambda n: [by_core(core, key) for key in wanted[n][:1] * _LOOKUPS],
                },
                repetitions,
                calls=_LOOKUPS,
            )
        found |= side_by_side(
            {
                "one key, a transaction each, driver": lambda n: [driver_call(key) for key in wanted[n][:1] * _LOOKUPS],
                "one key, a transaction each, Core": lambda n: [core_call(key) for key in wanted[n][:1] * _LOOKUPS],
            },
            repetitions,
            calls=_LOOKUPS,
        )
    lines = []
    for kind in ("random keys", "one key", "one key, a transaction each"):
        driver, through_core = (found[f"{kind}, {way}"].cpu_median for way in ("driver", "Core"))
        lines.append([kind, us(driver), us(through_core), ratio(through_core, driver)])
    print_table("A lookup by key (µs CPU)", ["Of", "Driver", "SQLAlchemy Core", "Ratio"], lines)


@contextmanager
def _engine(database: Path) -> Iterator[sqlalchemy.Engine]:
    """SQLAlchemy's own execution and pool over the store's kind of connection."""
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: dbapi.Connection(connect(database)), module=dbapi, poolclass=sqlalchemy.QueuePool
    )
    try:
        yield engine
    finally:
        engine.dispose()


def compare_sums(repetitions: int) -> None:
    """The sum of one chunk."""
    data = random.Random(repetitions).randbytes(CHUNK_BYTES * _CHUNKS)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    sums: dict[str, Callable[[bytes], object]] = {
        "XXH3-128": xxh3_128_digest,
        **_crc32c(),
        "BLAKE3": lambda chunk: blake3(chunk).digest(),
    }

    def summing(take: Callable[[bytes], object]) -> Callable[[int], object]:
        return lambda _: [take(chunk) for chunk in chunks]

    found = side_by_side({name: summing(take) for name, take in sums.items()}, repetitions, calls=_CHUNKS)
    base = found["XXH3-128"].cpu_median
    print_table(
        "The sum of a 1 MiB chunk",
        ["Sum", "µs CPU", "GiB/s", "Ratio"],
        [
            [name, us(taken.cpu_median), f"{CHUNK_BYTES / 2**30 / taken.cpu_median:.1f}", ratio(taken.cpu_median, base)]
            for name, taken in found.items()
        ],
    )


def _crc32c() -> dict[str, Callable[[bytes], object]]:
    try:
        import google_crc32c
    except ImportError:
        note("CRC32C is left out: google-crc32c is not installed")
        return {}
    if google_crc32c.implementation != "c":
        note("CRC32C is left out: this google-crc32c does not use the processor's instruction")
        return {}
    return {"CRC32C": google_crc32c.value}


def compare(root: Path, count: int, repetitions: int) -> None:
    compare_page_sizes(root, count, repetitions)
    compare_executions(root, count, repetitions)
    compare_sums(repetitions)


def benchmark(run: Run) -> list[Finding]:
    """As a part of a run of all; choices that are made have no goals to reach."""
    compare(run.root, min(run.keys, _KEYS), run.sized(_REPETITIONS, run.repetitions))
    return []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.format", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="make the stores here and leave them")
    parser.add_argument("--keys", type=int, default=_KEYS, help="objects per store")
    parser.add_argument("--repetitions", type=int, default=_REPETITIONS)
    options = parser.parse_args(arguments)
    with place(options.dir) as chosen:
        root = Path(chosen)
        root.mkdir(parents=True, exist_ok=True)
        compare(root, options.keys, options.repetitions)
        print_machine(root)


if __name__ == "__main__":
    main()
