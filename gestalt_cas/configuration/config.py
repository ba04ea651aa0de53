"""The provider's configuration: a mapping as hosts, files and `--set` give it, made into values that can be used.

`config.schema.json` is the one list of keys, with their types, bounds, defaults and descriptions; the host validates
the same file. Hosts send a protobuf Struct, so every number is a float: integral floats count as integers, booleans do
not count as numbers, and no number may pass 2^53, from where on floats lose digits (contract 4.2 and 4.5). A key whose
value is null counts as absent.

Keys come in two kinds. What changes what is stored belongs to the store: it appears in `Config.settings` only if it was
given, because an absent key leaves the store's own value. The rest belongs to the process and takes its default here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from gestalt_cas import objects
from gestalt_cas.configuration import stamps
from gestalt_cas.configuration.config_schema import (
    Setting,
    below,
    describe,
    dotted,
    part_of,
    quoted,
    schema,
    shown,
    wrong,
)
from gestalt_cas.configuration.stamps import SYSTEM, Stamps
from gestalt_cas.errors import InvalidArgument, InvalidConfig
from gestalt_cas.rules.sigv4 import KeyPair

STORE_KEYS = ("bucket", "versioning", "blobs.inlineMaxBytes", "quotas", "retention.rules", "history.keepDays")
"""The keys whose values are kept in the store."""
MAX_PREFIX_BYTES = objects.MAX_KEY_BYTES - 1
_LONGEST_DIRECTORY_NAME = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process accepts; sizes in bytes, all maxima inclusive. `max_staging_bytes` 0 sets no limit.

    `min_free_bytes` have to stay free behind an upload, 0: whatever the disk has. A caller without progress for
    `stream_idle_seconds` is given up. README.md, "Configuration", says more of each.
    """

    max_object_bytes: int = 5 * 2**40
    max_staging_bytes: int = 0
    min_free_bytes: int = 0
    stream_idle_seconds: float = 300.0
    concurrent_reads: int = 128
    concurrent_writes: int = 128


@dataclass(frozen=True, slots=True)
class Collection:
    """Garbage collection in the background. `every_seconds` 0 switches it off."""

    every_seconds: float = 3600.0
    grace_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention rules, and the horizon of the history, in the background. `every_seconds` 0 switches it off."""

    every_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Http:
    """The HTTP endpoint. `public_url` "" stands for the address that is really listened on."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = 0
    public_url: str = ""
    cors_origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What the outside gets to see. `metrics` and `healthz` say who may read; `log_format` "" changes nothing."""

    metrics: str = "off"
    healthz: str = "off"
    statistics_seconds: float = 300.0
    open_telemetry: bool = True
    spans_per_second: float = 100.0
    log_format: str = ""
    log_calls: str = "faults"

    @property
    def pages(self) -> bool:
        """Whether there is a page for anybody."""
        return self.metrics != "off" or self.healthz != "off"


@dataclass(frozen=True, slots=True)
class Threads:
    """How the process runs: whether the threads that need the interpreter share one processor (`processors.py`)."""

    one_processor: bool = True


_Group = Limits | Collection | Retention | Telemetry | Threads


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration. `settings` holds the given `STORE_KEYS` under their dotted names, and nothing else."""

    data_dir: Path
    key_prefix: str = ""
    limits: Limits = Limits()
    gc: Collection = Collection()
    retention: Retention = Retention()
    http: Http = Http()
    telemetry: Telemetry = Telemetry()
    threads: Threads = Threads()
    signing: KeyPair | None = None
    stamps: Stamps = SYSTEM
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


def parse(mapping: Mapping[str, object], *, name: str = "default") -> Config:
    """Validate a whole configuration; `name` is the provider's, and names the directory when there is no `dataDir`.

    Raises InvalidConfig with every fault, each under its dotted key.
    """
    tree = _present(mapping, schema(), "")
    if faults := wrong(tree):
        raise InvalidConfig("; ".join(faults))
    values = {setting.key: value for setting in describe() if (value := _lookup(tree, setting)) is not None}
    _check_names(values)
    return Config(
        data_dir=_directory(str(values["dataDir"])) if "dataDir" in values else default_data_dir(name),
        key_prefix=str(values.get("keyPrefix", "")),
        limits=Limits(**_given("limits", Limits, values)),
        gc=Collection(**_given("gc", Collection, values)),
        retention=Retention(**_given("retention", Retention, values)),
        http=_http(values),
        telemetry=Telemetry(**_given("telemetry", Telemetry, values)),
        threads=Threads(**_given("threads", Threads, values)),
        signing=_signing(values),
        stamps=stamps.parse(str(values.get("clock", "system")), str(values.get("versionIds", "random"))),
        settings=MappingProxyType({key: values[key] for key in STORE_KEYS if key in values}),
    )


def default_data_dir(name: str) -> Path:
    """The directory of the provider called `name` (empty: "default") in the user's data folder.

    Any text makes one path component of its own: what is not a letter, a digit or one of `_.-~` is percent-encoded,
    and a name that would be too long for a file system is cut and told apart by its BLAKE3. Raises InvalidConfig when
    the user has no home directory.
    """
    import platformdirs

    try:
        root = platformdirs.user_data_path("gestalt-cas", appauthor=False)
    except RuntimeError:  # so do later releases say it; earlier ones return a path that is not absolute
        root = Path()
    if not root.is_absolute():
        raise InvalidConfig(
            "dataDir: no default, because the user's home directory is unknown; set this key "
            "(of commands: --data-dir or $GESTALT_CAS_DATA_DIR)"
        )
    return root / _component(name or "default")


def _component(name: str) -> str:
    encoded = quote(name, safe="", errors="surrogatepass")
    if not encoded.strip("."):
        return encoded.replace(".", "%2E")
    if len(encoded) <= _LONGEST_DIRECTORY_NAME:
        return encoded
    from blake3 import blake3

    # No encoding holds "%-", so no other name can end up here.
    return f"{encoded[:100]}%-{blake3(encoded.encode()).hexdigest()}"


def _present(value: object, part: Mapping[str, Any], key: str) -> Any:
    """`value` as plain dicts without the known keys that are null; only what the schema calls a group is walked."""
    if not isinstance(value, Mapping) or part["type"] != "object":
        _check_number(value, key)
        return value
    result: dict[str, object] = {}
    for name, inner in value.items():
        if not isinstance(name, str):
            raise InvalidConfig(f"{dotted(key)}: {shown(name)} cannot be a key, since it is no string")
        known = below(part, name)
        if known is None:
            result[name] = inner
        elif inner is not None:
            result[name] = _present(inner, known, f"{key}.{quoted(name)}" if key else quoted(name))
    return result


def _check_number(value: object, key: str) -> None:
    """Refuse what compares or prints badly: NaN passes every bound, and Python will not print a huge integer."""
    if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and value.bit_length() > 64):
        raise InvalidConfig(f"{dotted(key)}: the number is too large or not finite")


def _lookup(tree: Mapping[str, Any], setting: Setting) -> object:
    """The value of a key in a valid tree, None when absent; numbers in the Python type that the schema means."""
    value: Any = tree
    for name in setting.key.split("."):
        value = value.get(name)
        if value is None:
            return None
    return _typed(value, part_of(setting.key.split(".")))


def _typed(value: Any, part: Mapping[str, Any]) -> object:
    if part["type"] == "object":
        return {name: _typed(inner, below(part, name) or {}) for name, inner in value.items()}
    return int(value) if part["type"] == "integer" else float(value) if part["type"] == "number" else value


def _given(group: str, kind: type[_Group], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a group of keys has, under the names of the fields: `max_object_bytes` for `maxObjectBytes`."""
    given: dict[str, Any] = {}
    for member in fields(kind):
        first, *rest = member.name.split("_")
        key = f"{group}.{first}{''.join(word.capitalize() for word in rest)}"
        if key in values:
            given[member.name] = values[key]
    return given


def _http(values: Mapping[str, Any]) -> Http:
    host, port = _listen(values.get("http.listen", "127.0.0.1:0"))
    return Http(
        enabled=values.get("http.enabled", True),
        host=host,
        port=port,
        public_url=_public_url(values.get("http.publicUrl", "")),
        cors_origins=tuple(values.get("http.corsOrigins", ())),
    )


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    sound = host.isprintable() and port.isascii() and port.isdecimal() and len(port) <= 5
    if not host or not sound or int(port) > 65535:
        raise InvalidConfig(f"http.listen: {shown(text)} is not host:port with a port of 0 to 65535")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _public_url(text: str) -> str:
    """The base of URLs, as clients write it into Host, which is signed: lower case, no port that goes without saying.

    No path: it would be signed, and no proxy could strip it again.
    """
    if not text:
        return ""
    found = re.fullmatch(r"(https?)://([a-z0-9.\-_]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?", text.lower(), re.ASCII)
    if found is None or int(found[3] or 0) > 65535:
        raise InvalidConfig(f"http.publicUrl: {shown(text)} is not http:// or https:// with a host and perhaps a port")
    scheme, host, port = found.groups()
    usual = {"http": "80", "https": "443"}[scheme]
    return f"{scheme}://{host}" + ("" if port in (None, usual) else f":{port}")


def _signing(values: Mapping[str, Any]) -> KeyPair | None:
    key, secret = values.get("signing.accessKeyId", ""), values.get("signing.secretAccessKey", "")
    if bool(key) != bool(secret):
        raise InvalidConfig(
            f"signing.{'secretAccessKey' if key else 'accessKeyId'}: missing; the two keys of signing go together"
        )
    if key and not re.fullmatch(r"[A-Za-z0-9_\-]+", key):
        raise InvalidConfig("signing.accessKeyId: only letters, digits, _ and - can stand in a URL's credential")
    return KeyPair(key, secret) if key else None


def _check_names(values: Mapping[str, object]) -> None:
    """What JSON Schema cannot say: lengths in bytes, valid Unicode, the rules of bucket names."""
    try:
        objects.check_bucket(str(values.get("bucket", "")))
    except InvalidArgument as error:
        raise InvalidConfig(f"bucket: {error}") from None
    try:
        length = len(objects.utf8(str(values.get("keyPrefix", "")), "the prefix"))
    except InvalidArgument as error:
        raise InvalidConfig(f"keyPrefix: {error}") from None
    if length > MAX_PREFIX_BYTES:
        raise InvalidConfig(f"keyPrefix: {length} bytes are too many; the limit is {MAX_PREFIX_BYTES}")
    for key in ("quotas", "retention.rules"):
        given = values.get(key)
        for name in given if isinstance(given, Mapping) else ():
            key_range(name, key)


def key_range(name: object, setting: str) -> tuple[str, str]:
    """Bucket and prefix of a name in a setting, BUCKET or BUCKET/PREFIX; raises InvalidConfig for any other."""
    bucket, _, prefix = name.partition("/") if isinstance(name, str) else ("", "", "")
    try:
        if not bucket:
            raise InvalidArgument(f"{shown(name)} names no bucket; write BUCKET or BUCKET/PREFIX")
        objects.check_bucket(bucket)
        objects.check_prefix(prefix)
    except InvalidArgument as error:
        raise InvalidConfig(f"{setting}: {error}") from None
    return bucket, prefix


def whole(key: str, value: object, least: int, most: int, what: str) -> int:
    """A whole number of `what`, from `least` to `most`, both inclusive; raises InvalidConfig naming the key."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidConfig(f"{key}: {value!r} is not a whole number of {what} from {least} to {most}")
    return value


def _directory(text: str) -> Path:
    if "\0" in text:
        raise InvalidConfig("dataDir: a path cannot hold NUL")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InvalidConfig(f"dataDir: {shown(text)} names the home directory of an unknown user") from None
