"""A program with nothing but what a deployment gives it: another user, no capabilities, a read-only root, one volume.

Namespaces of mounts, processes and network are this test's own, so a sample's paths and ports are used as they stand.
The root is this machine's, seen through an overlay that is read-only once it is laid out; the package is at
/opt/gestalt-cas, as the samples say. It takes root, `unshare` and `setpriv`.

    python sandbox.py SPECIFICATION      (JSON, see Sample; run by `unshare --mount --net --pid --fork`)
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "/opt/gestalt-cas/bin/gestalt-cas"
NEEDED = ("unshare", "setpriv", "mount", "chroot", "ip")
READY_SECONDS = 60


@dataclass
class Sample:
    """What a deployment says of one process, and what to ask it when it is ready."""

    command: list[str]
    volume: str
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    uid: int = 10001
    owner: int = 10001
    mode: int = 0o700
    gets: list[tuple[int, str, str]] = field(default_factory=list)
    """Port, Host and path of HTTP requests."""
    connects: list[int] = field(default_factory=list)
    verbs: list[list[str]] = field(default_factory=list)
    """Further commands beside the running server, as the same user."""


def why_not() -> str:
    """What keeps this machine from running samples, "" if nothing does."""
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if absent or os.geteuid():
        return f"needs {', '.join(absent) or 'root'}"
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)
    return tried.stderr.strip()


NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")


def run(sample: Sample, place: Path) -> dict[str, Any]:
    """Run a sample until it has answered everything and was stopped; what came of it."""
    specification = place / "sample.json"
    specification.write_text(json.dumps(asdict(sample)))
    command = [*NAMESPACES, sys.executable, __file__, str(specification)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


# ---- inside the namespaces ----


def _lay_out(sample: Mapping[str, Any], place: Path) -> Path:
    """The root that the sample sees; its volume is a directory of this machine's file system."""
    scratch, volume = place / "scratch", place / "volume"
    for directory in (scratch, volume):
        directory.mkdir()
    os.chown(volume, sample["owner"], sample["uid"])
    volume.chmod(sample["mode"])
    _call("mount", "-t", "tmpfs", "tmpfs", scratch)
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for directory in (upper, work, root):
        directory.mkdir()
    _call("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", root)
    for name, content in sample["files"].items():
        _write(root / name.lstrip("/"), content)
    packages = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    modules = {str(ROOT): "/opt/checkout", **{path: f"/opt/packages{n}" for n, path in enumerate(packages)}}
    variables = f"PYTHONPATH={':'.join(modules.values())} LD_LIBRARY_PATH=/opt/python/lib"
    program = f"/opt/python/bin/python{sys.version_info.major}.{sys.version_info.minor} -m gestalt_cas"
    _write(root / PROGRAM.lstrip("/"), f'#!/bin/sh\n{variables} exec {program} "$@"\n', 0o755)
    # The interpreter may be at home with a user whose directory is closed to others.
    binds = {**modules, sys.base_prefix: "/opt/python", str(volume): sample["volume"], "/dev": "/dev"}
    for origin, target in binds.items():
        (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        _call("mount", "--bind", origin, root / target.lstrip("/"))
    _call("mount", "-t", "proc", "proc", root / "proc")
    _call("mount", "-o", "remount,bind,ro", root / "opt/checkout")
    _call("mount", "-o", "remount,ro", root)
    return root


def _write(path: Path, content: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)


def _call(*command: str | Path) -> None:
    subprocess.run([*map(str, command)], check=True)


def _confined(sample: Mapping[str, Any], root: Path, command: Iterable[str]) -> list[str]:
    user = [f"--reuid={sample['uid']}", f"--regid={sample['uid']}", "--clear-groups"]
    bounds = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    given = {"PATH": "/opt/gestalt-cas/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", **sample["environment"]}
    variables = [f"{name}={value}" for name, value in given.items()]
    return ["chroot", str(root), "setpriv", *user, *bounds, "env", "--ignore-environment", *variables, *command]


def _get(port: int, host: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def _connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _verb(command: list[str]) -> tuple[int, str]:
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def _main(specification: Path) -> None:
    sample = json.loads(specification.read_text())
    _call("ip", "link", "set", "lo", "up")
    root = _lay_out(sample, specification.parent)
    writes = "for d in / /tmp /var/tmp /opt/gestalt-cas /etc; do touch $d/x 2>/dev/null && echo $d; done; true"
    status = "grep -h -E '^(Uid|CapEff|CapBnd|NoNewPrivs):' /proc/self/status"
    found: dict[str, Any] = {
        "writable": _verb(_confined(sample, root, ["sh", "-c", writes]))[1].split(),
        "status": _verb(_confined(sample, root, ["sh", "-c", status]))[1].split("\n"),
    }
    errors = specification.with_name("stderr")
    with errors.open("w") as stderr:
        server = subprocess.Popen(_confined(sample, root, sample["command"]), stdout=subprocess.PIPE, stderr=stderr)
    assert server.stdout is not None
    found["ready"] = json.loads(server.stdout.readline() or "null")
    if found["ready"]:
        found["gets"] = [_get(*request) for request in sample["gets"]]
        found["connects"] = [_connects(port) for port in sample["connects"]]
        found["verbs"] = [_verb(_confined(sample, root, verb)) for verb in sample["verbs"]]
    server.terminate()
    found["exit"] = server.wait(READY_SECONDS)
    found["stderr"] = errors.read_text()
    print(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
