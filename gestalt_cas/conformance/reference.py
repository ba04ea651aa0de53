"""The oracle: what a provider of the contract holds, in lists and dictionaries, one call after the other.

It predicts the status of each call and what it answers; what a provider is free to choose (etags, version ids, times,
tokens) it is told. No module of the store is used, and none of the rules is shared with the checks.

Versions: a key has a stack, the newest last, of versions and delete markers; its top is what a plain call sees. Without
the capability `versions` the stack has one version at most, and without `delete-markers` a plain delete makes the
history unknown, so nothing is expected of it any more. Source: contract sections 3 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

OK, NOT_FOUND, FAILED, OUT_OF_RANGE, INVALID = (
    "OK",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "INVALID_ARGUMENT",
)


@dataclass(frozen=True)
class Stored:
    """A version, or a delete marker (`body` None). `etag` is without quotes."""

    body: bytes | None
    etag: str = ""
    version_id: str = ""
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: int = 0


@dataclass(frozen=True)
class Tags:
    """A tag condition: any object, or one of these etags; `weak` ones match only where weakly compared."""

    any: bool = False
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    def strongly(self, found: Stored) -> bool:
        return self.any or found.etag in self.strong

    def weakly(self, found: Stored) -> bool:
        return self.any or found.etag in self.strong | self.weak


@dataclass(frozen=True)
class Judged:
    """The conditions of one call. Dates are seconds since the epoch; `version` is the id that must be current."""

    if_match: Tags | None = None
    if_none_match: Tags | None = None
    modified_since: int | None = None
    unmodified_since: int | None = None
    version: str = ""


NO_CONDITIONS = Judged()


class Reference:
    """All keys of one namespace."""

    def __init__(self, *, versions: bool = True, markers: bool = True) -> None:
        self._versions = versions
        self._markers = markers
        self.stacks: dict[str, list[Stored]] = {}

    # ---- questions ----

    def current(self, key: str) -> Stored | None:
        """What a plain call sees; None when there is nothing, or a marker on top."""
        stack = self.stacks.get(key)
        return stack[-1] if stack and stack[-1].body is not None else None

    def find(self, key: str, version_id: str) -> Stored | None:
        """The object that a call with this version id sees ("" : the current one)."""
        if not version_id:
            return self.current(key)
        found = [one for one in self.stacks.get(key, []) if one.version_id == version_id and one.body is not None]
        return found[0] if found else None

    def ids(self, key: str) -> list[str]:
        """The version ids of a key, the oldest first."""
        return [one.version_id for one in self.stacks.get(key, []) if one.body is not None and one.version_id]

    def keys(self) -> list[str]:
        """Keys with an object, in the order of their UTF-8."""
        return sorted((key for key in self.stacks if self.current(key) is not None), key=str.encode)

    def read(
        self, key: str, version_id: str, conditions: Judged, start: int | None, end: int | None
    ) -> tuple[str, Stored | None, bytes]:
        """Status, the version, and the bytes of a read."""
        found = self.find(key, version_id)
        if found is None or found.body is None:
            return NOT_FOUND, None, b""
        if not _readable(conditions, found):
            return FAILED, None, b""
        if start is None and end is None:
            return OK, found, found.body
        first, last = start or 0, len(found.body) - 1 if end is None else end
        if first < 0 or last < 0 or first > last or first >= len(found.body):
            return OUT_OF_RANGE, None, b""
        return OK, found, found.body[first : last + 1]

    def entries(self, prefix: str, delimiter: str, after: tuple[str, bool] | None) -> Iterator[tuple[str, bool]]:
        """Names in order, each with whether it is a common prefix, behind a position: a name, or a whole group."""
        last = ""
        for key in self.keys():
            if not key.startswith(prefix) or (last and key.startswith(last)):
                continue
            rest = key[len(prefix) :]
            grouped = bool(delimiter) and delimiter in rest
            name = prefix + rest[: rest.index(delimiter) + len(delimiter)] if grouped else key
            if after is not None and not _behind(key, name, grouped, after):
                continue
            last = name if grouped else ""
            yield name, grouped

    def writable(self, key: str, conditions: Judged) -> str:
        """The status that a write of the key ends with, by its conditions."""
        found = self.current(key)
        if conditions.version and conditions.if_none_match is not None and conditions.if_none_match.any:
            return INVALID
        if conditions.if_match is not None and (found is None or not conditions.if_match.strongly(found)):
            return FAILED
        if conditions.if_none_match is not None and found is not None and conditions.if_none_match.weakly(found):
            return FAILED
        return self._versioned(key, conditions)

    def copyable(self, source: str, version_id: str, to: str, conditions: Judged) -> tuple[str, Stored | None]:
        """The status that a copy ends with, and its source: tags judge that, the version id the destination."""
        found = self.find(source, version_id)
        if conditions.version and conditions.if_none_match is not None and conditions.if_none_match.any:
            return INVALID, None
        if found is None:
            return NOT_FOUND, None
        if conditions.if_match is not None and not conditions.if_match.strongly(found):
            return FAILED, None
        if conditions.if_none_match is not None and conditions.if_none_match.weakly(found):
            return FAILED, None
        return self._versioned(to, conditions), found

    # ---- changes ----

    def put(self, key: str, stored: Stored) -> None:
        stack = self.stacks.setdefault(key, [])
        if not self._versions:
            stack.clear()
        stack.append(stored)

    def delete(self, key: str, version_id: str = "") -> None:
        stack = self.stacks.get(key, [])
        if version_id:
            stack[:] = [one for one in stack if one.version_id != version_id]
        elif self._versions and self._markers:
            self.stacks.setdefault(key, []).append(Stored(None))
        else:
            self.stacks.pop(key, None)

    def _versioned(self, key: str, conditions: Judged) -> str:
        found = self.current(key)
        if conditions.version and (found is None or found.version_id != conditions.version):
            return FAILED
        return OK


def _readable(conditions: Judged, found: Stored) -> bool:
    if conditions.if_match is not None:
        if not conditions.if_match.strongly(found):
            return False
    elif conditions.unmodified_since is not None and found.modified > conditions.unmodified_since:
        return False
    if conditions.if_none_match is not None:
        return not conditions.if_none_match.weakly(found)
    return conditions.modified_since is None or found.modified > conditions.modified_since


def _behind(key: str, name: str, grouped: bool, after: tuple[str, bool]) -> bool:
    position, is_group = after
    if is_group:
        return key.encode() > position.encode() and not key.startswith(position)
    return (name if not grouped else key).encode() > position.encode()
