"""The check: what it finds and mends in rows and files, what it leaves alone on a live store, and that it goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from checks import (
    FILE_DAMAGE,
    LARGE,
    SMALL,
    TWIN,
    break_rows,
    check,
    directory_fixture,
    filled_fixture,
    found,
    hexed,
    path_of,
    put_back,
    store_fixture,
)
from gestalt_cas import ObjectKey, Store
from gestalt_cas.checks import checking, inspection, integrity_checks, payload_checks, payload_judging, wal_checks
from gestalt_cas.checks.findings import EVERYTHING, FAULTS, Subset, subset_of
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import InvalidArgument, StoreBusy
from gestalt_cas.files import quarantine
from gestalt_cas.files.payload_files import identity_of
from storage import Child, Failing, body, change, child, damaged, flip, full, key, payload_path, payloads, put, rows

__all__ = ["directory_fixture", "filled_fixture", "store_fixture"]


def test_a_sound_store_has_no_findings(store: Store) -> None:
    report = check(store, read_data=EVERYTHING)
    assert report.clean
    assert not report.damaged
    assert report.findings == ()
    assert report.versions == rows(store, "SELECT count(*) FROM versions WHERE gone_seq IS NULL")[0][0]
    assert report.payloads == report.payloads_read == len(payloads(store))
    assert report.bytes_read == sum(path.stat().st_size for path in store.directory.glob("blobs/*/*"))
    last = store.recall("check.last")
    assert isinstance(last, dict)
    assert (last["result"], last["read_data"], last["versions"]) == ("clean", "1/1", report.versions)
    assert store.recall("check.position") is None


def test_a_check_without_room_for_its_lock_checks_all_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checking, "FileLock", Failing(checking.FileLock, full()))
        report = store.check()
    assert not (store.directory / "check.lock").exists()
    assert report.clean
    assert report.versions == store.check().versions > 0


def test_only_what_is_asked_for_is_read(store: Store) -> None:
    assert check(store).payloads_read == 0
    flip(payload_path(store, LARGE), 0)
    assert check(store).clean, "flipped bits show by reading only"


# ---- rows ----

ROW_DAMAGE: dict[str, tuple[str, bool, str]] = {
    "no current row": ("current", True, "DELETE FROM current WHERE key = x'736d616c6c'"),
    "current of a deleted key": ("current", True, "INSERT INTO current VALUES ('bucket', CAST('gone' AS BLOB), 9)"),
    "current of no key": ("current", True, "INSERT INTO current VALUES ('zzz', x'00', 9)"),
    "current of no key, before all": ("current", True, "INSERT INTO current VALUES ('a', x'00', 9)"),
    "current of an older version": ("current", True, "UPDATE current SET seq = 5 WHERE key = CAST('twice' AS BLOB)"),
    "a version's size": ("size", True, "UPDATE versions SET size = 7 WHERE key = CAST('large' AS BLOB)"),
    "a payload's size": ("size", True, f"UPDATE blobs SET size = 7 WHERE digest = {hexed(LARGE)}"),
    "too few sums": ("sums", True, f"UPDATE blobs SET sums = x'00' WHERE digest = {hexed(LARGE)}"),
    "sums of an empty payload": ("sums", True, f"UPDATE blobs SET sums = x'00' WHERE digest = {hexed(b'')}"),
    "other sums": ("sums", True, f"UPDATE blobs SET sums = zeroblob(64) WHERE digest = {hexed(LARGE)}"),
    "no payload row": ("row-missing", True, f"DELETE FROM blobs WHERE digest = {hexed(SMALL)}"),
    "an unknown place": ("row", True, f"UPDATE blobs SET place = -1 WHERE digest = {hexed(SMALL)}"),
    "a mark on whole bytes": ("mark", True, f"UPDATE blobs SET damaged_ms = 1 WHERE digest = {hexed(SMALL)}"),
    "a counter behind": ("sequence", False, "UPDATE counter SET seq = seq - 1"),
    "a clock behind": ("sequence", False, "UPDATE counter SET commit_ms = 1"),
    "times that fall": ("sequence", False, "UPDATE versions SET commit_ms = 1 WHERE seq = 4"),
    "metadata that is no JSON": ("row", False, "UPDATE versions SET metadata = '{\"a\":' WHERE seq = 2"),
    "metadata that is no object": ("row", False, "UPDATE versions SET metadata = '[1]' WHERE seq = 2"),
    "metadata that is no text": ("row", False, "UPDATE versions SET metadata = '{\"a\": 1}' WHERE seq = 2"),
    "headers of other names": ("row", False, "UPDATE versions SET headers = '{\"etag\": \"x\"}' WHERE seq = 2"),
    "text that is no UTF-8": ("row", False, "UPDATE versions SET content_type = CAST(x'ff' AS TEXT) WHERE seq = 2"),
    "an id of another sequence": ("row", False, "UPDATE versions SET version_id = 'x' WHERE seq = 2"),
    "a key too long": ("row", False, "UPDATE versions SET key = zeroblob(2049) WHERE seq = 2"),
    "a key that is no UTF-8": ("row", False, "UPDATE versions SET key = x'ff' WHERE seq = 2"),
    "a bucket with a slash": ("row", False, "UPDATE versions SET bucket = 'a/b' WHERE seq = 2"),
    "a negative size": ("row", False, "UPDATE versions SET size = -1 WHERE seq = 2"),
    "a marker with a size": ("row", False, "UPDATE versions SET size = 1 WHERE digest IS NULL"),
    "a short digest": ("row", False, "UPDATE versions SET digest = x'00' WHERE seq = 2"),
    "removed before it came": ("row", False, "UPDATE versions SET gone_seq = seq WHERE gone_seq IS NOT NULL"),
    "removed by what never was": ("sequence", False, "UPDATE versions SET gone_seq = 999 WHERE gone_seq IS NOT NULL"),
    "removed by no number": ("row", False, "UPDATE versions SET gone_seq = 'x' WHERE gone_seq IS NOT NULL"),
    "a short removed digest": ("row", False, "UPDATE versions SET gone_digest = x'00' WHERE gone_seq IS NOT NULL"),
    "a removed digest that is text": ("row", False, "UPDATE versions SET gone_digest = 'x' WHERE gone_seq IS NOT NULL"),
    "a removed digest of what stands": ("row", False, "UPDATE versions SET gone_digest = digest WHERE seq = 2"),
    "a removed digest beside a kept one": (
        "row", False, "UPDATE versions SET digest = gone_digest WHERE gone_digest IS NOT NULL"
    ),
    "a removed marker with a size": ("row", False, "UPDATE versions SET gone_digest = NULL WHERE gone_seq IS NOT NULL"),
    "a short digest in blobs": ("row", False, "INSERT INTO blobs VALUES (x'aa', 1, 0, x'', NULL)"),
    "a quota": ("quota", True, "INSERT INTO quotas VALUES ('bucket', CAST('t' AS BLOB), 100, 1)"),
    "the quota of a bucket": ("quota", True, "INSERT INTO quotas VALUES ('bucket', x'', 100, 1)"),
    "no index": ("index", True, "DROP INDEX versions_null"),
    "another index": ("index", False, "CREATE INDEX strange ON versions (size)"),
    "an index of a table": ("index", True, "DROP INDEX versions_null; CREATE INDEX versions_null ON pins (kind)"),
    "another table": ("schema", False, "CREATE TABLE strange (a)"),
    "another column": ("schema", False, "ALTER TABLE pins ADD COLUMN strange TEXT"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_DAMAGE)
def test_rows_that_no_write_makes_are_found_and_mended_where_that_can_be(directory: Path, name: str) -> None:
    kind, mendable, statements = ROW_DAMAGE[name]
    break_rows(directory, *statements.split("; "))
    with Store.open(directory) as store:
        report = check(store, read_data=EVERYTHING)
        assert kind in {finding.kind for finding in report.findings}
        assert all(finding.message and finding.remedy and not finding.repaired for finding in report.findings)
        assert report.damaged == any(finding.kind not in FAULTS for finding in report.findings)
        repaired = check(store, read_data=EVERYTHING, repair=True)
        assert repaired.clean == mendable
        assert all(finding.repaired for finding in repaired.findings) == mendable
        if mendable:
            assert check(store, read_data=EVERYTHING).findings == ()
            assert body(store, "large") == LARGE
            assert body(store, "twice") == SMALL


def test_findings_name_what_they_concern(directory: Path) -> None:
    break_rows(directory, f"UPDATE blobs SET sums = zeroblob(16) WHERE digest = {hexed(SMALL)}")
    with Store.open(directory) as store:
        (finding,) = found(store, read_data=EVERYTHING)
        named = {(one.bucket, one.key, one.version_id) for one in finding.affected}
        expected = {("bucket", name, store.head(key(name)).version_id) for name in ("small", "twice")}
        assert named == expected
        assert finding.affected_total == 2
        assert finding.digest == blake3(SMALL).hexdigest()
        assert finding.found == "00" * 16


def test_every_key_of_a_long_history_is_compared_with_current(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gestalt_cas.checks import row_reading

    monkeypatch.setattr(row_reading, "BATCH", 3)
    for number in range(8):
        put(store, "long", b"%d" % number)
    assert found(store) == []
    for name in ("large", "long", "null", "twin"):
        change(store, "UPDATE current SET seq = seq - 1 WHERE key = ?", name.encode())
    change(store, "INSERT INTO current VALUES ('zz', x'01', 1)")
    change(store, "INSERT INTO current VALUES ('bucket', CAST('long0' AS BLOB), 1)")
    named = [finding.affected[0].key for finding in found(store, repair=True)]
    assert named == ["large", "long", "long0", "null", "twin", "\x01"]
    assert found(store) == []


# ---- indexes when SQLite's check is given up ----


def _insert_beside_the_index(directory: Path, index: str, *statements: str) -> None:
    """Change rows while SQLite does not know of an index."""
    break_rows(
        directory,
        "CREATE TABLE keep AS SELECT * FROM sqlite_schema WHERE name = '" + index + "'",
        "PRAGMA writable_schema=ON",
        f"DELETE FROM sqlite_schema WHERE name = '{index}'",
        "PRAGMA writable_schema=RESET",
    )
    break_rows(
        directory,
        *statements,
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_schema SELECT * FROM keep",
        "PRAGMA writable_schema=RESET",
        "DROP TABLE keep",
    )


# It gets the sequence of the change that removed a version, which no other row has.
_A_MARKER = """
    INSERT INTO versions (bucket, key, seq, version_id, size, content_type, commit_ms)
    SELECT bucket, x'01', gone_seq, 'null', 0, '', gone_ms FROM versions WHERE key = CAST('removed' AS BLOB)
"""


@pytest.mark.parametrize("given_up", [False, True])
@pytest.mark.parametrize(
    ("index", "statement"),
    [
        ("versions_by_digest", f"UPDATE versions SET digest = {hexed(SMALL)} WHERE key = CAST('twin' AS BLOB)"),
        ("versions_null", "UPDATE versions SET version_id = 'null' WHERE key = CAST('twin' AS BLOB)"),
        ("versions_by_seq", _A_MARKER),
        ("versions_gone", "UPDATE versions SET gone_seq = gone_seq + 1 WHERE key = CAST('removed' AS BLOB)"),
        (
            "versions_kept",
            "UPDATE versions SET digest = gone_digest, gone_digest = NULL WHERE key = CAST('removed' AS BLOB)",
        ),
    ],
)  # fmt: skip
def test_an_index_that_disagrees_is_found_also_when_the_wal_grows_too_much(
    directory: Path, monkeypatch: pytest.MonkeyPatch, index: str, statement: str, given_up: bool
) -> None:
    _insert_beside_the_index(directory, index, statement)
    if given_up:
        monkeypatch.setattr(integrity_checks, "GIVE_UP_BYTES", -1)
        monkeypatch.setattr(integrity_checks, "_STEPS", 1)
    with Store.open(directory) as store:
        findings = found(store)
        assert {finding.kind for finding in findings} == {"index"}
        assert {finding.where for finding in findings} == {index}
        if not given_up:
            assert check(store, repair=True).clean
            assert found(store) == []


# ---- files ----


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_a_damaged_file_is_found_recorded_and_set_aside(store: Store, name: str) -> None:
    kind, damage = FILE_DAMAGE[name]
    path = payload_path(store, LARGE)
    damage(path)
    before = path.lstat() if kind != "missing" else None
    report = check(store, read_data=EVERYTHING)
    (finding,) = report.findings
    assert (finding.kind, finding.digest, report.damaged) == (kind, path.name, True)
    assert [one.key for one in finding.affected] == ["large"]
    assert damaged(store, LARGE)
    assert identity_of(path) is not None or kind == "missing", "a check moves nothing"
    (finding,) = found(store, repair=True, read_data=EVERYTHING)
    assert finding.unrepaired
    assert not finding.repaired
    assert identity_of(path) is None
    if before is not None:
        aside = store.directory / finding.set_aside
        assert (aside.lstat().st_ino, aside.lstat().st_size) == (before.st_ino, before.st_size)
        note = json.loads(aside.with_name(f"{aside.name}.json").read_text())
        assert (note["kind"], note["digest"], note["versions"][0][1]) == (kind, path.name, "large")
        assert stat.S_IMODE((store.directory / "quarantine").stat().st_mode) == 0o700
    put(store, "again", LARGE)
    assert check(store, read_data=EVERYTHING).clean, "writing the same bytes heals"
    assert body(store, "large") == LARGE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_has_to_be_given_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repair of ours opens it, and gone it is not."""
    path, real = payload_path(store, LARGE), os.open
    os.chown(path, 12345, -1)

    def refusing(name: Any, *arguments: Any, **options: Any) -> int:
        if name == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    (finding,) = check(store, read_data=EVERYTHING).findings
    assert (finding.kind, finding.remedy) == (
        "mode",
        f"as root: chown -R --reference={store.directory} {store.directory}",
    )
    os.chown(path, 0, -1)
    (finding,) = check(store, read_data=EVERYTHING).findings
    assert finding.remedy.startswith("gestalt-cas check --repair --data-dir")


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_a_damaged_file_is_put_back_from_a_backup(store: Store, filled: Path, name: str) -> None:
    kind, damage = FILE_DAMAGE[name]
    path = payload_path(store, LARGE)
    damage(path)
    report = check(store, read_data=EVERYTHING, repair=True, backup=filled)
    (finding,) = report.findings
    assert report.clean
    assert str(filled) in finding.repaired
    assert bool(finding.set_aside) == (kind != "missing")
    assert path.read_bytes() == LARGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert not damaged(store, LARGE)
    assert check(store, read_data=EVERYTHING).findings == ()
    assert list((store.directory / "staging").iterdir()) == []


def test_a_backup_that_is_damaged_as_well_is_not_taken(store: Store, filled: Path, tmp_path: Path) -> None:
    backup = Path(shutil.copytree(filled, tmp_path / "backup"))
    flip(path_of(backup, LARGE), 9)
    flip(payload_path(store, LARGE), 9)
    payload_path(store, SMALL).unlink()
    path_of(backup, SMALL).unlink()
    payload_path(store, TWIN).unlink()
    report = check(store, read_data=EVERYTHING, repair=True, backup=backup)
    reasons = {finding.digest: finding.unrepaired for finding in report.findings}
    assert "damaged as well" in reasons[blake3(LARGE).hexdigest()]
    assert "does not have it" in reasons[blake3(SMALL).hexdigest()]
    assert reasons[blake3(TWIN).hexdigest()] == "", "what can be repaired is"
    assert body(store, "twin") == TWIN
    assert report.damaged
    assert not payload_path(store, LARGE).exists(), "wrong bytes are not published"


def test_a_payload_without_row_and_file_comes_back_from_a_backup(directory: Path, filled: Path) -> None:
    break_rows(directory, f"DELETE FROM blobs WHERE digest = {hexed(LARGE)}")
    path_of(directory, LARGE).unlink()
    with Store.open(directory) as store:
        (finding,) = found(store)
        assert finding.kind == "row-missing"
        assert check(store, repair=True).damaged
        assert check(store, repair=True, backup=filled).clean
        assert found(store, read_data=EVERYTHING) == []
        assert body(store, "large") == LARGE


@pytest.mark.parametrize("backup", ["absent", "store"])
def test_a_backup_that_cannot_be_one_is_refused(store: Store, tmp_path: Path, backup: str) -> None:
    with pytest.raises(InvalidArgument):
        check(store, repair=True, backup=store.directory if backup == "store" else tmp_path / backup)


def test_modes_and_directories_are_put_right(store: Store) -> None:
    payload_path(store, SMALL).chmod(0o644)
    (store.directory / "blobs").chmod(0o755)
    (store.directory / "write.lock").chmod(0o644)
    empty = next(path for path in sorted((store.directory / "blobs").iterdir()) if not any(path.iterdir()))
    empty.rmdir()
    report = check(store)
    assert sorted(finding.kind for finding in report.findings) == ["layout", "mode", "mode", "mode"]
    assert not report.damaged
    assert check(store, repair=True).clean
    assert found(store) == []
    assert stat.S_IMODE(payload_path(store, SMALL).stat().st_mode) == 0o400


def test_what_does_not_belong_there_is_named_and_left_alone(store: Store) -> None:
    strangers = [store.directory / "blobs" / "notes.txt", payload_path(store, SMALL).with_name("copy")]
    for path in strangers:
        path.write_bytes(b"x")
    findings = found(store, repair=True)
    assert {finding.where for finding in findings} == {str(path) for path in strangers}
    assert {finding.kind for finding in findings} == {"layout"}
    assert all(path.exists() for path in strangers)


def test_what_is_replaced_after_it_was_judged_is_not_set_aside(store: Store) -> None:
    path = payload_path(store, SMALL)
    judged = identity_of(path)
    assert judged is not None
    put_back(path, SMALL)
    assert quarantine.set_aside_if(store._parts.layout, path, judged, {}) == ""
    assert path.read_bytes() == SMALL
    assert not (store.directory / "quarantine").exists()


# ---- a live store ----


def test_what_gc_would_remove_is_reclaimable_and_no_finding(store: Store) -> None:
    (store.directory / "staging" / "dead.part").write_bytes(b"12345")
    orphan = payload_path(store, b"an orphan")
    orphan.write_bytes(b"an orphan")
    version = put(store, "brief", b"brief payload")
    store.delete(key("brief"), version_id=version.version_id)
    before = check(store, read_data=EVERYTHING)
    assert before.findings == ()
    # Two payloads were unreachable before: one removed version's, and one null version's.
    assert before.reclaimable_files == 5
    assert (
        before.reclaimable_bytes == sum(map(len, (b"removed for good", b"null version", b"an orphan", b"12345"))) + 13
    )
    collected = store.collect_garbage()
    assert collected.files + collected.staging_files == before.reclaimable_files
    after = check(store)
    assert (after.reclaimable_files, after.reclaimable_bytes, after.findings) == (0, 0, ())


def test_an_unreachable_payload_that_is_damaged_or_missing_is_no_finding(store: Store) -> None:
    flip(payload_path(store, b"removed for good"), 3)
    payload_path(store, b"null version").unlink()
    report = check(store, read_data=EVERYTHING)
    assert report.findings == ()
    assert damaged(store, b"removed for good"), "so that the next write of these bytes does not trust the file"
    put(store, "removed", b"removed for good")
    assert body(store, "removed") == b"removed for good"


def test_an_upload_on_its_way_is_no_finding_at_any_of_its_steps(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = []

    def pieces() -> Iterator[bytes]:
        yield b"first half"
        reports.append(check(store))
        yield b"second half"

    publish = store._payloads.publish

    def published(staged: Any) -> bool:
        done = publish(staged)
        reports.append(check(store, read_data=EVERYTHING))
        return done

    monkeypatch.setattr(type(store._payloads), "publish", lambda _self, staged: published(staged))
    store.write(key("slow"), pieces())
    assert [report.findings for report in reports] == [(), ()]
    assert body(store, "slow") == b"first halfsecond half"


def _meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Have something happen after the first call of a function that checks payloads."""
    module = payload_checks if hasattr(payload_checks, name) else payload_judging
    real, done = getattr(module, name), threading.Event()

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if not done.is_set() and (name != "_listed" or args[2] == blake3(SMALL).digest()[0]):
            done.set()
            act()
        return result

    monkeypatch.setattr(module, name, stand_in)


def test_a_payload_collected_between_listing_and_rows_is_no_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove() -> None:
        for name in ("small", "twice"):
            store.purge(key(name))

    _meanwhile(monkeypatch, "_listed", remove)
    assert found(store, read_data=EVERYTHING) == []
    assert not payload_path(store, SMALL).exists()


def test_a_payload_written_between_listing_and_rows_is_no_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("small", "twice"):
        store.purge(key(name))
    _meanwhile(monkeypatch, "_listed", lambda: put(store, "small", SMALL))
    assert found(store, read_data=EVERYTHING) == []


@pytest.mark.parametrize("how", ["written again", "put back", "purged"])
def test_damage_that_is_healed_or_removed_before_it_is_recorded_is_no_finding(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = payload_path(store, TWIN)
    if how == "written again":
        path.unlink()
    else:
        flip(path, 0)
    acts = {
        "written again": lambda: put(store, "another", TWIN),
        "put back": lambda: (put_back(path, TWIN), path.chmod(0o400)),
        "purged": lambda: store.purge(key("twin")),
    }
    _meanwhile(monkeypatch, "examine", acts[how])
    monkeypatch.setattr(payload_checks, "check_row", _only(blake3(TWIN).digest()))
    assert found(store, read_data=EVERYTHING) == []


def _only(digest: bytes) -> Callable[..., None]:
    real = payload_checks.check_row

    def stand_in(run: Any, row: Any, listed: Any) -> None:
        if row.digest == digest:
            real(run, row, listed)

    return stand_in


def test_damage_is_reported_also_when_it_cannot_be_recorded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    payload_path(store, SMALL).unlink()

    def busy(*_: object, **__: object) -> Any:
        raise StoreBusy("write.lock is held by process 1")

    monkeypatch.setattr(type(store._database), "write", busy)
    (finding,) = found(store)
    assert (finding.kind, finding.unrecorded) == ("missing", "write.lock is held by process 1")


BUSY = """
import random
store = Store.open(arguments[0], create=False)
print("ready", flush=True)
seed = random.Random(int(arguments[1]))
while True:
    name = ObjectKey("busy", f"key {seed.randrange(40)}")
    what = seed.random()
    if what < 0.5:
        store.write(name, [b"payload %d" % seed.randrange(60)])
    elif what < 0.8:
        store.delete(name)
    elif what < 0.9:
        for version in store.list_versions(__import__("gestalt_cas").ListQuery("busy", max_keys=5)).versions:
            store.delete(version.key, version_id=version.version_id)
    elif what < 0.95:
        store.copy(ObjectKey("bucket", "small"), name)
    else:
        store.collect_garbage()
"""


def test_a_busy_store_and_one_whose_processes_were_killed_are_clean(store: Store) -> None:
    with Child(BUSY, store.directory, 1) as one, Child(BUSY, store.directory, 2) as two:
        one.line(), two.line()
        for number in range(4):
            report = check(store, read_data=EVERYTHING if number % 2 else None)
            assert report.findings == ()
        assert one.process.poll() is None
        assert two.process.poll() is None
        one.kill(), two.kill()
    assert check(store, read_data=EVERYTHING).findings == ()
    store.clean_staging()
    store.collect_garbage()
    assert check(store, read_data=EVERYTHING).findings == ()


# ---- going on ----


class Cut(BaseException):
    """Ends a check as ctrl-C does."""


def _cut_off(store: Store, at: int, **options: Any) -> None:
    """Run a check that is stopped at the at-th payload directory."""

    def stop(what: str, done: int, _total: int) -> None:
        if "payloads" in what and done >> 8 >= at:
            raise Cut

    with pytest.raises(Cut):
        store.check(CheckOptions(**options), progress=stop)


def _resumed(store: Store, **options: Any) -> tuple[Any, list[int]]:
    told: list[int] = []
    report = store.check(CheckOptions(**options), on_resume=lambda _began, findings: told.append(findings))
    return report, told


def test_a_check_that_was_cut_off_is_gone_on_with(store: Store) -> None:
    whole = check(store, read_data=EVERYTHING)
    _cut_off(store, 128, read_data=EVERYTHING)
    report, told = _resumed(store, read_data=EVERYTHING)
    assert told == [0]
    assert 0 < report.resumed_ms <= report.started_ms
    for name in ("versions", "payloads", "payloads_read", "bytes_read", "reclaimable_files", "reclaimable_bytes"):
        assert getattr(report, name) == getattr(whole, name)
    assert store.recall("check.position") is None
    assert _resumed(store, read_data=EVERYTHING)[1] == []


def test_findings_from_before_the_cut_count_in_the_end(directory: Path) -> None:
    break_rows(directory, "UPDATE versions SET metadata = '[1]' WHERE seq = 2")
    with Store.open(directory) as store:
        _cut_off(store, 100)
        report, told = _resumed(store)
        assert (told, report.findings, report.damage, report.damaged) == ([1], (), 1, True)


@pytest.mark.parametrize("options", [{"restart": True}, {"repair": True}, {"read_data": Subset(1, 1, 2)}])
def test_other_options_and_restart_begin_anew(store: Store, options: dict[str, Any]) -> None:
    _cut_off(store, 100)
    assert _resumed(store, **options)[1] == []


def test_a_cut_of_last_week_is_not_gone_on_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _cut_off(store, 100)
    monkeypatch.setattr(checking, "POSITION_LASTS_MS", -1)
    assert _resumed(store)[1] == []


def test_a_check_beside_another_neither_goes_on_with_it_nor_disturbs_it(store: Store) -> None:
    _cut_off(store, 100)
    position = store.recall("check.position")
    with checking._alone(store._parts) as alone:
        assert alone
        assert _resumed(store)[1] == []
        assert store.recall("check.position") == position
    assert _resumed(store)[1] == [0]


def test_a_check_goes_on_in_the_midst_of_the_rows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from gestalt_cas.checks import row_reading

    monkeypatch.setattr(row_reading, "BATCH", 2)
    change(store, "DELETE FROM current WHERE key = ?", b"twin")
    whole = check(store)

    def stop(what: str, done: int, _total: int) -> None:
        if what == "checking rows" and done >= 5:
            raise Cut

    with pytest.raises(Cut):
        store.check(CheckOptions(), progress=stop)
    report, told = _resumed(store)
    assert told == [0]
    assert [finding.kind for finding in report.findings] == ["current"]
    assert report.versions >= whole.versions, "a key that was cut in two is passed again"


def test_a_killed_check_is_gone_on_with(store: Store) -> None:
    code = """
        from gestalt_cas.checks import checking
        from gestalt_cas.checks.inspection import CheckOptions
        checking.POSITION_SECONDS = -1  # at every chance
        store = Store.open(arguments[0], create=False)
        def kill(what, done, total):
            if "payloads" in what and done >> 8 >= 128:
                os.kill(os.getpid(), 9)
        store.check(CheckOptions(), progress=kill)
    """
    child(code, store.directory, expect=-9)
    whole = check(store, restart=True)
    child(code, store.directory, expect=-9)
    report, told = _resumed(store)
    assert told == [0]
    assert (report.versions, report.payloads) == (whole.versions, whole.payloads)


# ---- subsets and pace ----


@given(st.binary(min_size=32, max_size=32), st.integers(1, 1000))
def test_the_parts_cover_every_digest_once(digest: bytes, of: int) -> None:
    assert sum(subset_of(f"{number}/{of}").holds(digest) for number in range(1, of + 1)) == 1
    assert subset_of("100%").holds(digest)
    assert subset_of("10%").holds(digest) == (digest[0] * 256 + digest[1] < 6553.6)
    assert subset_of("3%").holds(digest) <= subset_of("4%").holds(digest)


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1/0", "1/", "/2", "x", "1", "0%", "101%", "1.5%", "-1/2", "1/2/3"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        subset_of(text)


def test_the_parts_read_every_payload_once(store: Store) -> None:
    read = [check(store, read_data=subset_of(f"{number}/4")).payloads_read for number in range(1, 5)]
    assert sum(read) == len(payloads(store))
    assert str(subset_of("2/4")) == "2/4"
    assert str(subset_of("25%")) == "25%"


def test_a_throttled_check_rests_for_what_it_reads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(inspection.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(inspection.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    report = check(store, read_data=EVERYTHING, throttle=1 << 20)
    assert report.bytes_read / (1 << 20) == pytest.approx(clock[0], rel=0.01)


# ---- the WAL ----


@pytest.fixture(name="long_wal", scope="module")
def long_wal_fixture(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose process was killed with commits in the WAL."""
    directory = Path(shutil.copytree(filled, tmp_path_factory.mktemp("wal") / "store"))
    code = """
        store = Store.open(arguments[0], create=False)
        for number in range(20):
            store.write(ObjectKey("wal", str(number)), [b"x"])
        os.kill(os.getpid(), 9)
    """
    child(code, directory, expect=-9)
    return directory


FRAME = 24 + 8192


@pytest.mark.parametrize("position", ["header", "salts", "checksum", "page", "first frame"])
def test_damage_in_the_midst_of_the_wal_is_told_from_a_torn_end(long_wal: Path, tmp_path: Path, position: str) -> None:
    directory = Path(shutil.copytree(long_wal, tmp_path / "store"))
    wal = directory / "metadata.sqlite3-wal"
    frames = (wal.stat().st_size - 32) // FRAME
    assert frames > 40
    assert wal_checks.examine(wal) is None
    frame = 32 + FRAME * (frames // 2)
    place = {"header": 25, "salts": frame + 9, "checksum": frame + 17, "page": frame + 4000, "first frame": 32 + 5000}
    data = bytearray(wal.read_bytes())
    data[place[position]] ^= 1
    wal.write_bytes(data)
    with Store.open(directory, create=False) as store:
        finding = found(store)[0]
    assert finding.kind == "wal"
    assert finding.damage


def test_a_torn_end_of_the_wal_is_no_damage(long_wal: Path, tmp_path: Path) -> None:
    wal = tmp_path / "wal"
    whole = (long_wal / "metadata.sqlite3-wal").read_bytes()
    for cut in (1, 30, FRAME - 1, FRAME, FRAME + 1, 2 * FRAME):
        wal.write_bytes(whole[:-cut])
        assert wal_checks.examine(wal) is None
        torn = bytearray(whole)
        torn[-cut] ^= 0xFF
        wal.write_bytes(torn)
        if cut <= FRAME:
            assert wal_checks.examine(wal) is None, "one transaction that is not whole may have been under way"
    assert wal_checks.examine(tmp_path / "absent") is None
    wal.write_bytes(b"")
    assert wal_checks.examine(wal) is None


def test_the_wal_of_a_live_writer_is_never_called_damaged(store: Store) -> None:
    with Child(BUSY, store.directory, 3) as busy:
        busy.line()
        for _ in range(8):
            assert wal_checks.examine(store._parts.layout.wal) is None
        os.kill(busy.pid, 9)


def test_other_buckets_are_checked_in_their_order(store: Store) -> None:
    for bucket in ("a", "zz", "ü", "bucket2"):
        store.write(ObjectKey(bucket, "k"), [b"x"])
    assert found(store) == []
    change(store, "DELETE FROM current WHERE bucket <> 'bucket'")
    named = [finding.affected[0].bucket for finding in found(store, repair=True)]
    assert named == ["a", "bucket2", "zz", "ü"]
    assert found(store) == []
