"""The conformance kit against our own provider: the process, and a store in this process."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from gestalt_cas.configuration.config import parse
from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.hosting import Host
from gestalt_cas.conformance.suite import ConformanceSuite
from gestalt_cas.contract.calls import Calls
from gestalt_cas.contract.rpc import S3Service
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.serving.pools import Pools
from wire.process import Server, short_directory

CONFIG = {"dataDir": "{directory}"}
LIMITS = (("grpc.max_receive_message_length", 64 << 20),)


class Served(ConformanceSuite):
    """`gestalt-cas serve`, stopped and started again now and then."""

    server: Server

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Iterator[str]:
        home = short_directory()
        cls.server = Server(data_dir=home / "d", target=f"unix://{home}/s")
        try:
            yield cls.server.target
            cls.server.stop()
        finally:
            cls.server.forget()
            shutil.rmtree(home)

    @classmethod
    def restart(cls) -> str:
        before = cls.server
        before.stop()
        cls.server = Server(data_dir=before.data_dir, target=before.requested)
        before.forget()
        return cls.server.target


class TestBucketless(Served):
    host = Host(shlex.join([sys.executable, "-m", "gestalt_cas", "provider"]), CONFIG)


class TestBucketed(Served):
    """Without a host: the lifecycle is the same, and a start takes a second."""

    bucketed = True
    runs = 10


class TestStoreInProcess(ConformanceSuite):
    """A store of this process behind a socket, without the server around it; nobody serves its URLs."""

    capabilities = frozenset(Capability) - {Capability.PRESIGN}
    runs = 15

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls) -> Iterator[str]:
        directory, mounts = short_directory(), Mounts()
        mounts.configure(parse({"dataDir": str(directory / "d")}))
        server = grpc.server(
            ThreadPoolExecutor(2), handlers=[S3Service(mounts, Calls(), Pools(16, 16))], options=LIMITS
        )
        server.add_insecure_port(f"unix://{directory}/s")
        server.start()
        yield f"unix://{directory}/s"
        server.stop(0.2).wait()
        assert mounts.close(5.0)
        shutil.rmtree(directory)
