"""The adapter between the Gestalt Python SDK's runtime and the provider; the only module that imports the SDK.

`provider` is the target of `python -m gestalt._runtime ROOT gestalt_cas.provider:provider s3` and of `gestalt run`. The
adapter class was renamed with SDK a20 and takes the same arguments in every release (contract 2.1). The SDK's runtime
binds the socket and handles signals; it calls `close` inside its signal handler, while calls are still running.
"""

from __future__ import annotations

from typing import Any

import gestalt
import grpc

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.server import Provider
from gestalt_cas.serving import host, targets
from gestalt_cas.serving.targets import Target

# The runtime reads the variable of its own era only after it has imported this module.
host.alias_socket_names()


class HostedProvider(gestalt.Closer):  # type: ignore[misc]
    """What the SDK holds on to: it calls `close` once, when the process is to stop."""

    def __init__(self) -> None:
        self.inner = Provider(_target())

    def close(self) -> None:
        """Begin to stop: end the open calls, and the process after 1.5 s if something still holds it."""
        self.inner.stop()


def _target() -> Target | None:
    """Where the SDK's runtime will listen, None when that cannot be told."""
    try:
        return targets.parse(host.socket_target())
    except InvalidArgument:
        return None


def _register(server: grpc.Server, provider: HostedProvider) -> None:
    provider.inner.register(server)
    host.watch(provider.inner.leave)


def _adapter() -> Any:
    for name in ("AppProviderAdapter", "PluginProviderAdapter"):
        kind = getattr(gestalt, name, None)
        if kind is not None:
            return kind("s3", HostedProvider(), _register)
    raise ImportError("this gestalt-sdk has neither AppProviderAdapter nor PluginProviderAdapter; a8 to a29 have one")


provider = _adapter()
