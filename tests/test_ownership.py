"""Root at work in a store of another user: whatever it makes there is the owner's, who can use and remove it."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import process
from gestalt_cas.cli.app import run
from gestalt_cas.files.layout import Layout
from gestalt_cas.system import ownership
from gestalt_cas.system.locks import FileLock
from storage import child
from test_old_stores import unpack

USER, GROUP = 12345, 23456
BODY = b"root was here"
AS_THE_OWNER = """
    import contextlib, io
    from gestalt_cas.http import http_side
    from gestalt_cas.formats import upgrade
    from gestalt_cas.backups import backup, restoring
    from gestalt_cas.checks import checking
    from gestalt_cas.cli import app, backups, checks, keys, listings, objects, upkeep
    os.setgroups([])
    os.setresgid(23456, 23456, 23456)
    os.setresuid(12345, 12345, 12345)
    os.umask(0o077)
    for words in arguments[1:]:
        code = app.run(["--data-dir", arguments[0], *words.split()])
        assert code == 0, (words, code)
    app.run(["--data-dir", arguments[0], "cat", "bucket/roots"])
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for another user")


@pytest.fixture(name="home")
def home_fixture() -> Iterator[Path]:
    """A directory that another user can reach, and that is its own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        home = Path(name).resolve()
        home.chmod(0o755)
        (home / "store").mkdir(mode=0o700)
        (home / "file").write_bytes(BODY)
        os.chown(home / "store", USER, GROUP)
        yield home


def roots(directory: Path) -> list[str]:
    """What below the directory is not its owner's."""
    found = ((path, path.lstat()) for path in [directory, *directory.rglob("*")])
    return sorted(str(path) for path, status in found if (status.st_uid, status.st_gid) != (USER, GROUP))


def as_root(store: Path, *words: str | Path, code: int = 0) -> None:
    assert run(["--data-dir", str(store), *map(str, words)]) == code


def test_what_root_makes_is_the_owners(home: Path) -> None:
    """One verb for each kind of file: the tree, rows, locks, the reserve, payloads, keys, notes, what is set aside."""
    store = home / "store"
    assert process("init", "--data-dir", store).code == 0
    assert process("put", home / "file", "bucket/roots", "--data-dir", store).code == 0
    as_root(store, "keys", "rotate")
    as_root(store, "snapshot", "create", "night", "bucket")
    (payload,) = store.glob("blobs/*/*")
    payload.chmod(0o600)
    payload.write_bytes(b"broken")
    as_root(store, "check", "--read-data", "--repair", code=4)
    assert list(store.glob("quarantine/*"))
    as_root(store, "put", home / "file", "bucket/roots")
    as_root(store, "check", "--read-data")
    (store / "blobs" / "7f").rmdir()
    as_root(store, "check", "--repair")
    assert roots(store) == []


def test_the_owner_goes_on_where_root_left_off(home: Path) -> None:
    store = home / "store"
    as_root(store, "init")
    as_root(store, "put", home / "file", "bucket/roots")
    as_root(store, "keys", "rotate")
    words = ["put /dev/null bucket/owners", "keys rotate", "rm bucket/owners", "gc", "check --read-data", "ls bucket/"]
    assert child(AS_THE_OWNER, store, *words).endswith("root was here")
    assert roots(store) == []


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_backup_or_store_in_a_directory_of_another_user_is_that_users(home: Path, verb: str) -> None:
    mine, theirs = home / "mine", home / "store"
    as_root(mine, "init")
    as_root(mine, "put", home / "file", "bucket/roots")
    as_root(mine, "keys", "rotate")
    if verb == "backup":
        as_root(mine, "backup", "--with-keys", theirs)
    else:
        as_root(mine, "backup", "--with-keys", home / "backup")
        as_root(mine, "restore", home / "backup", theirs)
    assert roots(theirs) == []
    as_root(mine, "put", home / "file", "bucket/more")
    if verb == "backup":
        as_root(mine, "backup", "--with-keys", theirs)
        assert roots(theirs) == []
    assert child(AS_THE_OWNER, theirs, "check --read-data").endswith("root was here")


def test_an_upgrade_by_root_leaves_nothing_of_roots(home: Path) -> None:
    (home / "old").mkdir()
    store = unpack("0001", home / "old")
    for path in [store, *store.rglob("*")]:
        os.chown(path, USER, GROUP, follow_symlinks=False)
    as_root(store, "init")
    assert list(store.glob("metadata.before-upgrade-from-*"))
    assert roots(store) == []


def test_what_root_finds_stays_whose_it_is(home: Path) -> None:
    """Else whoever owns the store could have any file of the machine given to it."""
    store, precious = home / "store", home / "precious"
    precious.write_bytes(b"root's")
    linked = home / "linked"
    linked.write_bytes(b"root's, too")
    (store / "write.lock").symlink_to(precious)
    os.link(linked, store / "schema.lock")
    as_root(store, "init")
    assert (precious.stat().st_uid, linked.stat().st_uid) == (0, 0)
    assert (store / "server.lock").stat().st_uid == USER


def test_a_link_to_another_directory_gives_nothing_in_that_away(home: Path) -> None:
    (home / "precious").mkdir()
    (home / "store" / "staging").symlink_to(home / "precious")
    fd = ownership.make_file(home / "store" / "staging" / "new", os.O_RDWR, 0o600)
    os.close(fd)
    ownership.make_directory(home / "store" / "staging" / "below", 0o700)
    assert {path.stat().st_uid for path in (home / "precious").iterdir()} == {0}


def test_a_link_that_leads_nowhere_is_refused(home: Path) -> None:
    (home / "store" / "write.lock").symlink_to(home / "nowhere")
    with pytest.raises(FileExistsError):
        FileLock(Layout(home / "store").root / "write.lock")
    assert not (home / "nowhere").exists()


def test_what_cannot_be_given_away_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with caplog.at_level(logging.WARNING):
        FileLock(home / "store" / "write.lock").close()
    assert "write.lock stays root's, where user 12345 may not use it: Operation not permitted" in caplog.text
