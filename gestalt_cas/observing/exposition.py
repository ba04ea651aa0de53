"""Figures as Prometheus reads them: the text format, version 0.0.4 (Prometheus's "Exposition formats")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from gestalt_cas.figures import Distribution
from gestalt_cas.observing.families import Family, Labels, Value

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text(families: Iterable[Family]) -> str:
    """The page: every family that has samples, with its help and its type."""
    return "".join(f"{line}\n" for family in families if family.samples for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        yield from _sample(family.name, labels, value)


def _sample(name: str, labels: Labels, value: Value) -> Iterator[str]:
    if not isinstance(value, Distribution):
        yield f"{name}{_set(labels)} {_number(value)}"
        return
    running = list(accumulate(value.counts))
    for bound, count in zip((*value.bounds, float("inf")), running, strict=True):
        yield f"{name}_bucket{_set((*labels, ('le', _number(bound))))} {count}"
    yield f"{name}_sum{_set(labels)} {_number(value.total)}"
    yield f"{name}_count{_set(labels)} {running[-1]}"


def _set(labels: Labels) -> str:
    inside = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
