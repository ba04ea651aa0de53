"""The body of an HTTP PUT: taken from the event loop by the thread that stores it, checked against what was promised.

Content-MD5 and x-amz-checksum-crc32, -crc32c, -sha1 and -sha256 are verified before the object is committed; other
algorithms, trailers and aws-chunked bodies are refused before a byte is taken (S3 API reference, PutObject).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError
from typing import Any, Protocol

import google_crc32c
from aiohttp import web
from aiohttp.http import HttpVersion11

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import BadDigest, Cancelled, InvalidArgument, NotImplementedHere, ObjectTooLarge, PeerStalled
from gestalt_cas.http.patience import within
from gestalt_cas.rules.http_fields import META


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4)


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = google_crc32c.extend(self._value, data)

    def digest(self) -> bytes:
        return self._value.to_bytes(4)


_CHECKSUMS: dict[str, tuple[Callable[[], _Hash], int]] = {
    "x-amz-checksum-crc32": (_Crc32, 4),
    "x-amz-checksum-crc32c": (_Crc32c, 4),
    "x-amz-checksum-sha1": (lambda: hashlib.sha1(usedforsecurity=False), 20),
    "x-amz-checksum-sha256": (hashlib.sha256, 32),
    "content-md5": (lambda: hashlib.md5(usedforsecurity=False), 16),
}
_PASSED_OVER = {"x-amz-content-sha256", "x-amz-date", "x-amz-sdk-checksum-algorithm", "x-amz-user-agent"}


class Upload:
    """One body. Made on the event loop; `pieces` and `confirm` run on the storing thread."""

    def __init__(self, request: web.BaseRequest, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._request = request
        self._loop = loop
        self._idle_seconds = limits.stream_idle_seconds
        _refuse_unsupported(request)
        if request.content_length is not None and request.content_length > limits.max_object_bytes:
            raise ObjectTooLarge(f"the object is larger than limits.maxObjectBytes ({limits.max_object_bytes} bytes)")
        self.received = 0
        self._expected = _expected(request)
        self._hashes = {name: _CHECKSUMS[name][0]() for name in self._expected}
        sha256 = request.headers.get("x-amz-content-sha256", "").lower()
        if sha256 not in ("", "unsigned-payload"):
            self._expected["x-amz-content-sha256"] = _unhex(sha256)
            self._hashes["x-amz-content-sha256"] = hashlib.sha256()
        # A caller of HTTP/1.0 does not understand 100 (RFC 9110 section 10.1.1).
        self._to_continue = (
            request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11
        )

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; asks for it first when the caller waits for 100-continue."""
        if self._to_continue:
            self._wait(self._continue())
        while piece := self._wait(self._request.content.readany()):
            for hasher in self._hashes.values():
                hasher.update(piece)
            self.received += len(piece)
            yield piece
        length = self._request.content_length
        if length is not None and self.received != length:
            # Older releases of aiohttp give no body to a request that asks for another protocol.
            raise Cancelled(f"the upload was cut off: {self.received} bytes came of {length}")

    def confirm(self) -> None:
        """Raise BadDigest unless the whole body has the checksums that came with it."""
        for name, expected in self._expected.items():
            if self._hashes[name].digest() != expected:
                raise BadDigest(f"the body does not have the checksum of {name}")

    def verified_fields(self) -> dict[str, str]:
        """The checksums to answer with, as S3 does: those that were sent and hold."""
        return {name: base64.b64encode(value).decode() for name, value in self._expected.items() if "checksum" in name}

    async def _continue(self) -> None:
        await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _wait(self, coming: Coroutine[Any, Any, bytes | None]) -> bytes:
        waiting = within(self._idle_seconds, coming)
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError:  # the loop is closed
            waiting.close()
            raise Cancelled("the upload was cut off: the endpoint has stopped") from None
        try:
            return future.result() or b""
        except TimeoutError:
            raise PeerStalled(f"the upload made no progress for {self._idle_seconds:g} s") from None
        except (web.RequestPayloadError, ConnectionError, CancelledError, EOFError) as error:
            raise Cancelled(f"the upload was cut off: {error}") from None


def _refuse_unsupported(request: web.BaseRequest) -> None:
    fields = request.headers
    if "aws-chunked" in fields.get("Content-Encoding", "").lower() or fields.get(
        "x-amz-content-sha256", ""
    ).upper().startswith("STREAMING-"):
        raise NotImplementedHere("aws-chunked bodies are not offered here")
    if "Trailer" in fields:
        raise NotImplementedHere("checksums in trailers are not offered here")
    refuse_unknown(fields)
    coding = fields.get("Transfer-Encoding", "").strip().lower()
    if coding not in ("", "chunked"):
        # RFC 9112 section 6.1. Only the outermost coding would be taken off, and the others be stored.
        raise NotImplementedHere(f"the transfer coding {coding} is not offered here")
    if request.content_length is None and not coding:
        raise InvalidArgument("an upload needs a Content-Length or a chunked body")


def refuse_unknown(names: Iterable[str]) -> None:
    """Raise NotImplementedHere for an x-amz field, of the head or signed in the query, that asks for something else."""
    for name in names:
        lower = name.lower()
        known = lower.startswith(META) or lower in _CHECKSUMS or lower in _PASSED_OVER
        if lower.startswith("x-amz-") and not known:
            raise NotImplementedHere(f"the header {lower} is not offered here")


def _expected(request: web.BaseRequest) -> dict[str, bytes]:
    expected = {}
    for name, (_, size) in _CHECKSUMS.items():
        text = request.headers.get(name)
        if text is None:
            continue
        try:
            value = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            value = b""
        if len(value) != size:
            raise InvalidArgument(f"{name} is not base64 of {size} bytes")
        expected[name] = value
    return expected


def _unhex(text: str) -> bytes:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise InvalidArgument("x-amz-content-sha256 is neither UNSIGNED-PAYLOAD nor 64 hex digits")
    return bytes.fromhex(text)
