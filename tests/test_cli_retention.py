"""The verbs of retention."""

from __future__ import annotations

import json

import pytest

from clocks import Clock, clock_fixture, store_fixture  # noqa: F401
from command_line import Command, command_in
from gestalt_cas import Store
from retaining import RULES, letters, rule
from storage import history, key, put


@pytest.fixture(name="cas")
def cas_fixture(store: Store, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return command_in(store.directory, capsysbinary)


def test_the_verbs(store: Store, clock: Clock, cas: Command) -> None:
    rules = {"bucket": {"keepNoncurrent": 1}, "bucket/tmp/": {"expireDays": 1, "dropMarkers": True}}
    assert cas("config", RULES, json.dumps(rules)).code == 0
    assert json.loads(cas("config", RULES).text) == rules
    assert cas("config", RULES, '{"bucket": {"keep": 1}}').code == 2
    letters(store, "abc-")
    put(store, "tmp/x", b"tmp")
    put(store, "line\nbreak", b"1")
    put(store, "line\nbreak", b"22")
    put(store, "line\nbreak", b"333")
    clock.advance(1.5)
    ids = [version.version_id for version in history(store, "k")]
    tmp, broken = history(store, "tmp/x")[0].version_id, history(store, "line\nbreak")[2].version_id
    told = cas("retention", "preview")
    assert told.text == (
        f"2027-01-15T08:00:00.000Z               1  {ids[3]}  bucket/k  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               1  {ids[2]}  bucket/k  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               1  {broken}  bucket/line\nbreak  (noncurrent)\n"
        f"2027-01-15T08:00:00.000Z               3  {tmp}  bucket/tmp/x  (expired)\n"
        "3 versions (3B) and 0 delete markers would go; 1 objects would get a delete marker; "
        "gc would then free 3B, 3 payloads\n"
    )
    assert "1.5 days after the last commit" in told.err
    assert "settled; see: gestalt-cas doctor --data-dir /" in told.err
    records = [json.loads(line) for line in cas("retention", "preview", "bucket/k", "--json").text.splitlines()]
    assert [(one["version_id"], one["reason"], one["kept_by_snapshot"]) for one in records[:-1]] == [
        (ids[3], "noncurrent", False), (ids[2], "noncurrent", False),
    ]  # fmt: skip
    assert records[-1] == {
        "summary": {
            "versions": 2, "markers": 0, "bytes": 2, "expired": 0, "dropped": 0, "kept": 0,
            "payloads": 2, "freed_bytes": 2,
        }
    }  # fmt: skip
    refused = cas("retention", "run")
    assert refused.code == 3
    assert f"gestalt-cas doctor --accept-clock --data-dir {store.directory}" in refused.err
    assert cas("doctor", "--accept-clock").code in (0, 1)
    assert cas("retention", "run", "bucket/k").text == "removed 2 versions (2B) and 0 delete markers\n"
    assert cas("retention", "run").text == (
        "removed 1 versions (1B) and 0 delete markers; 1 objects got a delete marker\n"
    )
    assert "last retention       2027-01-16T20:00:00.000Z, done, versions 1, bytes 1, expired 1\n" in cas("stats").text


def test_the_verbs_tell_of_snapshots_markers_and_the_horizon(store: Store, clock: Clock, cas: Command) -> None:
    letters(store, "a")
    store.create_snapshot("then")
    letters(store, "b")
    letters(store, "-", name="m")
    store.delete(key("gone"), version_id=put(store, "gone", b"x").version_id)
    clock.advance(31)
    store.accept_clock()
    rule(store, {"bucket": {"keepNoncurrent": 0, "dropMarkers": True}})
    lines = cas("retention", "preview").text.splitlines()
    assert lines[0].endswith("bucket/k  (noncurrent, kept by a snapshot)")
    assert "        marker  " in lines[1]
    assert lines[1].endswith("bucket/m  (marker)")
    assert lines[2] == (
        "1 versions (1B) and 1 delete markers would go; snapshots keep the payloads of 1; 1 removed longer ago "
        "would no longer be known; gc would then free 0B, 0 payloads"
    )
    assert cas("retention", "run").text == (
        "removed 1 versions (1B) and 1 delete markers; 1 removed longer ago are no longer known\n"
    )
