"""The layers: a module imports from lower ones and from its own, so each can be read knowing nothing of those above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "gestalt_cas"
LAYERS = (
    {"clock", "errors", "figures", "objects", "progress", "request_ids", "sizes", "system"},
    {"configuration", "rules"},
    {"files", "formats", "keeping", "remedies", "rows", "sql", "transactions", "wrong_values"},
    {"backups", "checks", "counting", "doctor", "operations", "past", "removal", "statistics", "store", "time_travel"}
    | {"transfers", "upkeep"},
    {"__main__", "_pyinstaller", "cli", "conformance", "contract", "http", "observing", "provider", "server", "serving"}
    | {"wire_pb2"},
)
"""The rooms of each layer: folders, and modules that stand beside them."""
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
ONLY_IN = {
    "gestalt": {"observing", "provider"},
    "opentelemetry": {"observing"},
    "sqlite3": set(),
    "apsw": {"formats.dbapi", "sql.sqlite"},
    "sqlalchemy": {"checks", "formats.migrating", "formats.tables"},
    "alembic": {"formats.migrating"},
    "fcntl": {"doctor", "files.staging", "http.http_downloads", "system.locks", "system.platforms"},
    "aiohttp": {"http"},
    "google_crc32c": {"http.http_uploads"},
    "click": {"cli"},
    "rich": {"cli"},
}
"""Libraries that only these rooms, or modules of them, may import."""


def room(name: str) -> str:
    """The folder, or the module beside the folders, that a dotted name below the package belongs to."""
    return name.partition(".")[0]


def named(path: Path) -> str:
    """The dotted name of a module below the package; a folder's `__init__` has the folder's."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    named(path): path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or path.name != "__init__.py"
}
ROOMS = {room(name) for name in MODULES}


@cache
def imports(module: str) -> tuple[tuple[str, ...], ...]:
    """Dotted names of everything that a module imports, wherever in it."""
    return tuple(_imports(MODULES[module]))


def _imports(path: Path) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = tuple((node.module or "").split("."))
            yield from ((*module, alias.name) for alias in node.names)


def ours(module: str) -> set[str]:
    """The modules of this package that one of them imports, by the longest name that is a module."""
    found = set()
    for name in imports(module):
        if name[0] == "gestalt_cas":
            beginnings = (".".join(name[1:end]) for end in range(len(name), 1, -1))
            found.add(next((each for each in beginnings if each in MODULES), ""))
    return found - {module, ""}


def rooms_of(module: str) -> set[str]:
    """The other rooms that a module imports from."""
    return {room(name) for name in ours(module)} - {room(module)}


def test_every_room_has_its_layer() -> None:
    assert set(LAYER) == ROOMS


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_lower_layers_or_the_same(module: str) -> None:
    assert not {name for name in rooms_of(module) if LAYER[name] > LAYER[room(module)]}


def test_no_module_needs_itself() -> None:
    refuse_cycles({module: ours(module) for module in MODULES})


def test_no_room_needs_itself() -> None:
    """So there is an order in which the rooms can be read, each knowing nothing of those after it."""
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module in MODULES:
        graph[room(module)] |= rooms_of(module)
    refuse_cycles(graph)


def refuse_cycles(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_conformance_kit_knows_the_contract_only() -> None:
    """It judges any provider, and shares no mistake with the store."""
    assert not {name for module in MODULES if room(module) == "conformance" for name in rooms_of(module)}


def test_rows_and_files_do_not_know_each_other() -> None:
    known: dict[str, set[str]] = {name: set() for name in ROOMS}
    for module in MODULES:
        known[room(module)] |= rooms_of(module)
    assert not known["rows"] & {"files"}
    assert not known["files"] & {"formats", "keeping", "rows", "transactions"}


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    users = {module for module in MODULES if any(name[0] == library for name in imports(module))}
    assert {module if module in ONLY_IN[library] else room(module) for module in users} == ONLY_IN[library]


@pytest.mark.parametrize("library", ["grpc", "google"])
def test_the_protocol_stays_at_the_edge(library: str) -> None:
    users = {module for module in MODULES if any(name[0] == library for name in imports(module))}
    assert users
    assert {LAYER[room(module)] for module in users} == {len(LAYERS) - 1}
