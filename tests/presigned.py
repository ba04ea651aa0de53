"""HTTP for tests: a signer for whatever a test wants signed, a client that changes nothing, and raw sockets."""

from __future__ import annotations

import http.client
import json
import socket
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

from gestalt_cas.rules import sigv4
from gestalt_cas.rules.sigv4 import KeyPair
from wire import protos
from wire.client import Client
from wire.process import Server

SECONDS = 60
BUCKET = "b"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def code(self) -> str:
        """S3's code of an error; the body must be S3's XML, whole and well-formed."""
        root = ElementTree.fromstring(self.body)
        assert root.tag == "Error"
        assert [child.tag for child in root] == ["Code", "Message", "Resource", "RequestId"]
        assert self.headers["Content-Type"].startswith("application/xml")
        assert root.findtext("RequestId")
        return root.findtext("Code") or ""


class Site:
    """The endpoint of a running server, with its keys."""

    def __init__(self, server: Server, keys: KeyPair | None = None) -> None:
        self.server = server
        self.base: str = server.ready["http"]
        self.authority = urlsplit(self.base).netloc
        self.address = (urlsplit(self.base).hostname, urlsplit(self.base).port)
        self.client = Client(server.target, protos.BUCKETED)
        if keys is None:
            self.presign("k")  # the first signature generates the keys
            found = json.loads((server.data_dir / "keys.json").read_text())
            keys = KeyPair(found["accessKeyId"], found["secretAccessKey"])
        self.keys = keys

    def presign(
        self, key: str, method: str = "GET", *, bucket: str = BUCKET, version_id: str = "", **fields: Any
    ) -> Any:
        """What PresignObject answers."""
        pb = self.client.pb
        number = {"GET": 1, "PUT": 2, "DELETE": 3, "HEAD": 4}[method]
        ref = self.client.ref(key, bucket=bucket, version_id=version_id)
        return self.client.call("PresignObject", pb.PresignObjectRequest(ref=ref, method=number, **fields))

    def target(
        self,
        key: str | bytes,
        method: str = "GET",
        *,
        bucket: str = BUCKET,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        age: float = 0,
        expires: int = 900,
        keys: KeyPair | None = None,
        host: str = "",
        path: bytes = b"",
    ) -> str:
        """A signed request target; `headers` are signed along with the host, `age` is in seconds."""
        path = path or b"/" + bucket.encode() + b"/" + (key if isinstance(key, bytes) else key.encode())
        signed = {name.lower(): value for name, value in (headers or {}).items()} | {"host": host or self.authority}
        request = sigv4.Request(method, path, list(query), signed)
        when = datetime.now(UTC) - timedelta(seconds=age)
        pairs = sigv4.presign(keys or self.keys, request, now=when, expires_seconds=expires)
        text = "&".join(f"{sigv4.encode(name)}={sigv4.encode(value)}" for name, value in pairs)
        return f"{sigv4.encode_path(path)}?{text}"

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
        *,
        host: str = "",
    ) -> Answer:
        """One request on a connection of its own; an iterable body is sent in chunks."""
        with self.connection() as connection:
            return exchange(connection, method, target, headers, body, host=host or self.authority)

    def call(
        self, method: str, key: str, headers: Mapping[str, str] | None = None, body: Any = None, **signing: Any
    ) -> Answer:
        """Sign and send; x-amz headers are signed too, as they have to be."""
        given = dict(headers or {})
        amz = {name: value for name, value in given.items() if name.lower().startswith("x-amz-")}
        return self.send(method, self.target(key, method, headers=amz, **signing), given, body)

    def get(self, key: str, headers: Mapping[str, str] | None = None, **signing: Any) -> Answer:
        return self.call("GET", key, headers, **signing)

    def put(self, key: str, body: Any = b"", headers: Mapping[str, str] | None = None, **signing: Any) -> Answer:
        return self.call("PUT", key, headers, body, **signing)

    @contextmanager
    def connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(*self.address, timeout=SECONDS)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def socket(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=SECONDS) as connection:
            yield connection

    def exists(self, key: str, bucket: str = BUCKET) -> bool:
        return self.client.exists(key, bucket=bucket)

    def changes(self) -> tuple[list[str], int]:
        """What tampering must leave alone: all keys of the bucket, and the uploads on their way."""
        return self.client.keys(bucket=BUCKET), len(self.server.staged())


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | Iterable[bytes] | None = None,
    *,
    host: str,
) -> Answer:
    """One request and its answer on a connection; nothing is added but Host and the framing of the body."""
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    if "host" not in {name.lower() for name, _ in given}:
        connection.putheader("Host", host)
    for name, value in given:
        connection.putheader(name, value)
    if isinstance(body, bytes):
        if "content-length" not in {name.lower() for name, _ in given}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
    elif body is not None:
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders(body, encode_chunked=True)
    else:
        connection.endheaders()
    response = connection.getresponse()
    return Answer(response.status, response.headers, response.read())


def until_closed(connection: socket.socket) -> bytes:
    """Everything that comes until the other side ends the connection, gracefully or not."""
    received = b""
    try:
        while piece := connection.recv(1 << 16):
            received += piece
    except ConnectionResetError:
        pass
    return received


def head_of(connection: socket.socket) -> bytes:
    """Read up to the blank line that ends a response head."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        assert piece, f"the connection ended after {received!r}"
        received += piece
    return received
