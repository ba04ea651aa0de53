"""Options that several verbs on objects share."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from gestalt_cas.objects import ByteRange

if TYPE_CHECKING:
    _ParamType = click.ParamType[float]
    _SizeParamType = click.ParamType[int]
else:
    _ParamType = _SizeParamType = click.ParamType  # generic from click 8.3 on only

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


def _given(_: click.Context, __: click.Parameter, text: str | None) -> str:
    """Refuse an empty value: it comes from an unset variable of a script, and would drop the condition silently."""
    if text == "":
        raise click.BadParameter("the value is empty")
    return text or ""


human_option = click.option("-h", "--human-readable", "human", is_flag=True, help="Sizes like 1.5K, 12M, 3.0G.")
recursive_option = click.option("-r", "--recursive", is_flag=True, help="Work on a whole directory or prefix.")
version_id_option = click.option(
    "--version-id", callback=_given, metavar="V", help="The version, instead of the newest."
)
as_of_option = click.option(
    "--as-of", callback=_given, metavar="AS-OF", help="As it was: a sequence, a time (or 2h ago), a snapshot's name."
)
remove_version_option = click.option("--version-id", callback=_given, metavar="V", help="Remove this version for good.")
_HEADERS = ("content_type", "cache_control", "content_disposition", "content_encoding", "content_language")


def header_options(command: _Callable) -> _Callable:
    """The representation headers of a stored object."""
    for name in reversed(_HEADERS):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, default="", metavar="TEXT", help="Stored with the object.")(command)
    return command


def condition_options(command: _Callable) -> _Callable:
    """The conditions on ETags."""
    for option, help_text in (
        ("--if-none-match", "Only if no such ETag is there; '*': only if nothing is there."),
        ("--if-match", "Only if the object has one of these ETags."),
    ):
        command = click.option(option, callback=_given, metavar="ETAG", help=help_text)(command)
    return command


def _pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _byte_range(_: click.Context, __: click.Parameter, text: str | None) -> ByteRange | None:
    if text is None:
        return None
    start, dash, end = text.partition("-")
    if not dash or not _is_number(start) or (end and not _is_number(end)):
        raise click.BadParameter(f"{text!r} is not START-END or START-, byte positions from 0, both inclusive")
    return ByteRange(int(start), int(end) if end else None)


class DurationType(_ParamType):
    """A span of time, in seconds as a float: a number with one of the units s, m, h, d, or plain seconds."""

    name = "duration"
    _UNITS: ClassVar[dict[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)", str(value))
        if found is None:
            self.fail(f"{value!r} is no duration; write a number and s, m, h or d, as in 90s or 7d", param, ctx)
        return float(found[1]) * self._UNITS[found[2]]


DURATION = DurationType()


class SizeType(_SizeParamType):
    """A number of bytes: a whole number, or one with a unit as in 500M, 1.5T (powers of 1024)."""

    name = "size"
    _UNITS = " KMGTP"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"([0-9]{1,16})(\.[0-9]{1,9})?(?:([KMGTP])(?:iB|B)?)?", str(value), re.IGNORECASE)
        if found is None or (found[2] and not found[3]):
            self.fail(f"{value!r} is no size; write bytes, or a number and K, M, G, T or P, as in 10G", param, ctx)
        return int(Decimal(found[1] + (found[2] or "")) * 1024 ** self._UNITS.index((found[3] or " ").upper()))


SIZE = SizeType()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


range_option = click.option(
    "--range", "byte_range", callback=_byte_range, metavar="START-END", help="Both ends inclusive."
)
metadata_option = click.option(
    "--metadata", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="Stored with the object; repeat for more."
)
