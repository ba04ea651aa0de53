"""What the two processes do: on one side an upload, a copy, a read or a repair, on the other what removes payloads."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from blake3 import blake3

from gestalt_cas import Store
from storage import body, flip, history, key, payload_path, put


@lru_cache(maxsize=8)
def payload(turn: int, which: int = 0) -> bytes:
    """Bytes of their own for each turn, with a digest that begins with the byte 0."""
    for number in range(1 << 20):
        data = b"%d %d %d" % (turn, which, number)
        if not blake3(data).digest()[0]:
            return data
    raise AssertionError("one in 256 should have fit")


def _removed(store: Store, turn: int) -> None:
    """Have the payload, unreachable and found to be so."""
    version = put(store, "before", payload(turn))
    store.delete(version.key, version_id=version.version_id)
    store._collector._record(0)


def _damaged(store: Store, turn: int) -> None:
    _removed(store, turn)
    flip(payload_path(store, payload(turn)), 0)
    store._payloads.mark_damaged(blake3(payload(turn)).digest(), lambda: True)


def _planted(store: Store, turn: int) -> None:
    """A file without a row, as a crash may leave, with other bytes."""
    payload_path(store, payload(turn)).write_bytes(bytes(len(payload(turn))))


def _source(store: Store, turn: int) -> None:
    put(store, "source", payload(turn))


def _lost(store: Store, turn: int) -> None:
    """A version whose file has gone, which was noticed."""
    _source(store, turn)
    payload_path(store, payload(turn)).unlink()
    store._payloads.mark_damaged(blake3(payload(turn)).digest(), lambda: True)


def _suspended(store: Store, turn: int) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", payload(turn))


def _suspended_other(store: Store, turn: int) -> None:
    _removed(store, turn)
    store.change_settings({"versioning": "suspended"})
    put(store, "k", payload(turn, 1))


def _nothing(store: Store, turn: int) -> None:
    """Begin with an empty store."""


def upload(store: Store, turn: int) -> str:
    return put(store, "k", payload(turn)).version_id


def copy(store: Store, turn: int) -> str:
    return store.copy(key("source"), key("k")).version_id


def read(store: Store, turn: int) -> None:
    assert body(store, "source") == payload(turn)


def put_back(store: Store, turn: int) -> None:
    """Publish the bytes for versions that are there, as a repair from a backup does."""
    found = store._blobs.stage([payload(turn)])
    try:
        published = store._payloads.publish(found)
        with store._database.write() as tx:
            store._payloads.vouch(tx, found, published)
    finally:
        found.discard()


def gc(store: Store, turn: int) -> None:
    assert not store.collect_garbage().stuck_files


def remove_and_gc(store: Store, turn: int) -> None:
    for version in history(store, "source"):
        store.delete(version.key, version_id=version.version_id)
    gc(store, turn)


def purge(store: Store, turn: int) -> None:
    assert not store.purge(key("source")).stuck_files


def churn(store: Store, turn: int) -> None:
    """Write the same bytes elsewhere and take them away again."""
    version = put(store, "source", payload(turn))
    store.delete(version.key, version_id=version.version_id)
    gc(store, turn)


PREPARED: dict[str, Callable[[Store, int], None]] = {
    "upload of new bytes": _nothing,
    "upload of bytes found unreachable": _removed,
    "upload of bytes marked damaged": _damaged,
    "upload of bytes with a file without a row": _planted,
    "upload of bytes that another key has": _source,
    "upload over the null version with the same bytes": _suspended,
    "upload over the null version with bytes found unreachable": _suspended_other,
    "copy": _source,
    "read": _source,
    "putting lost bytes back": _lost,
    "another gc": _source,
}
VICTIM: dict[str, Callable[[Store, int], str | None]] = dict.fromkeys(PREPARED, upload)
VICTIM |= {"copy": copy, "read": read, "putting lost bytes back": put_back, "another gc": gc}
"""What the first process does in each scenario; each returns the version id of what it made, if it made one."""
REMOVERS = {"remove and gc": remove_and_gc, "purge": purge}
"""Those that take away the object `source`, where there is one."""
OPPONENT: dict[str, Callable[[Store, int], None]] = {"gc": gc, "write, remove and gc": churn, **REMOVERS}
WITH_SOURCE = {scenario for scenario, prepared in PREPARED.items() if prepared in (_source, _lost)}
PAIRS = [(s, o) for s in PREPARED for o in OPPONENT if o not in REMOVERS or s in WITH_SOURCE]
