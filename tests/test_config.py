"""Configuration: what is accepted, what is refused and how it is said; schema, code and README agree."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gestalt_cas.configuration import config, config_schema
from gestalt_cas.configuration.config import (
    Collection,
    Config,
    Http,
    Limits,
    Retention,
    Telemetry,
    Threads,
    default_data_dir,
    parse,
)
from gestalt_cas.configuration.config_sources import assignments, load_file, merge
from gestalt_cas.configuration.stamps import Stamps
from gestalt_cas.errors import InvalidConfig
from gestalt_cas.rules.sigv4 import KeyPair

ROOT = Path(__file__).resolve().parent.parent
SCHEMA: dict[str, Any] = json.loads((ROOT / "config.schema.json").read_text("utf-8"))
KEYS = [
    "dataDir",
    "bucket",
    "keyPrefix",
    "versioning",
    "limits.maxObjectBytes",
    "limits.maxStagingBytes",
    "limits.minFreeBytes",
    "limits.streamIdleSeconds",
    "limits.concurrentReads",
    "limits.concurrentWrites",
    "blobs.inlineMaxBytes",
    "quotas",
    "retention.rules",
    "retention.everySeconds",
    "history.keepDays",
    "gc.everySeconds",
    "gc.graceSeconds",
    "http.enabled",
    "http.listen",
    "http.publicUrl",
    "http.corsOrigins",
    "telemetry.metrics",
    "telemetry.healthz",
    "telemetry.statisticsSeconds",
    "telemetry.openTelemetry",
    "telemetry.spansPerSecond",
    "telemetry.logFormat",
    "telemetry.logCalls",
    "threads.oneProcessor",
    "clock",
    "versionIds",
    "signing.accessKeyId",
    "signing.secretAccessKey",
]
FULL: dict[str, Any] = {
    "dataDir": "/srv/cas",
    "bucket": "main",
    "keyPrefix": "team/",
    "versioning": "suspended",
    "limits": {
        "maxObjectBytes": 1,
        "maxStagingBytes": 2,
        "minFreeBytes": 3,
        "streamIdleSeconds": 4.5,
        "concurrentReads": 5,
        "concurrentWrites": 6,
    },
    "blobs": {"inlineMaxBytes": 7},
    "quotas": {"site": 8, "site/logs/": 9},
    "retention": {
        "rules": {"site": {"keepNoncurrent": 10, "keepDays": 11, "dropMarkers": True, "expireDays": 12}, "site/a": {}},
        "everySeconds": 0.25,
    },
    "history": {"keepDays": 13},
    "gc": {"everySeconds": 0, "graceSeconds": 0.5},
    "http": {
        "enabled": False,
        "listen": "[::1]:8080",
        "publicUrl": "https://Files.example.com:443/",
        "corsOrigins": ["https://app.example.com", "*"],
    },
    "telemetry": {
        "metrics": "loopback",
        "healthz": "everyone",
        "statisticsSeconds": 10,
        "openTelemetry": False,
        "spansPerSecond": 11,
        "logFormat": "json",
        "logCalls": "refused",
    },
    "threads": {"oneProcessor": False},
    "clock": "fixed:2026-01-02T03:04:05.678Z",
    "versionIds": "seeded:7",
    "signing": {"accessKeyId": "AKID", "secretAccessKey": "se/cret+"},
}


def nested(key: str, value: object) -> dict[str, Any]:
    tree: Any = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    return dict(tree)


def leaves(part: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, below in part["properties"].items():
        if "properties" in below:
            yield from leaves(below, f"{above}{name}.")
        else:
            yield above + name, below


def message(mapping: object) -> str:
    with pytest.raises(InvalidConfig) as caught:
        parse(mapping)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


# What is accepted


def test_everything_given() -> None:
    assert parse(FULL) == Config(
        data_dir=Path("/srv/cas"),
        key_prefix="team/",
        limits=Limits(1, 2, 3, 4.5, 5, 6),
        gc=Collection(0.0, 0.5),
        retention=Retention(0.25),
        http=Http(False, "::1", 8080, "https://files.example.com", ("https://app.example.com", "*")),
        telemetry=Telemetry("loopback", "everyone", 10.0, False, 11.0, "json", "refused"),
        threads=Threads(False),
        signing=KeyPair("AKID", "se/cret+"),
        stamps=Stamps(1_767_323_045_678, 7),
        settings={
            "bucket": "main",
            "versioning": "suspended",
            "blobs.inlineMaxBytes": 7,
            "quotas": FULL["quotas"],
            "retention.rules": FULL["retention"]["rules"],
            "history.keepDays": 13,
        },
    )


def test_nothing_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert parse({}, name="assets") == Config(data_dir=default_data_dir("assets"))
    assert parse({}) == Config(data_dir=default_data_dir("default"))
    assert parse({}).settings == {}


@pytest.mark.parametrize("key", config.STORE_KEYS)
def test_only_given_settings_are_passed_to_the_store(key: str) -> None:
    value: Any = FULL
    for name in key.split("."):
        value = value[name]
    assert parse(nested(key, value)).settings == {key: value}


def test_a_hosts_floats_become_integers() -> None:
    as_host = json.loads(json.dumps(FULL), parse_int=float)
    parsed = parse(as_host)
    assert parsed == parse(FULL)
    numbers = [getattr(parsed.limits, field.name) for field in dataclasses.fields(Limits)]
    assert [type(number) for number in numbers] == [int, int, int, float, int, int]
    assert type(parsed.settings["blobs.inlineMaxBytes"]) is int
    assert [type(most) for most in dict(parsed.settings["quotas"]).values()] == [int, int]  # type: ignore[call-overload]
    rules: Any = parsed.settings["retention.rules"]
    assert list(map(type, rules["site"].values())) == [int, int, bool, int]
    assert type(parse({"limits": {"streamIdleSeconds": 7}}).limits.stream_idle_seconds) is float


@given(st.integers(1, 2**53))
def test_every_byte_size_up_to_2_to_the_53_is_exact(size: int) -> None:
    for value in (size, float(size)):
        parsed = parse({"dataDir": "d", "limits": {"maxObjectBytes": value}})
        assert parsed.limits.max_object_bytes == size


@pytest.mark.parametrize("key", [*KEYS, "limits", "blobs"])
def test_null_counts_as_absent(key: str) -> None:
    assert parse(nested(key, None)) == parse({})


def test_any_mapping_will_do() -> None:
    wrapped = MappingProxyType({**FULL, "limits": MappingProxyType(FULL["limits"])})
    assert parse(wrapped) == parse(FULL)


def test_the_given_mapping_is_left_alone() -> None:
    given_mapping = {"bucket": None, "dataDir": "d", "limits": {"maxObjectBytes": 1.0, "minFreeBytes": None}}
    copy = json.loads(json.dumps(given_mapping))
    parse(given_mapping)
    assert given_mapping == copy


@pytest.mark.parametrize("prefix", ["", "a", "/", "é/", "\0", "x" * 2047, "é" * 1023 + "x"])
def test_key_prefix(prefix: str) -> None:
    assert parse({"keyPrefix": prefix}).key_prefix == prefix


def test_data_dir_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse({"dataDir": "~/cas"}).data_dir == tmp_path / "cas"
    assert parse({"dataDir": "here/~"}).data_dir == Path("here/~")


@pytest.mark.parametrize(
    ("text", "fixed_ms"),
    [
        ("system", None),
        ("fixed:1970-01-01T00:00:00Z", 0),
        ("fixed:2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("fixed:2026-01-01T00:00:00.001Z", 1_767_225_600_001),
        ("fixed:9998-12-31T23:59:59.999Z", 253_370_764_799_999),
    ],
)
def test_clock(text: str, fixed_ms: int | None) -> None:
    assert parse({"clock": text}).stamps == Stamps(fixed_ms=fixed_ms)


@pytest.mark.parametrize(
    ("text", "seed"), [("random", None), ("seeded:0", 0), ("seeded:007", 7), ("seeded:" + "9" * 18, 10**18 - 1)]
)
def test_version_ids(text: str, seed: int | None) -> None:
    assert parse({"versionIds": text}).stamps == Stamps(seed=seed)


# What is refused


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"dataDir": ""}, "dataDir: '' is not a non-empty string"),
        ({"dataDir": 5}, "dataDir: 5 is not a non-empty string"),
        ({"dataDir": "a\0b"}, "dataDir: a path cannot hold NUL"),
        ({"dataDir": "~no-such-user-here/cas"}, "unknown user"),
        ({"bucket": ""}, "bucket: '' is not a non-empty string"),
        ({"bucket": "a/b"}, "bucket: bucket name 'a/b' contains '/'"),
        ({"bucket": "a\n"}, "bucket: bucket name 'a\\n' contains a control character"),
        ({"bucket": "é" * 128}, "bucket: bucket name is longer than 255 bytes"),
        ({"bucket": "\ud800"}, "bucket: bucket name is not valid Unicode"),
        ({"bucket": True}, "bucket: true is not"),
        ({"bucket": ["a"]}, "bucket: a list is not"),
        ({"bucket": {"a": 1}}, "bucket: an object is not"),
        ({"bucket": date(2026, 1, 2)}, "bucket: datetime.date(2026, 1, 2) is not"),
        ({"keyPrefix": "é" * 1024}, "keyPrefix: 2048 bytes are too many; the limit is 2047"),
        ({"keyPrefix": "\udc80"}, "keyPrefix: the prefix is not valid Unicode"),
        ({"keyPrefix": 1.0}, "keyPrefix: 1 is not a string"),
        ({"versioning": "Enabled"}, 'versioning: \'Enabled\' is not "enabled" or "suspended"'),
        ({"versioning": True}, 'versioning: true is not "enabled" or "suspended"'),
        ({"clock": "System"}, 'clock: \'System\' is not "system" or "fixed:" and a time'),
        ({"clock": ""}, "clock: '' is not"),
        ({"clock": 0}, "clock: 0 is not a string"),
        ({"clock": "2026-01-01T00:00:00Z"}, "clock: '2026-01-01T00:00:00Z' is not"),
        ({"clock": "fixed:"}, "clock: 'fixed:' is not"),
        ({"clock": "fixed:2026-01-01"}, "clock: 'fixed:2026-01-01' is not"),
        ({"clock": "fixed:2026-01-01T00:00:00"}, "clock: 'fixed:2026-01-01T00:00:00' is not"),
        ({"clock": "fixed:2026-01-01T00:00:00+01:00"}, "in UTC, as in fixed:2026-01-01T00:00:00Z"),
        ({"clock": "fixed:2026-13-01T00:00:00Z"}, "clock: 'fixed:2026-13-01T00:00:00Z' is not"),
        ({"clock": "fixed:2026-01-01T00:00:60Z"}, "clock: 'fixed:2026-01-01T00:00:60Z' is not"),
        ({"clock": "fixed:2026-01-01T00:00:00.1234Z"}, "clock: "),
        ({"clock": "fixed:2026-01-01T00:00:00Z\n"}, "clock: 'fixed:2026-01-01T00:00:00Z\\n' is not"),
        ({"clock": "fixed:\u06602026-01-01T00:00:00Z"}, "clock: "),
        ({"clock": "fixed:1969-12-31T23:59:59.999Z"}, "a time of the years 1970 to 9998"),
        ({"clock": "fixed:9999-01-01T00:00:00Z"}, "a time of the years 1970 to 9998"),
        ({"clock": "fixed:0000-01-01T00:00:00Z"}, "clock: "),
        ({"versionIds": "Random"}, 'versionIds: \'Random\' is not "random" or "seeded:" and a number'),
        ({"versionIds": 7}, "versionIds: 7 is not a string"),
        ({"versionIds": "seeded"}, "versionIds: 'seeded' is not"),
        ({"versionIds": "seeded:"}, "versionIds: 'seeded:' is not"),
        ({"versionIds": "seeded:-1"}, "versionIds: 'seeded:-1' is not"),
        ({"versionIds": "seeded:1.0"}, "versionIds: 'seeded:1.0' is not"),
        ({"versionIds": "seeded:\u0661"}, "versionIds: "),
        ({"versionIds": "seeded:1\n"}, "versionIds: "),
        ({"versionIds": "seeded:" + "1" * 19}, "a number of up to 18 digits, as in seeded:1"),
        ({"limits": 5}, "limits: 5 is not an object"),
        ({"limits": []}, "limits: a list is not an object"),
        ({"limits": {"maxObjectBytes": 0}}, "limits.maxObjectBytes: 0 is not an integer from 1 up to"),
        ({"limits": {"maxObjectBytes": 1.5}}, "limits.maxObjectBytes: 1.5 is not an integer"),
        ({"limits": {"maxObjectBytes": "1"}}, "limits.maxObjectBytes: '1' is not an integer"),
        ({"limits": {"maxObjectBytes": True}}, "limits.maxObjectBytes: true is not an integer"),
        (
            {"limits": {"maxObjectBytes": 2.0**53 + 2}},
            "9007199254740994 is not an integer from 1 up to 9007199254740992",
        ),
        ({"limits": {"maxObjectBytes": 2**63}}, "9223372036854775808 is not an integer"),
        ({"limits": {"maxObjectBytes": 1e300}}, "limits.maxObjectBytes: 1e+300 is not an integer"),
        ({"limits": {"maxObjectBytes": 10**5000}}, "limits.maxObjectBytes: the number is too large or not finite"),
        ({"limits": {"maxStagingBytes": -1}}, "limits.maxStagingBytes: -1 is not an integer from 0"),
        ({"limits": {"minFreeBytes": -1.0}}, "limits.minFreeBytes: -1 is not an integer from 0"),
        ({"limits": {"streamIdleSeconds": 0}}, "limits.streamIdleSeconds: 0 is not a number above 0 up to 31536000"),
        ({"limits": {"streamIdleSeconds": -1}}, "limits.streamIdleSeconds: -1 is not a number above 0"),
        ({"limits": {"streamIdleSeconds": 1e9}}, "limits.streamIdleSeconds: 1000000000 is not a number above 0"),
        ({"limits": {"streamIdleSeconds": float("nan")}}, "limits.streamIdleSeconds: the number is too large or not"),
        ({"limits": {"streamIdleSeconds": float("inf")}}, "limits.streamIdleSeconds: the number is too large or not"),
        ({"limits": {"streamIdleSeconds": False}}, "limits.streamIdleSeconds: false is not a number"),
        ({"limits": {"concurrentReads": 0}}, "limits.concurrentReads: 0 is not an integer from 1 up to 10000"),
        (
            {"limits": {"concurrentWrites": 10001}},
            "limits.concurrentWrites: 10001 is not an integer from 1 up to 10000",
        ),
        ({"blobs": {"inlineMaxBytes": -1}}, "blobs.inlineMaxBytes: -1 is not an integer from 0"),
        ({"gc": {"everySeconds": -0.5}}, "gc.everySeconds: -0.5 is not a number from 0 up to 31536000"),
        ({"gc": {"graceSeconds": "1h"}}, "gc.graceSeconds: '1h' is not a number from 0"),
        ({"quotas": 5}, "quotas: 5 is not an object whose values are each an integer from 0 up to"),
        ({"quotas": {"a": -1}}, "quotas.a: -1 is not an integer from 0 up to"),
        ({"quotas": {"a/b": "1G"}}, "quotas.'a/b': '1G' is not an integer from 0 up to"),
        ({"quotas": {"a": {"b": 1}}}, "quotas.a: an object is not an integer"),
        ({"quotas": {"a\n" * 1000: 0.5}}, "…: 0.5 is not an integer"),
        ({"quotas": {"a": float("nan")}}, "quotas.a: the number is too large or not finite"),
        ({"quotas": {"/logs": 1}}, "quotas: '/logs' names no bucket"),
        ({"quotas": {"a\n/logs": 1}}, "quotas: bucket name 'a\\n' contains a control character"),
        ({"quotas": {"a/" + "x" * 2049: 1}}, "quotas: prefix is 2049 bytes long"),
        ({"quotas": {"a/\ud800": 1}}, "quotas: prefix is not valid Unicode"),
        ({"quotas": {3: 1}}, "quotas: 3 cannot be a key"),
        ({"retention": 5}, "retention: 5 is not an object"),
        ({"retention": {"rules": 5}}, "retention.rules: 5 is not an object whose values are each an object"),
        ({"retention": {"rules": {"a": 5}}}, "retention.rules.a: 5 is not an object"),
        (
            {"retention": {"rules": {"a": {"keepDays": -1}}}},
            "rules.a.keepDays: -1 is not an integer from 0",
        ),
        ({"retention": {"rules": {"a": {"expireDays": 0}}}}, "rules.a.expireDays: 0 is not an integer from 1"),
        ({"retention": {"rules": {"a": {"dropMarkers": 1}}}}, "rules.a.dropMarkers: 1 is not true or false"),
        ({"retention": {"rules": {"a": {"keepNoncurrent": True}}}}, "a.keepNoncurrent: true is not an integer from 0"),
        (
            {"retention": {"rules": {"a/b\n": {"keepDay": 1}}}},
            r"unknown key retention.rules.'a/b\n'.keepDay; the keys are keepNoncurrent, keepDays, dropMarkers, expire",
        ),
        ({"retention": {"rules": {"/logs": {}}}}, "retention.rules: '/logs' names no bucket"),
        ({"retention": {"rule": {}}}, "unknown key retention.rule; did you mean retention.rules?"),
        ({"retention": {"everySeconds": -1}}, "retention.everySeconds: -1 is not a number from 0"),
        ({"history": {"keepDays": 0.5}}, "history.keepDays: 0.5 is not an integer from 0 up to 36500"),
        ({3: 4}, "the configuration: 3 cannot be a key"),
        ({"limits": {None: 4}}, "limits: None cannot be a key"),
        ([], "the configuration: a list is not an object"),
        ("text", "the configuration: 'text' is not an object"),
        (None, "the configuration: None is not an object"),
        ({"bucket": [0] * 1000, "dataDir": 1}, "bucket: a list is not a non-empty string; dataDir: 1 is not a"),
    ],
)
def test_refused(mapping: object, expected: str) -> None:
    assert expected in message(mapping)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"datadir": "x"}, "unknown key datadir; did you mean dataDir?"),
        ({"data_dir": "x"}, "unknown key data_dir; did you mean dataDir?"),
        ({"BUCKET": "x"}, "unknown key BUCKET; did you mean bucket?"),
        ({"maxObjectBytes": 1}, "unknown key maxObjectBytes; did you mean limits.maxObjectBytes?"),
        ({"limits": {"maxObjectByte": 1}}, "unknown key limits.maxObjectByte; did you mean limits.maxObjectBytes?"),
        ({"limits": {"inlineMaxBytes": 1}}, "unknown key limits.inlineMaxBytes; did you mean blobs.inlineMaxBytes?"),
        (
            {"limits.maxObjectBytes": 1},
            "unknown key 'limits.maxObjectBytes'; nested keys are written as objects: limits: {maxObjectBytes: …}",
        ),
        ({"limits": {"x": None}}, "unknown key limits.x"),
        ({"qqq": 1}, "unknown key qqq; the keys are dataDir, bucket, keyPrefix"),
        ({"": 1}, "unknown key ''; the keys are"),
        ({"a\nb": 1}, "unknown key 'a\\nb'; the keys are"),
        ({"x" * 10_000: 1}, "unknown key 'xxx"),
    ],
)
def test_unknown_keys_are_named_in_full(mapping: Mapping[str, object], expected: str) -> None:
    assert message(mapping).startswith(expected)


def test_every_fault_is_named() -> None:
    text = message({"bucket": 1, "limits": {"concurrentReads": 0, "nope": 1, "maxStagingBytes": "all"}, "alien": 1})
    for key in ("bucket: 1", "limits.concurrentReads: 0", "limits.nope", "limits.maxStagingBytes: 'all'", "alien"):
        assert key in text


def test_long_values_are_cut() -> None:
    assert len(message({"versioning": "v" * 100_000})) < 200


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*KEYS, "limits", "blobs"]), values, max_size=5))
@example({"limits": {"maxObjectBytes": float("-inf")}})
@example({"dataDir": "~\udcff"})
def test_whatever_comes_is_parsed_or_refused_with_one_line(flat: dict[str, Any]) -> None:
    tree: dict[str, object] = {}
    for key, value in flat.items():
        tree = merge(tree, nested(key, value))
    try:
        parsed = parse(tree)
    except InvalidConfig as refusal:
        said = str(refusal)
    else:
        said = "fine"
        assert parsed.limits.max_object_bytes >= 1
        assert 0 < parsed.limits.stream_idle_seconds < float("inf")
    assert said.isprintable()


# --set


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], {}),
        (["bucket=main"], {"bucket": "main"}),
        (["bucket="], {"bucket": ""}),
        (["keyPrefix=a=b"], {"keyPrefix": "a=b"}),
        (["limits.maxObjectBytes=1000"], {"limits": {"maxObjectBytes": 1000}}),
        (["limits.streamIdleSeconds=0.5"], {"limits": {"streamIdleSeconds": 0.5}}),
        (["a=true", "b=null", "c=1e3", 'd="5"'], {"a": True, "b": None, "c": 1000.0, "d": "5"}),
        (
            ["a=True", "b=NaN", "c=Infinity", "d=-Infinity"],
            {"a": "True", "b": "NaN", "c": "Infinity", "d": "-Infinity"},
        ),
        (["a= x "], {"a": " x "}),
        (["a=[1"], {"a": "[1"}),
        (["a=" + "9" * 5000], {"a": "9" * 5000}),
        (["a=" + "[" * 100_000], {"a": "[" * 100_000}),
        (["a.b.c=1", "a.b.d=2"], {"a": {"b": {"c": 1, "d": 2}}}),
        (["a=1", "a=2"], {"a": 2}),
        (["a.b=1", "a.b=2"], {"a": {"b": 2}}),
        (['a={"b": 1}', "a.c=2"], {"a": {"b": 1, "c": 2}}),
        (["a.b=1", 'a={"c": 2}'], {"a": {"c": 2}}),
        (["a.b=1", "a=2"], {"a": 2}),
        (["a=null", "a.b=2"], {"a": {"b": 2}}),
    ],
)
def test_assignments(pairs: list[str], expected: dict[str, object]) -> None:
    assert assignments(pairs) == expected


@pytest.mark.parametrize("pair", ["", "bucket", "=1", ".a=1", "a.=1", "a..b=1", "."])
def test_no_assignment(pair: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(repr(pair))):
        assignments(["fine=1", pair])


@pytest.mark.parametrize(("first", "second"), [("a=1", "a.b=2"), ("a.b=x", "a.b.c=2"), ("a=[]", "a.b=2")])
def test_conflicting_assignments(first: str, second: str) -> None:
    with pytest.raises(InvalidConfig, match=re.escape(f"{second!r} conflicts")):
        assignments([first, second])


@given(st.dictionaries(st.sampled_from(KEYS), st.integers() | st.booleans() | st.text(), max_size=6))
def test_assignments_say_the_same_as_a_nested_mapping(flat: dict[str, Any]) -> None:
    expected: dict[str, object] = {}
    for key, value in flat.items():
        expected = merge(expected, nested(key, value))
    assert assignments(f"{key}={json.dumps(value)}" for key, value in flat.items()) == expected


# Merging


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ({}, {}, {}),
        ({"a": 1}, {}, {"a": 1}),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ],
)
def test_merge(base: dict[str, object], override: dict[str, object], expected: dict[str, object]) -> None:
    before = json.dumps([base, override])
    assert merge(base, override) == expected
    assert json.dumps([base, override]) == before


# Files


@pytest.mark.parametrize("name", ["c.yaml", "c.yml", "c.conf", "c"])
def test_yaml_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("# edge box\nbucket: main\nlimits:\n  maxObjectBytes: 1_000\n  minFreeBytes:\n", "utf-8")
    assert load_file(path) == {"bucket": "main", "limits": {"maxObjectBytes": 1000, "minFreeBytes": None}}
    assert parse(load_file(path)).limits == Limits(max_object_bytes=1000)


@pytest.mark.parametrize("name", ["c.json", "C.JSON", "c.yaml"])
def test_json_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(FULL, indent=1), "utf-8")
    assert load_file(str(path)) == FULL


def test_empty_yaml_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load_file(tmp_path / "c.yaml") == {}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.yaml", b"a: 1\nb: [1\nc: 2\n", "c.yaml, line 3: "),
        ("c.yaml", b"a: 1\n\tb: 2\n", "c.yaml, line 2: "),
        ("c.yaml", b"a: 1\n---\nb: 2\n", "c.yaml, line 2: "),
        ("c.yaml", b"a: !!python/object:os.system x\n", "c.yaml, line 1: "),
        ("c.yaml", b"a: 2026-13-45\n", "c.yaml: month must be in 1..12"),
        ("c.yaml", b"a: \xff\n", "c.yaml: "),
        ("c.yaml", b"[" * 100_000, "c.yaml"),
        ("c.yaml", b"- a\n- b\n", "c.yaml: the file must hold a mapping of keys, not a list"),
        ("c.yaml", b"text\n", "c.yaml: the file must hold a mapping of keys, not 'text'"),
        ("c.json", b'{"a": 1,\n "b": }\n', "c.json, line 2: Expecting value"),
        ("c.json", b'{"a": NaN}', "c.json: NaN is not JSON"),
        ("c.json", b"", "c.json, line 1: Expecting value"),
        ("c.json", b'{"a": "\xff"}', "c.json: "),
        ("c.json", b"[]", "c.json: the file must hold a mapping of keys, not a list"),
        ("c.json", b"[" * 200_000, "c.json: "),
        ("c.json", b"null", "c.json: the file must hold a mapping"),
    ],
)
def test_bad_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        load_file(path)
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")
    assert "\n" not in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot read .*absent\.yaml: No such file or directory"):
        load_file(tmp_path / "absent.yaml")
    with pytest.raises(InvalidConfig, match=r"cannot read .*: Is a directory"):
        load_file(tmp_path)
    with pytest.raises(InvalidConfig, match="cannot read"):
        load_file("a\0b")


# The default directory


@pytest.fixture
def data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "gestalt-cas"


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("default", "default"),
        ("", "default"),
        ("my-assets_2.bak~", "my-assets_2.bak~"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "%2E%2E%2E"),
        (".hidden", ".hidden"),
        ("a/b", "a%2Fb"),
        ("../../etc", "..%2F..%2Fetc"),
        ("/", "%2F"),
        ("a\\b", "a%5Cb"),
        ("a b\0\n", "a%20b%00%0A"),
        ("100%", "100%25"),
        ("é", "%C3%A9"),
        ("C:", "C%3A"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="XDG_DATA_HOME names the data folder on Linux only")
def test_default_directory(data_home: Path, name: str, directory: str) -> None:
    assert default_data_dir(name) == data_home / directory


names = (
    st.text(st.characters(exclude_categories=()))
    | st.text("./%-é", max_size=6)
    | st.integers(190, 300).map("é".__mul__)
)


@given(st.sets(names.filter(bool), min_size=2, max_size=4))
def test_every_name_has_a_directory_of_its_own(some: set[str]) -> None:
    root = default_data_dir("default").parent
    directories = [default_data_dir(name) for name in some]
    assert len(set(directories)) == len(some)
    for directory in directories:
        assert directory.parent == root
        assert directory.name not in ("", ".", "..")
        assert len(os.fsencode(directory.name)) <= 255
        assert os.path.normpath(directory) == str(directory)


def test_long_names_that_begin_alike_stay_apart() -> None:
    first, second = default_data_dir("n" * 5000 + "1"), default_data_dir("n" * 5000 + "2")
    assert first != second
    assert first == default_data_dir("n" * 5000 + "1")


@pytest.mark.parametrize("raised", [False, True], ids=["a relative path", "an error"])
def test_without_a_home_directory_the_key_is_asked_for(monkeypatch: pytest.MonkeyPatch, raised: bool) -> None:
    """Releases of platformdirs differ in how they tell."""
    import platformdirs

    def user_data_path(*_args: object, **_options: object) -> Path:
        if raised:
            raise RuntimeError("could not determine the home directory")
        return Path("~/.local/share/gestalt-cas")

    monkeypatch.setattr(platformdirs, "user_data_path", user_data_path)
    with pytest.raises(InvalidConfig, match="dataDir: no default"):
        parse({})
    assert parse({"dataDir": "/srv/cas"}).data_dir == Path("/srv/cas")


# Schema, code and README


def test_schema_is_valid_and_only_says_what_every_compiler_knows() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    known = {"type", "description", "default", "enum", "minLength", "minimum", "maximum", "exclusiveMinimum"}

    def check(part: Mapping[str, Any], extra: set[str]) -> None:
        assert set(part) <= known | extra | ({"items"} if part["type"] == "array" else set())
        if part["type"] == "object" and "properties" not in part:
            # Names of the user's choice: an object that is a value, not a group.
            inner = part["additionalProperties"]
            if inner["type"] == "object":
                check(inner, {"properties", "additionalProperties"})
            else:
                assert inner == {"type": "integer", "minimum": 0, "maximum": 2**53}
        elif part["type"] == "object":
            assert part["additionalProperties"] is False
            for name, below in part["properties"].items():
                assert re.fullmatch("[a-z][a-zA-Z]*", name)
                assert below["description"]
                check(below, {"properties", "additionalProperties"} if below["type"] == "object" else set())

    check(SCHEMA, {"properties", "additionalProperties", "$schema", "title"})
    assert SCHEMA["properties"]["http"]["properties"]["corsOrigins"]["items"] == {"type": "string"}


def test_the_keys_are_these() -> None:
    assert [key for key, _ in leaves(SCHEMA)] == KEYS
    assert [setting.key for setting in config_schema.describe()] == KEYS
    assert set(config.STORE_KEYS) < set(KEYS)


@pytest.mark.parametrize("setting", config_schema.describe(), ids=lambda setting: setting.key)
def test_description_is_the_schemas(setting: config_schema.Setting) -> None:
    part = dict(leaves(SCHEMA))[setting.key]
    assert (setting.type, setting.description) == (part["type"], part["description"])
    assert setting.default == part.get("default")
    assert setting.allowed
    if "default" in part:
        Draft202012Validator(part).validate(part["default"])


def test_defaults_of_the_code_are_the_schemas() -> None:
    defaults = {key: part["default"] for key, part in leaves(SCHEMA) if "default" in part}
    assert set(KEYS) - set(defaults) == {
        "dataDir",
        "telemetry.logFormat",
        "signing.accessKeyId",
        "signing.secretAccessKey",
    }
    everything: dict[str, object] = {"dataDir": "d"}
    for key, value in defaults.items():
        everything = merge(everything, nested(key, value))
    with_defaults = parse(everything)
    assert with_defaults.limits == parse({"dataDir": "d"}).limits == Limits()
    assert with_defaults.gc == parse({"dataDir": "d"}).gc == Collection()
    assert with_defaults.http == parse({"dataDir": "d"}).http == Http()
    assert with_defaults.telemetry == parse({"dataDir": "d"}).telemetry == Telemetry()
    assert with_defaults.threads == parse({"dataDir": "d"}).threads == Threads()
    assert with_defaults.signing is parse({"dataDir": "d"}).signing is None
    assert with_defaults.key_prefix == parse({"dataDir": "d"}).key_prefix == Config(Path("d")).key_prefix
    assert with_defaults.settings == {key: defaults[key] for key in config.STORE_KEYS}


@pytest.mark.parametrize(("group", "kind"), [("limits", Limits), ("gc", Collection)])
def test_every_field_of_the_code_is_a_key(group: str, kind: type[Limits | Collection]) -> None:
    for field in dataclasses.fields(kind):
        head, *tail = field.name.split("_")
        key = head + "".join(word.title() for word in tail)
        parsed = getattr(parse({"dataDir": "d", group: {key: 77}}), group)
        assert parsed == dataclasses.replace(kind(), **{field.name: 77})
        assert f"{group}.{key}" in KEYS


# The HTTP endpoint and its keys


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:65535", "::1", 65535), ("localhost:80", "localhost", 80)],
)
def test_listen(text: str, host: str, port: int) -> None:
    http = parse({"dataDir": "d", "http": {"listen": text}}).http
    assert (http.host, http.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:\u0663",
        "host:" + 7 * "0" + "99999",
        "a\0b:0",
    ],
)
def test_bad_listen(text: str) -> None:
    assert message({"dataDir": "d", "http": {"listen": text}}).startswith("http.listen: ")


@pytest.mark.parametrize(
    ("text", "signed_for"),
    [
        ("", ""),
        ("http://files.test", "http://files.test"),
        ("http://files.test/", "http://files.test"),
        ("HTTPS://Files.Test:443", "https://files.test"),
        ("http://files.test:80", "http://files.test"),
        ("https://files.test:80", "https://files.test:80"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_public_url_is_what_clients_write_into_host(text: str, signed_for: str) -> None:
    assert parse({"dataDir": "d", "http": {"publicUrl": text}}).http.public_url == signed_for


@pytest.mark.parametrize(
    "text",
    [
        "a.test",
        "ftp://a",
        "http://",
        "http://:80",
        "http://a:99999",
        "http://a/path",
        "http://a?q",
        "http://a#f",
        "http:a",
    ],
)
def test_bad_public_url(text: str) -> None:
    assert message({"dataDir": "d", "http": {"publicUrl": text}}).startswith("http.publicUrl: ")


def test_the_two_keys_of_signing_go_together() -> None:
    assert message({"dataDir": "d", "signing": {"accessKeyId": "A"}}).startswith("signing.secretAccessKey: ")
    assert message({"dataDir": "d", "signing": {"secretAccessKey": "S"}}).startswith("signing.accessKeyId: ")
    assert message({"dataDir": "d", "signing": {"accessKeyId": "A/B", "secretAccessKey": "S"}}).startswith(
        "signing.acc"
    )


@pytest.mark.parametrize("secret", [123456789, ["hunter2"], {"hunter2": "hunter2"}, True])
def test_a_secret_is_not_repeated_in_a_message(secret: object) -> None:
    text = message({"dataDir": "d", "signing": {"accessKeyId": "A", "secretAccessKey": secret}})
    assert text == "signing.secretAccessKey: the value is not a string"


def test_an_element_of_a_list_is_judged_too() -> None:
    text = message({"dataDir": "d", "http": {"corsOrigins": ["https://a.test", 7]}})
    assert text == "http.corsOrigins: 7 is not a list of strings"


def test_a_secret_has_no_repr() -> None:
    parsed = parse(FULL)
    assert parsed.signing is not None
    assert parsed.signing.secret_access_key == "se/cret+"
    assert "se/cret" not in repr(parsed)


def table_rows(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.strip().splitlines()]
    assert lines[:1] == ["| Key | Value | Default | Meaning |"]
    assert set(lines[1]) <= set("| -")
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def check_table(text: str) -> None:
    rows = table_rows(text)
    assert [row[0] for row in rows] == [f"`{key}`" for key in KEYS]
    for (key, part), row in zip(leaves(SCHEMA), rows, strict=True):
        assert row[0] == f"`{key}`"
        assert row[2] == (f"`{json.dumps(part['default'])}`" if "default" in part else "none")
        assert row[3] == part["description"]


def test_markdown_table() -> None:
    check_table(config_schema.markdown_table())


def test_readme_table_matches_schema() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.findall(r"<!-- config-table -->\n(.*?)<!-- /config-table -->", readme, re.DOTALL)
    assert len(found) == 1
    assert found[0].strip() == config_schema.markdown_table(), "the table says other values than the schema allows"


# Loading


def run_python(code: str, path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=path, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_config_is_cheap() -> None:
    code = (
        "import sys, gestalt_cas.configuration.config\n"
        "print([name for name in ('jsonschema', 'yaml', 'platformdirs', 'grpc', 'gestalt') if name in sys.modules])"
    )
    assert run_python(code, ROOT) == "[]"


def test_an_installed_package_brings_its_own_schema(tmp_path: Path) -> None:
    """A wheel has the schema inside the package and nothing beside it."""
    shutil.copytree(ROOT / "gestalt_cas", tmp_path / "gestalt_cas", ignore=shutil.ignore_patterns("__pycache__"))
    inside = {**SCHEMA, "title": "the packaged one"}
    (tmp_path / "gestalt_cas" / "config.schema.json").write_text(json.dumps(inside), "utf-8")
    code = (
        "from gestalt_cas.configuration import config, config_schema\n"
        "print(config.__file__, config_schema.schema()['title'], config.parse({'bucket': 'b'}).settings)"
    )
    shown = run_python(code, tmp_path)
    assert shown == f"{tmp_path}/gestalt_cas/configuration/config.py the packaged one {{'bucket': 'b'}}"


def test_a_checkout_uses_the_schema_at_its_top() -> None:
    assert not (ROOT / "gestalt_cas" / "config.schema.json").exists()
    assert config_schema.schema() == SCHEMA
