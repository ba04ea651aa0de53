"""A thin S3 client of either wire generation that remembers what was sent and what came back.

Requests and responses are the messages of `protos`; nothing is hidden but the framing. The bucketed client keeps
grpc's default receive limit of 4 MiB, as its SDKs do; the bucketless one has the 64 MiB of later SDKs. Every call has a
deadline: a server that hangs fails a check, it does not stall the run. Source: contract 2.1 and 3.1.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import quote

import grpc
from google.protobuf import text_format

from gestalt_cas.conformance import protos
from gestalt_cas.conformance.requests import Requests

Messages = list[Any]
Bodies = list[bytes]

DEADLINE_SECONDS = 30.0
"""How long a call may take, unless told otherwise: as long as hosts wait."""
FRAME_BYTES = 64 * 1024
_LATER_SDK_MESSAGE_BYTES = 64 * 1024 * 1024
_QUIET = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
_KEPT_EXCHANGES = 8
_SHOWN_CHARS = 400
_MULTI = {"ReadObject": "unary_stream", "WriteObject": "stream_unary"}


def open_channel(target: str, *options: tuple[str, Any]) -> grpc.Channel:
    """A channel of its own connection; `target` is unix:///path, tcp://host:port, host:port, or a path."""
    if target.startswith("/"):
        target = f"unix://{quote(os.fsencode(target))}"
    return grpc.insecure_channel(target.removeprefix("tcp://"), options=(*_QUIET, *options))


def frames(body: bytes, size: int = FRAME_BYTES) -> list[bytes]:
    """The body in pieces of `size` bytes, the last one shorter."""
    return [body[start : start + size] for start in range(0, len(body), size)]


def readable(message: Any) -> str:
    """A message in one line, cut where it is long."""
    if isinstance(message, bytes):
        return f"{len(message)} raw bytes {message[:40]!r}"
    text = text_format.MessageToString(message, as_one_line=True, as_utf8=True)
    name = type(message).__name__
    return f"{name} {{{text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + '…'}}}"


class Exchange:
    """One call: what was sent and what came back, for people.

    Either is a text, or a message or function, which becomes one when somebody asks: few exchanges are ever shown, and
    a page of a listing takes longer to print than to send.
    """

    def __init__(self, method: str, sent: Any) -> None:
        self.method = method
        self._sent = sent
        self._came: Any = "nothing yet"

    @property
    def sent(self) -> str:
        return _text(self._sent)

    @property
    def came(self) -> str:
        return _text(self._came)

    @came.setter
    def came(self, came: Any) -> None:
        self._came = came

    def as_json(self) -> dict[str, str]:
        return {"method": self.method, "sent": self.sent, "came": self.came}


def _text(shown: Any) -> str:
    found = shown() if callable(shown) else shown
    return found if isinstance(found, str) else readable(found)


def lines(exchanges: Iterable[Exchange]) -> list[str]:
    """The exchanges for people, two lines each."""
    return [
        line
        for exchange in exchanges
        for line in (f"sent:     {exchange.method} {exchange.sent}", f"came:     {exchange.came}")
    ]


class Exchanges:
    """The last calls of one check. Thread-safe."""

    def __init__(self) -> None:
        self._kept: deque[Exchange] = deque(maxlen=_KEPT_EXCHANGES)
        self._lock = threading.Lock()

    def begin(self, method: str, sent: Any) -> Exchange:
        exchange = Exchange(method, sent)
        with self._lock:
            self._kept.append(exchange)
        return exchange

    def call(self, method: str, stub: Callable[..., Any], request: Any, deadline: float) -> Any:
        """Make a unary call, and keep it; raises grpc.RpcError."""
        exchange = self.begin(method, request)
        with _kept_in(exchange):
            answer = stub(request, timeout=deadline)
        exchange.came = answer
        return answer

    def last(self) -> list[Exchange]:
        """The oldest first."""
        with self._lock:
            return list(self._kept)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


def told(error: grpc.RpcError) -> str:
    """The status of a failed call with its message."""
    return f"{error.code().name}: {error.details()}"


def wanted(error: grpc.RpcError, deadline: float) -> str:
    """What was expected of a call that failed, where only an answer would do."""
    late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return f"the call to be answered{f' within {deadline:g} s' if late else ''}"


@contextmanager
def _kept_in(exchange: Exchange) -> Iterator[None]:
    """Tell the exchange of the status that the call in the block fails with."""
    try:
        yield
    except grpc.RpcError as error:
        exchange.came = told(error)
        raise


class Wire(Requests):
    """The S3 service at a target as one generation of SDKs sees it. Thread-safe; a context manager.

    `shared` is for what several checks of a run need and is costly to make, `exchanges` is where the calls are kept.
    """

    def __init__(
        self,
        target: str,
        *,
        bucketed: bool = False,
        deadline: float = DEADLINE_SECONDS,
        options: Iterable[tuple[str, Any]] = (),
        exchanges: Exchanges | None = None,
    ) -> None:
        self.pb: SimpleNamespace = protos.BUCKETED if bucketed else protos.BUCKETLESS
        self.bucketed = bucketed
        self.target = target
        self.deadline = deadline
        self.exchanges = Exchanges() if exchanges is None else exchanges
        self.shared: dict[str, Any] = {}
        limit = () if bucketed else (("grpc.max_receive_message_length", _LATER_SDK_MESSAGE_BYTES),)
        self.channel = open_channel(target, *limit, *options)
        self._stubs: dict[str, Any] = {
            method: getattr(self.channel, _MULTI.get(method, "unary_unary"))(
                protos.S3 + method,
                request_serializer=getattr(self.pb, request).SerializeToString,
                response_deserializer=getattr(self.pb, response).FromString,
            )
            for method, (request, response) in protos.METHODS.items()
        }

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- calls ----

    def call(self, method: str, request: Any) -> Any:
        """One unary call; raises grpc.RpcError."""
        return self.exchanges.call(method, self._stubs[method], request, self.deadline)

    def send(self, requests: Iterable[Any]) -> Any:
        """An upload of exactly these frames; the meta of the response."""
        listed = list(requests)
        exchange = self.exchanges.begin("WriteObject", _shown_upload(listed))
        with _kept_in(exchange):
            answer = self._stubs["WriteObject"](iter(listed), timeout=self.deadline)
        exchange.came = answer
        return answer.meta

    def upload(self, requests: Iterable[Any]) -> Any:
        """Begin an upload and return its future; `requests` is drawn from in a thread of grpc's."""
        drawn: list[Any] = []
        exchange = self.exchanges.begin("WriteObject", lambda: _shown_upload(list(drawn)))

        def drawing() -> Iterator[Any]:
            for request in requests:
                drawn.append(request)
                yield request

        call = self._stubs["WriteObject"].future(drawing(), timeout=self.deadline)
        exchange.came = lambda: _shown_end(call)
        return call

    def write(self, key: str, body: bytes = b"", *, parts: Bodies | None = None, **fields: Any) -> Any:
        """Write an object in 64 KiB frames, or in the given `parts`; the meta of the response."""
        pieces = frames(body) if parts is None else parts
        return self.send([self.open_frame(key, **fields), *map(self.data_frame, pieces)])

    def read_stream(self, key: str, **fields: Any) -> Any:
        """The running call; iterate it for ReadObjectChunk frames."""
        request = self.read_request(key, **fields)
        self.exchanges.begin("ReadObject", request).came = "a stream, taken frame by frame"
        return self._stubs["ReadObject"](request, timeout=self.deadline)

    def chunks(self, key: str, **fields: Any) -> Messages:
        """All frames of a read."""
        request = self.read_request(key, **fields)
        exchange = self.exchanges.begin("ReadObject", request)
        found: Messages = []
        with _kept_in(exchange):
            for chunk in self._stubs["ReadObject"](request, timeout=self.deadline):
                found.append(chunk)
        exchange.came = _shown_download(found)
        return found

    def head(self, key: str, **where: str) -> Any:
        return self.call("HeadObject", self.pb.HeadObjectRequest(ref=self.ref(key, **where))).meta

    def delete(self, key: str, **where: str) -> None:
        self.call("DeleteObject", self.pb.DeleteObjectRequest(ref=self.ref(key, **where)))

    def list(self, *, bucket: str = "", **fields: Any) -> Any:
        """One page; `fields` are those of ListObjectsRequest."""
        if self.bucketed:
            fields["bucket"] = bucket
        return self.call("ListObjects", self.pb.ListObjectsRequest(**fields))

    def copy(
        self,
        source: str,
        destination: str,
        *,
        bucket: str = "",
        to_bucket: str | None = None,
        source_version: str = "",
        version_id: str = "",
        **conditions: str,
    ) -> Any:
        """Copy within `bucket`, or to `to_bucket`; the meta of the response."""
        to = bucket if to_bucket is None else to_bucket
        request = self.pb.CopyObjectRequest(
            source=self.ref(source, bucket=bucket, version_id=source_version),
            destination=self.ref(destination, bucket=to, version_id=version_id),
            **conditions,
        )
        return self.call("CopyObject", request).meta

    def presign(self, key: str, method: int = 0, *, bucket: str = "", version_id: str = "", **fields: Any) -> Any:
        ref = self.ref(key, bucket=bucket, version_id=version_id)
        return self.call("PresignObject", self.pb.PresignObjectRequest(ref=ref, method=method, **fields))

    def raw(self, method: str, requests: Bodies, response: str) -> Messages:
        """A call of ready-made bytes; the messages that came back, of the type named `response`."""
        exchange = self.exchanges.begin(method, ", ".join(readable(request) for request in requests))
        kind = _MULTI.get(method, "unary_unary")
        make = getattr(self.channel, kind)
        call = make(protos.S3 + method, response_deserializer=getattr(self.pb, response).FromString)
        with _kept_in(exchange):
            request = iter(requests) if kind == "stream_unary" else requests[0]
            answer = call(request, timeout=self.deadline)
            found = list(answer) if kind == "unary_stream" else [answer]
        exchange.came = ", ".join(readable(message) for message in found[:3])
        return found


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    """The status that a call ends with, OK included."""
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def _shown_upload(requests: list[Any]) -> str:
    if not requests:
        return "no frames at all"
    first, *rest = requests
    lengths = [len(frame.data) for frame in rest if frame.WhichOneof("msg") == "data"]
    others = "".join(f", and {readable(frame)}" for frame in rest if frame.WhichOneof("msg") != "data")
    return f"{readable(first)}{_shown_frames(lengths)}{others}"


def _shown_end(call: Any) -> Any:
    """What an upload that runs beside others has come to."""
    if not call.done():
        return "nothing yet"
    if call.cancelled():
        return "cancelled by its caller"
    error = call.exception()
    return call.result() if error is None else told(error)


def _shown_download(chunks: list[Any]) -> str:
    if not chunks:
        return "an empty stream"
    first, *rest = chunks
    lengths = [len(chunk.data) for chunk in rest]
    few = f", {b''.join(chunk.data for chunk in rest)!r}" if 0 < sum(lengths) <= 60 else ""
    return f"{readable(first)}{_shown_frames(lengths)}{few}"


def _shown_frames(lengths: list[int]) -> str:
    if not lengths:
        return ""
    return f", then {len(lengths)} data frame{'s' if len(lengths) > 1 else ''} of {sum(lengths)} bytes"
