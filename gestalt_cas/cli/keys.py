"""The verb `keys`: the key pair that signs presigned URLs."""

from __future__ import annotations

import click

from gestalt_cas.cli import exits
from gestalt_cas.cli.session import Session, common_options
from gestalt_cas.errors import NotEnabled


@click.group()
def keys() -> None:
    """The key pair that signs presigned URLs."""


@keys.command()
@common_options
def rotate(session: Session) -> int:
    """Replace the key pair: URLs handed out before stop working, within a second on running servers."""
    from gestalt_cas.files.keys import rotate as replace
    from gestalt_cas.files.layout import Layout
    from gestalt_cas.http.http_side import KEYS_NOTE

    with session.store() as store:
        if store.recall(KEYS_NOTE):
            raise NotEnabled(
                "the keys come from the configuration (signing.accessKeyId); change them there and configure again"
            )
        pair = replace(Layout(store.directory).keys)
    session.output.result(
        {"access_key_id": pair.access_key_id},
        f"new signing key {pair.access_key_id}; URLs that were signed before stop working",
    )
    return exits.OK
