"""`gestalt-cas check`: what it prints, its exit codes, ctrl-C and SIGTERM, and stores that cannot be opened."""

from __future__ import annotations

import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from blake3 import blake3

from checks import LARGE, SMALL, break_rows, directory_fixture, filled_fixture, hexed, path_of
from command_line import PROGRAM, Command, command_in, environment, one_line
from database_pages import overwrite_page
from gestalt_cas import Store
from gestalt_cas.transactions.connections import connect
from storage import body, flip

__all__ = ["directory_fixture", "filled_fixture"]


@pytest.fixture(name="cas")
def cas_fixture(
    directory: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.delenv("GESTALT_CAS_DATA_DIR", raising=False)
    return command_in(directory, capsysbinary)


def test_a_sound_store_is_exit_0(cas: Command) -> None:
    result = cas("check", "--read-data")
    assert (result.code, result.err) == (0, "")
    assert "nothing found" in result.text
    assert "reclaimable" in result.text
    summary = cas("check", "--json").summary
    assert (summary["result"], summary["damage"], summary["read_data"]) == ("clean", 0, "")


def test_damage_is_exit_4_and_says_what_it_concerns_and_what_repairs_it(cas: Command, directory: Path) -> None:
    flip(path_of(directory, SMALL), 0)
    assert cas("check").code == 0
    result = cas("check", "--read-data", "--json")
    assert result.code == 4
    finding, summary = result.records
    assert (finding["sort"], finding["kind"], finding["digest"]) == ("damage", "bytes", blake3(SMALL).hexdigest())
    assert finding["expected"] == blake3(SMALL).hexdigest() != finding["found"]
    assert {one["key"] for one in finding["affected"]} == {"small", "twice"}
    assert all(one["bucket"] == "bucket" and one["version_id"] for one in finding["affected"])
    assert f"check --repair --from BACKUP --data-dir {directory}" in finding["remedy"]
    assert summary["summary"]["result"] == "damage"
    text = cas("check").text
    assert "damage (bytes): " in text, "what is marked is read, whatever the options"
    assert "concerns bucket/small version " in text
    assert "remedy: gestalt-cas check --repair" in text


def test_faults_are_exit_1_and_0_when_repaired(cas: Command, directory: Path) -> None:
    break_rows(directory, "DELETE FROM current WHERE key = CAST('small' AS BLOB)")
    result = cas("check")
    assert result.code == 1
    assert "fault (current): bucket/small: " in result.text
    repaired = cas("check", "--repair", "--json")
    assert repaired.code == 0
    assert repaired.records[0]["repaired"]
    assert (repaired.summary["result"], repaired.summary["repaired_faults"]) == ("clean", 1)
    assert cas("cat", "bucket/small").out == SMALL


def test_damage_that_is_repaired_from_a_backup_is_exit_0(cas: Command, directory: Path, filled: Path) -> None:
    flip(path_of(directory, LARGE), 2**20)
    assert cas("check", "--read-data", "--repair").code == 4
    text = cas("check", "--repair", "--from", filled)
    assert text.code == 0
    assert f"repaired: put back from {filled}" in text.text
    assert cas("cat", "bucket/large").out == LARGE
    aside = [path for path in (directory / "quarantine").iterdir() if path.suffix != ".json"]
    assert len(aside) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["--read-data=0/3"],
        ["--read-data", "x"],
        ["--throttle", "fast"],
        ["--from", "."],
        ["--repair", "--from", "absent"],
        ["--repair", "--from", "."],
        ["surplus"],
    ],
)
def test_wrong_usage_is_exit_2(cas: Command, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = cas("check", *words)
    assert result.code == 2
    assert one_line(result)
    assert result.out == b""


def test_parts_and_a_throttle_are_taken(cas: Command) -> None:
    read = [
        cas("check", f"--read-data={n}/3", "--throttle", "50M", "--json").summary["payloads_read"] for n in (1, 2, 3)
    ]
    assert sum(read) == cas("check", "--read-data", "--json").summary["payloads"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_check_ends_cleanly_and_the_next_goes_on(
    directory: Path, signum: signal.Signals, code: int
) -> None:
    words = ["check", "--data-dir", str(directory), "--read-data", "--json", "--throttle"]
    with subprocess.Popen(
        [*PROGRAM, *words, "100K"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as slow:
        _wait_for_the_lock(directory, slow)
        slow.send_signal(signum)
        out, errors = slow.communicate(timeout=60)
    assert slow.returncode == code, errors
    assert (out, errors.strip()) == (b"", b""), "click ends the line that a terminal shows ^C on"
    done = subprocess.run([*PROGRAM, *words, "1G"], env=environment(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"going on with the check that began at " in done.stderr


def _wait_for_the_lock(directory: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the check reads payloads: it has noted nothing by then, so only its lock shows that it runs."""
    large = str(path_of(directory, LARGE))
    while process.poll() is None:
        try:
            names = [str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
        except FileNotFoundError:
            continue
        if large in names:
            return
    raise AssertionError(f"it ended with {process.returncode} before it read")


def test_a_store_without_its_database_is_damage_and_its_payloads_are_proven(cas: Command, directory: Path) -> None:
    (directory / "metadata.sqlite3").unlink()
    flip(path_of(directory, LARGE), 0)
    path_of(directory, SMALL).unlink()
    path_of(directory, SMALL).mkdir()
    result = cas("check", "--read-data", "--json")
    assert result.code == 4
    found = {(record["kind"], record["digest"]) for record in result.records if "kind" in record}
    assert found == {
        ("database", ""),
        ("bytes", blake3(LARGE).hexdigest()),
        ("type", blake3(SMALL).hexdigest()),
    }
    assert all("restore" in record["remedy"] for record in result.records if "kind" in record)


@pytest.mark.parametrize(
    "statement",
    ["PRAGMA application_id=1", "PRAGMA user_version=9", "DELETE FROM alembic_version", "DROP TABLE alembic_version"],
)
def test_a_header_that_is_wrong_is_damage(cas: Command, directory: Path, statement: str) -> None:
    break_rows(directory, statement)
    result = cas("check", "--json")
    assert result.code == 4
    assert result.records[0]["kind"] == "database"


def test_an_empty_database_over_payloads_is_damage(cas: Command, directory: Path) -> None:
    (directory / "metadata.sqlite3").write_bytes(b"")
    assert cas("check").code == 4


def test_what_is_no_store_or_of_another_release_is_not_called_damage(cas: Command, directory: Path) -> None:
    break_rows(directory, "UPDATE alembic_version SET version_num = '0999'", "PRAGMA user_version=999")
    assert cas("check").code == 2
    break_rows(directory, "UPDATE alembic_version SET version_num = '0001'", "PRAGMA user_version=1")
    assert cas("check").code == 2
    shutil.rmtree(directory)
    assert cas("check").code == 10
    directory.mkdir()
    assert cas("check").code == 10


def test_an_unreadable_first_page_never_ends_in_a_traceback(cas: Command, directory: Path) -> None:
    with closing(connect(directory / "metadata.sqlite3")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for content in (b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8000, b"x" * 100):
        overwrite_page(directory / "metadata.sqlite3", 1, content)
        result = cas("check")
        assert result.code == 4
        assert "the store cannot be opened" in result.text
        assert "Traceback" not in result.err


def test_a_missing_row_is_made_again_while_another_process_has_the_store_open(cas: Command, directory: Path) -> None:
    break_rows(directory, f"DELETE FROM blobs WHERE digest = {hexed(SMALL)}")
    with Store.open(directory) as store:
        assert cas("check", "--repair").code == 0
        assert body(store, "small") == SMALL
