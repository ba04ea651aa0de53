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
    {"clock", "cycles", "errors", "exhaustion", "figures", "objects", "ownership", "platforms", "progress"}
    | {"request_ids", "sizes"},
    {
        "chunks",
        "conditions",
        "config",
        "config_schema",
        "config_sources",
        "frames",
        "http_errors",
        "http_fields",
        "listing",
    }
    | {"presign", "ranges", "sigv4", "stamps", "tokens", "urls"},
    {"answers", "blob_rows", "blobs", "buckets", "commits", "connections", "database", "database_faults"}
    | {"dbapi", "durability", "history", "holds", "inlined", "keys", "layout", "locks", "migrating", "moments"}
    | {"payload_files", "pins", "place", "quarantine", "quotas", "reachability", "readers", "refusals", "remedies"}
    | {"lost_digests", "text_rules", "wrong_rows"}
    | {"removals", "reserve", "retention", "rollback_rows", "schema", "settings", "snapshots", "sqlite", "staging"}
    | {"statements", "tables", "upgrade", "value_rules", "version_ids", "version_rows", "version_walks", "versions"}
    | {"wal", "wal_file"},
    {
        "allowances",
        "backups",
        "batches",
        "changes",
        "checks",
        "clock_guard",
        "counting",
        "diffs",
        "directories",
        "doctor",
        "garbage",
        "heartbeats",
        "horizons",
        "intake",
        "pages",
        "parts",
        "past",
        "paths",
    }
    | {"payloads", "proofs", "purging", "releases", "retention_previews", "retention_runs", "rollback"}
    | {
        "rollback_plans",
        "soundness",
        "standing",
        "statistics",
        "store",
        "strays",
        "sweeps",
        "transfer_plans",
        "upkeep",
        "walking",
    },
    {"__main__", "_pyinstaller", "calls", "cli", "conformance", "cors", "endpoint", "host", "http_downloads"}
    | {"http_monitoring", "http_objects", "http_server", "http_side", "http_uploads", "lifecycle", "logs", "messages"}
    | {"mounts", "observing", "patience", "pools", "processors", "provider", "reach", "rpc", "server"}
    | {"targets", "uploads", "wire_pb2"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
ONLY_IN = {
    "gestalt": {"observing", "provider"},
    "opentelemetry": {"observing"},
    "sqlite3": set(),
    "apsw": {"dbapi", "sqlite"},
    "sqlalchemy": {"checks", "migrating", "tables"},
    "alembic": {"migrating"},
    "fcntl": {"doctor", "http_downloads", "locks", "platforms", "staging"},
    "aiohttp": {"cors", "endpoint", "http_downloads", "http_monitoring", "http_objects", "http_server", "http_uploads"},
    "google_crc32c": {"http_uploads"},
    "click": {"cli"},
    "rich": {"cli"},
}
"""Libraries that only these modules may import."""


def room(path: Path) -> str:
    """The name that the table of layers has for a file; a folder is one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)
ROOMS = sorted({room(path) for path in FILES})


@cache
def imports(path: Path) -> tuple[tuple[str, ...], ...]:
    """Dotted names of everything that a file imports, wherever in it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, ...]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = tuple((node.module or "").split("."))
            yield from ((*module, alias.name) for alias in node.names) if module == ("gestalt_cas",) else (module,)


def ours(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    return {name[1] for name in imports(path) if name[0] == "gestalt_cas" and name[1] != "__version__"} - {room(path)}


def test_every_module_has_its_layer() -> None:
    assert set(ROOMS) == set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_come_from_lower_layers_or_the_same(path: Path) -> None:
    above = {name for name in ours(path) if LAYER[name] > LAYER[room(path)]}
    assert not above


def test_no_module_needs_itself() -> None:
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in FILES:
        graph[room(path)] |= ours(path)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_the_conformance_kit_knows_the_contract_only() -> None:
    """It judges any provider, and shares no mistake with the store."""
    assert not {name for path in FILES if room(path) == "conformance" for name in ours(path)}


def test_rows_and_files_do_not_know_each_other() -> None:
    assert not {"blobs", "reserve"} & ours(PACKAGE / "versions.py")
    for files in ("blobs.py", "staging.py"):
        assert not {"versions", "schema", "sqlite", "database"} & ours(PACKAGE / files)


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    users = {room(path) for path in FILES if any(name[0] == library for name in imports(path))}
    assert users == ONLY_IN[library]


@pytest.mark.parametrize("library", ["grpc", "google"])
def test_the_protocol_stays_at_the_edge(library: str) -> None:
    users = {room(path) for path in FILES if any(name[0] == library for name in imports(path))}
    assert users
    assert {LAYER[name] for name in users} == {len(LAYERS) - 1}
