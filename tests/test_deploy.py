"""The samples of docs/deploy: they agree with the command line, the schema and each other, and what they start runs.

What they start is run under the user, the read-only root and the volume that they name (sandbox.py). That a container
engine, systemd and Kubernetes themselves take them was tried by hand; docs/deploy/README.md says how far.
"""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import sandbox
from command_line import process
from gestalt_cas import ObjectKey, Store
from gestalt_cas.cli import exits
from gestalt_cas.cli.app import VERBS, app
from gestalt_cas.configuration import config, config_sources
from gestalt_cas.configuration.config import Config
from gestalt_cas.http.http_monitoring import HEALTHZ, METRICS
from sandbox import PROGRAM, Sample

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "docs" / "deploy"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
UNITS = ["gestalt-cas.service", "gestalt-cas-backup.service"]


# ---- reading the samples ----


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines, as instruction and argument; continued ones in one."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def instruction(name: str) -> str:
    """The argument of an instruction that there is once."""
    (found,) = [argument for word, argument in instructions() if word == name]
    return found


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(instruction("ENV")))


def unit(name: str) -> dict[str, list[str]]:
    """The directives of a unit's [Service] and [Unit], each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            directive, _, value = line.partition("=")
            found.setdefault(directive, []).append(value)
    return found


def kubernetes() -> dict[str, Any]:
    """The objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    assert isinstance(found, dict)
    return found


def parsed(text: str) -> Config:
    return config.parse(config_sources.merge(yaml.safe_load(text), {"dataDir": "/somewhere"}))


def option(command: list[str], name: str) -> str:
    """The value of an option of a command, in either form."""
    (found,) = re.findall(rf"(?:^|\s){name}[= ](\S+)", " ".join(command))
    return str(found)


def served(command: list[str], environment: dict[str, str]) -> str:
    """The data directory of a command."""
    return option(command, "--data-dir") if "--data-dir" in " ".join(command) else environment["GESTALT_CAS_DATA_DIR"]


def accepts(command: list[str]) -> None:
    """Fail unless the command line knows all of it."""
    (verb,) = [word for word in command if word in VERBS]
    with app.make_context("gestalt-cas", list(command)) as context:
        loaded = app.get_command(context, verb)
        assert loaded is not None
        loaded.make_context(verb, command[command.index(verb) + 1 :], parent=context)


# ---- what they say agrees ----


def test_both_configurations_are_valid_and_differ_in_who_may_look_only() -> None:
    beside = parsed((DEPLOY / "gestalt-cas.yaml").read_text())
    inside = parsed(kubernetes()["ConfigMap"]["data"]["gestalt-cas.yaml"])
    assert beside.limits == inside.limits
    assert (beside.http.enabled, inside.http.enabled) == (False, False)
    assert (beside.telemetry.healthz, beside.telemetry.metrics) == ("loopback", "loopback")
    assert (inside.telemetry.healthz, inside.telemetry.metrics) == ("everyone", "everyone")
    assert (beside.http.host, inside.http.host) == ("127.0.0.1", "0.0.0.0")
    assert beside.http.port == inside.http.port


@pytest.mark.parametrize("name", UNITS)
def test_the_units_start_what_the_command_line_knows(name: str) -> None:
    for line in unit(name)["ExecStart"]:
        path, *command = shlex.split(line)
        assert path == PROGRAM
        accepts(command)


def test_the_image_and_the_pod_start_what_the_command_line_knows() -> None:
    assert json.loads(instruction("ENTRYPOINT")) == [Path(PROGRAM).name]
    accepts(json.loads(instruction("CMD")))
    accepts(container()["args"])


def test_the_image_takes_in_all_that_the_wheel_is_made_from() -> None:
    assert ("COPY", ". /source") in instructions()
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = [rule[1:] for rule in rules if rule.startswith("!")]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"], *wheel["packages"]}
    needed |= set(wheel["force-include"])
    assert not [name for name in needed if not any(fnmatch.fnmatch(name.split("/")[0], one) for one in kept)]
    for word, argument in instructions():
        if word == "COPY" and not argument.startswith((".", "--from")):
            source, target = argument.split()
            assert source in kept
            assert (ROOT / source).is_file()
            assert target == option(json.loads(instruction("CMD")), "--config")


def test_the_image_is_not_root_and_its_store_is_in_its_volume() -> None:
    user, group = instruction("USER").split(":")
    assert int(user) > 0 < int(group)
    volume = instruction("VOLUME")
    made = [argument for word, argument in instructions() if word == "RUN" and argument.endswith(f" {volume}")]
    assert made == [f"install --directory --owner={user} --group={group} --mode=0700 {volume}"]
    assert Path(image_environment()["GESTALT_CAS_DATA_DIR"]).parent == Path(volume)
    assert image_environment()["SQLITE_TMPDIR"] == volume
    assert image_environment()["PATH"].split(":")[0] == str(Path(PROGRAM).parent)


def test_the_images_health_check_asks_where_the_configuration_listens() -> None:
    http = parsed((DEPLOY / "gestalt-cas.yaml").read_text()).http
    assert f"http://{http.host}:{http.port}{HEALTHZ}" in instruction("HEALTHCHECK")


def test_the_pod_is_that_of_the_image() -> None:
    user, group = map(int, instruction("USER").split(":"))
    context, restrictions = pod()["securityContext"], container()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group)
    assert context["runAsNonRoot"] is True
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    assert restrictions == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container()["image"] == f"gestalt-cas:{VERSION}"
    mounts = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    assert mounts["data"] == instruction("VOLUME")
    assert option(container()["args"], "--config") == f"{mounts['config']}/gestalt-cas.yaml"


def test_the_names_and_ports_of_the_pod_lead_to_each_other() -> None:
    objects = kubernetes()
    claims = [one["metadata"]["name"] for one in objects["StatefulSet"]["spec"]["volumeClaimTemplates"]]
    volumes = {one["name"]: one for one in pod()["volumes"]}
    assert {one["name"] for one in container()["volumeMounts"]} == {*claims, *volumes}
    assert volumes["config"]["configMap"]["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert objects["StatefulSet"]["spec"]["serviceName"] == objects["Service"]["metadata"]["name"]
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert objects["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert objects["StatefulSet"]["spec"]["replicas"] == 1
    ports = {one["name"]: one["containerPort"] for one in container()["ports"]}
    assert parsed(objects["ConfigMap"]["data"]["gestalt-cas.yaml"]).http.port == ports["http"]
    assert option(container()["args"], "--grpc") == f"tcp://0.0.0.0:{ports['grpc']}"
    assert {(one["port"], one["targetPort"]) for one in objects["Service"]["spec"]["ports"]} == {
        (number, name) for name, number in ports.items()
    }
    assert {rule["ports"][0]["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"]} == set(ports)
    for name in ("startupProbe", "readinessProbe"):
        assert container()[name]["httpGet"] == {"path": HEALTHZ, "port": "http"}
    assert container()["livenessProbe"]["tcpSocket"] == {"port": "grpc"}


def test_the_unit_starts_again_whatever_may_pass() -> None:
    found = unit("gestalt-cas.service")
    assert found["Restart"] == ["always"]
    assert found["RestartPreventExitStatus"] == [str(exits.USAGE)]
    (state,) = found["StateDirectory"]
    store = Path(option(shlex.split(found["ExecStart"][0]), "--data-dir"))
    assert store.parent == Path("/var/lib") / state


def test_the_backup_unit_reads_the_store_that_is_served_and_requires_both_disks() -> None:
    backup, check = (shlex.split(line) for line in unit("gestalt-cas-backup.service")["ExecStart"])
    (serve,) = (shlex.split(line) for line in unit("gestalt-cas.service")["ExecStart"])
    assert option(backup, "--data-dir") == option(serve, "--data-dir")
    assert option(check, "--data-dir") == backup[-1]
    required = unit("gestalt-cas-backup.service")["RequiresMountsFor"][0].split()
    assert required == unit("gestalt-cas-backup.service")["ReadWritePaths"][0].split()
    assert [Path(path).parent for path in (option(backup, "--data-dir"), backup[-1])] == [*map(Path, required)]
    users = [unit(name)[one] for name in UNITS for one in ("User", "Group")]
    assert users == [["gestalt-cas"]] * 4
    timer = configparser.ConfigParser(interpolation=None)
    timer.read(DEPLOY / "gestalt-cas-backup.timer")
    assert "OnCalendar" in timer["Timer"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(("name", "exposure"), [("gestalt-cas.service", 15), ("gestalt-cas-backup.service", 25)])
def test_systemd_takes_the_units_and_finds_little_exposed(name: str, exposure: int, tmp_path: Path) -> None:
    """Exposure in tenths, as systemd counts it; it wants to see the program, which stands in for ours here."""
    copy = tmp_path / name
    copy.write_text((DEPLOY / name).read_text().replace(PROGRAM, "/bin/true"))
    verify = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert (verify.returncode, verify.stderr) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={exposure}", "--no-pager", copy]
    judged = subprocess.run(command, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout[-500:] + judged.stderr


# ---- what they start runs ----


def by_the_image() -> Sample:
    return Sample(
        command=[PROGRAM, *json.loads(instruction("CMD"))],
        volume=instruction("VOLUME"),
        files={option(json.loads(instruction("CMD")), "--config"): (DEPLOY / "gestalt-cas.yaml").read_text()},
        environment={name: value for name, value in image_environment().items() if name != "PATH"},
        uid=int(instruction("USER").partition(":")[0]),
        gets=[(9480, "127.0.0.1:9480", HEALTHZ), (9480, "10.1.2.3:9480", HEALTHZ)],
    )


def by_systemd() -> Sample:
    found = unit("gestalt-cas.service")
    (command,) = (shlex.split(line) for line in found["ExecStart"])
    return Sample(
        command=command,
        volume=f"/var/lib/{found['StateDirectory'][0]}",
        files={option(command, "--config"): (DEPLOY / "gestalt-cas.yaml").read_text()},
        environment=dict(pair.split("=", 1) for pair in found["Environment"]),
        uid=997,
        owner=997,
        mode=int(found["StateDirectoryMode"][0], 8),
        gets=[(9480, "127.0.0.1:9480", METRICS), (9480, "10.1.2.3:9480", HEALTHZ)],
    )


def by_kubernetes() -> Sample:
    """A volume belongs to root and the pod's fsGroup."""
    ports = {one["name"]: one["containerPort"] for one in container()["ports"]}
    mounts = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    config_map = kubernetes()["ConfigMap"]["data"]
    return Sample(
        command=[PROGRAM, *container()["args"]],
        volume=mounts["data"],
        files={f"{mounts['config']}/{name}": text for name, text in config_map.items()},
        environment={name: value for name, value in image_environment().items() if name != "PATH"},
        uid=pod()["securityContext"]["runAsUser"],
        owner=0,
        mode=0o2775,
        gets=[(ports["http"], f"10.1.2.3:{ports['http']}", container()["readinessProbe"]["httpGet"]["path"])] * 2,
        connects=[ports["grpc"]],
    )


@pytest.mark.parametrize(
    ("sample", "strangers"),
    [
        pytest.param(by_the_image, 403, id="image"),
        pytest.param(by_systemd, 403, id="systemd"),
        pytest.param(by_kubernetes, 200, id="kubernetes"),
    ],
)
def test_what_a_sample_starts_serves_from_a_read_only_root(
    sample: Callable[[], Sample], strangers: int, tmp_path: Path
) -> None:
    if reason := sandbox.why_not():
        pytest.skip(reason)
    given = sample()
    store = served(given.command, given.environment)
    given.verbs = [[PROGRAM, "--data-dir", store, "put", "/etc/hostname", "site/hello.txt"]]
    found = sandbox.run(given, tmp_path)
    assert found["writable"] == []
    ids = "\t".join([str(given.uid)] * 4)
    bounds = ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
    assert sorted(filter(None, found["status"])) == sorted([f"Uid:\t{ids}", *bounds])
    assert found["ready"]["data_dir"] == store, found["stderr"]
    assert [status for status, _ in found["gets"]] == [200, strangers]
    assert found["connects"] == [True] * len(given.connects)
    assert [code for code, _ in found["verbs"]] == [0], found["verbs"]
    assert found["exit"] == 0
    assert {json.loads(line)["level"] for line in found["stderr"].splitlines()} == {"info"}
    with Store.open(tmp_path / "volume" / Path(store).name) as left:
        assert left.head(ObjectKey("site", "hello.txt")).size > 0


def test_nothing_is_wrong_with_a_store_in_a_volume_of_kubernetes(tmp_path: Path) -> None:
    """Such a volume is open to a group, and hands that group down."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, -1, -1 if os.geteuid() else 10001)
    volume.chmod(0o2775)
    Store.open(volume / "store").close()
    *found, _ = process("doctor", "--json", "--data-dir", volume / "store").records
    wrong = {one["subject"] for one in found if one["severity"] not in ("ok", "note")}
    assert wrong <= {"file system"}, "tests may keep it in memory"
    assert "permissions" in {one["subject"] for one in found}
