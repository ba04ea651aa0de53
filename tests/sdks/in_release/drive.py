"""Drives a provider that a release's runtime has just started, with nothing but that release: its stubs, its client.

`python drive.py RELEASE-AS-JSON SOCKET DATA-DIRECTORY`, in the release's environment. First what the release says of
itself, since all else depends on it; then the lifecycle as a host of its time calls it, which also configures the
provider; then a round trip over its generated stubs; then its S3 client.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib import metadata

import lifecycle
import round_trip

import checks

PACKAGES = ("gestalt-sdk", "protobuf", "grpcio", "typing-extensions", "pyyaml", "opentelemetry-sdk", "sqlalchemy")


def installed():
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def facts(release):
    """Fails where the installed release is not what the table says (contract 2.1)."""
    import gestalt
    from gestalt import _runtime

    runtime, _, s3, _ = stubs(release)
    methods = {method.name for method in runtime.DESCRIPTOR.services_by_name["ProviderLifecycle"].methods}
    assert metadata.version("gestalt-sdk") == f"0.0.1{release['name']}"
    assert release["protocol"] == _runtime.CURRENT_PROTOCOL_VERSION
    assert f"GESTALT_{release['era']}_SOCKET" == _runtime.ENV_PROVIDER_SOCKET
    names = {"PluginProviderAdapter", "AppProviderAdapter"}
    assert [name for name in names if hasattr(gestalt, name)] == [release["adapter"]]
    assert ("StartProvider" in methods) == release["starter"]
    assert ("bucket" in s3.S3ObjectRef.DESCRIPTOR.fields_by_name) == release["bucketed"]
    assert bool(installed()["opentelemetry-sdk"]) == release["telemetry"]
    scripts = metadata.entry_points(group="console_scripts", name="gestalt")
    assert bool(scripts) == release["runs"]


def stubs(release):
    modules = ("runtime_pb2", "runtime_pb2_grpc", "s3_pb2", "s3_pb2_grpc")
    return [importlib.import_module(f"{release['generated']}.{module}") for module in modules]


def main():
    release, socket, directory = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    print(json.dumps({"part": "installed", "packages": installed(), "python": sys.version.split()[0]}), flush=True)
    checks.report("facts", "of the release", facts, release)
    runtime, runtime_grpc, s3, s3_grpc = stubs(release)
    host = lifecycle.Host(runtime, runtime_grpc, socket, directory, release)
    checks.run("lifecycle", lifecycle, host)
    checks.run("round trip", round_trip, round_trip.Wire(s3, s3_grpc, socket))
    # Old clients know a bare path only, later ones only a scheme.
    os.environ["GESTALT_S3_SOCKET"] = socket
    os.environ["GESTALT_HOST_SERVICE_SOCKET"] = f"unix://{socket}"
    client = importlib.import_module(release["client"])
    checks.run("client", client, client.connect())


if __name__ == "__main__":
    main()
