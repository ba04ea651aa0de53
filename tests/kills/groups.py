"""The keys of one keeper, who changes several at once: of the change that was on its way all is there or nothing.

A keeper also makes snapshots, and remembers sequences; what they show is known as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kills.versions import Lost, Version, agree

MOST_MOMENTS = 4
"""How many sequences a group remembers."""


@dataclass(frozen=True, slots=True)
class GroupChange:
    """What a keeper does at once: removes versions (key and version id), then adds some (key and digest), in order.

    Or it makes a snapshot, or forgets one.
    """

    adds: tuple[tuple[str, str], ...] = ()
    removes: tuple[tuple[str, str], ...] = ()
    makes: str = ""
    forgets: str = ""

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> GroupChange:
        pairs = {name: tuple((key, text) for key, text in plain[name]) for name in ("adds", "removes")}
        return cls(**pairs, makes=plain["makes"], forgets=plain["forgets"])


Shown = dict[str, str]
"""Digests of current objects by key."""


@dataclass(slots=True)
class Group:
    """The keys below a prefix: their versions, oldest first, and what snapshots and remembered sequences show."""

    prefix: str
    versions: dict[str, list[Version]] = field(default_factory=dict)
    snapshots: dict[str, Shown] = field(default_factory=dict)
    moments: dict[str, Shown] = field(default_factory=dict)
    pending: GroupChange | None = None

    def follow(
        self, *, begun: Mapping[str, Any] | None = None, answered: Sequence[str] | None = None, remembered: str = ""
    ) -> int:
        """What the keeper told: a change that it begins, that it was answered, or a sequence. Returns how many answers.

        An answer has the version ids of what was added, "" for one that is not known.
        """
        if begun is not None:
            self.pending = GroupChange.of(begun)
            if self.pending.removes:
                self.moments.clear()  # what was there then may have gone for good
        if remembered:
            self.moments[remembered] = self.objects(self.versions)
            for oldest in list(self.moments)[:-MOST_MOMENTS]:
                del self.moments[oldest]
        if answered is None:
            return 0
        assert self.pending is not None
        self.versions, self.snapshots = self._after(self.pending, answered)
        self.pending = None
        return 1

    def owns(self, snapshot: str) -> bool:
        return snapshot.startswith(self._own_names)

    def new_name(self, number: int) -> str:
        """A name for a snapshot."""
        return f"{self._own_names}{number}"

    @property
    def _own_names(self) -> str:
        return f"{self.prefix.rstrip('/')}-"

    @staticmethod
    def objects(versions: Mapping[str, Sequence[Version]]) -> Shown:
        return {name: history[-1].digest for name, history in versions.items() if history and history[-1].digest}

    def way_back(self, wanted: Shown) -> Iterator[tuple[str, str]]:
        """What has to be added for the objects to be these."""
        present = self.objects(self.versions)
        for name in sorted({*wanted, *present}, key=str.encode):
            if wanted.get(name) != present.get(name):
                yield name, wanted.get(name, "")

    def settle(self, found: Mapping[str, Sequence[Version]], shown: Mapping[str, Shown]) -> bool | None:
        """Compare with the versions that the store holds and what its snapshots show; raises Lost.

        Returns whether the change that was not answered is there, None when there was none.
        """
        change, self.pending = self.pending, None
        happened = change is not None and self._agrees(*self._after(change, ()), found, shown)
        if not (happened or self._agrees(self.versions, self.snapshots, found, shown)):
            raise Lost(
                f"{self.prefix}: expected {self.versions} and {self.snapshots}, on its way {change}, "
                f"found {dict(found)} and {dict(shown)}"
            )
        self.versions = {name: list(history) for name, history in found.items()}
        self.snapshots = dict(shown)
        return happened if change is not None else None

    def _after(
        self, change: GroupChange, version_ids: Sequence[str]
    ) -> tuple[dict[str, list[Version]], dict[str, Shown]]:
        versions = {name: list(history) for name, history in self.versions.items()}
        for name, version_id in change.removes:
            versions[name] = [version for version in versions[name] if version.version_id != version_id]
        for number, (name, digest) in enumerate(change.adds):
            told = version_ids[number] if version_ids else ""
            versions.setdefault(name, []).append(Version(told, digest))
        snapshots = {name: shown for name, shown in self.snapshots.items() if name != change.forgets}
        if change.makes:
            snapshots[change.makes] = self.objects(self.versions)
        return versions, snapshots

    @staticmethod
    def _agrees(
        versions: Mapping[str, Sequence[Version]],
        snapshots: Mapping[str, Shown],
        found: Mapping[str, Sequence[Version]],
        shown: Mapping[str, Shown],
    ) -> bool:
        names = {name for name, history in versions.items() if history}
        return (
            snapshots == shown
            and names == found.keys()
            and all(agree(versions[name], history) for name, history in found.items())
        )
