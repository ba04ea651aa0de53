"""The model of the disk allows what POSIX allows, no more, no less: small histories and all states they may leave."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from crash.disk import (
    LOST,
    Content,
    Disk,
    Recording,
    choices_text,
    parse_choices,
)
from crash.enumeration import Plan, candidates, systematic
from crash.shim import CREATED, DATA_ONLY, Entry, Op

ROOT, SUB = 1, 2
O_TRUNC = 0o1000


class History:
    """Writes down entries as the shim would; inodes are given out by name."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.inodes: dict[str, int] = {}
        self.base: dict[str, tuple[int, Content | None]] = {"": (ROOT, None), "sub": (SUB, None)}

    def _add(self, op: Op, path: str, **fields: int | str | bytes) -> History:
        given = {"fault": None, "pid": 1, "result": 0, "error": 0, "device": 1, "replaced": 0, "offset": 0, "length": 0}
        given |= {"inode": self.inodes.get(path, 0), "directory": self._directory(path), "flags": 0, "other": ""}
        given |= {"other_directory": 0, "data": b""}
        self.entries.append(Entry(op=op, path=path, **{**given, **fields}))  # type: ignore[arg-type]
        return self

    def _directory(self, path: str) -> int:
        return SUB if path.startswith("sub/") else ROOT

    def has(self, path: str, data: bytes) -> History:
        self.inodes[path] = 100 + len(self.inodes)
        self.base[path] = self.inodes[path], Content(data, len(data))
        return self

    def create(self, path: str) -> History:
        self.inodes[path] = 100 + len(self.inodes)
        return self._add(Op.OPEN, path, flags=CREATED, length=-1)

    def write(self, path: str, data: bytes, offset: int = 0) -> History:
        return self._add(Op.WRITE, path, offset=offset, length=len(data), result=len(data), data=data)

    def truncate(self, path: str, length: int) -> History:
        return self._add(Op.TRUNCATE, path, length=length)

    def emptied(self, path: str, size: int) -> History:
        return self._add(Op.OPEN, path, flags=O_TRUNC, length=size)

    def sync(self, path: str, flags: int = 0, result: int = 0) -> History:
        inode = {"": ROOT, "sub": SUB}.get(path) or self.inodes[path]
        return self._add(Op.SYNC, path, inode=inode, flags=flags, result=result)

    def link(self, path: str, other: str) -> History:
        self.inodes[other] = self.inodes[path]
        return self._add(Op.LINK, path, other=other, other_directory=self._directory(other))

    def rename(self, path: str, other: str) -> History:
        replaced, inode = self.inodes.get(other, 0), self.inodes[path]
        self._add(Op.RENAME, path, other=other, other_directory=self._directory(other), replaced=replaced)
        if replaced != inode:
            self.inodes[other] = self.inodes.pop(path)
        return self

    def unlink(self, path: str) -> History:
        return self._add(Op.UNLINK, path)

    def states(self) -> set[tuple[tuple[str, bytes], ...]]:
        """Every state after the last entry, torn writes included."""
        disk = Disk(Recording(self.base, self.entries))
        while disk.position < len(self.entries):
            disk.step()
        found = set()
        for choices in systematic(disk.pending()):
            _, contents = disk.build(choices)
            whole = ((path, (c.data + bytes(c.size))[: c.size]) for path, c in contents.items())
            found.add(tuple(sorted(whole)))
        return found


def states(*files: dict[str, bytes]) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted(state.items())) for state in files}


A, B = b"a" * 512, b"b" * 512

CASES: dict[str, tuple[Callable[[History], History], list[dict[str, bytes]]]] = {
    "nothing synced": (
        lambda h: h.create("f").write("f", b"x"),
        [{}, {"f": b""}, {"f": b"x"}, {"f": b"\0"}],
    ),
    "the file synced, not its directory": (
        lambda h: h.create("f").write("f", b"x").sync("f", DATA_ONLY),
        [{}, {"f": b"x"}],
    ),
    "the directory synced, not the file": (
        lambda h: h.create("f").write("f", b"x").sync(""),
        [{"f": b""}, {"f": b"x"}, {"f": b"\0"}],
    ),
    "both synced": (lambda h: h.create("f").write("f", b"x").sync("f").sync(""), [{"f": b"x"}]),
    "the directory synced without its names": (
        lambda h: h.create("f").sync("f").sync("", DATA_ONLY),
        [{}, {"f": b""}],
    ),
    "a sync that failed": (lambda h: h.create("f").sync("", result=-1), [{}, {"f": b""}]),
    "a sync of another directory": (lambda h: h.create("f").sync("sub"), [{}, {"f": b""}]),
    "a torn write over other bytes": (
        lambda h: h.has("f", A + A).write("f", B + B),
        [{"f": A + A}, {"f": B + B}, {"f": A + B}, {"f": B + A}],
    ),
    "writes lost one by one": (
        lambda h: h.has("f", b"").write("f", A).write("f", B, 512),
        [{"f": x} for x in (b"", A, bytes(512), A + B, bytes(512) + B, A + bytes(512))],
    ),
    "a truncation and a write": (
        lambda h: h.has("f", b"old").truncate("f", 0).write("f", b"n"),
        [{"f": x} for x in (b"old", b"nld", b"", b"n", b"\0")],
    ),
    "emptied by opening": (lambda h: h.has("f", b"old").emptied("f", 3), [{"f": b"old"}, {"f": b""}]),
    "a rename in one directory": (lambda h: h.has("f", b"x").rename("f", "g"), [{"f": b"x"}, {"g": b"x"}]),
    "a rename that replaces": (
        lambda h: h.has("f", b"new").has("g", b"old").rename("f", "g"),
        [{"f": b"new", "g": b"old"}, {"g": b"new"}],
    ),
    "a rename over another link of the file": (
        lambda h: h.has("f", b"x").link("f", "g").sync("").rename("f", "g"),
        [{"f": b"x", "g": b"x"}],
    ),
    "a rename across directories": (
        lambda h: h.has("f", b"x").rename("f", "sub/g"),
        [{"f": b"x"}, {"sub/g": b"x"}, {"f": b"x", "sub/g": b"x"}],
    ),
    "a link and the removal of the first name": (
        lambda h: h.has("f", b"x").link("f", "sub/g").sync("sub").unlink("f"),
        [{"sub/g": b"x"}, {"f": b"x", "sub/g": b"x"}],
    ),
    "a removal that is undone": (lambda h: h.has("f", b"x").unlink("f"), [{"f": b"x"}, {}]),
}


@pytest.mark.parametrize("case", CASES)
def test_states_after(case: str) -> None:
    work, expected = CASES[case]
    assert work(History()).states() == states(*expected)


def test_a_directory_that_is_lost_takes_along_what_was_in_it() -> None:
    history = History()
    history._add(Op.MKDIR, "new", inode=3)
    history.inodes["new/f"] = 200
    history._add(Op.OPEN, "new/f", directory=3, inode=200, flags=CREATED)
    history._add(Op.SYNC, "new", inode=3)
    assert history.states() == states({}, {"new/f": b""})


def test_a_reused_inode_is_another_file() -> None:
    history = History().create("f").write("f", b"x").sync("f").sync("").unlink("f").sync("")
    history.inodes["g"] = history.inodes["f"]
    history._add(Op.OPEN, "g", flags=CREATED)
    assert history.states() == states({}, {"g": b""})


def test_many_pending_changes_are_looked_at_one_by_one() -> None:
    history = History()
    for number in range(10):
        history.create(f"{number}")
    found = history.states()
    names = [f"{number}" for number in range(10)]
    for lost in range(10):
        assert tuple((name, b"") for name in names if name != names[lost]) in found
        assert ((names[lost], b""),) in found
    assert () in found
    assert len(found) == 22


def test_random_subsets_come_from_the_seed() -> None:
    history = History()
    for number in range(10):
        history.create(f"{number}")
    recording = Recording(history.base, history.entries)

    def drawn(seed: int) -> list[str]:
        plan = Plan(seed, 1.0, 20, systematic=False)
        return [choices_text(candidate.choices) for _, candidate in candidates(recording, plan)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_names_of_states_can_be_read_again() -> None:
    for choices in ({}, {12: LOST}, {12: LOST, 15: 0x3F, 16: 0}):
        assert parse_choices(choices_text(choices)) == choices


def test_states_that_differ_in_random_names_are_one() -> None:
    def key(name: str, data: bytes) -> bytes:
        history = History()
        history.base["staging"] = (3, None)
        history.inodes[name] = 300
        history._add(Op.OPEN, name, directory=3, flags=CREATED)
        history.write(name, data).sync(name)
        disk = Disk(Recording(history.base, history.entries))
        while disk.position < len(history.entries):
            disk.step()
        return disk.state({}).key()

    names, contents = ("staging/1.part", "staging/2.part"), (b"x", b"y")
    keys = {(name, data): key(name, data) for name, data in itertools.product(names, contents)}
    assert keys[names[0], b"x"] == keys[names[1], b"x"] != keys[names[0], b"y"]
    assert key("staging/1.link", b"x") != keys[names[0], b"x"]
