"""Decide preconditions: entity tags and dates against the current version of an object.

The rules are those of RFC 9110 section 13.2.2: If-Match is judged first (If-Unmodified-Since only in its absence), then
If-None-Match (If-Modified-Since only in its absence). If-Match compares strongly, so a weak tag never matches it;
If-None-Match compares weakly. Beyond the RFC a tag may come without quotes, since Gestalt callers pass either form
(contract section 6), and a blank field counts as absent. Dates are compared at whole seconds, as HTTP sends them.

A delete marker is "absent" to every function here: callers pass None for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gestalt_cas.errors import InvalidArgument, NotModified, PreconditionFailed
from gestalt_cas.objects import Conditions, ObjectVersion

# The bare form is possessive: giving characters back could never help it, and takes quadratic time on many blanks.
_TAG = re.compile(r'[\s,]*(?P<weak>W/)?(?:"(?P<quoted>[^"]*)"\s*|(?P<bare>[^\s,"][^,"]*+))(?=,|$)')


@dataclass(frozen=True, slots=True)
class EntityTags:
    """A parsed tag field. `any` is the field `*`; `strong` and `weak` hold the opaque parts without quotes."""

    any: bool
    strong: frozenset[str]
    weak: frozenset[str]

    def match_strongly(self, etag: str) -> bool:
        return self.any or etag in self.strong

    def match_weakly(self, etag: str) -> bool:
        return self.any or etag in self.strong or etag in self.weak


def parse_tags(field: str) -> EntityTags | None:
    """Parse a comma list of tags, quoted or bare, weak or strong; None when the field is blank.

    Text that is no tag at all (an unclosed quote) ends the list: it can match nothing, so a write guarded by it fails
    and a read guarded by it is answered.
    """
    text = field.strip()
    if not text:
        return None
    if text == "*":
        return EntityTags(True, frozenset(), frozenset())
    strong: set[str] = set()
    weak: set[str] = set()
    position = 0
    while found := _TAG.match(text, position):
        value = found["quoted"] if found["quoted"] is not None else found["bare"].rstrip()
        (weak if found["weak"] else strong).add(value)
        position = found.end()
    return EntityTags(False, frozenset(strong), frozenset(weak))


def check_read(conditions: Conditions, version: ObjectVersion) -> None:
    """Raise PreconditionFailed or NotModified unless `version` may be read under `conditions`."""
    modified = version.modified_ms // 1000
    if_match = parse_tags(conditions.if_match)
    if if_match is not None:
        if not if_match.match_strongly(version.digest):
            raise PreconditionFailed(f"if-match: the ETag of {version.key} is {version.etag}")
    elif conditions.if_unmodified_since is not None and modified > conditions.if_unmodified_since:
        raise PreconditionFailed(f"if-unmodified-since: {version.key} was modified later")
    if_none_match = parse_tags(conditions.if_none_match)
    if if_none_match is not None:
        if if_none_match.match_weakly(version.digest):
            raise _not_modified(f"if-none-match: the ETag of {version.key} is {version.etag}", version)
    elif conditions.if_modified_since is not None and modified <= conditions.if_modified_since:
        raise _not_modified(f"if-modified-since: {version.key} was not modified since", version)


def _not_modified(message: str, version: ObjectVersion) -> NotModified:
    return NotModified(
        message,
        etag=version.etag,
        modified_ms=version.modified_ms,
        cache_control=version.headers.cache_control,
    )


def validate_write(conditions: Conditions) -> None:
    """Raise InvalidArgument for conditions on a write or copy destination that contradict each other."""
    tags = parse_tags(conditions.if_none_match)
    if conditions.current_version and tags is not None and tags.any:
        raise InvalidArgument("a version id on the destination cannot be combined with if_none_match '*'")


def check_write(conditions: Conditions, key: str, current: ObjectVersion | None) -> None:
    """Raise PreconditionFailed unless `key`, whose current version is `current`, may be overwritten.

    If-Match on an absent object fails (the S3 API answers 404 there; Gestalt's clients expect the failed
    precondition, contract section 6).
    """
    if_match = parse_tags(conditions.if_match)
    if if_match is not None:
        if current is None:
            raise PreconditionFailed(f"if-match: {key!r} does not exist")
        if not if_match.match_strongly(current.digest):
            raise PreconditionFailed(f"if-match: the ETag of {key!r} is {current.etag}")
    if_none_match = parse_tags(conditions.if_none_match)
    if if_none_match is not None and current is not None and if_none_match.match_weakly(current.digest):
        raise PreconditionFailed(f"if-none-match: {key!r} exists with ETag {current.etag}")
    check_current_version(conditions, key, current)


def check_current_version(conditions: Conditions, key: str, current: ObjectVersion | None) -> None:
    """Raise PreconditionFailed unless the current version of `key` is the one that the caller named, if any."""
    wanted = conditions.current_version
    if wanted and (current is None or current.version_id != wanted):
        found = "absent" if current is None else f"version {current.version_id}"
        raise PreconditionFailed(f"{key!r} is {found}, not version {wanted}")


def check_copy(conditions: Conditions, source: ObjectVersion) -> None:
    """Raise PreconditionFailed unless `source` may be copied; the tags of a copy judge its source only."""
    if_match = parse_tags(conditions.if_match)
    if if_match is not None and not if_match.match_strongly(source.digest):
        raise PreconditionFailed(f"if-match: the ETag of the source {source.key} is {source.etag}")
    if_none_match = parse_tags(conditions.if_none_match)
    if if_none_match is not None and if_none_match.match_weakly(source.digest):
        raise PreconditionFailed(f"if-none-match: the ETag of the source {source.key} is {source.etag}")
