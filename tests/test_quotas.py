"""Quotas: what they count, what they refuse and when, that nothing slips past them, and that removals always work."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from command_line import Command, command_in, one_line
from gestalt_cas import Conditions, ObjectKey, Store
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import InvalidArgument, InvalidConfig, PreconditionFailed, QuotaExceeded, SettingsConflict
from gestalt_cas.keeping import quotas
from gestalt_cas.keeping.quotas import Quota
from presigned import Site
from storage import Child, change, payloads, rows, staged
from wire import protos
from wire.client import Client, refused
from wire.process import Server

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture(name="store")
def store_fixture(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def put(store: Store, name: str, size: int, **options: Any) -> Any:
    bucket, _, key = name.partition("/")
    return store.write(ObjectKey(bucket, key), [name[-1:].encode()[:1] * size], **options)


def used(store: Store) -> dict[str, int]:
    return {quota.name: quota.used_bytes for quota in store.quotas()}


def miscounts(store: Store) -> list[tuple[str, str, str]]:
    """What `check` finds wrong: the quota, its use, and what that should be."""
    return [(one.where, one.found, one.expected) for one in store.check().findings if one.kind == "quota"]


def exact(store: Store) -> bool:
    """Whether the rows say what the versions add up to; asked without the code under test too."""
    assert miscounts(store) == []
    for bucket, prefix, count in rows(store, "SELECT bucket, prefix, used_bytes FROM quotas"):
        found = rows(store, "SELECT bucket, key, size FROM versions WHERE gone_seq IS NULL")
        assert count == sum(size for home, key, size in found if home == bucket and key.startswith(prefix))
    return True


# ---- what is counted ----


def test_every_version_counts_with_its_whole_size(store: Store) -> None:
    store.set_quota("b", "", 1000)
    first = put(store, "b/k", 10)
    assert used(store) == {"b": 10}
    put(store, "b/k", 10)  # the same bytes: one payload, two versions
    store.copy(ObjectKey("b", "k"), ObjectKey("b", "copy"))
    assert used(store) == {"b": 30}
    assert len(payloads(store)) == 1
    marker = store.delete(ObjectKey("b", "k"))
    assert marker is not None
    assert used(store) == {"b": 30}
    store.delete(ObjectKey("b", "k"), version_id=marker.version_id)
    assert used(store) == {"b": 30}
    store.delete(ObjectKey("b", "k"), version_id=first.version_id)
    assert used(store) == {"b": 20}
    put(store, "other/k", 500)
    assert used(store) == {"b": 20}
    assert exact(store)


def test_the_null_version_is_counted_once(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    store.set_quota("b", "", 100)
    for size, total in ((60, 60), (90, 90), (100, 100), (5, 5)):
        put(store, "b/k", size)
        assert used(store) == {"b": total}
    store.delete(ObjectKey("b", "k"))
    assert used(store) == {"b": 0}
    assert exact(store)


def test_purge_gives_everything_back(store: Store) -> None:
    store.set_quota("b", "", 100)
    for size in (10, 20, 30):
        put(store, "b/k", size)
    store.purge(ObjectKey("b", "k"))
    assert used(store) == {"b": 0}


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        ("", ["a", "\0", "\U0010ffff"], []),
        ("a/", ["a/", "a/b", "a/\0"], ["a", "a0", "A/", "b"]),
        ("a\0", ["a\0", "a\0b"], ["a", "a\1"]),
        ("é", ["é", "éa"], ["e", "è", "Ã©"]),
        ("%", ["%", "%x"], ["x", "_"]),
        ("\U0010ffff", ["\U0010ffff", "\U0010ffffx"], ["\ue000", "\U0010fffe"]),
        ("x" * 2048, ["x" * 2048], ["x" * 2047]),
    ],
)
def test_prefixes_are_bytes(store: Store, prefix: str, inside: list[str], outside: list[str]) -> None:
    for name in inside + outside:
        put(store, f"b/{name}", 1)
    assert store.set_quota("b", prefix, 1 << 40).used_bytes == len(inside)
    for name in inside + outside:
        put(store, f"b/{name}", 1)
    ((_, total),) = used(store).items()
    assert total == 2 * len(inside)
    assert exact(store)


def test_setting_counts_what_is_there_and_setting_again_counts_anew(store: Store) -> None:
    for number in range(5):
        put(store, f"b/logs/{number}", 100)
    put(store, "b/other", 1)
    assert store.set_quota("b", "logs/", 1000) == Quota("b", "logs/", 1000, 500)
    change(store, "UPDATE quotas SET used_bytes = 7")
    assert miscounts(store) == [("b/logs/", "7", "500")]
    assert store.set_quota("b", "logs/", 2000) == Quota("b", "logs/", 2000, 500)
    assert store.quotas() == [Quota("b", "logs/", 2000, 500)]


def test_the_empty_bucket_is_the_default_one(store: Store) -> None:
    store.change_settings({"bucket": "main"})
    assert store.set_quota("", "p", 10).name == "main/p"
    with pytest.raises(QuotaExceeded, match="quota main/p: 0 of 10 bytes are used"):
        store.write(ObjectKey("", "pp"), [b"x" * 11])
    assert store.remove_quota("", "p")
    assert not store.remove_quota("", "p")
    assert store.quotas() == []


@pytest.mark.parametrize(
    ("bucket", "prefix", "size"),
    [
        ("a/b", "", 1), ("b", "x" * 2049, 1), ("b", "\ud800", 1), ("b", "", -1), ("b", "", 2**60), ("b", "", 1.5),
        ("b", "", True),
    ],
)  # fmt: skip
def test_what_can_be_no_quota_is_refused(store: Store, bucket: str, prefix: str, size: int) -> None:
    with pytest.raises(InvalidArgument):
        store.set_quota(bucket, prefix, size)
    assert store.quotas() == []


def test_no_quota_of_what_can_be_none_is_removed(store: Store) -> None:
    for bucket, prefix in (("a/b", ""), ("\udcff", ""), ("b", "\udcff")):
        with pytest.raises(InvalidArgument):
            store.remove_quota(bucket, prefix)


# ---- what is refused ----


def test_a_refused_upload_changes_nothing(store: Store) -> None:
    store.set_quota("b", "", 100)
    put(store, "b/k", 60)
    seq = rows(store, "SELECT * FROM counter")
    with pytest.raises(QuotaExceeded) as caught:
        put(store, "b/k", 41)
    assert caught.value.quota == "b"
    assert "60 of 100 bytes are used, and 41 more do not fit" in str(caught.value)
    assert staged(store) == []
    assert len(payloads(store)) == 1
    assert rows(store, "SELECT * FROM counter") == seq
    assert store.head(ObjectKey("b", "k")).size == 60
    put(store, "b/k", 40)
    put(store, "b/empty", 0)  # full to the last byte, and nothing more is asked for
    with pytest.raises(QuotaExceeded):
        put(store, "b/one", 1)
    assert exact(store)


def test_copies_are_refused_too_and_other_buckets_are_not(store: Store) -> None:
    store.set_quota("b", "in/", 100)
    put(store, "b/k", 101)
    with pytest.raises(QuotaExceeded, match="quota b/in/"):
        store.copy(ObjectKey("b", "k"), ObjectKey("b", "in/k"))
    store.copy(ObjectKey("b", "k"), ObjectKey("b", "out/k"))
    store.copy(ObjectKey("b", "k"), ObjectKey("c", "in/k"))
    assert used(store) == {"b/in/": 0}


def test_nested_quotas_all_hold(store: Store) -> None:
    store.set_quota("b", "", 100)
    store.set_quota("b", "a/", 50)
    store.set_quota("b", "a/b/", 80)
    put(store, "b/a/b/k", 50)
    with pytest.raises(QuotaExceeded, match="quota b/a/:"):
        put(store, "b/a/b/l", 20)
    put(store, "b/z", 50)
    with pytest.raises(QuotaExceeded, match="quota b:"):
        put(store, "b/y", 1)
    assert used(store) == {"b": 100, "b/a/": 50, "b/a/b/": 50}
    assert exact(store)


def test_over_quota_removals_work_and_nothing_grows(store: Store) -> None:
    made = [put(store, "b/k", 100) for _ in range(3)]
    store.set_quota("b", "", 50)
    assert used(store) == {"b": 300}
    for size in (1, 1 << 20):
        with pytest.raises(QuotaExceeded):
            put(store, "b/k", size)
    put(store, "b/k", 0)
    assert store.delete(ObjectKey("b", "k")) is not None
    for version in made[:2]:
        assert store.delete(ObjectKey("b", "k"), version_id=version.version_id) is not None
    assert used(store) == {"b": 100}
    store.delete(ObjectKey("b", "k"), version_id=made[2].version_id)
    put(store, "b/k", 50)
    assert exact(store)


def test_over_quota_a_null_version_may_shrink(store: Store) -> None:
    store.change_settings({"versioning": "suspended"})
    put(store, "b/k", 100)
    store.set_quota("b", "", 50)
    with pytest.raises(QuotaExceeded):
        put(store, "b/k", 101)
    put(store, "b/k", 100)
    put(store, "b/k", 99)
    assert used(store) == {"b": 99}


def test_a_quota_of_nothing(store: Store) -> None:
    store.set_quota("b", "", 0)
    with pytest.raises(QuotaExceeded):
        put(store, "b/k", 1)
    put(store, "b/k", 0)


def test_conditions_are_judged_first(store: Store) -> None:
    store.set_quota("b", "", 10)
    put(store, "b/k", 10)
    with pytest.raises(PreconditionFailed):
        put(store, "b/k", 10, conditions=Conditions(if_none_match="*"))


# ---- when it is refused ----


def test_an_announced_body_is_refused_before_it_is_taken(store: Store) -> None:
    store.set_quota("b", "", 10)

    def body() -> Iterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    with pytest.raises(QuotaExceeded, match="0 of 10 bytes are used, and 11 more"):
        store.write(ObjectKey("b", "k"), body(), expected_bytes=11)
    store.write(ObjectKey("b", "k"), [b"x" * 10], expected_bytes=10)


def test_an_unannounced_body_is_refused_as_soon_as_it_is_too_long(store: Store) -> None:
    store.set_quota("b", "", 10)
    given: list[int] = []

    def body() -> Iterator[bytes]:
        for number in range(100):
            given.append(number)
            yield b"xxxx"

    with pytest.raises(QuotaExceeded):
        store.write(ObjectKey("b", "k"), body())
    assert given == [0, 1, 2]
    assert staged(store) == []


@pytest.mark.parametrize("change", ["remove", "raise", "delete"])
def test_room_that_comes_while_the_body_does_is_seen(store: Store, change: str) -> None:
    before = put(store, "b/old", 8)
    store.set_quota("b", "", 10)

    def body() -> Iterator[bytes]:
        yield b"xx"
        if change == "remove":
            store.remove_quota("b", "")
        elif change == "raise":
            store.set_quota("b", "", 12)
        else:
            store.delete(ObjectKey("b", "old"), version_id=before.version_id)
        yield b"xx"
        yield memoryview(b"")

    assert store.write(ObjectKey("b", "k"), body()).size == 4
    assert exact(store)


def test_what_was_taken_meanwhile_is_refused_at_the_commit(store: Store) -> None:
    store.set_quota("b", "", 10)

    def body() -> Iterator[bytes]:
        yield b"xxxxxx"
        put(store, "b/other", 6)

    with pytest.raises(QuotaExceeded, match="6 of 10 bytes are used, and 6 more"):
        store.write(ObjectKey("b", "k"), body())
    assert used(store) == {"b": 6}
    assert exact(store)


def test_the_last_bytes_go_to_one_writer(store: Store) -> None:
    """Threads of two processes fill a quota in odd pieces; it ends full to less than a piece, and never over."""
    store.set_quota("b", "", 10_000)
    code = """
        import threading
        from gestalt_cas.errors import QuotaExceeded
        def fill(store, number):
            for turn in range(60):
                try:
                    store.write(ObjectKey("b", f"{arguments[1]}/{number}/{turn}"), [b"x" * 97])
                except QuotaExceeded:
                    return
            raise SystemExit("the quota did not hold")
        with Store.open(arguments[0]) as store:
            threads = [threading.Thread(target=fill, args=(store, number)) for number in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
    """
    with Child(code, store.directory, 1) as one, Child(code, store.directory, 2) as two:
        one.finish()
        two.finish()
    assert used(store) == {"b": 10_000 // 97 * 97}
    assert exact(store)


def test_setting_a_quota_beside_writers_misses_none(store: Store) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            put(store, f"b/{number}", 3)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    for turn in range(20):
        store.set_quota("b", "", 1 << 30)
        if turn % 2:
            store.remove_quota("b", "")
    store.set_quota("b", "", 1 << 30)
    done.set()
    thread.join()
    assert exact(store)


def test_nobody_waits_while_what_is_used_is_added_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes and goes meanwhile, before or behind what was added up already, counts."""
    monkeypatch.setattr(quotas, "STRETCH_ROWS", 3)
    made = [put(store, f"b/p/{number}", 10) for number in range(10)]
    for number in range(10):
        put(store, f"b/elsewhere/{number}", 10)
    turns: list[int] = []

    def meanwhile(*_: object) -> None:
        turns.append(1)
        put(store, f"b/p/{len(turns)}", 100)
        put(store, f"b/p/new{len(turns)}", 1000)
        put(store, f"b/q{len(turns)}", 1000)
        for number in (0, 9, len(turns)):
            store.delete(made[number].key, version_id=made[number].version_id)
        if len(turns) == 2:
            store.purge(made[1].key)
            store.purge(made[8].key)

    found = store.set_quota("b", "p/", 1 << 30, progress=meanwhile)
    assert len(turns) >= 3
    assert store.quotas() == [found]
    assert exact(store)


def test_a_check_counts_as_of_one_moment_while_others_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "STRETCH_ROWS", 3)
    for number in range(10):
        put(store, f"b/p/{number}", 10)
    store.set_quota("b", "p/", 1 << 30)
    change(store, "UPDATE quotas SET used_bytes = used_bytes + 5")
    real, turns = quotas.count_then, list[int]()

    def count_then(*arguments: Any) -> Any:
        turns.append(1)
        put(store, f"b/p/{len(turns)}", 100)
        put(store, f"b/p/new{len(turns)}", 1000)
        return real(*arguments)

    monkeypatch.setattr(quotas, "count_then", count_then)
    report = store.check(CheckOptions(repair=True))
    (found,) = [one for one in report.findings if one.kind == "quota"]
    assert (found.found, found.expected) == ("105", "100")
    assert len(turns) >= 3
    monkeypatch.undo()
    assert exact(store)


# ---- as a setting ----


def test_the_configuration_replaces_all_quotas_or_leaves_them(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    with Store.open(directory, settings={"quotas": {"a": 100, "b/x/": 50}}) as store:
        assert [(quota.name, quota.max_bytes) for quota in store.quotas()] == [("a", 100), ("b/x/", 50)]
        put(store, "a/k", 10)
    with Store.open(directory) as store:
        assert used(store) == {"a": 10, "b/x/": 0}
    with Store.open(directory, settings={"quotas": {"a": 100, "c": 5}}) as store:
        assert used(store) == {"a": 10, "c": 0}
        assert dict(store.settings().quotas) == {"a": 100, "c": 5}
        assert store.change_settings({"quotas": {}}).quotas == {}
        assert store.quotas() == []


def test_one_quota_has_one_name(store: Store) -> None:
    assert store.change_settings({"quotas": {"site/": 5}}).by_name()["quotas"] == {"site": 5}
    for wrong in ({"site/": 5, "site": 6}, {"/x": 1}, {"a": -1}, {"a": "1"}, {"a": True}, {3: 1}, 7, "a"):
        with pytest.raises(InvalidConfig, match="quotas"):
            store.change_settings({"quotas": wrong})
    assert used(store) == {"site": 0}


def test_a_running_server_keeps_others_from_changing_them(store: Store) -> None:
    store.change_settings({"quotas": {"a": 5}})
    code = """
        with Store.open(arguments[0]) as store:
            print(store.claim_server(), flush=True)
            input()
    """
    with Child(code, store.directory) as server:
        assert server.line() == "True"
        store.adopt({"quotas": {"a": 5}})
        with pytest.raises(SettingsConflict, match="quotas: a running server uses"):
            store.adopt({"quotas": {"a": 6}})
        server.tell()
        server.finish()


# ---- over the wire ----


def test_grpc_and_http_name_the_quota() -> None:
    setting = "quotas=" + json.dumps({"b/full/": 100, "default": 0})
    with Server(setting) as server, Client(server.target, protos.BUCKETED) as old:
        old.write("full/k", b"x" * 100, bucket="b")
        old.write("k", b"x" * 101, bucket="b")
        with refused(EXHAUSTED, "quota b/full/:", "100 of 100 bytes"):
            old.write("full/l", b"x" * (3 << 20), bucket="b")
        with refused(EXHAUSTED, "quota b/full/:"):
            old.copy("k", "full/k", bucket="b")
        with Client(server.target, protos.BUCKETLESS) as new, refused(EXHAUSTED, "quota default:"):
            new.write("k", b"x")
        site = Site(server)
        answer = site.put("full/l", b"x" * 100_000)
        assert (answer.status, answer.code) == (507, "QuotaExceeded")
        assert b"quota b/full/:" in answer.body
        assert old.keys(bucket="b") == ["full/k", "k"]
        assert server.staged() == []
        old.delete("full/k", bucket="b", version_id=old.head("full/k", bucket="b").ref.version_id)
        assert site.put("full/l", b"x" * 100).status == 200
        site.client.close()


def test_a_body_that_waits_for_100_is_not_asked_for() -> None:
    with Server('quotas={"b": 10}') as server:
        site = Site(server)
        target = site.target("k", "PUT")
        with site.socket() as connection:
            head = (
                f"PUT {target} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
            )
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 507 ")
        site.client.close()


# ---- on the command line ----


@pytest.fixture(name="cas")
def cas_fixture(store: Store, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(store.directory, capsysbinary)


def test_the_verb_sets_lists_and_removes(cas: Command, store: Store, tmp_path: Path) -> None:
    put(store, "site/logs/1", 2048)
    done = cas("quota", "set", "site/logs/", "1.5K")
    assert (done.code, done.text) == (0, "site/logs/: 2048 of 1536 bytes used\n")
    assert cas("quota", "set", "/", "10", "--json").record == {
        "bucket": "default", "prefix": "", "max_bytes": 10, "used_bytes": 0, "name": "default",
    }  # fmt: skip
    assert [record["name"] for record in cas("quota", "list", "--json").records] == ["default", "site/logs/"]
    lines = cas("quota", "list", "-h").text.splitlines()
    assert [line.split() for line in lines] == [
        ["used", "quota", "left", "name"],
        ["0", "10", "10", "default"],
        ["2.0K", "1.5K", "0", "site/logs/"],
    ]
    (tmp_path / "file").write_bytes(b"x" * 11)
    refusal = cas("put", tmp_path / "file", "default/k")
    assert (refusal.code, "quota default:" in one_line(refusal)) == (5, True)
    shown = cas("config", "quotas").text
    assert json.loads(shown) == {"default": 10, "site/logs/": 1536} == cas("config", "--json").record["quotas"]
    assert f"quotas {shown.strip()}" in cas("config").text
    assert cas("quota", "rm", "site/logs/").text == "removed the quota site/logs/\n"
    gone = cas("quota", "rm", "site/logs/")
    assert (gone.code, one_line(gone)) == (1, "site/logs/: no such quota")
    assert json.loads(cas("quota", "rm", "site", "--json").err)["error"]["kind"] == "NoSuchQuota"
    assert cas("config", "quotas", '{"x": 5}').code == 0
    assert used(store) == {"x": 0}


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("10K", 10240), ("10k", 10240), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("1TB", 1 << 40)],
)
def test_sizes(cas: Command, store: Store, text: str, size: int) -> None:
    assert cas("quota", "set", "b", text).code == 0
    assert store.quotas() == [Quota("b", "", size, 0)]


@pytest.mark.parametrize("text", ["", "-1", "1.5", "K", "1X", "1e9", "٣", "1 K", "9999P"])
def test_what_is_no_size_is_a_usage_error(cas: Command, store: Store, text: str) -> None:
    assert cas("quota", "set", "b", "--", text).code == 2
    assert store.quotas() == []
