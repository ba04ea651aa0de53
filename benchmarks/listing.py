"""What a listing page costs in a large store against a small one, and against the kind of page.

    python -m benchmarks.listing [--dir DIR] [--keys 1000000] [--small 10000] [--repetitions 41] [--quick]

Both stores hold their keys under 100 prefixes. The first half of each was inserted in key order, as an upload of a tree
does it, the second half in random order, which is the worst case: the rows that a page shows then lie all over the
table. Each repetition lists another page, so that no page is found ready in the caches. With --dir the stores are kept
there and the next run starts at once; the large one takes about a minute to build.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import building, runs
from benchmarks.findings import Finding, Goal, at_most
from benchmarks.measuring import (
    Samples,
    Spread,
    by_round,
    ms,
    note,
    print_table,
    quotient,
    ratio,
    side_by_side,
    us,
)
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served_together
from gestalt_cas import Store, wire_pb2
from gestalt_cas.objects import MAX_PAGE, ListPage, ListQuery
from gestalt_cas.serving.messages import Namespace

PREFIXES = 100
ROOT_GOAL, PAGE_GOAL, GROUPS_GOAL, CPU_GOAL = at_most(1.5), at_most(1.2), at_most(2.0), at_most(10.0, "ms")
LEAST_REPETITIONS = 41
"""Pages are quick to list, and their times spread."""
_BLOCK = 5
"""Pages between two looks at the server's CPU clock."""
_NAMESPACE = Namespace()
_ONE_BOUND = "SELECT key, seq FROM current WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key LIMIT 1001"
_TWO_BOUNDS = (
    "SELECT key, seq FROM current WHERE bucket = ? AND key >= ? AND key < ? AND key >= ? ORDER BY key LIMIT 1001"
)


@dataclass(frozen=True)
class Filled:
    """An open store of `keys` keys. A key is `dirNN/NNNNNN-object`: "/" groups a hundredth, "-" each key alone."""

    directory: Path
    store: Store
    keys: int

    def page_in(self, half: int, fraction: float) -> ListQuery:
        """A page of plain keys within the first (0) or second (1) half, `fraction` of the way through it."""
        size = self.keys // 2
        at = half * size + int(fraction * max(0, size - MAX_PAGE - 1))
        return ListQuery(start_after=key_at(at, self.keys))


Ask = Callable[[Filled, float], ListQuery]
CASES: tuple[tuple[str, Ask, Goal], ...] = (
    ("root listing, 100 common prefixes", lambda _, __: ListQuery(delimiter="/"), ROOT_GOAL),
    ("page of 1,000, keys inserted in order", lambda filled, at: filled.page_in(0, at), PAGE_GOAL),
    ("page of 1,000, keys inserted at random", lambda filled, at: filled.page_in(1, at), PAGE_GOAL),
)


def key_at(index: int, count: int) -> str:
    """The key number `index` (from 0) of `count`, in key order."""
    per_prefix = count // PREFIXES
    return f"dir{index // per_prefix:02d}/{index % per_prefix:06d}-object"


def keys_in_insertion_order(count: int) -> list[str]:
    keys = [key_at(index, count) for index in range(count)]
    second = keys[count // 2 :]
    random.Random(count).shuffle(second)
    return keys[: count // 2] + second


def encoded(page: ListPage) -> bytes:
    return _NAMESPACE.page(page, "").SerializeToString()


def fractions(repetitions: int) -> list[float]:
    drawn = random.Random(repetitions)
    return [drawn.random() for _ in range(repetitions + 16)]


def compare_sizes(small: Filled, large: Filled, repetitions: int) -> None:
    """The issue's two goals: what a page costs must not grow with the store."""
    at = fractions(repetitions)
    rows: list[list[str]] = []
    for name, ask, goal in CASES:
        note(f"measuring: {name}")
        found = side_by_side(
            {
                f"{part} {filled.keys}": _asking(filled, ask, at, answer)
                for part, answer in (("bare", lambda page: page), ("reply", encoded))
                for filled in (small, large)
            },
            repetitions,
        )
        for label, part, median in (
            ("list_page", "bare", _wall),
            ("with reply", "reply", _wall),
            ("CPU with reply", "reply", _cpu),
        ):
            values = [median(found[f"{part} {filled.keys}"]) for filled in (small, large)]
            rows.append([name, label, *map(ms, values), ratio(values[1], values[0]), f"{goal.bound:.2f}"])
    print_table(
        "Store size (ms per page)",
        ["Page", "Measure", f"{small.keys:,} keys", f"{large.keys:,} keys", "Ratio", "Goal"],
        rows,
    )


def _asking(
    filled: Filled, ask: Ask, at: Sequence[float], answer: Callable[[ListPage], object]
) -> Callable[[int], object]:
    return lambda n: answer(filled.store.list_page(ask(filled, at[n])))


def compare_served(small: Filled, large: Filled, repetitions: int) -> list[Finding]:
    """The same through a server process: CPU of the server per page, gRPC and reply included."""
    at = fractions(repetitions)
    rows, findings = [], []
    with served_together({filled.keys: Wanted(filled.directory) for filled in (small, large)}) as found:
        servers = [(filled, found[filled.keys]) for filled in (small, large)]
        for name, ask, goal in CASES:
            note(f"measuring, served: {name}")
            cpu: dict[int, list[float]] = {small.keys: [], large.keys: []}
            for block in range(max(2, repetitions // _BLOCK)):
                for filled, server in servers if block % 2 else reversed(servers):
                    queries = [ask(filled, at[(block * _BLOCK + n) % len(at)]) for n in range(_BLOCK)]
                    cpu[filled.keys].append(_server_cpu(server, queries))
            values = [statistics.median(cpu[filled.keys]) for filled in (small, large)]
            rows.append([name, *map(ms, values), ratio(values[1], values[0]), f"{goal.bound:.2f}"])
            grown = by_round(quotient, cpu[large.keys], cpu[small.keys])
            what = f"ListObjects, {name}: server CPU"
            if goal is PAGE_GOAL:
                findings.append(Finding(f"{what} per page", Spread.of(n * 1e3 for n in cpu[large.keys]), CPU_GOAL))
            findings.append(Finding(f"{what}, {small.keys:,} keys = 1", grown, goal))
    print_table(
        "Server CPU per page over gRPC (ms)",
        ["Page", f"{small.keys:,} keys", f"{large.keys:,} keys", "Ratio", "Goal"],
        rows,
    )
    return findings


def _server_cpu(server: Server, queries: Sequence[ListQuery]) -> float:
    messages = [request(query) for query in queries]
    before = server.cpu_seconds()
    for message in messages:
        server.call("ListObjects", message)
    return (server.cpu_seconds() - before) / len(messages)


def request(query: ListQuery) -> bytes:
    return wire_pb2.ListObjectsRequest(
        prefix=query.prefix,
        delimiter=query.delimiter,
        start_after=query.start_after,
        continuation_token=query.token,
        max_keys=query.max_keys,
    ).SerializeToString()


def compare_kinds(large: Filled, repetitions: int) -> list[Finding]:
    """In the large store: a page deep inside, and one of groups, against a first page of plain keys."""
    deep = key_at(large.keys // 2 - MAX_PAGE - 2, large.keys)  # the last page of the half inserted in order
    token = large.store.list_page(ListQuery(start_after=deep, max_keys=1)).token
    found = side_by_side(
        {
            name: _asking(large, ask, [0.0] * (repetitions + _BLOCK), encoded)
            for name, ask in (
                ("first page of 1,000", lambda _, __: ListQuery()),
                ("continued after half of the keys", lambda _, __: ListQuery(token=token)),
                ("every key its own common prefix", lambda _, __: ListQuery(delimiter="-")),
            )
        },
        repetitions,
    )
    base, groups = found["first page of 1,000"], found["every key its own common prefix"]
    print_table(
        f"Kind of page ({large.keys:,} keys, ms with reply)",
        ["Page", "Time", "CPU", "CPU ratio"],
        [
            [name, ms(samples.wall_median), ms(samples.cpu_median), ratio(samples.cpu_median, base.cpu_median)]
            for name, samples in found.items()
        ],
    )
    times = by_round(quotient, groups.cpu, base.cpu)
    return [Finding("ListObjects, every key its own common prefix: CPU, plain page = 1", times, GROUPS_GOAL)]


def compare_bounds(large: Filled, repetitions: int) -> None:
    """Why the query has one lower bound: with prefix and position both, SQLite seeks to the prefix."""
    prefix, upper = b"dir00/", b"dir000"
    position = key_at(large.keys // PREFIXES * 9 // 10, large.keys).encode()
    with building.database(large.directory) as database, database.read() as tx:
        found = side_by_side(
            {
                "one": lambda _: tx.execute(_ONE_BOUND, (building.BUCKET, position, upper)).fetchall(),
                "two": lambda _: tx.execute(_TWO_BOUNDS, (building.BUCKET, prefix, upper, position)).fetchall(),
            },
            repetitions,
        )
    one, two = found["one"].cpu_median, found["two"].cpu_median
    print_table(
        "Lower bounds (µs CPU per query, the last tenth of one prefix)",
        ["Query", "Time", "Ratio"],
        [["the greater of prefix and position", us(one), "1.00"], ["both", us(two), ratio(two, one)]],
    )


def _wall(samples: Samples) -> float:
    return samples.wall_median


def _cpu(samples: Samples) -> float:
    return samples.cpu_median


def store_of(run: Run, count: int) -> Path:
    """The store with `count` of these keys, built now or by an earlier part of the run."""
    return building.ready(run.root / f"listing-{count}", keys_in_insertion_order(count))


def benchmark(run: Run) -> list[Finding]:
    repetitions = run.repetitions if run.quick else max(run.repetitions, LEAST_REPETITIONS)
    with ExitStack() as stack:
        small, large = (
            Filled(directory, stack.enter_context(Store.open(directory)), count)
            for count in (run.small, run.keys)
            for directory in (store_of(run, count),)
        )
        compare_sizes(small, large, repetitions)
        compare_bounds(large, repetitions)
        return [*compare_served(small, large, repetitions), *compare_kinds(large, repetitions)]


def main(arguments: Sequence[str] | None = None) -> None:
    runs.command("benchmarks.listing", __doc__ or "", benchmark, arguments)


if __name__ == "__main__":
    main()
