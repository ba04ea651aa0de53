"""GET, HEAD, PUT and DELETE of an object over HTTP, for a request whose signature is known to be good.

Store calls run on pools of threads, so slow peers cost a little memory each and never a gRPC thread. Conditions are
judged before a body is asked for (Expect: 100-continue is answered when the store takes the first byte). Bytes leave
verified, chunk by chunk; damage in the middle ends the connection before the declared length.

Source: the S3 API reference for GetObject, HeadObject, PutObject and DeleteObject; RFC 9110.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import NamedTuple, TypeVar

from aiohttp import web

from gestalt_cas.errors import InvalidArgument, NotImplementedHere, StoreError, TooManyStreams
from gestalt_cas.http import http_uploads
from gestalt_cas.http.http_downloads import Download
from gestalt_cas.http.http_uploads import Upload
from gestalt_cas.objects import ByteRange, Conditions, ObjectKey, ObjectVersion
from gestalt_cas.observing.calls import ABORTED, HttpCall
from gestalt_cas.rules import http_fields, ranges
from gestalt_cas.rules.urls import RequestTarget
from gestalt_cas.serving.mounts import Mount
from gestalt_cas.serving.pools import CountedPool
from gestalt_cas.system import exhaustion
from gestalt_cas.system.processors import PROCESSORS

log = logging.getLogger(__name__)

READ_THREADS = 8
SEND_THREADS = 8
"""Of their own, so that a lookup never waits for the turns of downloads."""

Result = TypeVar("Result")


class Asked(NamedTuple):
    """A request whose signature is good, and what it is for; `shared` are fields that every answer has."""

    request: web.BaseRequest
    mount: Mount
    target: RequestTarget
    key: ObjectKey
    shared: Mapping[str, str]
    call: HttpCall


class ObjectMethods:
    """The methods and the threads that they work on; each answers a request, or raises StoreError before it began to.

    As many uploads are taken at once as the configuration in force allows, each on a thread of its own.
    """

    def __init__(self) -> None:
        self._readers = CountedPool("http-read", threads=READ_THREADS, limit=READ_THREADS)
        self._senders = CountedPool("http-send", threads=SEND_THREADS, limit=SEND_THREADS, initializer=PROCESSORS.leave)
        self._writers = CountedPool("http-write", threads=1, limit=1)

    async def head(self, asked: Asked) -> web.StreamResponse:
        request, mount, target, key, shared, _ = asked
        conditions = http_fields.read_conditions(http_fields.joined(request.headers.items()))
        wanted = overrides(target)
        version = await self.run(
            lambda: mount.store.head(key, version_id=target.parameter("versionId"), conditions=conditions)
        )
        part = _part(request)(version)
        offset, length = ranges.resolve(part, version.size)
        response = _opened(version, offset, length, part, {**shared, **http_fields.object_fields(version, wanted)})
        await response.prepare(request)
        return response

    async def get(self, asked: Asked) -> web.StreamResponse:
        request, mount, target, key, shared, call = asked
        conditions = http_fields.read_conditions(http_fields.joined(request.headers.items()))
        select = _part(request)
        wanted = overrides(target)
        reader = await self.run(
            lambda: mount.store.read(
                key, version_id=target.parameter("versionId"), byte_range=select, conditions=conditions
            )
        )
        with reader:
            version = reader.version
            fields = {**shared, **http_fields.object_fields(version, wanted)}
            response = _opened(version, reader.offset, reader.length, select(version), fields)
            await response.prepare(request)
            download = Download(request, reader, self._senders, mount.config.limits.stream_idle_seconds)
            try:
                await download.send(response)
            except Exception as error:
                # The status has left, so the only way to say that the body is not whole is to cut it off.
                if request.transport is not None:
                    request.transport.abort()
                ended = exhaustion.explained(error)
                if not isinstance(ended, StoreError | TimeoutError):
                    raise
                log.warning("GET %s ended early: %s", key, ended if str(ended) else "the caller made no progress")
                call.cut = ABORTED
            finally:
                call.sent = download.sent
        return response

    async def put(self, asked: Asked) -> web.StreamResponse:
        request, mount, target, key, shared, call = asked
        fields = http_fields.joined(request.headers.items())
        conditions = Conditions(
            fields.get("if-match", ""),
            fields.get("if-none-match", ""),
            current_version=target.parameter("versionId"),
        )
        if "if-unmodified-since" in fields:
            raise NotImplementedHere("the condition If-Unmodified-Since is not offered on PUT")
        if "content-range" in fields:
            # RFC 9110 section 14.5: the body is a part, and would be stored as if it were the whole.
            raise InvalidArgument("a part of an object cannot be put: Content-Range is not offered on PUT")
        in_query = http_fields.signed_in_query(target.query)
        http_uploads.refuse_unknown(name for name in in_query if not name.startswith("x-amz-checksum-"))
        upload = Upload(request, mount.config.limits, asyncio.get_running_loop())
        self._writers.resize(mount.config.limits.concurrent_writes)
        if self._writers.full:
            raise TooManyStreams("too many uploads at once; see limits.concurrentWrites")
        try:
            version = await self.run(
                lambda: mount.store.write(
                    key,
                    PROCESSORS.moving(upload.pieces()),
                    headers=http_fields.stored_headers(request.headers.items()),
                    metadata=http_fields.user_metadata({**in_query, **fields}),
                    conditions=conditions,
                    expected_bytes=request.content_length or 0,
                    confirm=upload.confirm,
                ),
                self._writers,
            )
        finally:
            call.received = upload.received
        answer = {**shared, "ETag": version.etag, "x-amz-version-id": version.version_id, **upload.verified_fields()}
        return await _empty(request, 200, answer)

    async def delete(self, asked: Asked) -> web.StreamResponse:
        request, mount, target, key, shared, _ = asked
        version_id = target.parameter("versionId")
        for name in (*request.headers, *http_fields.signed_in_query(target.query)):
            # Passing over a condition would remove what the caller did not mean.
            if name.lower().startswith(("if-", "x-amz-if-")):
                raise NotImplementedHere(f"the condition {name} is not offered on DELETE")
        gone = await self.run(lambda: mount.store.delete(key, version_id=version_id))
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

    async def run(self, call: Callable[[], Result], on: ThreadPoolExecutor | None = None) -> Result:
        """Run a call on a thread, which then knows whose request it works on."""
        return await asyncio.get_running_loop().run_in_executor(on or self._readers, copy_context().run, call)


def _part(request: web.BaseRequest) -> Callable[[ObjectVersion], ByteRange | None]:
    """What the Range and If-Range fields choose of a version."""

    def select(version: ObjectVersion) -> ByteRange | None:
        if not http_fields.if_range_holds(request.headers.get("If-Range"), version):
            return None
        ranges = request.headers.getall("Range", [])
        return http_fields.parse_range(ranges[0], version.size) if len(ranges) == 1 else None

    return select


def _opened(
    version: ObjectVersion, offset: int, length: int, part: ByteRange | None, fields: Mapping[str, str]
) -> web.StreamResponse:
    """A response about to carry `length` bytes from `offset`: 206 with Content-Range for a part, else 200."""
    response = web.StreamResponse(status=200 if part is None else 206, headers=dict(fields))
    if part is not None:
        response.headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{version.size}"
    response.content_length = length
    return response


def overrides(target: RequestTarget) -> dict[str, str]:
    """The response fields that the query asks for; raises InvalidArgument for one that cannot be sent."""
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
