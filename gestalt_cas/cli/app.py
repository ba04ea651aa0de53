"""The command `gestalt-cas`: its verbs, loaded when they are called, and how every failure ends.

The table of verbs holds their one-line help, so that `gestalt-cas --help` and completing a verb import no verb, and
with that neither grpc nor the SDK nor SQLAlchemy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.output import Output
from gestalt_cas.cli.session import DATA_DIR_VARIABLE, Session, data_dir_option
from gestalt_cas.errors import StoreError
from gestalt_cas.system import cycles, exhaustion, refusals

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "gestalt-cas"


class Verb(NamedTuple):
    """Where a verb's command is: the attribute of a module of this package."""

    module: str
    attribute: str
    help: str


VERBS = {
    "put": Verb("objects", "put", "Store a file, or with -r a directory."),
    "get": Verb("objects", "get", "Write an object to a file, or with -r a prefix to a directory."),
    "cat": Verb("objects", "cat", "Write an object to stdout."),
    "cp": Verb("objects", "cp", "Copy an object within the store."),
    "rm": Verb("objects", "rm", "Remove an object, a version, or with -r a prefix."),
    "ls": Verb("listings", "ls", "List buckets, or objects and common prefixes."),
    "stat": Verb("listings", "stat", "Show everything known of an object."),
    "versions": Verb("listings", "versions", "List the versions of an object, the newest first."),
    "du": Verb("listings", "du", "Count objects, versions and bytes."),
    "sync": Verb("trees", "sync", "Make a prefix like a directory, or a directory like a prefix."),
    "diff": Verb("history", "diff", "Show what changed between two moments."),
    "snapshot": Verb("snapshots", "snapshot", "Name moments, and keep what was there."),
    "rollback": Verb("rollbacks", "rollback", "Make a bucket or prefix what it was at an earlier moment."),
    "undelete": Verb("history", "undelete", "Bring a deleted object back."),
    "batch": Verb("batches", "batch", "Make changes from a file, all of them or none."),
    "check": Verb("checks", "check", "Look for damage and inconsistencies, and repair them."),
    "prove": Verb("proofs", "prove", "Print one digest of what a bucket holds."),
    "gc": Verb("upkeep", "gc", "Remove payloads that no version reaches."),
    "purge": Verb("upkeep", "purge", "Remove an object with all its versions and bytes."),
    "backup": Verb("backups", "backup", "Copy the store to a directory, while it is in use."),
    "restore": Verb("backups", "restore", "Make a store from a backup; or an older version current again."),
    "init": Verb("settings", "init", "Make an empty store."),
    "config": Verb("settings", "config", "Show or change the store's settings."),
    "stats": Verb("reports", "stats", "Count what the store holds, and show how it fares."),
    "doctor": Verb("reports", "doctor", "Examine what is around the store, with remedies."),
    "quota": Verb("quotas", "quota", "Limit the bytes that a bucket or prefix may take."),
    "retention": Verb("retention", "retention", "Show or remove what goes by the rules of the settings."),
    "hold": Verb("holds", "hold", "Have nothing remove a version, or what is below a prefix."),
    "keys": Verb("keys", "keys", "Replace the keys that sign presigned URLs."),
    "serve": Verb("serving", "serve", "Serve the store over gRPC, without a host."),
    "provider": Verb("serving", "provider", "Serve as a provider under a Gestalt host."),
    "conformance": Verb("conformance", "conformance", "Judge any S3 provider by the contract."),
    "completion": Verb("completion", "completion", "Print a script that completes commands in a shell."),
}


class App(click.Group):
    """The group of verbs, by table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = getattr(import_module(f"gestalt_cas.cli.{verb.module}"), verb.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        verbs = [CompletionItem(name, help=verb.help) for name, verb in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader of stdout that went away (as `head` does) ends it without a word."""
        try:
            result = super().invoke(ctx)
            with refusals.on_stream("stdout"):
                sys.stdout.flush()
        except BrokenPipeError:
            _drop(sys.stdout)
            return exits.BROKEN_PIPE
        return result


def _drop(stream: TextIO) -> None:
    """Let what is still to be flushed at exit go nowhere, instead of failing once more."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from gestalt_cas import __version__

        click.echo(f"{PROGRAM} {__version__}")
        context.exit()


_EPILOG = (
    "Exit codes: "
    + ", ".join(f"{code} {meaning}" for code, meaning in exits.MEANINGS.items())
    + '. With --json an error is the last line on stderr, an object under the key "error".'
)


@click.group(cls=App, invoke_without_command=True, epilog=_EPILOG)
@data_dir_option(variable=DATA_DIR_VARIABLE)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def app(context: click.Context) -> int:
    """A versioned, deduplicating object store in one directory.

    Objects are named BUCKET/KEY: the first '/' splits, and no bucket before it means the store's default one. So the
    key '/a' is BUCKET//a. A verb works on the directory itself, also while a server has it open.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return exits.USAGE
    return exits.OK


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (this process's when None) and return its exit code; failures are printed, not raised."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    session = Session()
    try:
        result = app.main(words, prog_name=PROGRAM, standalone_mode=False, obj=session)
        return result if isinstance(result, int) else exits.OK
    except click.Abort:
        return exits.INTERRUPTED
    except click.ClickException as error:
        return _report(session, words, error.__class__.__name__, _usage(error), exits.USAGE)
    except OSError as error:
        return _report(session, words, error.__class__.__name__, _about(error), exits.code_of(error))
    except Exception as error:
        explained = session.explained(error)
        if not isinstance(explained, StoreError):
            raise
        return _report(session, words, explained.__class__.__name__, str(explained), exits.code_of(explained))


def _report(session: Session, words: list[str], kind: str, message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody is left to tell
        Output(json=session.json or "--json" in words).failure(kind, message, code)
    return code


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    return " ".join(error.format_message().split()).rstrip(".") + hint


def _about(error: OSError) -> str:
    if error.errno == errno.ENOENT and error.filename is None and _working_directory_is_gone():
        return "the working directory has been removed; change to one that is there"
    text = error.strerror or str(error)
    if refusals.is_want_of_files(error):
        text = f"{text}; {refusals.MORE_FILES}"
    elif refusals.is_file_limit(error):
        text = f"{text}; {refusals.longer_files()}"
    return f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, str | bytes) else text


def _working_directory_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _terminate(*_: object) -> None:
    raise SystemExit(exits.TERMINATED)


def _replace_closed_streams() -> None:
    """Give 0, 1 and 2 a file each, lest the database get one of these numbers and whatever is printed go into it.

    What was closed stays unusable: reading a closed stdin and writing to a closed stdout fail with EBADF.
    """
    for name, mode, access in (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, access), mode))


def run_process() -> int:
    """`run` for a process of its own: SIGTERM ends it as cleanly as ctrl-C does, and keys are printed as UTF-8."""
    cycles.begin()
    _replace_closed_streams()
    signal.signal(signal.SIGTERM, _terminate)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if exhaustion.is_exhaustion(error):
            with contextlib.suppress(OSError, MemoryError):
                sys.stdout.flush()  # what is done, and was said to be
            exhaustion.leave(error)  # returning would wait for whatever threads there are
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):  # the interpreter would flush them, and leave with 120 if it cannot
            try:
                stream.flush()
            except OSError:  # reported already, by the verb that could not print, or there is nobody to tell
                _drop(stream)
        cycles.end()
