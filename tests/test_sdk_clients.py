"""The S3 clients of real SDK releases, each from an environment of its own, against our server.

`0.0.1a19` is the newest release whose requests carry buckets, `newest` whatever the index has. The checks are the
`check_…` functions of the two scripts beside the wire client; each is one test here. Without a package index these
tests fail: whether real clients work is what this project is for.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path

import pytest

from wire.fixtures import server_fixture  # noqa: F401
from wire.process import Server
from wire.sdk_environments import python_of

SCRIPTS = Path(__file__).parent / "wire"
CLIENTS = {
    "0.0.1a19": (SCRIPTS / "sdk_client_old.py", "GESTALT_S3_SOCKET"),
    "newest": (SCRIPTS / "sdk_client_new.py", "GESTALT_HOST_SERVICE_SOCKET"),
}


def checks_of(script: Path) -> list[str]:
    functions = [node.name for node in ast.parse(script.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("check_")]


@pytest.fixture(scope="module", name="outcomes")
def outcomes_fixture(server: Server) -> dict[str, dict[str, str]]:
    """For each release, each check's failure text ("" for a pass)."""
    outcomes = {}
    for release, (script, variable) in CLIENTS.items():
        environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [python_of(release), str(script)],
            env={**environment, variable: server.target},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{release}: {done.stderr}"
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        outcomes[release] = {line["check"]: line["failure"] for line in lines}
    return outcomes


@pytest.mark.parametrize(
    ("release", "check"),
    [(release, check) for release, (script, _) in CLIENTS.items() for check in checks_of(script)],
)
def test_sdk_client(outcomes: dict[str, dict[str, str]], release: str, check: str) -> None:
    assert outcomes[release][check] == "", outcomes[release][check]
