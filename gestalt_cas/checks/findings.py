"""What a check reports: findings, what they concern, and the report over all of them. Values only; no I/O.

A finding is either damage (stored bytes or rows are lost, or not to be relied on) or a fault (something derived or
outward is wrong, no bytes are: a sum, a mode, an index). What gc would remove is neither; it is counted as reclaimable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gestalt_cas.errors import InvalidArgument

DAMAGE = {
    "wal": "committed transactions stand behind a damaged place of the WAL and cannot be read",
    "database": "SQLite finds its file malformed, or a row cannot be read",
    "schema": "tables or columns are not those of this release",
    "row": "a row breaks a rule that every write keeps",
    "sequence": "the counter is behind the rows, or commit times fall while sequences rise",
    "hold": "a version that is held is not there",
    "row-missing": "a version's payload has no row in blobs",
    "size": "version, row and file do not agree on the payload's size",
    "sums": "the row's chunk sums are not those of the payload",
    "missing": "the payload of a version has no file, or no row in inlined",
    "type": "something that is no regular file stands under the payload's name",
    "bytes": "the payload's bytes are not those that were stored",
    "unreadable": "the file, its directory, or the row of an inlined payload cannot be read",
}
FAULTS = {
    "index": "an index does not agree with its table, or is missing",
    "current": "the row of a key's current object is missing, superfluous, or points elsewhere",
    "quota": "a quota's used bytes are not what its versions add up to",
    "mark": "a payload is marked as damaged and is whole",
    "mode": "the permissions of a file or directory are not what they should be",
    "layout": "a directory of the store is missing, or holds what does not belong there",
}
SHOWN_VERSIONS = 20


@dataclass(frozen=True, slots=True)
class Affected:
    """A version that a finding concerns. `version_id` is "" when the finding concerns the key itself."""

    bucket: str
    key: str
    version_id: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: its kind (see DAMAGE and FAULTS), and what it says in words.

    `where` is a path, table or index; `digest` the BLAKE3 hex of the payload concerned, "" for none. `affected` names
    SHOWN_VERSIONS versions at most, of `affected_total`. `remedy` is what the operator can do, mostly a command.
    `repaired` tells what was done about it, and is "" while the finding stands; `unrepaired` says why a repair failed,
    `unrecorded` why damage could not be noted down in the store, and `set_aside` where the damaged file went, below the
    store's directory.
    """

    kind: str
    message: str
    where: str = ""
    digest: str = ""
    expected: str = ""
    found: str = ""
    affected: tuple[Affected, ...] = ()
    affected_total: int = 0
    remedy: str = ""
    repaired: str = ""
    unrecorded: str = ""
    unrepaired: str = ""
    set_aside: str = ""

    @property
    def damage(self) -> bool:
        return self.kind in DAMAGE

    def mended(self, how: str) -> Finding:
        """The same finding after a repair."""
        return replace(self, repaired=how, remedy="")


MOST_PARTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Subset:
    """A part of all digests: the ranges `first` to `last` (from 1, inclusive) of `of` equal ranges; by default all."""

    first: int = 1
    last: int = 1
    of: int = 1

    def holds(self, digest: bytes) -> bool:
        return self.first <= (int.from_bytes(digest[:8]) * self.of >> 64) + 1 <= self.last

    def __str__(self) -> str:
        if self.first == self.last:
            return f"{self.first}/{self.of}"
        return f"{self.last}%"


EVERYTHING = Subset()


def subset_of(text: str) -> Subset:
    """Read `N/M`, or `P%`: the first P hundredths of all digests; raises InvalidArgument.

    The parts 1/M to M/M cover every digest once. `P%` is the same part in each run.
    """
    number, slash, of = text.partition("/")
    if slash and _is_number(number) and _is_number(of) and 1 <= int(number) <= int(of) <= MOST_PARTS:
        return Subset(int(number), int(number), int(of))
    percent = text.removesuffix("%")
    if percent != text and _is_number(percent) and 1 <= int(percent) <= 100:
        return Subset(1, int(percent), 100)
    raise InvalidArgument(
        f"{text!r} is no part of the data: give N/M with N from 1 to M (1/10 to 10/10 cover everything), or P% from 1% "
        "to 100%"
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10
