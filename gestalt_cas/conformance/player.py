"""Plays steps against a provider and the oracle, and compares every answer."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc

from gestalt_cas.conformance import reference
from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.linearizability import checker
from gestalt_cas.conformance.linearizability.operations import Kind, Operation, Outcome
from gestalt_cas.conformance.reference import Judged, Reference, Stored, Tags
from gestalt_cas.conformance.registry import Deviation, Place
from gestalt_cas.conformance.rounds import Round, placed, seen
from gestalt_cas.conformance.steps import (
    CancelledWrite,
    Copy,
    Delete,
    Head,
    List,
    NextPage,
    Pick,
    Presign,
    Read,
    Restart,
    Step,
    Tag,
    TagForm,
    Together,
    When,
    Write,
)
from gestalt_cas.conformance.wire import Wire, told

STALE = "0" * 32
_UNKNOWN_VERSION = "no-such-version"
Position = tuple[str, bool]


class Player:
    """One run of steps in a place of its own. `restart` stops and starts the provider and returns its target."""

    def __init__(
        self,
        target: str,
        *,
        bucketed: bool = False,
        capabilities: frozenset[Capability] = frozenset(Capability),
        restart: Callable[[], str] | None = None,
        wire: Wire | None = None,
    ) -> None:
        self.capabilities = capabilities
        self._bucketed = bucketed
        self._restart_provider = restart
        self._own_wire = wire is None
        self._wire = wire or Wire(target, bucketed=bucketed)
        self._name = secrets.token_hex(4)
        self.place = Place(self._wire, self._name)
        self.oracle = Reference(
            versions=Capability.VERSIONS in capabilities, markers=Capability.DELETE_MARKERS in capabilities
        )
        self._open: dict[int, tuple[List, str, Position]] = {}
        self._etags: dict[str, bytes] = {}
        self._rounds = 0

    def close(self) -> None:
        if self._own_wire:
            self._wire.close()

    def play(self, step: Step) -> None:
        """Make the call and compare; raises Deviation."""
        self._wire.exchanges.clear()
        getattr(self, f"_{type(step).__name__.lower()}")(step)

    # ---- steps ----

    def _write(self, step: Write) -> None:
        judged, sent = self._conditions(step.key, step.when)
        expected = self.oracle.writable(step.key, judged)
        parts = _parts(step.body, step.frames)
        fields = {"content_type": step.content_type, "metadata": dict(step.metadata), **sent}
        meta = self._answered(expected, lambda: self.place.write(step.key, parts=parts, **fields))
        if meta is not None:
            self._took(step.key, meta, Stored(step.body, "", "", step.content_type, dict(step.metadata)))

    def _cancelledwrite(self, step: CancelledWrite) -> None:
        sent, go_on = threading.Event(), threading.Event()

        def frames() -> Iterable[Any]:
            yield self.place.open_frame(step.key)
            yield self._wire.data_frame(b"c" * step.size)
            sent.set()
            go_on.wait(20)

        call = self._wire.upload(frames())
        sent.wait(20)
        call.cancel()
        go_on.set()
        self._compare_head(step.key)

    def _read(self, step: Read) -> None:
        version = self._version(step.key, step.version)
        found = self.oracle.find(step.key, version)
        judged, sent = self._conditions(step.key, step.when, of=found)
        expected, stored, body = self.oracle.read(step.key, version, judged, step.start, step.end)
        fields = {"start": step.start, "end": step.end, "version_id": version, **sent}
        answer = self._answered(expected, lambda: self.place.read(step.key, **fields))
        if answer is not None and stored is not None:
            meta, parts = answer
            self.place.same(b"".join(parts), body, f"the bytes of {step}")
            self.place.holds(all(parts), "no empty data frame")
            self._compare(meta, stored)

    def _head(self, step: Head) -> None:
        version = self._version(step.key, step.version)
        stored = self.oracle.find(step.key, version)
        meta = self._answered(
            reference.OK if stored else reference.NOT_FOUND, lambda: self.place.head(step.key, version_id=version)
        )
        if meta is not None and stored is not None:
            self._compare(meta, stored)

    def _delete(self, step: Delete) -> None:
        version = self._version(step.key, step.version)
        there = self.oracle.find(step.key, version) is not None
        if not there and Capability.DELETE_MISSING not in self.capabilities:
            return
        self._answered(reference.OK, lambda: self.place.delete(step.key, version_id=version))
        self.oracle.delete(step.key, version)
        self._compare_head(step.key)

    def _copy(self, step: Copy) -> None:
        if step.source == step.destination and Capability.SELF_COPY not in self.capabilities:
            return
        version = self._version(step.source, step.version)
        judged, sent = self._conditions(step.source, step.when, of=self.oracle.find(step.source, version))
        asserted = Capability.WRITE_VERSION in self.capabilities
        current = self._version(step.destination, step.when.current) if asserted else ""
        judged = replace(judged, version=current)
        expected, stored = self.oracle.copyable(step.source, version, step.destination, judged)
        sent = {**sent, "source_version": version, "version_id": current}
        meta = self._answered(expected, lambda: self.place.copy(step.source, step.destination, **sent))
        if meta is not None and stored is not None:
            self._took(step.destination, meta, stored)

    def _list(self, step: List) -> None:
        start = (step.start_after, False) if step.start_after else None
        if step.open_as is not None:
            self._page(step, "", start, step.open_as)
            return
        pages = self.place.pages(
            prefix=step.prefix, delimiter=step.delimiter, start_after=step.start_after, max_keys=step.max_keys
        )
        entries = [entry for page in pages for entry in self._shown(page)]
        wanted = list(self.oracle.entries(step.prefix, step.delimiter, start))
        self.place.same(entries, wanted, f"the entries of {step}")
        most = step.max_keys or 1000
        counts = [len(self._shown(page)) for page in pages]
        self.place.holds(max(counts) <= most, f"pages of {most} entries at most", counts)

    def _nextpage(self, step: NextPage) -> None:
        opened = self._open.pop(step.number, None)
        if opened is not None:
            listing, token, position = opened
            self._page(listing, token, position, step.number)

    def _presign(self, step: Presign) -> None:
        refused = step.expires_seconds < 0 or step.expires_seconds > 604800
        answer = self._answered(
            reference.INVALID if refused else reference.OK,
            lambda: self.place.presign(step.key, step.method, expires_seconds=step.expires_seconds),
        )
        if answer is not None:
            self.place.holds(answer.url, "a URL")
            self.place.holds(answer.method in (1, 2, 3, 4), "a concrete method", answer.method)

    def _restart(self, _: Restart) -> None:
        if self._restart_provider is None:
            return
        target = self._restart_provider()
        if self._own_wire:
            self._wire.close()
        self._wire = Wire(target, bucketed=self._bucketed, deadline=self._wire.deadline)
        self._own_wire = True
        self.place = Place(self._wire, self._name)
        for key in self.oracle.stacks:
            self._compare_head(key)

    def _together(self, step: Together) -> None:
        self._rounds += 1
        calls = Round(self.place, step, self._rounds)
        before = self.oracle.current(step.key)
        history = [placed(before, step.key)] if before is not None else []
        with ThreadPoolExecutor(len(step.calls)) as pool:
            history += pool.map(calls.call, range(len(step.calls)))
        meta = None
        begun = time.monotonic()
        if self.place.exists(step.key):
            meta, parts = self.place.read(step.key)
            history.append(seen(meta, step.key, begun))
            body = b"".join(parts)
            calls.whole(meta, body)
            self._settle(step.key, meta, body)
        else:
            history.append(Operation("after", Kind.READ, step.key, begun, time.monotonic(), Outcome.ABSENT))
            self.oracle.stacks.pop(step.key, None)
        verdict = checker.check([step.key], history)
        if not verdict.linearizable:
            raise Deviation("answers that some order of the calls explains", str(verdict))

    # ---- parts of steps ----

    def _answered(self, expected: str, call: Callable[[], Any]) -> Any:
        """The answer if the call is to be OK; None when it ended with the status that was expected."""
        try:
            answer = call()
        except grpc.RpcError as error:
            if error.code().name != expected:
                raise Deviation(expected, told(error)) from error
            return None
        if expected != reference.OK:
            raise Deviation(expected, "OK")
        return answer

    def _took(self, key: str, meta: Any, stored: Stored) -> None:
        """A version was added: what only the provider knows of it comes from the meta."""
        found = replace(
            stored,
            etag=meta.etag.strip('"'),
            version_id=meta.ref.version_id if Capability.VERSIONS in self.capabilities else "",
            modified=meta.last_modified.seconds,
        )
        if Capability.VERSIONS in self.capabilities:
            self.place.holds(
                found.version_id and found.version_id not in self.oracle.ids(key), "a new version id", found.version_id
            )
        self.place.holds(found.etag, "an etag that is not empty")
        before = self._etags.setdefault(found.etag, found.body or b"")
        self.place.holds(before == found.body, "equal etags for equal bytes only", found.etag)
        self.oracle.put(key, found)
        self._compare(meta, found)

    def _compare(self, meta: Any, stored: Stored) -> None:
        assert stored.body is not None
        self.place.same(meta.size, len(stored.body), "the size")
        self.place.same(meta.etag.strip('"'), stored.etag, "the etag")
        self.place.same(meta.content_type, stored.content_type, "the content type")
        self.place.same(dict(meta.metadata), dict(stored.metadata), "the metadata")
        if stored.version_id:
            self.place.same(meta.ref.version_id, stored.version_id, "the version id")

    def _compare_head(self, key: str) -> None:
        self._head(Head(key))

    def _page(self, listing: List, token: str, position: Position | None, number: int) -> None:
        page = self.place.list(
            prefix=listing.prefix,
            delimiter=listing.delimiter,
            max_keys=listing.max_keys,
            start_after=listing.start_after,
            continuation_token=token,
        )
        wanted = list(self.oracle.entries(listing.prefix, listing.delimiter, position))
        most = listing.max_keys or 1000
        shown = self._shown(page)
        self.place.same(shown, wanted[:most], f"the page of {listing}")
        self.place.same(page.has_more, len(wanted) > most, "has_more")
        self.place.same(bool(page.next_continuation_token), page.has_more, "whether there is a token")
        if page.has_more:
            self._open[number] = (listing, page.next_continuation_token, shown[-1])

    def _shown(self, page: Any) -> list[Position]:
        found = [(name, False) for name in self.place.names(page)]
        found += [(group, True) for group in self.place.groups(page)]
        return sorted(found, key=lambda entry: entry[0].encode())

    def _version(self, key: str, pick: Pick | None) -> str:
        if pick is None or Capability.VERSIONS not in self.capabilities:
            return ""
        ids = self.oracle.ids(key)
        return ids[pick.index % len(ids)] if ids and not pick.unknown else _UNKNOWN_VERSION

    def _conditions(self, key: str, when: When, of: Stored | None = None) -> tuple[Judged, dict[str, Any]]:
        """What the oracle judges, and the fields that say the same on the wire."""
        sent: dict[str, Any] = {}
        judged: dict[str, Any] = {}
        for name in ("if_match", "if_none_match"):
            tag = getattr(when, name)
            if tag is not None:
                judged[name], sent[name] = self._tags(key, tag)
        modified = of.modified if of is not None else int(time.time())
        for name in ("modified_since", "unmodified_since"):
            seconds = getattr(when, name)
            if seconds is not None:
                judged[name] = sent[name] = modified + seconds
        if when.current is not None and of is None and Capability.WRITE_VERSION in self.capabilities:
            judged["version"] = sent["version_id"] = self._version(key, when.current)
        return Judged(**judged), sent

    def _tags(self, key: str, tag: Tag) -> tuple[Tags, str]:
        if tag.any:
            return Tags(any=True), "*"
        found = self.oracle.current(tag.key or key)
        etag = STALE if tag.stale or found is None else found.etag
        if tag.form is TagForm.WEAK:
            return Tags(weak=frozenset({etag})), f'W/"{etag}"'
        text = {TagForm.QUOTED: f'"{etag}"', TagForm.BARE: etag, TagForm.LISTED: f'"{STALE}1", "{etag}"'}[tag.form]
        return Tags(strong=frozenset({etag, f"{STALE}1"} if tag.form is TagForm.LISTED else {etag})), text

    def _settle(self, key: str, meta: Any, body: bytes) -> None:
        """Go on from what stands: which of the versions came in which order is not known."""
        self.oracle.stacks.pop(key, None)
        self.oracle.put(
            key,
            Stored(
                body,
                meta.etag.strip('"'),
                meta.ref.version_id if Capability.VERSIONS in self.capabilities else "",
                meta.content_type,
                dict(meta.metadata),
                meta.last_modified.seconds,
            ),
        )


def _parts(body: bytes, count: int) -> list[bytes]:
    size = max(1, -(-len(body) // max(1, count)))
    return [body[start : start + size] for start in range(0, len(body), size)]


def play(target: str, steps: Sequence[Step], *, bucketed: bool = False) -> None:
    """Play the steps; raises Deviation at the first answer that is not as it should be."""
    player = Player(target, bucketed=bucketed)
    try:
        for step in steps:
            player.play(step)
    finally:
        player.close()
