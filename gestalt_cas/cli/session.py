"""What all verbs share: where the store is, how to print, and the two options that say so.

`--data-dir` may stand before the verb or after it (after wins), then comes GESTALT_CAS_DATA_DIR, then the store
`default` in the user's data folder. Verbs never make a store by accident: an absent one is exit code 10, and `init` or
`serve` makes one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gestalt_cas.cli.output import Output
from gestalt_cas.errors import NoStore, StoreError

if TYPE_CHECKING:
    from gestalt_cas.store import Store

DATA_DIR_VARIABLE = "GESTALT_CAS_DATA_DIR"
_Callable = TypeVar("_Callable", bound=Callable[..., Any])


@dataclass
class Session:
    """The object of click's context. `data_dir` is what was given, "" when nothing was."""

    data_dir: str = ""
    json: bool = False
    opened: bool = False
    """Whether the verb has opened the store."""

    @property
    def directory(self) -> Path:
        """The data directory to use."""
        if self.data_dir:
            return Path(self.data_dir)
        from gestalt_cas.configuration.config import default_data_dir

        return default_data_dir("default")

    @property
    def output(self) -> Output:
        return Output(json=self.json)

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """Open the store for the block; raises NoStore, saying how to make one, when there is none."""
        with self._opened() as store:
            yield store

    def _opened(self) -> Store:
        import logging

        from gestalt_cas.store import Store

        # A verb reports its failures itself, on one line; without any handler, logging would print them once more.
        if not (log := logging.getLogger("gestalt_cas")).hasHandlers():
            log.addHandler(logging.NullHandler())
        try:
            store = Store.open(self.directory, create=False)
        except NoStore as error:
            raise self.hinted(error) from None
        self.opened = True
        return store

    def explained(self, error: Exception) -> Exception:
        """What a verb ended with, or DatabaseDamaged where rows of the store that it opened are behind that.

        The store is closed by now, so it is opened anew.
        """
        if not self.opened:
            return error
        from gestalt_cas.wrong_values import suspicions

        if not suspicions.may_be_behind(error):
            return error
        try:
            with self._opened() as store:
                return store.explained(error)
        except (StoreError, OSError):
            return error

    def hinted(self, error: NoStore) -> NoStore:
        """The error with what makes a store, where none was."""
        from gestalt_cas.files.layout import Layout

        layout = Layout(self.directory)
        if layout.has_payloads() or (os.path.lexists(layout.root) and not layout.root.is_dir()):
            return error
        return NoStore(f"{error}; make one with: {self.command('init')}  (serve makes one, too)")

    def command(self, words: str) -> str:
        """A command on the same store, for a message."""
        from gestalt_cas.remedies import command

        return command(words, self.directory.absolute())


def _set_data_dir(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value == "":  # from an unset variable of a script; the default store is not what was meant
        raise click.BadParameter("the value is empty")
    if value:
        context.ensure_object(Session).data_dir = value


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).json = True


def data_dir_option(*, variable: str | None = None) -> Callable[[_Callable], _Callable]:
    """The option --data-dir, kept in the session; `variable` is the environment variable to fall back to."""
    return click.option(
        "--data-dir",
        metavar="DIR",
        envvar=variable,
        expose_value=False,
        callback=_set_data_dir,
        help=f"The store's directory. [default: ${DATA_DIR_VARIABLE}, else 'default' in the user's data folder]",
    )


json_option = click.option(
    "--json", is_flag=True, expose_value=False, callback=_set_json, help="Print JSON, one object a line."
)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb --data-dir and --json, and the session as its first argument."""
    with_session: Callable[..., Any] = click.make_pass_decorator(Session, ensure=True)(command)
    return data_dir_option()(json_option(with_session))
