"""What the single executable costs: its size, the time until it serves, its memory; beside the installed package.

PYTHONPATH=tests python -m benchmarks.executable [.gestaltd/bin/cas] [--starts 7]

Each start is in an empty directory, as a host does it; the time ends when somebody accepts on the socket, CPU seconds
count all its processes, and memory is looked at after a store was made and an object written and read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from wire import protos
from wire.client import Client, Lifecycle
from wire.process import PROVIDER, SDK_RUNTIME, Hosted

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in processes(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Of the process so far, those of children that ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def resident(pid: int) -> int:
    """Bytes of memory that are the process's own or shared, as VmRSS counts."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(command: Sequence[str]) -> tuple[float, float, float, float]:
    """Seconds until it serves, CPU seconds until then, resident MiB, and MiB that it unpacked."""
    begun = time.monotonic()
    with Hosted(command) as provider:
        took = time.monotonic() - begun
        pids = processes(provider.pid)
        cpu = sum(map(cpu_seconds, pids))
        unpacked = sum(path.stat().st_size for path in provider.host_home.rglob("*") if path.is_file())
        lifecycle = Lifecycle(provider.target)
        lifecycle.configure({"dataDir": str(provider.host_home / "data")})
        lifecycle.close()
        with Client(provider.target, protos.BUCKETLESS) as client:
            client.write("k", b"x" * MIB)
            assert client.body("k") == b"x" * MIB
        memory = sum(map(resident, pids))
        provider.stop()
    return took, cpu, memory / MIB, unpacked / MIB


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.executable", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("executable", nargs="?", type=Path, default=Path(".gestaltd/bin/cas"))
    parser.add_argument("--starts", type=int, default=7)
    options = parser.parse_args()
    executable = options.executable.resolve()
    print(f"{executable.name}: {executable.stat().st_size / MIB:.1f} MiB")
    ways = {"executable": [str(executable)], "gestalt-cas provider": PROVIDER, "the SDK's runtime": SDK_RUNTIME}
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ways}
    for _ in range(options.starts):
        for name, command in ways.items():
            found[name].append(measure(command))
    for name, runs in found.items():
        took, cpu, memory, unpacked = (statistics.median(run[part] for run in runs) for part in range(4))
        least = min(run[0] for run in runs)
        print(
            f"{name}: serves after {took:.2f} s (least {least:.2f}), {cpu:.2f} s of CPU; {memory:.0f} MiB resident; "
            f"{unpacked:.0f} MiB unpacked"
        )


if __name__ == "__main__":
    main()
