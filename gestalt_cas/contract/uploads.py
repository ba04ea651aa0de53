"""The stream of a WriteObject call: the opening, then the data, then a clean end.

An upload that fails early is drained before it is refused: the host and the Go SDK see the refusal only if their sends
succeed (docs/contract.md 3.5). It counts as cancelled until its stream has ended cleanly, and grpcio can show a cancel
as a plain end a moment before it says so, hence a stream that ends is asked once more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import grpc

from gestalt_cas import wire_pb2
from gestalt_cas.contract.calls import OpenCall
from gestalt_cas.errors import Cancelled, InvalidArgument, QuotaExceeded, StoreError, StoreFull
from gestalt_cas.rules.frames import unpack_data
from gestalt_cas.serving import messages

log = logging.getLogger(__name__)

DRAIN_BYTES, DRAIN_SECONDS = 256 << 20, 10.0


class Upload:
    """The frames of one WriteObject call: the opening, then the data, then a clean end."""

    def __init__(self, frames: Iterator[bytes], call: OpenCall) -> None:
        self._frames = frames
        self._call = call
        self._ended = False

    def opening(self) -> wire_pb2.WriteObjectOpen:
        """The first frame; raises InvalidArgument when there is none or it is no opening."""
        raw = self._next()
        if raw is None:
            self.confirm()
            raise InvalidArgument("the upload has no frames; the first one must be the opening")
        message = messages.decode(wire_pb2.WriteObjectRequest, raw)
        if message.WhichOneof("msg") != "open":
            raise InvalidArgument("the first frame of an upload must be the opening")
        return message.open

    def data(self) -> Iterator[memoryview]:
        """The payload of the remaining frames, not copied; empty frames are passed over."""
        while (raw := self._next()) is not None:
            data = unpack_data(raw)
            if data is None:
                data = _unusual_data(raw)
            if len(data):
                self._call.request.received += len(data)
                yield data

    def confirm(self) -> None:
        """Raise Cancelled unless the stream has ended cleanly and the caller still waits for the answer."""
        if not self._ended or not self._call.context.is_active():
            raise Cancelled("the upload was cancelled by its caller")

    def drain(self, error: StoreError) -> None:
        """Take and drop what the caller still sends, so that it gets to see `error` instead of a broken pipe."""
        full = isinstance(error, StoreFull) and not isinstance(error, QuotaExceeded)
        if full or isinstance(error, Cancelled) or self._ended:
            return
        self._call.end_by(DRAIN_SECONDS, error)
        left = DRAIN_BYTES
        try:
            while left > 0 and (raw := self._next()) is not None:
                left -= len(raw)
        except Cancelled:
            log.debug("the caller left while its refused upload was drained")

    def _next(self) -> bytes | None:
        """The next frame, None at the end of the stream; raises Cancelled when the caller has gone."""
        try:
            raw = next(self._frames, None)
            if raw is None and not self._ended:
                # Asked once more, grpcio asks the connection: the answer comes through the same queue as a cancel that
                # was there before, so that one has been seen then.
                next(self._frames, None)
                self._ended = True
        except grpc.RpcError:
            raise Cancelled("the upload was cancelled by its caller") from None
        self._call.progress()
        return raw


def _unusual_data(raw: bytes) -> memoryview:
    message = messages.decode(wire_pb2.WriteObjectRequest, raw)
    kind = message.WhichOneof("msg")
    if kind == "open":
        raise InvalidArgument("an upload may have one opening only")
    if kind is None:
        raise InvalidArgument("a frame of the upload is neither opening nor data")
    return memoryview(message.data)
