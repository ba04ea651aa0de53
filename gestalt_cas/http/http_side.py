"""The HTTP endpoint of one provider process, as its configuration changes.

A new configuration's address is bound before the old one is let go, and the old one only when the configuration has
come into force, so a configuration that cannot listen changes nothing. A configuration that listens where the one
before did keeps the socket and the requests on it. aiohttp is imported when an endpoint is first needed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gestalt_cas.configuration.config import Config
from gestalt_cas.errors import StoreError
from gestalt_cas.observing.calls import Observer
from gestalt_cas.observing.readings import Readings
from gestalt_cas.store import Store

if TYPE_CHECKING:
    from gestalt_cas.http.http_server import HttpServer
    from gestalt_cas.serving.mounts import Mounts

log = logging.getLogger(__name__)

PORT_NOTE = "http.port"
"""Under which name the store remembers the port."""
KEYS_NOTE = "signing.configured"
"""Whether the last server took its signing keys from its configuration."""


class HttpSide:
    """Listens as the configuration in force says. Thread-safe. `observer` and `readings` are for its pages."""

    def __init__(self, observer: Observer | None = None) -> None:
        self.observer = observer
        self.readings: Readings | None = None
        self._lock = threading.Lock()
        self._server: HttpServer | None = None
        self._listening = ("", "", 0)

    @property
    def url(self) -> str:
        """The URL of this machine's own endpoint; "" when there is none."""
        server = self._server
        return server.url if server is not None else ""

    @contextmanager
    def attached(self, store: Store, config: Config, mounts: Mounts) -> Iterator[str]:
        """Listen for `config`; in the block, which puts it into force, stands its public URL ("": none to be signed).

        When the block raises, everything is as before. Raises AddressUnusable when the address cannot be had.
        """
        with self._lock:
            before, wanted = self._server, (str(store.directory), config.http.host, config.http.port)
            server = None
            if config.http.enabled or config.telemetry.pages:
                port = config.http.port or self._remembered(store)
                server = before if self._keeps(wanted, port) else self._started(config, port, mounts)
            try:
                yield (config.http.public_url or server.url) if server is not None and config.http.enabled else ""
            except BaseException:
                if server is not None and server is not before:
                    server.stop()
                raise
            self._server, self._listening = server, wanted
            if before is not None and before is not server:
                before.stop()
            self._note(store, config)

    def stop(self) -> None:
        """Stop listening and end the open requests, without waiting."""
        server = self._server
        if server is not None:
            server.stop()

    def _keeps(self, wanted: tuple[str, str, int], port: int) -> bool:
        """Whether the present server listens where it is wanted, which `port` says better than `wanted` when not 0."""
        if self._server is None or wanted[1] != self._listening[1]:
            return False
        return wanted == self._listening or port == self._server.port

    def _started(self, config: Config, port: int, mounts: Mounts) -> HttpServer:
        from gestalt_cas.http import http_server

        listener = http_server.listen(config.http.host, port, fixed=bool(config.http.port))
        try:
            return http_server.HttpServer(mounts, listener, self.observer, self.readings)
        except BaseException:
            listener.close()
            raise

    @staticmethod
    def _remembered(store: Store) -> int:
        """The port of the last start, 0 for any; only the holder of server.lock has one, other servers come and go."""
        found = store.recall(PORT_NOTE) if store.claim_server() else None
        return found if isinstance(found, int) else 0

    def _note(self, store: Store, config: Config) -> None:
        """Write down what the next start and `keys rotate` have to know; a full disk must not keep a server out."""
        try:
            if bool(store.recall(KEYS_NOTE)) != (config.signing is not None):
                store.note(KEYS_NOTE, config.signing is not None)
            if self._server is not None and not config.http.port and store.claim_server():
                store.note(PORT_NOTE, self._server.port)
        except StoreError as error:
            log.warning("the HTTP port may change with the next start, since it cannot be noted down: %s", error)
