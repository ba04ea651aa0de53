"""Connections of the HTTP endpoint: what is decided before a request is handled, and once it has been.

aiohttp parses and frames; here stands what it leaves open or does in its own words (RFC 9110 and 9112): versions,
doubtful bodies, callers who have closed their side or bring nothing, and requests that are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from gestalt_cas import request_ids
from gestalt_cas.http.endpoint import MAX_LINE_BYTES
from gestalt_cas.rules import http_errors

_MAX_FIELD_BYTES = 32 * 1024
_READ_BUFFER = 256 * 1024
_IDLE_SECONDS = 300.0
"""How long a connection may take to bring a request: more than proxies keep theirs for the next one, and not an hour.

Each idle one keeps a descriptor from everything else that this process does.
"""


class Connections(web.Server):
    """aiohttp's server of `handle`, with connections of our own."""

    def __init__(self, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        self._options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": _IDLE_SECONDS,
            "auto_decompress": False,
            "read_bufsize": _READ_BUFFER,
            "max_line_size": MAX_LINE_BYTES,
            "max_field_size": _MAX_FIELD_BYTES,
        }
        super().__init__(self._answer, request_factory=self._make, **self._options)
        self._handle = handle

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
