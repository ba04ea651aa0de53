"""The store's settings: what they change, what can be none, and who is told of them when."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from gestalt_cas import ListQuery, ObjectKey, Store
from gestalt_cas.errors import InvalidArgument, InvalidConfig, NoSuchKey, SettingsConflict
from gestalt_cas.rows import settings as settings_module
from gestalt_cas.system.locks import FileLock
from storage import SERVER, Child, change, history, key, put, rows

DATA = b"some bytes" * 100


def test_versions_while_suspended(store: Store) -> None:
    first = put(store, "k", b"one")
    store.change_settings({"versioning": "suspended"})
    assert put(store, "k", b"two").version_id == "null"
    assert store.copy(key("k"), key("k"), source_version_id=first.version_id).version_id == "null"
    assert [v.version_id for v in history(store, "k")] == ["null", first.version_id]
    marker = store.delete(key("k"))
    assert marker is not None
    assert marker.version_id == "null"
    assert [v.delete_marker for v in history(store, "k")] == [True, False]
    store.change_settings({"versioning": "enabled"})
    third = put(store, "k", b"three")
    assert [v.version_id for v in history(store, "k")] == [third.version_id, "null", first.version_id]
    gone = store.delete(key("k"), version_id="null")
    assert gone is not None
    assert (gone.version_id, gone.delete_marker, gone.current) == ("null", True, False)


def test_the_empty_bucket_is_the_default_one(store: Store) -> None:
    version = store.write(ObjectKey("", "k"), [DATA])
    assert version.key == ObjectKey("default", "k")
    assert store.head(ObjectKey("default", "k")) == store.head(ObjectKey("", "k"))
    assert store.list_page(ListQuery()).objects == store.list_page(ListQuery("default")).objects
    assert store.usage() == store.usage("default")
    assert store.buckets() == ["default"]
    store.change_settings({"bucket": "other"})
    with pytest.raises(NoSuchKey):
        store.head(ObjectKey("", "k"))
    assert store.copy(ObjectKey("default", "k"), ObjectKey("", "k")).key == ObjectKey("other", "k")
    assert store.delete(ObjectKey("", "k")) is not None
    assert store.buckets() == ["default", "other"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"versioning": "on"}, "versioning"),
        ({"versioning": True}, "versioning"),
        ({"bucket": ""}, "bucket"),
        ({"bucket": 3}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"blobs.inlineMaxBytes": -1}, "blobs.inlineMaxBytes"),
        ({"blobs.inlineMaxBytes": True}, "blobs.inlineMaxBytes"),
        ({"blobs.inlineMaxBytes": 1.5}, "blobs.inlineMaxBytes"),
        ({"blobs.inlineMaxBytes": (1 << 20) + 1}, "blobs.inlineMaxBytes"),
        ({"retention": 1}, "retention"),
    ],
)
def test_a_setting_that_cannot_be_is_named(store: Store, changes: dict[str, object], name: str) -> None:
    before = store.settings()
    for use in (store.change_settings, store.adopt, lambda s: Store.open(store.directory, settings=s)):
        with pytest.raises(InvalidArgument, match=name.replace(".", r"\.")):
            use(changes)
    assert store.settings() == before


def test_settings_stay_unless_they_are_given(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store", settings={"bucket": "mine", "blobs.inlineMaxBytes": 7}) as store:
        store.change_settings({"versioning": "suspended"})
    with Store.open(tmp_path / "store", settings={"bucket": "yours"}) as store:
        assert store.settings().by_name() == {
            "bucket": "yours", "versioning": "suspended", "blobs.inlineMaxBytes": 7, "quotas": {},
            "retention.rules": {}, "history.keepDays": 30,
        }  # fmt: skip
        change(store, "INSERT INTO settings VALUES ('of.a.later.release', '1')")
        assert store.settings().bucket == "yours"
        change(store, "DELETE FROM settings")
        assert store.settings().by_name()["bucket"] == "default"
        assert store.write(ObjectKey("", "k"), [b""]).key.bucket == "default"


def test_another_process_sees_a_setting_at_its_next_commit(store: Store) -> None:
    code = """
        with Store.open(arguments[0]) as store:
            for line in sys.stdin:
                print(store.write(ObjectKey("", "k"), [b"x"]).version_id, flush=True)
                print(store.delete(ObjectKey("", "k")).key.bucket, flush=True)
    """
    with Child(code, store.directory) as other:
        other.tell()
        assert other.line() != "null"
        assert other.line() == "default"
        store.change_settings({"versioning": "suspended", "bucket": "mine"})
        other.tell()
        assert (other.line(), other.line()) == ("null", "mine")


def test_other_settings_than_those_of_a_live_server_are_refused(store: Store) -> None:
    with Child(SERVER, store.directory) as server:
        assert server.line() == "serving"
        assert not store.claim_server()
        for use in (store.adopt, lambda s: Store.open(store.directory, settings=s).close()):
            with pytest.raises(SettingsConflict, match=r"^versioning: .*'enabled'.*'suspended'"):
                use({"bucket": "default", "versioning": "suspended"})
            use({"bucket": "default", "versioning": "enabled"})
        assert not store.settings().suspended
        assert store.change_settings({"versioning": "suspended"}).suspended  # `gestalt-cas config` may
        server.kill()
    assert store.claim_server()
    store.adopt({"versioning": "enabled"})
    assert not store.settings().suspended
    probe = FileLock(store.directory / "server.lock")
    assert not probe.try_acquire()
    probe.close()


def test_a_live_server_that_has_come_to_the_same_settings_is_no_conflict(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = store.settings()
    with Child(SERVER, store.directory) as server:
        assert server.line() == "serving"
        store.change_settings({"versioning": "suspended"})
        monkeypatch.setattr(Store, "settings", lambda self: stale)
        store.adopt({"versioning": "suspended"})


def test_adopting_settings_keeps_no_servers_lock(store: Store) -> None:
    store.adopt({"versioning": "suspended"})
    probe = FileLock(store.directory / "server.lock")
    assert probe.try_acquire()
    probe.close()


def test_two_that_adopt_the_same_at_once_are_in_no_conflict(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first holds server.lock for a moment. That must not look like a live server with other settings."""
    real, inside, go_on = settings_module.store, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> None:
        inside.set()
        assert go_on.wait(60)
        real(*arguments)

    monkeypatch.setattr(settings_module, "store", slow)
    wrong: list[BaseException] = []

    def adopt() -> None:
        try:
            with Store.open(store.directory) as other:
                other.adopt({"versioning": "suspended"})
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test shows it
            wrong.append(error)

    first = threading.Thread(target=adopt)
    first.start()
    assert inside.wait(60)
    second = threading.Thread(target=adopt)
    second.start()
    second.join(0.3)
    go_on.set()
    for thread in (first, second):
        thread.join()
    assert not wrong
    assert store.settings().suspended


def test_notes_are_no_settings(store: Store) -> None:
    before = store.settings()
    assert store.recall("port") is None
    store.note("port", 4711)
    store.note("port", {"number": 4712})
    with Store.open(store.directory) as other:
        assert other.recall("port") == {"number": 4712}
    seq = rows(store, "SELECT seq FROM counter")
    store.note("port", {"number": 4712})
    assert rows(store, "SELECT seq FROM counter") == seq
    assert store.settings() == before


def test_invalid_settings_make_no_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        Store.open(tmp_path / "store", settings={"versioning": "maybe"})
    assert not (tmp_path / "store").exists()


def test_a_setting_is_refused_by_every_door_alike(store: Store) -> None:
    with pytest.raises(InvalidConfig, match=r"blobs\.inlineMaxBytes"):
        store.change_settings({"blobs.inlineMaxBytes": (1 << 20) + 1})
