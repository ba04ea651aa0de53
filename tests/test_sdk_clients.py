"""Real SDK releases, each in an environment of its own: their S3 clients, and their runtimes around our provider.

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

from wire import protos
from wire.client import Client, Lifecycle
from wire.fixtures import server_fixture  # noqa: F401
from wire.process import ROOT, TARGET, Hosted, Server
from wire.sdk_environments import python_of

# The first run in a checkout installs the releases.
pytestmark = pytest.mark.timeout(900)

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


@pytest.mark.parametrize("era", ["PLUGIN", "PROVIDER"])
@pytest.mark.parametrize("release", ["0.0.1a8", "0.0.1a19"])
def test_the_provider_under_an_old_runtime_and_hosts_of_both_eras(release: str, era: str) -> None:
    """Old runtimes read the socket's old name only and speak one protocol version; hosts of either era are served."""
    version = 5 if era == "PROVIDER" else 2
    command = [str(python_of(release)), "-m", "gestalt._runtime", str(ROOT), TARGET, "s3"]
    with Hosted(command, era=era) as provider:
        lifecycle = Lifecycle(provider.target)
        assert lifecycle.identity().kind == 7
        config = {"dataDir": str(provider.host_home / "data"), "limits": {"concurrentReads": 8}}
        assert lifecycle.configure(config, version=version).protocol_version == version
        assert lifecycle.health().ready
        with Client(provider.target, protos.BUCKETED, ("grpc.http2.bdp_probe", 0)) as client:
            body = bytes(range(256)) * 65536
            assert client.write("k", body, bucket="b").ref.bucket == "b"
            assert client.body("k", bucket="b") == body
            streams = [client.read_stream("k", bucket="b") for _ in range(8)]
            assert [next(stream).meta.size for stream in streams] == [len(body)] * 8
            assert client.head("k", bucket="b").size == len(body), "streams hold no thread of the runtime's four"
        lifecycle.close()
        provider.stop()
