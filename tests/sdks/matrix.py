"""`python -m sdks.matrix [RELEASE …]`: run our provider under SDK releases and print what became of each.

Without names: all that are known, and whatever else the package index has. Exit code 1 when anything failed, an
environment that could not be made included. Environments that were not there before are removed again unless --keep is
given, since all of them together take 2 GB.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sdks.judging import STEPS, Row, judge
from sdks.releases import ALL, CI, Release, named
from wire.sdk_environments import CACHE, forget

VERSIONS = ("protobuf", "grpcio", "opentelemetry-sdk")
HEADINGS = ("SDK", "protocol", "client", "protobuf", "grpcio", "otel", *STEPS)


def published() -> list[Release]:
    """The releases that the package index has; raises RuntimeError with pip's words when it cannot be asked."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", "--pre", "gestalt-sdk"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = re.search(r"(?m)^Available versions: (.*)$", done.stdout)
    if done.returncode != 0 or names is None:
        raise RuntimeError(f"the package index does not tell the releases of gestalt-sdk. pip said:\n{done.stderr}")
    known = [named(name) for name in names[1].split(", ") if re.fullmatch(r"0\.0\.1a\d+", name)]
    return sorted(known, key=lambda release: release.number)


def chosen(names: Sequence[str]) -> list[Release]:
    if names:
        return [release for name in names for release in (map(named, CI) if name == "ci" else [named(name)])]
    return sorted({*ALL, *published()}, key=lambda release: release.number)


def judged(release: Release, keep: bool) -> Row:
    there = (CACHE / f"0.0.1{release.name}").exists()
    try:
        return judge(release)
    finally:
        if not keep and not there:
            forget(f"0.0.1{release.name}")


def cells(row: Row) -> list[str]:
    """The row of the table; a step that was not tried is a dash."""
    release = row.release
    client = f"{release.client}{', buckets' if release.bucketed else ''}"
    versions = [row.packages.get(package) or "-" for package in VERSIONS]
    return [release.name, str(release.protocol), client, *versions, *(said(row, name) for name in STEPS)]


def said(row: Row, name: str) -> str:
    step = row.steps.get(name)
    if step is None:
        return "-"
    if step.failure:
        return "FAILED"
    return f"{step.checks} ok" if step.checks else f"{step.seconds:.1f} s"


def table(rows: Sequence[Row]) -> str:
    lines = [list(HEADINGS), *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def told(row: Row) -> str:
    """What failed under a release, in full; "" when nothing did."""
    return "".join(f"\n{row.release.name}, {step.name}:\n{step.failure.rstrip()}\n" for step in row.failures)


def report(rows: Sequence[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
        return
    print(table(rows))
    for row in rows:
        print(told(row), end="")
    bad = [row.release.name for row in rows if row.failures]
    print(f"\n{len(rows) - len(bad)} of {len(rows)} releases passed" + (f"; failed: {', '.join(bad)}" if bad else ""))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sdks.matrix", description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="such as a8 or 0.0.1a8; ci: those of the tests")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--keep", action="store_true", help=f"keep the environments in {Path('.build/sdk')}")
    parser.add_argument("--jobs", type=int, default=2, help="releases at a time (2)")
    given = parser.parse_args(arguments)
    try:
        releases = chosen(given.releases)
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1

    def one(release: Release) -> Row:
        row = judged(release, given.keep)
        print(f"{release.name}: {'FAILED' if row.failures else 'ok'}", file=sys.stderr)
        return row

    with ThreadPoolExecutor(given.jobs) as pool:
        rows = list(pool.map(one, releases))
    report(rows, given.json)
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
