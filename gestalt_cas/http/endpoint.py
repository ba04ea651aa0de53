"""The HTTP endpoint: what the bearer of a presigned URL may do, and the pages of `http_monitoring.py`; nothing else.

aiohttp serves on a thread with an event loop of its own. Targets are read raw (`urls.py`), and signatures are judged
before anything is looked up; what is then done to the object is in `http_objects.py`. Every failure gets S3's XML.

Source: the S3 API reference, "Authenticating Requests: Using Query Parameters" and "Error responses"; RFC 9110.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from email.utils import format_datetime
from functools import partial

from aiohttp import web
from aiohttp.http import HttpVersion11

from gestalt_cas.errors import (
    InvalidArgument,
    InvalidSignatureRequest,
    MethodNotAllowed,
    NotImplementedHere,
    NotModified,
    OutcomeUnknown,
    PeerStalled,
    SignatureDoesNotMatch,
    StoreError,
    TooManyStreams,
)
from gestalt_cas.http import cors
from gestalt_cas.http.http_monitoring import Monitoring
from gestalt_cas.http.http_objects import Asked, ObjectMethods, overrides
from gestalt_cas.objects import ObjectKey
from gestalt_cas.observing.calls import ABORTED, HTTP, HttpCall, Observer
from gestalt_cas.rules import http_errors, http_fields, sigv4, urls
from gestalt_cas.rules.urls import RequestTarget
from gestalt_cas.serving.mounts import Mount, Mounts
from gestalt_cas.system import exhaustion
from gestalt_cas.wrong_values import suspicions

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 33 * 1024
"""A request line holds a 2,048-byte key in percent escapes, a bucket, and the query with a version id and headers."""
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
_CHANGES = frozenset({"PUT", "DELETE"})


class Endpoint:
    """The handlers of the HTTP server. Lives on the event loop of `http_server.HttpServer`."""

    def __init__(self, mounts: Mounts, observer: Observer | None, monitoring: Monitoring | None) -> None:
        self._mounts = mounts
        self._observer = observer or Observer()
        self._methods = {name: self._observer.method(HTTP, name) for name in _METHODS}
        self._other = self._observer.method(HTTP, "_OTHER")
        self._monitoring = monitoring
        self._objects = ObjectMethods()

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
                    return await self._objects.run(lambda: monitoring.answer(request, mount))
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
        except Exception as error:
            if isinstance(error, ConnectionError):
                raise  # the caller has gone: http_server.Connection passes it over
            explained = exhaustion.explained(error, changing=request.method in _CHANGES)
            if explained is not error and isinstance(explained, TooManyStreams | OutcomeUnknown):
                log.warning("%s: %s", request.method, explained)
            if suspicions.may_be_behind(error):
                explained = await self._objects.run(partial(mount.store.explained, error))
            if isinstance(explained, StoreError):
                return _failure(request, explained, shared, call)
            log.error("%s: unexpected %s", request.method, type(error).__name__, exc_info=error)
            return _failure(request, StoreError("internal error"), shared, call)
        call.end(str(response.status))
        return response

    async def _serve(
        self, request: web.BaseRequest, mount: Mount, shared: Mapping[str, str], call: HttpCall
    ) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return cors.preflight(request, shared)
        if self._monitoring is not None and self._monitoring.named(request):
            raise SignatureDoesNotMatch("AccessDenied", self._monitoring.refusal(request))
        if not mount.config.http.enabled:
            raise SignatureDoesNotMatch("AccessDenied", "presigned URLs are switched off")
        target = _authenticated(request, mount)
        handlers: dict[str, Callable[[Asked], Awaitable[web.StreamResponse]]] = {
            "GET": self._objects.get,
            "HEAD": self._objects.head,
            "PUT": self._objects.put,
            "DELETE": self._objects.delete,
        }
        serve = handlers.get(request.method)
        if serve is None:
            raise MethodNotAllowed(f"{request.method} is not offered here")
        for name, _ in target.query:
            if name in _SUBRESOURCES:
                raise NotImplementedHere(f"the subresource {name} is not offered here")
        key = ObjectKey(target.key.bucket, mount.config.key_prefix + target.key.key)
        return await serve(Asked(request, mount, target, key, shared, call))

    def close(self) -> None:
        """Let the threads end; what they are at goes on."""
        self._objects.close()


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
        wanted = overrides(urls.parse(request.raw_path))
        fields |= {name: wanted[name] for name in ("Cache-Control", "Expires") if name in wanted}
        return web.Response(status=304, headers=fields)
    answer = http_errors.answer(error, resource=request.raw_path.partition("?")[0], request_id=request_id)
    if answer.status == 500:  # a fault, as over gRPC; 501, 503 and 507 say what is not offered, or not possible now
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
