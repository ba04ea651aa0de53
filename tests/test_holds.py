"""Holds: what they keep, from whom, what they leave free, and that they outlast processes and backups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.schema import CreateTable

import backups
from clocks import Clock, clock_fixture  # noqa: F401
from command_line import command_in
from driver_aids import values_of
from gestalt_cas import ObjectKey, Store, restore
from gestalt_cas.errors import Held, InvalidArgument, NoSuchKey, NoSuchVersion, Protected
from gestalt_cas.formats import tables
from gestalt_cas.keeping import holds
from gestalt_cas.sql import sqlite
from gestalt_cas.sql.sqlite import Connection
from presigned import Site
from storage import BUCKET, Child, body, change, full_at_every_other_commit, history, key, payloads, put, rows
from wire import protos
from wire.client import Client, refused
from wire.process import Server


def test_a_held_version_is_not_removed_until_it_is_released(store: Store) -> None:
    held, other = put(store, "k", b"held"), put(store, "k", b"other")
    found = store.hold(BUCKET, "k", version_id=held.version_id)
    assert found.name == f"bucket/k, version {held.version_id}"
    with pytest.raises(Held) as caught:
        store.delete(key("k"), version_id=held.version_id)
    release = f"gestalt-cas hold release bucket/k --version-id {held.version_id} --data-dir {store.directory}"
    assert caught.value.hold == found.name
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
        with pytest.raises(Held, match="the hold on bucket/logs/ keeps it"):
            store.delete(version.key, version_id=version.version_id)
    store.delete(outside.key, version_id=outside.version_id)
    elsewhere = store.write(ObjectKey("other", "logs/a"), [b"4"])
    store.delete(elsewhere.key, version_id=elsewhere.version_id)
    assert store.release_hold("", "logs/")
    store.delete(after.key, version_id=after.version_id)


def test_a_whole_bucket(store: Store) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET)
    with pytest.raises(Held, match=rf"release bucket --data-dir {store.directory}\)"):
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


def test_markers_are_removed_though_they_are_below_a_held_prefix(store: Store) -> None:
    store.hold(BUCKET)
    put(store, "k", b"1")
    marker = store.delete(key("k"))
    assert marker is not None
    store.delete(key("k"), version_id=marker.version_id)
    assert body(store, "k") == b"1"


def replacements(store: Store) -> dict[str, Callable[[], object]]:
    """What would remove the null version of k while versioning is suspended."""
    return {
        "put": lambda: put(store, "k", b"new"),
        "copy": lambda: store.copy(key("source"), key("k")),
        "delete": lambda: store.delete(key("k")),
        "delete by id": lambda: store.delete(key("k"), version_id="null"),
        "restore": lambda: store.restore_version(key("k"), "null"),
    }


@pytest.mark.parametrize("version_id", ["", "null"])
@pytest.mark.parametrize("how", ["put", "copy", "delete", "delete by id", "restore"])
def test_a_held_null_version_is_not_replaced(store: Store, how: str, version_id: str) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    put(store, "source", b"other")
    name = store.hold(BUCKET, "k", version_id=version_id).name
    store.set_quota(BUCKET, "", 100)
    seq = rows(store, "SELECT seq FROM counter")
    with pytest.raises(Held, match=f"bucket/k, the null version: the hold on {name} keeps it"):
        replacements(store)[how]()
    assert body(store, "k") == b"null"
    assert store.quotas()[0].used_bytes == 9
    assert rows(store, "SELECT seq FROM counter") == seq
    store.release_hold(BUCKET, "k", version_id=version_id)
    replacements(store)[how]()


def test_a_body_that_is_refused_is_not_taken(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    store.hold(BUCKET, "k")
    put(store, "other", b"by which this process knows that there are holds")

    def taken() -> Iterator[bytes]:
        raise AssertionError("the body was taken")
        yield b""

    with pytest.raises(Held):
        store.write(key("k"), taken())


def test_what_replaces_nothing_that_is_held_is_written(store: Store) -> None:
    put(store, "k", b"with an id")
    store.hold(BUCKET)
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"null")
    store.change_settings({"versioning": "enabled"})
    put(store, "k", b"beside it")
    store.release_hold(BUCKET)
    store.change_settings({"versioning": "suspended"})
    store.delete(key("marked"))
    store.hold(BUCKET)
    put(store, "marked", b"in the place of a marker")
    assert len(history(store, "k")) == 3


def test_a_rollback_that_would_replace_is_refused_whole(store: Store) -> None:
    """With versioning enabled a rollback adds versions, so nothing stands in its way."""
    store.change_settings({"versioning": "suspended"})
    for data in (b"then", b"now"):
        for name in ("a", "k", "z"):
            put(store, name, data)
        if data == b"then":
            store.create_snapshot("then")
    store.hold(BUCKET, "k", version_id="null")
    before = rows(store, "SELECT * FROM versions")
    for dry_run in (True, False):
        with pytest.raises(Held, match="bucket/k, the null version: the hold on bucket/k, version null keeps it"):
            store.rollback(BUCKET, to="then", dry_run=dry_run)
    assert rows(store, "SELECT * FROM versions") == before
    store.change_settings({"versioning": "enabled"})
    assert store.rollback(BUCKET, to="then").keys == 3
    assert body(store, "k") == b"then"
    assert body(store, "k", version_id="null") == b"now"


def test_a_batch_is_refused_whole(store: Store) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET, "k")
    changes = store.transaction()
    changes.put(key("other"), [b"2"])
    changes.delete(key("k"), version_id=version.version_id)
    with pytest.raises(Held, match=r"^change 2 \(delete bucket/k\): bucket/k, version "):
        changes.commit()
    assert history(store, "other") == []
    assert len(history(store, "k")) == 1


def test_purge_is_refused_and_changes_nothing(store: Store) -> None:
    put(store, "k", b"1")
    held = put(store, "k", b"2")
    put(store, "k", b"3")
    store.hold(BUCKET, "k", version_id=held.version_id)
    with pytest.raises(Held):
        store.purge(key("k"))
    assert len(history(store, "k")) == 3
    store.release_hold(BUCKET, "k", version_id=held.version_id)
    assert store.purge(key("k")).versions == 3


def test_nothing_below_a_held_prefix_is_purged(store: Store) -> None:
    """Not even the traces of what was removed before the hold was set."""
    version = put(store, "logs/a", b"1", metadata={"who": "me"})
    store.delete(version.key, version_id=version.version_id)
    store.hold(BUCKET, "logs/")
    with pytest.raises(Held, match=r"^bucket/logs/a: the hold on bucket/logs/ keeps it"):
        store.purge(version.key)
    assert rows(store, "SELECT metadata FROM versions") == [('{"who": "me"}',)]
    store.release_hold(BUCKET, "logs/")
    store.purge(version.key)
    assert rows(store, "SELECT metadata FROM versions") == [(None,)]


def test_a_rollback_is_foreseen_as_it_is_done_beside_holds_of_other_keys(store: Store) -> None:
    then = put(store, "k", b"one").seq
    store.change_settings({"versioning": "suspended"})
    put(store, "k", b"two")
    put(store, "other", b"held")
    store.hold(BUCKET, "other")
    foreseen = store.rollback(BUCKET, "k", to=str(then), dry_run=True)
    assert (foreseen.changed, foreseen.keys) == (1, 1)
    assert body(store, "k") == b"two"
    assert store.rollback(BUCKET, "k", to=str(then)).plan == foreseen.plan
    assert body(store, "k") == b"one"


def test_a_purge_is_refused_by_the_hold_before_the_snapshot(store: Store) -> None:
    put(store, "k", b"1")
    store.create_snapshot("now")
    store.hold(BUCKET)
    with pytest.raises(Held):
        store.purge(key("k"))
    store.release_hold(BUCKET)
    with pytest.raises(Protected):
        store.purge(key("k"))


def test_what_was_removed_before_is_the_snapshots_to_keep(store: Store) -> None:
    version = put(store, "k", b"1")
    store.create_snapshot("before")
    store.delete(key("k"), version_id=version.version_id)
    store.hold(BUCKET)
    with pytest.raises(NoSuchVersion):
        store.hold(BUCKET, "k", version_id=version.version_id)
    store.collect_garbage()
    assert body(store, "k", as_of="before") == b"1"
    store.delete_snapshot("before")
    assert store.collect_garbage().files == 1


def test_retention_passes_over_a_held_version_and_a_held_prefix(store: Store) -> None:
    names = ("held", "free", "below/x")
    versions = {name: [put(store, name, data) for data in (b"1", b"2", b"3", b"4")] for name in names}
    store.hold(BUCKET, "held", version_id=versions["held"][1].version_id)
    store.hold(BUCKET, "below/")
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 1}}})
    told: list[tuple[str, int]] = []
    store.preview_retention(each=lambda one: told.append((one.version.key.key, one.version.seq)))
    left = {"held": [1, 2, 3], "free": [2, 3], "below/x": [0, 1, 2, 3]}
    gone = [
        (name, found.seq) for name in sorted(names) for n, found in enumerate(versions[name]) if n not in left[name]
    ]
    assert told == gone
    assert store.apply_retention().versions == len(gone)
    assert not store.apply_retention().anything
    for name in names:
        assert [one.seq for one in reversed(history(store, name))] == [versions[name][n].seq for n in left[name]]
    for hold in store.holds():
        store.release_hold(hold.bucket, hold.prefix, version_id=hold.version_id)
    assert store.apply_retention().versions == 3


def test_the_markers_above_a_held_version_stay(store: Store) -> None:
    """Without them the deleted object would be there again."""
    version = put(store, "k", b"1")
    put(store, "k", b"2")
    store.delete(key("k"))
    store.hold(BUCKET, "k", version_id=version.version_id)
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0, "dropMarkers": True}}})
    assert (store.apply_retention().versions, store.preview_retention().markers) == (1, 0)
    assert [one.delete_marker for one in history(store, "k")] == [True, False]
    store.release_hold(BUCKET, "k", version_id=version.version_id)
    assert store.apply_retention().markers == 1
    assert history(store, "k") == []


@pytest.mark.parametrize("versioning", ["enabled", "suspended"])
def test_a_held_object_expires_unless_that_would_replace_it(store: Store, clock: Clock, versioning: str) -> None:
    store.change_settings({"versioning": versioning, "retention.rules": {BUCKET: {"expireDays": 1}}})
    held = put(store, "held", b"1")
    put(store, "free", b"2")
    store.hold(BUCKET, "held", version_id=held.version_id)
    clock.advance(2)
    store.accept_clock()
    wanted = 2 if versioning == "enabled" else 1
    foreseen, done = store.preview_retention(), store.apply_retention()
    assert (foreseen.expired, foreseen.versions) == (done.expired, done.versions) == (wanted, 2 - wanted)
    assert body(store, "held", version_id=held.version_id) == b"1"
    assert not store.apply_retention().anything


@pytest.mark.parametrize("single", [False, True])
def test_a_hold_that_is_set_while_retention_runs(store: Store, single: bool) -> None:
    """After the keys were looked at, before the transaction that would remove the versions."""
    first = put(store, "k", b"1")
    put(store, "k", b"2")
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0}}})

    def hold(*_: object) -> None:
        if not store.holds():
            store.hold(BUCKET, "k" if single else "", version_id=first.version_id if single else "")

    assert not store.apply_retention(progress=hold).anything
    assert len(history(store, "k")) == 2


def test_a_hold_of_another_process_counts_at_once(store: Store) -> None:
    """Though this one has asked before whether there is any, and was told that there is none."""
    first, second = put(store, "k", b"1"), put(store, "k", b"2")
    store.delete(key("k"), version_id=first.version_id)
    with Child("with Store.open(arguments[0]) as store: store.hold('bucket')", store.directory) as child:
        child.finish()
    with pytest.raises(Held):
        store.delete(key("k"), version_id=second.version_id)
    with Child("with Store.open(arguments[0]) as store: store.release_hold('bucket')", store.directory) as child:
        child.finish()
    store.delete(key("k"), version_id=second.version_id)


def test_holds_are_set_and_released_on_a_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "k", b"1")
    tried = full_at_every_other_commit(monkeypatch)
    store.hold(BUCKET)
    assert store.release_hold(BUCKET)
    assert tried == [4]


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


def test_what_cannot_be_held(store: Store) -> None:
    put(store, "k", b"1")
    marker = store.delete(key("k"))
    assert marker is not None
    for version_id in (marker.version_id, "null", "nonsense"):
        with pytest.raises(NoSuchVersion):
            store.hold(BUCKET, "k", version_id=version_id)
    for bucket, prefix, version_id in (("a/b", "", ""), ("b", "x" * 2049, ""), ("b", "\ud800", ""), ("b", "", "v")):
        with pytest.raises(InvalidArgument):
            store.hold(bucket, prefix, version_id=version_id)
    for bucket, prefix, version_id in (("a/b", "", ""), ("b", "x" * 2049, ""), ("b", "k", "\ud800")):
        with pytest.raises(InvalidArgument):
            store.release_hold(bucket, prefix, version_id=version_id)
    assert store.holds() == []


PARTS = st.text(alphabet="ab\0é", max_size=4)


@given(prefixes=st.lists(st.tuples(st.sampled_from(["b", "c"]), PARTS), max_size=12), name=PARTS.filter(bool))
def test_the_longest_held_prefix_is_found(prefixes: list[tuple[str, str]], name: str) -> None:
    """Among holds of single versions, which lie between those of prefixes."""
    connection = holds_alone()
    for number, (bucket, prefix) in enumerate(prefixes):
        holds.place(connection, bucket, prefix, "", number)
        holds.place(connection, bucket, f"{prefix}a", f"version {number}", number)
    fits = [prefix for bucket, prefix in prefixes if bucket == "b" and name.startswith(prefix)]
    found = holds.above(connection, "b", name.encode())
    assert (found and found.prefix) == max(fits, key=len, default=None)


def holds_alone() -> Connection:
    connection = sqlite.in_memory()
    connection.execute(str(CreateTable(tables.holds).compile(dialect=sqlite_dialect())))
    return connection


def test_a_held_prefix_is_sought_among_held_prefixes() -> None:
    """Whatever else is held: a few seeks where there are no holds, and where there are ten thousand of versions."""
    sql = holds._LAST_PREFIX.sql
    plan = holds_alone().execute(f"EXPLAIN QUERY PLAN {sql}", values_of(sql, b"k")).fetchall()
    assert [row[3] for row in plan] == ["SEARCH holds USING PRIMARY KEY (bucket=? AND version_id=? AND prefix<?)"]


def test_backups_carry_them(store: Store, tmp_path: Path) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET, "k")
    store.hold(BUCKET, "k", version_id=version.version_id)
    store.hold("another", "é")
    first = store.back_up(tmp_path / "backup")
    assert first.root == backups.root(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    with Store.open(tmp_path / "restored") as restored:
        assert restored.holds() == store.holds()
        assert restored.check().clean
        with pytest.raises(Held):
            restored.delete(key("k"), version_id=version.version_id)
    store.release_hold(BUCKET, "k")
    assert store.back_up(tmp_path / "backup").root != first.root


def test_check_finds_a_held_version_that_has_gone(store: Store) -> None:
    version = put(store, "k", b"1")
    store.hold(BUCKET, "k", version_id=version.version_id)
    assert store.check().clean
    put(store, "k", b"2")
    change(
        store,
        "UPDATE versions SET gone_seq = 2, gone_ms = commit_ms, gone_digest = digest, digest = NULL WHERE seq = 1",
    )
    (finding,) = store.check().findings
    assert (finding.kind, finding.affected[0].version_id) == ("hold", version.version_id)
    assert f"hold release bucket/k --version-id {version.version_id}" in finding.remedy
    store.release_hold(BUCKET, "k", version_id=version.version_id)
    assert store.check().clean


def test_stats_count_them(store: Store) -> None:
    assert store.stats().holds == 0
    store.hold(BUCKET)
    store.hold(BUCKET, "k")
    assert store.stats().holds == 2


def test_on_the_wire_and_over_http(tmp_path: Path) -> None:
    """PERMISSION_DENIED and AccessDenied, which say what holds; nothing else of the contract changes."""
    with Store.open(tmp_path / "held") as store:
        old = store.write(ObjectKey("b", "k"), [b"1"]).version_id
        store.write(ObjectKey("b", "null"), [b"2"])
        store.hold("b", "k", version_id=old)
        store.change_settings({"versioning": "suspended"})
        store.write(ObjectKey("b", "null"), [b"3"])
        store.hold("b", "nu")
    with Server(data_dir=tmp_path / "held") as server:
        site = Site(server)
        with Client(server.target, protos.BUCKETED) as client:
            with refused(grpc.StatusCode.PERMISSION_DENIED, f"the hold on b/k, version {old} keeps it"):
                client.delete("k", bucket="b", version_id=old)
            with refused(grpc.StatusCode.PERMISSION_DENIED, "the hold on b/nu keeps it"):
                client.write("null", b"4", bucket="b")
            with refused(grpc.StatusCode.PERMISSION_DENIED, "the hold on b/nu keeps it"):
                client.delete("null", bucket="b")
            for answer in (
                site.send("DELETE", site.target("k", "DELETE", query=[("versionId", old)])),
                site.send("DELETE", site.target("null", "DELETE")),
                site.send("PUT", site.target("null", "PUT"), body=b"5"),
            ):
                assert (answer.status, answer.code) == (403, "AccessDenied")
                assert b"release that first<" in answer.body
            client.delete("k", bucket="b")
            client.write("k", b"6", bucket="b")
        server.stop()


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
        words = f"gestalt-cas hold release 'bucket/a key' --version-id {version.version_id} --data-dir "
        assert words in refused.err
    assert cas("hold", "release", "bucket/a key").code == 1
    assert cas("hold", "release", "bucket/a key", "--version-id", version.version_id).code == 0
    assert cas("hold", "release", "bucket/logs/", "--json").record["released"]
    assert cas("hold", "list").text == ""
    assert ["holds", "0"] in [line.split() for line in cas("stats").text.splitlines()]
    assert cas("purge", "bucket/a key").code == 0
