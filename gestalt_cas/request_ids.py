"""Which call a thread or task is working on, and the id by which its caller can name it.

The id is the caller's own when it sends a well-formed one as `x-request-id`, else one is made. It stands in every log
line that is written on the way and in what the caller gets as an error (over HTTP in every answer), so that one leads
to the other. Nothing is looked up or made before somebody asks for it: most gRPC calls end well and nobody does.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

FIELD = "x-request-id"
"""The metadata key of a gRPC call, and the header field of an HTTP request."""
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)

unsent = ""
"""The id of every call whose caller sent none; "" makes each its own. The server sets it when it is configured.

For tests that compare answers byte by byte. Calls are not counted for that: which of two comes first, and what a log
line asks for in between, is up to the machine.
"""


class Request:
    """One call. A subclass says what its caller sent."""

    _id = ""

    @property
    def id(self) -> str:
        if not self._id:
            self._id = chosen(self.given())
        return self._id

    def given(self) -> str:
        """What the caller sent as its id; "" for nothing."""
        return ""


def chosen(given: str) -> str:
    """The caller's id if it can stand in a log line and a header as it is, else a new one, or `unsent`."""
    return given if _WELL_FORMED.fullmatch(given) else unsent or secrets.token_hex(8)


current: ContextVar[Request | None] = ContextVar("gestalt_cas_request", default=None)
"""The call that is being served here; None outside of any."""
