"""Deliberately wrong providers, each a mistake that somebody has made or might.

`killed_by` has the numbers of checks of which at least one must find it; every other check of `area` must still pass,
so that a variant is wrong in one thing and not in all. `race` marks races, paging faults and late failures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import grpc

from wrong.good import FRAME, Code, Good, Refused, Stored, Where


class Wrong(Good):
    area: ClassVar[str]
    killed_by: ClassVar[set[int]]
    race: ClassVar[bool] = False


# ---- ranges ----


class HalfOpenRange(Wrong):
    """Takes the comment of the proto file at its word: the end is exclusive."""

    area, killed_by = "ranges", {35, 36, 37, 46, 45, 102}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        start, stop = super().span(request, size)
        return (start, min(stop, request.range.end)) if request.range.HasField("end") else (start, stop)


class SizeOfThePart(Wrong):
    """The meta of a ranged read has the size of the part."""

    area, killed_by = "ranges", {40}

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        return self.meta(request.ref, found, where, stop - start)


class EndAloneIsASuffix(Wrong):
    """Reads an end without a start as HTTP's suffix."""

    area, killed_by = "ranges", {37}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        wanted = request.range
        if wanted.HasField("end") and not wanted.HasField("start") and wanted.end >= 0 and size:
            return max(0, size - wanted.end), size
        return super().span(request, size)


class UnclampedEnd(Wrong):
    """Refuses an end beyond the object, as the stub does."""

    area, killed_by = "ranges", {45}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        if request.range.HasField("end") and request.range.end >= size > 0:
            raise Refused(Code.OUT_OF_RANGE, "the end lies beyond the object")
        return super().span(request, size)


class StartAtTheSizeIsEmpty(Wrong):
    """Answers the first byte after the object with no bytes."""

    area, killed_by = "ranges", {47, 48}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        if request.range.HasField("start") and request.range.start == size and not 0 <= request.range.end < size:
            return size, size
        return super().span(request, size)


class NegativeStartCountsFromTheEnd(Wrong):
    """Hands a negative start to a slice."""

    area, killed_by = "ranges", {43}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        if request.range.HasField("start") and request.range.start < 0:
            return max(0, size + request.range.start), size
        return super().span(request, size)


class BackwardRangeIsEmpty(Wrong):
    """An end before the start is an empty slice, answered OK."""

    area, killed_by = "ranges", {42}

    def span(self, request: Any, size: int) -> tuple[int, int]:
        wanted = request.range
        if wanted.HasField("start") and wanted.HasField("end") and 0 <= wanted.end < wanted.start < size:
            return 0, 0
        return super().span(request, size)


class RangeByFrames(Wrong):
    """Cuts only the first frame of a range to its start, so that long ranges end late."""

    area, killed_by = "ranges", {102}

    def pieces(self, where: Where, found: Stored, start: int, stop: int) -> Iterator[Any]:
        if stop - start > FRAME:
            stop = min(len(found.body or b""), stop + 1)
        yield from super().pieces(where, found, start, stop)


# ---- conditions ----


class CreateOnlyRace(Wrong):
    """Judges create-only before the body, and not again when it commits."""

    area, killed_by, race = "conditions", {50}, True

    def commit(self, where: Where, opening: Any, body: bytes) -> Any:
        if opening.if_none_match.strip() == "*":
            opening.if_none_match = ""
        return super().commit(where, opening, body)


class LostUpdate(Wrong):
    """Judges if_match before the body, and not again when it commits."""

    area, killed_by, race = "conditions", {106}, True

    def commit(self, where: Where, opening: Any, body: bytes) -> Any:
        time.sleep(0.01)
        opening.if_match = ""
        return super().commit(where, opening, body)


class QuotedTagLiterally(Wrong):
    """Compares the condition with the etag as it sends it, quotes and all."""

    area, killed_by = "conditions", {55, 104}

    def tags(self, text: str) -> list[tuple[bool, str]]:
        found = [part.strip() for part in text.split(",")]
        return [(one.startswith("W/"), one.removeprefix("W/")[1:-1] if '"' in one else f"'{one}'") for one in found]


class WeakTagsMatchStrongly(Wrong):
    """Lets a weak tag through in if_match."""

    area, killed_by = "conditions", {55, 104}

    def strongly(self, text: str, found: Stored) -> bool:
        return self.weakly(text, found)


class WeakTagsNeverMatch(Wrong):
    """Compares if_none_match strongly."""

    area, killed_by = "conditions", {55, 104}

    def weakly(self, text: str, found: Stored) -> bool:
        return self.strongly(text, found)


class FirstTagOnly(Wrong):
    """Looks at the first tag of a list only."""

    area, killed_by = "conditions", {55, 104}

    def tags(self, text: str) -> list[tuple[bool, str]]:
        return super().tags(text)[:1]


class WeakTagsOfWritesAreOthers(Wrong):
    """Knows weak tags in the conditions of a read, but not in those of a write."""

    area, killed_by = "conditions", {104}

    def may_write(self, request: Any, found: Stored | None, version_id: str) -> None:
        if not request.if_none_match.startswith("W/"):
            super().may_write(request, found, version_id)


class IfMatchOnNothingCreates(Wrong):
    """if_match on an absent key is no condition."""

    area, killed_by = "conditions", {52}

    def may_write(self, request: Any, found: Stored | None, version_id: str) -> None:
        if found is not None or version_id:
            super().may_write(request, found, version_id)


class DatesGoFirst(Wrong):
    """Judges the dates beside the tags instead of in their absence."""

    area, killed_by = "conditions", {56}

    def may_read(self, request: Any, found: Stored) -> None:
        super().may_read(request, found)
        if request.HasField("if_unmodified_since") and int(found.modified) > request.if_unmodified_since.seconds:
            raise Refused(Code.FAILED_PRECONDITION, "modified since")


class DatesToTheNanosecond(Wrong):
    """Compares dates with their fraction, so that what HTTP sent back does not hold."""

    area, killed_by = "conditions", {56}

    def may_read(self, request: Any, found: Stored) -> None:
        judged = request.HasField("if_unmodified_since") and not request.if_match
        if judged and found.modified > request.if_unmodified_since.seconds:
            raise Refused(Code.FAILED_PRECONDITION, "modified since")
        super().may_read(request, found)


class ConditionsBeforeExistence(Wrong):
    """A condition on what is absent fails the precondition instead of not being found."""

    area, killed_by = "conditions", {105}

    def ReadObject(self, request: Any, context: Any) -> Iterator[Any]:
        if request.if_match and self.current(self.where(request.ref)) is None:
            raise Refused(Code.FAILED_PRECONDITION, "if-match")
        yield from super().ReadObject(request, context)


class EitherConditionIsEnough(Wrong):
    """With both conditions on a write lets it through when one holds."""

    area, killed_by = "conditions", {107}

    def may_write(self, request: Any, found: Stored | None, version_id: str) -> None:
        both = request.if_match and request.if_none_match and found is not None
        if both and (self.strongly(request.if_match, found) or not self.weakly(request.if_none_match, found)):
            return
        super().may_write(request, found, version_id)


class DestinationVersionIgnored(Wrong):
    """Does not look at the version id of a write's destination."""

    area, killed_by = "conditions", {108}

    def must_be_current(self, found: Stored | None, version_id: str) -> None:
        pass


# ---- bodies ----


class LateFailureNotDrained(Wrong):
    """Ends an upload as soon as it knows that it will fail."""

    area, killed_by, race = "bodies", {34, 129}, True

    def drain(self, frames: Iterator[Any]) -> None:
        pass


class MetadataMerged(Wrong):
    """An overwrite keeps the metadata that it does not name."""

    area, killed_by = "bodies", {21}

    def stored(self, opening: Any, body: bytes, before: Stored | None) -> Stored:
        found = super().stored(opening, body, before)
        return Stored(body, "", found.content_type, {**(before.metadata if before else {}), **found.metadata})


class ContentTypeInherited(Wrong):
    """An overwrite without a content type keeps the one that was there."""

    area, killed_by = "bodies", {21}

    def stored(self, opening: Any, body: bytes, before: Stored | None) -> Stored:
        found = super().stored(opening, body, before)
        found.content_type = found.content_type or (before.content_type if before else "")
        return found


class TornRead(Wrong):
    """A read takes each frame from the object that is current by then."""

    area, killed_by, race = "bodies", {110, 111}, True

    def pieces(self, where: Where, found: Stored, start: int, stop: int) -> Iterator[Any]:
        for at in range(start, stop, 64 << 10):
            now = self.current(where) or found
            data = (now.body or b"")[at : min(stop, at + (64 << 10))]
            if data:
                yield self.pb.ReadObjectChunk(data=data)


class CancelCommitted(Wrong):
    """Takes a cancel for a clean end, and commits what has come."""

    area, killed_by, race = "bodies", {29}, True

    def arriving(self, requests: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from requests
        except grpc.RpcError:
            return

    def ended_cleanly(self, context: Any) -> bool:
        return True


class VisibleBeforeTheEnd(Wrong):
    """Writes in place: what has come of an upload can be read before its stream has ended."""

    area, killed_by, race = "bodies", {109, 29, 34}, True

    def received(self, where: Where, opening: Any, frames: Iterator[Any]) -> bytes:
        body, shown = b"", None
        for frame in frames:
            if frame.WhichOneof("msg") != "data":
                raise Refused(Code.INVALID_ARGUMENT, "a second opening, or neither")
            body += frame.data
            if len(body) > 1 << 20:
                with self.lock:
                    if shown is None:
                        shown = self.put(where, self.stored(opening, body, None))
                    shown.body = body
        return body


class EmptyDataFrame(Wrong):
    """Sends an empty frame for an empty object."""

    area, killed_by = "bodies", {19}

    def pieces(self, where: Where, found: Stored, start: int, stop: int) -> Iterator[Any]:
        if start == stop:
            yield self.pb.ReadObjectChunk(data=b"")
        yield from super().pieces(where, found, start, stop)


class OneLargeFrame(Wrong):
    """Sends the whole body in one message."""

    area, killed_by = "bodies", {16}

    def pieces(self, where: Where, found: Stored, start: int, stop: int) -> Iterator[Any]:
        body = (found.body or b"")[start:stop]
        half = (len(body) + 1) // 2 if len(body) > (7 << 20) else len(body)
        for at in range(0, len(body), max(1, half)):
            yield self.pb.ReadObjectChunk(data=body[at : at + half])


class SecondOpeningIgnored(Wrong):
    """Passes over a second opening, as the Go SDK does."""

    area, killed_by = "bodies", {28}

    def received(self, where: Where, opening: Any, frames: Iterator[Any]) -> bytes:
        return b"".join(frame.data for frame in frames)


class NoModificationTime(Wrong):
    """Leaves last_modified unset."""

    area, killed_by = "bodies", {13}

    def meta(self, ref: Any, found: Stored, where: Where, size: int | None = None) -> Any:
        meta = super().meta(ref, found, where, size)
        meta.ClearField("last_modified")
        return meta


class ReadWithoutMetadata(Wrong):
    """The meta of a read has no metadata, which only HeadObject tells."""

    area, killed_by = "bodies", {14}

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        meta = super().read_meta(request, found, where, start, stop)
        meta.metadata.clear()
        return meta


class ModifiedWhenItIsRead(Wrong):
    """The meta of a read has the time of the read as that of the last change."""

    area, killed_by = "bodies", {14}

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        meta = super().read_meta(request, found, where, start, stop)
        meta.last_modified.GetCurrentTime()
        return meta


class LowerCaseMetadata(Wrong):
    """Folds the names of metadata, as AWS does."""

    area, killed_by = "bodies", {91, 12}

    def stored(self, opening: Any, body: bytes, before: Stored | None) -> Stored:
        found = super().stored(opening, body, before)
        found.metadata = {name.lower(): value for name, value in found.metadata.items()}
        return found


# ---- names ----


class BlanksStripped(Wrong):
    """Trims keys."""

    area, killed_by = "names", {22}

    def stored_key(self, key: str) -> str:
        return key.strip()


class KeysFolded(Wrong):
    """Keeps keys in lower case, as a case-insensitive file system would."""

    area, killed_by = "names", {22, 23, 24}

    def stored_key(self, key: str) -> str:
        return key.lower()


class KeysDecoded(Wrong):
    """Decodes percent signs in keys, as something that puts them into URLs might."""

    area, killed_by = "names", {23}

    def stored_key(self, key: str) -> str:
        return key.replace("%2F", "/").replace("%2e", ".")


class KeysWithoutNamespace(Wrong):
    """Answers keys without the first part of their namespace."""

    area, killed_by = "names", {90}

    def shown_key(self, key: str) -> str:
        return key.replace("plugin_7_roadmap/", "")


class UndecodableIsInternal(Wrong):
    """Leaves the parsing to gRPC, which answers INTERNAL for bytes that are no message."""

    area, killed_by, undecodable = "names", {128}, Code.INTERNAL


class EmptyKeyAccepted(Wrong):
    """Takes the empty key for a key."""

    area, killed_by = "names", {30, 31}

    def where(self, ref: Any) -> Where:
        return self.bucket(ref), ref.key or "(empty)"


# ---- listing ----


class GroupRepeated(Wrong):
    """Remembers the last key instead of the group, so that the group comes again on the next page."""

    area, killed_by, race = "listing", {61, 67, 72, 114, 115}, True

    def token(self, request: Any, last: tuple[str, bool] | None) -> str:
        return super().token(request, (last[0], False) if last else None)


class EmptyLastPage(Wrong):
    """Says has_more whenever the page is full."""

    area, killed_by, race = "listing", {59, 61, 67, 71, 114, 115}, True

    def at_the_end(self, request: Any, page: Any, last: Any, count: int, limit: int) -> None:
        if count == limit:
            page.has_more = True
            page.next_continuation_token = self.token(request, last)


class TokenOfAnyListing(Wrong):
    """Takes a token of another prefix."""

    area, killed_by, race = "listing", {116}, True

    def scope(self, request: Any) -> list[str]:
        return ["", "", ""]


class TokenNeedsItsKey(Wrong):
    """Looks for the key of the token, and begins anew when it has gone."""

    area, killed_by, race = "listing", {72, 118}, True

    def position(self, request: Any) -> tuple[str, bool]:
        name, group = super().position(request)
        there = any(key == name or (group and key.startswith(name)) for key in self.keys(self.bucket(request)))
        if not there:
            raise Refused(Code.INVALID_ARGUMENT, "the key of the token has gone")
        return name, group


class OffsetTokens(Wrong):
    """Counts entries instead of remembering where it was, so that writes between pages shift the rest."""

    area, killed_by, race = "listing", {72, 118}, True

    def token(self, request: Any, last: tuple[str, bool] | None) -> str:
        names = [name for name, _ in self.entries(request, None)]
        assert last is not None
        return super().token(request, (str(names.index(last[0]) + 1), False))

    def position(self, request: Any) -> tuple[str, bool]:
        number = int(super().position(request)[0])
        names = list(self.entries(request, None))
        if not 0 < number <= len(names):
            return "\U0010ffff", False
        name, where = names[number - 1]
        return name, where is None


class TokenBesideStartAfter(Wrong):
    """Lets start_after count beside a token."""

    area, killed_by, race = "listing", {64}, True

    def after(self, request: Any) -> tuple[str, bool] | None:
        found = super().after(request)
        if found is not None and request.continuation_token and request.start_after > found[0]:
            return request.start_after, False
        return found


class StartAfterInclusive(Wrong):
    """Lists start_after itself."""

    area, killed_by = "listing", {63, 62}

    def after(self, request: Any) -> tuple[str, bool] | None:
        found = super().after(request)
        if found is None or request.continuation_token or found[1]:
            return found
        return found[0][:-1], False


class StartAfterKeepsItsGroup(Wrong):
    """Lists a group although start_after names it, as AWS does."""

    area, killed_by = "listing", {113}

    def after(self, request: Any) -> tuple[str, bool] | None:
        found = super().after(request)
        return (found[0], False) if found and not request.continuation_token else found


class GroupsAreFree(Wrong):
    """max_keys counts objects only."""

    area, killed_by, race = "listing", {61, 115, 114, 72}, True

    def is_full(self, page: Any, count: int, limit: int, size: int) -> bool:
        return len(page.objects) >= limit or size > 3 << 20


class PagesOfAnyLength(Wrong):
    """Takes max_keys at its word, however large."""

    area, killed_by = "listing", {66}

    def limit(self, max_keys: int) -> int:
        return max_keys if max_keys > 0 else 1000


class NegativeMeansOne(Wrong):
    """A negative max_keys is one entry."""

    area, killed_by = "listing", {65}

    def limit(self, max_keys: int) -> int:
        return 1 if max_keys < 0 else super().limit(max_keys)


class Utf16Order(Wrong):
    """Sorts keys as Java and JavaScript compare strings."""

    area, killed_by = "listing", {71}

    def order(self, key: str) -> Any:
        return key.encode("utf-16-be")


class LargePages(Wrong):
    """Does not look at how many bytes a page has."""

    area, killed_by, race = "listing", {68}, True

    def is_full(self, page: Any, count: int, limit: int, size: int) -> bool:
        return count >= limit


class LoosePrefix(Wrong):
    """Ignores case and the last character when it compares with the prefix."""

    area, killed_by = "listing", {119, 59}

    def is_below(self, key: str, prefix: str) -> bool:
        return key.startswith(prefix) or (prefix.endswith("pre/") and key.startswith(prefix[:-1]))


class DeleteOfNothingFails(Wrong):
    """Deleting what is not there is NOT_FOUND, as in GCS."""

    area, killed_by = "listing", {58}

    def remove(self, where: Where, version_id: str) -> None:
        self.find(where, version_id)
        super().remove(where, version_id)


# ---- copying ----


class CopyConditionsOnTheDestination(Wrong):
    """Judges the conditions of a copy by what stands at the destination."""

    area, killed_by = "copying", {75, 76, 77, 120, 78}

    def may_copy(self, request: Any, source: Stored, destination: Stored | None) -> None:
        self.may_write(request, destination, request.destination.version_id)


class CopyAnswersOfItsSource(Wrong):
    """Answers a copy with the source's time of modification."""

    area, killed_by = "copying", {74}

    def CopyObject(self, request: Any, context: Any) -> Any:
        answer = super().CopyObject(request, context)
        source = self.find(self.where(request.source), request.source.version_id)
        answer.meta.last_modified.FromNanoseconds(int(source.modified * 1e9))
        return answer


class CopyLosesMetadata(Wrong):
    """Copies the bytes only."""

    area, killed_by = "copying", {74, 79, 80, 81}

    def copied(self, found: Stored) -> Stored:
        return Stored(found.body, "")


class CopySharesWithItsSource(Wrong):
    """The copy is its source by another name: what changes one changes the other."""

    area, killed_by = "copying", {81}

    def __init__(self, pb: Any) -> None:
        super().__init__(pb)
        self.twins: dict[Where, Where] = {}

    def CopyObject(self, request: Any, context: Any) -> Any:
        done = super().CopyObject(request, context)
        if self.where(request.source) != self.where(request.destination):
            self.twins[self.where(request.destination)] = self.where(request.source)
        return done

    def current(self, where: Where) -> Stored | None:
        twin = self.twins.get(where)
        found = super().current(where)
        shared = super().current(twin) if twin is not None and found is not None else None
        return found if found is None or shared is None else replace(shared, modified=found.modified)

    def remove(self, where: Where, version_id: str) -> None:
        super().remove(where, version_id)
        for copy, source in self.twins.items():
            if source == where and self.stacks.get(copy) and self.stacks[copy][-1].body is not None:
                super().remove(copy, "")


class SelfCopyRefused(Wrong):
    """Refuses to copy an object onto itself, as AWS does."""

    area, killed_by = "copying", {80}

    def CopyObject(self, request: Any, context: Any) -> Any:
        if self.where(request.source) == self.where(request.destination):
            raise Refused(Code.INVALID_ARGUMENT, "source and destination are the same")
        return super().CopyObject(request, context)


class CopyOfNothingIsAFailedPrecondition(Wrong):
    """Judges if_match before it looks whether the source is there."""

    area, killed_by = "copying", {78}

    def CopyObject(self, request: Any, context: Any) -> Any:
        if request.if_match and self.current(self.where(request.source)) is None:
            raise Refused(Code.FAILED_PRECONDITION, "if-match")
        return super().CopyObject(request, context)


# ---- presigning ----


class HostIsKept(Wrong):
    """Hands the header host back."""

    area, killed_by = "presigning", {83}

    def PresignObject(self, request: Any, context: Any) -> Any:
        answer = super().PresignObject(request, context)
        answer.headers.update({name: text for name, text in request.headers.items() if name.lower() == "host"})
        return answer


class AnyExpiry(Wrong):
    """Takes every number of seconds."""

    area, killed_by = "presigning", {85, 86}

    def seconds(self, wanted: int) -> int:
        return wanted or 900


class MethodUnspecified(Wrong):
    """Answers the method that was asked for, none included."""

    area, killed_by = "presigning", {84}

    def PresignObject(self, request: Any, context: Any) -> Any:
        answer = super().PresignObject(request, context)
        answer.method = request.method
        return answer


# ---- versions ----


class DeleteRemovesHistory(Wrong):
    """A plain delete removes every version."""

    area, killed_by = "versions", {124}

    def remove(self, where: Where, version_id: str) -> None:
        if version_id:
            super().remove(where, version_id)
        else:
            self.stacks.pop(where, None)


class DeleteOfAVersionDeletesTheKey(Wrong):
    """Ignores the version id of a delete."""

    area, killed_by = "versions", {123, 126}

    def remove(self, where: Where, version_id: str) -> None:
        super().remove(where, "")


class VersionByContent(Wrong):
    """The version id is the digest, so equal bytes are one version."""

    area, killed_by = "versions", {126}

    def put(self, where: Where, found: Stored) -> Stored:
        done = super().put(where, found)
        if done.body is not None:
            done.version_id = done.etag[:16]
        return done


class VersionToldByWritesOnly(Wrong):
    """The metas of reads have no version id."""

    area, killed_by = "versions", {121}

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        meta = super().read_meta(request, found, where, start, stop)
        meta.ref.version_id = ""
        return meta


class CopyTellsTheVersionOfItsSource(Wrong):
    """Answers a copy with the version id of what was copied."""

    area, killed_by = "versions", {125}

    def CopyObject(self, request: Any, context: Any) -> Any:
        answer = super().CopyObject(request, context)
        answer.meta.ref.version_id = self.find(self.where(request.source), request.source.version_id).version_id
        return answer


class CopyOfTheCurrentVersion(Wrong):
    """Copies the current version whichever was named."""

    area, killed_by = "versions", {125}

    def CopyObject(self, request: Any, context: Any) -> Any:
        request.source.version_id = ""
        return super().CopyObject(request, context)


class CopyLooksUpBeforeItsRequestIsJudged(Wrong):
    """Says that the source is not there where the request contradicts itself."""

    area, killed_by = "versions", {127}

    def CopyObject(self, request: Any, context: Any) -> Any:
        with self.lock:
            self.find(self.where(request.source), request.source.version_id)
        return super().CopyObject(request, context)


class MarkerIsAnObject(Wrong):
    """A delete marker counts as something that is there, for create-only."""

    area, killed_by = "versions", {124}

    def may_write(self, request: Any, found: Stored | None, version_id: str) -> None:
        super().may_write(request, found, version_id)
        ref = request.ref
        stack = self.stacks.get((self.bucket(ref), ref.key))
        if request.if_none_match == "*" and stack:
            raise Refused(Code.FAILED_PRECONDITION, "if-none-match")


WRONG: list[type[Wrong]] = [
    kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Wrong) and kind is not Wrong
]
