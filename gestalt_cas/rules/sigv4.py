"""AWS Signature Version 4 in the query string: make presigned URLs, and verify requests that came by one.

Source: the S3 API reference, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)". Path style.
As S3 itself (and unlike other AWS services) the canonical URI is the path encoded once and never normalised, and the
payload hash is the text UNSIGNED-PAYLOAD. Deviations: any region name is accepted, since there is only one place here;
a URL begins to be good 15 minutes before its date, for clocks that differ, and ends exactly when it says.

Values only: the clock is an argument, secrets are never logged, and nothing here reads a header that was not asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote_from_bytes

from gestalt_cas.errors import InvalidSignatureRequest, SignatureDoesNotMatch

ALGORITHM = "AWS4-HMAC-SHA256"
REGION = "us-east-1"
"""The region in URLs made here; S3's own default."""
SERVICE = "s3"
MAX_EXPIRES_SECONDS = 604_800
SKEW = timedelta(minutes=15)
UNSIGNED = "UNSIGNED-PAYLOAD"

_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
PARAMETERS = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
)
"""Of the query, what the signature is made of; each has to be there."""

Query = Sequence[tuple[str, str]]
"""Decoded names and values in the order of the URL."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An access key id and its secret; the secret never shows in a repr."""

    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"KeyPair({self.access_key_id!r}, ***)"


@dataclass(frozen=True, slots=True)
class Request:
    """What a signature covers. `path` is decoded to bytes; header names are lower-case, values as they were sent.

    Bytes of a value that are not UTF-8 stand as surrogate escapes.
    """

    method: str
    path: bytes
    query: Query
    headers: Mapping[str, str]


def encode(data: str | bytes, *, keep: str = "") -> str:
    """Percent-encode every byte but A-Z a-z 0-9 - . _ ~ and those in `keep`, with upper-case hex digits."""
    return quote_from_bytes(data if isinstance(data, bytes) else data.encode(), safe=keep)


def encode_path(path: bytes) -> str:
    """The path as it stands in URLs and in the canonical request: `/` stays, everything else is encoded once."""
    return encode(path, keep="/")


def presign(
    keys: KeyPair, request: Request, *, now: datetime, expires_seconds: int, region: str = REGION
) -> list[tuple[str, str]]:
    """The query of a presigned URL: the request's own, then the X-Amz parameters, the signature last.

    All of the request's headers are signed, so the caller of the URL must send exactly these; `host` is one of them.
    """
    date = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/{region}/{SERVICE}/aws4_request"
    query = [
        *request.query,
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", f"{keys.access_key_id}/{scope}"),
        ("X-Amz-Date", date),
        ("X-Amz-Expires", str(expires_seconds)),
        ("X-Amz-SignedHeaders", ";".join(sorted(request.headers))),
    ]
    signed = Request(request.method, request.path, query, request.headers)
    return [*query, ("X-Amz-Signature", _sign(keys, signed, sorted(request.headers), date, scope))]


def verify(keys: KeyPair, request: Request, *, now: datetime) -> None:
    """Raise unless the request was signed with `keys`, unaltered, and its time has come and not passed.

    Raises InvalidSignatureRequest (400) for parameters that are missing, repeated or malformed, and
    SignatureDoesNotMatch (403) for everything else, with S3's code.
    """
    given = _parameters(request.query)
    access_key_id, scope = _credential(given["X-Amz-Credential"], given["X-Amz-Date"])
    _check_time(given, now)
    if not hmac.compare_digest(access_key_id.encode(), keys.access_key_id.encode()):
        raise SignatureDoesNotMatch("InvalidAccessKeyId", "the access key id of the URL is not known here")
    signed = _signed_headers(given["X-Amz-SignedHeaders"], request.headers)
    bare = [(name, value) for name, value in request.query if name != "X-Amz-Signature"]
    covered = Request(request.method, request.path, bare, request.headers)
    expected = _sign(keys, covered, signed, given["X-Amz-Date"], scope)
    if not hmac.compare_digest(expected, given["X-Amz-Signature"]):
        raise SignatureDoesNotMatch("SignatureDoesNotMatch", "the signature does not match the request")


def canonical_request(request: Request, signed: Sequence[str]) -> str:
    """The text that is hashed and signed; `signed` are the sorted names of the headers that it covers."""
    pairs = sorted((encode(name), encode(value)) for name, value in request.query)
    lines = [
        request.method,
        encode_path(request.path),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(request.headers[name].split())}" for name in signed),
        "",
        ";".join(signed),
        UNSIGNED,
    ]
    return "\n".join(lines)


def _sign(keys: KeyPair, request: Request, signed: Sequence[str], date: str, scope: str) -> str:
    text = canonical_request(request, signed).encode(errors="surrogateescape")
    digest = hashlib.sha256(text).hexdigest()
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, f"{ALGORITHM}\n{date}\n{scope}\n{digest}".encode(), "sha256").hex()


def _parameters(query: Query) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in query:
        if name.lower().startswith("x-amz-"):
            if name in found:
                raise InvalidSignatureRequest("InvalidArgument", f"{name} is given twice")
            found[name] = value
    if "X-Amz-Security-Token" in found:
        raise InvalidSignatureRequest("InvalidToken", "there are no session tokens here")
    for name in PARAMETERS:
        if not found.get(name):
            raise InvalidSignatureRequest("AuthorizationQueryParametersError", f"{name} is missing")
    if found["X-Amz-Algorithm"] != ALGORITHM:
        raise InvalidSignatureRequest("AuthorizationQueryParametersError", f"X-Amz-Algorithm must be {ALGORITHM}")
    if not _SIGNATURE.fullmatch(found["X-Amz-Signature"]):
        raise SignatureDoesNotMatch("SignatureDoesNotMatch", "X-Amz-Signature is not 64 lower-case hex digits")
    return found


def _credential(text: str, date: str) -> tuple[str, str]:
    parts = text.rsplit("/", 4)
    if len(parts) != 5 or not parts[0] or not parts[2] or parts[3:] != [SERVICE, "aws4_request"]:
        raise InvalidSignatureRequest(
            "AuthorizationQueryParametersError", "X-Amz-Credential must be KEY/YYYYMMDD/REGION/s3/aws4_request"
        )
    if parts[1] != date[:8]:
        raise InvalidSignatureRequest(
            "AuthorizationQueryParametersError", "the dates of X-Amz-Credential and X-Amz-Date differ"
        )
    return parts[0], "/".join(parts[1:])


def _check_time(given: Mapping[str, str], now: datetime) -> None:
    text, seconds = given["X-Amz-Date"], given["X-Amz-Expires"]
    try:
        date = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if _DATE.fullmatch(text) else None
    except ValueError:
        date = None
    if date is None:
        raise InvalidSignatureRequest("AuthorizationQueryParametersError", "X-Amz-Date must be YYYYMMDDTHHMMSSZ")
    if not (
        seconds.isascii() and seconds.isdecimal() and len(seconds) <= 7 and 1 <= int(seconds) <= MAX_EXPIRES_SECONDS
    ):
        raise InvalidSignatureRequest(
            "AuthorizationQueryParametersError", f"X-Amz-Expires must be 1 to {MAX_EXPIRES_SECONDS} seconds"
        )
    if (now - date) < -SKEW:
        raise SignatureDoesNotMatch("AccessDenied", "the URL is not valid yet")
    if (now - date) >= timedelta(seconds=int(seconds)):
        raise SignatureDoesNotMatch("AccessDenied", "the URL has expired")


def _signed_headers(text: str, headers: Mapping[str, str]) -> list[str]:
    names = text.split(";")
    if names != sorted(set(names)) or not all(_HEADER_NAME.fullmatch(name) for name in names):
        raise InvalidSignatureRequest(
            "AuthorizationQueryParametersError", "X-Amz-SignedHeaders must be sorted, lower-case header names"
        )
    if "host" not in names:
        raise InvalidSignatureRequest("AuthorizationQueryParametersError", "X-Amz-SignedHeaders must name host")
    for name in names:
        if name not in headers:
            raise SignatureDoesNotMatch("SignatureDoesNotMatch", f"the signed header {name} was not sent")
    for name in headers:
        if name.startswith("x-amz-") and name not in names:
            raise SignatureDoesNotMatch("AccessDenied", f"the header {name} was sent but not signed")
    return names
