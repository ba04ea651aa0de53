"""The operations that are swept: what each needs before, the call itself, and whether its effect is there.

Each turn works with a key of its own on the same store, so what a turn leaves behind is never the next one's. `there`
answers True or False and fails on anything in between.
"""

from __future__ import annotations

import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gestalt_cas import Conditions, Store
from gestalt_cas.errors import NoSuchKey, StoreError
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import ListQuery
from gestalt_cas.sql.sqlite import Connection
from storage import BUCKET, ROOT, body, change, history, key, overwrite, payload_path, payloads, put, rows

_KEPT = ROOT / "tests" / "data" / "stores"
OLD_STORE = _KEPT / "0001.tar.xz"
OLD_VERSIONS = len(json.loads((_KEPT / "0001.json").read_text())["versions"])


@dataclass(frozen=True, slots=True)
class Turn:
    """One point of one sweep: the directory of the store, and a name and bytes that no other turn has."""

    directory: Path
    name: str

    @property
    def data(self) -> bytes:
        return f"{self.name} ".encode() * 9000

    @property
    def before(self) -> bytes:
        return f"before {self.name}".encode()

    @property
    def beside(self) -> Path:
        """A place for stores of the turn's own. It is removed once the turn was judged: there are hundreds of turns."""
        return self.directory.parent / "beside" / self.name.replace(" ", "-")


Step = Callable[[Store, Turn], object]
Question = Callable[[Store, Turn], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """`call` gets an open store; `in_steps` tells that a call may leave a part of its work to the next one, `again`.

    With `changes_nothing` what `there` asks for was there before, and stays.
    """

    call: Step
    there: Question
    prepare: Step = lambda store, turn: None
    in_steps: bool = False
    again: Step | None = None
    changes_nothing: bool = False


def versions(store: Store, turn: Turn) -> list[bytes | None]:
    """The bytes of each version of the turn's key, newest first; None for a marker. Each is read and checked."""
    return [
        body(store, turn.name, version_id=version.version_id) if version.digest else None
        for version in history(store, turn.name)
    ]


def either(absent: Callable[[Turn], list[bytes | None]], present: Callable[[Turn], list[bytes | None]]) -> Question:
    """A question about the versions of the turn's key: these, or those; anything else is half-done."""

    def there(store: Store, turn: Turn) -> bool:
        found = versions(store, turn)
        assert found in (absent(turn), present(turn)), [len(one or b"") for one in found]
        return found == present(turn)

    return there


def write(store: Store, turn: Turn) -> object:
    return store.write(key(turn.name), [turn.data[:5000], turn.data[5000:]])


def put_before(store: Store, turn: Turn) -> object:
    return put(store, turn.name, turn.before)


def _replace(store: Store, turn: Turn) -> object:
    etag = store.head(key(turn.name)).etag
    return store.write(key(turn.name), [turn.data], conditions=Conditions(if_match=etag))


def _known(store: Store, turn: Turn) -> None:
    put(store, f"holder {turn.name}", turn.data)


def _damaged(store: Store, turn: Turn) -> None:
    _known(store, turn)
    overwrite(payload_path(store, turn.data), b"rotten" * 9000)
    change(
        store, "UPDATE blobs SET damaged_ms = 1 WHERE digest = ?", bytes.fromhex(payload_path(store, turn.data).name)
    )


def _missing(store: Store, turn: Turn) -> None:
    _known(store, turn)
    payload_path(store, turn.data).unlink()


def _orphan(store: Store, turn: Turn) -> None:
    """What a writer leaves that was killed before its directory was synced; perhaps torn by a power cut."""
    path = payload_path(store, turn.data)
    path.write_bytes(turn.data[:100])
    path.chmod(0o400)


def _copy(store: Store, turn: Turn) -> object:
    return store.copy(key(f"holder {turn.name}"), key(turn.name))


def two_versions(store: Store, turn: Turn) -> None:
    put(store, turn.name, turn.before)
    put(store, turn.name, turn.data)


def remove_newest(store: Store, turn: Turn) -> object:
    return store.delete(key(turn.name), version_id=history(store, turn.name)[0].version_id)


def _read(store: Store, turn: Turn) -> None:
    assert body(store, turn.name) == turn.before


def _look(store: Store, turn: Turn) -> None:
    assert store.head(key(turn.name)).size == len(turn.before)
    (listed,) = store.list_page(ListQuery(BUCKET, prefix=turn.name)).objects
    assert listed.digest == history(store, turn.name)[0].digest
    assert BUCKET in store.buckets()
    assert store.usage(BUCKET, turn.name).objects == 1


def _unchanged(store: Store, turn: Turn) -> bool:
    assert versions(store, turn) == [turn.before]
    return True


def _change_settings(store: Store, turn: Turn) -> object:
    return store.change_settings({"bucket": turn.name})


def _settings_there(store: Store, turn: Turn) -> bool:
    return store.settings().bucket == turn.name


def _leftover(turn: Turn) -> Path:
    return turn.directory / "staging" / f"{turn.name.encode().hex()}.part"


def _cut_off(store: Store, turn: Turn) -> None:
    """What a killed upload leaves."""
    _leftover(turn).write_bytes(b"cut off")


def _inlining(store: Store, turn: Turn) -> None:
    store.change_settings({"blobs.inlineMaxBytes": 1 << 20})


def _inlined_before(store: Store, turn: Turn) -> None:
    _inlining(store, turn)
    put_before(store, turn)


def _inlined_damaged(store: Store, turn: Turn) -> None:
    """A row that is known to be damaged; the upload that heals it would have made a file."""
    _inlining(store, turn)
    _known(store, turn)
    store.change_settings({"blobs.inlineMaxBytes": 0})
    digest = bytes.fromhex(payload_path(store, turn.data).name)
    place = "(SELECT place FROM blobs WHERE digest = ?)"
    change(store, f"UPDATE inlined SET data = zeroblob(length(data)) WHERE id = {place}", digest)
    change(store, "UPDATE blobs SET damaged_ms = 1 WHERE digest = ?", digest)


def _missing_and_raised(store: Store, turn: Turn) -> None:
    store.change_settings({"blobs.inlineMaxBytes": 0})  # the turn before raised it
    _missing(store, turn)
    _inlining(store, turn)


def _inlined_garbage(store: Store, turn: Turn) -> None:
    _inlining(store, turn)
    _garbage(store, turn)


def _row_collected(store: Store, turn: Turn) -> bool:
    assert versions(store, turn) == [turn.before]
    return not rows(store, "SELECT 1 FROM inlined WHERE data = ?", turn.data)


def _together(store: Store, turn: Turn) -> None:
    """Two writers whose work shares a COMMIT: the turn's own, and one that comes while the first waits for it.

    Each ends in its own way; the turn's is the one that is judged.
    """
    committer, begin = store._database._committer, store._database._committer._begin
    other: list[threading.Thread] = []

    def write_other() -> None:
        with suppress(StoreError):
            put(store, f"beside {turn.name}", b"beside")

    @contextmanager
    def begin_in_company(timeout: float, *, committed: Callable[[], None] | None = None) -> Iterator[Connection]:
        with begin(timeout, committed=committed) as tx:
            if not other:
                other.append(threading.Thread(target=write_other))
                other[0].start()
                while other[0].is_alive() and not committer._waiting:
                    time.sleep(0.001)
            yield tx

    committer._begin = begin_in_company
    try:
        write(store, turn)
    finally:
        committer._begin = begin
        for thread in other:
            thread.join()


def _checkpoint(store: Store, turn: Turn) -> object:
    return store._database.checkpoint(restart=True)


def _garbage(store: Store, turn: Turn) -> None:
    """One payload that nothing reaches, and what a killed upload leaves."""
    put(store, turn.name, turn.before)
    version = put(store, turn.name, turn.data)
    store.delete(key(turn.name), version_id=version.version_id)
    _cut_off(store, turn)


def _clean(store: Store, turn: Turn) -> object:
    return store.clean_staging()


def collect(store: Store, turn: Turn) -> object:
    return store.collect_garbage()


def collected(store: Store, turn: Turn) -> bool:
    assert versions(store, turn) == [turn.before]
    return payload_path(store, turn.data).name not in payloads(store)


def apply_rules(store: Store, turn: Turn) -> object:
    return store.apply_retention()


def _under_a_rule(store: Store, turn: Turn) -> None:
    two_versions(store, turn)
    store.change_settings({"retention.rules": {f"{BUCKET}/{turn.name}": {"keepNoncurrent": 0}}})


def _purge(store: Store, turn: Turn) -> object:
    return store.purge(key(turn.name))


def _purge_the_rest(store: Store, turn: Turn) -> None:
    """Cut off in the midst the versions may be gone; then garbage is what is left to remove."""
    with suppress(NoSuchKey):
        store.purge(key(turn.name))
    store.collect_garbage()


def _purged(store: Store, turn: Turn) -> bool:
    return not history(store, turn.name) and not payload_path(store, turn.data).exists()


_opened: list[Store] = []
"""What a call has opened."""


def _open(store: Store, turn: Turn) -> None:
    """A second store on the directory, as another process opens one."""
    _opened.append(Store.open(turn.directory))


def _opened_works(store: Store, turn: Turn) -> bool:
    """The store that was opened beside the fault, if it was, can be used when the fault has gone."""
    while _opened:
        with _opened.pop() as opened:
            put(opened, f"opened {turn.name}", b"works")
            assert body(opened, f"opened {turn.name}") == b"works"
    return _unchanged(store, turn)


def _new_directory(turn: Turn) -> Path:
    return turn.beside / "new"


def _beside_nothing(store: Store, turn: Turn) -> None:
    os.makedirs(turn.beside)


def _complete_tree(store: Store, turn: Turn) -> None:
    os.makedirs(turn.beside)
    Layout(_new_directory(turn)).make()


def _create(store: Store, turn: Turn) -> None:
    Store.open(_new_directory(turn)).close()


def _created(store: Store, turn: Turn) -> bool:
    """Whatever was left, the next try makes a whole store of it."""
    with Store.open(_new_directory(turn)) as made:
        put(made, "k", b"value")
        assert body(made, "k") == b"value"
    return True


def _nothing(turn: Turn) -> list[bytes | None]:
    return []


def before(turn: Turn) -> list[bytes | None]:
    return [turn.before]


def _new(turn: Turn) -> list[bytes | None]:
    return [turn.data]


def both(turn: Turn) -> list[bytes | None]:
    return [turn.data, turn.before]


def marked(turn: Turn) -> list[bytes | None]:
    return [None, turn.before]


def _check(store: Store, turn: Turn) -> object:
    return store.check()


def _checked(store: Store, turn: Turn) -> bool:
    """A disk that failed meanwhile leaves no finding behind, once it works again."""
    report = store.check()
    assert report.clean, report.findings
    return _unchanged(store, turn)


def _backup(turn: Turn) -> Path:
    return turn.directory.parent / "backup"


def _back_up(store: Store, turn: Turn) -> object:
    return store.back_up(_backup(turn))


def _backed_up(store: Store, turn: Turn) -> bool:
    """Whether the backup is a store that has the turn's object; one that was cut off may be none."""
    try:
        with Store.open(_backup(turn), create=False) as copy:
            return body(copy, turn.name) == turn.before
    except StoreError:
        return False


def _old_store(turn: Turn) -> Path:
    return turn.beside / "old"


def _unpack(store: Store, turn: Turn) -> None:
    """A store of an earlier release."""
    with tarfile.open(OLD_STORE) as archive:
        archive.extraction_filter = staticmethod(lambda member, path: member)
        archive.extractall(_old_store(turn))


def _upgrade(store: Store, turn: Turn) -> None:
    Store.open(_old_store(turn)).close()


def _upgraded(store: Store, turn: Turn) -> bool:
    """Whatever was left, the next try upgrades it, with all that it holds."""
    with Store.open(_old_store(turn)) as upgraded:
        ((found,),) = rows(upgraded, "SELECT count(*) FROM versions WHERE gone_seq IS NULL")
        assert found == OLD_VERSIONS
        put(upgraded, "upgraded", b"works")
        assert body(upgraded, "upgraded") == b"works"
        for version in history(upgraded, "upgraded"):
            upgraded.delete(version.key, version_id=version.version_id)
    return True


CASES: dict[str, Case] = {
    "write new bytes": Case(write, either(_nothing, _new)),
    "replace by if-match": Case(_replace, either(before, both), put_before),
    "write known bytes": Case(write, either(_nothing, _new), _known),
    "write damaged bytes": Case(write, either(_nothing, _new), _damaged),
    "write missing bytes": Case(write, either(_nothing, _new), _missing),
    "write over an orphan": Case(write, either(_nothing, _new), _orphan),
    "write an inlined payload": Case(write, either(_nothing, _new), _inlining),
    "replace an inlined payload": Case(_replace, either(before, both), _inlined_before),
    "write over a damaged row": Case(write, either(_nothing, _new), _inlined_damaged),
    "write a missing file as a row": Case(write, either(_nothing, _new), _missing_and_raised),
    "write in company": Case(_together, either(_nothing, _new), _inlining),
    "read an inlined payload": Case(_read, _unchanged, _inlined_before, changes_nothing=True),
    "collect a row": Case(collect, _row_collected, _inlined_garbage, in_steps=True),
    "copy": Case(_copy, either(_nothing, _new), _known),
    "delete": Case(lambda store, turn: store.delete(key(turn.name)), either(before, marked), put_before),
    "remove a version": Case(remove_newest, either(both, before), two_versions),
    "read": Case(_read, _unchanged, put_before, changes_nothing=True),
    "head and list": Case(_look, _unchanged, put_before, changes_nothing=True),
    "change settings": Case(_change_settings, _settings_there),
    "checkpoint": Case(_checkpoint, _unchanged, put_before, changes_nothing=True),
    "collect garbage": Case(collect, collected, _garbage, in_steps=True),
    "apply retention": Case(apply_rules, either(both, _new), _under_a_rule, in_steps=True),
    "purge": Case(_purge, _purged, two_versions, in_steps=True, again=_purge_the_rest),
    "check": Case(_check, _checked, put_before, changes_nothing=True),
    "back up": Case(_back_up, _backed_up, put_before, in_steps=True),
    "clean staging": Case(_clean, lambda store, turn: not _leftover(turn).exists(), _cut_off, in_steps=True),
    "open": Case(_open, _opened_works, put_before, changes_nothing=True),
    "create a store": Case(_create, _created, _beside_nothing, changes_nothing=True),
    "create a database": Case(_create, _created, _complete_tree, changes_nothing=True),
    "upgrade": Case(_upgrade, _upgraded, _unpack, changes_nothing=True),
}
