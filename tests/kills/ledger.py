"""The ledger: what was asked for and what was answered, key by key, and whether a store's rows agree with it.

An owned key is changed by one writer only, one call after the other. So its history is known exactly, up to the one
call that was on its way when the server was killed, which is absent or whole. A retained key is an owned one under a
rule: of its noncurrent versions all but the newest KEPT may have gone, the oldest first. A shared key is changed by all
writers under conditions; of its history each answered change must be there once, each refused one must not, and each
version must follow the one that its writer named in the condition. `groups.py` has keys of which several are changed
at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kills.groups import Group, Shown
from kills.versions import Lost, Version, agree

KEPT = 2
"""How many noncurrent versions of a retained key are kept."""


@dataclass(frozen=True, slots=True)
class Change:
    """A call that was sent: it adds a version or marker, or removes a version for good."""

    adds: Version | None = None
    removes: str = ""

    def on(self, versions: Sequence[Version]) -> list[Version]:
        if self.adds is not None:
            return [*versions, self.adds]
        return [version for version in versions if version.version_id != self.removes]


@dataclass(slots=True)
class OwnedKey:
    """A key with one writer: its versions, oldest first, and the call that has not been answered."""

    name: str
    versions: list[Version] = field(default_factory=list)
    pending: Change | None = None

    def answered(self, version_id: str = "") -> None:
        """The pending call was done; an addition got this id, if the answer told it."""
        assert self.pending is not None
        change = self.pending
        if change.adds is not None:
            change = Change(adds=Version(version_id, change.adds.digest))
        self.versions, self.pending = change.on(self.versions), None

    def refused(self) -> None:
        self.pending = None

    @property
    def current(self) -> Version | None:
        return self.versions[-1] if self.versions and self.versions[-1].digest else None

    def settle(self, found: Sequence[Version]) -> bool | None:
        """Compare with what the store holds, oldest first, and go on from there; raises Lost.

        Returns whether the unanswered call has had its effect, None when there was none.
        """
        change, self.pending = self.pending, None
        happened = change is not None and agree(change.on(self.versions), found)
        if not (happened or agree(self.versions, found)):
            raise Lost(f"{self.name}: expected {self.versions}, on its way {change}, found {list(found)}")
        self.versions = list(found)
        return happened if change is not None else None


@dataclass(slots=True)
class RetainedKey(OwnedKey):
    """A key under a rule; to be settled when the rules have been applied and nobody writes.

    So many of its versions, from the oldest on, may have gone: at some time KEPT noncurrent ones were newer.
    """

    fading: int = 0

    def answered(self, version_id: str = "") -> None:
        assert self.pending is not None
        self.fading = self._fading_after(self.pending)
        super(RetainedKey, self).answered(version_id)

    def settle(self, found: Sequence[Version]) -> bool | None:
        """As the key of one writer, but that what the rule removes, and nothing else, has gone."""
        change, self.pending = self.pending, None
        happened = change is not None and _left(change.on(self.versions), found, self._fading_after(change))
        if len(found) > KEPT + 1 or not (happened or _left(self.versions, found, self.fading)):
            raise Lost(f"{self.name}: expected of {self.versions}, on its way {change}, found {list(found)}")
        self.versions, self.fading = list(found), 0
        return happened if change is not None else None

    def _fading_after(self, change: Change) -> int:
        if change.adds is None:
            places = [place for place, version in enumerate(self.versions) if version.version_id == change.removes]
            return self.fading - sum(place < self.fading for place in places)
        return max(self.fading, len(self.versions) - KEPT)


def _left(versions: Sequence[Version], found: Sequence[Version], fading: int) -> bool:
    """Whether `found` is what is left when some of the first `fading` have gone, the oldest first."""
    gone = len(versions) - len(found)
    return 0 <= gone <= fading and agree(versions[gone:], found)


@dataclass(slots=True)
class Attempt:
    """A write to a shared key, for its digest: the digest it wanted to replace ("": none), and how it was answered.

    `outcome` is the version id of the answer, "refused", or "" while there is no answer.
    """

    replaces: str
    outcome: str = ""


class SharedKey:
    """A key that all writers change by compare-and-swap or create-only. Thread-safe; all attempts' bytes differ."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._attempts: dict[str, Attempt] = {}

    def sent(self, digest: str, replaces: str) -> Attempt:
        attempt = Attempt(replaces)
        with self._lock:
            assert digest not in self._attempts
            self._attempts[digest] = attempt
        return attempt

    def settle(self, found: Sequence[Version]) -> None:
        """Compare with what the store holds, oldest first; raises Lost."""
        before = ""
        for version in found:
            attempt = self._attempts.get(version.digest)
            if attempt is None:
                raise Lost(f"{self.name}: nobody wrote {version}")
            if attempt.outcome not in ("", version.version_id):
                raise Lost(f"{self.name}: {version} was answered with {attempt.outcome}")
            if attempt.replaces != before:
                raise Lost(f"{self.name}: {version} was to replace {attempt.replaces or 'nothing'}, not {before}")
            before = version.digest
        self._settle_answers({version.digest for version in found})

    def _settle_answers(self, present: set[str]) -> None:
        for digest, attempt in self._attempts.items():
            if attempt.outcome not in ("", "refused") and digest not in present:
                raise Lost(f"{self.name}: {digest} was answered as version {attempt.outcome} and is not there")
            if attempt.outcome == "" and digest not in present:
                attempt.outcome = "refused"  # it must not come back


class Ledger:
    """All keys of one campaign, by their names."""

    def __init__(self) -> None:
        self.owned: dict[str, OwnedKey] = {}
        self.shared: dict[str, SharedKey] = {}
        self.groups: dict[str, Group] = {}

    def own(self, name: str) -> OwnedKey:
        return self.owned.setdefault(name, OwnedKey(name))

    def retain(self, name: str) -> OwnedKey:
        return self.owned.setdefault(name, RetainedKey(name))

    def group(self, prefix: str) -> Group:
        return self.groups.setdefault(prefix, Group(prefix))

    def share(self, name: str) -> SharedKey:
        return self.shared.setdefault(name, SharedKey(name))

    def settle(
        self,
        found: Mapping[str, Sequence[Version]],
        shown: Callable[[Group], dict[str, Shown]] = lambda group: {},
    ) -> tuple[int, int]:
        """Compare every key with what the store holds; returns unanswered calls: with effect, and without.

        `shown` tells what the snapshots show of a group.
        """
        prefixes = tuple(self.groups)
        strangers = [
            name for name in found.keys() - self.owned.keys() - self.shared.keys() if not name.startswith(prefixes)
        ]
        if strangers:
            raise Lost(f"keys that nobody wrote: {sorted(strangers)}")
        ends = [key.settle(found.get(key.name, ())) for key in self.owned.values()]
        for shared in self.shared.values():
            shared.settle(found.get(shared.name, ()))
        for group in self.groups.values():
            here = {name: history for name, history in found.items() if name.startswith(group.prefix)}
            ends.append(group.settle(here, shown(group)))
        return ends.count(True), ends.count(False)
