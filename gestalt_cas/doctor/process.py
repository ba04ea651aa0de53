"""The doctor's look at processes: who serves the store and where, what this one is made of, and its limits."""

from __future__ import annotations

import platform
import resource
import shlex
import stat
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gestalt_cas import __version__
from gestalt_cas.doctor.database import Facts
from gestalt_cas.doctor.examinations import Finding, Severity
from gestalt_cas.files.layout import Layout
from gestalt_cas.sql import sqlite
from gestalt_cas.system.locks import holding
from gestalt_cas.system.sockets import answers

_FEW_FILES = 1024
_PACKAGES = ("grpcio", "protobuf", "blake3", "xxhash", "sqlalchemy", "alembic", "aiohttp", "gestalt-sdk")


def server(layout: Layout, facts: Facts) -> list[Finding]:
    """Who holds server.lock, and whether somebody answers where a server listens by default.

    Without /proc, and from another container, the kernel tells of no holder, but one that answers is a server.
    """
    holders, socket = _holders(layout.server_lock), _socket(layout.socket)
    served = bool(holders) or any(finding.severity is Severity.OK for finding in socket)
    who = ", ".join(f"process {pid}" for pid in holders) or "a process that cannot be named from here"
    text = f"{who} serves this directory" if served else "none runs on this directory"
    return [Finding(Severity.OK, "server", text), *socket, *_port(facts, served)]


def _holders(path: Path) -> list[int]:
    """Who holds a lock file; taking it to find out could keep a server from starting."""
    try:
        return holding(path.stat().st_ino)
    except FileNotFoundError:
        return []


def _socket(path: Path) -> list[Finding]:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return []
    remove = f"rm {shlex.quote(str(path))}"
    if not stat.S_ISSOCK(mode):
        return [Finding(Severity.ERROR, "socket", f"{path.name} is no socket: no server can listen there", remove)]
    if answers(str(path)):
        return [Finding(Severity.OK, "socket", f"a server answers at {path.name}")]
    holders = _holders(path.with_name(f"{path.name}.lock"))
    if holders:
        text = f"process {holders[0]} holds {path.name} and does not answer there"
        return [Finding(Severity.WARNING, "socket", text, f"end it: kill {holders[0]}")]
    return [Finding(Severity.NOTE, "socket", f"{path.name} is left of a server that died; the next one replaces it")]


def _port(facts: Facts, served: bool) -> list[Finding]:
    """The HTTP port that URLs were signed for; only of a server whose port was not fixed is it known here."""
    port = facts.notes.get("http.port")
    if not isinstance(port, int):
        return []
    taken = answers(("127.0.0.1", port))
    if taken and not served:
        text = f"another program listens on {port}, the port of this store's URLs; the next server will take another"
        return [Finding(Severity.WARNING, "port", text, f"find it with: ss -ltnp 'sport = :{port}'")]
    state = "served" if taken else "not served at the moment" if served else "free for the next server"
    return [Finding(Severity.OK, "port", f"{port} is {state}")]


def versions() -> list[Finding]:
    """Of this release and all that it stands on."""
    packages = ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name)))
    text = f"gestalt-cas {__version__}, Python {platform.python_version()}, {packages}"
    findings = [Finding(Severity.OK, "versions", text)]
    if not _version("gestalt-sdk"):
        findings.append(Finding(Severity.NOTE, "versions", "no gestalt-sdk is installed; `provider` works without it"))
    return [*findings, _sqlite()]


def _sqlite() -> Finding:
    found = sqlite.version()
    if found < sqlite.OLDEST:
        oldest = ".".join(map(str, sqlite.OLDEST))
        text = f"SQLite {sqlite.VERSION} is older than {oldest}, so the store cannot be opened"
        return Finding(Severity.ERROR, "versions", text, "pip install --force-reinstall --only-binary apsw apsw")
    if sqlite.has_wal_reset_bug(found):
        text = f"{sqlite.describe()}; other programs must not write the database"
        return Finding(Severity.NOTE, "versions", text, "pip install --force-reinstall --only-binary apsw apsw")
    return Finding(Severity.OK, "versions", sqlite.describe())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def limits() -> list[Finding]:
    """How many files a server may have open; each stream takes two or three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _FEW_FILES:
        text = f"a process may open {hard} files only; with many streams a server runs out"
        return [Finding(Severity.WARNING, "limits", text, f"ulimit -Hn {_FEW_FILES * 4}, or LimitNOFILE= of systemd")]
    return [Finding(Severity.OK, "limits", "enough files may be open")]
