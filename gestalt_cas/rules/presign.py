"""PresignObject: the URL that lets its bearer do one thing to one object for a while.

Semantics: contract 3.9 and section 6. The URL is path style, `/bucket/key`, on the public URL of the HTTP endpoint; the
object need not exist. What the bearer must send comes back as headers, never Host, which every client sends by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey, check_bucket, check_key
from gestalt_cas.rules import http_fields, sigv4
from gestalt_cas.rules.sigv4 import KeyPair

DEFAULT_EXPIRES_SECONDS = 900


@dataclass(frozen=True, slots=True)
class PresignQuery:
    """What is to be signed. `key.bucket` is a real name. `expires_seconds` 0 means 900."""

    key: ObjectKey
    method: str = "GET"
    version_id: str = ""
    expires_seconds: int = 0
    content_type: str = ""
    content_disposition: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Presigned:
    """A URL, what its bearer must send with it, and when it stops working."""

    url: str
    headers: dict[str, str]
    expires_at: datetime


def presign(query: PresignQuery, keys: KeyPair, public_url: str, now: datetime) -> Presigned:
    """Sign a URL; raises InvalidArgument for a bad key, header or expiry (seconds, 1 to 604,800)."""
    check_bucket(query.key.bucket)
    check_key(query.key.key)
    seconds = query.expires_seconds or DEFAULT_EXPIRES_SECONDS
    if not 0 < seconds <= sigv4.MAX_EXPIRES_SECONDS:
        raise InvalidArgument(f"expires_seconds is {seconds}; it must be 0 to {sigv4.MAX_EXPIRES_SECONDS}")
    headers = required_headers(query)
    signed = {name.lower(): value for name, value in headers.items()} | {"host": urlsplit(public_url).netloc}
    path = b"/" + query.key.bucket.encode() + b"/" + query.key.key.encode()
    request = sigv4.Request(query.method, path, _parameters(query), signed)
    parameters = sigv4.presign(keys, request, now=now, expires_seconds=seconds)
    text = "&".join(f"{sigv4.encode(name)}={sigv4.encode(value)}" for name, value in parameters)
    return Presigned(
        f"{public_url}{sigv4.encode_path(path)}?{text}",
        headers,
        now.replace(microsecond=0) + timedelta(seconds=seconds),
    )


def required_headers(query: PresignQuery) -> dict[str, str]:
    """The caller's headers but Host, and on PUT the content headers, which replace same-named ones of any case."""
    wanted = {name: value for name, value in query.headers.items() if name.lower() != "host"}
    if query.method == "PUT":
        for name, value in (("Content-Type", query.content_type), ("Content-Disposition", query.content_disposition)):
            if value:
                wanted = {other: text for other, text in wanted.items() if other.lower() != name.lower()}
                wanted[name] = value
    seen: set[str] = set()
    for name, value in wanted.items():
        if not http_fields.is_field_name(name) or not http_fields.is_field_value(value):
            raise InvalidArgument(f"header {name!r} cannot be sent over HTTP")
        if name.lower() in seen:
            raise InvalidArgument(f"header {name!r} is given twice")
        seen.add(name.lower())
    return wanted


def _parameters(query: PresignQuery) -> list[tuple[str, str]]:
    parameters = []
    if query.method != "PUT":
        if query.content_type:
            parameters.append(("response-content-type", query.content_type))
        if query.content_disposition:
            parameters.append(("response-content-disposition", query.content_disposition))
    if query.version_id:
        parameters.append(("versionId", query.version_id))
    return parameters
