"""The conformance kit itself: probes, failures in words, reports, the state machine and its scripts, the command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import grpc
import pytest

from gestalt_cas.conformance import hosting, machine, presence, reports, scripts
from gestalt_cas.conformance.capabilities import Capability, chosen
from gestalt_cas.conformance.checks import all_checks
from gestalt_cas.conformance.hosting import Host
from gestalt_cas.conformance.registry import Deviation
from gestalt_cas.conformance.running import Outcome, Verdict, run
from gestalt_cas.conformance.steps import Delete, Step, Together, Write
from wire.process import ROOT
from wrong import variants
from wrong.good import Good, Stored, Where, served

EVERYTHING = frozenset(Capability)


def judged(kind: type[Good], *numbers: int, declared: frozenset[Capability] = EVERYTHING) -> list[Verdict]:
    with served(kind) as target:
        return run([check for check in all_checks() if check.number in numbers], target, declared=declared)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "gestalt_cas", "conformance", *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_a_failure_says_what_was_sent_what_came_and_what_was_expected() -> None:
    (verdict,) = judged(variants.HalfOpenRange, 35)
    told = "\n".join(reports.explained(verdict))
    for part in ("Both", "half-open", "ReadObject", "start: 1 end: 3", "b'bc'", "expected: bytes 1 to 3", "b'bcd'"):
        assert part in told or part == "Both", part
    assert verdict.outcome is Outcome.FAILED


def test_what_is_not_declared_is_probed_and_reported() -> None:
    less = EVERYTHING - {Capability.SELF_COPY}
    (lacks,), (has,) = judged(variants.SelfCopyRefused, 80, declared=less), judged(Good, 80, declared=less)
    assert (lacks.outcome, has.outcome) == (Outcome.LACKS, Outcome.HAS)
    (told,) = reports.line(lacks).splitlines()
    assert "(not declared: self-copy): expected the call to be answered; got " in told
    (failed,) = judged(variants.SelfCopyRefused, 80)
    assert failed.outcome is Outcome.FAILED


def test_verdicts_of_both_generations_are_told_apart() -> None:
    found = []
    for bucketed in (False, True):
        with served(variants.HalfOpenRange, bucketed=bucketed) as target:
            checks = [check for check in all_checks() if check.number == 35]
            found += run(checks, target, bucketed=bucketed, declared=EVERYTHING)
    name = "ranges-35-both-ends-are-included"
    assert [reports.line(one).splitlines()[0] for one in found] == [f"failed   {name}", f"failed   {name} (bucketed)"]
    assert [reports.record(one)["bucketed"] for one in found] == [False, True]
    cases = ElementTree.fromstring(reports.junit(found, "provider")).iter("testcase")
    assert [case.get("classname") for case in cases] == ["conformance.ranges", "conformance.bucketed.ranges"]


def test_enums_are_shown_by_the_names_of_the_contract() -> None:
    (verdict,) = judged(variants.HostIsKept, 83)
    assert "method: PRESIGN_METHOD_PUT" in verdict.exchanges[-1].sent


def test_checks_of_the_lifecycle_say_why_they_are_not_run() -> None:
    (verdict,) = judged(Good, 9)
    assert verdict.outcome is Outcome.NOT_RUN
    assert "--exec" in reports.line(verdict)


def test_capabilities_by_their_words() -> None:
    assert chosen(["all"]) == EVERYTHING
    assert chosen(["versions", "presign"]) == {Capability.VERSIONS, Capability.PRESIGN}
    with pytest.raises(ValueError, match="'verisons' is no capability"):
        chosen(["verisons"])


def test_junit_and_json_hold_the_same() -> None:
    found = judged(variants.HalfOpenRange, 9, 35, 39)
    root = ElementTree.fromstring(reports.junit(found, "provider"))
    assert {name: root.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
    }
    assert "b'bcd'" in (root.findtext("testcase/failure") or "")
    assert [json.loads(json.dumps(reports.record(one)))["outcome"] for one in found] == ["not run", "failed", "passed"]


class ForgetsMetadataAfterADelete(Good):
    """Wrong only after a history: what is written over a delete marker loses its metadata."""

    def stored(self, opening: Any, body: bytes, before: Stored | None) -> Stored:
        found = super().stored(opening, body, before)
        if self.stacks.get(self.where(opening.ref)) and before is None:
            found.metadata = {}
        return found


class WithoutVersions(Good):
    """Has no version ids to tell."""

    def meta(self, ref: Any, found: Stored, where: Where, size: int | None = None) -> Any:
        meta = super().meta(ref, found, where, size)
        meta.ref.version_id = ""
        return meta


class ForgetsMetadataOfReads(WithoutVersions):
    """A read has no metadata."""

    def read_meta(self, request: Any, found: Stored, where: Where, start: int, stop: int) -> Any:
        meta = super().read_meta(request, found, where, start, stop)
        meta.metadata.clear()
        return meta


class RacesOnOneKey(Good):
    """A create-only write may be answered OK although another one was first."""

    def commit(self, where: Where, opening: Any, body: bytes) -> Any:
        opening.if_none_match = ""
        return super().commit(where, opening, body)


@pytest.mark.parametrize(("kind", "length"), [(ForgetsMetadataAfterADelete, 12), (variants.HalfOpenRange, 25)])
def test_the_machine_finds_it_and_its_script_shows_it_again(kind: type[Good], length: int, tmp_path: Path) -> None:
    with served(kind) as target:
        found = machine.explore(target, runs=200, length=length, seed=1)
        assert found.failed
        assert len(found.steps) <= 4, found.script
        script = tmp_path / "found.py"
        script.write_text(found.script)
        again = subprocess.run([sys.executable, str(script), target], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    told = again.stderr.splitlines()
    assert re.match(r"failed at step \d of \d: [A-Z][A-Za-z]+\(", told[0])
    assert told[1].startswith("sent:     ")
    assert any(line.startswith("expected ") for line in told)
    assert [(one.method, bool(one.came)) for one in found.exchanges]
    with served(Good) as target:
        fine = subprocess.run([sys.executable, str(script), target], capture_output=True, text=True, check=False)
    assert (fine.returncode, fine.stdout) == (0, "every answer was as it should be\n"), fine.stderr


@pytest.mark.parametrize(("step", "plays"), [(Together("k", (Write("k"), Delete("k"))), 3), (Write("k"), 1)])
def test_a_script_gives_calls_at_the_same_time_many_chances(
    step: Step, plays: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended well where they happened to go another way than when it was found."""
    played: list[Step] = []

    def play(_: object, step: Step) -> None:
        played.append(step)
        if len(played) == 3:
            raise Deviation("this", "that")

    monkeypatch.setattr(scripts.Player, "play", play)
    failure = scripts.replay(["unix:///nobody"], [step], bucketed=False, capabilities=())
    assert played == [step] * plays
    assert ("failed at step 1 of 1" in (failure or "")) == (plays == 3)
    assert ("every answer" in capsys.readouterr().out) == (plays == 1)


def test_a_script_holds_a_provider_to_what_it_was_held_to(tmp_path: Path) -> None:
    """A provider without versions that has mended what was found must pass, though it promises less than everything."""
    with served(ForgetsMetadataOfReads) as target:
        found = machine.explore(target, runs=50, seed=1, capabilities=frozenset({Capability.DELETE_MISSING}))
    assert found.failed
    script = tmp_path / "found.py"
    script.write_text(found.script)
    with served(WithoutVersions) as target:
        fine = subprocess.run([sys.executable, str(script), target], capture_output=True, text=True, check=False)
        nowhere = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (fine.returncode, fine.stdout) == (0, "every answer was as it should be\n"), fine.stderr
    assert (nowhere.returncode, nowhere.stderr[:29]) == (1, "give where the provider serve")


def test_the_machine_judges_calls_at_the_same_time() -> None:
    with served(RacesOnOneKey) as target:
        found = machine.explore(target, runs=200, length=12, seed=1)
    assert found.failed
    assert "Together" in found.script


def test_one_seed_draws_the_same_sequences() -> None:
    played = []
    for seed in (3, 3, 4):
        with served(Good) as target:
            played.append(machine.explore(target, runs=8, seed=seed).played)
    assert played[0] == played[1]


def test_what_is_not_declared_is_left_out_of_the_sequences() -> None:
    without = EVERYTHING - {Capability.CLAMPED_RANGES, Capability.DELETE_MISSING, Capability.SELF_COPY}
    for kind in (variants.UnclampedEnd, variants.DeleteOfNothingFails, variants.SelfCopyRefused):
        with served(kind) as target:
            found = machine.explore(target, runs=10, seed=2, capabilities=without)
        assert not found.failed, found.script
        assert set(found.left_out) == EVERYTHING - without


def test_what_no_sequence_draws_is_not_said_to_be_left_out_for_want_of_a_word() -> None:
    with served(Good) as target:
        left_out = machine.explore(target, runs=1, capabilities=frozenset()).left_out
    assert {Capability.VERSIONS, Capability.PRESIGN} < set(left_out)
    assert not set(left_out) & {Capability.BUCKETS, Capability.RAW_REQUESTS, Capability.OPAQUE_TOKENS}


def test_the_command_judges_a_provider(tmp_path: Path) -> None:
    xml = tmp_path / "junit.xml"
    with served(variants.HalfOpenRange) as target:
        done = command("--grpc", target, "--only", "ranges", "--capability", "all", "--junit", str(xml))
        told = command("--grpc", target, "--only", "ranges-39", "--json")
    assert done.returncode == 1
    assert "failed   ranges-35-both-ends-are-included" in done.stdout
    assert ElementTree.parse(xml).getroot().get("failures") != "0"
    records = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.returncode == 0
    assert [one.get("check", "") for one in records] == ["ranges-39-an-empty-range-is-the-whole", ""]


def test_the_command_starts_a_provider_and_explores_it(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"dataDir": "{directory}"}')
    provider = ["--exec", shlex.join([sys.executable, "-m", "gestalt_cas", "provider"]), "--config", str(config)]
    done = command(*provider, "--only", "lifecycle-01", "--only", "bodies-12-", "--capability", "all")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 passed"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either --grpc TARGET or --exec COMMAND"),
        (["--grpc", "unix:///x", "--exec", "y"], "give either"),
        (["--grpc", "unix:///x", "--capability", "flying"], "'flying' is no capability"),
        (["--grpc", "unix:///x", "--only", "nonsense"], "no check has nonsense"),
        (["--grpc", "unix:///x", "--explore", "slow"], "'slow' is none of quick, thorough"),
        (["--grpc", "unix:///x"], "nobody serves gRPC at unix:///x"),
        (["--grpc", "tcp://127.0.0.1:1", "--explore", "quick"], "nobody serves gRPC at tcp://127.0.0.1:1"),
        (["--grpc", "unix:///x", "--explore", "quick", "--junit", "x"], "--explore makes no use of --junit"),
        (["--grpc", "unix:///x", "--explore", "quick", "--only", "ranges"], "--explore makes no use of --only"),
        (["--grpc", "unix:///x", "--script", "x"], "--script needs --explore"),
        (["--grpc", "unix://x"], "unix://x: a unix socket is named by its absolute path"),
        (["--exec", "false"], "ended with exit code 1: nothing was printed"),
        (["--exec", "'x"], "No closing quotation"),
        (["--exec", ""], "the command is empty"),
    ],
)
def test_the_command_says_what_is_wrong_with_it(arguments: list[str], says: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert not done.stdout


def test_a_configuration_that_is_no_object_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text("[1]")
    done = command("--exec", "false", "--config", str(config))
    assert (done.returncode, done.stderr.split(" (")[0]) == (2, f"gestalt-cas: {config} is not an object of JSON")


def test_the_directory_of_a_process_is_filled_in_wherever_a_text_is(tmp_path: Path) -> None:
    config = {"one": "{directory}/a", "more": ["{directory}", {"b": "{directory}"}], "number": 1}
    filled = hosting._filled(config, tmp_path)
    assert filled == {"one": f"{tmp_path}/a", "more": [str(tmp_path), {"b": str(tmp_path)}], "number": 1}


def test_a_provider_that_hangs_before_it_is_judged_is_not_waited_for_beyond_the_deadline(tmp_path: Path) -> None:
    path = tmp_path / "hangs.py"
    path.write_text(
        """
import os, socket, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(os.environ["GESTALT_PROVIDER_SOCKET"])
listener.listen()
time.sleep(600)
"""
    )
    done = command("--exec", f"{sys.executable} {path}", "--deadline", "0.5")
    assert done.returncode == 2
    assert "expected to be configured with what was given" in done.stderr
    assert "got DEADLINE_EXCEEDED" in done.stderr


def test_a_configuration_that_the_provider_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"dataDir": "{directory}", "buckets": "no such key"}')
    done = command("--exec", shlex.join([sys.executable, "-m", "gestalt_cas", "provider"]), "--config", str(config))
    assert done.returncode == 2
    assert "INVALID_ARGUMENT: unknown key buckets" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(name="mortal")
def mortal_fixture(tmp_path: Path) -> Path:
    """The command, whose server ends at the twentieth copy."""
    path = tmp_path / "mortal.py"
    path.write_text(
        """
import os, sys
from gestalt_cas.cli.app import run_process
from gestalt_cas.store import Store

copy, copied = Store.copy, []

def end(*arguments, **options):
    copied.append(1)
    if len(copied) == 20:
        os.write(2, b"the last words")
        os._exit(9)
    return copy(*arguments, **options)

Store.copy = end
sys.exit(run_process())
"""
    )
    return path


def test_a_provider_that_was_started_and_has_ended_is_not_judged_further(mortal: Path, tmp_path: Path) -> None:
    config, xml = tmp_path / "config.json", tmp_path / "junit.xml"
    config.write_text('{"dataDir": "{directory}"}')
    provider = shlex.join([sys.executable, str(mortal), "provider"])
    started = ["--exec", provider, "--config", str(config), "--bucketed", "--bucketless"]
    done = command(*started, "--only", "cop", "--capability", "all", "--junit", str(xml))
    assert done.returncode == 2
    told = done.stdout.splitlines()
    assert sum(line.startswith("failed ") for line in told) == 1
    counts = re.fullmatch(r"(\d+) passed, 1 failed, (\d+) not run", told[-1])
    assert counts is not None
    copies = sum("cop" in check.name for check in all_checks())
    assert int(counts[1]) + 1 + int(counts[2]) == copies
    assert re.fullmatch(
        r"the last that the provider printed:\n.*    the last words\n"
        r"gestalt-cas: stopped: nobody serves gRPC at unix://\S+ any more, since \S+: "
        r"the process ended with exit code 9\n",
        done.stderr,
        re.DOTALL,
    )
    suite = ElementTree.parse(xml).getroot()
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == [str(copies), "1", counts[2]]


def test_a_suite_stops_judging_a_provider_that_has_ended(mortal: Path, tmp_path: Path) -> None:
    suite = tmp_path / "test_mine.py"
    suite.write_text(
        f"""
import sys
import pytest
from gestalt_cas.conformance.hosting import Host
from gestalt_cas.conformance.suite import ConformanceSuite

class TestMine(ConformanceSuite):
    host = Host(f"{{sys.executable}} {mortal} provider", {{"dataDir": "{{directory}}"}})

    @pytest.fixture(scope="class")
    @classmethod
    def target(cls):
        with cls.host.running() as running:
            yield running.target
"""
    )
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        "-k",
        "cop or expl",
    ]
    wide = {**os.environ, "COLUMNS": "300"}
    ran = subprocess.run([*words, suite.name], cwd=tmp_path, env=wide, capture_output=True, text=True, check=False)
    told = ran.stdout.splitlines()
    assert re.match(r"1 failed, \d+ passed, \d+ skipped", told[-1]), ran.stdout + ran.stderr
    assert "the process ended with exit code 9" in told
    assert "the last words" in told
    (skipped,) = (line for line in told if line.startswith("SKIPPED"))
    assert re.search(r": nobody serves any more, since \w+-\d+-[-a-z]+$", skipped)


def test_a_process_of_a_lifecycle_check_that_has_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    """And with the calls that it was sent; a stack trace is shown from where it begins."""
    path, config, xml = tmp_path / "sick.py", tmp_path / "config.json", tmp_path / "junit.xml"
    config.write_text('{"dataDir": "{directory}"}')
    path.write_text(
        """
import os, sys
from gestalt_cas.cli.app import run_process
from gestalt_cas.contract.lifecycle import LifecycleService

def end(*_):
    os.write(2, b"panic: the reason\\n" + b"\\tat some frame of the stack\\n" * 60)
    os._exit(9)

LifecycleService._health = end
sys.exit(run_process())
"""
    )
    started = ["--exec", f"{sys.executable} {path} provider", "--config", str(config), "--only", "lifecycle-05"]
    done = command(*started, "--junit", str(xml))
    assert done.returncode == 1
    for part in (
        "sent:     ConfigureProvider ConfigureProviderRequest {",
        "sent:     HealthCheck Empty {}",
        "; the process ended with exit code 9\n",
        "panic: the reason\n                  at some frame of the stack\n",
    ):
        assert part in done.stdout
    assert "panic: the reason" in (ElementTree.parse(xml).getroot().findtext("testcase/failure") or "")


def test_what_a_provider_has_started_ends_with_it(tmp_path: Path) -> None:
    """A command line may be a shell around the provider, which would be left behind each time."""
    fifo = tmp_path / "held"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    shell = f"sleep 60 >{fifo} & {sys.executable} -m gestalt_cas provider; true"
    try:
        with Host(f"sh -c {shlex.quote(shell)}").running(configured=False) as running:
            assert running.alive
            with pytest.raises(BlockingIOError):  # somebody has the other end
                os.read(held, 1)
        until = time.monotonic() + 30
        while (left := _is_held(held)) and time.monotonic() < until:
            time.sleep(0.02)
        assert not left
    finally:
        os.close(held)


def _is_held(fifo: int) -> bool:
    try:
        return bool(os.read(fifo, 1))
    except BlockingIOError:
        return True


class NeverDeletes(Good):
    """A delete hangs until its caller gives up."""

    def DeleteObject(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name is gRPC's
        while context.is_active():
            time.sleep(0.02)
        return super().DeleteObject(request, context)


def test_a_call_that_hangs_fails_its_check_at_the_deadline() -> None:
    with served(NeverDeletes) as target:
        done = command("--grpc", target, "--only", "listing-57", "--deadline", "0.5")
    assert done.returncode == 1
    assert "expected: the call to be answered within 0.5 s\n    got:      DEADLINE_EXCEEDED" in done.stdout


def test_an_upload_beside_others_is_shown_with_its_answer() -> None:
    (verdict,) = judged(variants.LateFailureNotDrained, 34)
    upload = verdict.exchanges[-1]
    assert re.match(r'WriteObjectRequest \{open \{ .*if_none_match: "\*" \}\}', upload.sent)
    assert upload.came.startswith("FAILED_PRECONDITION")
    (verdict,) = judged(variants.CancelCommitted, 29)
    assert "cancelled by its caller" in [exchange.came for exchange in verdict.exchanges]


def test_frames_are_counted_by_what_they_are() -> None:
    (verdict,) = judged(variants.SecondOpeningIgnored, 28)
    assert re.fullmatch(
        r"WriteObjectRequest \{open.*\}, then 2 data frames of 2 bytes, and WriteObjectRequest \{open.*\}",
        verdict.exchanges[-1].sent,
    )


def test_a_sequence_that_ends_the_provider_is_kept_as_it_was_drawn(mortal: Path, tmp_path: Path) -> None:
    """Every shorter one would fail as well, with nobody there, and the shortest would be printed as the finding."""
    config, script = tmp_path / "config.json", tmp_path / "found.py"
    config.write_text('{"dataDir": "{directory}"}')
    started = ["--exec", shlex.join([sys.executable, str(mortal), "provider"]), "--config", str(config)]
    done = command(*started, "--explore", "quick", "--seed", "1", "--script", str(script), "--json")
    assert done.returncode == 2
    (record,) = (json.loads(line) for line in done.stdout.splitlines())
    assert (record["gone"], "UNAVAILABLE" in record["deviation"]) == (True, True)
    steps = re.findall(r"^    ([A-Z][A-Za-z]+)\(", script.read_text(), re.MULTILINE)
    assert (len(steps) > 1, steps[-1]) == (True, "Copy")
    *_, said = done.stderr.splitlines()
    assert json.loads(said)["error"]["kind"] == "ProviderGone"


def test_a_provider_that_is_started_again_is_waited_for(tmp_path: Path) -> None:
    target = f"unix://{tmp_path}/s"
    server = grpc.server(ThreadPoolExecutor(1))

    def start() -> None:
        server.add_insecure_port(target)
        server.start()

    assert not presence.answers(target)
    timer = threading.Timer(0.3, start)
    timer.start()
    assert presence.answers(target, back_seconds=60)
    timer.join()
    server.stop(None).wait()


def test_the_checks_are_listed() -> None:
    done = command("--list", "--json")
    listed = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(listed) == len(all_checks())
    assert all(one["intent"].endswith(".") and one["evidence"] for one in listed)
