"""The verbs `init` and `config`: the store itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.errors import InvalidConfig


@click.command()
@common_options
def init(session: Session) -> int:
    """Make an empty store in the data directory; one of an earlier release is upgraded, any other stays as it is."""
    from gestalt_cas.files.layout import Layout
    from gestalt_cas.store import Store

    directory = session.directory
    created = not Layout(directory).database.exists()
    before = _old_databases(directory)
    with Store.open(directory) as store:
        path = str(store.directory)
    kept = sorted(_old_databases(directory) - before)
    done = "made a store in" if created else "upgraded the store in" if kept else "there is a store in"
    rest = f"; its old database is kept as {kept[0]}" if kept else ""
    session.output.result({"data_dir": path, "created": created, "upgraded": bool(kept)}, f"{done} {path}{rest}")
    return exits.OK


def _old_databases(directory: Path) -> set[str]:
    """What upgrades have kept."""
    return {path.name for path in directory.glob("metadata.before-upgrade-from-*.sqlite3")}


@click.command()
@click.argument("key", required=False)
@click.argument("value", required=False)
@common_options
def config(session: Session, key: str | None, value: str | None) -> int:
    """Show the store's settings, or the one named KEY, or set it to VALUE.

    Settings belong to the store: a change counts from the next write on, in every process that has it open.
    """
    with session.store() as store:
        present = store.settings().by_name()
        if key is not None and key not in present:
            raise InvalidConfig(f"{key}: no such setting; the store's settings are {', '.join(present)}")
        if key is not None and value is not None:
            present = store.change_settings({key: _parsed(value, present[key])}).by_name()
    output = session.output
    if key is not None:
        output.result({key: present[key]}, _shown(present[key]))
    elif session.json:
        output.result(present, "")
    else:
        for name, setting in present.items():
            output.result({}, f"{name} {_shown(setting)}")
    return exits.OK


def _shown(value: object) -> str:
    """A value as it would be set: text as it is, an object as JSON."""
    return json.dumps(value, default=dict) if isinstance(value, Mapping) else str(value)


def _parsed(text: str, present: object) -> object:
    """A value as the setting has them: text as it is, anything else as JSON if it is JSON."""
    if isinstance(present, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
