"""The calls of a sequence as values: what the state machine draws, what a script lists, what `player` plays.

They name things that only the run decides by their place: "the etag that is current", "the second version of the key".
Their `repr` is Python, so a sequence can be printed and run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class TagForm(Enum):
    """How an etag stands in a condition."""

    QUOTED = "quoted"
    BARE = "bare"
    WEAK = "weak"
    LISTED = "listed"

    def __repr__(self) -> str:
        return f"TagForm.{self.name}"


@dataclass(frozen=True)
class Tag:
    """An etag of `key` in a condition: of its current object, or of one that nobody has (`stale`), or '*' (`any`)."""

    key: str = ""
    form: TagForm = TagForm.QUOTED
    stale: bool = False
    any: bool = False


@dataclass(frozen=True)
class Pick:
    """A version id of the key at hand: the one at `index` (modulo how many there are), or one that never was."""

    index: int = 0
    unknown: bool = False


@dataclass(frozen=True)
class When:
    """Tags and dates; dates are seconds from the object's last_modified."""

    if_match: Tag | None = None
    if_none_match: Tag | None = None
    modified_since: int | None = None
    unmodified_since: int | None = None
    current: Pick | None = None
    """The version that must be current at the destination of a write or copy."""


ALWAYS = When()


@dataclass(frozen=True)
class Write:
    """The body is `size` bytes that begin with `text`, sent in `frames` frames."""

    key: str
    text: str = "x"
    size: int = 1
    frames: int = 1
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    when: When = ALWAYS

    @property
    def body(self) -> bytes:
        unit = self.text.encode() or b"x"
        return (unit * (self.size // len(unit) + 1))[: self.size]


@dataclass(frozen=True)
class CancelledWrite:
    """An upload that its caller cancels after `size` bytes; it must leave no trace."""

    key: str
    size: int = 1


@dataclass(frozen=True)
class Read:
    """A read, of a range if `start` or `end` is given; both are included."""

    key: str
    start: int | None = None
    end: int | None = None
    version: Pick | None = None
    when: When = ALWAYS


@dataclass(frozen=True)
class Head:
    """A look-up."""

    key: str
    version: Pick | None = None


@dataclass(frozen=True)
class Delete:
    """A delete, of one version if one is picked."""

    key: str
    version: Pick | None = None


@dataclass(frozen=True)
class Copy:
    """A copy; the tags of `when` judge the source, its `current` the destination."""

    source: str
    destination: str
    version: Pick | None = None
    when: When = ALWAYS


@dataclass(frozen=True)
class List:
    """All pages at once, or with `open_as` the first page only: `NextPage` goes on with it later."""

    prefix: str = ""
    delimiter: str = ""
    start_after: str = ""
    max_keys: int = 0
    open_as: int | None = None


@dataclass(frozen=True)
class NextPage:
    """The next page of a listing that was left open, whatever was written since."""

    number: int


@dataclass(frozen=True)
class Presign:
    """A request for a URL."""

    key: str
    method: int = 0
    expires_seconds: int = 0


@dataclass(frozen=True)
class Restart:
    """The provider is stopped and started on what it has stored."""


@dataclass(frozen=True)
class Together:
    """These calls at the same time, each by a caller of its own, all on one key."""

    key: str
    calls: tuple[Write | Read | Delete, ...]


Step = Write | CancelledWrite | Read | Head | Delete | Copy | List | NextPage | Presign | Restart | Together


def chances(steps: Iterable[Step], races: int) -> int:
    """How often to play the steps until they fail: `races` times where calls at the same time decide, else once."""
    return races if any(isinstance(step, Together) for step in steps) else 1
