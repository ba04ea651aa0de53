"""Pins: set, kept alive, found dead, dropped; none outlives its owner for long, whatever the clock does."""

from __future__ import annotations

import pytest

from gestalt_cas import Store
from gestalt_cas.keeping import pins
from gestalt_cas.keeping.pins import DEAD_AFTER_MS, Pin
from storage import change, rows

NOW = 1_700_000_000_000


def place(store: Store, name: str, now_ms: int = NOW, **detail: object) -> None:
    with store._database.write() as tx:
        pins.place(tx, name, "backup", now_ms, detail)


def live(store: Store, now_ms: int) -> list[str]:
    with store._database.read() as tx:
        return [pin.name for pin in pins.live(tx, now_ms)]


def test_a_pin_tells_who_set_it_and_when(store: Store) -> None:
    place(store, "b", to="elsewhere")
    place(store, "a", NOW + 1)
    with store._database.read() as tx:
        assert pins.standing(tx) == [
            Pin("a", "backup", NOW + 1, NOW + 1, {}),
            Pin("b", "backup", NOW, NOW, {"to": "elsewhere"}),
        ]


@pytest.mark.parametrize(
    ("later_ms", "alive"),
    [
        (0, True),
        (DEAD_AFTER_MS, True),
        (DEAD_AFTER_MS + 1, False),
        (-DEAD_AFTER_MS, True),
        (-DEAD_AFTER_MS - 1, False),  # the clock was wrong when it was set, or is now: it must not stand for ever
    ],
)
def test_a_pin_is_dead_without_a_sign_of_life(store: Store, later_ms: int, alive: bool) -> None:
    place(store, "p")
    assert live(store, NOW + later_ms) == (["p"] if alive else [])
    with store._database.write() as tx:
        assert [pin.name for pin in pins.drop_dead(tx, NOW + later_ms)] == ([] if alive else ["p"])
    with store._database.read() as tx:
        assert len(pins.standing(tx)) == alive


def test_a_sign_of_life_keeps_it_on(store: Store) -> None:
    place(store, "p")
    with store._database.write() as tx:
        assert pins.beat(tx, "p", NOW + DEAD_AFTER_MS)
    assert live(store, NOW + 2 * DEAD_AFTER_MS) == ["p"]
    with store._database.read() as tx:
        assert pins.standing(tx)[0].created_ms == NOW


def test_after_a_jump_of_the_clock_the_next_sign_of_life_counts(store: Store) -> None:
    place(store, "p")
    year = 365 * 86_400_000
    assert live(store, NOW + year) == []
    with store._database.write() as tx:
        assert pins.beat(tx, "p", NOW + year)
    assert live(store, NOW + year) == ["p"]


def test_an_owner_learns_that_its_pin_has_gone(store: Store) -> None:
    place(store, "p")
    with store._database.write() as tx:
        assert pins.drop(tx, "p")
        assert not pins.drop(tx, "p")
        assert not pins.beat(tx, "p", NOW)
    assert live(store, NOW) == []


def test_a_pin_without_heartbeat_never_expires(store: Store) -> None:
    place(store, "hold")
    change(store, "UPDATE pins SET heartbeat_ms = NULL, detail = NULL")
    assert live(store, NOW + 10**13) == ["hold"]
    with store._database.write() as tx:
        assert pins.drop_dead(tx, NOW + 10**13) == []
        assert pins.standing(tx)[0].detail == {}


def test_a_name_is_taken_once(store: Store) -> None:
    place(store, "p")
    with pytest.raises(Exception, match="UNIQUE"):
        place(store, "p", NOW + 5)
    assert rows(store, "SELECT created_ms FROM pins") == [(NOW,)]
