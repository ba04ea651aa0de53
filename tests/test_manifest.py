"""The manifests and what Gestalt tools read from pyproject.toml: valid for hosts of both eras, and true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLD_HOST = Draft202012Validator(json.loads((ROOT / "tests/data/manifest_old.schema.json").read_text()))
PHASES = ("install", "build", "run")
# What each phase may say on a host that knows phases (contract 4.1).
PHASE_KEYS = {
    "install": {"command", "workdir", "inputs", "env"},
    "build": {"command", "workdir", "inputs"},
    "run": {"command", "workdir", "env"},
}


def manifest(name: str = "manifest.yaml") -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_manifest_loads_on_old_hosts() -> None:
    OLD_HOST.validate(manifest())


def test_manifest_has_only_fields_of_every_era() -> None:
    assert set(manifest()) <= {"kind", "source", "version", "displayName", "description", "iconFile", "spec"}
    assert set(manifest()["spec"]) <= {"configSchemaPath"}


@pytest.mark.parametrize(
    "change",
    [
        {"install": {"command": ["make"]}},
        {"run": {"command": ["make"]}},
        {"kind": "plugin"},
        {"source": "github.com/gestalt-cas/gestalt-cas"},
        {"source": "github.com/Gestalt-CAS/gestalt-cas/s3"},
        {"source": "example.org/gestalt-cas/gestalt-cas/s3"},
        {"version": "0.1"},
        {"version": "v0.1.0"},
        {"version": "0.01.0"},
        {"iconFile": "/icon.svg"},
        {"iconFile": "./icon.svg"},
        {"iconFile": "assets\\icon.svg"},
        {"spec": {"configSchemaPath": "../config.schema.json"}},
        {"spec": {"configSchemaPath": ""}},
        {"spec": {"schema": "config.schema.json"}},
    ],
    ids=str,
)
def test_old_hosts_refuse(change: dict[str, Any]) -> None:
    assert not OLD_HOST.is_valid({**manifest(), **change})


@pytest.mark.parametrize("missing", ["kind", "source", "version"])
def test_old_hosts_require(missing: str) -> None:
    assert not OLD_HOST.is_valid({name: value for name, value in manifest().items() if name != missing})


def test_run_manifest_adds_the_phases_and_nothing_else() -> None:
    full = manifest("manifest.run.yaml")
    assert {name: value for name, value in full.items() if name not in PHASES} == manifest()
    assert set(PHASES) <= set(full)
    assert not OLD_HOST.is_valid(full)


@pytest.mark.parametrize("phase", PHASES)
def test_phase_is_a_command_that_a_host_can_execute(phase: str) -> None:
    said = manifest("manifest.run.yaml")[phase]
    assert set(said) <= PHASE_KEYS[phase]
    assert said["command"]
    assert all(isinstance(word, str) and word.strip() for word in said["command"])
    for given in said.get("inputs", []):
        assert (ROOT / given).exists()
        assert not Path(given).is_absolute()


def test_phases_name_what_exists() -> None:
    full = manifest("manifest.run.yaml")
    program, target = full["install"]["command"]
    assert program == "make"
    assert re.search(rf"(?m)^{target}:", (ROOT / "Makefile").read_text())
    script, verb = full["run"]["command"]
    assert Path(script).name in PROJECT["project"]["scripts"]
    assert script.startswith(".venv/bin/")
    shown = subprocess.run(
        [sys.executable, "-m", "gestalt_cas", verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("name", ["manifest.yaml", "manifest.run.yaml"])
def test_versions_agree(name: str) -> None:
    assert manifest(name)["version"] == PROJECT["project"]["version"]


def test_config_schema_path_names_the_schema() -> None:
    schema = json.loads((ROOT / manifest()["spec"]["configSchemaPath"]).read_text())
    Draft202012Validator.check_schema(schema)
    assert "dataDir" in schema["properties"]


def test_icon_is_a_self_contained_svg() -> None:
    tree = ElementTree.parse(ROOT / manifest()["iconFile"])
    space = "{http://www.w3.org/2000/svg}"
    assert tree.getroot().tag == f"{space}svg"
    assert tree.getroot().get("viewBox")
    for element in tree.iter():
        assert element.tag not in (f"{space}script", f"{space}image", f"{space}foreignObject")
        assert not any(name.endswith("href") for name in element.attrib)


def read_as_old_hosts_do(text: str, key: str) -> str:
    """The value of a key in [tool.gestalt], found line by line (contract 4.3); "" when it is not there."""
    section = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\s*\[(.+)\]\s*", line):
            section = header[1]
        elif section == "tool.gestalt" and (entry := re.fullmatch(rf'\s*{key}\s*=\s*"([^"]*)"\s*', line)):
            return entry[1]
    return ""


@pytest.mark.parametrize("key", ["provider", "s3"])
def test_project_names_the_provider_for_both_eras(key: str) -> None:
    target = PROJECT["tool"]["gestalt"][key]
    assert target == "gestalt_cas.provider:provider"
    assert read_as_old_hosts_do((ROOT / "pyproject.toml").read_text(), key) == target


def test_provider_target_is_importable_from_the_manifest_directory() -> None:
    module, _, attribute = PROJECT["tool"]["gestalt"]["provider"].partition(":")
    # In a process of its own: importing the SDK changes the environment and starts telemetry.
    script = f"import sys; sys.path.insert(0, '.'); from {module} import {attribute}; print(type({attribute}).__name__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The SDK's adapter, which is a PluginProviderAdapter up to 0.0.1a19 and an AppProviderAdapter later.
    assert done.stdout.strip().endswith("ProviderAdapter")
