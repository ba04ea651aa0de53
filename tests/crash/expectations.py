"""What the marks of a recording promise: the histories, settings and keys that a crash at a given point may leave.

Independent of the store's own code. Calls are applied in the order in which they began; one that was answered counts,
one that was not may count or not, whole.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crash.disk import Recording
from crash.shim import Op

Payload = tuple[str, int]
MARKER: Payload = ("", -1)
"""Stands for the payload of a delete marker."""


@dataclass(frozen=True, slots=True)
class Version:
    """A version as it should be; None: unknown, since the call was not answered."""

    payload: Payload
    content_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    version_id: str | None = None
    seq: int | None = None
    modified_ms: int | None = None


@dataclass(slots=True)
class Expected:
    """One of the contents that a store may have. Histories are oldest first."""

    histories: dict[str, list[Version]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    opened: bool = False
    moments: dict[int, dict[str, Version]] = field(default_factory=dict)
    """What was there at the sequences that were remembered."""
    purged: set[Payload] = field(default_factory=set)
    """Payloads that were purged, and neither shared nor written again."""
    snapshots: dict[str, dict[str, Version]] = field(default_factory=dict)
    """What each snapshot reaches, by key: objects, and delete markers."""
    holds: set[tuple[str, str]] = field(default_factory=set)
    """The prefix and the version id of each hold."""
    horizon: int = -1
    """The last of the remembered sequences that must be refused, since the history has forgotten what was removed."""
    notes: dict[str, int] = field(default_factory=dict)
    """Notes by name, and the time that each must have at least."""
    _gone: list[tuple[str, Version, int]] = field(default_factory=list)
    """What was removed and the history knows of: key, version, and the last sequence that was remembered before."""
    _once_kept: list[tuple[str, Version]] = field(default_factory=list)
    """What snapshots showed that are deleted: a removed version of it keeps its payload until gc lets go of it."""

    def apply(self, call: dict[str, Any], answer: Any) -> None:
        kind, key = call["kind"], call.get("key", "")
        if kind in ("open", "change"):
            self.opened = self.opened or kind == "open"
            self.settings.update(call["settings"])
        elif kind == "put":
            metadata = tuple(sorted(call["metadata"].items()))
            self._append(key, Version(_payload(call), "text/plain", metadata), answer)
        elif kind == "copy":
            self._append(key, self.histories[call["source"]][-1], answer)
        elif kind == "delete":
            self._append(key, Version(MARKER), answer)
        elif kind == "batch":
            for number, one in enumerate(call["calls"]):
                self.apply(one, answer[number] if answer is not None else None)
        elif kind == "remember":
            if answer is not None:
                self.moments[answer] = objects(self._newest())
        elif kind == "rollback":
            self._roll_back(self.moments[call["to"]], call["prefix"], answer)
        elif kind == "restore":
            self.opened = True
            for name, payloads in call["objects"].items():
                self.histories[name] = [Version((payload, size)) for payload, size in payloads]
        elif kind == "remove":
            self._remove(key, call["version_id"])
        elif kind == "undelete":
            while self.histories[key][-1].payload == MARKER:
                self._go(key, self.histories[key].pop())
        elif kind == "bring back":
            found = [version for version in self.histories[key] if version.version_id == call["version_id"]]
            self._append(key, found[0], answer)
        elif kind == "snapshot":
            shown = {key: version for key, version in self._newest().items() if key.startswith(call["prefix"])}
            self.snapshots[call["name"]] = shown
        elif kind == "forget snapshot":
            self._once_kept += self.snapshots.pop(call["name"]).items()
        elif kind in ("hold", "release"):
            prefix, version_id = call["hold"]
            (self.holds.add if kind == "hold" else self.holds.discard)((prefix, version_id))
        elif kind == "purge":
            self.purged |= {version.payload for version in self.histories[key]}
            for version in self.histories.pop(key):
                self._go(key, version)
            self.purged -= {version.payload for history in self.histories.values() for version in history}
        elif kind == "forget":
            self._forget()
        elif kind == "note" and answer is not None:
            self.notes[call["name"]] = answer

    def stands(self, key: str, version: Version) -> bool | None:
        """Whether a version that was there once can be read as of then; None: it may be, or may not."""
        if any(one is version for one in self.histories.get(key, ())) or self._is_kept(key, version):
            return True
        return None if any(one is version for _, one in self._once_kept) else False

    def _is_kept(self, key: str, version: Version) -> bool:
        return any(shown.get(key) is version for shown in self.snapshots.values())

    def _remove(self, key: str, version_id: str) -> None:
        history = self.histories[key]
        for version in [version for version in history if version.version_id == version_id]:
            history.remove(version)
            self._go(key, version)

    def _go(self, key: str, version: Version) -> None:
        self._gone.append((key, version, max(self.moments, default=-1)))

    def _forget(self) -> None:
        """The history forgets the version that was removed the longest ago, of those that no snapshot shows."""
        for number, (key, version, remembered) in enumerate(self._gone):
            if not self._is_kept(key, version):
                del self._gone[number]
                self.horizon = max(self.horizon, remembered)
                return
        raise AssertionError("there was nothing to forget")

    def _newest(self) -> dict[str, Version]:
        return {key: history[-1] for key, history in self.histories.items() if history}

    def _roll_back(self, moment: dict[str, Version], prefix: str, answers: list[dict[str, Any]] | None) -> None:
        wanted, present = _contents(moment), _contents(objects(self._newest()))
        keys = sorted(key for key in {*wanted, *present} if key.startswith(prefix))
        steps = [key for key in keys if wanted.get(key) != present.get(key)]
        for number, key in enumerate(steps):
            answer = answers[number] if answers is not None else None
            self._append(key, wanted.get(key, Version(MARKER)), answer)

    def _append(self, key: str, version: Version, answer: dict[str, Any] | None) -> None:
        history = self.histories.setdefault(key, [])
        suspended = self.settings.get("versioning") == "suspended"
        if suspended:
            self._remove(key, "null")
        known: dict[str, Any] = answer or {
            "version_id": "null" if suspended else None,
            "seq": None,
            "modified_ms": None,
        }
        self.purged.discard(version.payload)
        history.append(Version(version.payload, version.content_type, version.metadata, **known))


def objects(versions: dict[str, Version]) -> dict[str, Version]:
    """The versions that are no delete markers."""
    return {key: version for key, version in versions.items() if version.payload != MARKER}


def _contents(versions: dict[str, Version]) -> dict[str, Version]:
    """The versions without what only their calls gave them."""
    return {key: Version(one.payload, one.content_type, one.metadata) for key, one in versions.items()}


@dataclass(slots=True)
class Promises:
    """Everything that holds after a crash at one point."""

    allowed: list[Expected]
    rotten: set[Payload]
    """Payloads that were damaged on the disk and whose healing was not answered yet."""
    pairs: list[str]
    """The signing keys' ids that were answered, oldest first."""
    pair_open: bool
    """Whether a call that changes the keys was under way."""
    answered: int
    restoring: bool
    """Whether a restore was under way: what is there then need not be a store."""
    backups: set[int] = field(default_factory=set)
    """How many versions the backup may hold; empty before the first was answered."""
    aside: dict[Payload, bool] = field(default_factory=dict)
    """Damaged payloads that a repair sets aside, and whether it has answered."""
    names: set[str] = field(default_factory=set)
    """What was made to stand below the store's directory, and answered."""
    kept: dict[Payload, bool] = field(default_factory=dict)
    """The same of payloads that are rows, whose damaged bytes are written down."""


class Expectations:
    """Reads the marks of a recording; `at` tells what holds after a prefix of it."""

    def __init__(self, recording: Recording, prepared: dict[str, list[Payload]]) -> None:
        self._prepared = prepared
        self._marks = [
            (place, json.loads(entry.text))
            for place, entry in enumerate(recording.entries)
            if entry.op is Op.MARK and entry.data.startswith(b"{")
        ]
        self._memo: dict[int, Promises] = {}

    def payloads(self) -> list[Payload]:
        """Every payload that the recording writes, each once."""
        calls = [call for _, mark in self._marks for call in (mark, *mark.get("calls", ()))]
        written = [_payload(call) for call in calls if call.get("kind") == "put"]
        restored = [mark["objects"] for _, mark in self._marks if mark.get("kind") == "restore"]
        written += [_pair(payload) for objects in restored for payloads in objects.values() for payload in payloads]
        return list(dict.fromkeys([*written, *itertools.chain(*self._prepared.values())]))

    def answers(self) -> frozenset[int]:
        """The prefixes that end with an answer: all that is promised then has to be on the disk."""
        return frozenset(place + 1 for place, mark in self._marks if "answered" in mark)

    def at(self, position: int) -> Promises:
        count = sum(place < position for place, _ in self._marks)
        if count not in self._memo:
            self._memo[count] = self._promises([mark for _, mark in self._marks[:count]])
        return self._memo[count]

    def _promises(self, marks: list[dict[str, Any]]) -> Promises:
        begun = {mark["begin"]: mark for mark in marks if "begin" in mark}
        answers = {mark["answered"]: mark["answer"] for mark in marks if "answered" in mark}
        flying = [number for number in begun if number not in answers]
        allowed = [self._after(begun, answers, set(chosen)) for chosen in _subsets(flying)]
        pairs = [answers[number] for number, call in begun.items() if call["kind"] == "keys" and number in answers]
        pair_open = any(begun[number]["kind"] == "keys" for number in flying)
        restored = [number for number, call in begun.items() if call["kind"] == "restore"]
        return Promises(
            allowed,
            _rotten(marks, begun),
            pairs,
            pair_open or bool(restored),
            sum(begun[number]["kind"] != "names" for number in answers),
            names={name for number in answers for name in begun[number].get("names", ())},
            restoring=any(number in flying for number in restored),
            backups=_backups(begun, answers),
            aside={_pair(c["aside"]): number in answers for number, c in begun.items() if c["kind"] == "repair"},
            kept={_pair(c["kept"]): number in answers for number, c in begun.items() if c["kind"] == "keep"},
        )

    def _after(self, begun: dict[str, dict[str, Any]], answers: dict[str, Any], chosen: set[str]) -> Expected:
        result = Expected(opened=bool(self._prepared))
        for key, payloads in self._prepared.items():
            result.histories[key] = [Version(payload) for payload in payloads]
        for number, call in begun.items():
            if number in answers or number in chosen:
                result.apply(call, answers.get(number))
        return result


def _subsets(flying: list[str]) -> Iterator[tuple[str, ...]]:
    for count in range(len(flying) + 1):
        yield from itertools.combinations(flying, count)


def _backups(begun: dict[str, dict[str, Any]], answers: dict[str, Any]) -> set[int]:
    """The last one that was answered, and what began after it."""
    possible: set[int] = set()
    for number, call in begun.items():
        if call["kind"] == "backup" and number in answers:
            possible = {call["versions"]}
        elif call["kind"] == "backup" and possible:
            possible.add(call["versions"])
    return possible


def _payload(call: dict[str, Any]) -> Payload:
    return _pair(call["payload"])


def _pair(payload: tuple[str, int]) -> Payload:
    """JSON knows no tuples."""
    name, size = payload
    return name, size


def _rotten(marks: list[dict[str, Any]], begun: dict[str, dict[str, Any]]) -> set[Payload]:
    rotten: set[Payload] = set()
    since: dict[Payload, set[str]] = {}
    for mark in marks:
        if "rotten" in mark:
            name, size = mark["rotten"]
            rotten.add((name, size))
            since[name, size] = set()
        elif mark.get("kind") == "put" and _payload(mark) in rotten:
            since[_payload(mark)].add(mark["begin"])
        elif "answered" in mark and begun[mark["answered"]]["kind"] == "put":
            payload = _payload(begun[mark["answered"]])
            if mark["answered"] in since.get(payload, ()):
                rotten.discard(payload)
    return rotten
