"""Payloads copied from one store's directory to another's, each checked while it is copied.

What is hashed is what is written: a chunk is read into memory once, compared with its chunk sum, hashed, and written
from there. A copy gets its name only after its bytes are synced and BLAKE3 says that they are what the name says. Going
by digest means going through the fan-out directories one after the other, so each directory is synced once, when the
last of its names stands, and no list of digests is kept.

A file that is there already is left alone only if the caller can vouch for it. Any other (a run before this one was cut
off) is read and hashed, and counts when it is whole; it needs no sync of its own, since its bytes were synced before it
was named.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

from blake3 import blake3

from gestalt_cas.backups.row_copies import Payload
from gestalt_cas.errors import Cancelled, Damage, DigestMismatch
from gestalt_cas.files.blobs import Blobs

COPIERS = 4
"""Payloads at a time: each waits for the disk to sync, and several syncs cost little more than one."""
_AHEAD = 4 * COPIERS

OnDamage = Callable[[Damage, Callable[[], bool]], None]
"""Told what is wrong with a payload, and how to ask whether what was judged still stands under its name."""


class _Way(Enum):
    """How a payload came to be in the target."""

    KEPT = auto()
    REUSED = auto()
    COPIED = auto()


@dataclass
class Tally:
    """What a run did. `kept` was vouched for, `reused` was found whole, `copied` is new. Sizes in bytes."""

    kept: int = 0
    reused: int = 0
    copied: int = 0
    copied_bytes: int = 0
    lost: list[Damage] = field(default_factory=list)


class PayloadCopier:
    """One run from `source` to `target`.

    `tell` hears how many bytes are done, and may raise to stop. `vouch` says which of the target's payloads can be
    relied on unread; without it none. `on_damage` hears of each that the source does not have whole and the target
    neither, from another thread; the run goes on, and its tally has them.
    """

    def __init__(
        self,
        source: Blobs,
        target: Blobs,
        *,
        tell: Callable[[int], None],
        vouch: Callable[[Payload], bool] | None = None,
        on_damage: OnDamage | None = None,
    ) -> None:
        self.tally = Tally()
        self._source, self._target = source, target
        self._vouch, self._on_damage, self._tell = vouch, on_damage, tell
        self._stopping = threading.Event()
        self._done = 0
        self._first: int | None = None
        self._dirty = False

    def copy(self, batches: Iterator[list[Payload]]) -> None:
        """Bring all payloads of the batches, which come by digest, into the target, names synced.

        What is under way is waited for when this is stopped. Raises what the target's disk says.
        """
        pending: deque[tuple[Payload, Callable[[], _Way]]] = deque()
        with ThreadPoolExecutor(COPIERS, thread_name_prefix="gestalt-cas-copier") as pool:
            try:
                for payload in chain.from_iterable(batches):
                    if not self._is_kept(payload):
                        pending.append((payload, pool.submit(self._bring, payload).result))
                    if len(pending) > _AHEAD:
                        self._settle(*pending.popleft())
                while pending:
                    self._settle(*pending.popleft())
            except BaseException:
                self._stopping.set()
                pool.shutdown(cancel_futures=True)
                raise
        self._sync_names()

    def _is_kept(self, payload: Payload) -> bool:
        if self._vouch is None or not self._vouch(payload) or not self._target.has(payload.digest, payload.size):
            return False
        self.tally.kept += 1
        self._advance(payload.size)
        return True

    def _settle(self, payload: Payload, result: Callable[[], _Way]) -> None:
        """Count a payload that is done. They are done by digest, so the directory before this one's is complete."""
        try:
            way = result()
        except Damage as damage:
            self.tally.lost.append(damage)
        else:
            if self._first != payload.digest[0]:
                self._sync_names()
                self._first = payload.digest[0]
            self._dirty = True
            self.tally.reused += way is _Way.REUSED
            self.tally.copied += way is _Way.COPIED
            self.tally.copied_bytes += payload.size if way is _Way.COPIED else 0
        self._advance(payload.size)

    def _sync_names(self) -> None:
        if self._dirty and self._first is not None:
            self._target.sync_names(self._first)
        self._dirty = False

    def _advance(self, count: int) -> None:
        self._done += count
        self._tell(self._done)

    def _bring(self, payload: Payload) -> _Way:
        if self._target.has(payload.digest, payload.size) and self._is_whole(payload):
            return _Way.REUSED
        self._copy(payload)
        return _Way.COPIED

    def _is_whole(self, payload: Payload) -> bool:
        """Whether the target's file has the very bytes; one that has not is replaced."""
        hasher = blake3()
        try:
            blob = self._target.open(payload.digest, payload.size, payload.sums)
            try:
                for chunk in self._unless_stopped(blob.read(0, payload.size)):
                    hasher.update(chunk)
            finally:
                blob.close()
        except Damage:
            return False
        return hasher.digest() == payload.digest

    def _copy(self, payload: Payload) -> None:
        try:
            blob = self._source.open(payload.digest, payload.size, payload.sums)
        except Damage as damage:
            self._report(damage, lambda: not self._source.has(payload.digest, payload.size))
            raise
        try:
            staged = self._target.stage(self._unless_stopped(blob.read(0, payload.size)))
            try:
                if staged.digest != payload.digest:
                    name = payload.digest.hex()
                    raise DigestMismatch(f"payload {name} has the BLAKE3 {staged.digest.hex()}", digest=name)
                self._target.give_name(staged)
            finally:
                staged.discard()
        except Damage as damage:
            self._report(damage, blob.still_named)
            raise
        finally:
            blob.close()

    def _report(self, damage: Damage, still: Callable[[], bool]) -> None:
        if self._on_damage is not None:
            self._on_damage(damage, still)

    def _unless_stopped(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        for chunk in chunks:
            if self._stopping.is_set():
                raise Cancelled("stopped")
            yield chunk
