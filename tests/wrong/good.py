"""A small provider in memory that does what the contract says, with a method for each decision, to be overridden.

It shares no code with the store and none with the kit's oracle. `served` gives it a socket.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from gestalt_cas.conformance import protos

MULTI = {"ReadObject": "unary_stream", "WriteObject": "stream_unary"}
MOST_PAGE, PAGE_BYTES, FRAME = 1000, 3 << 20, 256 << 10
Code = grpc.StatusCode
Where = tuple[str, str]


class Refused(Exception):
    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass
class Stored:
    """A version; `body` None: a delete marker."""

    body: bytes | None
    version_id: str
    content_type: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    modified: float = 0.0

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.body or b"").hexdigest()


class Good:
    """The provider. Everything is kept in `stacks`: the versions of a key, the newest last."""

    undecodable = Code.INVALID_ARGUMENT

    def __init__(self, pb: SimpleNamespace) -> None:
        self.pb = pb
        self.lock = threading.RLock()
        self.stacks: dict[Where, list[Stored]] = {}
        self.count = 0

    # ---- references ----

    def where(self, ref: Any) -> Where:
        if not ref.key:
            raise Refused(Code.INVALID_ARGUMENT, "key is required")
        return self.bucket(ref), self.stored_key(ref.key)

    def bucket(self, message: Any) -> str:
        return message.bucket if self.pb.bucketed else ""

    def stored_key(self, key: str) -> str:
        return key

    def shown_key(self, key: str) -> str:
        return key

    def current(self, where: Where) -> Stored | None:
        stack = self.stacks.get(where)
        return stack[-1] if stack and stack[-1].body is not None else None

    def find(self, where: Where, version_id: str) -> Stored:
        if version_id:
            found = [one for one in self.stacks.get(where, []) if one.version_id == version_id and one.body is not None]
            if not found:
                raise Refused(Code.NOT_FOUND, "no such version")
            return found[0]
        current = self.current(where)
        if current is None:
            raise Refused(Code.NOT_FOUND, "no such object")
        return current

    def meta(self, ref: Any, found: Stored, where: Where, size: int | None = None) -> Any:
        meta = self.pb.S3ObjectMeta(
            etag=self.shown_etag(found),
            size=len(found.body or b"") if size is None else size,
            content_type=found.content_type,
            metadata=found.metadata,
        )
        if self.pb.bucketed:
            meta.ref.bucket = ref.bucket
        meta.ref.key = self.shown_key(where[1])
        meta.ref.version_id = found.version_id
        meta.last_modified.FromNanoseconds(int(found.modified * 1e9))
        return meta

    def shown_etag(self, found: Stored) -> str:
        return f'"{found.etag}"'

    # ---- conditions ----

    def tags(self, text: str) -> list[tuple[bool, str]]:
        """Each tag as weak or not, and its text without quotes."""
        found = []
        for part in text.split(","):
            bare = part.strip()
            weak = bare.startswith("W/")
            found.append((weak, bare.removeprefix("W/").strip('"')))
        return found

    def strongly(self, text: str, found: Stored) -> bool:
        return text.strip() == "*" or (False, found.etag) in self.tags(text)

    def weakly(self, text: str, found: Stored) -> bool:
        return text.strip() == "*" or found.etag in [tag for _, tag in self.tags(text)]

    def not_both(self, request: Any, version_id: str) -> None:
        if version_id and request.if_none_match.strip() == "*":
            raise Refused(Code.INVALID_ARGUMENT, "a version and '*' contradict each other")

    def may_write(self, request: Any, found: Stored | None, version_id: str) -> None:
        self.not_both(request, version_id)
        if request.if_match.strip() and (found is None or not self.strongly(request.if_match, found)):
            raise Refused(Code.FAILED_PRECONDITION, "if-match")
        if request.if_none_match.strip() and found is not None and self.weakly(request.if_none_match, found):
            raise Refused(Code.FAILED_PRECONDITION, "if-none-match")
        self.must_be_current(found, version_id)

    def must_be_current(self, found: Stored | None, version_id: str) -> None:
        if version_id and (found is None or found.version_id != version_id):
            raise Refused(Code.FAILED_PRECONDITION, "another version is current")

    def may_read(self, request: Any, found: Stored) -> None:
        modified = int(found.modified)
        if request.if_match.strip():
            if not self.strongly(request.if_match, found):
                raise Refused(Code.FAILED_PRECONDITION, "if-match")
        elif request.HasField("if_unmodified_since") and modified > request.if_unmodified_since.seconds:
            raise Refused(Code.FAILED_PRECONDITION, "modified since")
        if request.if_none_match.strip():
            if self.weakly(request.if_none_match, found):
                raise Refused(Code.FAILED_PRECONDITION, "if-none-match")
        elif request.HasField("if_modified_since") and modified <= request.if_modified_since.seconds:
            raise Refused(Code.FAILED_PRECONDITION, "not modified")

    def may_copy(self, request: Any, source: Stored, destination: Stored | None) -> None:
        if request.if_match.strip() and not self.strongly(request.if_match, source):
            raise Refused(Code.FAILED_PRECONDITION, "if-match")
        if request.if_none_match.strip() and self.weakly(request.if_none_match, source):
            raise Refused(Code.FAILED_PRECONDITION, "if-none-match")
        self.must_be_current(destination, request.destination.version_id)

    # ---- calls ----

    def HeadObject(self, request: Any, _: Any) -> Any:
        with self.lock:
            where = self.where(request.ref)
            return self.pb.HeadObjectResponse(
                meta=self.meta(request.ref, self.find(where, request.ref.version_id), where)
            )

    def ReadObject(self, request: Any, _: Any) -> Iterator[Any]:
        with self.lock:
            where = self.where(request.ref)
            found = self.find(where, request.ref.version_id)
            self.may_read(request, found)
            body = found.body or b""
            start, stop = self.span(request, len(body))
            first = self.pb.ReadObjectChunk(meta=self.read_meta(request, found, where, start, stop))
        yield first
        yield from self.pieces(where, found, start, stop)

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        return self.meta(request.ref, found, where)

    def pieces(self, where: Where, found: Stored, start: int, stop: int) -> Iterator[Any]:
        body = (found.body or b"")[start:stop]
        for at in range(0, len(body), FRAME):
            yield self.pb.ReadObjectChunk(data=body[at : at + FRAME])

    def span(self, request: Any, size: int) -> tuple[int, int]:
        """Where the bytes that were asked for begin, and where they end (exclusive)."""
        wanted = request.range
        first = wanted.start if wanted.HasField("start") else None
        last = wanted.end if wanted.HasField("end") else None
        if not request.HasField("range") or (first is None and last is None):
            return 0, size
        start, end = first or 0, size - 1 if last is None else last
        if start < 0 or end < 0 or start > end or start >= size:
            raise Refused(Code.OUT_OF_RANGE, "no such bytes")
        return start, min(end, size - 1) + 1

    def WriteObject(self, requests: Iterator[Any], context: Any) -> Any:
        frames = self.arriving(requests)
        first = next(frames, None)
        try:
            if first is None or first.WhichOneof("msg") != "open":
                raise Refused(Code.INVALID_ARGUMENT, "the first frame must be the opening")
            opening = first.open
            where = self.where(opening.ref)
            with self.lock:
                self.may_write(opening, self.current(where), opening.ref.version_id)
            body = self.received(where, opening, frames)
        except Refused:
            self.drain(frames)
            raise
        if not self.ended_cleanly(context):
            raise Refused(Code.CANCELLED, "cancelled")
        return self.commit(where, opening, body)

    def arriving(self, requests: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from requests
        except grpc.RpcError:
            raise Refused(Code.CANCELLED, "cancelled") from None

    def received(self, where: Where, opening: Any, frames: Iterator[Any]) -> bytes:
        parts = []
        for frame in frames:
            if frame.WhichOneof("msg") != "data":
                raise Refused(Code.INVALID_ARGUMENT, "a second opening, or neither")
            parts.append(frame.data)
        return b"".join(parts)

    def drain(self, frames: Iterator[Any]) -> None:
        for _ in frames:
            pass

    def ended_cleanly(self, context: Any) -> bool:
        if context.is_active():
            # grpcio shows a cancel as a plain end a moment before it says so; what it sends now comes behind that.
            context.send_initial_metadata(())
            for _ in range(2000):
                if "send_initial_metadata" not in context._state.due or not context.is_active():
                    break
                time.sleep(0.0005)
        return bool(context.is_active())

    def commit(self, where: Where, opening: Any, body: bytes) -> Any:
        with self.lock:
            before = self.current(where)
            self.may_write(opening, before, opening.ref.version_id)
            found = self.put(where, self.stored(opening, body, before))
            return self.pb.WriteObjectResponse(meta=self.meta(opening.ref, found, where))

    def stored(self, opening: Any, body: bytes, before: Stored | None) -> Stored:
        return Stored(body, "", opening.content_type, dict(opening.metadata))

    def put(self, where: Where, found: Stored) -> Stored:
        self.count += 1
        found.version_id = f"v{self.count}"
        found.modified = time.time()
        self.stacks.setdefault(where, []).append(found)
        return found

    def DeleteObject(self, request: Any, _: Any) -> Any:
        with self.lock:
            self.remove(self.where(request.ref), request.ref.version_id)
            return self.pb.Empty()

    def remove(self, where: Where, version_id: str) -> None:
        if version_id:
            stack = self.stacks.get(where, [])
            stack[:] = [one for one in stack if one.version_id != version_id]
        else:
            self.put(where, Stored(None, ""))

    def CopyObject(self, request: Any, _: Any) -> Any:
        with self.lock:
            source, to = self.where(request.source), self.where(request.destination)
            self.not_both(request, request.destination.version_id)
            found = self.find(source, request.source.version_id)
            self.may_copy(request, found, self.current(to))
            copied = self.put(to, self.copied(found))
            return self.pb.CopyObjectResponse(meta=self.meta(request.destination, copied, to))

    def copied(self, found: Stored) -> Stored:
        return Stored(found.body, "", found.content_type, dict(found.metadata))

    # ---- listing ----

    def ListObjects(self, request: Any, _: Any) -> Any:
        with self.lock:
            after = self.after(request)
            limit = self.limit(request.max_keys)
            page = self.pb.ListObjectsResponse()
            last: tuple[str, bool] | None = None
            count = size = 0
            for name, where in self.entries(request, after):
                if self.is_full(page, count, limit, size):
                    page.has_more = True
                    page.next_continuation_token = self.token(request, last)
                    return page
                if where is None:
                    page.common_prefixes.append(self.shown_key(name))
                else:
                    meta = self.listed(request, where)
                    page.objects.append(meta)
                    size += meta.ByteSize()
                count += 1
                last = name, where is None
            self.at_the_end(request, page, last, count, limit)
            return page

    def at_the_end(self, request: Any, page: Any, last: Any, count: int, limit: int) -> None:
        """Nothing follows: has_more stays false and there is no token."""

    def listed(self, request: Any, where: Where) -> Any:
        found = self.current(where)
        assert found is not None
        return self.meta(request, found, where)

    def is_full(self, page: Any, count: int, limit: int, size: int) -> bool:
        return count >= limit or size > PAGE_BYTES

    def limit(self, max_keys: int) -> int:
        return min(max_keys, MOST_PAGE) if max_keys > 0 else MOST_PAGE

    def keys(self, bucket: str) -> list[str]:
        found = [key for home, key in self.stacks if home == bucket and self.current((home, key)) is not None]
        return sorted(found, key=self.order)

    def order(self, key: str) -> Any:
        return key.encode()

    def entries(self, request: Any, after: tuple[str, bool] | None) -> Iterator[tuple[str, Where | None]]:
        """Names in order behind a position; a common prefix has no place of its own."""
        bucket, group = self.bucket(request), ""
        for key in self.keys(bucket):
            if not self.is_below(key, request.prefix) or (group and key.startswith(group)):
                continue
            rest = key[len(request.prefix) :]
            grouped = bool(request.delimiter) and request.delimiter in rest
            if after is not None and not self.is_behind(key, after):
                continue
            if grouped:
                group = request.prefix + rest[: rest.index(request.delimiter) + len(request.delimiter)]
                yield group, None
            else:
                yield key, (bucket, key)

    def is_below(self, key: str, prefix: str) -> bool:
        return key.startswith(prefix)

    def is_behind(self, key: str, after: tuple[str, bool]) -> bool:
        position, group = after
        return self.order(key) > self.order(position) and not (group and key.startswith(position))

    def after(self, request: Any) -> tuple[str, bool] | None:
        if request.continuation_token:
            return self.position(request)
        if not request.start_after:
            return None
        ends = bool(request.delimiter) and request.start_after.endswith(request.delimiter)
        return request.start_after, ends and request.start_after != request.prefix

    def scope(self, request: Any) -> list[str]:
        return [self.bucket(request), request.prefix, request.delimiter]

    def token(self, request: Any, last: tuple[str, bool] | None) -> str:
        return base64.urlsafe_b64encode(json.dumps([*self.scope(request), last]).encode()).decode()

    def position(self, request: Any) -> tuple[str, bool]:
        try:
            *scope, last = json.loads(base64.b64decode(request.continuation_token, b"-_", validate=True))
            name, group = last
        except ValueError:
            raise Refused(Code.INVALID_ARGUMENT, "not a token") from None
        if scope != self.scope(request):
            raise Refused(Code.INVALID_ARGUMENT, "a token of another listing")
        return name, group

    # ---- URLs ----

    def PresignObject(self, request: Any, _: Any) -> Any:
        where = self.where(request.ref)
        seconds = self.seconds(request.expires_seconds)
        method = request.method if 1 <= request.method <= 4 else 1
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        query = {"versionId": request.ref.version_id} if request.ref.version_id else {}
        given = {"content-type": request.content_type, "content-disposition": request.content_disposition}
        for name, value in given.items():
            if value and method == 2:
                headers = {other: text for other, text in headers.items() if other.lower() != name}
                headers[name] = value
            elif value:
                query[f"response-{name}"] = value
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        answer = self.pb.PresignObjectResponse(
            url=f"http://localhost/{quote(where[1])}?{text}", method=method, headers=headers
        )
        answer.expires_at.FromSeconds(int(time.time()) + seconds)
        return answer

    def seconds(self, wanted: int) -> int:
        if wanted < 0 or wanted > 7 * 24 * 3600:
            raise Refused(Code.INVALID_ARGUMENT, "expires_seconds")
        return wanted or 900


class _Handlers(grpc.GenericRpcHandler):
    """Takes raw bytes and parses inside, since gRPC answers INTERNAL itself when a request is no message."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._handlers: dict[str, Any] = {}
        for name, (request, response) in protos.METHODS.items():
            kind = MULTI.get(name, "unary_unary")
            parse = self._parser(getattr(provider.pb, request))
            behaviour = self._stream(name, parse) if kind == "unary_stream" else self._single(name, parse)
            self._handlers[protos.S3 + name] = getattr(grpc, f"{kind}_rpc_method_handler")(
                behaviour, response_serializer=getattr(provider.pb, response).SerializeToString
            )

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)

    def _parser(self, kind: Any) -> Callable[[bytes], Any]:
        def parse(raw: bytes) -> Any:
            try:
                return kind.FromString(raw)
            except DecodeError as error:
                raise Refused(getattr(self._provider, "undecodable", Code.INVALID_ARGUMENT), str(error)) from None

        return parse

    def _single(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        def behaviour(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                parsed = parse(request) if isinstance(request, bytes) else map(parse, request)
                return getattr(self._provider, name)(parsed, context)
            except Refused as refused:
                context.abort(refused.code, str(refused))

        return behaviour

    def _stream(self, name: str, parse: Callable[[bytes], Any]) -> Any:
        def behaviour(request: bytes, context: grpc.ServicerContext) -> Any:
            try:
                yield from getattr(self._provider, name)(parse(request), context)
            except Refused as refused:
                context.abort(refused.code, str(refused))

        return behaviour


@contextmanager
def served(kind: type[Good], *, bucketed: bool = False, empty: Sequence[str] = ()) -> Iterator[str]:
    """Serve a provider of this class for the block; gives its target.

    `empty` are keys of objects without bytes that it begins with (bucketless): quicker than writing them.
    """
    provider = kind(protos.BUCKETED if bucketed else protos.BUCKETLESS)
    for key in empty:
        provider.put(("", provider.stored_key(key)), Stored(b"", ""))
    with tempfile.TemporaryDirectory(prefix="gc") as directory:
        target = f"unix://{Path(directory) / 's'}"
        limit = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))
        server = grpc.server(ThreadPoolExecutor(32), handlers=[_Handlers(provider)], options=limit)
        server.add_insecure_port(target)
        server.start()
        try:
            yield target
        finally:
            server.stop(0.1).wait()
