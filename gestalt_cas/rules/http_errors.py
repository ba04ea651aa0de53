"""The store's errors in HTTP and S3 words: status, S3's code, and the XML body.

One table, beside the gRPC one in `messages.py`; a test holds both against `errors.py`. Source: the S3 API reference,
"Error responses".
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from gestalt_cas import errors
from gestalt_cas.errors import StoreError

METHODS = "GET, HEAD, PUT, DELETE"
"""What the endpoint offers, as an Allow field says it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, extra fields and body of an error response."""

    status: int
    fields: dict[str, str]
    body: bytes


TABLE: dict[type[StoreError], tuple[int, str]] = {
    errors.InvalidArgument: (400, "InvalidArgument"),
    errors.InvalidSignatureRequest: (400, ""),
    errors.BadDigest: (400, "BadDigest"),
    errors.SignatureDoesNotMatch: (403, ""),
    errors.NoSuchKey: (404, "NoSuchKey"),
    errors.NoSuchVersion: (404, "NoSuchVersion"),
    errors.NoSuchSnapshot: (404, "NoSuchKey"),
    errors.Protected: (403, "AccessDenied"),  # as S3 answers for a version under object lock
    errors.Held: (403, "AccessDenied"),
    errors.MethodNotAllowed: (405, "MethodNotAllowed"),
    errors.PeerStalled: (408, "RequestTimeout"),
    errors.PreconditionFailed: (412, "PreconditionFailed"),
    errors.ObjectTooLarge: (413, "EntityTooLarge"),
    errors.InvalidRange: (416, "InvalidRange"),
    errors.Cancelled: (400, "IncompleteBody"),
    errors.NotImplementedHere: (501, "NotImplemented"),
    errors.StoreError: (500, "InternalError"),
    errors.StoreFull: (507, "InsufficientStorage"),
    errors.QuotaExceeded: (507, "QuotaExceeded"),  # the code that other servers with quotas use; S3 has none
    errors.TooManyStreams: (503, "SlowDown"),
    errors.StoreBusy: (503, "SlowDown"),
    errors.ShuttingDown: (503, "ServiceUnavailable"),
    errors.OutcomeUnknown: (503, "ServiceUnavailable"),
    errors.NotConfigured: (503, "ServiceUnavailable"),
    errors.SchemaTooNew: (503, "ServiceUnavailable"),
}


_FOR_OPERATORS = {errors.StoreFull: "; ", errors.Held: " (gestalt-cas ", errors.DatabaseDamaged: ": "}
"""Errors whose message goes on with what is for whoever runs the store, and what that begins behind: commands, rows."""


def answer(error: StoreError, *, resource: str, request_id: str) -> Answer:
    """The response to a failed request. `resource` is the raw path; no query, since that holds the signature."""
    status, code = next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
    code = code or getattr(error, "code", "")
    fields: dict[str, str] = {}
    if isinstance(error, errors.NoSuchKey) and error.delete_marker:
        fields["x-amz-delete-marker"] = "true"
        if isinstance(error, errors.NoSuchVersion):
            status, code = 405, "MethodNotAllowed"
    if status == 405:
        # Of a delete marker only the removal is left (S3 API reference, "Working with delete markers").
        fields["Allow"] = "DELETE" if fields else METHODS
    if isinstance(error, errors.InvalidRange):
        fields["Content-Range"] = f"bytes */{error.size}"
    return Answer(status, fields, body(code, _told(error), resource=resource, request_id=request_id))


def _told(error: StoreError) -> str:
    """What the sender of a request may know: whoever was given a URL need not learn where the store lies."""
    beginning = next((mark for kind, mark in _FOR_OPERATORS.items() if isinstance(error, kind)), None)
    return str(error) if beginning is None else str(error).partition(beginning)[0]


def body(code: str, message: str, *, resource: str, request_id: str) -> bytes:
    """S3's XML for an error."""
    parts = (("Code", code), ("Message", message), ("Resource", resource), ("RequestId", request_id))
    inside = "".join(f"<{name}>{_text(value)}</{name}>" for name, value in parts)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inside}</Error>\n'.encode()


def _text(value: str) -> str:
    """XML text; characters that XML 1.0 cannot hold become U+FFFD."""
    return escape("".join(char if char in "\t\n\r" or _allowed(ord(char)) else "\ufffd" for char in value))


def _allowed(code: int) -> bool:
    return 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or 0x10000 <= code <= 0x10FFFF
