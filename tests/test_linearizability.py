"""Clients of two servers and of the directory itself, beside upkeep and kills: each key's history has an order."""

from __future__ import annotations

import secrets
from pathlib import Path

from gestalt_cas import ObjectKey, Store
from gestalt_cas.conformance.linearizability.operations import Kind, Outcome
from histories import harness
from histories.clients import BUCKET


def test_histories_are_linearizable(tmp_path: Path) -> None:
    seed = secrets.randbelow(1 << 32)
    print(f"seed {seed}")
    result = harness.run(tmp_path, seed=seed, seconds=7, kills=3)
    print(result)
    assert not result.unlinearizable(), "\n".join(map(str, result.unlinearizable()))
    assert min(result.background.values()) > 0
    for kind in Kind:
        assert sum(one.kind is kind and one.outcome is Outcome.DONE for one in result.operations) > 10
    assert {one.client.partition(".")[0] for one in result.operations} >= {"c0", "c1", "c2"}

    # The same history, with one write that was read struck out of it, has none.
    writes = {one.value: one for one in result.operations if one.kind is Kind.WRITE and one.outcome is Outcome.DONE}
    told = next(one for one in result.operations if one.kind is Kind.READ and one.value in writes)
    without = [one for one in result.operations if one is not writes[told.value]]
    assert [verdict.linearizable for verdict in harness.judge(without)].count(False) == 1


def undelete(store: Store) -> None:
    """What no client asked for: an older object comes back."""
    store.write(ObjectKey(BUCKET, "g0/a"), [b""], metadata={"value": "somebody else's:0"})


def test_a_change_that_nobody_asked_for_is_noticed(tmp_path: Path) -> None:
    result = harness.run(tmp_path, seed=1, seconds=2, kills=0, background={"undelete": (undelete, 0.02)})
    assert [verdict.linearizable for verdict in result.verdicts] == [False, True, True, True]
