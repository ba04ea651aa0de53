"""The body of an HTTP GET: verified chunks on their way to the socket.

A short body goes through aiohttp. A long one is sent by threads that read a chunk into the download's one buffer, check
it, and hand it to the kernel from there; asyncio's transport would copy each chunk once more, and move along whatever
the kernel did not take at once. A thread works for one turn and never waits long for a slow caller: the event loop does
the waiting, so a few threads serve any number of downloads.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import select
import socket
import sys
import termios
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextvars import copy_context
from enum import Enum, auto
from mmap import mmap
from typing import TypeVar

from aiohttp import web

from gestalt_cas.http.patience import within
from gestalt_cas.rules.chunks import CHUNK_BYTES
from gestalt_cas.store import ObjectReader

Result = TypeVar("Result")

TURN_SECONDS = 0.02
"""How long a download keeps a thread when others may want it."""
_PATIENCE_MS = 2
"""How long a thread waits for a caller to take more, since the way over the event loop costs a fast one too much."""
_HELD_SECONDS = 1.0
"""How long a chunk is held for a caller who takes nothing; it is read and checked again when he goes on."""
_FIRST_BYTES = 64 * 1024
"""What goes out with the head, through aiohttp."""


class _Turn(Enum):
    OVER = auto()
    FULL = auto()
    DONE = auto()


class Download:
    """One body, at most a chunk of it in memory, nothing of it while the caller takes nothing.

    Lives on the event loop; `executor` runs its turns.
    """

    def __init__(self, request: web.BaseRequest, reader: ObjectReader, executor: Executor, idle_seconds: float) -> None:
        self._request = request
        self._executor = executor
        self._idle_seconds = idle_seconds
        self._length = reader.length
        self._reader = reader
        self._pieces: Generator[memoryview, None, None] | None = None
        self._rest = memoryview(b"")
        self._left = False
        self.sent = 0

    async def send(self, response: web.StreamResponse) -> None:
        """Send the whole body, the head before it; when this ends, no thread is in the reader any more.

        Raises Damage before a byte of the damaged chunk leaves, TimeoutError when the caller has taken nothing for
        `idle_seconds`, and ConnectionError when it has gone.
        """
        try:
            if self._length and await self._send_first(response) < self._length:
                connection = await self._emptied()
                try:
                    await self._send_rest(connection)
                finally:
                    connection.close()
            await response.write_eof()
        finally:
            # Now: what asyncio leaves of a request may stay until the next garbage collection.
            self._let_go()

    async def _send_first(self, response: web.StreamResponse) -> int:
        """Send the beginning of the body, at most what one piece holds; returns how many bytes."""
        await self._in_thread(self._load)
        # A copy, because newer versions of asyncio keep a reference and the buffer is filled anew.
        first = bytes(self._rest[:_FIRST_BYTES])
        self._rest = self._rest[len(first) :]
        await within(self._idle_seconds, response.write(first))
        self.sent += len(first)
        return len(first)

    async def _emptied(self) -> socket.socket:
        """A second descriptor of the connection, once the transport has handed all it had to the kernel."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the caller has gone")
        low, high = transport.get_write_buffer_limits()
        transport.set_write_buffer_limits(0)
        try:
            await within(self._idle_seconds, self._request.writer.drain())
        finally:
            transport.set_write_buffer_limits(high, low)
        if transport.is_closing():
            raise ConnectionResetError("the caller has gone")
        connection: socket.socket = transport.get_extra_info("socket").dup()
        return connection

    async def _send_rest(self, connection: socket.socket) -> None:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        while True:
            turn = await self._in_thread(lambda: self._turn(connection, poll))
            if turn is _Turn.DONE:
                return
            if turn is _Turn.FULL:
                await self._room(connection)
            transport = self._request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the caller has gone")

    def _turn(self, connection: socket.socket, poll: select.poll) -> _Turn:
        """Read, check and send for a while. Runs on a thread."""
        end = time.monotonic() + TURN_SECONDS
        while self._rest or self._load():
            try:
                sent = connection.send(self._rest)
            except BlockingIOError:
                if not poll.poll(_PATIENCE_MS):
                    return _Turn.FULL
            else:
                self._rest = self._rest[sent:]
                self.sent += sent
            if self._left or time.monotonic() > end:
                return _Turn.OVER
        return _Turn.DONE

    def _load(self) -> bool:
        """Read and check the next piece; False when there is none."""
        if self._pieces is None:
            # Mapped, so that it goes back to the system with the download; the allocator would keep many a chunk.
            buffer = mmap(-1, max(1, min(CHUNK_BYTES, self._reader.version.size)))
            self._pieces = self._reader.pieces(memoryview(buffer), skip=self.sent)
        self._rest = next(self._pieces, memoryview(b""))
        return len(self._rest) > 0

    def _let_go(self) -> None:
        """Give the buffer back; no thread may be in it."""
        self._rest = memoryview(b"")
        if self._pieces is not None:
            self._pieces.close()
            self._pieces = None

    async def _room(self, connection: socket.socket) -> None:
        """Wait until the kernel takes more; a caller that is slow but alive may take as long as it likes."""
        loop = asyncio.get_running_loop()
        writable = asyncio.Event()
        waiting = asyncio.ensure_future(writable.wait())
        loop.add_writer(connection, writable.set)
        try:
            queued, patience = _queued(connection), self._idle_seconds
            held = min(_HELD_SECONDS, patience)
            if not (await asyncio.wait([waiting], timeout=held))[0]:
                self._let_go()
                patience -= held
            while not (await asyncio.wait([waiting], timeout=patience))[0]:
                before, queued, patience = queued, _queued(connection), self._idle_seconds
                if queued >= before:
                    raise TimeoutError
        finally:
            loop.remove_writer(connection)
            waiting.cancel()

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        coming = asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, call)
        try:
            return await asyncio.shield(coming)
        finally:
            # The reader and the connection may only be closed when no thread uses them any more, however often the
            # request is cancelled.
            while not coming.done():
                self._left = True
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([coming])


def _queued(connection: socket.socket) -> int:
    """Bytes in the kernel that the caller has not acknowledged; the kernel asks for more only when many have gone."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
