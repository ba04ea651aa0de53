"""What scripts of other origins may see of answers: the header fields of CORS, and preflights.

Source: the Fetch standard, "CORS protocol". Preflights come unsigned; what follows them is judged like any request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from aiohttp import web

from gestalt_cas.errors import SignatureDoesNotMatch
from gestalt_cas.rules import http_errors, http_fields

_EXPOSED = (
    "ETag, Content-Length, Content-Range, Last-Modified, x-amz-version-id, x-amz-delete-marker, x-amz-missing-meta"
)
_PREFLIGHT_SECONDS = "3600"


def fields(allowed: Collection[str], origin: str) -> dict[str, str]:
    """What every answer to `origin` carries, where the origins `allowed` ("*": all) may read answers; "" is none."""
    if not allowed:
        return {}
    found = {"Vary": "Origin"}
    if origin and ("*" in allowed or origin in allowed) and http_fields.is_field_value(origin):
        found["Access-Control-Allow-Origin"] = origin
        found["Access-Control-Expose-Headers"] = _EXPOSED
    return found


def preflight(request: web.BaseRequest, shared: Mapping[str, str]) -> web.StreamResponse:
    """Answer a preflight; `shared` is what `fields` says of its origin. Raises SignatureDoesNotMatch (403)."""
    if "Access-Control-Allow-Origin" not in shared or "Access-Control-Request-Method" not in request.headers:
        raise SignatureDoesNotMatch("AccessDenied", "this origin is not in http.corsOrigins")
    answer = {
        **shared,
        "Access-Control-Allow-Methods": http_errors.METHODS,
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }
    wanted = request.headers.get("Access-Control-Request-Headers", "")
    if wanted and http_fields.is_field_value(wanted):
        answer["Access-Control-Allow-Headers"] = wanted
    return web.Response(status=204, headers=answer)
