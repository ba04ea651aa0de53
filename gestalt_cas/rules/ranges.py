"""Turn a requested range into the bytes to serve.

Both ends are inclusive. The comment on ByteRange in s3.proto says half-open, but the host's stub, both Go providers and
every transport test include `end`; an end alone means the prefix 0..end, not a suffix; an end past the object is
clamped as RFC 9110 section 14.1.2 does (contract 3.4 and section 6).
"""

from __future__ import annotations

from gestalt_cas.errors import InvalidRange
from gestalt_cas.objects import ByteRange


def resolve(requested: ByteRange | None, size: int) -> tuple[int, int]:
    """Return (offset, length) in bytes for an object of `size` bytes.

    No range, or one with neither end, is the whole object. Raises InvalidRange when the range is malformed (negative,
    end before start) or holds no byte of the object, as any range on an empty object does.
    """
    if requested is None or (requested.start is None and requested.end is None):
        return 0, size
    start = 0 if requested.start is None else requested.start
    last = size - 1
    end = last if requested.end is None else min(requested.end, last)
    if start < 0 or start > end:
        shown = f"{'' if requested.start is None else start}-{'' if requested.end is None else requested.end}"
        raise InvalidRange(f"range {shown} cannot be served from an object of {size} bytes", size=size)
    return start, end - start + 1
