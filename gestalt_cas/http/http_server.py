"""The thread and the event loop that serve the HTTP endpoint, and the port that it listens on.

The default is a loopback port that stays the same over restarts, since URLs that were handed out name it. The holder of
server.lock remembers it in the store; another server on the same directory takes any free one. aiohttp: an HTTP parser
in C with the raw target at hand, chunked bodies and backpressure in both directions; a framework's router would
normalise paths, so none is used.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from typing import Any

from aiohttp import web

from gestalt_cas.errors import AddressUnusable, TooManyStreams
from gestalt_cas.http.endpoint import Endpoint
from gestalt_cas.http.http_connections import Connections
from gestalt_cas.http.http_monitoring import Monitoring
from gestalt_cas.observing.calls import Observer
from gestalt_cas.observing.readings import Readings
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.system import exhaustion

log = logging.getLogger(__name__)

_STOP_SECONDS = 0.5
_COMPLAIN_SECONDS = 60.0
_TURNS = 5
"""Of the event loop, in which a connection that was just accepted becomes one that can be closed."""


class HttpServer:
    """A listening endpoint. `host` and `port` are where it really listens."""

    def __init__(
        self,
        mounts: Mounts,
        listener: socket.socket,
        observer: Observer | None = None,
        readings: Readings | None = None,
    ) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self._mounts = mounts
        self._listener = listener
        self._observer = observer
        self._readings = readings
        self._loop = asyncio.new_event_loop()
        self._complain_again = 0.0
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gestalt-cas-http", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads
            self._loop.close()
            raise
        self._ready.wait()

    @property
    def url(self) -> str:
        """The URL of the endpoint as seen from this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def stop(self) -> None:
        """Stop listening and end the open requests, without waiting for them; a second call does nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self, timeout: float) -> None:
        """Wait until the requests have ended, `timeout` seconds at most."""
        self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._told_by_asyncio)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._ready.set()
            self._loop.close()

    def _told_by_asyncio(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log what no request is to blame for.

        For want of files asyncio tries to accept as many connections as may wait, again each second, and would log each
        of these attempts with a traceback; those that come after the end of listening as well.
        """
        error = context.get("exception")
        explained = exhaustion.explained(error) if isinstance(error, Exception) else error
        if isinstance(error, ValueError) and self._listener.fileno() < 0:
            log.debug("no connection is accepted where nothing listens any more: %s", error)
        elif not isinstance(explained, TooManyStreams):
            loop.default_exception_handler(context)
        elif time.monotonic() >= self._complain_again:
            self._complain_again = time.monotonic() + _COMPLAIN_SECONDS
            log.warning("HTTP connections have to wait: %s", explained)

    async def _serve(self) -> None:
        monitoring = Monitoring(self._readings) if self._readings is not None else None
        endpoint = Endpoint(self._mounts, self._observer, monitoring)
        server = Connections(endpoint.handle)
        runner = web.ServerRunner(server, shutdown_timeout=_STOP_SECONDS)
        await runner.setup()
        await web.SockSite(runner, self._listener).start()
        self._ready.set()
        await self._stopping.wait()
        before = server.connections
        await runner.cleanup()
        await _let_go(server, before)
        endpoint.close()


async def _let_go(server: web.Server, before: list[web.RequestHandler]) -> None:
    """End what the clean-up left: peers that take nothing, late arrivals, and waits for pieces of uploads."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    for connection in {*before, *server.connections}:
        if connection.transport is not None:
            connection.transport.abort()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_STOP_SECONDS)
    await asyncio.sleep(0)


def listen(host: str, port: int, *, fixed: bool) -> socket.socket:
    """A listening socket on `port`, 0 for any; unless it is `fixed`, on another one when it is taken.

    Raises AddressUnusable when the address cannot be had.
    """
    try:
        return _bound(host, port)
    except OSError as error:
        if fixed or not port or error.errno != errno.EADDRINUSE:
            raise AddressUnusable(f"http.listen: cannot listen at {host}:{port}: {error.strerror or error}") from error
    log.warning(
        "port %d, which URLs handed out earlier name, is taken by another program: those URLs now lead to it", port
    )
    return _bound(host, 0)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Lets a restart have its port back at once; it does not let two processes listen on it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener
