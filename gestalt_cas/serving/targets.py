"""Where a server listens: `unix:///path`, grpc's own `unix:path`, `tcp://host:port`, or a bare path from an old host.

grpcio silently takes over a live unix socket and lets two processes share a TCP port. So a target is tried with a
connection first: if someone answers it is taken; a socket file that nobody answers on is replaced.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import platformdirs

from gestalt_cas.errors import AddressUnusable, InvalidArgument, StoreUnusable
from gestalt_cas.files.layout import Layout
from gestalt_cas.system.locks import FileLock
from gestalt_cas.system.platforms import MAX_SOCKET_PATH
from gestalt_cas.system.sockets import answers

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^/:]*):[0-9]+")
"""Meant as an address by whoever writes it, and the name of a socket in the working directory as it stands."""
_SPECIAL = re.compile("[%?#\udc80-\udcff]")
"""What in a path must be escaped for grpc, to which a target is a URI; the last are bytes that are no UTF-8."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed target: a unix socket's `path`, or a TCP `host` and `port` (0: any free one)."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def bind(self) -> str:
        """The target in grpcio's words."""
        if self.path:
            return f"unix:{_in_uri(self.path)}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"unix://{_in_uri(self.path)}" if self.path else f"tcp://{self.bind}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str) -> Target:
    """Parse a target; raises InvalidArgument naming what is wrong with it.

    What follows unix: is read as grpc reads it, so that %20 there is a blank; a bare path stands as it is.
    """
    if text.startswith("tcp://"):
        return _parse_tcp(text)
    path = text.removeprefix("unix://").removeprefix("unix:")
    if _HOST_AND_PORT.fullmatch(text):
        address = text if not text.startswith(":") else f"127.0.0.1{text}"
        raise InvalidArgument(f"{text!r} is no target; write tcp://{address}, or ./{text} for a socket of that name")
    if "://" in path or not path:
        raise InvalidArgument(f"{text!r} is no target; write unix:///path or tcp://host:port")
    if path != text:
        path = os.fsdecode(unquote_to_bytes(os.fsencode(path)))
    if "\0" in path:
        raise InvalidArgument(f"{text!r} is no target; no path has a NUL")
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise InvalidArgument(f"socket path {path} is longer than {MAX_SOCKET_PATH} bytes; name a shorter one")
    return Target(path=path)


def _in_uri(path: str) -> str:
    return _SPECIAL.sub(lambda found: quote(os.fsencode(found[0])), path)


def _parse_tcp(text: str) -> Target:
    host, _, port = text.removeprefix("tcp://").rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
        raise InvalidArgument(f"{text!r} is no target; write tcp://host:port with a port of 0 to 65535")
    host = host.removeprefix("[").removesuffix("]")
    try:
        host.encode("idna")
    except UnicodeError:
        raise InvalidArgument(f"{text!r} is no target; {host!r} is no name of a host") from None
    return Target(host=host, port=int(port))


def default(data_dir: Path) -> Target:
    """grpc.sock in the data directory, or a short path in the user's runtime directory where that is too long."""
    path = os.path.abspath(Layout(data_dir).socket)
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return Target(path=path)
    from blake3 import blake3

    runtime = Path(platformdirs.user_runtime_dir("gestalt-cas", appauthor=False))
    try:
        runtime.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        runtime.mkdir(mode=0o700, exist_ok=True)
        found, above = runtime.lstat(), runtime.parent.stat()
    except OSError as error:
        raise StoreUnusable(f"cannot make {runtime} for the socket: {error.strerror}; name one with --grpc") from error
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    kept = above.st_uid in (0, os.geteuid()) and (not above.st_mode & 0o022 or above.st_mode & stat.S_ISVTX)
    if not (ours and kept):  # who may rename it can put another in its place
        raise StoreUnusable(f"{runtime} can be changed by other users; name a socket with --grpc")
    return parse(str(runtime / f"{blake3(os.fsencode(path)).hexdigest(8)}.sock"))


def claim(target: Target) -> None:
    """Make sure that nobody listens at `target`, and remove a dead socket file that stands there.

    Raises AddressUnusable when someone answers, or when the path is something other than a socket.
    """
    if not target.path:
        if target.port and answers((target.host, target.port)):
            raise AddressUnusable(f"{target.url} is taken: another server answers there")
        return
    path = Path(target.path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise AddressUnusable(f"cannot listen at {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise AddressUnusable(f"cannot listen at {path}: a file that is no socket stands there")
    if answers(target.path):
        raise AddressUnusable(f"{target.url} is taken: another server answers there")
    path.unlink(missing_ok=True)


def hold(target: Target) -> FileLock | None:
    """Take `target` for the life of the returned lock, so that servers that start together do not both bind it.

    `claim` alone cannot tell: neither answers yet. Raises AddressUnusable when another process holds it or answers.
    None for TCP, where binding itself tells.
    """
    lock = FileLock(Path(f"{target.path}.lock")) if target.path else None
    if lock is not None and not lock.try_acquire():
        holders = lock.holders()
        lock.close()
        raise AddressUnusable(f"{target.url} is taken: {holders} serves there")
    try:
        claim(target)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return lock
