"""Which work moves pages out of the WAL, and that a commit stands when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driver_aids import BUSY, CORRUPT, FULL, IOERR
from faulty_connections import break_writer
from gestalt_cas import Store
from gestalt_cas.errors import DatabaseDamaged, StorageFault, StoreError, StoreFull
from gestalt_cas.transactions import wal
from storage import body, history, put, rows


def test_no_commit_checkpoints_by_itself(store: Store) -> None:
    for number in range(40):
        put(store, f"{number}", b"x", metadata={"m": "x" * 60_000})
    assert store._database.wal_bytes > 40 * 60_000


@pytest.mark.parametrize(("passive", "restart", "mode"), [(1, 1 << 30, "PASSIVE"), (1, 1, "TRUNCATE")])
def test_background_work_shortens_the_wal(
    store: Store, monkeypatch: pytest.MonkeyPatch, passive: int, restart: int, mode: str
) -> None:
    monkeypatch.setattr(wal, "PASSIVE_BYTES", passive)
    monkeypatch.setattr(wal, "RESTART_BYTES", restart)
    put(store, "k", b"one")
    spy = break_writer(store, "none", IOERR)
    store.maintain()
    assert [sql for sql in spy.statements if "wal_checkpoint" in sql] == [f"PRAGMA wal_checkpoint({mode})"]
    assert rows(store, "PRAGMA busy_timeout") == [(5000,)]


def test_a_short_wal_is_left_alone(store: Store) -> None:
    put(store, "k", b"one")
    spy = break_writer(store, "none", IOERR)
    store.maintain()
    assert not spy.statements


def test_a_restart_lets_the_wal_begin_anew(store: Store) -> None:
    for number in range(20):
        put(store, f"{number}", b"x", metadata={"m": "x" * 60_000})
    long = store._database.wal_bytes
    assert store._database.checkpoint(restart=True)
    put(store, "k", b"one")
    put(store, "k", b"two")
    assert store._database.wal_bytes <= long
    assert rows(store, "PRAGMA wal_checkpoint")[0][1] < 40  # pages in the WAL


@pytest.mark.parametrize("code", [IOERR, FULL, BUSY])
def test_a_commit_stands_when_the_checkpoint_after_it_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    monkeypatch.setattr(wal, "_SMALL_COMMITS", 1)
    monkeypatch.setattr(wal, "RELIEF_BYTES", 1)
    monkeypatch.setattr(wal, "STEP_BYTES", 1)
    break_writer(store, "PRAGMA wal_checkpoint", code)
    put(store, "k", b"one")
    assert "checkpoint after a commit failed" in caplog.text
    assert body(store, "k") == b"one"
    put(store, "k", b"two")
    assert len(history(store, "k")) == 2


@pytest.mark.parametrize(("code", "error"), [(IOERR, StorageFault), (FULL, StoreFull), (CORRUPT, DatabaseDamaged)])
def test_a_checkpoint_that_fails_says_so(store: Store, code: int, error: type[StoreError]) -> None:
    break_writer(store, "PRAGMA wal_checkpoint", code)
    with pytest.raises(error):
        store._database.checkpoint()


def test_background_work_that_cannot_shorten_the_wal_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal, "PASSIVE_BYTES", 1)
    put(store, "k", b"one")
    break_writer(store, "PRAGMA wal_checkpoint", IOERR)
    with pytest.raises(StorageFault):
        store._database.tend_wal()
    put(store, "k", b"two")
    assert body(store, "k") == b"two"


def test_a_commit_stands_when_the_wal_cannot_be_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.stat

    def fail(path: Path, **options: bool) -> Any:
        if path.name.endswith("-wal"):
            raise OSError("Input/output error")
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", fail)
        put(store, "k", b"one")
    assert body(store, "k") == b"one"


def test_an_absent_wal_is_of_no_length(store: Store) -> None:
    put(store, "k", b"x")
    store.close()
    assert not (store.directory / "metadata.sqlite3-wal").exists()
    assert store._database.wal_bytes == 0
