"""The store in force: replaced as a whole, closed when its last call has left, cared for by one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gestalt_cas import Store, restore
from gestalt_cas.backups import manifests
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import Collection, Config, Limits, Retention
from gestalt_cas.errors import (
    InvalidConfig,
    NotConfigured,
    ObjectTooLarge,
    SettingsConflict,
    ShuttingDown,
    StorageFault,
    StoreUnusable,
)
from gestalt_cas.keeping import retention
from gestalt_cas.removal import clock_guard, garbage, retention_runs
from gestalt_cas.removal.garbage import Collected, Collector
from gestalt_cas.serving import mounts
from gestalt_cas.serving.mounts import Mounts, OpenStore
from storage import BUCKET, Child, body, child, history, key, payload_path, put, staged


@pytest.fixture(name="mounts")
def mounts_fixture() -> Iterator[Mounts]:
    made = Mounts()
    yield made
    made.close(timeout=60)


@pytest.fixture
def quick_care(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_CARE_SECONDS", 0.01)


def eventually(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if holds():
            return
        waiting.wait(0.01)
    pytest.fail("it never came to hold")


def closed(store: Store) -> bool:
    try:
        store.settings()
    except ShuttingDown:
        return True
    return False


def is_free(directory: Path) -> bool:
    """Whether no process holds the directory's server.lock."""
    with Store.open(directory, create=False) as store:
        return store.claim_server()


def test_nothing_works_before_the_first_configuration(mounts: Mounts) -> None:
    assert mounts.present is None
    with pytest.raises(NotConfigured), mounts.use():
        pytest.fail("there is nothing to use")


def test_a_configuration_is_used(mounts: Mounts, tmp_path: Path) -> None:
    config = Config(tmp_path / "a", key_prefix="pre/", settings={"versioning": "suspended"})
    mounts.configure(config)
    with mounts.use() as mount:
        assert mount is mounts.present
        assert mount.config is config
        assert mount.namespace.key_prefix == "pre/"
        assert mount.store.directory == tmp_path / "a"
        assert mount.store.settings().suspended


def test_another_directory_replaces_the_store_when_its_last_call_has_left(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "a"))
    with mounts.use() as first, mounts.use() as again:
        assert first.store is again.store
        mounts.configure(Config(tmp_path / "b"))
        with mounts.use() as second:
            assert second.store.directory == tmp_path / "b"
        put(first.store, "k", b"still open")
        assert body(first.store, "k") == b"still open"
    assert closed(first.store)
    assert is_free(tmp_path / "a")
    assert not is_free(tmp_path / "b")


def test_the_same_directory_keeps_its_store(mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts.configure(Config(tmp_path / "a"))
    with mounts.use() as before:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "b").symlink_to(tmp_path)
        changed = Config(Path("b/a"), key_prefix="p/", limits=Limits(max_object_bytes=2), settings={"bucket": "x"})
        mounts.configure(changed)
        with mounts.use() as after:
            assert after.store is before.store
            assert (before.namespace.key_prefix, after.namespace.key_prefix) == ("", "p/")
            assert after.store.settings().bucket == "x"
            with pytest.raises(ObjectTooLarge):
                put(after.store, "k", b"abc")
    assert not closed(after.store)


def test_a_configuration_that_fails_changes_nothing(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "a"))
    (tmp_path / "file").write_text("")
    before = mounts.present
    for wrong, error in (
        (Config(tmp_path / "file"), StoreUnusable),
        (Config(tmp_path / "c", settings={"bucket": ""}), InvalidConfig),
        (Config(tmp_path / "a", settings={"bucket": ""}), InvalidConfig),
    ):
        with pytest.raises(error):
            mounts.configure(wrong)
        assert mounts.present is before
    with mounts.use() as mount:
        put(mount.store, "k", b"works")


def test_a_store_that_cannot_be_tidied_is_closed_again(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(store: Store) -> int:
        raise StorageFault("no")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "clean_staging", fail)
        with pytest.raises(StorageFault):
            mounts.configure(Config(tmp_path / "a"))
    assert mounts.present is None
    assert is_free(tmp_path / "a")


def test_uploads_that_were_cut_off_are_removed_at_the_start(mounts: Mounts, tmp_path: Path) -> None:
    code = """
        def pieces():
            yield b"x" * 1000
            os._exit(9)
        Store.open(arguments[0]).write(ObjectKey("", "k"), pieces())
    """
    child(code, tmp_path / "a", expect=9)
    assert list((tmp_path / "a" / "staging").iterdir())
    mounts.configure(Config(tmp_path / "a"))
    with mounts.use() as mount:
        assert not staged(mount.store)


def test_close_waits_for_calls_and_no_longer_than_told(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "a"))
    with mounts.use() as mount:
        assert not mounts.close(timeout=0.01)
        assert not closed(mount.store)
        with pytest.raises(ShuttingDown), mounts.use():
            pytest.fail("no further call may start")
        with pytest.raises(ShuttingDown):
            mounts.configure(Config(tmp_path / "b"))
    assert closed(mount.store)
    assert mounts.close(timeout=60)
    assert not (tmp_path / "b").exists()


def test_close_without_a_configuration(mounts: Mounts) -> None:
    assert mounts.close(timeout=0)


def test_a_call_that_meets_a_retired_store_takes_the_next_one(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "a"))
    stale = mounts.present
    assert stale is not None
    mounts.configure(Config(tmp_path / "b"))
    fresh = mounts.present
    assert not stale.opened.enter()

    class Late(Mounts):
        """Shows the mount that was in force a moment ago once more."""

        shown = iter((stale, fresh))

        @property
        def _mount(self) -> object:
            return next(self.shown)

        @_mount.setter
        def _mount(self, value: object) -> None:
            """Leave the list alone."""

    with Late().use() as mount:
        assert mount is fresh


def test_configured_and_used_from_many_threads(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "0"))
    wrong: list[BaseException] = []
    done = threading.Event()

    def use() -> None:
        try:
            while not done.is_set():
                with mounts.use() as mount:
                    assert not closed(mount.store)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            wrong.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1, 9):
        mounts.configure(Config(tmp_path / f"{number % 3}"))
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.usefixtures("quick_care")
def test_the_caretaker_does_the_background_work(mounts: Mounts, tmp_path: Path) -> None:
    mounts.configure(Config(tmp_path / "a"))
    (tmp_path / "a" / "reserve").unlink()
    eventually((tmp_path / "a" / "reserve").exists)


@pytest.mark.usefixtures("quick_care")
def test_background_work_that_fails_is_tried_again(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[int] = []

    def maintain(store: Store) -> None:
        rounds.append(1)
        raise StorageFault("the disk is ill") if len(rounds) % 2 else OSError("ill as well")

    monkeypatch.setattr(Store, "maintain", maintain)
    mounts.configure(Config(tmp_path / "a"))
    eventually(lambda: len(rounds) > 4)
    assert "background work: the disk is ill" in caplog.text


@pytest.mark.usefixtures("quick_care")
def test_the_same_failure_is_told_once_in_a_while(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds: list[int] = []

    def maintain(store: Store) -> None:
        rounds.append(1)
        raise StorageFault("the disk is ill")

    monkeypatch.setattr(Store, "maintain", maintain)
    mounts.configure(Config(tmp_path / "a"))
    eventually(lambda: len(rounds) > 6)
    assert caplog.text.count("the disk is ill") == 1


SERVER = """
    from gestalt_cas.configuration.config import Collection, Config
    from gestalt_cas.serving.mounts import Mounts
    mounts = Mounts()
    mounts.configure(Config(Path(arguments[0]), settings={"versioning": "suspended"}, gc=Collection(every_seconds=0)))
    print(mounts.present.store.claim_server(), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.usefixtures("quick_care")
def test_another_server_takes_over_when_the_first_has_died(mounts: Mounts, tmp_path: Path) -> None:
    with Child(SERVER, tmp_path / "a") as first:
        assert first.line() == "True"
        mounts.configure(Config(tmp_path / "a"))
        mount = mounts.present
        assert mount is not None
        assert not mount.store.claim_server()
        first.kill()
        eventually(mount.store.claim_server)
        (tmp_path / "a" / "reserve").unlink()
        eventually((tmp_path / "a" / "reserve").exists)


def test_a_server_with_other_settings_than_a_live_one_is_refused(mounts: Mounts, tmp_path: Path) -> None:
    with Child(SERVER, tmp_path / "a") as first:
        assert first.line() == "True"
        with pytest.raises(SettingsConflict, match="versioning"):
            mounts.configure(Config(tmp_path / "a", settings={"versioning": "enabled"}))
        assert mounts.present is None
        mounts.configure(Config(tmp_path / "a", settings={"versioning": "suspended"}))
    with mounts.use() as mount:
        assert mount.store.settings().suspended


def test_of_two_servers_that_begin_at_once_with_other_settings_one_is_refused(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds nobody serving when it opens the store."""
    real, other = Store.open.__func__, Mounts()  # type: ignore[attr-defined]
    Store.open(tmp_path / "a").close()

    def overtaken(*arguments: Any, **options: Any) -> Store:
        store: Store = real(Store, *arguments, **options)
        monkeypatch.setattr(Store, "open", classmethod(real))
        other.configure(Config(tmp_path / "a", settings={"versioning": "suspended"}))
        return store

    monkeypatch.setattr(Store, "open", overtaken)
    try:
        with pytest.raises(SettingsConflict, match="versioning"):
            mounts.configure(Config(tmp_path / "a", settings={"versioning": "enabled"}))
        assert mounts.present is None
        with other.use() as mount:
            assert mount.store.settings().suspended
            assert mount.store.claim_server()
    finally:
        other.close(timeout=60)


def test_a_store_is_closed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closes: list[int] = []
    real = Store.close
    monkeypatch.setattr(Store, "close", lambda store: (closes.append(1), real(store)))
    opened = OpenStore(Store.open(tmp_path / "a"))
    assert opened.enter()
    opened.retire()
    assert not closes
    opened.leave()
    opened.retire()
    assert closes == [1]
    assert opened.closed.is_set()
    with pytest.raises(ShuttingDown):
        opened.store.delete(key("k"))


# ---- garbage ----


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The grace of each run of gc in the background; the runs really take place."""
    made: list[float] = []
    real = Store.collect_garbage

    def collect(store: Store, *, grace_seconds: float = 0.0, **options: Any) -> Collected:
        made.append(grace_seconds)
        return real(store, grace_seconds=grace_seconds, **options)

    monkeypatch.setattr(Store, "collect_garbage", collect)
    return made


def with_garbage(directory: Path) -> Path:
    """Make a store with one unreachable payload, whose path is returned."""
    with Store.open(directory) as store:
        version = put(store, "k", b"data")
        store.delete(version.key, version_id=version.version_id)
        return payload_path(store, b"data")


def due(directory: Path, ago_seconds: float = 1e6) -> None:
    """Note down that garbage was last collected so long ago."""
    with Store.open(directory) as store:
        store.note(garbage.NOTE, {"at_ms": now_ms() - int(ago_seconds * 1000)})


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that waits until the collector has been round a few times more."""
    seen: list[int] = []
    real = OpenStore._collect

    def collect(opened: OpenStore) -> None:
        try:
            real(opened)
        finally:
            seen.append(1)

    def wait() -> None:
        before = len(seen)
        eventually(lambda: len(seen) > before + 4)

    monkeypatch.setattr(OpenStore, "_collect", collect)
    return wait


EVERY = Collection(every_seconds=3600, grace_seconds=0)


@pytest.mark.usefixtures("quick_care")
def test_garbage_is_collected_when_the_last_run_is_long_enough_ago(
    mounts: Mounts, tmp_path: Path, runs: list[float], rounds: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = with_garbage(tmp_path / "a")
    due(tmp_path / "a", ago_seconds=3601)
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    eventually(lambda: not path.exists())
    eventually(lambda: "gc: removed 1 payloads (4B) and 0 cut-off uploads" in caplog.text)
    rounds()
    assert runs == [0]  # the next one is an hour away


@pytest.mark.usefixtures("quick_care")
@pytest.mark.parametrize("last", ["recent", "never", "ahead", "nonsense"])
def test_garbage_is_not_collected_before_it_is_time(
    mounts: Mounts, tmp_path: Path, runs: list[float], rounds: Callable[[], None], last: str
) -> None:
    path = with_garbage(tmp_path / "a")
    if last in ("recent", "ahead"):
        due(tmp_path / "a", ago_seconds=3000 if last == "recent" else -1e9)
    elif last == "nonsense":
        with Store.open(tmp_path / "a") as store:
            store.note(garbage.NOTE, "yesterday")
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    rounds()
    assert runs == []
    assert path.exists()


@pytest.mark.usefixtures("quick_care")
@pytest.mark.parametrize("last", ["never", "ahead"])
def test_without_a_time_to_go_by_the_interval_begins_with_the_server(
    mounts: Mounts, tmp_path: Path, runs: list[float], last: str
) -> None:
    """Whatever the wall clock did: a note that is ahead of it must not put collection off for years."""
    path = with_garbage(tmp_path / "a")
    if last == "ahead":
        due(tmp_path / "a", ago_seconds=-1e9)
    mounts.configure(Config(tmp_path / "a", gc=Collection(every_seconds=0.05, grace_seconds=0)))
    eventually(lambda: not path.exists())
    mount = mounts.present
    assert mount is not None
    store = mount.store

    def noted() -> bool:  # written when the run is over, a moment after the files went
        note = store.recall(garbage.NOTE)
        return isinstance(note, dict) and note["at_ms"] <= now_ms()

    eventually(noted)


@pytest.mark.usefixtures("quick_care")
def test_the_grace_is_kept(mounts: Mounts, tmp_path: Path, runs: list[float], rounds: Callable[[], None]) -> None:
    path = with_garbage(tmp_path / "a")
    due(tmp_path / "a")
    mounts.configure(Config(tmp_path / "a", gc=Collection(every_seconds=3600, grace_seconds=7200)))
    eventually(lambda: bool(runs))
    rounds()
    assert runs == [7200]
    assert path.exists()


@pytest.mark.usefixtures("quick_care")
def test_it_can_be_switched_off_and_on(
    mounts: Mounts, tmp_path: Path, runs: list[float], rounds: Callable[[], None]
) -> None:
    path = with_garbage(tmp_path / "a")
    due(tmp_path / "a")
    mounts.configure(Config(tmp_path / "a", gc=Collection(every_seconds=0, grace_seconds=0)))
    rounds()
    assert runs == []
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    eventually(lambda: not path.exists())


@pytest.mark.usefixtures("quick_care")
def test_a_run_that_fails_is_tried_again_after_a_while(
    mounts: Mounts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[int] = []

    def fail(store: Store, **_: object) -> Collected:
        tries.append(1)
        raise StorageFault("the disk is ill")

    path = with_garbage(tmp_path / "a")
    due(tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "collect_garbage", fail)
        mounts.configure(Config(tmp_path / "a", gc=EVERY))
        eventually(lambda: "background work: the disk is ill" in caplog.text)
        rounds()
        assert tries == [1]  # not each second
    mount = mounts.present
    assert mount is not None
    assert path.exists()
    mount.opened._collect_again = 0.0  # as a minute later
    eventually(lambda: not path.exists())


@pytest.mark.usefixtures("quick_care")
def test_only_the_holder_of_the_servers_lock_collects(
    mounts: Mounts, tmp_path: Path, runs: list[float], rounds: Callable[[], None]
) -> None:
    path = with_garbage(tmp_path / "a")
    with Child(SERVER, tmp_path / "a") as first:
        assert first.line() == "True"
        due(tmp_path / "a")
        mounts.configure(Config(tmp_path / "a", gc=EVERY))
        mount = mounts.present
        assert mount is not None
        claims: list[bool] = []
        eventually(lambda: claims.append(mount.store.claim_server()) is not None or len(claims) > 20)
        assert not any(claims)
        assert runs == []
        assert path.exists()
        first.kill()
    eventually(lambda: not path.exists())
    assert runs == [0]


@pytest.mark.usefixtures("quick_care")
def test_a_run_stops_when_the_store_is_closed(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_garbage(tmp_path / "a")
    due(tmp_path / "a")
    begun, go_on = threading.Event(), threading.Event()
    real = Collector._record

    def record(collector: Collector, first: int) -> None:
        begun.set()
        assert go_on.wait(60)
        real(collector, first)

    monkeypatch.setattr(Collector, "_record", record)
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    mount = mounts.present
    assert mount is not None
    assert begun.wait(60)
    assert not mounts.close(timeout=0.01)  # the run is one of its users
    assert not closed(mount.store)
    go_on.set()
    assert mounts.close(timeout=60)
    assert closed(mount.store)
    assert path.exists()
    assert "background work" not in caplog.text


# ---- retention ----


def with_history(directory: Path) -> None:
    """Make a store with a noncurrent version that a rule removes, once it is applied."""
    with Store.open(directory) as store:
        store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0}}})
        put(store, "k", b"old")
        put(store, "k", b"new")
        store.note(retention_runs.NOTE, {"at_ms": now_ms() - 3_601_000})


def left(mounts: Mounts) -> int:
    mount = mounts.present
    assert mount is not None
    return len(history(mount.store, "k"))


@pytest.mark.usefixtures("quick_care")
def test_rules_are_applied_before_garbage_is_collected(
    mounts: Mounts, tmp_path: Path, runs: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with_history(tmp_path / "a")
    due(tmp_path / "a")
    path = tmp_path / "a" / "blobs"
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    eventually(lambda: len(list(path.glob("*/*"))) == 1)
    assert left(mounts) == 1
    assert runs == [0]  # one run freed what the rules had removed just before it
    assert "retention: removed 1 versions (3B) and 0 delete markers, 0 objects expired, 0 rows dropped" in caplog.text


@pytest.mark.usefixtures("quick_care")
def test_rules_can_be_switched_off_and_on(mounts: Mounts, tmp_path: Path, rounds: Callable[[], None]) -> None:
    with_history(tmp_path / "a")
    mounts.configure(Config(tmp_path / "a", retention=Retention(every_seconds=0)))
    rounds()
    assert left(mounts) == 2
    mounts.configure(Config(tmp_path / "a", retention=Retention(every_seconds=3700)))
    rounds()
    assert left(mounts) == 2
    mounts.configure(Config(tmp_path / "a"))
    eventually(lambda: left(mounts) == 1)


@pytest.mark.usefixtures("quick_care")
def test_rules_are_not_applied_to_a_backup(
    mounts: Mounts, tmp_path: Path, rounds: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever looks into one must not thin it; what is restored from it is a store like any other."""
    with_history(tmp_path / "a")
    with Store.open(tmp_path / "a") as store:
        store.back_up(tmp_path / "b")
    restore(tmp_path / "b", tmp_path / "c")
    for directory in (tmp_path / "b", tmp_path / "c"):
        with Store.open(directory) as store:
            store.note(retention_runs.NOTE, {"at_ms": now_ms() - 3_601_000})
    mounts.configure(Config(tmp_path / "b"))
    mount = mounts.present
    assert mount is not None
    eventually(lambda: mount.opened._apply_again > 0)
    rounds()
    assert left(mounts) == 2
    assert f"{tmp_path / 'b'} is a backup, made 20" in caplog.text
    caplog.clear()
    mounts.configure(Config(tmp_path / "c"))
    eventually(lambda: left(mounts) == 1)
    assert "is a backup" not in caplog.text
    assert manifests.state(tmp_path / "b").whole


@pytest.mark.usefixtures("quick_care")
def test_a_clock_in_doubt_is_complained_of_once_an_hour_and_looked_at_once_an_hour(
    mounts: Mounts, tmp_path: Path, rounds: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Also when nothing is to be removed; what does not go by age goes on."""
    path = with_garbage(tmp_path / "a")
    with_history(tmp_path / "a")
    due(tmp_path / "a")
    with Store.open(tmp_path / "a") as store:
        store.note(clock_guard.NOTE, {"at_ms": now_ms() - 10**9, "accepted_ms": 0})
    mounts.configure(Config(tmp_path / "a", gc=EVERY))
    eventually(lambda: not path.exists())
    mount = mounts.present
    assert mount is not None
    mount.opened._look_again = 0.0  # as an hour later
    eventually(lambda: mount.opened._look_again > 0)
    for _ in range(3):
        mount.opened._apply_again = 0.0
        eventually(lambda: mount.opened._apply_again > 0)
    rounds()
    assert left(mounts) == 2
    assert caplog.text.count("11.6 days after the last run that removed by age") == 2  # the run's and the look's
    mount.store.accept_clock()
    mount.opened._apply_again = mount.opened._look_again = 0.0
    eventually(lambda: left(mounts) == 1)


@pytest.mark.usefixtures("quick_care")
def test_applying_stops_when_the_store_is_closed(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_history(tmp_path / "a")
    begun, go_on = threading.Event(), threading.Event()
    real = retention.candidates

    def candidates(*arguments: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(*arguments)

    monkeypatch.setattr(retention, "candidates", candidates)
    mounts.configure(Config(tmp_path / "a"))
    assert begun.wait(60)
    assert not mounts.close(timeout=0.01)
    go_on.set()
    assert mounts.close(timeout=60)
    with Store.open(tmp_path / "a") as store:
        assert len(history(store, "k")) == 2
    assert "background work" not in caplog.text
