"""The lifecycle calls of a host, in a host's order (contract 2.2), over the stubs that came with a release."""

from __future__ import annotations

import grpc
from google.protobuf import empty_pb2

S3_KIND = 7
SECONDS = 60


class Host:
    """What a host knows: where the provider listens, its configuration, and the one protocol version it speaks."""

    def __init__(self, runtime, runtime_grpc, socket, directory, release):
        self.runtime = runtime
        self.release = release
        self.config = {"dataDir": directory, "limits": {"concurrentReads": 8}}
        options = (("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0))
        self.stub = runtime_grpc.ProviderLifecycleStub(grpc.insecure_channel(f"unix:{socket}", options=options))

    def identity(self):
        return self.stub.GetProviderIdentity(empty_pb2.Empty(), timeout=SECONDS)

    def configure(self, version):
        request = self.runtime.ConfigureProviderRequest(name="assets", protocol_version=version)
        request.config.update(self.config)
        return self.stub.ConfigureProvider(request, timeout=SECONDS)


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def check_identity_before_configure(host):
    said = host.identity()
    assert said.kind == host.runtime.PROVIDER_KIND_S3 == S3_KIND
    assert said.min_protocol_version <= host.release["protocol"] <= said.max_protocol_version


def check_a_version_of_no_host_is_refused(host):
    for version in (1, 6):
        assert code_of(lambda version=version: host.configure(version)) is grpc.StatusCode.FAILED_PRECONDITION


def check_configure_answers_the_host_s_own_version(host):
    assert host.configure(host.release["protocol"]).protocol_version == host.release["protocol"]


def check_identity_after_configure(host):
    said = host.identity()
    assert said.name
    assert said.version
    assert not said.warnings, said.warnings


def check_start(host):
    if host.release["starter"]:
        started = host.stub.StartProvider(empty_pb2.Empty(), timeout=SECONDS)
        assert started.protocol_version == host.release["protocol"]


def check_health(host):
    health = host.stub.HealthCheck(empty_pb2.Empty(), timeout=SECONDS)
    assert health.ready, health.message
