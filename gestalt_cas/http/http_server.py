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
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from gestalt_cas import request_ids
from gestalt_cas.errors import AddressUnusable, TooManyStreams
from gestalt_cas.http.endpoint import MAX_LINE_BYTES, Endpoint
from gestalt_cas.http.http_monitoring import Monitoring
from gestalt_cas.observing.calls import Observer
from gestalt_cas.observing.readings import Readings
from gestalt_cas.rules import http_errors
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.system import exhaustion

log = logging.getLogger(__name__)

_STOP_SECONDS = 0.5
_COMPLAIN_SECONDS = 60.0
_MAX_FIELD_BYTES = 32 * 1024
_READ_BUFFER = 256 * 1024
_IDLE_SECONDS = 300.0
"""How long a connection may take to bring a request: more than proxies keep theirs for the next one, and not an hour.

Each idle one keeps a descriptor from everything else that this process does.
"""
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
        of these attempts with a traceback.
        """
        error = context.get("exception")
        explained = exhaustion.explained(error) if isinstance(error, Exception) else error
        if not isinstance(explained, TooManyStreams):
            loop.default_exception_handler(context)
        elif time.monotonic() >= self._complain_again:
            self._complain_again = time.monotonic() + _COMPLAIN_SECONDS
            log.warning("HTTP connections have to wait: %s", explained)

    async def _serve(self) -> None:
        monitoring = Monitoring(self._readings) if self._readings is not None else None
        endpoint = Endpoint(self._mounts, self._observer, monitoring)
        server = _Server(
            endpoint.handle,
            access_log=None,
            keepalive_timeout=_IDLE_SECONDS,
            auto_decompress=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
        )
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


class _Server(web.Server):
    """aiohttp's server with connections of our own."""

    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any) -> None:
        super().__init__(self._answer, request_factory=self._make, **options)
        self._handle = handle
        self._options = options

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def _make(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        """The request of a parsed head; decides what aiohttp leaves open.

        The answer to a version that is not ours is of ours (RFC 9110 section 6.2). A chunked body from a caller of
        HTTP/1.0 may not be what it says (RFC 9112 section 6.1), and behind a request to switch protocols aiohttp loses
        what has come with it: both are answered, and the connection ended.
        """
        version = min(max(message.version, HttpVersion10), HttpVersion11)
        doubtful = message.upgrade or (message.chunked and version < HttpVersion11) or version != message.version
        message = message._replace(version=version, should_close=message.should_close or doubtful)
        request = self._make_request(message, payload, protocol, writer, task)
        if isinstance(protocol, _Connection):
            protocol.begin(request)
        return request

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        try:
            response = await self._handle(request)
            if isinstance(connection, _Connection) and connection.at_its_end():
                response.force_close()
            return response
        finally:
            if isinstance(connection, _Connection):
                connection.answering = None


class _Connection(web.RequestHandler):
    """One connection. What aiohttp cannot parse is answered in S3's words; a caller who goes away is no error.

    aiohttp would log both with a traceback, the first together with the request line, which may hold a signature.
    A caller who has sent whole requests and closes his side is answered all the same, where aiohttp would hang up.
    """

    __slots__ = ("_ended", "_silent", "answering")

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.answering: web.BaseRequest | None = None
        self._ended = False
        self._silent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Most releases of aiohttp wait for the first request as long as it may take.
        self._silent = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._heard()
        super().connection_lost(exc)

    def begin(self, request: web.BaseRequest) -> None:
        """Note that a request has come and is being answered."""
        self._heard()
        self.answering = request

    def _heard(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio keeps the transport when told so
        bodies = [payload for _, payload in self._messages] or [
            request.content for request in (self.answering,) if request is not None
        ]
        self._ended = bool(bodies) and bodies[-1].is_eof()
        return self._ended

    def at_its_end(self) -> bool:
        """Whether the request being answered is the last one of a caller who sends no more."""
        return self._ended and not self._messages

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionError):
            raise exc
        if status != HTTPStatus.BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        code, told = "BadRequest", "the request cannot be parsed as HTTP"
        if isinstance(exc, LineTooLong):
            of_target = str(exc.args[1]) == str(MAX_LINE_BYTES)
            status, told = (414, "the request target is too long") if of_target else (431, "a header field is too long")
        response = web.Response(
            status=status,
            body=http_errors.body(code, told, resource="", request_id=request_ids.chosen("")),
            headers={"Server": "gestalt-cas"},
            content_type="application/xml",
        )
        response.force_close()
        return response


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
