"""Retention: which versions go by themselves, by the rules that the store's settings hold.

A rule is for the stored keys of one bucket that start with a prefix, the empty one being the whole bucket. Of the rules
whose prefixes a key starts with only the longest counts, whatever it says; so an empty rule exempts what is below it.

The terms are those of S3's lifecycle (NoncurrentVersionExpiration, ExpiredObjectDeleteMarker, Expiration), to the
millisecond instead of to midnight. Of a key's versions that stand, delete markers included, the newest is current. Any
other is noncurrent since the commit time of the one that follows it. It goes when it is neither among the newest
`keep_noncurrent` noncurrent ones nor noncurrent for `keep_days` or less; one of the two has to be given. With
`drop_markers` a key whose versions that stay are all delete markers loses those too. With `expire_days` a current
object that is older gets a delete marker; what it then is to the other terms is judged from the next run on.

A key below a held prefix (`holds.py`) is left alone. A single version that is held stays, and with it the delete
markers that hide it; it counts among the noncurrent ones all the same.

Since times never decrease from version to version, what goes of a key is all that stands before one sequence, its
`bound`, but for what is held. So a key is judged by a few look-ups however long its history is, and what goes is its
oldest versions, in order. Every function works in the transaction of its caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from gestalt_cas.clock import DAY_MS
from gestalt_cas.configuration.config import key_range, whole
from gestalt_cas.errors import InvalidConfig
from gestalt_cas.keeping import holds
from gestalt_cas.objects import ObjectKey, ObjectVersion
from gestalt_cas.rules.listing import successor
from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

MOST_DAYS, MOST_KEPT = 36_500, 1_000_000
SETTING = "retention.rules"
STRETCH_ROWS = 4_000
"""Rows, removed ones included, that one look for candidates reads, but for a key that has more: some milliseconds."""
ALL_OF_THEM = 1 << 62
"""A bound beyond every sequence."""

_HERE = "bucket = :bucket AND key = :key AND gone_seq IS NULL"
# UTF-8 has no such byte as the last one.
_BELOW = "bucket = :bucket AND key >= :lower AND key < coalesce(:upper, x'ffffffffff')"
# The key of the row at which a stretch ends.
_KEY_AT = Prepared(f"SELECT key FROM versions WHERE {_BELOW} ORDER BY key, seq LIMIT 1 OFFSET :skip")


def _figures(rows: str) -> Prepared:
    """What decides whether a key is worth judging, of the keys that these rows are of."""
    return Prepared(f"""
        SELECT key, count(*), min(seq), max(seq), max(seq) FILTER (WHERE object), max(commit_ms),
            count(*) FILTER (WHERE commit_ms < :noncurrent_before_ms),
            max(seq) FILTER (WHERE commit_ms < :noncurrent_before_ms)
        FROM (SELECT key, seq, commit_ms, digest IS NOT NULL AS object FROM versions WHERE {rows})
        GROUP BY key ORDER BY key
    """)


_STRETCH, _OF_KEY = _figures(f"{_BELOW} AND gone_seq IS NULL"), _figures(_HERE)
_NTH = Prepared(f"SELECT seq FROM versions WHERE {_HERE} ORDER BY seq DESC LIMIT 1 OFFSET :skip")
_LAST = Prepared(f"SELECT seq FROM versions WHERE {_HERE} AND seq <= :until ORDER BY seq DESC LIMIT 1")
_NEWEST = Prepared(f"SELECT commit_ms, digest IS NOT NULL FROM versions WHERE {_HERE} ORDER BY seq DESC LIMIT 1")
_OBJECT_FROM = Prepared(f"SELECT seq FROM versions WHERE {_HERE} AND seq >= :bound AND digest IS NOT NULL LIMIT 1")
_HELD_OBJECT = Prepared(f"SELECT seq FROM versions WHERE {_HERE} AND digest IS NOT NULL AND {holds.IS_HELD} LIMIT 1")
_MANY = Prepared("SELECT seq FROM versions WHERE bucket = :bucket AND key = :key LIMIT 1 OFFSET 200")
_GOING = Prepared(f"""
    SELECT version_id, seq, size, digest, commit_ms FROM versions
    WHERE {_HERE} AND seq > :after AND seq < :bound AND NOT {holds.IS_HELD} ORDER BY seq LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Rule:
    """What goes of the keys that it is for; None and False: not by this term."""

    keep_noncurrent: int | None = None
    keep_days: int | None = None
    drop_markers: bool = False
    expire_days: int | None = None

    @property
    def of_noncurrent(self) -> bool:
        """Whether noncurrent versions go at all."""
        return self.keep_noncurrent is not None or self.keep_days is not None


@dataclass(frozen=True, slots=True)
class Stretch:
    """The keys of a bucket from `lower` (inclusive) to `upper` (exclusive; None: no bound), all under one rule."""

    bucket: str
    lower: bytes
    upper: bytes | None
    rule: Rule


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key of which something would go.

    `first` is its oldest version; `until` the newest that is old enough for those before it to go, None without one.
    """

    bucket: str
    key: bytes
    first: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What goes of a key: every version before the sequence `bound` that no hold keeps.

    `expires`: its object gets a delete marker.
    """

    bound: int = 0
    expires: bool = False


# ---- rules ----


def validate(key: str, value: object) -> dict[str, object]:
    """A rule as it is stored; raises InvalidConfig naming the key."""
    if not isinstance(value, Mapping):
        raise InvalidConfig(f"{key}: {value!r} is not an object with any of {', '.join(_TERMS)}")
    unknown = [name for name in value if name not in _TERMS]
    if unknown:
        raise InvalidConfig(f"{key}: {unknown[0]!r} is no term of a rule; they are {', '.join(_TERMS)}")
    return {name: _validate_term(f"{key}.{name}", name, value[name]) for name in _TERMS if value.get(name) is not None}


def _validate_term(key: str, name: str, value: object) -> object:
    if name != "dropMarkers":
        least = 1 if name == "expireDays" else 0
        what = "versions" if name == "keepNoncurrent" else "days"
        return whole(key, value, least, MOST_KEPT if name == "keepNoncurrent" else MOST_DAYS, what)
    if not isinstance(value, bool):
        raise InvalidConfig(f"{key}: {value!r} is neither true nor false")
    return value


_TERMS = {
    "keepNoncurrent": "keep_noncurrent",
    "keepDays": "keep_days",
    "dropMarkers": "drop_markers",
    "expireDays": "expire_days",
}
"""Names in the settings to fields."""


def stretches(rules: Mapping[str, object], bucket: str | None = None, prefix: bytes = b"") -> list[Stretch]:
    """The parts of the store where something can go, each under the one rule that counts there, in byte order.

    With `bucket` only of its keys that start with `prefix`. Raises InvalidConfig for what this release cannot read: of
    a rule that means more than is understood nothing must go.
    """
    by_bucket: dict[str, dict[bytes, Rule]] = {}
    for name, value in rules.items():
        terms = validate(f"{SETTING}.{name}", value)
        home, start = key_range(name, SETTING)
        if bucket in (None, home):
            rule = Rule(**{_TERMS[term]: given for term, given in terms.items()})  # type: ignore[arg-type]
            by_bucket.setdefault(home, {})[start.encode()] = rule
    found = [stretch for home in sorted(by_bucket) for stretch in _cut(home, by_bucket[home], prefix)]
    return [stretch for stretch in found if stretch.rule != Rule()]


def _cut(bucket: str, rules: Mapping[bytes, Rule], prefix: bytes) -> Iterator[Stretch]:
    """Cut the keys below `prefix` where a rule begins or ends; prefixes lie within each other or apart."""
    top = successor(prefix)
    edges = {prefix} | {edge for start in rules for edge in (start, successor(start)) if edge is not None}
    inner = sorted(edge for edge in edges if edge >= prefix and (top is None or edge < top))
    for lower, upper in pairwise([*inner, top]):
        assert lower is not None
        above = [start for start in rules if lower.startswith(start)]
        if above:
            yield Stretch(bucket, lower, upper, rules[max(above, key=len)])


# ---- judging ----


def candidates(
    connection: Connection, stretch: Stretch, lower: bytes, now_ms: int
) -> tuple[list[Candidate], bytes | None]:
    """The keys of a part of the stretch, from `lower` on, of which something goes; and where the next part begins.

    None: there is none.
    """
    days = stretch.rule.keep_days
    before = {"bucket": stretch.bucket, "noncurrent_before_ms": now_ms - days * DAY_MS if days is not None else 0}
    following = _key_at(connection, stretch, lower, STRETCH_ROWS)
    if following is not None and following == _key_at(connection, stretch, lower, 0):
        rows, following = _OF_KEY(connection, key=following, **before), following + b"\0"
    else:
        rows = _STRETCH(connection, lower=lower, upper=following or stretch.upper, **before)
    found = [
        Candidate(stretch.bucket, row[0], row[2], row[7]) for row in rows if _is_wanted(stretch.rule, now_ms, *row[1:7])
    ]
    if found and holds.any_stand(connection):
        found = [one for one in found if holds.above(connection, one.bucket, one.key) is None]
    return found, following


def _key_at(connection: Connection, stretch: Stretch, lower: bytes, skip: int) -> bytes | None:
    """The key of the row behind the first `skip` from `lower` on; None: the stretch has no more."""
    rows = _KEY_AT(connection, bucket=stretch.bucket, lower=lower, upper=stretch.upper, skip=skip)
    return rows[0][0] if rows else None


def _is_wanted(
    rule: Rule, now_ms: int, count: int, _first: int, newest: int, newest_object: int | None, newest_ms: int, old: int
) -> bool:
    """Whether anything goes of a key with these figures."""
    if rule.expire_days is not None and newest == newest_object and newest_ms < now_ms - rule.expire_days * DAY_MS:
        return True
    if rule.drop_markers and newest_object is None:
        return True
    enough = rule.keep_noncurrent is None or count > rule.keep_noncurrent + 1
    return rule.of_noncurrent and enough and (rule.keep_days is None or old > 1)


def judge(connection: Connection, candidate: Candidate, rule: Rule, now_ms: int) -> Verdict:
    """What goes of a key as it is now; `now_ms` is the time that the candidate was found by."""
    here = {"bucket": candidate.bucket, "key": candidate.key}
    newest = _NEWEST(connection, **here)
    if not newest or holds.above(connection, candidate.bucket, candidate.key) is not None:
        return Verdict()
    bound = _noncurrent_bound(connection, candidate, rule) if rule.of_noncurrent else 0
    ((commit_ms, is_object),) = newest
    if is_object:
        days = rule.expire_days
        return Verdict(bound, days is not None and commit_ms < now_ms - days * DAY_MS)
    if rule.drop_markers and not (_OBJECT_FROM(connection, bound=bound, **here) or _has_held(connection, candidate)):
        bound = ALL_OF_THEM
    return Verdict(bound)


def _has_held(connection: Connection, candidate: Candidate) -> bool:
    """Whether an object of the key is held for itself.

    Each batch of a key's versions judges it again, so of a key with many rows the holds are asked: to look through the
    rows would make the removal of many take the square of their number.
    """
    bucket, key = candidate.bucket, candidate.key
    if _MANY(connection, bucket=bucket, key=key):
        return bool(holds.of_versions(connection, bucket, key))
    return bool(_HELD_OBJECT(connection, bucket=bucket, key=key))


def _noncurrent_bound(connection: Connection, candidate: Candidate, rule: Rule) -> int:
    """The sequence before which every noncurrent version goes."""
    here = {"bucket": candidate.bucket, "key": candidate.key}
    bounds: list[int] = []
    if rule.keep_noncurrent is not None:
        rows = _NTH(connection, skip=rule.keep_noncurrent, **here)
        bounds.append(rows[0][0] if rows else 0)
    if rule.keep_days is not None:
        # Those before the newest one that is old enough were followed long enough ago.
        rows = _LAST(connection, until=candidate.until, **here) if candidate.until is not None else []
        bounds.append(rows[0][0] if rows else 0)
    return min(bounds)


def going(
    connection: Connection, candidate: Candidate, verdict: Verdict, after: int, limit: int
) -> list[ObjectVersion]:
    """At most `limit` versions that go by the verdict, the oldest first, of those after the sequence `after`."""
    rows = _GOING(connection, bucket=candidate.bucket, key=candidate.key, after=after, bound=verdict.bound, limit=limit)
    key = ObjectKey(candidate.bucket, candidate.key.decode())
    return [
        ObjectVersion(key, version_id, seq, size, digest.hex() if digest else "", commit_ms, current=False)
        for version_id, seq, size, digest, commit_ms in rows
    ]
