"""One call of a history: what was asked, what was answered, and when.

A value names one write: every write has a value of its own, which travels in the object's metadata, so that a read
tells whose write it saw. Its content is what stands after its last colon (the whole of it without a colon): equal
contents are equal bytes with equal ETags, whoever wrote them. "" is no object.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

NEVER = float("inf")
ANY = "*"


class Kind(enum.Enum):
    """What was asked."""

    WRITE = "write"
    COPY = "copy"
    DELETE = "delete"
    READ = "read"
    LIST = "list"


class Outcome(enum.Enum):
    """DONE; REFUSED: a condition did not hold; ABSENT: there is no such object, or no such source; UNKNOWN."""

    DONE = "done"
    REFUSED = "refused"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """A call of `client`; times in seconds of the monotonic clock, which all processes of a machine share.

    `value` is what a write wrote, what a read read, or what a copy answered; `seen` what a listing of the whole group
    showed, by key. Conditions are contents, or ANY. An UNKNOWN call took effect once between `invoked` and `returned`,
    or not at all; NEVER as `returned`: at any time from `invoked` on.
    """

    client: str
    kind: Kind
    key: str
    invoked: float
    returned: float
    outcome: Outcome = Outcome.DONE
    value: str = ""
    source: str = ""
    if_match: str = ""
    if_none_match: str = ""
    seen: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        conditions = "".join(
            f" {name}={text}"
            for name, text in (("if_match", self.if_match), ("if_none_match", self.if_none_match))
            if text
        )
        what = f"{self.kind.value} {self.key}{f' from {self.source}' if self.source else ''}{conditions}"
        told = dict(self.seen) if self.kind is Kind.LIST else self.value or "-"
        return f"[{self.invoked:.6f}, {self.returned:.6f}] {self.client}: {what}: {self.outcome.value} {told}"


def content(value: str) -> str:
    """What equal bytes have in common, of the name of a write."""
    return value.rpartition(":")[2]
