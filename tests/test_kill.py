"""Kill -9 of the real server under load: what was answered is there and whole; and the judge of that can say no."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from gestalt_cas import Store
from kills import audit
from kills.campaign import Campaign
from kills.ledger import Change, Ledger, Lost, OwnedKey, SharedKey, Version
from kills.writers import digest_of
from storage import change, flip, key, payload_path

A, B = Version("1", "aa"), Version("2", "bb")


@pytest.mark.parametrize(("processes", "rounds"), [(1, 3), (2, 3)])
def test_killed_under_load_again_and_again(tmp_path: Path, processes: int, rounds: int) -> None:
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    with Campaign(tmp_path / "store", seed, processes) as campaign:
        for _ in range(rounds):
            campaign.round()
        print(campaign.totals)
        assert campaign.totals.calls > 20 * rounds


def test_an_unanswered_call_may_be_there_or_not_but_whole() -> None:
    for found, happened in ([A], False), ([A, B], True):
        owned = OwnedKey("k", [A], Change(adds=Version("", "bb")))
        assert owned.settle(found) is happened
        assert owned.versions == found
    for found, happened in ([A, B], False), ([B], True):
        assert OwnedKey("k", [A, B], Change(removes="1")).settle(found) is happened
    assert OwnedKey("k", [A]).settle([A]) is None


@pytest.mark.parametrize(
    ("pending", "found"),
    [
        (None, []),  # lost
        (None, [B]),  # replaced
        (None, [A, B]),  # never asked for
        (None, [Version("9", "aa")]),  # another version of the same bytes
        (Change(adds=Version("", "bb")), [A, Version("2", "cc")]),  # not whole
        (Change(adds=Version("", "bb")), [B]),  # whole, but what was answered is lost
        (Change(removes="1"), [A, A]),
    ],
)
def test_anything_else_is_a_loss(pending: Change | None, found: list[Version]) -> None:
    with pytest.raises(Lost):
        OwnedKey("k", [A], pending).settle(found)


def shared() -> SharedKey:
    """A key with `aa` answered as version 1, `bb` unanswered, `cc` refused."""
    key = SharedKey("k")
    key.sent("aa", "").outcome = "1"
    key.sent("bb", "aa")
    key.sent("cc", "").outcome = "refused"
    return key


@pytest.mark.parametrize("found", [[A], [A, B]])
def test_a_shared_key_holds_the_answered_and_perhaps_the_unanswered(found: list[Version]) -> None:
    shared().settle(found)


@pytest.mark.parametrize(
    "found",
    [[], [B], [B, A], [Version("3", "cc")], [A, Version("3", "cc")], [A, A], [Version("8", "aa")], [A, B, B]],
)
def test_a_shared_key_loses_nothing_and_follows_its_conditions(found: list[Version]) -> None:
    with pytest.raises(Lost):
        shared().settle(found)


def test_what_was_absent_once_must_not_come_back() -> None:
    key = shared()
    key.settle([A])
    with pytest.raises(Lost):
        key.settle([A, B])


DATA = b"payload" * 1000


def forget_version(store: Store) -> None:
    change(store, "DELETE FROM current WHERE key = ?", b"k")
    change(store, "DELETE FROM versions WHERE key = ?", b"k")


DAMAGE: dict[str, Callable[[Store], object]] = {
    "version lost": forget_version,
    "pointer lost": lambda store: change(store, "DELETE FROM current WHERE key = ?", b"k"),
    "payload lost": lambda store: payload_path(store, DATA).unlink(),
    "payload flipped": lambda store: flip(payload_path(store, DATA), 3),
    "torn orphan": lambda store: (store.directory / "blobs" / "00" / ("00" * 32)).write_bytes(b"x"),
    "stranger": lambda store: store.write(key("other", "default"), [b"x"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_audit_finds(store: Store, damage: str) -> None:
    ledger = Ledger()
    owned = ledger.own("k")
    owned.pending = Change(adds=Version("", digest_of(DATA)))
    owned.answered(store.write(key("k", "default"), [DATA]).version_id)
    found = audit.inspect(store, ledger, set(), random.Random(1), collect=True)
    assert (found.versions, found.orphans, found.staging) == (1, 0, 0)
    DAMAGE[damage](store)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - damage that a read meets is the store's own error
        audit.inspect(store, ledger, set(), random.Random(1), collect=False)
    assert type(caught.value).__name__ in ("Lost", "DigestMismatch", "BlobMissing")
