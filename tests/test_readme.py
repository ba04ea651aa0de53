"""README.md's examples, run as they stand there: the tour in a shell, the Python snippets as programs."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from pasting import fenced, is_shown, run_console, run_python, shell_fixture, steps  # noqa: F401

HOME = "/home/me/tour"


def block(language: str, text: str) -> str:
    found = [one for one in fenced("README.md", language) if text in one]
    assert len(found) == 1, f"README.md has {len(found)} {language} blocks with {text!r}"
    return found[0]


@pytest.fixture(name="directory")
def directory_fixture(tmp_path: Path) -> Path:
    (tmp_path / "tour").mkdir()
    return tmp_path / "tour"


def test_the_tour_prints_what_the_readme_shows(shell: dict[str, str], directory: Path) -> None:
    run_console((block("console", "gestalt-cas sync"), block("console", "gestalt-cas purge")), shell, directory, HOME)


def test_the_store_example_runs(shell: dict[str, str], directory: Path) -> None:
    run_python(block("python", "Store.open"), shell, directory)


def test_the_client_example_talks_to_a_server(shell: dict[str, str], directory: Path) -> None:
    command, expected = next(steps(block("console", "until SIGTERM or ctrl-C")))
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=directory,
        env=shell,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        assert is_shown(expected[:1], ready.replace(str(directory), HOME))
        run_python(block("python", "s3.write_object"), shell, directory)
    finally:
        server.terminate()
        more, log = server.communicate(timeout=10)
    assert server.returncode == 0
    assert more == "", "exactly one line"
    assert is_shown(expected[1:], log.replace(str(directory), HOME))


def test_the_session_with_presigned_urls_prints_what_the_readme_shows(shell: dict[str, str], directory: Path) -> None:
    with socket.socket() as probe:
        if shutil.which("curl") is None or probe.connect_ex(("127.0.0.1", 9000)) == 0:
            pytest.skip("it needs curl, and port 9000 free")
    (directory / "presign.py").write_text(block("python", "presign_object"))
    run_console([block("console", "presign.py")], shell, directory, HOME)
