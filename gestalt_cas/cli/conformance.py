"""The verb `conformance`: judge any S3 provider by the contract, over its socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.output import Output, escaped
from gestalt_cas.cli.session import Session, json_option

if TYPE_CHECKING:
    from gestalt_cas.conformance.capabilities import Capability
    from gestalt_cas.conformance.hosting import Host
    from gestalt_cas.conformance.machine import Exploration
    from gestalt_cas.conformance.registry import Check
    from gestalt_cas.conformance.running import Verdict

_ANSWER_SECONDS = 10.0


@click.command()
@click.option("--grpc", "target", metavar="TARGET", help="Where the provider serves: unix:///path or tcp://host:port.")
@click.option("--exec", "command", metavar="COMMAND", help="Start the provider as a host does, and judge that.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --exec: what to configure it with, JSON; {directory} in a text is a new directory of each process.",
)
@click.option("--bucketed", is_flag=True, help="Speak as SDKs up to 0.0.1a19 do, with a bucket in each reference.")
@click.option("--bucketless", is_flag=True, help="Speak as SDKs from 0.0.1a20 on do. [default]")
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    metavar="WORD",
    help="What the provider declares, and is then held to; `all` for everything. Others are probed and reported.",
)
@click.option("--only", multiple=True, metavar="TEXT", help="Only checks whose name has this text. May be repeated.")
@click.option("--list", "listed", is_flag=True, help="List the checks and what each is for, and run none.")
@click.option("--explore", metavar="PROFILE", help="Random sequences against an oracle: quick (a minute), thorough.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="With --explore: the same seed, the same sequences."
)
@click.option(
    "--script", type=click.Path(path_type=Path), metavar="FILE", help="With --explore: where a failing sequence goes."
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="Write JUnit's XML, too.")
@json_option
@click.make_pass_decorator(Session, ensure=True)
def conformance(
    session: Session,
    target: str | None,
    command: str | None,
    config_file: Path | None,
    bucketed: bool,
    bucketless: bool,
    capabilities: tuple[str, ...],
    only: tuple[str, ...],
    listed: bool,
    explore: str | None,
    seed: int,
    script: Path | None,
    junit: Path | None,
) -> int:
    """Judge an S3 provider by the contract: any process that serves gestalt.provider.v1.S3.

    Each case of the contract is a named check, run in a bucket or below a prefix of its own. It writes and deletes, so
    give it a provider to play with. Exit code 0: no check failed; 1: some did.
    """
    from gestalt_cas.conformance.checks import all_checks

    checks = [check for check in all_checks() if not only or any(text in check.name for text in only)]
    if not checks:
        raise click.UsageError(f"no check has {' or '.join(only)} in its name; see --list")
    if listed:
        return _list(session.output, checks)
    declared = _declared(capabilities)
    host = _host(command, config_file)
    if explore is not None:
        _require_profile(explore)
    generations = [kind for kind, wanted in ((True, bucketed), (False, bucketless or not bucketed)) if wanted]
    with _provider(target, host) as found:
        if explore is not None:
            ways = [_explore(session.output, found, kind, declared, explore, seed) for kind in generations]
            return _explored(session.output, ways, script)
        verdicts = [v for kind in generations for v in _run(session.output, checks, found, kind, declared, host)]
    return _judged(session.output, verdicts, junit)


def _list(out: Output, checks: list[Check]) -> int:
    for check in checks:
        needs = sorted(need.value for need in check.needs)
        record = {"check": check.name, "intent": check.intent, "evidence": check.evidence, "needs": needs}
        shown = f" (needs {', '.join(needs)})" if needs else ""
        out.result(record, f"{check.name}{shown}\n    {check.intent}")
    return exits.OK


def _declared(words: tuple[str, ...]) -> frozenset[Capability]:
    from gestalt_cas.conformance.capabilities import chosen

    try:
        return chosen(words)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--capability") from None


def _host(command: str | None, config_file: Path | None) -> Host | None:
    from gestalt_cas.conformance.hosting import Host

    if command is None:
        if config_file is not None:
            raise click.UsageError("--config needs --exec")
        return None
    try:
        config = json.loads(config_file.read_text()) if config_file is not None else {}
    except ValueError as error:
        raise click.UsageError(f"{config_file} is not JSON: {error}") from None
    return Host(command, config)


@contextmanager
def _provider(target: str | None, host: Host | None) -> Iterator[str]:
    """The target to judge: the one that was named, or a process that was started."""
    from gestalt_cas.conformance.registry import Deviation

    if (target is None) == (host is None):
        raise click.UsageError("give either --grpc TARGET or --exec COMMAND")
    if target is not None:
        _require_answer(target)
        yield target
        return
    assert host is not None
    try:
        with host.running() as running:
            yield running.target
    except Deviation as deviation:
        raise click.UsageError(f"--exec: {deviation}") from None


def _require_answer(target: str) -> None:
    """Say once that nobody serves there, rather than with each check."""
    from queue import Empty, SimpleQueue

    from grpc import ChannelConnectivity

    from gestalt_cas.conformance.wire import open_channel

    states: SimpleQueue[ChannelConnectivity] = SimpleQueue()
    with open_channel(target) as channel:
        channel.subscribe(states.put, try_to_connect=True)
        try:
            while (state := states.get(timeout=_ANSWER_SECONDS)) is not ChannelConnectivity.READY:
                if state is ChannelConnectivity.TRANSIENT_FAILURE:
                    break
            else:
                return
        except Empty:
            pass
    raise click.UsageError(f"--grpc: nobody serves gRPC at {target}")


def _run(
    out: Output, checks: list[Check], target: str, bucketed: bool, declared: frozenset[Capability], host: Host | None
) -> list[Verdict]:
    from gestalt_cas.conformance import reports
    from gestalt_cas.conformance.running import run

    def tell(verdict: Verdict) -> None:
        text = "\n".join(escaped(line) for line in reports.line(verdict).splitlines())
        out.result({**reports.record(verdict), "bucketed": bucketed}, text)

    return run(checks, target, bucketed=bucketed, declared=declared, host=host, on_verdict=tell)


def _judged(out: Output, verdicts: list[Verdict], junit: Path | None) -> int:
    from gestalt_cas.conformance import reports

    if junit is not None:
        junit.write_bytes(reports.junit(verdicts, "gestalt.provider.v1.S3"))
    out.result({"summary": reports.counts(verdicts)}, reports.summary(verdicts))
    return exits.NOT_FOUND if any(verdict.failed for verdict in verdicts) else exits.OK


def _require_profile(profile: str) -> None:
    try:
        from gestalt_cas.conformance.machine import PROFILES
    except ImportError:
        raise click.UsageError("--explore needs Hypothesis: pip install 'gestalt-cas[conformance]'") from None
    if profile not in PROFILES:
        raise click.BadParameter(f"{profile!r} is none of {', '.join(PROFILES)}", param_hint="--explore")


def _explore(
    out: Output, target: str, bucketed: bool, declared: frozenset[Capability], profile: str, seed: int
) -> Exploration:
    from gestalt_cas.conformance import machine

    found = machine.explore(target, profile=profile, seed=seed, bucketed=bucketed, capabilities=declared)
    out.result(_record(found, bucketed), _told(found))
    return found


def _record(found: Exploration, bucketed: bool) -> dict[str, Any]:
    return {
        "runs": found.runs,
        "steps": found.played,
        "seed": found.seed,
        "bucketed": bucketed,
        "left_out": [capability.value for capability in found.left_out],
        "deviation": found.deviation,
        "script": found.script,
    }


def _told(found: Exploration) -> str:
    left_out = ", ".join(capability.value for capability in found.left_out)
    shown = f"{found.runs} sequences, {found.played} calls, seed {found.seed}"
    shown += f"; left out, since not declared: {left_out}" if left_out else ""
    return f"{shown}\nfailed: {found.deviation}\n\n{found.script}" if found.failed else f"{shown}\npassed"


def _explored(out: Output, ways: list[Exploration], script: Path | None) -> int:
    failed = [found for found in ways if found.failed]
    if failed and script is not None:
        script.write_text(failed[0].script)
        out.warn(f"the failing sequence is in {script}")
    return exits.NOT_FOUND if failed else exits.OK
