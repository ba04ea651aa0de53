"""The errors as values: each one pickles and copies, for pools of processes and whoever keeps them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest

from gestalt_cas import errors
from gestalt_cas.errors import InvalidRange, SignatureError, StoreError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StoreError)]
NEEDED: dict[type[StoreError], dict[str, object]] = {
    errors.Damage: {"digest": "ab"},
    errors.InvalidRange: {"size": 3},
    errors.NotModified: {"etag": '"e"', "modified_ms": 5, "cache_control": "no-store"},
    errors.NoSuchKey: {"delete_marker": True},
    errors.Held: {"hold": "b/k"},
    errors.QuotaExceeded: {"quota": "b"},
    errors.DiskFull: {"directory": "d"},
}


def made(kind: type[StoreError]) -> StoreError:
    if issubclass(kind, SignatureError):
        return kind("Code", "a message")
    named = next((NEEDED[base] for base in kind.__mro__ if base in NEEDED), {})
    return kind("a message", **named)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_pickle_and_copy(kind: type[StoreError]) -> None:
    error = made(kind)
    error.add_note("a note")
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(same) is kind
        assert (str(same), same.args, vars(same)) == (str(error), error.args, vars(error))


def refuse(size: int) -> None:
    raise InvalidRange("no byte of it", size=size)


def test_the_error_of_a_worker_reaches_the_caller_of_its_pool() -> None:
    """It left him waiting: what a pool cannot unpickle ends the thread that takes its answers."""
    with multiprocessing.get_context("spawn").Pool(1) as pool, pytest.raises(InvalidRange) as caught:
        pool.apply_async(refuse, (7,)).get(timeout=60)
    assert caught.value.size == 7
