"""The generated key pair: made once, owner-only, replaced as a whole, and never the old one when in doubt."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from gestalt_cas import Store
from gestalt_cas.cli.app import run
from gestalt_cas.errors import DiskFull, StorageFault, StoreError, StoreUnusable
from gestalt_cas.files import keys
from gestalt_cas.files.keys import SigningKeys
from gestalt_cas.rules.sigv4 import KeyPair
from storage import Failing


@pytest.fixture(name="path")
def path_fixture(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_pair_is_generated_when_it_is_first_needed(path: Path) -> None:
    signing = SigningKeys(path)
    assert not path.exists()
    pair = signing.get()
    assert signing.get() == SigningKeys(path).get() == keys.read(path) == pair
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert len(pair.access_key_id) == 20
    assert pair.access_key_id.isalnum()
    assert len(pair.secret_access_key) == 40


def test_pairs_differ() -> None:
    pairs = [keys.generate() for _ in range(100)]
    assert len({pair.access_key_id for pair in pairs}) == len({pair.secret_access_key for pair in pairs}) == 100


def test_a_configured_pair_needs_no_file(path: Path) -> None:
    configured = KeyPair("A", "B")
    assert SigningKeys(path, configured).get() is configured
    assert not path.exists()


def test_threads_that_create_at_once_get_one_pair(path: Path) -> None:
    start, found = threading.Barrier(8), []

    def create() -> None:
        start.wait()
        found.append(keys.create(path))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({pair.access_key_id for pair in found}) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]


def test_a_rotated_pair_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signing = SigningKeys(path)
    before = signing.get()
    after = keys.rotate(path)
    assert after != before
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0.0)
    assert signing.get() == after


def test_between_two_looks_the_file_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys._LOOK_SECONDS <= 1
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 3600.0)
    signing = SigningKeys(path)
    before = signing.get()
    keys.rotate(path)
    assert signing.get() == before


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"accessKeyId": "A"}', "\0"])
def test_a_file_that_holds_no_keys_stops_signing(path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old pair, which the file held before, must not come back into use either."""
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0.0)
    signing = SigningKeys(path)
    signing.get()
    path.unlink()
    path.write_text(content)
    for _ in range(3):
        with pytest.raises(StoreUnusable, match="keys rotate"):
            signing.get()
    after = keys.rotate(path)
    assert signing.get() == after


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EROFS, StorageFault)])
def test_a_disk_that_takes_no_keys_is_told_with_the_file_and_keeps_the_old_ones(
    path: Path, number: int, kind: type[StoreError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as refusing:
        refusing.setattr(keys, "sync_file", refuse)
        with pytest.raises(kind, match=str(path)):
            SigningKeys(path).get()
        assert list(path.parent.iterdir()) == []
    pair = keys.create(path)
    monkeypatch.setattr(keys, "sync_file", refuse)
    with pytest.raises(kind, match=str(path)):
        keys.rotate(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert SigningKeys(path).get() == pair


def test_a_rotation_whose_rename_fails_leaves_no_new_secret_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path, _to: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    pair = keys.create(path)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StorageFault, match=str(path)):
        keys.rotate(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    assert keys.read(path) == pair


def test_keys_that_cannot_be_read_are_not_to_be_replaced(path: Path) -> None:
    """Rotating ends every URL; a file that root wrote, say, only wants another owner."""
    path.mkdir()
    with pytest.raises(StoreUnusable, match=r"cannot be read: Is a directory$"):
        SigningKeys(path).get()


def test_the_file_is_plain_json(path: Path) -> None:
    pair = keys.create(path)
    assert json.loads(path.read_text()) == {
        "accessKeyId": pair.access_key_id,
        "secretAccessKey": pair.secret_access_key,
    }


def test_a_rotation_that_the_disk_did_not_confirm_is_told_as_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is, for every server from now on; what is not known is only whether a power cut brings the old one back."""
    Store.open(tmp_path / "store").close()
    before = keys.create(tmp_path / "store" / "keys.json")
    monkeypatch.setattr(keys, "sync_directory", Failing(keys.sync_directory, OSError(errno.EIO, "Input/output error")))
    assert run(["keys", "rotate", "--data-dir", str(tmp_path / "store")]) == 4
    after = SigningKeys(tmp_path / "store" / "keys.json").get()
    assert after != before
    told = capsys.readouterr().err
    assert told.startswith(f"gestalt-cas: the new signing key {after.access_key_id} is in force, and URLs that were ")
    assert "did not confirm it (Input/output error): after a power cut the old key may be back." in told
