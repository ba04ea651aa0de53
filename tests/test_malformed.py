"""Requests that no client would send: whatever arrives, the status is never UNKNOWN or INTERNAL and the process lives.

Random bytes, truncated and mutated messages, wrong wire types and wild but well-formed values go to every method and as
every frame of an upload. What protobuf itself cannot decode must be INVALID_ARGUMENT (contract section 6, Undecodable
request bytes); protobuf's verdict is taken from descriptors of our own.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from wire import protos
from wire.client import Client, Lifecycle, status_of
from wire.fixtures import server_fixture  # noqa: F401
from wire.process import ROOT, Hosted, Server

PB = protos.BUCKETED
OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
FORBIDDEN = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
"""UNKNOWN and INTERNAL would be a bug's; UNAVAILABLE a dead process, DATA_LOSS damage to a healthy store."""
SEED = 4
ROUNDS = 150


class Raw:
    """The methods of a server as functions from bytes to a status code."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def unary(self, path: str, request: bytes) -> grpc.StatusCode:
        try:
            self.channel.unary_unary(path)(request, timeout=30)
        except grpc.RpcError as error:
            return self._judged(error)
        return OK

    def read(self, request: bytes) -> grpc.StatusCode:
        try:
            for frame in self.channel.unary_stream(protos.S3 + "ReadObject")(request, timeout=30):
                PB.ReadObjectChunk.FromString(frame)
        except grpc.RpcError as error:
            return self._judged(error)
        return OK

    def write(self, requests: list[bytes]) -> grpc.StatusCode:
        try:
            self.channel.stream_unary(protos.S3 + "WriteObject")(iter(requests), timeout=30)
        except grpc.RpcError as error:
            return self._judged(error)
        return OK

    def call(self, method: str, request: bytes) -> grpc.StatusCode:
        """A request of one message to any S3 method."""
        if method == "ReadObject":
            return self.read(request)
        if method == "WriteObject":
            return self.write([request])
        return self.unary(protos.S3 + method, request)

    @staticmethod
    def _judged(error: Any) -> grpc.StatusCode:
        assert error.code() not in FORBIDDEN, f"{error.code()}: {error.details()}"
        assert error.details(), "a refusal says why"
        return error.code()


def decodable(message: str, raw: bytes) -> bool:
    try:
        getattr(PB, message).FromString(raw)
    except DecodeError:
        return False
    return True


@pytest.fixture(scope="module", name="client")
def client_fixture(server: Server) -> Iterator[Client]:
    with Client(server.target, PB) as client:
        client.write("present", b"0123456789", bucket="b", metadata={"a": "b"})
        client.write("other", b"", bucket="b")
        yield client


@pytest.fixture(scope="module", name="raw")
def raw_fixture(client: Client) -> Raw:
    return Raw(client.channel)


@pytest.fixture(autouse=True, name="still_alive")
def still_alive_fixture(server: Server, client: Client) -> Iterator[None]:
    """After each test the server still serves what it held."""
    yield
    assert server.alive(), server.stderr
    assert client.body("present", bucket="b") == b"0123456789"
    server.assert_no_traceback()


def valid_messages() -> dict[str, Any]:
    ref = PB.S3ObjectRef(bucket="b", key="present", version_id="v")
    moment = PB.Timestamp(seconds=1_700_000_000, nanos=5)
    return {
        "HeadObject": PB.HeadObjectRequest(ref=ref),
        "ReadObject": PB.ReadObjectRequest(
            ref=ref,
            range=PB.ByteRange(start=1, end=3),
            if_match="*",
            if_none_match='"x"',
            if_modified_since=moment,
            if_unmodified_since=moment,
        ),
        "WriteObject": PB.WriteObjectRequest(
            open=PB.WriteObjectOpen(
                ref=PB.S3ObjectRef(bucket="b", key="fuzz"),
                content_type="text/plain",
                cache_control="no-store",
                content_disposition="inline",
                content_encoding="gzip",
                content_language="en",
                metadata={"a": "b", "c": "d"},
                if_none_match="x",
            )
        ),
        "DeleteObject": PB.DeleteObjectRequest(ref=PB.S3ObjectRef(bucket="b", key="other", version_id="v")),
        "ListObjects": PB.ListObjectsRequest(
            bucket="b", prefix="p", delimiter="/", continuation_token="t", start_after="s", max_keys=3
        ),
        "CopyObject": PB.CopyObjectRequest(
            source=ref, destination=PB.S3ObjectRef(bucket="b", key="copy"), if_match="x", if_none_match="y"
        ),
        "PresignObject": PB.PresignObjectRequest(
            ref=ref, method=1, expires_seconds=60, content_type="a/b", headers={"x": "y"}
        ),
    }


VALID = {method: message.SerializeToString() for method, message in valid_messages().items()}
REQUESTS = {method: request for method, (request, _) in protos.METHODS.items()}


def spare(method: str, raw: bytes) -> bool:
    """Whether a mutated request would destroy what the tests look at: it must not name the object `present`."""
    return method in ("DeleteObject", "CopyObject", "WriteObject") and b"present" in raw


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """The message with one to four random edits: a bit, a byte, a cut, a repeat, an insertion."""
    out = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        position = chance.randrange(len(out) + 1)
        kind = chance.randrange(6)
        if kind == 0 and position < len(out):
            out[position] ^= 1 << chance.randrange(8)
        elif kind == 1 and position < len(out):
            out[position] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif kind == 2:
            del out[position:]
        elif kind == 3:
            del out[position : position + chance.randint(1, 8)]
        elif kind == 4:
            out[position:position] = chance.randbytes(chance.randint(1, 8))
        else:
            out += out[position:]
    return bytes(out)


def judge(method: str, raw_request: bytes, code: grpc.StatusCode) -> None:
    if not decodable(REQUESTS[method], raw_request):
        assert code is INVALID, f"undecodable, yet {code}: {raw_request!r}"


@pytest.mark.parametrize("method", protos.METHODS)
@given(request=st.binary(max_size=300))
def test_random_bytes(raw: Raw, method: str, request: bytes) -> None:
    if not spare(method, request):
        judge(method, request, raw.call(method, request))


@pytest.mark.parametrize("method", protos.METHODS)
def test_every_truncation_of_a_valid_message(raw: Raw, method: str) -> None:
    whole = VALID[method]
    for length in range(len(whole)):
        judge(method, whole[:length], raw.call(method, whole[:length]))


@pytest.mark.parametrize("method", protos.METHODS)
def test_mutations_of_a_valid_message(raw: Raw, method: str) -> None:
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        request = mutated(VALID[method], chance)
        if not spare(method, request):
            judge(method, request, raw.call(method, request))


@pytest.mark.parametrize("method", protos.METHODS)
@pytest.mark.parametrize("wire_type", range(8))
def test_every_field_with_every_wire_type(raw: Raw, method: str, wire_type: int) -> None:
    payloads = (b"", b"\x00", b"\x01x", b"12345678", b"\xff" * 10 + b"\x01", b"\x80", b"\x7f" * 20)
    for number in range(1, 12):
        for payload in payloads:
            request = bytes([number << 3 | wire_type]) + payload
            judge(method, request, raw.call(method, request))


@pytest.mark.parametrize("method", protos.METHODS)
def test_deep_nesting_long_varints_and_groups(raw: Raw, method: str) -> None:
    nested = b""
    for _ in range(300):
        nested = b"\x0a" + (bytes([len(nested)]) if len(nested) < 128 else varint(len(nested))) + nested
    wild = [
        nested,
        b"\x0b" * 5000,
        b"\x0b" * 50 + b"\x0c" * 50,
        b"\x0c",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff" * 11,
        b"\x00",
        b"\x08",
        b"\x0a\x02\x12\x00",
        b"\x0a\x04\x12\x02\xff\xfe",
        b"\x0a\x05\x12\x03\xed\xa0\x80",
        VALID[method] * 200,
    ]
    for request in wild:
        if not spare(method, request):
            judge(method, request, raw.call(method, request))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


OPEN = VALID["WriteObject"]
FRAMES = st.one_of(
    st.binary(max_size=60),
    st.just(b""),
    st.just(OPEN),
    st.binary(max_size=200).map(lambda data: PB.WriteObjectRequest(data=data).SerializeToString()),
    st.binary(max_size=40).map(lambda data: b"\x12" + varint(len(data)) + data),
    st.binary(max_size=40).map(lambda data: b"\x12\x80" + data),
    st.integers(0, len(OPEN)).map(lambda length: OPEN[:length]),
)


def expected_body(frames: list[bytes]) -> bytes | None:
    """What protobuf and the frame rules make of an upload: its body, or None if it must be refused."""
    body = b""
    for position, frame in enumerate(frames):
        if not decodable("WriteObjectRequest", frame):
            return None
        kind = (message := PB.WriteObjectRequest.FromString(frame)).WhichOneof("msg")
        if kind != ("data" if position else "open"):
            return None
        if kind == "open" and message.open.ref.key != "fuzz":
            return None
        body += message.data
    return body if frames else None


@given(frames=st.lists(FRAMES, max_size=6), lead=st.booleans())
def test_frames_of_an_upload(raw: Raw, client: Client, frames: list[bytes], lead: bool) -> None:
    """An upload is committed exactly when each frame is what it should be, and then with exactly its bytes."""
    requests = [OPEN, *frames] if lead else frames
    if any(spare("WriteObject", frame) for frame in requests):
        return
    body = expected_body(requests)
    code = raw.write(requests)
    if body is None:
        assert code is INVALID, code
    else:
        assert code is OK, code
        assert client.body("fuzz", bucket="b") == body


@pytest.mark.parametrize(
    "frame",
    [
        b"\x12\x83\x00abc",
        b"\x12\x83\x80\x80\x80\x80\x80\x80\x80\x80\x00abc",
        b"\x12\x01x\x12\x03abc",
        b"\x12\x03abc\xa0\x3e\x01",
        b"\xa0\x3e\x01\x12\x03abc",
        OPEN + b"\x12\x03abc",
    ],
    ids=["long length", "longest length", "twice", "unknown after", "unknown before", "open overridden"],
)
def test_unusual_encodings_of_a_data_frame_mean_what_protobuf_says(raw: Raw, client: Client, frame: bytes) -> None:
    assert PB.WriteObjectRequest.FromString(frame).data == b"abc"
    assert raw.write([OPEN, b"\x12\x01-", frame]) is OK
    assert client.body("fuzz", bucket="b") == b"-abc"


@pytest.mark.parametrize(
    "frame", [b"\x12\x03ab", b"\x12\x03abcd", b"\x12\x05abc", b"\x12", b"\x13\x03abc", b"\x12\x80"]
)
def test_a_broken_data_frame_refuses_the_whole_upload(raw: Raw, client: Client, frame: bytes) -> None:
    client.write("fuzz", b"previous", bucket="b")
    assert raw.write([OPEN, b"\x12\x01-", frame, b"\x12\x01-"]) is INVALID
    assert client.body("fuzz", bucket="b") == b"previous"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 5])
SMALL = NUMBERS.filter(lambda number: -(2**31) <= number < 2**31)
KEYS = st.one_of(TEXT, st.just("other"), st.just("present"), st.text("x", min_size=2040, max_size=2060))
REFS = st.builds(PB.S3ObjectRef, bucket=st.one_of(TEXT, st.just("b")), key=KEYS, version_id=TEXT)
MOMENTS = st.builds(PB.Timestamp, seconds=NUMBERS, nanos=SMALL)
TAGS = st.one_of(TEXT, st.sampled_from(["*", 'W/"x"', '"', '"a", "b', ",,,", "W/", '"\0"', "*, *"]))
WILD = {
    "HeadObject": st.builds(PB.HeadObjectRequest, ref=REFS),
    "ReadObject": st.builds(
        PB.ReadObjectRequest,
        ref=REFS,
        range=st.builds(PB.ByteRange, start=NUMBERS, end=NUMBERS),
        if_match=TAGS,
        if_none_match=TAGS,
        if_modified_since=st.one_of(st.none(), MOMENTS),
        if_unmodified_since=st.one_of(st.none(), MOMENTS),
    ),
    "WriteObject": st.builds(
        PB.WriteObjectRequest,
        open=st.builds(
            PB.WriteObjectOpen,
            ref=REFS.filter(lambda ref: ref.key != "present"),
            content_type=TEXT,
            content_language=TEXT,
            metadata=st.dictionaries(TEXT, TEXT, max_size=4),
            if_match=TAGS,
            if_none_match=TAGS,
        ),
    ),
    "DeleteObject": st.builds(PB.DeleteObjectRequest, ref=REFS.filter(lambda ref: ref.key != "present")),
    "ListObjects": st.builds(
        PB.ListObjectsRequest,
        bucket=TEXT,
        prefix=TEXT,
        delimiter=TEXT,
        continuation_token=TEXT,
        start_after=TEXT,
        max_keys=SMALL,
    ),
    "CopyObject": st.builds(
        PB.CopyObjectRequest,
        source=REFS,
        destination=REFS.filter(lambda ref: ref.key != "present"),
        if_match=TAGS,
        if_none_match=TAGS,
    ),
    "PresignObject": st.builds(
        PB.PresignObjectRequest, ref=REFS, method=st.integers(-5, 900), expires_seconds=NUMBERS, content_type=TEXT
    ),
}


@pytest.mark.parametrize("method", protos.METHODS)
@given(data=st.data())
def test_wild_values_in_well_formed_messages(raw: Raw, method: str, data: st.DataObject) -> None:
    raw.call(method, data.draw(WILD[method]).SerializeToString())


@pytest.mark.parametrize("field", ["if_modified_since", "if_unmodified_since"])
@pytest.mark.parametrize("seconds", [0, 2**63 - 1, -(2**63), 253402300800])
@pytest.mark.parametrize("nanos", [0, -1, 10**9, 2**31 - 1])
def test_timestamps_outside_their_range(raw: Raw, field: str, seconds: int, nanos: int) -> None:
    """Either taken at their value or refused as invalid."""
    request = PB.ReadObjectRequest(ref=PB.S3ObjectRef(bucket="b", key="present"))
    getattr(request, field).CopyFrom(PB.Timestamp(seconds=seconds, nanos=nanos))
    assert raw.read(request.SerializeToString()) in (OK, INVALID, grpc.StatusCode.FAILED_PRECONDITION)


def test_a_compressed_or_oversized_message_does_no_harm(raw: Raw, client: Client) -> None:
    huge = PB.WriteObjectRequest(data=bytes(65 * 2**20)).SerializeToString()
    assert raw.write([OPEN, huge]) is grpc.StatusCode.RESOURCE_EXHAUSTED
    head = client.channel.unary_unary(protos.S3 + "HeadObject", response_deserializer=PB.HeadObjectResponse.FromString)
    request = PB.HeadObjectRequest(ref=PB.S3ObjectRef(bucket="b", key="present")).SerializeToString()
    assert head(request, timeout=30, compression=grpc.Compression.Gzip).meta.size == 10


@pytest.fixture(scope="module", name="provider")
def provider_fixture() -> Iterator[Hosted]:
    """A provider whose working directory, home and temporary files are its own, as configurations here are wild."""
    with (
        tempfile.TemporaryDirectory(prefix="gc") as home,
        Hosted(environment={"PYTHONPATH": str(ROOT)}, cwd=Path(home)) as provider,
    ):
        yield provider
        provider.stop()


WILD_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.floats(), st.integers(-5, 5), st.text(st.sampled_from("ab.\0é"), max_size=4)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["concurrentReads", "inlineMaxBytes", "a", ""]), inner, max_size=3),
    ),
    max_leaves=5,
)
WILD_CONFIGS = st.dictionaries(
    st.sampled_from(["bucket", "keyPrefix", "versioning", "limits", "blobs", "unknown", ""]), WILD_VALUES, max_size=3
)


@given(config=WILD_CONFIGS, version=st.one_of(st.integers(2, 5), SMALL), name=TEXT)
def test_wild_configurations(provider: Hosted, config: dict[str, Any], version: int, name: str) -> None:
    lifecycle = Lifecycle(provider.target)
    status = status_of(lambda: lifecycle.configure(config, version=version, name=name))
    assert status in (OK, INVALID, grpc.StatusCode.FAILED_PRECONDITION)
    assert lifecycle.health().IsInitialized()
    assert lifecycle.identity().kind == 7
    lifecycle.close()


@pytest.mark.parametrize("method", protos.LIFECYCLE_METHODS)
def test_random_bytes_to_lifecycle_methods(provider: Hosted, method: str) -> None:
    lifecycle = Lifecycle(provider.target)
    raw = Raw(lifecycle.channel)
    request_type, _ = protos.LIFECYCLE_METHODS[method]
    chance = random.Random(SEED)
    valid = PB.ConfigureProviderRequest(name="assets", protocol_version=5)
    valid.config.update({"bucket": "b", "limits": {"concurrentReads": 4}})
    for turn in range(ROUNDS):
        request = chance.randbytes(chance.randrange(60)) if turn % 2 else mutated(valid.SerializeToString(), chance)
        code = raw.unary(protos.LIFECYCLE + method, request)
        if not decodable(request_type, request):
            assert code is INVALID, (method, request, code)
    assert lifecycle.health().IsInitialized()
    lifecycle.close()
