"""The verbs that make room, gc and purge: what they do, print and refuse, and that they can be stopped."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from command_line import PROGRAM, Command, command_in, environment, one_line, process
from gestalt_cas import ObjectKey, Store
from gestalt_cas.cli.progress import Progress
from gestalt_cas.files.blobs import Blobs
from gestalt_cas.keeping import pins, quotas
from gestalt_cas.removal import garbage, purging
from gestalt_cas.removal.garbage import Collected
from gestalt_cas.rows import buckets
from storage import BUCKET, body, history, key, payloads, put, rows


@pytest.fixture
def cas(store: Store, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command on this test's store, which stays open here as a server would have it."""
    monkeypatch.delenv("GESTALT_CAS_DATA_DIR", raising=False)
    return command_in(store.directory, capsysbinary)


def abandon(store: Store, *bodies: bytes) -> None:
    for data in bodies:
        version = put(store, "abandoned", data)
        store.delete(version.key, version_id=version.version_id)


def pin(store: Store) -> None:
    with store._database.write() as tx:
        pins.place(tx, "backup to elsewhere", "backup", garbage.now_ms(), {})


# ---- gc ----


def test_gc_says_what_it_removed(cas: Command, store: Store) -> None:
    put(store, "k", b"kept")
    abandon(store, b"x" * 2048, b"y" * 1024)
    assert cas("gc").text == "removed 2 payloads (3.0KB)\n"
    assert cas("gc").text == "removed 0 payloads (0B)\n"
    assert body(store, "k") == b"kept"
    assert len(payloads(store)) == 1


def test_gc_says_what_it_left_and_why(cas: Command, store: Store) -> None:
    abandon(store, b"old")
    store.collect_garbage(grace_seconds=60)
    with store._database.write() as tx:
        tx.execute("UPDATE unreachable SET since_ms = since_ms - 7200000")
    abandon(store, b"fresh")
    (store.directory / "staging" / "0.part").write_bytes(b"half")
    pin(store)
    kept = "1 kept within the grace (5B), 1 kept (3B) by backup to elsewhere\n"
    assert cas("gc", "--grace", "1h", "--dry-run").text == "would remove 0 payloads (0B), 1 cut-off uploads, " + kept
    assert cas("gc", "--grace", "1h").text == "removed 0 payloads (0B), 1 cut-off uploads, " + kept


@pytest.mark.parametrize("dry_run", [True, False])
def test_gc_with_json(cas: Command, store: Store, dry_run: bool) -> None:
    abandon(store, b"data")
    result = cas("gc", "--json", *(["--dry-run"] if dry_run else []))
    assert (result.code, result.err) == (0, "")
    assert result.record == {
        "dry_run": dry_run,
        "files": 1,
        "bytes": 4,
        "fresh_files": 0,
        "fresh_bytes": 0,
        "pinned_files": 0,
        "pinned_bytes": 0,
        "pinned_by": [],
        "staging_files": 0,
        "stuck_files": 0,
        "stuck_reason": "",
    }
    assert len(payloads(store)) == dry_run


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("1.5s", 1.5), ("15m", 900), ("12h", 43_200), ("7d", 604_800), ("0.5h", 1800)],
)
def test_gc_takes_its_grace_in_any_unit(
    cas: Command, monkeypatch: pytest.MonkeyPatch, text: str, seconds: float
) -> None:
    asked: list[Any] = []

    def collect(store: Store, **options: Any) -> Collected:
        asked.append(options["grace_seconds"])
        return Collected(False)

    monkeypatch.setattr(Store, "collect_garbage", collect)
    assert cas("gc", "--grace", text).code == 0
    assert asked == [seconds]


@pytest.mark.parametrize("text", ["", "h", "-1s", "1w", "1h30m", "1 h", "inf", "nan", "1e3", "\u0661s", "1234567890s"])
def test_gc_refuses_what_is_no_duration(cas: Command, store: Store, text: str) -> None:
    abandon(store, b"data")
    result = cas("gc", f"--grace={text}")
    assert result.code == 2
    assert "is no duration; write a number and s, m, h or d" in one_line(result)
    assert len(payloads(store)) == 1


def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.parent.parent.name == "blobs":
            raise OSError(errno.EROFS, "Read-only file system")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)


@pytest.mark.parametrize("verb", [("gc",), ("purge", "bucket/k")])
def test_files_that_cannot_be_removed_are_exit_4(
    cas: Command, store: Store, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    put(store, "k", b"data")
    abandon(store, b"more")
    stuck(monkeypatch)
    result = cas(*verb)
    assert result.code == 4
    assert one_line(result).startswith("1 payloads could not be removed: removing payload ")
    assert one_line(result).endswith("failed: Read-only file system")
    assert " 0 payloads (0" in result.text


def test_gc_needs_a_store(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for verb in (("gc",), ("gc", "--dry-run"), ("purge", "a/b")):
        result = command_in(tmp_path / "none", capsysbinary)(*verb)
        assert result.code == 10
        assert not (tmp_path / "none").exists()


def waiting(store: Store, *words: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own that waits for the writer lock, which the caller has."""
    words = (*PROGRAM, *words, "--data-dir", str(store.directory))
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 60
    while str(child.pid) not in store._parts.locks.writer._turnstile.holders():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("words", [("gc",), ("purge", "bucket/k")])
def test_stopped_before_it_has_the_lock_it_changes_nothing(
    store: Store, number: signal.Signals, code: int, words: tuple[str, ...]
) -> None:
    put(store, "k", b"kept")
    abandon(store, b"data")
    with store._database.write():
        child = waiting(store, *words)
        child.send_signal(number)
        # Closing its database waits for the lock, too; it has to be let go for that.
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert body(store, "k") == b"kept"
    assert len(payloads(store)) == 2
    assert store.collect_garbage().files == 1


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """ctrl-C between the first file that is removed and the second."""
    real, calls = Blobs.remove, [0]

    def remove(blobs: Blobs, digest: bytes) -> bool:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(blobs, digest)

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "remove", remove)
        yield


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("words", [("gc",), ("purge", "bucket/k")])
def test_ctrl_c_in_the_midst_leaves_the_rest_to_the_next_gc(cas: Command, store: Store, words: tuple[str, ...]) -> None:
    put(store, "other", b"kept")
    for data in (b"one", b"two", b"three"):
        put(store, "k", data)
    if words == ("gc",):
        for version in history(store, "k"):
            store.delete(version.key, version_id=version.version_id)
    assert cas(*words).code == 130
    assert len(payloads(store)) == 3
    assert rows(store, "SELECT count(*) FROM blobs") == [(1,)]
    assert cas("gc").text.startswith("removed 2 payloads ")
    assert payloads(store) == [blake3(b"kept").hexdigest()]


# ---- purge ----


def test_purge_says_what_it_removed(cas: Command, store: Store) -> None:
    put(store, "k", b"one")
    put(store, "k", b"two!")
    store.delete(key("k"))
    assert cas("purge", "bucket/k").text == "purged bucket/k: 3 versions, 2 payloads (7B)\n"
    assert payloads(store) == []
    result = cas("purge", "bucket/k")
    assert result.code == 1
    assert "nothing to purge, it has no version" in one_line(result)


def test_purge_says_what_stays(cas: Command, store: Store) -> None:
    for data in (b"shared", b"own"):
        put(store, "k", data)
    put(store, "other", b"shared")
    directory = store.directory / "quarantine"
    directory.mkdir()
    (directory / f"{blake3(b'own').hexdigest()}.1").write_bytes(b"own")
    pin(store)
    assert cas("purge", "bucket/k").text == (
        "purged bucket/k: 2 versions, 0 payloads (0B), 1 quarantined copies; "
        "1 payloads stay, since other objects share them; "
        "1 payloads stay until the backup that is running ends, then gc removes them\n"
    )


def test_purge_with_json(cas: Command, store: Store) -> None:
    store.write(ObjectKey("default", "a\n\u2028é"), [b"data"])
    assert cas("purge", "/a\n\u2028é", "--json").record == {
        "bucket": "default",
        "key": "a\n\u2028é",
        "versions": 1,
        "files": 1,
        "bytes": 4,
        "quarantined": 0,
        "shared": 0,
        "pinned": 0,
        "stuck_files": 0,
        "stuck_reason": "",
    }


def test_purge_needs_a_key(cas: Command, store: Store) -> None:
    put(store, "k", b"data")
    for words in (("purge",), ("purge", "bucket/"), ("purge", "bucket/k", "bucket/l")):
        assert cas(*words).code == 2
    assert body(store, "k") == b"data"


def test_as_processes_of_their_own_they_do_the_same(store: Store) -> None:
    put(store, "k", b"data")
    abandon(store, b"more")
    directory = str(store.directory)
    assert process("gc", "--data-dir", directory).text == "removed 1 payloads (4B)\n"
    assert process("purge", "--data-dir", directory, "bucket/k", "--json").record["files"] == 1
    assert payloads(store) == []


@pytest.mark.parametrize("words", [
    "du {bucket}", "prove", "prove {bucket} --current", "rollback {bucket} --to 1",
    "rollback {bucket} --to 1 --dry-run", "purge {bucket}/k", "quota set {bucket} 1G", "retention preview",
    "batch {file}",
])  # fmt: skip
def test_what_takes_long_in_a_large_store_tells_how_far_it_is(
    cas: Command, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Else nothing stands on the terminal for minutes."""
    told: list[str] = []
    monkeypatch.setattr(Progress, "at", lambda _, what, *__: told.append(what))
    monkeypatch.setattr(buckets, "STRETCH", 2)
    monkeypatch.setattr(quotas, "STRETCH_ROWS", 2)
    monkeypatch.setattr(purging, "BATCH_ROWS", 2)
    store.change_settings({"retention.rules": {BUCKET: {"keepNoncurrent": 0}}})
    for number in range(5):
        put(store, "k", b"%d" % number)
    (tmp_path / "file").write_text(json.dumps({"op": "put", "key": f"{BUCKET}/new", "text": "x"}))
    done = cas(*words.format(bucket=BUCKET, file=tmp_path / "file").split())
    assert done.code == 0, done.err
    assert told
