"""The verb `completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gestalt_cas.cli import exits
from gestalt_cas.cli.session import Session, common_options

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@common_options
def completion(session: Session, shell: str) -> int:
    """Print a script that completes verbs, options and the names of objects in SHELL.

    bash:  eval "$(gestalt-cas completion bash)"

    zsh:   eval "$(gestalt-cas completion zsh)"

    fish:  gestalt-cas completion fish | source
    """
    from gestalt_cas.cli.app import PROGRAM, app

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(app, {}, PROGRAM, f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE").source()
    session.output.result({"shell": shell, "script": script}, script)
    return exits.OK
