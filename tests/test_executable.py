"""The single executable that Gestalt's SDK builds: it needs no Python, no package and no file of ours beside it.

Building takes half a minute and is done once, from a checkout by `gestalt build`. EXECUTABLES=all (`make executables`)
adds the one that `python -m gestalt._build` makes of the installed wheel.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from blake3 import blake3

from gestalt_cas import _pyinstaller
from packaged import ROOT, Installed, build_package
from test_old_stores import EARLIER, STORES, unpack
from wire import protos
from wire.client import Client, Lifecycle, eventually
from wire.process import TARGET, Hosted, command_line, running

pytestmark = pytest.mark.timeout(900)  # building takes long where much else runs
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
# What building needs of the system, where a distribution's Python does not bring it.
LACKING = r"objdump is required|Python shared library \(.*\) was not found"
PARTS = ("gestalt_cas", "migrations", "assets")
FILES = ("config.schema.json", "manifest.yaml", "pyproject.toml", "README.md", "LICENSE")


def from_a_checkout(place: Path) -> Path:
    """By `gestalt build`, without arguments, in a copy of what a release holds."""
    checkout = place / "check out"
    for name in PARTS:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, checkout / name)
    build([str(Path(sys.executable).with_name("gestalt")), "build"], checkout)
    return checkout / ".gestaltd/bin/cas"


def from_the_wheel(place: Path) -> Path:
    """By `python -m gestalt._build` with the arguments that every SDK takes, where there is nothing but the wheel."""
    (wheel,) = build_package(place).glob("*.whl")
    python = Installed(place, wheel).python
    root = place / "root"
    root.mkdir()
    machine = MACHINES[platform.machine()]
    arguments = [str(root), TARGET, str(place / "out/cas"), "cas", "s3", sys.platform, machine]
    build([str(python), "-m", "gestalt._build", *arguments], root)
    return place / "out/cas"


def build(command: list[str], directory: Path) -> None:
    """Build it, packed as little as can be unless it is to be released: packing takes a third of the time."""
    hurry = {} if os.environ.get("EXECUTABLES") == "all" else {"PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "1"}
    environment = {**os.environ, **hurry}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)
    lacking = re.search(LACKING, done.stderr)
    if done.returncode and lacking and not os.environ.get("CI"):
        pytest.skip(f"PyInstaller: {lacking[0]}")
    assert done.returncode == 0, done.stderr[-5000:]


BUILDERS = [from_a_checkout, *([from_the_wheel] if os.environ.get("EXECUTABLES") == "all" else [])]


@pytest.fixture(name="executable", scope="module", params=BUILDERS)
def executable_fixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executable, moved away from where it was built, which is gone."""
    builder: Callable[[Path], Path] = request.param
    place = tmp_path_factory.mktemp("build")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "cas"
    shutil.move(builder(place), elsewhere)
    shutil.rmtree(place)
    return elsewhere


@pytest.fixture(name="hosted")
def hosted_fixture(executable: Path, tmp_path: Path) -> Iterator[Hosted]:
    """The executable under a host, in an empty directory, with an environment in which no program can be found."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with Hosted([str(executable)], environment={"PATH": str(empty)}, cwd=empty) as provider:
        eventually(lambda: len(processes(provider)) == 2, "the process that serves")
        yield provider
        assert list(empty.iterdir()) == []


def processes(provider: Hosted) -> list[int]:
    """The executable's own process, which unpacks and waits, and the one that serves."""
    children = Path(f"/proc/{provider.pid}/task/{provider.pid}/children").read_text().split()
    return [provider.pid, *map(int, children)]


def configured(provider: Hosted, directory: Path) -> Lifecycle:
    lifecycle = Lifecycle(provider.target)
    lifecycle.configure({"dataDir": str(directory)})
    return lifecycle


def test_it_makes_a_store_and_serves_it(hosted: Hosted, tmp_path: Path) -> None:
    lifecycle = configured(hosted, tmp_path / "store")
    identity = lifecycle.identity()
    assert (identity.kind, identity.name, list(identity.warnings)) == (7, "assets", [])
    body = os.urandom(3 << 20)
    with Client(hosted.target, protos.BUCKETLESS) as client:
        written = client.write("a/b", body, content_type="text/plain", metadata={"x": "1"})
        assert written.etag == f'"{blake3(body).hexdigest()}"'
        assert client.body("a/b") == body
        client.copy("a/b", "a/c")
        assert client.keys() == ["a/b", "a/c"]
        signed = client.call("PresignObject", client.pb.PresignObjectRequest(ref=client.ref("a/c")))
        with urllib.request.urlopen(signed.url, timeout=30) as response:
            assert response.read() == body
        client.delete("a/b")
        assert client.keys() == ["a/c"]
    assert lifecycle.health().ready
    lifecycle.close()
    hosted.stop()
    assert [path.name for path in hosted.host_home.iterdir()] == [], "what was unpacked, or the socket, is left"
    done = command_line("check", "--json", "--read-data", "--data-dir", str(tmp_path / "store"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("revision", EARLIER)
def test_it_upgrades_an_old_store_and_serves_it(hosted: Hosted, tmp_path: Path, revision: str) -> None:
    kept = unpack(revision, tmp_path)
    expected = json.loads((STORES / f"{revision}.json").read_text())
    configured(hosted, kept).close()
    with Client(hosted.target, protos.BUCKETED) as client:
        read = 0
        for version in expected["versions"]:
            if version["digest"] and version["digest"] not in expected["damaged"]:
                where = {"bucket": version["bucket"], "version_id": version["version_id"]}
                assert blake3(client.body(version["key"], **where)).hexdigest() == version["digest"]
                read += 1
        assert read > 20
        client.write("new", b"new", bucket="other bucket")
    hosted.stop()
    assert (kept / f"metadata.before-upgrade-from-{revision}.sqlite3").is_file()
    assert command_line("cat", "--data-dir", str(kept), "other bucket/new").stdout == "new"


def test_it_uses_nothing_of_this_machine_but_the_system(hosted: Hosted, tmp_path: Path) -> None:
    configured(hosted, tmp_path / "store").close()
    mapped = Path(f"/proc/{processes(hosted)[1]}/maps").read_text()
    assert "metadata.sqlite3" in mapped, "the process that serves was not looked at"
    for directory in (ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        assert directory == Path("/usr") or f"{directory}/" not in mapped
    hosted.stop()


def test_killing_what_the_host_started_ends_the_process_that_serves(hosted: Hosted, tmp_path: Path) -> None:
    """The host kills the process that it knows, which cannot pass that on."""
    configured(hosted, tmp_path / "store").close()
    serving = processes(hosted)[1]
    hosted.kill()
    eventually(lambda: not running(serving), "the end of the process that serves")
    with Hosted() as after:
        lifecycle = configured(after, tmp_path / "store")
        assert lifecycle.health().ready
        lifecycle.close()
        after.stop()


# ---- the hook ----


def test_the_hook_is_found_by_its_entry_point() -> None:
    targets = [point.load() for point in entry_points(group="pyinstaller40", name="hook-dirs")]
    assert _pyinstaller.hook_directories in targets
    (directory,) = _pyinstaller.hook_directories()
    assert Path(directory, "hook-gestalt_cas.py").is_file()


def test_the_hook_takes_every_migration_and_the_schema() -> None:
    found = {
        Path(source).relative_to(ROOT).as_posix(): place
        for source, place in _pyinstaller.data_files(ROOT / "gestalt_cas")
    }
    migrations = {path.relative_to(ROOT).as_posix() for path in (ROOT / "migrations").rglob("*.py")}
    assert len(migrations) > 3
    assert migrations <= set(found)
    assert found["config.schema.json"] == "gestalt_cas"
    assert found["migrations/env.py"] == "gestalt_cas/migrations"
    assert {found[name] for name in migrations} == {"gestalt_cas/migrations", "gestalt_cas/migrations/versions"}


def test_the_hook_names_what_only_migrations_import(tmp_path: Path) -> None:
    package = tmp_path / "gestalt_cas"
    (package / "migrations/versions").mkdir(parents=True)
    (package / "migrations/env.py").write_text("from __future__ import annotations\nimport alembic.context, colorsys")
    (package / "migrations/versions/1.py").write_text(
        "def upgrade():\n    from gestalt_cas import errors\n    from gestalt_cas.rules import chunks\n"
        "    from gestalt_cas.rules.ranges import resolve\n"
    )
    (package / "rules").mkdir()
    assert _pyinstaller.hidden_imports(package) == [
        *("alembic.context", "colorsys", "gestalt_cas", "gestalt_cas.errors"),
        *("gestalt_cas.rules", "gestalt_cas.rules.chunks", "gestalt_cas.rules.ranges"),
    ]


def test_a_build_without_migrations_fails(tmp_path: Path) -> None:
    (tmp_path / "gestalt_cas").mkdir()
    with pytest.raises(FileNotFoundError, match="migrations"):
        _pyinstaller.data_files(tmp_path / "gestalt_cas")


def test_both_manifests_name_the_executable_that_is_built() -> None:
    for name in ("manifest.yaml", "manifest.run.yaml"):
        source = yaml.safe_load((ROOT / name).read_text())["source"]
        assert source.rsplit("/", 1)[-1] == "cas"
