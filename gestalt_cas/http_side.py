"""The HTTP endpoint of one provider process, as its configuration changes.

A new configuration's address is bound before the old one is let go, so a configuration that cannot listen changes
nothing. aiohttp is imported when an endpoint is first needed.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from gestalt_cas.config import Config, Http
from gestalt_cas.store import Store

if TYPE_CHECKING:
    from gestalt_cas.http_server import HttpServer
    from gestalt_cas.mounts import Mounts

log = logging.getLogger(__name__)

PORT_NOTE = "http.port"
"""Under which name the store remembers the port."""
KEYS_NOTE = "signing.configured"
"""Whether the last server took its signing keys from its configuration."""


class HttpSide:
    """Listens as the configuration in force says. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: HttpServer | None = None
        self._listening: tuple[str, Http] | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        """The URL of this machine's own endpoint; "" when there is none."""
        server = self._server
        return server.url if server is not None else ""

    def attach(self, store: Store, config: Config, mounts: Mounts) -> str:
        """Listen for `config`, unless that is so already; returns the public URL, "" when switched off.

        Raises StoreUnusable when the address cannot be had.
        """
        with self._lock:
            store.note(KEYS_NOTE, config.signing is not None)
            wanted = (str(store.directory), config.http)
            if wanted != self._listening:
                server = self._started(store, config, mounts) if config.http.enabled else None
                before, self._server, self._listening = self._server, server, wanted
                if before is not None:
                    before.stop()
            return config.http.public_url or self.url if config.http.enabled else ""

    def stop(self) -> None:
        """Stop listening and end the open requests, without waiting."""
        with self._lock:
            self._stopped = True
            if self._server is not None:
                self._server.stop()

    def _started(self, store: Store, config: Config, mounts: Mounts) -> HttpServer:
        from gestalt_cas import http_server

        http = config.http
        remembered = store.recall(PORT_NOTE)
        listener = http_server.listen(
            http.host,
            http.port,
            remembered if isinstance(remembered, int) else 0,
            (lambda port: store.note(PORT_NOTE, port)) if store.claim_server() else None,
        )
        return http_server.HttpServer(mounts, listener, config.limits.concurrent_writes)
