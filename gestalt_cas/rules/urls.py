"""Read an HTTP request target as bytes: which object it means, with which parameters. Never normalised.

Keys are opaque, so `..`, `//`, `%2F` and NUL are parts of a key like any other; only the first two slashes have a
meaning, `/bucket/key`. The path is decoded once and is what the signature covers (`sigv4.encode_path` of these bytes).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey

_HEX = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class RequestTarget:
    """`path` is decoded; `query` holds decoded pairs in the order of the URL; `key` is what the path names."""

    path: bytes
    query: tuple[tuple[str, str], ...]
    key: ObjectKey

    def parameter(self, name: str) -> str:
        """The value of a parameter that may be given once; "" when absent."""
        found = [value for given, value in self.query if given == name]
        if len(found) > 1:
            raise InvalidArgument(f"parameter {name} is given twice")
        return found[0] if found else ""


def parse(raw: str) -> RequestTarget:
    """Parse the target of a request line; bytes above 127 may stand as surrogate escapes.

    Raises InvalidArgument for escapes that are none, text that is not UTF-8, or a path that is not `/bucket/key`.
    """
    target = raw.encode("utf-8", "surrogateescape")
    if not target.startswith(b"/"):
        target = _after_authority(target)
    path, _, query = target.partition(b"?")
    decoded = _decode(path, "path")
    bucket, slash, key = decoded[1:].partition(b"/")
    if not slash or not key:
        raise InvalidArgument("the path must be /bucket/key")
    return RequestTarget(decoded, _pairs(query), ObjectKey(_text(bucket, "bucket"), _text(key, "key")))


def _after_authority(target: bytes) -> bytes:
    """The path of the absolute form, `http://host/path`, which proxies may send (RFC 9112 section 3.2.2)."""
    scheme, colon, rest = target.partition(b"://")
    if not colon or scheme.lower() not in (b"http", b"https"):
        raise InvalidArgument("the request target must begin with /")
    slash = rest.find(b"/")
    return rest[slash:] if slash >= 0 else b"/"


def _pairs(query: bytes) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_text(_decode(name, "query"), "query"), _text(_decode(value, "query"), "query")))
    return tuple(pairs)


def _decode(data: bytes, what: str) -> bytes:
    start = data.find(b"%")
    while start >= 0:
        digits = data[start + 1 : start + 3]
        if len(digits) != 2 or not _HEX.issuperset(digits):
            raise InvalidArgument(f"the {what} holds a percent sign that begins no escape")
        start = data.find(b"%", start + 3)
    return unquote_to_bytes(data)


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"the {what} is not UTF-8") from None
