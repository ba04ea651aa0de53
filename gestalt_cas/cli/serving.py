"""The verbs that serve: `serve` for this machine's own clients, `provider` under a Gestalt host."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from gestalt_cas.cli.session import Session, data_dir_option
from gestalt_cas.errors import DatabaseDamaged, InvalidConfig, SettingsConflict, StoreUnusable

log_format_option = click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="How to log on stderr."
)


@click.command()
@data_dir_option()
@click.option(
    "--grpc",
    "grpc_target",
    metavar="TARGET",
    help="unix:///path or tcp://host:port (port 0: any free one). [default: grpc.sock in the data directory]",
)
@click.option(
    "--http",
    "http_listen",
    metavar="HOST:PORT",
    help="Where to serve presigned URLs. [default: a loopback port that stays the same]",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="Configuration, JSON or YAML."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set one configuration key, as in limits.concurrentReads=16; wins over --config. May be repeated.",
)
@click.option(
    "--allow-unauthenticated",
    is_flag=True,
    help="Listen where other machines can reach it, although nothing authenticates callers.",
)
@log_format_option
@click.make_pass_decorator(Session, ensure=True)
def serve(
    session: Session,
    grpc_target: str | None,
    http_listen: str | None,
    config_file: Path | None,
    assignments: tuple[str, ...],
    allow_unauthenticated: bool,
    log_format: str,
) -> int:
    """Serve a store until stopped; makes an absent one.

    When ready, prints one line of JSON on stdout: {"event":"ready","grpc":"…","data_dir":"…"}. Everything else goes to
    stderr. SIGTERM or ctrl-C ends it with exit code 0.
    """
    from gestalt_cas import server
    from gestalt_cas.configuration import config, config_sources
    from gestalt_cas.serving import logs, targets

    logs.set_up(log_format)
    given = config_sources.load_file(config_file) if config_file is not None else {}
    given = config_sources.merge(given, config_sources.assignments(assignments))
    if "dataDir" not in given or _named_on_the_command_line("data_dir"):
        given = config_sources.merge(given, {"dataDir": str(session.directory)})
    if http_listen is not None:
        given = config_sources.merge(given, {"http": {"enabled": True, "listen": http_listen}})
    parsed = config.parse(given)
    if parsed.telemetry.log_format:
        logs.set_up(parsed.telemetry.log_format)
    target = targets.parse(grpc_target) if grpc_target else targets.default(parsed.data_dir)
    try:
        return server.serve(parsed, target, allow_unauthenticated=allow_unauthenticated)
    except (SettingsConflict, DatabaseDamaged) as error:
        # Whatever keeps a server from starting is exit code 2; room and locks, which come and go, keep their own.
        raise StoreUnusable(str(error)) from error


def _named_on_the_command_line(parameter: str) -> bool:
    """Whether an option was given before or after the verb, as opposed to coming from the environment."""
    context: click.Context | None = click.get_current_context()
    while context is not None:
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            return True
        context = context.parent
    return False


@click.command()
@log_format_option
def provider(log_format: str) -> int:
    """Serve under a Gestalt host, which names the socket in GESTALT_PROVIDER_SOCKET and configures over it."""
    from gestalt_cas import server
    from gestalt_cas.serving import host, logs

    logs.set_up(log_format)
    target = host.socket_target()
    if not target:
        raise InvalidConfig("GESTALT_PROVIDER_SOCKET is not set: this verb is started by a Gestalt host; use serve")
    return server.serve_host(target)
