"""The built package: complete, installable elsewhere, quick to import, and honest about what it depends on."""

from __future__ import annotations

import ast
import email
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path

import pytest

from packaged import ROOT, Installed, build_package

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SLOW_TO_IMPORT = {"alembic", "gestalt", "google.protobuf", "grpc", "jsonschema", "opentelemetry", "sqlalchemy"}


def sources(folder: str) -> set[str]:
    """Files below a folder of the checkout that are part of the project, as paths from the checkout."""
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of the checkout, and the wheel that was built from that sdist."""
    return build_package(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    return Installed(tmp_path_factory.mktemp("elsewhere"), wheel)


def test_sdist_holds_every_source(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    single = {
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "config.schema.json",
        "manifest.run.yaml",
        "manifest.yaml",
        "pyproject.toml",
    }
    folders = ("assets", "docs", "gestalt_cas", "migrations", "tests")
    expected = single.union(*map(sources, folders))
    assert not expected - inside
    assert not [name for name in inside if name.startswith((".venv", ".data", ".build")) or "__pycache__" in name]


def test_wheel_holds_package_migrations_schema_and_icon_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    migrations = {f"gestalt_cas/{name}" for name in sources("migrations")}
    data = {"gestalt_cas/config.schema.json", "gestalt_cas/icon.svg"}
    assert inside == sources("gestalt_cas") | migrations | data
    assert "gestalt_cas/py.typed" in inside
    assert {"gestalt_cas/migrations/env.py", "gestalt_cas/migrations/script.py.mako"} <= inside
    assert [name for name in inside if name.startswith("gestalt_cas/migrations/versions/0001")]


def test_wheel_metadata_is_complete(wheel_metadata: Message) -> None:
    assert wheel_metadata["Name"] == "gestalt-cas"
    assert wheel_metadata["Version"] == PROJECT["version"]
    assert wheel_metadata["License-Expression"] == "Apache-2.0"
    assert wheel_metadata["License-File"] == "LICENSE"
    assert wheel_metadata["Requires-Python"] == ">=3.11"
    assert wheel_metadata["Description-Content-Type"] == "text/markdown"
    assert wheel_metadata.get_payload(decode=True) == (ROOT / "README.md").read_bytes()
    assert wheel_metadata["Summary"]
    assert wheel_metadata["Keywords"]


def test_license_is_the_whole_apache_license() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_installed_package_is_the_one_that_is_imported(installed: Installed) -> None:
    found, path = installed.evaluate(
        "import gestalt_cas, json, sys; print(json.dumps([gestalt_cas.__file__, sys.path]))"
    )
    assert Path(found).is_relative_to(installed.environment)
    assert not [entry for entry in path if entry and Path(entry).resolve() == ROOT]


def test_installed_package_opens_a_new_store(installed: Installed) -> None:
    script = """
import json
from gestalt_cas import Store
from gestalt_cas.objects import ObjectKey
with Store.open("store") as store:
    key = ObjectKey("", "greetings/hello.txt")
    store.write(key, [b"hel", b"lo"])
    with store.read(key) as reader:
        content = reader.read()
    print(json.dumps([bytes(content).decode(), str(store.directory)]))
"""
    content, directory = installed.evaluate(script)
    assert content == "hello"
    assert Path(directory).resolve() == (installed.home / "store").resolve()


def test_every_public_name_is_there_and_shown(installed: Installed) -> None:
    """`dir` is what completes names in an interpreter; the names themselves are loaded when first used."""
    script = """
import json
import gestalt_cas as found
assert set(found.__all__) <= set(dir(found))
assert all(getattr(found, name).__doc__ for name in found.__all__)
print(json.dumps([found.ObjectReader.__name__, found.ListPage.__name__, found.Usage.__name__]))
"""
    assert installed.evaluate(script) == ["ObjectReader", "ListPage", "Usage"]


def test_installed_command_puts_and_gets(installed: Installed) -> None:
    payload = bytes(range(256)) * 5000
    installed.command("init", "--data-dir", "from-command")
    installed.command("put", "--data-dir", "from-command", "-", "photos/a.bin", data=payload)
    assert installed.command("cat", "--data-dir", "from-command", "photos/a.bin") == payload
    installed.command("cat", "--data-dir", "from-command", "photos/b.bin", expect=1)


def test_installed_package_reads_its_config_schema(installed: Installed) -> None:
    assert installed.evaluate(
        "import json; from gestalt_cas.configuration import config_schema; print(json.dumps(config_schema.schema()))"
    ) == json.loads((ROOT / "config.schema.json").read_text())


LIST_MODULES = """
import json, sys
try:
    {script}
except SystemExit as stop:
    assert not stop.code, stop.code
print()
print(json.dumps(list(sys.modules)))
"""


def modules_after(script: str) -> list[str]:
    """The modules that a fresh interpreter holds after one line of Python, which may end in SystemExit."""
    command = [sys.executable, "-c", LIST_MODULES.format(script=script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "script",
    [
        "import gestalt_cas",
        "from gestalt_cas import cli; sys.argv = ['gestalt-cas', '--help']; cli.main()",
        "from gestalt_cas import cli; sys.argv = ['gestalt-cas', 'serve', '--help']; cli.main()",
    ],
)
def test_import_and_help_load_nothing_slow(script: str) -> None:
    loaded = modules_after(script)
    assert any(name.startswith("gestalt_cas") for name in loaded)
    assert not SLOW_TO_IMPORT.intersection(loaded)


def test_slow_modules_are_seen_when_they_are_loaded() -> None:
    assert SLOW_TO_IMPORT & set(modules_after("import sqlalchemy"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a source file imports, those under TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def normalized(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_every_imported_package_is_declared() -> None:
    extra = PROJECT["optional-dependencies"]["conformance"]
    declared = {normalized(requirement) for requirement in (*PROJECT["dependencies"], *extra)}
    files = [ROOT / name for name in sources("gestalt_cas") | sources("migrations") if name.endswith(".py")]
    tops = {module.partition(".")[0] for path in files for module in imported(path)}
    third_party = tops - sys.stdlib_module_names - {"gestalt_cas"}
    assert {"sqlalchemy", "grpc", "gestalt"} <= third_party
    providers = metadata.packages_distributions()
    undeclared = {top for top in third_party if not declared & {normalized(name) for name in providers.get(top, [])}}
    assert undeclared <= {"opentelemetry"}  # used where the SDK brings it


def test_generated_code_runs_on_every_allowed_protobuf() -> None:
    """Code generated for protobuf x.y.z runs on x.y.z and later, up to the end of major version x + 1."""
    source = (ROOT / "gestalt_cas/wire_pb2.py").read_text()
    header = re.search(r"(?m)^# Protobuf Python Version: (\d+)\.(\d+)\.(\d+)$", source)
    assert header
    generated = tuple(int(part) for part in header.groups())
    (allowed,) = (requirement for requirement in PROJECT["dependencies"] if normalized(requirement) == "protobuf")
    bounds = re.fullmatch(r"protobuf>=(\d+)\.(\d+)\.(\d+),<(\d+)", allowed)
    assert bounds
    *oldest, beyond = (int(part) for part in bounds.groups())
    assert generated <= tuple(oldest)
    assert beyond <= generated[0] + 2


def test_the_interpreters_that_are_declared_are_those_that_are_run() -> None:
    makefile = re.search(r"(?m)^PYTHONS \?= (.*)$", (ROOT / "Makefile").read_text())
    assert makefile
    prefix = "Programming Language :: Python :: 3."
    declared = [line.removeprefix(prefix) for line in PROJECT["classifiers"] if line.startswith(prefix)]
    assert [f"python3.{minor}" for minor in declared] == makefile[1].split()
