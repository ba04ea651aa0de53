"""Plans of transfers against a model that looks at everything at once."""

from __future__ import annotations

from collections.abc import Iterator

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas.errors import InvalidArgument
from gestalt_cas.objects import ObjectKey, ObjectVersion
from gestalt_cas.transfers.paths import PathLimits, RemoteTree, local_parts, order, path_meant
from gestalt_cas.transfers.transfer_plans import Removal, Skip, Step, Transfer, Unchanged, plan_download, plan_upload
from gestalt_cas.transfers.walking import Entry, LocalFile, Unusable

LIMITS = PathLimits()
TARGET = RemoteTree.at("b", "p")
keys = st.lists(
    st.sampled_from(["a", "b", "a!", "a0", "é", "\U00010000", "..", ".", "", "x" * 256, "n\0"]), min_size=1, max_size=3
).map("/".join)
contents = st.sampled_from(["", "1", "2", "333"])
remotes = st.dictionaries(keys, contents, max_size=8)
paths = st.lists(st.sampled_from(["a", "b", "a!", "a0", "é", "\U00010000"]), min_size=1, max_size=3).map("/".join)


@st.composite
def locals_(draw: st.DrawFn) -> dict[str, str | None]:
    """A local tree as names with content, or None for a link: no name is above another."""
    found: dict[str, str | None] = {}
    for name, content in draw(st.dictionaries(paths, st.none() | contents, max_size=8)).items():
        if not any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in found):
            found[name] = content
    return found


def version(name: str, content: str) -> ObjectVersion:
    digest = blake3(content.encode()).hexdigest()
    return ObjectVersion(ObjectKey("b", f"p/{name}"), "v", 1, len(content), digest, 0)


def objects(remote: dict[str, str]) -> list[tuple[str, ObjectVersion]]:
    return sorted(((name, version(name, content)) for name, content in remote.items()), key=lambda pair: order(pair[0]))


def entries(local: dict[str, str | None]) -> list[Entry]:
    return [
        Unusable(name, "a symbolic link") if (content := local[name]) is None else LocalFile(name, len(content))
        for name in sorted(local, key=order)
    ]


class Comparer:
    """Compares contents, and counts how often it was asked to."""

    def __init__(self, local: dict[str, str | None]) -> None:
        self.local = local
        self.asked: list[str] = []

    def __call__(self, file: LocalFile, found: ObjectVersion) -> bool:
        assert file.size == found.size, "sizes that differ need no comparison"
        self.asked.append(file.name)
        return blake3(str(self.local[file.name]).encode()).hexdigest() == found.digest


def of(steps: list[Step], kind: type[Step]) -> list[str]:
    return [step.name for step in steps if isinstance(step, kind)]


def protected(name: str, skipped: set[str]) -> bool:
    return any(name == other or name.startswith(f"{other}/") for other in skipped)


@given(locals_(), remotes, st.booleans())
def test_upload_plan_against_the_model(local: dict[str, str | None], remote: dict[str, str], delete: bool) -> None:
    comparer = Comparer(local)
    steps = list(plan_upload(entries(local), objects(remote), TARGET, comparer, delete=delete))
    skipped = {name for name, content in local.items() if content is None}
    same = {name for name, content in local.items() if content is not None and remote.get(name) == content}
    assert set(of(steps, Skip)) == skipped
    assert set(of(steps, Unchanged)) == same
    assert set(of(steps, Transfer)) == local.keys() - skipped - same
    removed = {name for name in remote if name not in local and not protected(name, skipped)} if delete else set()
    assert set(of(steps, Removal)) == removed
    assert len(steps) == len({step.name for step in steps})
    assert all(isinstance(step, Removal) for step in steps[len(steps) - len(removed) :])
    for step in steps:
        if isinstance(step, Transfer):
            assert step.reason == ("differs" if step.name in remote else "new")
            assert step.size == len(local[step.name] or "")


def fits(name: str) -> bool:
    try:
        local_parts(name, LIMITS)
    except InvalidArgument:
        return False
    return True


@given(remotes, locals_(), st.booleans())
def test_download_plan_against_the_model(remote: dict[str, str], local: dict[str, str | None], delete: bool) -> None:
    steps = list(plan_download(objects(remote), entries(local), LIMITS, Comparer(local), delete=delete))
    taken: set[str] = set()
    for name in sorted(remote, key=order):
        linked = name in local and local[name] is None
        below_a_file = any(name.startswith(f"{other}/") for other in taken)
        if fits(name) and not linked and not below_a_file:
            taken.add(name)
    skipped = remote.keys() - taken
    assert set(of(steps, Skip)) == skipped
    same = {name for name in taken if local.get(name) == remote[name]}
    assert set(of(steps, Unchanged)) == same
    assert set(of(steps, Transfer)) == taken - same
    meant = {path_meant(name) for name in skipped} - {""}
    extra = {name for name, content in local.items() if content is not None and name not in remote}
    assert set(of(steps, Removal)) == ({name for name in extra if not protected(name, meant)} if delete else set())
    for step in steps:
        if isinstance(step, Transfer):
            assert step.size == len(remote[step.name])
            assert step.version == version(step.name, remote[step.name])


@given(remotes)
def test_what_is_downloaded_can_all_be_written_side_by_side(remote: dict[str, str]) -> None:
    steps = list(plan_download(objects(remote), (), LIMITS, Comparer({}), delete=True))
    written = of(steps, Transfer)
    assert not any(one.startswith(f"{other}/") for one in written for other in written)
    assert not of(steps, Removal)


@given(locals_())
def test_a_second_run_has_nothing_to_do(local: dict[str, str | None]) -> None:
    stored = {name: content for name, content in local.items() if content is not None}
    up = list(plan_upload(entries(local), objects(stored), TARGET, Comparer(local), delete=True))
    down = list(plan_download(objects(stored), entries(local), LIMITS, Comparer(local), delete=True))
    assert {type(step) for step in up} <= {Unchanged, Skip}
    assert {type(step) for step in down} <= {Unchanged}


def test_plans_read_both_sides_only_as_far_as_they_are_asked() -> None:
    taken: list[str] = []

    def endless() -> Iterator[Entry]:
        for number in range(10**9):
            taken.append(name := f"{number:010}")
            yield LocalFile(name, 1)

    plan = plan_upload(endless(), (), TARGET, Comparer({}), delete=True)
    for _ in range(3):
        next(plan)
    assert len(taken) <= 5


def test_an_object_and_objects_below_it() -> None:
    found = objects({"a": "1", "a!": "1", "a!/x": "1", "a/b": "1", "a/b/c": "1", "a0": "1", "a0/": "1"})
    steps = list(plan_download(found, (), LIMITS, Comparer({}), delete=False))
    assert of(steps, Transfer) == ["a", "a!", "a0"]
    assert [(step.name, step.reason) for step in steps if isinstance(step, Skip)] == [
        ("a!/x", "'a!' is an object too, and cannot be a file and a directory"),
        ("a/b", "'a' is an object too, and cannot be a file and a directory"),
        ("a/b/c", "'a' is an object too, and cannot be a file and a directory"),
        ("a0/", "it has an empty part, which no path can hold"),
    ]


def test_skipped_names_are_left_alone_on_the_other_side() -> None:
    local: list[Entry] = [Unusable("closed", "Permission denied", directory=True), LocalFile("x", 1)]
    remote = objects({"closed": "1", "closed/a": "1", "closed/a/b": "1", "closed!": "1"})
    up = list(plan_upload(local, remote, TARGET, Comparer({}), delete=True))
    assert of(up, Removal) == ["closed!"]
    down = plan_download(
        objects({"a/../b": "1", "c//d": "1"}),
        entries({"b": "1", "c/d": "1", "e": "1"}),
        LIMITS,
        Comparer({}),
        delete=True,
    )
    assert of(list(down), Removal) == ["e"]


def test_files_that_cannot_be_compared_or_named_are_skipped() -> None:
    def refuse(file: LocalFile, found: ObjectVersion) -> bool:
        raise PermissionError(13, "Permission denied", file.name)

    local = {"a": "1", "b": "22"}
    remote = objects({"a": "2", "b": "1"})
    for steps in (
        list(plan_upload(entries(local), remote, TARGET, refuse, delete=True)),
        list(plan_download(remote, entries(local), LIMITS, refuse, delete=True)),
    ):
        assert steps[0] == Skip("a", "Permission denied")
        assert isinstance(steps[1], Transfer)
        assert len(steps) == 2
    odd: list[Entry] = [
        LocalFile(".gestalt-cas-0123456789abcdef.part", 1),
        LocalFile("/".join(["x" * 200] * 11), 1),
        LocalFile("\udcff", 1),
    ]
    reasons = [step.reason for step in plan_upload(odd, (), TARGET, refuse, delete=False) if isinstance(step, Skip)]
    assert len(reasons) == 3
    assert "killed transfer" in reasons[0]
    assert "2048" in reasons[1]
    assert "UTF-8" in reasons[2]
