"""Pins: whatever must keep unreachable payloads alive for a while, such as a running backup.

While a live pin stands gc removes no payload. Whoever set it gives signs of life; one without any for DEAD_AFTER_MS is
dead, its owner was killed, and gc drops it. An owner that finds its pin gone must not rely on anything it has not
copied. Every function works in the transaction of its caller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gestalt_cas.sql.sqlite import Connection
from gestalt_cas.sql.statements import Prepared

DEAD_AFTER_MS = 120_000
BEAT_SECONDS = 10.0
"""How often an owner is to give a sign of life."""

_INSERT = Prepared(
    "INSERT INTO pins (name, kind, created_ms, heartbeat_ms, detail) VALUES (:name, :kind, :now_ms, :now_ms, :detail)"
)
_BEAT = Prepared("UPDATE pins SET heartbeat_ms = :now_ms WHERE name = :name RETURNING name")
_DROP = Prepared("DELETE FROM pins WHERE name = :name RETURNING name")
_ALL = Prepared("SELECT name, kind, created_ms, heartbeat_ms, detail FROM pins ORDER BY name")


@dataclass(frozen=True, slots=True)
class Pin:
    """One pin; times in Unix milliseconds, `heartbeat_ms` None for one that does not expire."""

    name: str
    kind: str
    created_ms: int
    heartbeat_ms: int | None
    detail: Mapping[str, object]

    def live(self, now_ms: int) -> bool:
        """Whether its owner can still be there. A sign of life from far ahead was given by a clock that was wrong."""
        return self.heartbeat_ms is None or abs(now_ms - self.heartbeat_ms) <= DEAD_AFTER_MS


def place(connection: Connection, name: str, kind: str, now_ms: int, detail: Mapping[str, object]) -> None:
    """Set a pin that lives for DEAD_AFTER_MS beyond each sign of life."""
    _INSERT(connection, name=name, kind=kind, now_ms=now_ms, detail=json.dumps(dict(detail)))


def beat(connection: Connection, name: str, now_ms: int) -> bool:
    """Give a sign of life; False when the pin has gone."""
    return bool(_BEAT(connection, name=name, now_ms=now_ms))


def drop(connection: Connection, name: str) -> bool:
    """Remove a pin; False when it had gone already."""
    return bool(_DROP(connection, name=name))


def standing(connection: Connection) -> list[Pin]:
    """All pins, dead ones included."""
    return [
        Pin(name, kind, created_ms, heartbeat_ms, json.loads(detail) if detail else {})
        for name, kind, created_ms, heartbeat_ms, detail in _ALL(connection)
    ]


def live(connection: Connection, now_ms: int) -> list[Pin]:
    """The pins that keep gc from removing payloads."""
    return [pin for pin in standing(connection) if pin.live(now_ms)]


def drop_dead(connection: Connection, now_ms: int) -> list[Pin]:
    """Drop the pins whose owners have gone; returns them."""
    dead = [pin for pin in standing(connection) if not pin.live(now_ms)]
    for pin in dead:
        drop(connection, pin.name)
    return dead
