"""The manifests and what Gestalt tools read from pyproject.toml: valid for hosts of both eras, and true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLD_HOST = Draft202012Validator(json.loads((ROOT / "tests/data/manifest_old.schema.json").read_text()))
NEW_SCHEMA = json.loads((ROOT / "tests/data/manifest_new.schema.json").read_text())
NEW_HOST = Draft202012Validator(NEW_SCHEMA)
NEW_HOST_PACKAGED = Draft202012Validator({**NEW_SCHEMA, "$ref": "#/$defs/packaged"})
MANIFESTS = ("manifest.yaml", "manifest.run.yaml")
PHASES = ("install", "build", "run")


def manifest(name: str = "manifest.yaml") -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_manifest_loads_on_old_hosts() -> None:
    OLD_HOST.validate(manifest())


@pytest.mark.parametrize("name", MANIFESTS)
def test_both_manifests_load_on_new_hosts(name: str) -> None:
    NEW_HOST.validate(manifest(name))


@pytest.mark.parametrize("schema", ["manifest_old", "manifest_new"])
def test_the_rules_of_both_eras_are_schemas(schema: str) -> None:
    Draft202012Validator.check_schema(json.loads((ROOT / f"tests/data/{schema}.schema.json").read_text()))


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
        {"entrypoint": {"artifactPath": "cas"}},
        {"iconFile": "assets/icon.png"},
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


@pytest.mark.parametrize(
    "change",
    [
        {"install": [["make", "install"]]},
        {"install": {"workdir": "."}},
        {"run": {"command": "make run"}},
        {"run": {"command": []}},
        {"run": {"command": ["make"], "shell": True}},
        {"run": {"command": ["make"], "workdir": "/srv"}},
        {"build": {"command": ["make"], "env": {"A": "b"}}},
        {"release": {"build": {"command": ["make"]}}},
        {"entrypoint": {"artifactPath": "cas"}},
        {"artifacts": []},
        {"kind": "app"},
        {"version": "1"},
        {"iconFile": "assets/icon.png"},
        {"spec": {"configSchemaPath": "/config.schema.json"}},
        {"spec": {"schema": "config.schema.json"}},
    ],
    ids=str,
)
def test_new_hosts_refuse(change: dict[str, Any]) -> None:
    assert not NEW_HOST.is_valid({**manifest("manifest.run.yaml"), **change})


def test_new_hosts_take_a_build_that_only_prepares() -> None:
    NEW_HOST.validate({**manifest("manifest.run.yaml"), "build": [["make", "install"]]})


def test_a_packaged_manifest_has_what_to_execute_and_no_phases() -> None:
    archive = {
        "entrypoint": {"artifactPath": "cas", "args": []},
        "artifacts": [{"os": "linux", "arch": "arm64", "libc": "glibc", "path": "cas", "sha256": "0" * 64}],
    }
    NEW_HOST_PACKAGED.validate({**manifest(), **archive})
    for phase in PHASES:
        assert not NEW_HOST_PACKAGED.is_valid({**manifest(), phase: manifest("manifest.run.yaml")[phase]})


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_name_no_key_twice(name: str) -> None:
    """Parsers of YAML disagree about which of two counts."""
    keys = re.findall(r"(?m)^([A-Za-z]+):", (ROOT / name).read_text())
    assert len(keys) == len(set(keys)) == len(manifest(name))


def test_run_manifest_adds_the_phases_and_nothing_else() -> None:
    full = manifest("manifest.run.yaml")
    assert {name: value for name, value in full.items() if name not in PHASES} == manifest()
    assert set(PHASES) <= set(full)
    assert not OLD_HOST.is_valid(full)


@pytest.mark.parametrize("phase", PHASES)
def test_phase_names_inputs_that_exist(phase: str) -> None:
    said = manifest("manifest.run.yaml")[phase]
    for given in said.get("inputs", []):
        assert (ROOT / given).exists()


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


@pytest.mark.parametrize("name", MANIFESTS)
def test_versions_agree(name: str) -> None:
    assert manifest(name)["version"] == PROJECT["project"]["version"]


def test_config_schema_path_names_the_schema() -> None:
    schema = json.loads((ROOT / manifest()["spec"]["configSchemaPath"]).read_text())
    Draft202012Validator.check_schema(schema)
    assert "dataDir" in schema["properties"]


def test_config_schema_suits_a_host_that_validates_before_the_provider_starts() -> None:
    """A missing config is judged as {}, defaults are not applied, secrets are opaque text, nothing is fetched (4.2)."""
    schema = json.loads((ROOT / manifest()["spec"]["configSchemaPath"]).read_text())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    judge = Draft202012Validator(schema)
    judge.validate({})
    unresolved = "__GESTALT_SECRET_REF__:" + "x" * 500
    judge.validate({"signing": {"accessKeyId": "cas", "secretAccessKey": unresolved}})
    assert not [node for node in nodes(schema) if {"$ref", "$dynamicRef", "format"} & set(node)]


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a tree of mappings and lists."""
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(child)


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
