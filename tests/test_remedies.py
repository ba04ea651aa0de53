"""Commands that messages tell people to give: each is for the store that the message is about, and can be pasted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import command_in
from gestalt_cas import ObjectKey, Store, sizes
from gestalt_cas.cli.app import run
from storage import child

KEY = ObjectKey("bucket", "k")


@pytest.fixture(name="store_dir")
def store_dir_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a name that needs quoting, while the variable names another, where nothing of this helps."""
    directory = tmp_path / "o'neill's store"
    with Store.open(directory) as store:
        store.write(KEY, [b"one"])
        store.write(KEY, [b"two"])
    monkeypatch.setenv("GESTALT_CAS_DATA_DIR", str(tmp_path / "another"))
    return directory


def told_command(text: str, **given: str) -> list[str]:
    """The words of the command in a message, with values for what it leaves open."""
    found = re.search(r"gestalt-cas ((?:[a-z]+ )+.*?--data-dir '.*store')", text)
    assert found is not None, text
    return [given.get(word, word) for word in shlex.split(found[1])]


def hold(store: Store) -> None:
    store.hold("bucket")


def snapshot(store: Store) -> None:
    store.create_snapshot("night", bucket="bucket")


def quota(store: Store) -> None:
    store.set_quota("bucket", "", 6)


CASES: dict[str, tuple[Callable[[Store], None], list[str], dict[str, str]]] = {
    "a hold that keeps a key": (hold, ["purge", "bucket/k"], {}),
    "a snapshot that keeps a key": (snapshot, ["purge", "bucket/k"], {"NAME": "night"}),
    "a quota that is used up": (quota, ["put", __file__, "bucket/k"], {"SIZE": "1G"}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_refused_works_after_the_command_that_the_refusal_tells(
    case: str, store_dir: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, words, given = CASES[case]
    with Store.open(store_dir) as store:
        prepare(store)
    cas = command_in(store_dir, capsysbinary)
    refused = cas(*words)
    assert refused.code in (3, 5)
    monkeypatch.chdir("/")
    assert run(told_command(refused.err, **given)) == 0
    assert cas(*words).code == 0


def test_what_else_tells_a_command(store_dir: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    cas = command_in(store_dir, capsysbinary)
    with Store.open(store_dir) as store:
        version = store.head(KEY)
        store.delete(KEY, version_id=version.version_id)
        store.change_settings({"retention.rules": {"bucket": {"keepNoncurrent": 0}}})
        store.note("clock.seen", {"at_ms": 1, "accepted_ms": 0})
    where = f"--data-dir {shlex.quote(str(store_dir))}"
    assert f"(3B, gestalt-cas gc {where})" in cas("check").text
    assert f"see: gestalt-cas doctor {where}" in cas("retention", "preview").err
    assert f"gestalt-cas doctor --accept-clock {where}" in cas("retention", "run").err
    absent = store_dir.parent / "no such store"
    nothing_there = command_in(absent, capsysbinary)("ls")
    assert f"make one with: gestalt-cas init --data-dir {shlex.quote(str(absent))}  (serve" in nothing_there.err


def test_a_relative_directory_is_told_from_the_root(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"gestalt-cas init --data-dir {tmp_path}/here  (" in command_in(Path("here"), capsysbinary)("ls").err


def test_a_conflict_of_settings_tells_the_command_for_this_store(store_dir: Path) -> None:
    serving = "store = Store.open(arguments[0]); assert store.claim_server(); print('serving', flush=True)"
    code = f"""
        {serving}
        import subprocess, sys
        other = subprocess.run(
            [sys.executable, "-m", "gestalt_cas", "serve", "--data-dir", arguments[0], "--set", "versioning=suspended"],
            capture_output=True, text=True,
        )
        print(other.returncode, other.stderr)
    """
    told = child(code, store_dir)
    assert told.startswith("serving\n2 ")
    assert told_command(told, VALUE="suspended")[:3] == ["config", "versioning", "suspended"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (1023, "1023B"), (1024, "1.0KB"), (5 << 20, "5.0MB"), (999 << 30, "999GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert sizes.told(count) == text
