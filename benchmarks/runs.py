"""One run: what every benchmark is given, and the command line that they share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import driving
from benchmarks.driving import Driver
from benchmarks.findings import Finding, print_findings
from benchmarks.measuring import place, print_machine

KEYS, SMALL, REPETITIONS = 1_000_000, 10_000, 9
_QUICK_KEYS, _QUICK_SMALL, _QUICK_REPETITIONS = 4_000, 2_000, 2


@dataclass(frozen=True)
class Run:
    """`root` is where stores go; `keys` and `small` are the sizes of the large and of the small store.

    With `quick` everything is small and nothing is told by the figures: it shows that a benchmark works. `drivers` has
    the clients, the cheapest one first.
    """

    root: Path
    drivers: Sequence[Driver]
    keys: int = KEYS
    small: int = SMALL
    repetitions: int = REPETITIONS
    quick: bool = False

    def sized(self, full: int, quick: int) -> int:
        """How many, or how large."""
        return quick if self.quick else full


Benchmark = Callable[[Run], Sequence[Finding]]


def command(name: str, description: str, benchmark: Benchmark, arguments: Sequence[str] | None = None) -> None:
    """Run one benchmark from the command line and print its findings."""
    options = _parser(name, description).parse_args(arguments)
    perform(benchmark, options)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description.partition("\n")[0])
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, help="keep the stores here for later runs")
    parser.add_argument("--keys", type=int, help=f"objects in the large store ({KEYS})")
    parser.add_argument("--small", type=int, help=f"objects in the small store ({SMALL})")
    parser.add_argument("--repetitions", type=int, help=f"rounds of each comparison ({REPETITIONS})")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works")
    parser.add_argument("--no-sdk", action="store_true", help="leave the Python SDK's client out")


def perform(benchmark: Benchmark, options: argparse.Namespace) -> None:
    quick = options.quick
    with ExitStack() as stack:
        root = Path(stack.enter_context(place(options.dir)))
        root.mkdir(parents=True, exist_ok=True)
        clients = stack.enter_context(driving.drivers(compiled=not quick, sdk=not (quick or options.no_sdk)))
        run = Run(
            root,
            clients,
            keys=options.keys or (_QUICK_KEYS if quick else KEYS),
            small=options.small or (_QUICK_SMALL if quick else SMALL),
            repetitions=options.repetitions or (_QUICK_REPETITIONS if quick else REPETITIONS),
            quick=quick,
        )
        findings = benchmark(run)
        print_findings(findings)
        print(f"\nDriven by the {' and the '.join(client.name for client in clients)}.")
        print_machine(root)
