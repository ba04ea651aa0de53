"""What must hold when both processes have ended: nothing answered is lost, nothing refused has left a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.errors import NoSuchKey, StoreError
from gestalt_cas.objects import ListQuery
from interleavings.scenarios import OPPONENT, PREPARED, REMOVERS, VICTIM, WITH_SOURCE, payload
from storage import BUCKET, body, history, key, rows, staged


def prepare(store: Store, scenario: str, turn: int) -> None:
    PREPARED[scenario](store, turn)


def judge(store: Store, scenario: str, opponent: str, turn: int, answer: list[Any], other: list[Any]) -> list[str]:
    """What is wrong after both have ended: nothing, unless the store has lost or kept something that it must not."""
    faults = [*_answers(store, scenario, opponent, turn, answer, other), *_versions(store)]
    reached, known, files = _reached(store), _known(store), _files(store)
    if files != known:
        faults.append(f"files {files} beside rows {known}")
    if reached - files:
        faults.append(f"versions without payload: {reached - files}")
    if staged(store):
        faults.append(f"left in staging: {staged(store)}")
    store.collect_garbage()
    if _files(store) != reached or _known(store) != reached or rows(store, "SELECT * FROM unreachable"):
        faults.append(f"after gc: files {_files(store)}, rows {_known(store)}, reached {reached}")
    return [*faults, *_versions(store)]


def _answers(
    store: Store, scenario: str, opponent: str, turn: int, answer: list[Any], other: list[Any]
) -> Iterator[str]:
    gone = answer[0] == "refused" and answer[1] == "NoSuchKey"
    made = history(store, "k")
    if answer[0] == "done" and answer[1]:
        if not made or made[0].version_id != answer[1] or _reading(store, "k", answer[1]) != payload(turn):
            yield f"the answered version is not there: {answer}, {made}"
    elif answer[0] != "done" and not (gone and scenario in ("copy", "read") and opponent != "gc"):
        yield f"not done: {answer}"
    elif made:
        yield f"{answer} had an effect: {made}"
    if other[0] != "done":
        yield f"{opponent} ended with {other}"
    if scenario in WITH_SOURCE and opponent == "gc" and _reading(store, "source") != payload(turn):
        yield "the source has gone"
    if opponent in REMOVERS and history(store, "source"):
        yield "the source is still there"


def _reading(store: Store, name: str, version_id: str = "") -> bytes | str:
    try:
        return body(store, name, version_id=version_id)
    except StoreError as error:
        return f"{type(error).__name__}: {error}"


def _versions(store: Store) -> Iterator[str]:
    for version in store.list_versions(ListQuery(BUCKET)).versions:
        found = _reading(store, version.key.key, version.version_id)
        if isinstance(found, str) or blake3(found).hexdigest() != version.digest:
            yield f"{version.key}, {version.version_id}: {found!r}"


def _files(store: Store) -> set[str]:
    return set(os.listdir(store.directory / "blobs" / "00"))


def _reached(store: Store) -> set[str]:
    return {digest.hex() for (digest,) in rows(store, "SELECT digest FROM versions WHERE digest IS NOT NULL")}


def _known(store: Store) -> set[str]:
    return {digest.hex() for (digest,) in rows(store, "SELECT digest FROM blobs")}


def clean(store: Store) -> None:
    """Empty the store for the next turn."""
    for name in ("k", "source", "before"):
        try:
            store.purge(key(name))
        except NoSuchKey:
            continue
    store.change_settings({"versioning": "enabled"})
    assert not _files(store)


WORK: dict[str, Callable[..., Any]] = {"prepare": prepare, "judge": judge, "clean": clean, **OPPONENT, **VICTIM}
