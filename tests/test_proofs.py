"""Proofs: the digest is what the page says it is made of, and the same wherever the same is held."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from gestalt_cas import Headers, ListQuery, ObjectKey, Store, restore
from gestalt_cas.errors import BeforeHorizon, Cancelled, InvalidArgument, VersionRemoved
from gestalt_cas.time_travel import proofs
from gestalt_cas.transactions.database import Database
from storage import BUCKET, change, key, put

HEADERS = Headers(content_type="text/plain; charset=utf-8", cache_control="no-store", content_language="ä")


def fill(store: Store) -> None:
    put(store, "ä\0\n\U0001f600", b"one", headers=HEADERS, metadata={"b": "2", "a": '"1"\U0001f600'})
    put(store, "k", b"")
    put(store, "k", b"two")
    put(store, "gone", b"x")
    store.delete(key("gone"))
    store.delete(key("never"))
    put(store, "k/2", b"three" * 1000)
    store.write(ObjectKey("", "elsewhere"), [b"e"])


def records(store: Store, bucket: str, *, current: bool) -> list[list[object]]:
    """The lines of a proof, from what callers are shown."""
    page = store.list_versions(ListQuery(bucket))
    assert not page.token
    lines: list[list[object]] = []
    for _, group in itertools.groupby(page.versions, key=lambda version: version.key.key):
        for version in reversed(list(group)):
            if version.delete_marker:
                record: list[object] = [version.key.key, None, 0, {}, {}]
            else:
                headers = version.headers._asdict()
                given = {name: value for name, value in headers.items() if value}
                record = [version.key.key, version.etag.strip('"'), version.size, given, dict(version.metadata)]
            if not current or (version.current and not version.delete_marker):
                lines.append(record)
    return lines


def digest_of(head: str, lines: list[list[object]]) -> str:
    texts = [f"gestalt-cas proof 1 {head}", *map(compact, lines)]
    return blake3("".join(f"{text}\n" for text in texts).encode("ascii")).hexdigest()


def compact(value: Any) -> str:
    """JSON in ASCII, without spaces and in order, written by hand."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{compact(name)}:{compact(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(compact, value)) + "]"
    return "null" if value is None else json.dumps(value)


@pytest.mark.parametrize("current", [False, True])
@pytest.mark.parametrize("rows_at_once", [1, 2, 1000])
def test_it_is_made_of_what_the_page_says(
    store: Store, monkeypatch: pytest.MonkeyPatch, current: bool, rows_at_once: int
) -> None:
    monkeypatch.setattr(proofs, "_VIEW_ROWS", rows_at_once)
    fill(store)
    kind, default = "current" if current else "versions", store.settings().bucket
    lines = {bucket: records(store, bucket, current=current) for bucket in (BUCKET, default)}
    found = store.prove(BUCKET, current=current)
    assert (found.digest, found.lines) == (digest_of(kind, lines[BUCKET]), 3 if current else 7)
    store.delete(ObjectKey("empty", "k"), version_id=store.write(ObjectKey("empty", "k"), [b"x"]).version_id)
    buckets = [[bucket, digest_of(kind, lines[bucket])] for bucket in sorted(lines)]
    assert store.prove(current=current).digest == digest_of(f"store {kind}", buckets)
    assert store.prove("", current=current).digest == buckets[1][1]


def test_an_empty_bucket_has_one_too(store: Store) -> None:
    assert store.prove("nothing").digest == digest_of("versions", [])
    assert store.prove().digest == digest_of("store versions", [])


def test_it_is_the_same_where_the_same_is_held(store: Store, tmp_path: Path) -> None:
    fill(store)
    store.back_up(tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "restored")
    with Store.open(tmp_path / "restored") as restored, Store.open(tmp_path / "other") as other:
        other.change_settings({"blobs.inlineMaxBytes": 4096})
        other.delete(key("never"))
        put(other, "another bucket's number", b"")
        other.purge(key("another bucket's number"))
        for name in ("k/2", "k", "gone", "ä\0\n\U0001f600"):
            page = store.list_versions(ListQuery(BUCKET, prefix=name), only_key=True)
            for version in reversed(page.versions):
                if version.delete_marker:
                    other.delete(version.key)
                    continue
                with store.read(version.key, version_id=version.version_id) as reader:
                    metadata = dict(reversed(version.metadata.items()))
                    other.write(version.key, [reader.read()], headers=version.headers, metadata=metadata)
        assert store.prove().digest == restored.prove().digest
        assert {one.prove(BUCKET).digest for one in (store, restored, other)} == {store.prove(BUCKET).digest}
        assert other.prove().digest != store.prove().digest


def test_each_change_shows(store: Store) -> None:
    fill(store)
    found = [store.prove(BUCKET).digest]
    for act in (
        lambda: put(store, "k", b"two"),
        lambda: put(store, "k", b"two", metadata={"a": "b"}),
        lambda: put(store, "k", b"two", headers=Headers(cache_control="a")),
        lambda: store.delete(key("k/2")),
        lambda: put(store, "new", b""),
        lambda: store.delete(key("new"), version_id=store.head(key("new")).version_id),
    ):
        act()
        found.append(store.prove(BUCKET).digest)
    assert found[-1] == found[-3]
    assert len(set(found)) == len(found) - 1


@pytest.mark.parametrize("current", [False, True])
def test_as_of_a_moment_it_is_what_it_was_then(store: Store, current: bool) -> None:
    fill(store)
    then, moment = store.prove(BUCKET, current=current), store.moment()
    for version in store.list_versions(ListQuery(BUCKET)).versions[:5]:
        store.delete(version.key, version_id=version.version_id)
    put(store, "new", b"new")
    for _ in range(2):
        store.collect_garbage()
    assert store.prove(BUCKET, current=current).digest != then.digest
    assert store.prove(BUCKET, as_of=str(moment.seq), current=current).digest == then.digest


@pytest.mark.parametrize("current", [False, True])
def test_what_is_written_meanwhile_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch, current: bool) -> None:
    fill(store)
    wanted = store.prove(BUCKET, current=current).digest
    monkeypatch.setattr(proofs, "_VIEW_ROWS", 2)
    read, numbers = Database.read, itertools.count()

    def meddling(self: Database) -> Any:
        number = next(numbers)
        monkeypatch.setattr(Database, "read", read)
        put(store, f"k/2/{number}", b"new")
        put(store, "k/2", b"%d" % number)
        if number == 3:
            oldest = store.list_versions(ListQuery(BUCKET, prefix="k/2"), only_key=True).versions[-1]
            store.delete(oldest.key, version_id=oldest.version_id)
        monkeypatch.setattr(Database, "read", meddling)
        return read(self)

    moment = store.moment()
    monkeypatch.setattr(Database, "read", meddling)
    found = store.prove(BUCKET, as_of=moment, current=current).digest
    monkeypatch.setattr(Database, "read", read)
    assert next(numbers) > 4
    assert found == wanted


@pytest.mark.parametrize("current", [False, True])
def test_what_was_purged_cannot_be_proved_any_more(store: Store, current: bool) -> None:
    fill(store)
    moment = store.moment()
    store.purge(key("k"))
    assert store.prove(BUCKET, current=current).digest
    with pytest.raises(VersionRemoved, match=f"{BUCKET}/k had a version at sequence {moment.seq} that was purged"):
        store.prove(BUCKET, as_of=moment, current=current)


def test_a_snapshot_keeps_what_was_current_provable(store: Store) -> None:
    fill(store)
    store.create_snapshot("then", BUCKET)
    wanted, seq = store.prove(BUCKET, current=True).digest, store.moment().seq
    put(store, "k", b"changed")
    change(store, "INSERT INTO horizons VALUES (?, ?, 0)", BUCKET, seq + 1)
    assert store.prove(BUCKET, as_of="then", current=True).digest == wanted
    with pytest.raises(BeforeHorizon, match=r"all versions of bucket are known from .*\(--current\)"):
        store.prove(BUCKET, as_of="then")
    with pytest.raises(BeforeHorizon):
        store.prove(BUCKET, as_of=str(seq), current=True)
    with pytest.raises(InvalidArgument, match="is of bucket only"):
        store.prove(as_of="then")


def test_it_is_told_how_far_a_proof_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_VIEW_ROWS", 2)
    for number in range(5):
        put(store, f"k{number}", b"x")
    told: list[tuple[str, int, int]] = []
    asked = store.prove(progress=lambda *what: told.append(what))
    assert [done for _, done, _ in told] == [0, 2, 4]
    assert asked == store.prove()
    with pytest.raises(Cancelled):
        store.prove(BUCKET, progress=stop)


def stop(*_: object) -> None:
    raise Cancelled("stopped")
