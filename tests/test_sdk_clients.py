"""Real SDK releases, each in an environment of its own: their runtimes around our provider, their own S3 clients.

These are six of the 22 that `make sdk-matrix` runs, which tells more about each (`sdks.matrix`); the first run in a
checkout installs them. Without a package index these tests fail: whether real releases work is what we are for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdks import matrix
from sdks.judging import PARTS, Row, Step, judge
from sdks.releases import ALL, CI, FIRST, LAST, Release, named
from wire.process import ROOT

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("name", CI)
def test_the_provider_under_a_release(name: str) -> None:
    row = judge(named(name))
    assert not row.failures, matrix.told(row)
    assert set(PARTS) <= set(row.steps)
    assert all(row.steps[part].checks for part in PARTS)


def test_a_provider_that_is_wrong_fails_under_a_release(tmp_path: Path) -> None:
    """It forgets the content type of what is written, which stubs and client both notice."""
    (tmp_path / "forgetful.py").write_text(
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from gestalt_cas.serving import messages\n"
        "from gestalt_cas.provider import provider\n"
        "def forget(fill):\n"
        "    def without(self, meta, *args):\n"
        "        fill(self, meta, *args)\n"
        "        meta.content_type = ''\n"
        "    return without\n"
        "messages.Namespace.fill = forget(messages.Namespace.fill)\n"
    )
    row = judge(named("a29"), "forgetful:provider", tmp_path)
    assert "head" in row.steps["round trip"].failure
    assert "write_and_head" in row.steps["client"].failure
    assert not row.steps["lifecycle"].failure
    assert {step.name for step in row.failures} == {"round trip", "client"}


def test_without_a_package_index_the_matrix_fails_and_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": "tests", "PIP_NO_INDEX": "1", "SDK_ENVIRONMENTS": str(tmp_path)}
    command = [sys.executable, "-m", "sdks.matrix", "a8"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot install gestalt-sdk==0.0.1a8" in done.stdout
    assert "needs a package index" in done.stdout


def resolved(*requirements: str) -> dict[str, str]:
    """The versions that pip would install for these requirements into an empty environment."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-build-isolation"]
    command = [*pip, "--dry-run", "--ignore-installed", "--report", "-", *requirements]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    packages: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return {package["metadata"]["name"]: package["metadata"]["version"] for package in packages}


def test_a_plain_install_takes_the_newest_release_and_its_pins() -> None:
    found = resolved(".")
    assert found["gestalt-sdk"] == f"0.0.1{matrix.published()[-1].name}"
    assert found["typing_extensions"] == "4.12.2"
    assert found["PyYAML"] == "6.0.3"
    assert found["opentelemetry-api"] == "1.41.1"
    assert found["protobuf"].startswith("6.33.")


def test_releases_by_name() -> None:
    assert [release.name for release in ALL] == [f"a{number}" for number in range(FIRST, LAST + 1)]
    assert named("0.0.1a19") == named("a19") == Release(19)
    for name in ("a7", "b8", "", "0.0.2a8"):
        with pytest.raises(ValueError, match="no release"):
            named(name)


def test_the_matrix_ends_with_1_when_anything_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {
        8: Row(Release(8), steps={"client": Step("client", checks=14)}),
        29: Row(Release(29), steps={"client": Step("client", checks=15, failure="copy: lost")}),
    }
    monkeypatch.setattr(matrix, "judge", lambda release: rows[release.number])
    assert matrix.main(["a8", "--keep"]) == 0
    assert "1 of 1 releases passed" in capsys.readouterr().out
    assert matrix.main(["a8", "a29", "--keep"]) == 1
    shown = capsys.readouterr().out
    assert "copy: lost" in shown
    assert "1 of 2 releases passed; failed: a29" in shown
    assert matrix.main(["a29", "--json", "--keep"]) == 1
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["name"], said["ok"], said["steps"][0]["failure"]) == ("a29", False, "copy: lost")
