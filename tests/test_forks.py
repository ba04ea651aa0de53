"""A process that forks while it has a store open: the store stays the parent's, and the child is told so."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path

import pytest

import forking
from gestalt_cas import ListQuery, ObjectKey, Store
from gestalt_cas.errors import StoreUnusable

KEY = ObjectKey("", "k")


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked process, which must get through it."""
    assert forking.ended(forking.start(work)) == 0


CALLS: list[Callable[[Store], object]] = [
    lambda store: store.write(KEY, [b"child"]),
    lambda store: store.head(KEY),
    lambda store: store.read(KEY),
    lambda store: store.delete(KEY),
    lambda store: store.copy(KEY, ObjectKey("", "copy")),
    lambda store: store.list_page(ListQuery()),
    lambda store: store.usage(),
    lambda store: store.collect_garbage(),
    lambda store: store.claim_server(),
    lambda store: store.transaction().put(KEY, [b"child"]),
]


def test_every_call_of_a_child_is_refused_and_the_parent_goes_on(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(KEY, [b"parent"])

        def child() -> None:
            for call in CALLS:
                with pytest.raises(StoreUnusable, match="forked"):
                    call(store)
            store.close()
            store.close()

        in_child(child)
        assert not list((tmp_path / "s" / "staging").iterdir())
        store.write(KEY, [b"parent again"])
        with store.read(KEY) as reader:
            assert reader.read() == b"parent again"
        assert store.check().findings == ()


def test_a_child_is_refused_at_once_whatever_its_parent_was_at(tmp_path: Path) -> None:
    """A lock that another thread held when the process forked is never let go of in the child."""
    with Store.open(tmp_path / "s") as store:

        def child() -> None:
            with pytest.raises(StoreUnusable):
                store.delete(KEY)

        with store._database.write():
            in_child(child)
        store.write(KEY, [b"x"])


def test_a_child_takes_and_keeps_no_lock(tmp_path: Path) -> None:
    """Its parent's locks go when the parent closes, even if the child lives on; the child opens a store of its own."""
    store = Store.open(tmp_path / "s")
    assert store.claim_server()
    go_on, told = os.pipe(), os.pipe()

    def work() -> None:
        with Store.open(tmp_path / "s") as own:
            own.write(KEY, [b"child"])
            assert not own.claim_server()
        os.write(told[1], b"y")
        os.read(go_on[0], 1)

    pid = forking.start(work)
    assert os.read(told[0], 1) == b"y"
    assert store.head(KEY).size == 5
    store.close()
    with Store.open(tmp_path / "s") as other:
        assert other.claim_server()
    os.write(go_on[1], b"x")
    assert forking.ended(pid) == 0


def test_a_child_that_ends_like_any_program_harms_nothing(tmp_path: Path) -> None:
    """Also when it is the last one that has the files open, and its parent was at something when it forked."""
    program = f"""
import gc, os, sys
from gestalt_cas import ObjectKey, Store
with Store.open({str(tmp_path / "s")!r}) as store:
    for number in range(20):
        store.write(ObjectKey("", str(number)), [b"x"])
    with store._database.write() as tx:
        pid = os.fork()
        if pid == 0:
            del store, tx
            gc.collect()
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    store.write(ObjectKey("", "after"), [b"y"])
    assert store.check().findings == ()
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
    with Store.open(tmp_path / "s") as store:
        assert len(store.list_page(ListQuery()).objects) == 21


def _write(number: int) -> int:
    return _own.write(ObjectKey("", f"pool{number}"), [str(number).encode()]).seq


def _open(directory: Path) -> None:
    global _own  # noqa: PLW0603 - as an initializer of a pool has to
    _own = Store.open(directory)


_own: Store


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_whose_processes_open_the_store_themselves(tmp_path: Path, method: str) -> None:
    with Store.open(tmp_path / "s") as store:
        store.write(KEY, [b"parent"])
        pool: Pool
        with multiprocessing.get_context(method).Pool(3, _open, (tmp_path / "s",)) as pool:
            made = pool.map(_write, range(12))
        assert len(set(made)) == 12
        assert len(store.list_page(ListQuery()).objects) == 13
        assert store.check().findings == ()
    gc.collect()
