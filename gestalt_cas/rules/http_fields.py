"""HTTP header fields to and from the store's values: conditions, ranges, what is stored, what is answered.

Sources: RFC 9110 (sections 8, 13, 14) and the S3 API reference for the x-amz fields. Dates that are no HTTP dates are
ignored, as RFC 9110 section 13.1.3 asks; a Range that is malformed or of another unit is ignored too (14.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime

from gestalt_cas.objects import ByteRange, Conditions, Headers, ObjectVersion
from gestalt_cas.rules import sigv4

META = "x-amz-meta-"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]*)\s*-\s*([0-9]*)\s*", re.IGNORECASE)
_STORED = {
    "Content-Type": "content_type",
    "Cache-Control": "cache_control",
    "Content-Disposition": "content_disposition",
    "Content-Encoding": "content_encoding",
    "Content-Language": "content_language",
}
_LISTS = frozenset({"Cache-Control", "Content-Encoding", "Content-Language"})
OVERRIDES = {f"response-{name.lower()}": name for name in _STORED} | {"response-expires": "Expires"}
"""Query parameter to the response field that it replaces."""


def is_field_name(name: str) -> bool:
    """Whether `name` is a token, which every field name must be (RFC 9110 section 5.1)."""
    return _NAME.fullmatch(name) is not None


def is_field_value(value: str) -> bool:
    """Whether `value` can be sent as it is: visible ASCII, blanks only between."""
    return _VALUE.fullmatch(value) is not None


def joined(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields by lower-case name; those sent on several lines are one list (RFC 9110 section 5.3)."""
    found: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        found[lower] = f"{found[lower]},{value}" if lower in found else value
    return found


def read_conditions(fields: Mapping[str, str]) -> Conditions:
    """The preconditions of a GET or HEAD; `fields` as `joined` makes them."""
    return Conditions(
        fields.get("if-match", ""),
        fields.get("if-none-match", ""),
        date_seconds(fields.get("if-modified-since")),
        date_seconds(fields.get("if-unmodified-since")),
    )


def date_seconds(text: str | None) -> int | None:
    """An HTTP date as seconds since the Unix epoch; None when it is absent or no date."""
    if not text:
        return None
    try:
        parsed = parsedate_to_datetime(text)
        if parsed.tzinfo is None:  # the form of asctime, which is of UTC like the others
            parsed = parsed.replace(tzinfo=UTC)
        return int(parsed.timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def http_date(ms: int) -> str:
    """Unix milliseconds as an HTTP date, whole seconds."""
    return formatdate(ms // 1000, usegmt=True)


def parse_range(text: str | None, size: int) -> ByteRange | None:
    """A single byte range of an object of `size` bytes; None for whatever is to be answered whole.

    A suffix range (`bytes=-5`) becomes its start; `bytes=-0`, and any suffix of an empty object, comes back as a range
    that cannot be satisfied.
    """
    found = _RANGE.fullmatch(text) if text else None
    if found is None or not (found[1] or found[2]):
        return None
    first, last = found[1].lstrip("0") or found[1][:1], found[2].lstrip("0") or found[2][:1]
    if not first:
        wanted = min(_bounded(last), size)
        return ByteRange(size - wanted if wanted else size)
    if last and (len(last), last) < (len(first), first):
        return None
    return ByteRange(_bounded(first), _bounded(last) if last else None)


def if_range_holds(text: str | None, version: ObjectVersion) -> bool:
    """Whether a Range field counts under this If-Range: a strong tag that is the object's, or exactly its date."""
    if not text:
        return True
    text = text.strip()
    if text.startswith(('"', "W/")):
        return text == version.etag
    return date_seconds(text) == version.modified_ms // 1000


def stored_headers(lines: Iterable[tuple[str, str]]) -> Headers:
    """The representation headers that a PUT brings: of lists all lines, of what may be there once the first."""
    found: dict[str, list[str]] = {}
    for name, value in lines:
        found.setdefault(name.lower(), []).append(value)
    kept = {name: found.get(name.lower(), [""]) for name in _STORED}
    return Headers(
        **{field: ", ".join(kept[name]) if name in _LISTS else kept[name][0] for name, field in _STORED.items()}
    )


def user_metadata(fields: Mapping[str, str]) -> dict[str, str]:
    """The user metadata of a PUT, names without their prefix; `fields` as `joined` makes them."""
    return {name[len(META) :]: value for name, value in fields.items() if name.startswith(META)}


def signed_in_query(query: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The x-amz fields that stand in the query of a URL, by lower-case name, but for those of the signature itself.

    The SDKs for JavaScript, Ruby and Go put there what their callers would else have to send as header fields.
    """
    return {
        name.lower(): value
        for name, value in query
        if name.lower().startswith("x-amz-") and name not in sigv4.PARAMETERS
    }


def object_fields(version: ObjectVersion, overrides: Mapping[str, str]) -> dict[str, str]:
    """What a GET or HEAD answers about an object; `overrides` are response fields asked for in the query.

    Metadata that cannot be a header field is left out and counted in x-amz-missing-meta, as S3 does.
    """
    fields = {"ETag": version.etag, "Last-Modified": http_date(version.modified_ms), "Accept-Ranges": "bytes"}
    for name, field in _STORED.items():
        value = getattr(version.headers, field)
        if value and is_field_value(value):
            fields[name] = value
    fields.setdefault("Content-Type", "application/octet-stream")
    fields["x-amz-version-id"] = version.version_id
    missing = 0
    seen: set[str] = set()
    for name, value in version.metadata.items():
        lower = name.lower()
        if is_field_name(name) and is_field_value(value) and lower not in seen:
            seen.add(lower)
            fields[META + name] = value
        else:
            missing += 1
    if missing:
        fields["x-amz-missing-meta"] = str(missing)
    return {**fields, **overrides}


def _bounded(digits: str) -> int:
    """A position, or one past any object when it has too many digits to matter."""
    return int(digits) if len(digits) < 19 else 1 << 62
