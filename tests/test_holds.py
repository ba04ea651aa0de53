"""Holds: what they keep, from whom, what they leave free, and that they outlast processes and backups."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line import command_in
from gestalt_cas import ObjectKey, Store, holds, restore
from gestalt_cas.errors import InvalidArgument, NoSuchKey, NoSuchVersion, Protected
from storage import BUCKET, body, history, key, payloads, put


def test_a_held_version_is_not_removed_until_it_is_released(store: Store) -> None:
    held, other = put(store, "k", b"held"), put(store, "k", b"other")
    found = store.hold(BUCKET, "k", version_id=held.version_id)
    assert found.name == f"bucket/k, version {held.version_id}"
    with pytest.raises(Protected) as caught:
        store.delete(key("k"), version_id=held.version_id)
    release = f"gestalt-cas hold release bucket/k --version-id {held.version_id}"
    assert str(caught.value) == (
        f"bucket/k, version {held.version_id}: the hold on {found.name} keeps it; release that first ({release})"
    )
    assert body(store, "k", version_id=held.version_id) == b"held"
    store.delete(key("k"), version_id=other.version_id)
    assert store.release_hold(BUCKET, "k", version_id=held.version_id)
    assert not store.release_hold(BUCKET, "k", version_id=held.version_id)
    store.delete(key("k"), version_id=held.version_id)
    assert history(store, "k") == []


def test_a_prefix_holds_what_is_there_and_what_comes(store: Store) -> None:
    store.change_settings({"bucket": BUCKET})
    before, outside = put(store, "logs/a", b"1"), put(store, "log", b"2")
    assert store.hold("", "logs/").name == "bucket/logs/"
    after = put(store, "logs/a", b"3")
    for version in (before, after):
        with pytest.raises(Protected, match="the hold on bucket/logs/ keeps it"):
            store.delete(version.key, version_id=version.version_id)
    store.delete(outside.key, version_id=outside.version_id)
    elsewhere = store.write(ObjectKey("other", "logs/a"), [b"4"])
    store.delete(elsewhere.key, version_id=elsewhere.version_id)
    assert store.release_hold("", "logs/")
    store.delete(after.key, version_id=after.version_id)


def test_a_whole_bucket(store: Store) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET)
    with pytest.raises(Protected, match=r"release bucket\)"):
        store.delete(key("k"), version_id=version.version_id)


def test_objects_can_be_deleted_and_undeleted(store: Store) -> None:
    """A marker is added and taken away; the version stands throughout."""
    store.hold(BUCKET)
    put(store, "k", b"1")
    store.delete(key("k"))
    with pytest.raises(NoSuchKey):
        store.head(key("k"))
    store.undelete(key("k"))
    assert body(store, "k") == b"1"
    put(store, "k", b"2")
    assert len(history(store, "k")) == 2


def test_a_held_null_version_is_not_replaced(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    put(store, "source", b"other")
    store.hold(BUCKET, "k")
    store.set_quota(BUCKET, "", 100)
    for replace in (
        lambda: put(store, "k", b"new"),
        lambda: store.copy(key("source"), key("k")),
        lambda: store.delete(key("k")),
        lambda: store.delete(key("k"), version_id="null"),
    ):
        with pytest.raises(Protected, match="bucket/k, the null version: the hold on bucket/k keeps it"):
            replace()
    assert body(store, "k") == b"null"
    assert store.quotas()[0].used_bytes == 9
    store.change_settings({"versioning": "enabled"})
    put(store, "k", b"beside it")
    put(store, "marked", b"")
    store.change_settings({"versioning": "suspended"})
    store.delete(key("marked"))
    store.hold(BUCKET, "marked")
    put(store, "marked", b"a null marker is not held")


def test_a_batch_is_refused_whole(store: Store) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET, "k")
    changes = store.transaction()
    changes.put(key("other"), [b"2"])
    changes.delete(key("k"), version_id=version.version_id)
    with pytest.raises(Protected):
        changes.commit()
    assert history(store, "other") == []
    assert len(history(store, "k")) == 1


def test_purge_is_refused_and_changes_nothing(store: Store) -> None:
    put(store, "k", b"1")
    held = put(store, "k", b"2")
    put(store, "k", b"3")
    store.hold(BUCKET, "k", version_id=held.version_id)
    with pytest.raises(Protected):
        store.purge(key("k"))
    assert len(history(store, "k")) == 3
    store.release_hold(BUCKET, "k", version_id=held.version_id)
    assert store.purge(key("k")).versions == 3


def test_retention_leaves_the_key_alone(store: Store) -> None:
    versions = [put(store, name, data) for name in ("held", "free", "below/x") for data in (b"1", b"2", b"3")]
    store.hold(BUCKET, "held", version_id=versions[1].version_id)
    store.hold(BUCKET, "below/")
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0}}})
    assert store.preview_retention().versions == 2
    assert store.apply_retention().versions == 2
    assert [len(history(store, name)) for name in ("held", "free", "below/x")] == [3, 1, 3]


def test_a_hold_that_is_set_while_retention_runs(store: Store) -> None:
    for data in (b"1", b"2"):
        put(store, "k", data)
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0}}})
    assert not store.apply_retention(progress=lambda *_: store.hold(BUCKET) and None).anything
    assert len(history(store, "k")) == 2


def test_gc_keeps_its_payload(store: Store) -> None:
    put(store, "k", b"1")
    store.hold(BUCKET, "k")
    store.delete(key("k"))
    assert store.collect_garbage().files == 0
    assert len(payloads(store)) == 1


def test_holds_are_listed_in_order_and_set_once(store: Store) -> None:
    version = put(store, "b", b"1")
    first = store.hold(BUCKET, "b")
    store.hold(BUCKET, "b", version_id=version.version_id)
    store.hold("another", "z")
    assert store.hold(BUCKET, "b") == first
    assert [one.name for one in store.holds()] == ["another/z", "bucket/b", f"bucket/b, version {version.version_id}"]


def test_what_cannot_be_held(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"1")
    marker = store.delete(key("k"))
    assert marker is not None
    for version_id in (marker.version_id, "null", "nonsense"):
        with pytest.raises(NoSuchVersion):
            store.hold(BUCKET, "k", version_id=version_id)
    for bucket, prefix in (("a/b", ""), ("b", "x" * 2049)):
        with pytest.raises(InvalidArgument):
            store.hold(bucket, prefix)
    monkeypatch.setattr(holds, "MOST", 2)
    store.hold("a")
    store.hold("b")
    with pytest.raises(InvalidArgument, match="there are 2 holds already"):
        store.hold("c")
    assert store.hold("b").bucket == "b"


def test_backups_carry_them(store: Store, tmp_path: Path) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET, "k")
    store.back_up(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    with Store.open(tmp_path / "restored") as restored:
        assert restored.holds() == store.holds()
        with pytest.raises(Protected):
            restored.delete(key("k"), version_id=version.version_id)


def test_the_verbs(store: Store, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    cas = command_in(store.directory, capsysbinary)
    version = put(store, "a key", b"1")
    assert cas("hold", "set", "bucket/a key", "--version-id", version.version_id).text == (
        f"held: bucket/a key, version {version.version_id}\n"
    )
    assert cas("hold", "set", "bucket/logs/", "--json").record["name"] == "bucket/logs/"
    assert cas("hold", "set", "bucket", "--version-id", "x").code == 2
    assert [line.partition("  ")[2] for line in cas("hold", "list").text.splitlines()] == [
        f"bucket/a key, version {version.version_id}",
        "bucket/logs/",
    ]
    assert [one["prefix"] for one in cas("hold", "list", "--json").records] == ["a key", "logs/"]
    for verb in (["rm", "bucket/a key", "--version-id", version.version_id], ["purge", "bucket/a key"]):
        refused = cas(*verb)
        assert refused.code == 3
        assert f"hold release 'bucket/a key' --version-id {version.version_id}" in refused.err
    assert cas("hold", "release", "bucket/a key").code == 1
    assert cas("hold", "release", "bucket/a key", "--version-id", version.version_id).code == 0
    assert cas("hold", "release", "bucket/logs/", "--json").record["released"]
    assert cas("hold", "list").text == ""
    assert cas("purge", "bucket/a key").code == 0
