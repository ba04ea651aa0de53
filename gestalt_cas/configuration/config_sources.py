"""Where a configuration comes from when no host sends it: files, and assignments on the command line.

What they hold is judged by `config.parse` only; here it is read, and laid one over the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from gestalt_cas.configuration.config_schema import shown
from gestalt_cas.errors import InvalidConfig


def assignments(pairs: Iterable[str]) -> dict[str, object]:
    """Turn texts like `limits.maxObjectBytes=1000` into a nested mapping.

    A value is taken as JSON if it is JSON, else as text; a later text overrides an earlier one. Raises InvalidConfig
    naming the text that is no assignment, or that reaches into a key which already has a plain value.
    """
    result: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        *groups, last = key.split(".")
        if not equals or not all((*groups, last)):
            raise InvalidConfig(f"{shown(pair)} is no assignment; the form is key=value or group.key=value")
        inner = result
        for group in groups:
            if inner.get(group) is None:
                inner[group] = {}
            found = inner[group]
            if not isinstance(found, dict):
                raise InvalidConfig(f"{shown(pair)} conflicts with an earlier value of {group}, which has no keys")
            inner = found
        inner[last] = _json_or_text(text)
    return result


def merge(base: Mapping[str, object], override: Mapping[str, object]) -> dict[str, object]:
    """A new mapping with `override` laid over `base`; mappings are merged key by key, all else is replaced."""
    result = dict(base)
    for key, value in override.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def load_file(path: str | Path) -> dict[str, object]:
    """Read a configuration file: JSON if it is named `.json`, else YAML. An empty YAML file is an empty mapping.

    Raises InvalidConfig naming the file, and the line where there is one.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidConfig(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    loaded = _load_json(path, content) if Path(path).suffix.lower() == ".json" else _load_yaml(path, content)
    if not isinstance(loaded, dict):
        raise InvalidConfig(f"{path}: the file must hold a mapping of keys, not {shown(loaded)}")
    return loaded


def _json_or_text(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _load_json(path: str | Path, content: bytes) -> object:
    try:
        return json.loads(content, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise InvalidConfig(f"{path}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: {error}") from None


def _load_yaml(path: str | Path, content: bytes) -> object:
    import yaml

    try:
        loaded = yaml.safe_load(content)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidConfig(f"{path}{line}: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidConfig(f"{path}: {' '.join(str(error).split())}") from None
    return {} if loaded is None else loaded
