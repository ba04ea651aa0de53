"""`gestalt-cas backup` and `restore` as scripts meet them: what they print, how they end, beside a live server."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import backups
from command_line import (  # noqa: F401
    PROGRAM,
    Command,
    blob_of,
    bucket_fixture,
    cas_fixture,
    damage,
    data_dir_fixture,
    environment,
    one_line,
    process,
    store_fixture,
    write,
)
from gestalt_cas import ObjectKey, Store
from gestalt_cas.backups import destinations, manifests
from gestalt_cas.backups.manifests import Kind


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "CLAIM_SECONDS", 0.05)


def test_there_and_back(store: Store, cas: Command, bucket: str, tmp_path: Path) -> None:
    dest, restored = tmp_path / "dest", tmp_path / "restored"
    write(store, bucket, "a", b"one")
    write(store, bucket, "b", b"two")
    first = cas("backup", dest)
    assert (first.code, first.err) == (0, "")
    assert first.text.startswith(
        f"backed up to {dest}: 2 objects in 2 versions, 2 payloads (6B), of which 2 copied now"
    )
    write(store, bucket, "c", b"three")
    again = cas("backup", dest, "--json")
    assert again.code == 0
    assert (again.record["copied"], again.record["kept"], again.record["lost"]) == (1, 2, [])
    assert again.record["root"] == backups.root(dest)
    done = cas("restore", dest, restored)
    assert (done.code, done.err) == (0, "")
    assert done.text.startswith(f"restored to {restored}: 3 objects in 3 versions, 3 payloads (11B); sequence ")
    assert process("--data-dir", restored, "cat", f"{bucket}/c").out == b"three"
    assert process("--data-dir", dest, "cat", f"{bucket}/c").out == b"three"
    assert process("--data-dir", dest, "gc", "--json").record["files"] == 0


def test_lost_payloads_are_named_and_the_exit_code_is_4(
    store: Store, cas: Command, bucket: str, tmp_path: Path
) -> None:
    dest, restored = tmp_path / "dest", tmp_path / "restored"
    lost = write(store, bucket, "lost", b"bytes that are lost")
    damage(blob_of(store.directory, lost.digest))
    made = cas("backup", dest, "--json")
    assert made.code == 4
    assert one_line(made).startswith(f"lost {lost.digest}, a payload of {bucket}/lost: ")
    assert [one["digest"] for one in made.record["lost"]] == [lost.digest]
    refused = cas("restore", dest, restored)
    assert refused.code == 4
    assert "--allow-incomplete" in one_line(refused)
    done = cas("restore", dest, restored, "--allow-incomplete")
    assert done.code == 4
    assert one_line(done).startswith(f"lost {lost.digest}, a payload of {bucket}/lost: ")
    assert done.text.rstrip().endswith("INCOMPLETE: 1 payloads lost")
    write(store, bucket, "lost", b"bytes that are lost")
    assert cas("backup", dest).code == 0


def test_damage_in_a_backup_names_each_payload(store: Store, cas: Command, bucket: str, tmp_path: Path) -> None:
    found = [write(store, bucket, name, f"bytes of {name}".encode()) for name in ("a", "b")]
    assert cas("backup", tmp_path / "dest").code == 0
    for version in found:
        damage(blob_of(tmp_path / "dest", version.digest))
    refused = cas("restore", tmp_path / "dest", tmp_path / "restored", "--json")
    *named, last = refused.err.splitlines()
    assert (refused.code, refused.out) == (4, b"")
    assert sorted(line.split()[2].rstrip(",") for line in named) == sorted(version.digest for version in found)
    assert json.loads(last)["error"]["kind"] == "DigestMismatch"


def test_what_is_refused(store: Store, cas: Command, bucket: str, tmp_path: Path) -> None:
    write(store, bucket, "k")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, code in (
        (("backup", tmp_path / "full"), 2),
        (("backup", store.directory / "dest"), 2),
        (("restore", tmp_path / "none", tmp_path / "restored"), 2),
        (("restore", store.directory, tmp_path / "restored"), 2),
        (("backup",), 2),
    ):
        result = cas(*words)
        assert result.code == code, words
        assert one_line(result)
    assert cas("backup", tmp_path / "dest").code == 0
    with Store.open(tmp_path / "dest"):
        assert cas("backup", tmp_path / "dest").code == 11


def test_keys(store: Store, cas: Command, bucket: str, tmp_path: Path) -> None:
    write(store, bucket, "k")
    none = cas("backup", tmp_path / "dest", "--with-keys")
    assert (none.code, one_line(none)) == (0, "the store has no keys.json, so the backup has none")
    assert cas("keys", "rotate").code == 0
    assert cas("backup", tmp_path / "dest", "--with-keys", "--json").record["keys"] is True
    assert cas("restore", tmp_path / "dest", tmp_path / "restored", "--json").record["keys"] is True
    assert (tmp_path / "restored" / "keys.json").read_text() == (store.directory / "keys.json").read_text()
    assert cas("backup", tmp_path / "dest").code == 0
    assert not (tmp_path / "dest" / "keys.json").exists()


@pytest.fixture(name="large", scope="module")
def large_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store whose backup takes a while."""
    path = tmp_path_factory.mktemp("large") / "store"
    with Store.open(path) as opened:
        opened.write(ObjectKey("b", "k"), (bytes(1 << 20) for _ in range(256)))
    yield path
    for blob in path.glob("blobs/*/*"):
        blob.unlink()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(large: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    dest = tmp_path / "dest"
    words = [*PROGRAM, "--data-dir", str(large), "backup", str(dest)]
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        while not any(dest.glob("staging/*")):
            assert running.poll() is None, running.communicate()
        running.send_signal(sent)
        out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, b""), errors.decode()
    assert list(dest.glob("staging/*")) == []
    assert manifests.state(dest).kind is Kind.CUT_OFF
    with Store.open(large) as opened, opened._database.read() as tx:
        assert tx.execute("SELECT * FROM pins").fetchall() == []


def test_beside_a_live_server(data_dir: Path, store: Store, bucket: str, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    write(store, bucket, "k", b"bytes of k")
    words = [*PROGRAM, "serve", "--data-dir"]
    with subprocess.Popen([*words, str(data_dir)], env=environment(), stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert b"ready" in server.stdout.readline()
        assert process("--data-dir", data_dir, "backup", dest).code == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert backups.query(dest, "SELECT name FROM settings WHERE name = 'http.port'") == []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*words, str(dest)], env=environment(), **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert b"ready" in server.stdout.readline()
        busy = process("--data-dir", data_dir, "backup", dest)
        assert (busy.code, f"in use by process {server.pid}" in one_line(busy)) == (11, True)
        assert process("--data-dir", dest, "cat", f"{bucket}/k").out == b"bytes of k"
        assert process("restore", dest, tmp_path / "restored").code == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        (told,) = (line for line in server.stderr.read().decode().splitlines() if " WARNING " in line)
    assert f"{dest} is a backup, made 20" in told
    # Serving it, with a port and keys of its own, left the backup what it was.
    assert manifests.state(dest).kind is Kind.COMPLETE
    assert process("--data-dir", data_dir, "backup", dest).code == 0
