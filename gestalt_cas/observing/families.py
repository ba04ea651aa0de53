"""The figures of one name, in the words of Prometheus: a kind, and a value for each set of labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gestalt_cas.figures import Distribution

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
Labels = tuple[tuple[str, str], ...]
Value = float | Distribution
NONE: Labels = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Figures of one name: a value for each set of labels. A counter's name ends in `_total`."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[Labels, Value], ...]


def labels(**given: str) -> Labels:
    """Labels in the order in which they are to be shown."""
    return tuple(given.items())


def family(kind: str, name: str, text: str, samples: Iterable[tuple[Labels, Value | None]]) -> Family:
    """Figures of this server; a value of None is left out."""
    return Family(f"gestalt_cas_{name}", kind, text, tuple((at, value) for at, value in samples if value is not None))


def gauge(name: str, text: str, value: Value | None) -> Family:
    """One figure without labels."""
    return family(GAUGE, name, text, [(NONE, value)])
