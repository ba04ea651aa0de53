"""Where real providers legitimately differ: what a provider may declare, and what is then asserted of it.

A check that needs a capability fails only for a provider that declares it. For the others it is run all the same, as a
probe, and what it found is reported: nothing is passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Self


class Capability(Enum):
    """The value is the word on the command line; `meaning` is the promise."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        made = object.__new__(cls)
        made._value_ = word
        made.meaning = meaning
        return made

    VERSIONS = ("versions", "every write answers a version id, by which that version stays readable and removable")
    DELETE_MARKERS = ("delete-markers", "a delete without a version id keeps the older versions readable by their ids")
    CONDITIONAL_READS = ("conditional-reads", "ReadObject judges all four preconditions in the order of RFC 9110")
    WRITE_CONDITIONS = ("write-conditions", "WriteObject judges etags in if_match and if_none_match, beside '*'")
    WRITE_VERSION = ("write-version", "the version id of a write's or copy's destination is a precondition")
    PRESIGN = ("presign", "PresignObject answers URLs")
    START_AFTER_GROUP = ("start-after-group", "start_after that ends in the delimiter leaves its whole group out")
    DELETE_MISSING = ("delete-missing", "deleting what is not there is answered OK")
    SELF_COPY = ("self-copy", "an object may be copied onto itself")
    OPAQUE_TOKENS = ("opaque-tokens", "a token of another listing, or a corrupt one, is INVALID_ARGUMENT")
    BUCKETS = ("buckets", "keys of different buckets are different objects, and the empty bucket works")
    CLAMPED_RANGES = ("clamped-ranges", "an end beyond the object means its end")
    RAW_REQUESTS = ("raw-requests", "bytes that are no message are INVALID_ARGUMENT, where gRPC itself says INTERNAL")
    LARGE_FRAMES = ("large-frames", "an upload may have messages of over 4 MiB")


def chosen(words: Iterable[str]) -> frozenset[Capability]:
    """The capabilities of these words, "all" meaning every one; raises ValueError naming a word that is none."""
    known = {capability.value: capability for capability in Capability}
    found: set[Capability] = set()
    for word in words:
        if word == "all":
            found |= set(Capability)
            continue
        if word not in known:
            raise ValueError(f"{word!r} is no capability; there are all, {', '.join(known)}")
        found.add(known[word])
    return frozenset(found)
