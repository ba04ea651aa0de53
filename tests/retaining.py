"""Histories for tests of retention: versions a day apart, rules, and what is left of them."""

from __future__ import annotations

from collections.abc import Mapping

from clocks import Clock
from gestalt_cas import Store
from gestalt_cas.keeping import retention
from gestalt_cas.removal.retention_runs import Applied
from storage import body, history, key, put

RULES = retention.SETTING


def rule(store: Store, rules: Mapping[str, object]) -> None:
    store.change_settings({RULES: rules})


def apply(store: Store, *where: str) -> Applied:
    """What a run removes at a time that somebody has accepted."""
    store.accept_clock()
    return store.apply_retention(*where)


def left(store: Store, name: str = "k") -> list[str]:
    """The versions that stand, the oldest first, by their first byte; markers are `-`."""
    found = history(store, name)[::-1]
    return ["-" if one.delete_marker else body(store, name, version_id=one.version_id).decode()[:1] for one in found]


def letters(store: Store, text: str, clock: Clock | None = None, days: float = 1, name: str = "k") -> None:
    """A version for each letter, a delete marker for `-`, each so many days after the one before."""
    for letter in text:
        if letter == "-":
            store.delete(key(name))
        else:
            put(store, name, letter.encode())
        if clock is not None:
            clock.advance(days)
