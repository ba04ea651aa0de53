"""Cases 12 to 21, 26 to 29, 32 to 34 and 91: what is written comes back, and nothing else is ever there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check
from gestalt_cas.conformance.wire import frames

MIB = 1 << 20
_MOST_MESSAGE_BYTES = 4 * MIB
_TESTS = "transport tests; contract 3.3 to 3.5"
_UPLOADS = "contract 3.5"
_BIG = bytes(range(251)) * (5 * MIB // 251 + 1)
_WAIT_SECONDS = 20.0


def _big(size: int = 5 * MIB) -> bytes:
    return _BIG[:size]


@check(12, evidence=_TESTS)
def a_write_answers_its_meta(place: Place) -> None:
    """The answer to a write has the key, size, content type and metadata that were sent, and an etag."""
    meta = place.write("k", b"hello world", content_type="text/plain", metadata={"Author": "ada", "n": "1"})
    place.same(meta.ref.key, place.key("k"), "the key")
    if place.bucketed:
        place.same(meta.ref.bucket, place.bucket, "the bucket")
    place.same(meta.size, 11, "the size")
    place.same(meta.content_type, "text/plain", "the content type")
    place.same(dict(meta.metadata), {"Author": "ada", "n": "1"}, "the metadata")
    place.holds(meta.etag.strip('"'), "an etag that is not empty")


@check(13, evidence=_TESTS)
def head_equals_the_write(place: Place) -> None:
    """HeadObject tells the same as the write did, with the time of modification."""
    written = place.write("k", b"hello", content_type="text/plain", metadata={"a": "b"})
    head = place.head("k")
    for name in ("etag", "size", "content_type"):
        place.same(getattr(head, name), getattr(written, name), f"the {name} by HeadObject")
    place.same(dict(head.metadata), {"a": "b"}, "the metadata by HeadObject")
    place.holds(head.HasField("last_modified"), "last_modified to be set")
    place.holds(abs(head.last_modified.seconds - time.time()) < 86400, "last_modified to be about now")


@check(14, evidence=_TESTS)
def a_read_begins_with_the_meta(place: Place) -> None:
    """The first frame of a read is the meta, which tells what HeadObject does, and the rest are the bytes."""
    written = place.write("k", b"hello world", content_type="text/plain", metadata={"a": "b"})
    head = place.head("k")
    meta, parts = place.read("k")
    place.same((meta.size, meta.etag, meta.content_type), (11, written.etag, "text/plain"), "size, etag and type")
    place.agree(meta, head, "the meta of a read")
    place.same(b"".join(parts), b"hello world", "the body")


@check(15, evidence=_TESTS)
def five_mebibytes_round_trip(place: Place) -> None:
    """5 MiB in frames of 64 KiB come back as they were."""
    place.same(place.write("k", _big()).size, 5 * MIB, "the size")
    place.holds(place.body("k") == _big(), "the body to be what was written")


@check(16, evidence="gRPC's default receive limit of 4 MiB in hosts and SDKs; contract 3.1")
def a_large_read_comes_in_small_frames(place: Place) -> None:
    """A large read comes in several frames of under 4 MiB, none of them empty."""
    place.write("k", _big())
    _, parts = place.read("k")
    place.holds(len(parts) > 1, "several data frames", len(parts))
    place.holds(max(map(len, parts)) < _MOST_MESSAGE_BYTES, "frames under 4 MiB", max(map(len, parts)))
    place.holds(min(map(len, parts)) > 0, "no empty frame", 0)


@check(17, evidence=_UPLOADS)
def an_opening_alone_is_an_empty_object(place: Place) -> None:
    """An upload that ends after its opening is an object of no bytes."""
    place.same(place.write("k", parts=[]).size, 0, "the size")
    place.same(place.head("k").size, 0, "the size by HeadObject")


@check(18, evidence=_UPLOADS)
def an_empty_data_frame_is_an_empty_object(place: Place) -> None:
    """So is one whose only data frame is empty."""
    place.same(place.write("k", parts=[b""]).size, 0, "the size")
    place.same(place.body("k"), b"", "the body")


@check(19, evidence="contract 3.4: never send empty data frames")
def an_empty_read_is_one_frame(place: Place) -> None:
    """Reading an empty object is the meta and nothing else."""
    place.write("k", parts=[])
    found = place.chunks("k")
    place.same([chunk.WhichOneof("result") for chunk in found], ["meta"], "the frames of the read")


@check(20, evidence=_TESTS)
def frames_are_joined_in_order(place: Place) -> None:
    """Frames of any length, empty ones among them, are joined in their order."""
    place.write("k", parts=[b"he", b"", b"llo"])
    place.same(place.body("k"), b"hello", "the body")
    parts = [bytes([number]) * (number * 37 % 5000) for number in range(200)]
    place.write("l", parts=parts)
    place.holds(place.body("l") == b"".join(parts), "a body of 200 uneven frames to be joined in order")


@check(21, evidence="contract 3.5: nothing is inherited")
def an_overwrite_inherits_nothing(place: Place) -> None:
    """Overwriting without content type and metadata clears both."""
    place.write("k", b"one", content_type="text/plain", metadata={"a": "1", "b": "2"})
    place.write("k", b"two", metadata={"c": "3"})
    head = place.head("k")
    place.same(head.content_type, "", "the content type")
    place.same(dict(head.metadata), {"c": "3"}, "the metadata")
    place.write("k", b"three")
    place.same(dict(place.head("k").metadata), {}, "the metadata after a write without any")


@check(26, evidence=_UPLOADS)
def a_first_frame_of_data(place: Place) -> None:
    """An upload that does not begin with its opening is INVALID_ARGUMENT."""
    with place.refused(Code.INVALID_ARGUMENT, why="the first frame is data"):
        place.wire.send([place.wire.data_frame(b"x")])


@check(27, evidence=_UPLOADS)
def no_frames_at_all(place: Place) -> None:
    """An upload without any frame is INVALID_ARGUMENT."""
    with place.refused(Code.INVALID_ARGUMENT, why="there is no frame"):
        place.wire.send([])


@check(28, evidence="TypeScript and Python SDKs since a20; contract 6, Second open frame")
def a_second_opening(place: Place) -> None:
    """A second opening is INVALID_ARGUMENT, and nothing is stored."""
    data = place.wire.data_frame(b"x")
    with place.refused(Code.INVALID_ARGUMENT, why="there are two openings"):
        place.wire.send([place.open_frame("k"), data, place.open_frame("other"), data])
    place.absent("k", "the upload was refused")
    place.absent("other", "the upload was refused")


class _Upload:
    """An upload that stops in its midst until it is told to go on."""

    def __init__(self, place: Place, name: str, parts: list[bytes], **fields: Any) -> None:
        self._place = place
        self.sent, self._go_on = threading.Event(), threading.Event()
        self.call = place.wire.upload(self._frames(name, parts, fields))

    def was_sent(self) -> bool:
        """Whether the provider has taken all of it, waiting for that; False when it ended the call before."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while not self.sent.wait(0.01):
            if self.call.done() or time.monotonic() > deadline:
                return False
        return True

    def _frames(self, name: str, parts: list[bytes], fields: dict[str, Any]) -> Iterator[Any]:
        yield self._place.open_frame(name, **fields)
        for part in parts:
            yield self._place.wire.data_frame(part)
        self.sent.set()
        self._go_on.wait(_WAIT_SECONDS)

    def cancel(self) -> None:
        self.call.cancel()
        self._go_on.set()

    def finish(self) -> Any:
        self._go_on.set()
        return self.call.result(_WAIT_SECONDS).meta


def _unchanged(place: Place, name: str, previous: bytes | None, why: str) -> None:
    """For a quarter of a second: what was answered may lag behind a cancel."""
    for _ in range(5):
        if previous is None:
            place.absent(name, why)
        else:
            place.same(place.body(name), previous, f"the body, {why}")
        time.sleep(0.05)


@check(29, evidence="a host whose HTTP client vanishes cancels; contract 3.5")
def a_cancelled_upload_changes_nothing(place: Place) -> None:
    """Cancelling in the midst of an upload leaves what was there before, also after all frames were sent."""
    place.write("old", b"previous")
    for name, previous in (("old", b"previous"), ("new", None)):
        for size in (100, 2 * MIB):
            upload = _Upload(place, name, frames(_big(size)))
            upload.was_sent()
            upload.cancel()
            _unchanged(place, name, previous, "after the cancel of an upload")


@check(109, evidence="contract 3.5: commit only on a clean end of stream")
def nothing_is_visible_before_the_end(place: Place) -> None:
    """An upload on its way is invisible: until its stream has ended reads see what was there before."""
    place.write("k", b"previous")
    upload = _Upload(place, "k", frames(_big(2 * MIB)), metadata={"new": "1"})
    place.holds(upload.was_sent(), "the provider to take 2 MiB of an upload within 20 s")
    time.sleep(0.1)
    try:
        place.same(place.body("k"), b"previous", "the body while another upload is on its way")
        place.same(dict(place.head("k").metadata), {}, "the metadata while another upload is on its way")
    finally:
        meta = upload.finish()
    place.same(meta.size, 2 * MIB, "the size that the upload answers in the end")
    place.holds(place.body("k") == _big(2 * MIB), "the body after the upload to be the new one")


@check(32, evidence=_TESTS)
def absence_is_not_found(place: Place) -> None:
    """HeadObject and ReadObject of nothing are NOT_FOUND."""
    place.absent("absent", "nothing was ever written")
    with place.refused(Code.NOT_FOUND, why="nothing was ever written"):
        place.chunks("absent")


@check(33, evidence="transport tests")
def a_read_may_be_closed_early(place: Place) -> None:
    """A read that its caller gives up does not keep others from reading the object whole."""
    place.write("k", _big())
    for _ in range(8):
        call = place.read_stream("k")
        next(call)
        next(call)
        call.cancel()
    place.holds(place.body("k") == _big(), "the body after reads that were given up")


@check(34, evidence="the host and the Go SDK lose the status of an upload that ends early; contract 3.5")
def a_late_failure_is_drained(place: Place) -> None:
    """An upload that fails a precondition is taken to its end first: its caller sees the status, not a broken pipe."""
    place.write("k", b"previous")
    upload = _Upload(place, "k", frames(_big(4 * MIB)), if_none_match="*")
    place.holds(upload.was_sent(), "the provider to take an upload that it will refuse to its end", "an early end")
    time.sleep(0.2)
    place.holds(not upload.call.done(), "the status to come only after the caller has sent everything")
    with place.refused(Code.FAILED_PRECONDITION, why="the object exists"):
        upload.finish()
    place.same(place.body("k"), b"previous", "the body")


@check(129, evidence="the same for every refusal; contract 3.5")
def an_invalid_opening_is_drained(place: Place) -> None:
    """An upload whose opening cannot be right is taken to its end, too, before it is refused."""
    opening = place.wire.open_frame("", bucket=place.bucket)
    body = [place.wire.data_frame(part) for part in frames(_big(4 * MIB))]
    with place.refused(Code.INVALID_ARGUMENT, why="the key is empty"):
        place.wire.send([opening, *body])


@check(91, evidence=_TESTS)
def metadata_absent_or_odd(place: Place) -> None:
    """Metadata comes back verbatim: no entries, empty values, any case, any Unicode."""
    for number, metadata in enumerate(({}, {"empty": ""}, {"MiXed": "Case", "mixed": "case"}, {"ключ": "значение 🙂"})):
        name = f"k{number}"
        place.write(name, b"x", metadata=metadata)
        place.same(dict(place.head(name).metadata), metadata, "the metadata")


@check(110, evidence="contract 3.5: an overwrite is atomic")
def no_read_is_torn_by_an_overwrite(place: Place) -> None:
    """A read beside overwrites has the bytes of one of them, with its size and etag, never a mixture."""
    bodies = [bytes([65 + number]) * (600_000 + number * 1000) for number in range(4)]
    etags = {place.write("k", body).etag: body for body in bodies}
    stop = threading.Event()
    failures: list[BaseException] = []

    def overwrite() -> None:
        number = 0
        try:
            while not stop.is_set():
                place.write("k", bodies[number % len(bodies)])
                number += 1
        except BaseException as error:  # noqa: BLE001 - told by the check itself
            failures.append(error)

    writers = [threading.Thread(target=overwrite) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(25):
            meta, parts = place.read("k")
            body = b"".join(parts)
            place.holds(body in bodies, "a read beside overwrites to have the bytes of one", f"{len(body)} mixed bytes")
            place.same(meta.size, len(body), "the size in the meta beside the bytes that came")
            place.holds(
                meta.etag not in etags or etags[meta.etag] == body, "the etag of the bytes that came", meta.etag
            )
    finally:
        stop.set()
        for writer in writers:
            writer.join(_WAIT_SECONDS)
    if failures:
        raise failures[0]


@check(111, evidence="contract 3.4: an open read is of one version")
def a_read_that_is_slow_keeps_its_version(place: Place) -> None:
    """A read that began before an overwrite and goes on after it has the bytes that it began with."""
    before, after = b"a" * (5 * MIB), b"b" * (5 * MIB)
    place.write("k", before)
    call = place.read_stream("k")
    next(call)
    got = next(call).data
    place.write("k", after)
    place.delete("k")
    got += b"".join(chunk.data for chunk in call)
    place.holds(got == before, "a read to have the bytes of the version that it began with", f"{len(got)} bytes")


@check(112, Capability.LARGE_FRAMES, evidence="Python SDK since a20 takes 64 MiB; contract 3.1")
def a_frame_of_over_four_mebibytes(place: Place) -> None:
    """One frame may carry more than 4 MiB: iterables are sent as their caller yields them."""
    place.write("k", parts=[_big(5 * MIB)])
    place.holds(place.body("k") == _big(), "the body of a single large frame")
