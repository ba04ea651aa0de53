"""The figures of the Prometheus page as OpenTelemetry instruments that are asked when metrics are sent.

Names are the page's with `gestalt_cas.` in front and without `_total` and the unit, which a collector that feeds
Prometheus puts back. There is no histogram that can be asked: of the size of commit groups go count and sum, and
durations are recorded call by call (`spans.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gestalt_cas.figures import Distribution
from gestalt_cas.observing.families import COUNTER, HISTOGRAM, NONE, Family
from gestalt_cas.observing.readings import Readings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation

_FRESH_SECONDS = 1.0


class Instruments:
    """Creates them. `first` is called whenever they are asked, before the figures are taken."""

    def __init__(self, readings: Readings, meter: Meter, first: Callable[[], None]) -> None:
        self._readings = readings
        self._first = first
        self._meter = meter
        self._lock = threading.Lock()
        self._taken: dict[str, Family] = {}
        self._taken_at = 0.0
        for family in self._families().values():
            if family.name.startswith("gestalt_cas_"):
                self._create(family)

    def _create(self, family: Family) -> None:
        if family.kind == HISTOGRAM:
            if family.name.endswith("_seconds"):
                return
            for part, pick in (("count", _count), ("sum", _sum)):
                self._meter.create_observable_counter(
                    f"{_name(family)}.{part}", [self._observed(family.name, pick)], "1", family.help
                )
            return
        counts = family.kind == COUNTER
        make = self._meter.create_observable_counter if counts else self._meter.create_observable_gauge
        make(_name(family), [self._observed(family.name, _itself)], _unit(family.name), family.help)

    def _observed(self, name: str, pick: Callable[[Any], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def look(_: CallbackOptions) -> list[Observation]:
            self._first()
            family = self._families().get(name)
            samples = family.samples if family is not None else ()
            return [Observation(pick(value), dict(labels) if labels is not NONE else None) for labels, value in samples]

        return look

    def _families(self) -> dict[str, Family]:
        with self._lock:
            if not self._taken or time.monotonic() - self._taken_at > _FRESH_SECONDS:
                self._taken = {family.name: family for family in self._readings.take()}
                self._taken_at = time.monotonic()
            return self._taken


def _itself(value: float) -> float:
    return value


def _count(value: Distribution) -> float:
    return sum(value.counts)


def _sum(value: Distribution) -> float:
    return value.total


def _name(family: Family) -> str:
    name = family.name.removeprefix("gestalt_cas_").removesuffix("_total")
    return f"gestalt_cas.{name.removesuffix('_bytes').removesuffix('_seconds')}"


def _unit(name: str) -> str:
    bare = name.removesuffix("_total")
    return "By" if bare.endswith("_bytes") else "s" if bare.endswith("_seconds") else "1"
