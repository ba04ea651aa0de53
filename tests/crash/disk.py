"""A model of what a disk may hold after a crash, as POSIX allows it and a bit beyond.

A recording is replayed entry by entry; at any point of it (a prefix of the log) the model knows what is durable and
what is pending:

- A write, truncation or allocation is pending until the file is synced (fsync or fdatasync: the size counts as needed
  to find the data). Until then each may be on the disk or not, independent of all others; a write may also be torn:
  any of its 512-byte sectors may be missing, with or without the growth of the file that it caused.
- A directory entry (made by create, link, mkdir; removed by unlink, rmdir) is pending until its directory is synced, by
  fsync: SQLite may use fdatasync, which Linux's file systems take for the same, but no standard promises names for it.
  Syncing the file itself does not help it, though common file systems do more. Each change may be there or not,
  independent of all others; what stands under a name is decided by the last change of it that is there.
- A rename within a directory is one change: both names or neither. One across directories is two changes that may be
  lost independently, so that both names may stand, but not so that neither does: where the new name is lost, the old
  one is still there. POSIX does not promise that; all journalling file systems do it. Payloads do not need it (their
  staging names are never looked for again), but what `check --repair` sets aside does.
- An entry may be durable while the file's data is not: the file is then empty or has holes.

Left out: the shared memory of SQLite (`-shm`), whose content SQLite discards when nobody has it open. Blocks kept by
posix_fallocate are zeros. File modes are taken as durable with the file.

A state is named by its prefix and the choices that differ from "all that is pending is there", so it can be made again
from the same recording: see `choices_text`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3

from crash.shim import DATA_ONLY, Entry, Op

SECTOR = 512
LOST, KEPT = -1, -2
"""Choices for a pending change. For writes a number from 0 on also is one: the bits of the sectors that are there."""

Choices = Mapping[int, int]
"""Number of a change → what became of it; changes that are not named are KEPT."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's bytes: `data`, then zeros up to `size`."""

    data: bytes
    size: int

    def digest(self) -> bytes:
        return blake3(without_zeros(self.data) + self.size.to_bytes(8)).digest()


def without_zeros(data: bytes) -> bytes:
    """The data up to its last byte that is not zero; a reserve is 16 MiB of zeros, which rstrip takes one by one."""
    end = len(data)
    while data.endswith(_ZEROS, 0, end):
        end -= len(_ZEROS)
    return data[:end].rstrip(b"\0")


EMPTY = Content(b"", 0)
_ZEROS = bytes(1 << 14)


@dataclass(frozen=True, slots=True)
class Change:
    """One pending change. `number` is twice the place of its entry in the log, plus 1 for a rename's second half.

    `names` are what an entry change assigns, name → node (None: removed); for changes of data it is empty.
    """

    number: int
    entry: Entry
    node: int
    names: tuple[tuple[str, int | None], ...] = ()

    @property
    def sectors(self) -> int:
        """How many sectors a write touches; 0 for everything else."""
        if self.entry.op is not Op.WRITE:
            return 0
        return (self.entry.offset + len(self.entry.data) - 1) // SECTOR - self.entry.offset // SECTOR + 1


@dataclass(slots=True)
class Node:
    """A file or directory. `entries` and `content` are the durable ones."""

    directory: bool
    pending: list[Change] = field(default_factory=list)
    entries: dict[str, int] = field(default_factory=dict)
    content: Content = EMPTY
    busy: bool = True
    """Not busy: a directory in which nothing ever was, as most of a store's 256 are."""
    settled: tuple[list[tuple[str, int]], list[str]] | None = None
    """What `_children` says of the durable entries."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was there before, by path ("" is the root): inode and content, None for directories; and the log."""

    base: dict[str, tuple[int, Content | None]]
    entries: list[Entry]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((self.base, self.entries)))

    @staticmethod
    def load(path: Path) -> Recording:
        return Recording(*pickle.loads(path.read_bytes()))

    def directories(self) -> set[str]:
        """Every directory that ever was, by path; none is ever renamed."""
        made = {entry.path for entry in self.entries if entry.op is Op.MKDIR and entry.ok}
        return made | {path for path, (_, content) in self.base.items() if content is None}


def scan(root: Path) -> dict[str, tuple[int, Content | None]]:
    """The tree below `root` as the base of a recording."""
    found: dict[str, tuple[int, Content | None]] = {"": (root.stat().st_ino, None)}
    for path in sorted(root.rglob("*")):
        data = None if path.is_dir() else path.read_bytes()
        content = None if data is None else Content(without_zeros(data), len(data))
        found[str(path.relative_to(root))] = (path.stat().st_ino, content)
    return found


@dataclass(frozen=True, slots=True)
class State:
    """What stands on the disk: files by path with their content's digest, and the directories that are missing."""

    files: tuple[tuple[str, bytes], ...]
    missing: frozenset[str]

    def key(self) -> bytes:
        """The same for states that differ only in the random names of staging files."""
        lines = sorted(f"{_plain(path)} {digest.hex()}" for path, digest in self.files)
        return blake3("\n".join([*lines, *sorted(self.missing)]).encode()).digest()


def _plain(path: str) -> str:
    directory, _, name = path.rpartition("/")
    if directory.endswith("staging"):
        return f"{directory}/*{name[name.find('.') :]}"
    return f"{directory}/.keys" if name.startswith(".keys.json.") else path


class Disk:
    """The model after a prefix of a recording; `step` takes the next entry."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._known: dict[str, list[str]] = {}
        self._below: dict[str, list[str]] = {}
        for path in sorted(recording.directories() - {""}):
            self._known.setdefault(path.rpartition("/")[0], []).append(path)
            for above in (path, *_parents(path)):
                self._below.setdefault(above, []).append(path)
        self._nodes: list[Node] = []
        self._by_inode: dict[int, int] = {}
        self._memo: dict[tuple[int, int, tuple[int, ...]], tuple[bytes, Content]] = {}
        self._synced: dict[int, int] = {}
        self.position = 0
        self.root = self._load(recording.base)

    def _load(self, base: Mapping[str, tuple[int, Content | None]]) -> int:
        made: dict[str, int] = {}
        for path, (inode, content) in base.items():
            made[path] = self._new(inode, directory=content is None)
            self._nodes[made[path]].content = content or EMPTY
            if path:
                parent, _, name = path.rpartition("/")
                self._nodes[made[parent]].entries[name] = made[path]
                self._nodes[made[parent]].busy = True
        return made[""]

    def _new(self, inode: int, *, directory: bool) -> int:
        self._nodes.append(Node(directory, busy=not directory))
        self._by_inode[inode] = len(self._nodes) - 1
        return len(self._nodes) - 1

    def step(self) -> bool:
        """Take the next entry; returns whether it was a change, or a mark, so that there are new states to look at."""
        entry, number = self._recording.entries[self.position], self.position * 2
        self.position += 1
        if not entry.ok or entry.path.endswith("-shm"):
            return False
        match entry.op:
            case Op.OPEN:
                return self._opened(entry, number)
            case Op.WRITE | Op.TRUNCATE | Op.ALLOCATE:
                self._add(Change(number, entry, self._by_inode[entry.inode]))
            case Op.SYNC:
                self._sync(self._by_inode[entry.inode], data_only=bool(entry.flags & DATA_ONLY))
                return False
            case Op.RENAME:
                return self._renamed(entry, number)
            case Op.LINK:
                self._name(number, entry, entry.other_directory, entry.other, self._by_inode[entry.inode])
            case Op.UNLINK | Op.RMDIR:
                self._name(number, entry, entry.directory, entry.path, None)
            case Op.MKDIR:
                self._name(number, entry, entry.directory, entry.path, self._new(entry.inode, directory=True))
            case Op.MAP:
                raise AssertionError(f"{entry.path} is written through mapped memory, which is not recorded")
        return entry.op is not Op.CLOSE and (entry.op is not Op.MARK or entry.data.startswith(b"{"))

    def _opened(self, entry: Entry, number: int) -> bool:
        if entry.created:
            self._name(number, entry, entry.directory, entry.path, self._new(entry.inode, directory=False))
        elif entry.flags & 0o1000 and entry.length > 0:  # O_TRUNC
            self._add(Change(number, entry, self._by_inode[entry.inode]))
        else:
            return False
        return True

    def _renamed(self, entry: Entry, number: int) -> bool:
        if entry.replaced == entry.inode:
            return False  # two links of one file: nothing happens
        node, old, new = self._by_inode[entry.inode], _name_of(entry.path), _name_of(entry.other)
        source, target = self._by_inode[entry.directory], self._by_inode[entry.other_directory]
        if source == target:
            self._add(Change(number, entry, source, ((old, None), (new, node))))
        else:
            self._add(Change(number, entry, target, ((new, node),)))
            self._add(Change(number + 1, entry, source, ((old, None),)))
        return True

    def _name(self, number: int, entry: Entry, directory: int, path: str, node: int | None) -> None:
        self._add(Change(number, entry, self._by_inode[directory], ((_name_of(path), node),)))

    def _add(self, change: Change) -> None:
        node = self._nodes[change.node]
        node.pending.append(change)
        if not node.busy:
            node.busy = True
            for other in self._nodes:
                other.settled = None

    def _sync(self, number: int, *, data_only: bool) -> None:
        node = self._nodes[number]
        if node.directory and data_only:
            return
        if node.directory:
            node.entries, node.settled = _entries(node, {}), None
        else:
            node.content = _apply(node, {})
        node.pending = []
        self._synced[number] = self._synced.get(number, 0) + 1

    def pending(self) -> list[Change]:
        """What may be missing after a crash now, in the order of execution."""
        return sorted((change for node in self._nodes for change in node.pending), key=lambda change: change.number)

    def state(self, choices: Choices) -> State:
        return self.build(choices)[0]

    def build(self, choices: Choices) -> tuple[State, dict[str, Content]]:
        """The state that these choices leave, and the contents of its files."""
        contents: dict[str, Content] = {}
        digests: dict[str, bytes] = {}
        missing: set[str] = set()
        self._walk(self.root, "", choices, contents, digests, missing)
        return State(tuple(sorted(digests.items())), frozenset(missing)), contents

    def _walk(
        self,
        number: int,
        path: str,
        choices: Choices,
        contents: dict[str, Content],
        digests: dict[str, bytes],
        missing: set[str],
    ) -> None:
        node = self._nodes[number]
        if not node.directory:
            digests[path], contents[path] = self._content(number, choices)
            return
        if node.pending:
            children, absent = self._children(path, _entries(node, choices))
        else:
            node.settled = node.settled or self._children(path, node.entries)
            children, absent = node.settled
        for subdirectory in absent:
            missing.update(self._below[subdirectory])
        for name, child in children:
            self._walk(child, f"{path}/{name}" if path else name, choices, contents, digests, missing)

    def _children(self, path: str, entries: Mapping[str, int]) -> tuple[list[tuple[str, int]], list[str]]:
        """The entries that have to be looked into, and the directories that do not stand here."""
        children = [(name, child) for name, child in entries.items() if self._nodes[child].busy]
        return children, [known for known in self._known.get(path, []) if _name_of(known) not in entries]

    def _content(self, number: int, choices: Choices) -> tuple[bytes, Content]:
        node = self._nodes[number]
        chosen = tuple(choices.get(change.number, KEPT) for change in node.pending)
        key = number, self._synced.get(number, 0), chosen
        if key not in self._memo:
            if len(self._memo) > 200:
                self._memo.clear()  # contents may be long
            content = _apply(node, choices)
            self._memo[key] = content.digest(), content
        return self._memo[key]


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _entries(node: Node, choices: Choices) -> dict[str, int]:
    entries = dict(node.entries)
    for change in node.pending:
        if choices.get(change.number, KEPT) != LOST:
            for name, child in change.names:
                if change.number & 1 and choices.get(change.number - 1, KEPT) == LOST:
                    continue  # the new name in the other directory is lost
                if child is None:
                    entries.pop(name, None)
                else:
                    entries[name] = child
    return entries


def _apply(node: Node, choices: Choices) -> Content:
    data, size = bytearray(node.content.data), node.content.size
    for change in node.pending:
        choice, entry = choices.get(change.number, KEPT), change.entry
        if choice == LOST:
            continue
        if entry.op is Op.WRITE:
            end = entry.offset + len(entry.data)
            data.extend(bytes(max(0, end - len(data))))
            size = max(size, end)
            for start, stop in _kept_parts(change, choice):
                data[start:stop] = entry.data[start - entry.offset : stop - entry.offset]
        elif entry.op is Op.ALLOCATE:
            size = max(size, entry.offset + entry.length)
        else:
            size = entry.length if entry.op is Op.TRUNCATE else 0
            del data[size:]
    return Content(bytes(data), size)


def _kept_parts(change: Change, choice: int) -> Iterator[tuple[int, int]]:
    """The ranges of the file that a write left there."""
    start, end = change.entry.offset, change.entry.offset + len(change.entry.data)
    if choice == KEPT:
        yield start, end
        return
    first = start // SECTOR
    for sector in range(change.sectors):
        if choice >> sector & 1:
            yield max(start, (first + sector) * SECTOR), min(end, (first + sector + 1) * SECTOR)


def choices_text(choices: Choices) -> str:
    """The choices as part of a state's name: "12-" lost, "15=3f" torn with these sectors there; "all" for none."""
    parts = [f"{number}-" if choice == LOST else f"{number}={choice:x}" for number, choice in sorted(choices.items())]
    return ",".join(parts) or "all"


def parse_choices(text: str) -> dict[int, int]:
    choices: dict[int, int] = {}
    for part in [] if text == "all" else text.split(","):
        number, mark, mask = part.partition("=")
        choices[int(number.rstrip("-"))] = int(mask, 16) if mark else LOST
    return choices


def described(disk: Disk, choices: Choices) -> Iterable[str]:
    """What the choices leave out, a line each."""
    for change in disk.pending():
        choice = choices.get(change.number, KEPT)
        if choice == LOST:
            half = " (the removal of the old name)" if change.number & 1 else ""
            yield f"lost: {change.entry}{half}"
        elif choice != KEPT:
            yield f"torn: {change.entry}, sectors there: {choice:b}"
