"""What a check is, and what it is given.

A check is a function over a `Place` with a sentence of intent as its docstring. It says what it expects through the
place, so that a failure tells what was expected and what came back; an RPC that ends with a status that nobody expected
is a failure too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.wire import Wire, told

Code = grpc.StatusCode
Messages = list[Any]
Names = list[str]
Bodies = list[bytes]


class Deviation(Exception):
    """The provider did not do what was expected of it.

    `printed` is the last that its process printed, where that has ended.
    """

    def __init__(self, expected: str, got: str, printed: str = "") -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got
        self.printed = printed


class NotRun(Exception):
    """The check cannot be made here; the message says what is missing."""


class Place:
    """A part of the provider that belongs to one check: a bucket of its own, or a key prefix where there is none.

    Methods are those of `Wire`, taking names within the place; `key` gives the key on the wire. `host` is the
    `hosting.Host` that starts further processes of the provider, for checks of its lifecycle.
    """

    def __init__(self, wire: Wire, name: str, host: Any = None) -> None:
        self.wire = wire
        self.host = host
        self.pb = wire.pb
        self.bucket = f"b-{name}" if wire.bucketed else ""
        self.prefix = "" if wire.bucketed else f"p-{name}/"

    @property
    def bucketed(self) -> bool:
        return self.wire.bucketed

    def key(self, name: str) -> str:
        return self.prefix + name

    def name(self, key: str) -> str:
        """The name of a key that came back; a key without the place's prefix is a deviation."""
        if not key.startswith(self.prefix):
            raise Deviation(f"keys and prefixes below {self.prefix!r}", repr(key))
        return key[len(self.prefix) :]

    # ---- expectations ----

    def same(self, got: object, wanted: object, what: str) -> None:
        """Expect `what` to be `wanted`."""
        if got != wanted:
            raise Deviation(f"{what} to be {_cut(wanted)}", _cut(got))

    def holds(self, condition: object, what: str, got: object = None) -> None:
        """Expect what the sentence `what` says."""
        if not condition:
            raise Deviation(what, "that it is not so" if got is None else _cut(got))

    def agree(self, meta: Any, head: Any, what: str) -> None:
        """Expect `what`, the meta of an answer, to tell of an object what HeadObject tells.

        One of the times of modification may be in whole seconds, as HTTP's headers are.
        """
        for name in ("etag", "size", "content_type"):
            self.same(getattr(meta, name), getattr(head, name), f"the {name} in {what}, by HeadObject,")
        self.same(dict(meta.metadata), dict(head.metadata), f"the metadata in {what}, by HeadObject,")
        times = meta.last_modified, head.last_modified
        nanos = {time.nanos for time in times}
        alike = times[0].seconds == times[1].seconds and (len(nanos) == 1 or 0 in nanos)
        told, wanted = (time.ToJsonString() for time in times)
        self.holds(alike, f"last_modified in {what} to be {wanted}, as HeadObject tells it", told)

    @contextmanager
    def refused(self, *codes: grpc.StatusCode, why: str) -> Iterator[None]:
        """Expect the RPC in the block to end with one of `codes`, because of `why`."""
        wanted = " or ".join(code.name for code in codes)
        try:
            yield
        except grpc.RpcError as error:
            if error.code() not in codes:
                raise Deviation(f"{wanted} ({why})", told(error)) from error
        else:
            raise Deviation(f"{wanted} ({why})", "OK")

    def absent(self, name: str, why: str) -> None:
        with self.refused(Code.NOT_FOUND, why=why):
            self.head(name)

    # ---- processes ----

    @contextmanager
    def running(self, *, configured: bool = True) -> Iterator[Any]:
        """A process of the provider for the block, a `hosting.Running`. What fails says whether it has ended."""
        shared = {"exchanges": self.wire.exchanges, "deadline": self.wire.deadline}
        with self.host.running(configured=configured, **shared) as running:
            try:
                yield running
            except (grpc.RpcError, Deviation) as error:
                raise running.judged(error) from error

    # ---- expectations about objects ----

    def exists(self, name: str, **where: str) -> bool:
        try:
            self.head(name, **where)
        except grpc.RpcError as error:
            if error.code() is Code.NOT_FOUND:
                return False
            raise
        return True

    # ---- calls ----

    def ref(self, name: str, version_id: str = "") -> Any:
        return self.wire.ref(self.key(name), bucket=self.bucket, version_id=version_id)

    def open_frame(self, name: str, **fields: Any) -> Any:
        return self.wire.open_frame(self.key(name), bucket=self.bucket, **fields)

    def write(self, name: str, body: bytes = b"", **fields: Any) -> Any:
        return self.wire.write(self.key(name), body, bucket=self.bucket, **fields)

    def fill(self, *names: str) -> None:
        """Objects of these names, each holding its name."""
        for name in names:
            self.write(name, name.encode())

    def head(self, name: str, **fields: Any) -> Any:
        return self.wire.head(self.key(name), bucket=self.bucket, **fields)

    def chunks(self, name: str, **fields: Any) -> Messages:
        return self.wire.chunks(self.key(name), bucket=self.bucket, **fields)

    def read_stream(self, name: str, **fields: Any) -> Any:
        return self.wire.read_stream(self.key(name), bucket=self.bucket, **fields)

    def read(self, name: str, **fields: Any) -> tuple[Any, Bodies]:
        """Read to the end: the meta of the first frame and the bytes of each further one."""
        found = self.chunks(name, **fields)
        kinds = [chunk.WhichOneof("result") for chunk in found]
        self.holds(kinds[:1] == ["meta"], "the first frame of a read to be the meta", kinds[:3])
        self.holds(set(kinds[1:]) <= {"data"}, "every frame after the first to be data", kinds[:5])
        return found[0].meta, [chunk.data for chunk in found[1:]]

    def body(self, name: str, **fields: Any) -> bytes:
        return b"".join(self.read(name, **fields)[1])

    def delete(self, name: str, **fields: Any) -> None:
        self.wire.delete(self.key(name), bucket=self.bucket, **fields)

    def copy(self, source: str, destination: str, **fields: Any) -> Any:
        return self.wire.copy(self.key(source), self.key(destination), bucket=self.bucket, **fields)

    def presign(self, name: str, method: int = 0, **fields: Any) -> Any:
        return self.wire.presign(self.key(name), method, bucket=self.bucket, **fields)

    def list(self, *, prefix: str = "", start_after: str = "", **fields: Any) -> Any:
        """One page within the place: `prefix` and `start_after` are names (an empty start_after stays empty)."""
        after = self.key(start_after) if start_after else ""
        return self.wire.list(bucket=self.bucket, prefix=self.key(prefix), start_after=after, **fields)

    def pages(self, *, most: int = 3000, **fields: Any) -> Messages:
        """All pages of a listing, following the tokens; the page rules of contract 3.7 are checked on the way."""
        found = [self.list(**fields)]
        while found[-1].has_more:
            token = found[-1].next_continuation_token
            self.holds(token, "a page with has_more to bring a continuation token")
            found.append(self.list(**{**fields, "continuation_token": token}))
            self.holds(len(found) < most, "the listing to end", f"{len(found)} pages")
            entries = len(found[-1].objects) + len(found[-1].common_prefixes)
            self.holds(entries, "has_more to promise at least one more entry", "an empty page after it")
        self.same(found[-1].next_continuation_token, "", "the token of the last page")
        return found

    def names(self, page: Any) -> Names:
        return [self.name(meta.ref.key) for meta in page.objects]

    def groups(self, page: Any) -> Names:
        return [self.name(prefix) for prefix in page.common_prefixes]


CheckFunction = Callable[[Place], None]


@dataclass(frozen=True)
class Check:
    """One named check. `number` is that of contract section 5 up to 92; further checks have numbers from 101 on."""

    number: int
    area: str
    slug: str
    intent: str
    evidence: str
    needs: frozenset[Capability]
    run: CheckFunction = field(repr=False, compare=False)
    lifecycle: bool = False
    """Whether it needs a process of its own and the provider's lifecycle service."""

    @property
    def name(self) -> str:
        """As `ranges-35-both-ends-are-included`."""
        return f"{self.area}-{self.number:02}-{self.slug}"


CHECKS: list[Check] = []
"""Every check, in the order of their modules."""


def check(
    number: int, *needs: Capability, evidence: str, lifecycle: bool = False
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a check; its area is the name of its module, its slug that of the function."""

    def register(function: CheckFunction) -> CheckFunction:
        area = function.__module__.rpartition(".")[2]
        intent = " ".join((function.__doc__ or "").split())
        assert intent, f"{function.__name__} says nothing of its intent"
        slug = function.__name__.replace("_", "-")
        CHECKS.append(Check(number, area, slug, intent, evidence, frozenset(needs), function, lifecycle))
        return function

    return register


def _cut(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 300 else text[:300] + "…"
