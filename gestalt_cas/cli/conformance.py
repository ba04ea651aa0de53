"""The verb `conformance`: judge any S3 provider by the contract, over its socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.output import Output, escaped
from gestalt_cas.cli.session import Session, json_option

if TYPE_CHECKING:
    from gestalt_cas.conformance.capabilities import Capability
    from gestalt_cas.conformance.hosting import Host, Running
    from gestalt_cas.conformance.machine import Exploration
    from gestalt_cas.conformance.registry import Check
    from gestalt_cas.conformance.running import Verdict


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
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long a call may take.",
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
    deadline: float,
    junit: Path | None,
) -> int:
    """Judge an S3 provider by the contract: any process that serves gestalt.provider.v1.S3.

    Each case of the contract is a named check, run in a bucket or below a prefix of its own. It writes and deletes, so
    give it a provider to play with. Exit code 0: no check failed; 1: some did; 2: nobody serves there, or any more.
    """
    from gestalt_cas.conformance.checks import all_checks

    checks = [check for check in all_checks() if not only or any(text in check.name for text in only)]
    if not checks:
        raise click.UsageError(f"no check has {' or '.join(only)} in its name; see --list")
    if listed:
        return _list(session.output, checks)
    if explore is not None and (only or junit is not None):
        raise click.UsageError(f"--explore makes no use of {'--only' if only else '--junit'}")
    if explore is None and script is not None:
        raise click.UsageError("--script needs --explore")
    declared = _declared(capabilities)
    host = _host(command, config_file)
    if explore is not None:
        _require_profile(explore)
    generations = [kind for kind, wanted in ((True, bucketed), (False, bucketless or not bucketed)) if wanted]
    with _provider(session.output, target, host, deadline) as found:
        if explore is not None:
            ways = _explorations(session.output, found, generations, declared, explore, seed)
            return _explored(session.output, ways, script, found)
        verdicts = _verdicts(session.output, checks, found, generations, declared, host)
    return _judged(session.output, verdicts, junit, found)


@dataclass
class _Provider:
    """Who is judged.

    Once nobody serves there any more `gone` says since when and how that came about, and `printed` is the last that
    the process printed.
    """

    target: str
    deadline: float
    process: Running | None = None
    gone: str = ""
    printed: str = ""

    def serves(self, target: str) -> bool:
        """Whether it is still there; its process, if that is known, says so at once."""
        from gestalt_cas.conformance.presence import still_answers

        return (self.process is None or self.process.alive) and still_answers(target)

    def note_gone(self, since: str) -> None:
        end = self.process.end if self.process is not None else ""
        self.printed = self.process.printed if self.process is not None and end else ""
        self.gone = f"nobody serves gRPC at {self.target} any more, since {since}{': ' if end else ''}{end}"


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
    if not isinstance(config, dict):
        raise click.UsageError(f"{config_file} is not an object of JSON")
    try:
        return Host(command, config)
    except ValueError as error:
        raise click.BadParameter(f"{command!r}: {error}", param_hint="--exec") from None


@contextmanager
def _provider(out: Output, target: str | None, host: Host | None, deadline: float) -> Iterator[_Provider]:
    """The provider to judge: at the target that was named, or a process that was started."""
    from gestalt_cas.conformance.registry import Deviation

    if (target is None) == (host is None):
        raise click.UsageError("give either --grpc TARGET or --exec COMMAND")
    if target is not None:
        _require_answer(target)
        yield _Provider(target, deadline)
        return
    assert host is not None
    try:
        with host.running(deadline=deadline) as running:
            yield _Provider(running.target, deadline, running)
    except Deviation as deviation:
        raise click.UsageError(f"--exec: {deviation}{_told_before(out, deviation.printed)}") from None


def _told_before(out: Output, printed: str) -> str:
    """Show the last that the provider printed before it is said what is wrong; with --json, what to add to that."""
    if not printed or out.json:
        return f": {printed}" if printed else ""
    out.aside({}, "the last that the provider printed:")
    for line in printed.expandtabs(4).splitlines():
        out.aside({}, f"    {escaped(line)}")
    return ""


def _require_answer(target: str) -> None:
    """Say once that nobody serves there, rather than with each check."""
    from gestalt_cas.conformance.presence import answers

    if target.startswith("unix://") and not target.startswith("unix:///"):
        raise click.UsageError(f"--grpc: {target}: a unix socket is named by its absolute path, as unix:///PATH")
    if not answers(target):
        raise click.UsageError(f"--grpc: nobody serves gRPC at {target}")


def _verdicts(
    out: Output,
    checks: list[Check],
    provider: _Provider,
    generations: list[bool],
    declared: frozenset[Capability],
    host: Host | None,
) -> list[Verdict]:
    found: list[Verdict] = []
    for kind in generations:
        if not provider.gone:
            found += _run(out, checks, provider, kind, declared, host)
    return found


def _run(
    out: Output,
    checks: list[Check],
    provider: _Provider,
    bucketed: bool,
    declared: frozenset[Capability],
    host: Host | None,
) -> list[Verdict]:
    from gestalt_cas.conformance import reports
    from gestalt_cas.conformance.running import run

    def tell(verdict: Verdict) -> None:
        text = "\n".join(escaped(line) for line in reports.line(verdict).splitlines())
        out.result(reports.record(verdict), text)

    return run(
        checks,
        provider.target,
        bucketed=bucketed,
        declared=declared,
        host=host,
        on_verdict=tell,
        on_gone=lambda check: provider.note_gone(check.name),
        serves=provider.serves,
        deadline=provider.deadline,
    )


def _judged(out: Output, verdicts: list[Verdict], junit: Path | None, provider: _Provider) -> int:
    from gestalt_cas.conformance import reports

    if junit is not None:
        junit.write_bytes(reports.junit(verdicts, "gestalt.provider.v1.S3"))
    out.result({"summary": reports.counts(verdicts)}, reports.summary(verdicts))
    return _ended(out, provider, failed=any(verdict.failed for verdict in verdicts))


def _ended(out: Output, provider: _Provider, *, failed: bool) -> int:
    """The exit code, after saying that the run stopped early if it did."""
    if provider.gone:
        printed = _told_before(out, provider.printed)
        out.failure("ProviderGone", f"stopped: {provider.gone}{printed}", exits.USAGE)
        return exits.USAGE
    return exits.NOT_FOUND if failed else exits.OK


def _require_profile(profile: str) -> None:
    try:
        from gestalt_cas.conformance.machine import PROFILES
    except ImportError:
        raise click.UsageError("--explore needs Hypothesis: pip install 'gestalt-cas[conformance]'") from None
    if profile not in PROFILES:
        raise click.BadParameter(f"{profile!r} is none of {', '.join(PROFILES)}", param_hint="--explore")


def _explorations(
    out: Output,
    provider: _Provider,
    generations: list[bool],
    declared: frozenset[Capability],
    profile: str,
    seed: int,
) -> list[Exploration]:
    from gestalt_cas.conformance import machine

    ways: list[Exploration] = []
    for kind in generations:
        if not provider.gone:
            found = machine.explore(
                provider.target,
                profile=profile,
                seed=seed,
                bucketed=kind,
                capabilities=declared,
                serves=provider.serves,
                deadline=provider.deadline,
            )
            out.result(_record(found, kind), _told(found, kind))
            if found.gone:
                provider.note_gone("the sequence above, which was not made short for that")
            ways.append(found)
    return ways


def _record(found: Exploration, bucketed: bool) -> dict[str, Any]:
    return {
        "runs": found.runs,
        "steps": found.played,
        "seed": found.seed,
        "bucketed": bucketed,
        "left_out": [capability.value for capability in found.left_out],
        "deviation": found.deviation,
        "exchanges": [exchange.as_json() for exchange in found.exchanges],
        "script": found.script,
        "gone": found.gone,
    }


def _told(found: Exploration, bucketed: bool) -> str:
    from gestalt_cas.conformance.wire import lines

    left_out = ", ".join(capability.value for capability in found.left_out)
    shown = f"{found.runs} sequences, {found.played} calls, seed {found.seed}{', bucketed' if bucketed else ''}"
    shown += f"; left out, since not declared: {left_out}" if left_out else ""
    if not found.failed:
        return f"{shown}\npassed"
    return "\n".join([shown, f"failed: {found.deviation}", *map(escaped, lines(found.exchanges)), "", found.script])


def _explored(out: Output, ways: list[Exploration], script: Path | None, provider: _Provider) -> int:
    failed = [found for found in ways if found.failed]
    if failed and script is not None:
        script.write_text(failed[0].script)
        out.warn(f"the failing sequence is in {script}")
    return _ended(out, provider, failed=bool(failed))
