"""What must hold when both processes have ended: nothing answered is lost, nothing refused has left a trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

from blake3 import blake3

from gestalt_cas import Store
from gestalt_cas.backups import manifests
from gestalt_cas.errors import NoSuchKey, StoreError
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import ListQuery
from interleavings.scenarios import (
    BACKUPS,
    CHURN,
    FORGET,
    HOLDS,
    OPPONENT,
    PREPARED,
    REMOVERS,
    RETAIN,
    ROLLBACKS,
    VICTIM,
    WITH_SOURCE,
    backup_of,
    payload,
)
from storage import BUCKET, body, change, history, key, rows, staged


def prepare(store: Store, scenario: str, turn: int) -> None:
    PREPARED[scenario](store, turn)


def judge(store: Store, scenario: str, opponent: str, turn: int, answer: list[Any], other: list[Any]) -> list[str]:
    """What is wrong after both have ended: nothing, unless the store has lost or kept something that it must not."""
    if scenario.endswith("with a file without a row"):
        store.collect_garbage()  # takes the file, which nobody reads
    faults = [*_answers(store, scenario, opponent, turn, answer, other), *_versions(store), *_snapshots(store)]
    if scenario in BACKUPS:
        faults += _backup(store)
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
    return [*faults, *_versions(store), *_snapshots(store)]


def _answers(
    store: Store, scenario: str, opponent: str, turn: int, answer: list[Any], other: list[Any]
) -> Iterator[str]:
    made = history(store, "k")
    if answer[0] == "done" and answer[1]:
        if not made or made[0].version_id != answer[1] or _reading(store, "k", answer[1]) != payload(turn):
            yield f"the answered version is not there: {answer}, {made}"
    elif answer[0] != "done" and answer[1] not in _refusals(scenario, opponent):
        yield f"not done: {answer}"
    elif made:
        yield f"{answer} had an effect: {made}"
    if other[0] != "done" and (other[1], scenario, opponent) not in REFUSED:
        yield f"{opponent} ended with {other}"
    yield from _source(store, scenario, opponent, turn, answer, other)


REFUSED = {("Protected", "making a snapshot", "purge")}
REFUSED |= {("Held", hold, remover) for hold in HOLDS for remover in REMOVERS}
"""How the other may be refused in which scenario, since the first was there before."""


def _refusals(scenario: str, opponent: str) -> tuple[str, ...]:
    """How the first may be refused, since the other was there before."""
    if scenario.startswith(("copy", "read")) and opponent in REMOVERS:
        return ("NoSuchKey",)
    if opponent == FORGET:
        return ("NoSuchSnapshot",)
    if scenario in HOLDS and opponent in (*REMOVERS, RETAIN):
        return ("NoSuchKey", "NoSuchVersion")
    return ("VersionRemoved",) if scenario == "rollback" and opponent in (*REMOVERS, RETAIN) else ()


def _source(
    store: Store, scenario: str, opponent: str, turn: int, answer: list[Any], other: list[Any]
) -> Iterator[str]:
    there = _reading(store, "source")
    if scenario in ROLLBACKS:
        if there not in _possible(opponent, turn, done=answer[0] == "done"):
            yield f"the source is {there!r}"
    elif scenario in HOLDS:
        wanted = blake3(payload(turn)).hexdigest()
        kept = wanted in [version.digest for version in history(store, "source")]
        if kept != (answer[0] == "done") or kept != bool(store.holds()):
            yield f"the hold ended with {answer}, the holds are {store.holds()}, and the version is there: {kept}"
        if opponent in REMOVERS and kept != (other[0] != "done"):
            yield f"{opponent} ended with {other}, and the version is there: {kept}"
    elif scenario in WITH_SOURCE and opponent == "gc" and there != payload(turn):
        yield "the source has gone"
    elif opponent in REMOVERS and other[0] == "done" and history(store, "source"):
        yield "the source is still there"


def _possible(opponent: str, turn: int, *, done: bool) -> list[bytes | str]:
    """What the source may be after a rollback that was done, or refused."""
    before, then, gone = payload(turn, 1), payload(turn), f"NoSuchKey: {key('source')}: no such object"
    if opponent in REMOVERS:  # they remove what they have seen, so what came back may come after them
        return [gone, then] if done else [gone]
    if opponent == CHURN:  # while the same bytes are there already nothing has to come back, and then they go
        return [before, then]
    return [then if done else before]


def _backup(store: Store) -> Iterator[str]:
    """What the backup lacks of the moment that it is of."""
    place = backup_of(store)
    found = manifests.state(place)
    if found.kind is not manifests.Kind.COMPLETE or found.rows is None:
        yield found.reason
        return
    with closing(manifests.open_rows(found.rows)) as connection:
        inlined = {blake3(data).digest() for (data,) in connection.execute("SELECT data FROM inlined")}
        reached = {digest for (digest,) in connection.execute("SELECT digest FROM versions WHERE digest IS NOT NULL")}
    for digest in reached - inlined:
        path = Layout(place).blobs / f"{digest[0]:02x}" / digest.hex()
        if not path.exists() or blake3(path.read_bytes()).digest() != digest:
            yield f"the backup has a version without the payload {digest.hex()}"


def _snapshots(store: Store) -> Iterator[str]:
    for snapshot in store.snapshots():
        for version in store.list_page(ListQuery(BUCKET), as_of=snapshot.name).objects:
            found = _reading(store, version.key.key, as_of=snapshot.name)
            if isinstance(found, str) or blake3(found).hexdigest() != version.digest:
                yield f"{version.key} as of {snapshot.name}: {found!r}"


def _reading(store: Store, name: str, version_id: str = "", **then: str) -> bytes | str:
    try:
        return body(store, name, version_id=version_id, **then)
    except StoreError as error:
        return f"{type(error).__name__}: {error}"


def _versions(store: Store) -> Iterator[str]:
    for version in store.list_versions(ListQuery(BUCKET)).versions:
        found = _reading(store, version.key.key, version.version_id)
        if isinstance(found, str) or blake3(found).hexdigest() != version.digest:
            yield f"{version.key}, {version.version_id}: {found!r}"


def _files(store: Store) -> set[str]:
    """What is kept of payloads, files and rows."""
    inlined = {blake3(data).hexdigest() for (data,) in rows(store, "SELECT data FROM inlined")}
    files = set(os.listdir(store.directory / "blobs" / "00"))
    assert not inlined & files, "a payload is kept twice"
    return inlined | files


def _reached(store: Store) -> set[str]:
    return {digest.hex() for (digest,) in rows(store, "SELECT digest FROM versions WHERE digest IS NOT NULL")}


def _known(store: Store) -> set[str]:
    return {digest.hex() for (digest,) in rows(store, "SELECT digest FROM blobs")}


def clean(store: Store) -> None:
    """Empty the store for the next turn."""
    for snapshot in store.snapshots():
        store.delete_snapshot(snapshot.name)
    for hold in store.holds():
        store.release_hold(hold.bucket, hold.prefix, version_id=hold.version_id)
    for name in ("k", "source", "before"):
        with suppress(NoSuchKey):
            store.purge(key(name))
    change(store, "DELETE FROM versions")  # traces of all the turns would make each next one slower
    store.change_settings({"versioning": "enabled", "blobs.inlineMaxBytes": 0, "retention.rules": {}})
    assert not _files(store)


WORK: dict[str, Callable[..., Any]] = {"prepare": prepare, "judge": judge, "clean": clean, **OPPONENT, **VICTIM}
