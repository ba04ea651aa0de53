"""Every sync in the package, found in its source, and how to leave one out in a running process.

A site is a call of `sync_file` or `sync_directory` outside durability.py, or a function that sets SQLite's
`synchronous=FULL`. Its name is module:function:what, with #2 and so on for further ones in the same function. New code
is looked at as it is written: nothing here names a module of the package.
"""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import gestalt_cas

SYNCS = ("sync_file", "sync_directory")
SPARE = {
    "doctor.disk:_syncs:sync_file": "a measurement, which tests/test_doctor.py misses when it is left out",
    "transactions.wal_file:WalFile._extend:sync_file": (
        "room that nothing relies on; it bounds what a commit may wait for"
    ),
}
"""Syncs that nothing on the disk depends on."""
PRAGMA, WEAKER = "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"


@dataclass(frozen=True, slots=True)
class Site:
    name: str
    module: str
    what: str
    first: int
    last: int

    @property
    def is_pragma(self) -> bool:
        return self.what == "synchronous"


@functools.cache
def find() -> list[Site]:
    """All sites of the package."""
    package = Path(gestalt_cas.__file__).parent
    found: list[Site] = []
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts)
        source = path.read_text()
        if module != "system.durability" and any(word in source for word in (*SYNCS, "synchronous")):
            found.extend(_numbered(_in_tree(ast.parse(source), module, "")))
    return found


def _in_tree(tree: ast.AST, module: str, scope: str) -> Iterator[Site]:
    for node in ast.iter_child_nodes(tree):
        inner = scope
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = f"{scope}.{node.name}".lstrip(".")
        what = _sync_in(node)
        if what:
            lines = node.lineno, node.end_lineno or node.lineno  # type: ignore[attr-defined]
            yield Site(f"{module}:{scope}:{what}", module, what, *lines)
        yield from _in_tree(node, module, inner)


def _sync_in(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        return name if name in SYNCS else ""
    return "synchronous" if isinstance(node, ast.Constant) and node.value == PRAGMA else ""


def _numbered(found: Iterator[Site]) -> Iterator[Site]:
    seen: dict[str, int] = {}
    for site in found:
        seen[site.name] = seen.get(site.name, 0) + 1
        name = site.name if seen[site.name] == 1 else f"{site.name}#{seen[site.name]}"
        yield Site(name, site.module, site.what, site.first, site.last)


def watch(mark: Callable[[str], None], *, leave_out: str | None) -> None:
    """Mark each site in the log when it is reached, and leave one out, in this process and those forked from it."""
    sites = find()
    assert leave_out is None or leave_out in {site.name for site in sites}, f"there is no site {leave_out}"
    for site in sites:
        module = importlib.import_module(f"gestalt_cas.{site.module}")
        if not site.is_pragma:
            _replace_calls(
                module, site.what, [other for other in sites if other.module == site.module], mark, leave_out
            )
        elif site.name == leave_out:
            _weaken(module, site)


def _replace_calls(
    module: Any, what: str, sites: list[Site], mark: Callable[[str], None], leave_out: str | None
) -> None:
    if not hasattr(module, what) or hasattr(getattr(module, what), "watched"):
        return
    real = getattr(module, what)

    def sync(argument: Any) -> None:
        line = sys._getframe(1).f_lineno
        names = [site.name for site in sites if site.what == what and site.first <= line <= site.last]
        mark(f"site {names[0]}")
        if names[0] != leave_out:
            real(argument)

    sync.watched = True  # type: ignore[attr-defined]
    setattr(module, what, sync)


def _weaken(module: Any, site: Site) -> None:
    owner: Any = module
    for name in site.name.split(":")[1].split("."):
        owner = getattr(owner, name)
    assert isinstance(owner, FunctionType)
    constants = tuple(WEAKER if constant == PRAGMA else constant for constant in owner.__code__.co_consts)
    owner.__code__ = owner.__code__.replace(co_consts=constants)
