"""What PyInstaller has to be told to put this package into one executable; see `gestalt build` of Gestalt's SDK.

PyInstaller finds modules by the imports that stand in the code. It cannot know of the migrations, which Alembic loads
as files, nor of what only they import, nor of the config schema. It finds this package's hook by the entry point in
pyproject.toml, so the package has to be installed where it runs, be it as editable. Nothing here is imported at run
time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_SCHEMA = "config.schema.json"
_NOT_OURS = {"__future__"}


def hook_directories() -> list[str]:
    """Where the hooks are: the target of the entry point `hook-dirs` of the group `pyinstaller40`."""
    return [str(Path(__file__).parent)]


def data_files(package: Path) -> list[tuple[str, str]]:
    """The files that must lie beside the modules of `package`, each with its directory in the executable.

    They are inside an installed package, and at the top of the checkout of an editable one; in the executable they are
    where an installed package has them.
    """
    migrations = _migrations(package)
    found = [
        (str(path), str(Path(package.name, "migrations", path.relative_to(migrations).parent)))
        for path in sorted(migrations.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return [*found, (str(_beside(package, _SCHEMA)), package.name)]


def hidden_imports(package: Path) -> list[str]:
    """The modules that the migrations import."""
    return sorted({name for path in _migrations(package).rglob("*.py") for name in _imports(path, package)} - _NOT_OURS)


def _migrations(package: Path) -> Path:
    return _beside(package, "migrations/env.py").parent


def _beside(package: Path, name: str) -> Path:
    for candidate in (package / name, package.parent / name):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{name} is neither in {package} nor beside it: an executable without it would not work")


def _imports(path: Path, package: Path) -> Iterator[str]:
    """The modules that a file imports; of a name taken from a folder of `package` also what may be a module of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            names = node.module.split(".")
            if names[0] == "gestalt_cas" and package.joinpath(*names[1:]).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
