"""The pages: their examples run as they stand there, and what they say of messages, links and releases is so."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from gestalt_cas import ObjectKey, Store
from gestalt_cas.configuration import config
from gestalt_cas.conformance.checks import all_checks
from gestalt_cas.sql import schema
from pasting import ROOT, fenced, run_console, run_python, shell_fixture  # noqa: F401
from test_old_stores import unpack

TOURS = [
    "docs/backup.md",
    "docs/conformance.md",
    "docs/edge.md",
    "docs/monitoring.md",
    "docs/retention.md",
    "docs/standalone.md",
    "docs/time-travel.md",
    "docs/troubleshoot.md",
    "docs/under-a-host.md",
    "docs/upgrade.md",
]
"""Pages whose console blocks follow each other in one empty directory, with a store where the page itself says.

That of upgrade.md is an old one that is there from the beginning."""
PROGRAMS = ["docs/embed.md", "docs/time-travel.md"]
"""Pages whose Python blocks are programs."""
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""The kinds of Keep a Changelog."""

PROVIDER = """
import contextlib, os, subprocess, sys, tempfile

@contextlib.contextmanager
def my_provider_running():
    with tempfile.TemporaryDirectory(prefix="gc") as place:
        command = [sys.executable, "-m", "gestalt_cas", "serve", "--data-dir", f"{place}/d", "--grpc", f"{place}/s"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            yield f"{place}/s"
            process.terminate()

"""
"""What a reader of conformance.md has; that page's suite follows."""


# ---- examples ----


@pytest.mark.parametrize("page", TOURS)
def test_a_tour_prints_what_the_page_shows(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    told = fenced(page, "console")
    assert told
    if any("curl " in one for one in told) and shutil.which("curl") is None:
        pytest.skip("the page uses curl")
    (tmp_path / "tour").mkdir()
    shell["HOME"] = str(tmp_path / "home")
    shell.pop("XDG_DATA_HOME", None)
    if page == "docs/upgrade.md":
        unpack("0001", tmp_path / "tour")
    run_console(told, shell, tmp_path / "tour")
    assert not (tmp_path / "home").exists(), "what is pasted reaches the reader's own store"


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(shell: dict[str, str], tmp_path: Path, page: str) -> None:
    programs = fenced(page, "python")
    assert programs
    for text in programs:
        run_python(text, shell, tmp_path)


def test_the_suite_of_the_page_judges_a_provider(shell: dict[str, str], tmp_path: Path) -> None:
    (suite,) = fenced("docs/conformance.md", "python")
    (tmp_path / "test_mine.py").write_text(PROVIDER + suite)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", "-k", "ranges-35"]
    ran = subprocess.run([*command, "test_mine.py"], cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_figures_of_the_kit_are_those_of_its_checks() -> None:
    (block,) = [one for one in fenced("README.md", "console") if "conformance" in one]
    assert f"\n{len(all_checks())} passed\n" in block


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    """`console` blocks are run by tours, Python blocks by programs; what is not has a comment above it."""
    lines = (ROOT / page).read_text().splitlines()
    fences = [n for n, line in enumerate(lines) if line.startswith("```")]
    for opening in fences[::2]:
        language = lines[opening].removeprefix("```")
        run = page in TOURS if language == "console" else page in PROGRAMS if language == "python" else False
        read = language not in ("console", "python", "sh", "bash", "shell")
        assert run or read or page in READ_ELSEWHERE.get(language, ()) or lines[opening - 1].startswith("<!-- "), (
            f"{page}, line {opening + 1}: {lines[opening]}"
        )
    assert not [line for line in lines if re.match(r" {4}(\$ |gestalt-cas |make )", line)], "indented commands"


READ_ELSEWHERE = {"console": ["README.md"], "python": ["README.md", "docs/conformance.md"]}
"""Blocks that other tests run: test_readme.py, and those above."""


def test_the_entry_for_a_host_is_a_valid_one() -> None:
    (entry,) = fenced("docs/under-a-host.md", "yaml")
    (provider,) = yaml.safe_load(entry)["providers"]["s3"].values()
    assert (ROOT / Path(provider["source"]).name).is_file()
    assert config.parse(provider["config"]).limits.min_free_bytes > 0


def test_the_samples_of_monitoring_can_be_read() -> None:
    scrape, rules = map(yaml.safe_load, fenced("docs/monitoring.md", "yaml"))
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:9480"]
    assert all({"alert", "expr"} <= set(rule) for group in rules["groups"] for rule in group["rules"])


# ---- what is said ----


@cache
def strings() -> tuple[str, ...]:
    """Every string of the package, `…` for what is put in."""
    found = []
    for path in (ROOT / "gestalt_cas").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values))
    return tuple(found)


def messages() -> Iterator[str]:
    """What troubleshoot.md says that one may see."""
    for line in (ROOT / "docs/troubleshoot.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| You see", "| ---")):
            yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


@pytest.mark.parametrize("message", [*messages()])
def test_a_message_that_the_page_explains_is_one_of_ours(message: str) -> None:
    parts = [part for part in message.split("…") if part.strip(" ;")]
    assert any(all(part in one for part in parts) for one in strings())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place), target


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text()))
    assert {page for page in PAGES if page != "README.md"} <= linked


def test_the_changelog_has_its_form_this_version_and_every_format() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", one) for one in releases[1:])
    assert set(re.findall(r"^### (.*)$", text, flags=re.MULTILINE)) <= CHANGES
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] in text
    formats = [int(one) for one in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)]
    assert formats == list(range(1, schema.FORMAT + 1))


def test_the_batch_of_the_readme_is_one(shell: dict[str, str], tmp_path: Path) -> None:
    (changes,) = fenced("README.md", "json")
    (tmp_path / "changes").write_text(changes)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<h1>hello</h1>")
    shell["GESTALT_CAS_DATA_DIR"] = str(tmp_path / "store")
    Store.open(tmp_path / "store").close()
    command = ["gestalt-cas", "batch", "changes", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with Store.open(tmp_path / "store") as store:
        assert store.head(ObjectKey("web", "v1/index.html")).metadata == {"build": "7"}
        assert (
            store.head(ObjectKey("web", "current/index.html")).size
            == store.head(ObjectKey("web", "v1/index.html")).size
        )
