"""One release put through everything that the matrix shows."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdks.releases import Release
from wire import protos
from wire.client import Client, Lifecycle
from wire.process import ROOT, TARGET, Hosted, host_environment
from wire.sdk_environments import python_of

DRIVER = Path(__file__).with_name("in_release") / "drive.py"
DRIVER_SECONDS = 180
PARTS = ("facts", "lifecycle", "round trip", "client")
STEPS = ("installed", "starts", *PARTS, "ends", "other host", "own command", "gestalt run")
BODY = bytes(range(256)) * 65536


@dataclass
class Step:
    """One thing that was tried: how many checks it made, how long it took, and what went wrong ("" for nothing)."""

    name: str
    checks: int = 0
    seconds: float = 0.0
    failure: str = ""


@dataclass
class Row:
    """What became of one release; `steps` holds those that were tried, in the order of STEPS."""

    release: Release
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)

    @property
    def failures(self) -> list[Step]:
        return [step for step in self.steps.values() if step.failure]

    def as_json(self) -> dict[str, Any]:
        what = {name: getattr(self.release, name) for name in ("name", "protocol", "adapter", "client", "bucketed")}
        steps = [asdict(step) for step in self.steps.values()]
        return {**what, "python": self.python, "packages": self.packages, "steps": steps, "ok": not self.failures}

    def attempt(self, name: str, action: Callable[[], Any]) -> Any:
        """Make a step of what an action does: its failure, if it raises, and its duration."""
        step = self.steps.setdefault(name, Step(name))
        started = time.monotonic()
        try:
            return action()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this step's result
            step.failure = f"{type(error).__name__}: {error}"
        finally:
            step.seconds = time.monotonic() - started
        return None


def judge(release: Release, target: str = TARGET, root: Path = ROOT) -> Row:
    """Start `target` of `root` under the release's runtime and all that the release has to say to it."""
    row = Row(release)
    python = row.attempt("installed", lambda: python_of(f"0.0.1{release.name}"))
    if python is None:
        return row
    runtime = [str(python), "-m", "gestalt._runtime", str(root), target, "s3"]
    other = "PROVIDER" if release.era == "PLUGIN" else "PLUGIN"
    _under_its_own_runtime(row, python, runtime)
    row.attempt("other host", lambda: _serves(runtime, other, release))
    row.attempt("own command", lambda: _serves([str(python), "-m", "gestalt_cas", "provider"], release.era, release))
    if release.runs:
        run = [str(python.with_name("gestalt")), "run", str(root), target, "s3"]
        row.attempt("gestalt run", lambda: _serves(run, release.era, release))
    return row


def _under_its_own_runtime(row: Row, python: Path, command: Sequence[str]) -> None:
    provider = row.attempt("starts", lambda: Hosted(command, era=row.release.era))
    if provider is None:
        return
    with provider:
        failure = row.attempt("facts", lambda: _drive(row, python, provider))
        if failure:
            row.steps["facts"].failure = failure
        row.attempt("ends", provider.stop)


def _drive(row: Row, python: Path, provider: Hosted) -> str:
    """Run the driver in the release's environment and note its checks; returns what it said when it broke off."""
    release = {**asdict(row.release), **_facts(row.release)}
    command = [str(python), str(DRIVER), json.dumps(release), str(provider.socket), str(provider.host_home / "data")]
    environment = host_environment(provider.home)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False)
    for line in done.stdout.splitlines():
        said = json.loads(line)
        if said["part"] == "installed":
            row.python, row.packages = said["python"], said["packages"]
        else:
            step = row.steps.setdefault(said["part"], Step(said["part"]))
            step.checks += 1
            if said["failure"]:
                step.failure += f"{said['check']}:\n{said['failure']}"
    missing = [part for part in PARTS if not row.steps.get(part, Step(part)).checks]
    return f"nothing said about {', '.join(missing)} (exit {done.returncode}):\n{done.stderr}" if missing else ""


def _facts(release: Release) -> dict[str, Any]:
    names = [name for name, value in vars(Release).items() if isinstance(value, property)]
    return {name: getattr(release, name) for name in names}


def _serves(command: Sequence[str], era: str, release: Release) -> None:
    """Start, configure, write, read and end a provider, as a host of an era that speaks another version may too."""
    version = release.protocol if era == release.era else {"PLUGIN": 2, "PROVIDER": 5}[era]
    generation = protos.BUCKETED if era == "PLUGIN" else protos.BUCKETLESS
    with Hosted(command, era=era) as provider:
        lifecycle = Lifecycle(provider.target)
        try:
            assert lifecycle.identity().kind == 7
            config = {"dataDir": str(provider.host_home / "data")}
            assert lifecycle.configure(config, version=version).protocol_version == version
            assert lifecycle.health().ready
            with Client(provider.target, generation) as client:
                client.write("k", BODY)
                assert client.body("k") == BODY
        finally:
            lifecycle.close()
        provider.stop()
