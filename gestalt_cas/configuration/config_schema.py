"""What `config.schema.json` says of the configuration's keys, and what is wrong with a configuration by it, in words.

The schema is the one list of keys, with their types, bounds, defaults and descriptions; the host validates the same
file. What JSON Schema cannot say is looked at in `config.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_SCHEMA_FILE = "config.schema.json"
_LONGEST_SHOWN = 80
_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list of strings",
    "object": "an object",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One key as the schema has it. `type` is JSON Schema's word, `default` None where there is none."""

    key: str
    type: str
    allowed: str
    default: object
    description: str


@cache
def schema() -> dict[str, Any]:
    """`config.schema.json` as a mapping, which must not be changed; from the wheel, else from the checkout."""
    from importlib import resources

    packaged = resources.files("gestalt_cas").joinpath(_SCHEMA_FILE)
    # An editable install and a run from the source tree have the file at the top level only.
    found = packaged if packaged.is_file() else Path(__file__).resolve().parents[2] / _SCHEMA_FILE
    return dict(json.loads(found.read_text(encoding="utf-8")))


@cache
def describe() -> tuple[Setting, ...]:
    """Every key that takes a value, in the schema's order."""
    return tuple(
        Setting(key, part["type"], _allowed(part), part.get("default"), part["description"])
        for key, part in _parts(schema())
        if not is_group(part)
    )


def markdown_table() -> str:
    """The table of keys in README.md, without a final line break."""
    rows = ["| Key | Value | Default | Meaning |", "| --- | --- | --- | --- |"]
    for setting in describe():
        default = "none" if setting.default is None else f"`{json.dumps(setting.default)}`"
        cells = (f"`{setting.key}`", setting.allowed, default, setting.description)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def wrong(tree: Mapping[str, Any]) -> list[str]:
    """Every fault of a configuration, each under its dotted key, sorted; none twice."""
    return sorted({text for error in _validator().iter_errors(tree) for text in _faults(error)})


@cache
def _validator() -> Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())


def _parts(group: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of the schema with its dotted key, groups before what they hold."""
    for name, part in group["properties"].items():
        yield above + name, part
        if is_group(part):
            yield from _parts(part, f"{above}{name}.")


def is_group(part: Mapping[str, Any]) -> bool:
    """Whether a part holds keys of the schema's; an object without any is a value, whose names are the user's."""
    return "properties" in part


def below(part: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What the schema says of a name within an object; None when it knows no such name."""
    found = part["properties"].get(name) if is_group(part) else part["additionalProperties"]
    return found or None


def _allowed(part: Mapping[str, Any]) -> str:
    """What the schema allows for one key, in words."""
    if "enum" in part:
        return " or ".join(f'"{value}"' for value in part["enum"])
    if part.get("minLength"):
        return "a non-empty string"
    if part["type"] == "object" and not is_group(part):
        return f"an object whose values are each {_allowed(part['additionalProperties'])}"
    words = [_ARTICLES[part["type"]]]
    if "minimum" in part:
        words.append(f"from {part['minimum']}")
    if "exclusiveMinimum" in part:
        words.append(f"above {part['exclusiveMinimum']}")
    if "maximum" in part:
        words.append(f"up to {part['maximum']}")
    return " ".join(words)


def _faults(error: ValidationError) -> Iterator[str]:
    # A position in a list is left out: what is wrong with an element is said of the list's key.
    path = [name for name in error.absolute_path if isinstance(name, str)]
    instance: Any = error.instance
    if error.validator != "additionalProperties":
        told = "the value" if "signing" in path else shown(instance)  # a secret must not reach a log
        yield f"{dotted('.'.join(map(quoted, path)))}: {told} is not {_allowed(part_of(path))}"
        return
    for name in instance:
        if name not in part_of(path)["properties"]:
            yield f"unknown key {'.'.join(map(quoted, [*path, name]))}; {_advice(path, name)}"


def part_of(path: Iterable[str]) -> dict[str, Any]:
    """What the schema says at this path of names; an empty mapping where it says nothing."""
    part = schema()
    for name in path:
        part = below(part, name) or {}
    return part


def _advice(path: list[str], name: str) -> str:
    from difflib import get_close_matches

    known = {setting.key.casefold(): setting.key for setting in describe()}
    here = list(part_of(path)["properties"])
    if path and f"{'.'.join(path)}.{here[0]}" not in known.values():  # within an object whose name is the user's
        return f"the keys are {', '.join(here)}"
    wrong = ".".join([*path, name])[:_LONGEST_SHOWN]
    matches = get_close_matches(wrong.casefold(), known, n=1)
    if not matches:
        return f"the keys are {', '.join(known.values())}"
    if "." in name:
        return f"nested keys are written as objects: {known[matches[0]].replace('.', ': {', 1)}: …}}"
    return f"did you mean {known[matches[0]]}?"


def dotted(key: str) -> str:
    """A key for a message; the empty one is the whole configuration."""
    return key or "the configuration"


def quoted(name: str) -> str:
    """A key as it is, or as a Python literal when it holds anything that could mislead in a message."""
    return name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name)


def shown(value: object) -> str:
    """A value for a message: one line, of bounded length."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**64:
        return str(int(value))
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
