"""The HTTP endpoint: what the bearer of a presigned URL may do, and the pages of `http_monitoring.py`; nothing else.

aiohttp serves on a thread with an event loop of its own; store calls run on pools of threads, so slow peers cost a
little memory each and never a gRPC thread. Targets are read raw (`urls.py`), signatures are judged before anything is
looked up, conditions before a body is asked for (Expect: 100-continue is answered when the store takes the first byte).
Bytes leave verified, chunk by chunk; damage in the middle ends the connection before the declared length.

Source: the S3 API reference for GetObject, HeadObject, PutObject and DeleteObject and its error responses; RFC 9110.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from email.utils import format_datetime
from typing import NamedTuple, TypeVar

from aiohttp import web
from aiohttp.http import HttpVersion11

from gestalt_cas import cors, http_errors, http_fields, ranges, sigv4, urls
from gestalt_cas.errors import (
    InvalidArgument,
    InvalidSignatureRequest,
    MethodNotAllowed,
    NotImplementedHere,
    NotModified,
    PeerStalled,
    SignatureDoesNotMatch,
    StoreError,
    TooManyStreams,
)
from gestalt_cas.http_downloads import Download
from gestalt_cas.http_monitoring import Monitoring
from gestalt_cas.http_uploads import Upload
from gestalt_cas.mounts import Mount, Mounts
from gestalt_cas.objects import ByteRange, Conditions, ObjectKey, ObjectVersion
from gestalt_cas.observing.calls import ABORTED, HTTP, HttpCall, Observer
from gestalt_cas.urls import RequestTarget

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 33 * 1024
"""A request line holds a 2,048-byte key in percent escapes, a bucket, and the query with a version id and headers."""
READ_THREADS = 8
SEND_THREADS = 8
"""Of their own, so that a lookup never waits for the turns of downloads."""
_READ_BUFFER = 256 * 1024
_SUBRESOURCES = frozenset(
    {
        "acl",
        "attributes",
        "cors",
        "legal-hold",
        "partNumber",
        "policy",
        "renameObject",
        "restore",
        "retention",
        "select",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versions",
    }
)
"""Parameters that ask S3 for something else than the object; ignoring one would answer the wrong question."""
_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "PATCH", "TRACE", "CONNECT"})
"""Those that are counted under their own names."""

Result = TypeVar("Result")


class Endpoint:
    """The handlers of the HTTP server. Lives on the event loop of `http_server.HttpServer`."""

    def __init__(
        self, mounts: Mounts, concurrent_writes: int, observer: Observer | None, monitoring: Monitoring | None
    ) -> None:
        self._mounts = mounts
        self._observer = observer or Observer()
        self._methods = {name: self._observer.method(HTTP, name) for name in _METHODS}
        self._other = self._observer.method(HTTP, "_OTHER")
        self._monitoring = monitoring
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="gestalt-cas-http-read")
        self._senders = ThreadPoolExecutor(SEND_THREADS, thread_name_prefix="gestalt-cas-http-send")
        self._writers = ThreadPoolExecutor(concurrent_writes, thread_name_prefix="gestalt-cas-http-write")
        self._uploads = 0
        self._most_uploads = concurrent_writes

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every failure becomes S3's XML."""
        page = await self._page(request)
        if page is not None:
            return page
        call = HttpCall(self._methods.get(request.method, self._other), request.headers)
        try:
            with self._mounts.use() as mount:
                return await self._answered(request, mount, call)
        except StoreError as error:
            return _failure(request, error, {"x-amz-request-id": call.id}, call)
        finally:
            call.end(ABORTED, failed=True)  # does nothing when the request has been answered

    async def _page(self, request: web.BaseRequest) -> web.StreamResponse | None:
        """One of the pages for whoever watches this server, if the request is for one that its sender may see."""
        monitoring = self._monitoring
        if monitoring is None or not monitoring.named(request):
            return None
        try:
            with self._mounts.use() as mount:
                if monitoring.allowed(request, mount.config.telemetry):
                    return await self._run(lambda: monitoring.answer(request, mount))
        except StoreError as error:
            log.info("%s cannot be answered: %s", request.path, error)
        return None

    async def _answered(self, request: web.BaseRequest, mount: Mount, call: HttpCall) -> web.StreamResponse:
        shared = cors.fields(mount.config.http.cors_origins, request.headers.get("Origin", ""))
        shared |= {"x-amz-request-id": call.id, "Server": "gestalt-cas"}
        if mount.config.stamps.fixed_ms is not None:  # else aiohttp dates what has no date
            shared["Date"] = format_datetime(mount.config.stamps.now(), usegmt=True)
        try:
            response = await self._serve(request, mount, shared, call)
        except StoreError as error:
            return _failure(request, error, shared, call)
        except Exception as error:
            if isinstance(error, ConnectionError):
                raise  # the caller has gone: http_server.Connection passes it over
            log.error("%s: unexpected %s", request.method, type(error).__name__, exc_info=error)
            return _failure(request, StoreError("internal error"), shared, call)
        call.end(str(response.status))
        return response

    async def _serve(
        self, request: web.BaseRequest, mount: Mount, shared: Mapping[str, str], call: HttpCall
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return cors.preflight(request, shared)
        if not mount.config.http.enabled:
            raise SignatureDoesNotMatch("AccessDenied", "presigned URLs are switched off")
        target = _authenticated(request, mount)
        handlers: dict[str, Callable[..., Awaitable[web.StreamResponse]]] = {
            "GET": self._get,
            "HEAD": self._head,
            "PUT": self._put,
            "DELETE": self._delete,
        }
        serve = handlers.get(request.method)
        if serve is None:
            raise MethodNotAllowed(f"{request.method} is not offered here")
        for name, _ in target.query:
            if name in _SUBRESOURCES:
                raise NotImplementedHere(f"the subresource {name} is not offered here")
        key = ObjectKey(target.key.bucket, mount.config.key_prefix + target.key.key)
        return await serve(_Asked(request, mount, target, key, shared, call))

    async def _head(self, asked: _Asked) -> web.StreamResponse:
        request, mount, target, key, shared, _ = asked
        conditions = http_fields.read_conditions(http_fields.joined(request.headers.items()))
        overrides = _overrides(target)
        version = await self._run(
            lambda: mount.store.head(key, version_id=target.parameter("versionId"), conditions=conditions)
        )
        part = _part(request)(version)
        offset, length = _resolved(part, version)
        response = _opened(version, offset, length, part, {**shared, **http_fields.object_fields(version, overrides)})
        await response.prepare(request)
        return response

    async def _get(self, asked: _Asked) -> web.StreamResponse:
        request, mount, target, key, shared, call = asked
        conditions = http_fields.read_conditions(http_fields.joined(request.headers.items()))
        select = _part(request)
        overrides = _overrides(target)
        reader = await self._run(
            lambda: mount.store.read(
                key, version_id=target.parameter("versionId"), byte_range=select, conditions=conditions
            )
        )
        with reader:
            version = reader.version
            fields = {**shared, **http_fields.object_fields(version, overrides)}
            response = _opened(version, reader.offset, reader.length, select(version), fields)
            await response.prepare(request)
            download = Download(request, reader, self._senders, mount.config.limits.stream_idle_seconds)
            try:
                await download.send(response)
            except Exception as error:
                # The status has left, so the only way to say that the body is not whole is to cut it off.
                if request.transport is not None:
                    request.transport.abort()
                if not isinstance(error, StoreError | TimeoutError):
                    raise
                log.warning("GET %s ended early: %s", key, error if str(error) else "the caller made no progress")
                call.cut = ABORTED
            finally:
                call.sent = download.sent
        return response

    async def _put(self, asked: _Asked) -> web.StreamResponse:
        request, mount, target, key, shared, call = asked
        fields = http_fields.joined(request.headers.items())
        conditions = Conditions(
            fields.get("if-match", ""),
            fields.get("if-none-match", ""),
            current_version=target.parameter("versionId"),
        )
        if "if-unmodified-since" in fields:
            raise NotImplementedHere("the condition If-Unmodified-Since is not offered on PUT")
        upload = Upload(request, mount.config.limits, asyncio.get_running_loop())
        if self._uploads >= self._most_uploads:
            raise TooManyStreams("too many uploads at once; see limits.concurrentWrites")
        self._uploads += 1
        try:
            version = await self._run(
                lambda: mount.store.write(
                    key,
                    upload.pieces(),
                    headers=http_fields.stored_headers(request.headers),
                    metadata=http_fields.user_metadata(fields),
                    conditions=conditions,
                    expected_bytes=request.content_length or 0,
                    confirm=upload.confirm,
                ),
                self._writers,
            )
        finally:
            self._uploads -= 1
            call.received = upload.received
        answer = {**shared, "ETag": version.etag, "x-amz-version-id": version.version_id, **upload.verified_fields()}
        return await _empty(request, 200, answer)

    async def _delete(self, asked: _Asked) -> web.StreamResponse:
        request, mount, target, key, shared, _ = asked
        version_id = target.parameter("versionId")
        for name in request.headers:
            # Passing over a condition would remove what the caller did not mean.
            if name.lower().startswith(("if-", "x-amz-if-")):
                raise NotImplementedHere(f"the condition {name} is not offered on DELETE")
        gone = await self._run(lambda: mount.store.delete(key, version_id=version_id))
        answer = dict(shared)
        if gone is not None:
            answer["x-amz-version-id"] = gone.version_id
            if gone.delete_marker:
                answer["x-amz-delete-marker"] = "true"
        elif version_id:
            answer["x-amz-version-id"] = version_id
        return await _empty(request, 204, answer)

    def close(self) -> None:
        """Let the threads end; what they are at goes on."""
        self._readers.shutdown(wait=False)
        self._senders.shutdown(wait=False)
        self._writers.shutdown(wait=False)

    async def _run(self, call: Callable[[], Result], on: ThreadPoolExecutor | None = None) -> Result:
        """Run a call on a thread, which then knows whose request it works on."""
        return await asyncio.get_running_loop().run_in_executor(on or self._readers, copy_context().run, call)


class _Asked(NamedTuple):
    """A request whose signature is good, and what it is for; `shared` are fields that every answer has."""

    request: web.BaseRequest
    mount: Mount
    target: RequestTarget
    key: ObjectKey
    shared: Mapping[str, str]
    call: HttpCall


def _authenticated(request: web.BaseRequest, mount: Mount) -> RequestTarget:
    """What the request is for, once its signature is known to be good."""
    if "Authorization" in request.headers:
        raise SignatureDoesNotMatch("AccessDenied", "signed headers are not offered here; use a presigned URL")
    try:
        target = urls.parse(request.raw_path)
    except InvalidArgument as error:
        raise InvalidSignatureRequest("InvalidURI", str(error)) from None
    if not any(name.lower().startswith("x-amz-") for name, _ in target.query):
        raise SignatureDoesNotMatch("AccessDenied", "the request is not signed; use a presigned URL")
    fields = http_fields.joined(request.headers.items())
    signed = sigv4.Request(request.method, target.path, target.query, fields)
    sigv4.verify(mount.keys.get(), signed, now=mount.config.stamps.now())
    return target


def _part(request: web.BaseRequest) -> Callable[[ObjectVersion], ByteRange | None]:
    """What the Range and If-Range fields choose of a version."""

    def select(version: ObjectVersion) -> ByteRange | None:
        if not http_fields.if_range_holds(request.headers.get("If-Range"), version):
            return None
        ranges = request.headers.getall("Range", [])
        return http_fields.parse_range(ranges[0], version.size) if len(ranges) == 1 else None

    return select


def _resolved(part: ByteRange | None, version: ObjectVersion) -> tuple[int, int]:
    return ranges.resolve(part, version.size)


def _opened(
    version: ObjectVersion, offset: int, length: int, part: ByteRange | None, fields: Mapping[str, str]
) -> web.StreamResponse:
    """A response about to carry `length` bytes from `offset`: 206 with Content-Range for a part, else 200."""
    response = web.StreamResponse(status=200 if part is None else 206, headers=dict(fields))
    if part is not None:
        response.headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{version.size}"
    response.content_length = length
    return response


def _overrides(target: RequestTarget) -> dict[str, str]:
    found = {}
    for parameter, field in http_fields.OVERRIDES.items():
        value = target.parameter(parameter)
        if value:
            if not http_fields.is_field_value(value):
                raise InvalidArgument(f"{parameter} cannot be sent as a header field")
            found[field] = value
    return found


async def _empty(request: web.BaseRequest, status: int, fields: Mapping[str, str]) -> web.StreamResponse:
    response = web.Response(status=status, headers=dict(fields))
    await response.prepare(request)
    return response


def _failure(
    request: web.BaseRequest, error: StoreError, shared: Mapping[str, str], call: HttpCall
) -> web.StreamResponse:
    response = _error_response(request, error, shared, call.id)
    call.end(str(response.status), failed=True, reason=str(error))
    return response


def _error_response(
    request: web.BaseRequest, error: StoreError, shared: Mapping[str, str], request_id: str
) -> web.StreamResponse:
    if isinstance(error, NotModified):
        fields = {**shared, "ETag": error.etag, "Last-Modified": http_fields.http_date(error.modified_ms)}
        if error.cache_control and http_fields.is_field_value(error.cache_control):
            fields["Cache-Control"] = error.cache_control  # RFC 9110 section 15.4.5 wants what a 200 would carry
        return web.Response(status=304, headers=fields)
    answer = http_errors.answer(error, resource=request.raw_path.partition("?")[0], request_id=request_id)
    if answer.status >= 500:
        log.error("%s: %s", request.method, error)
    response = web.Response(
        status=answer.status,
        headers={**shared, **answer.fields},
        body=b"" if request.method == "HEAD" else answer.body,
        content_type="application/xml",
    )
    if isinstance(error, PeerStalled) or request.version < HttpVersion11 or "Expect" in request.headers:
        # Who waits for 100-continue may send the body all the same or not: this connection cannot be used again.
        response.force_close()
    return response
