"""How objects are named on the command line: BUCKET/KEY.

The first `/` splits; what follows is the key, byte for byte. So `site/a//b` is the key `a//b`, and `site//a` the key
`/a`. Nothing before the first `/` means the store's default bucket: `/a` is its key `a`, `//a` its key `/a`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gestalt_cas.cli.session import Session
from gestalt_cas.errors import StoreError
from gestalt_cas.objects import ListQuery, ObjectKey

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from gestalt_cas.store import Store


@dataclass(frozen=True, slots=True)
class Address:
    """BUCKET[/REST] as it was written; `slash` tells whether there was a `/`, `bucket` "" is the default bucket."""

    bucket: str
    rest: str
    slash: bool

    @classmethod
    def parse(cls, text: str) -> Address:
        """Split at the first `/`; raises click.BadParameter for no text at all."""
        if not text:
            raise click.BadParameter("an empty name; objects are named BUCKET/KEY")
        bucket, slash, rest = text.partition("/")
        return cls(bucket, rest, bool(slash))

    def key(self) -> ObjectKey:
        """The key that this names; raises click.UsageError when it names only a bucket."""
        if not self.rest:
            raise click.UsageError(f"{self} names a bucket, not an object; objects are named BUCKET/KEY")
        return ObjectKey(self.bucket, self.rest)

    def named(self, name: str) -> ObjectKey:
        """The key that this names as a target: ending in `/`, `name` is put behind, as cp does with a directory."""
        if self.slash and (not self.rest or self.rest.endswith("/")):
            if not name:
                raise click.UsageError(f"{self} ends with '/', and there is no name to put behind it")
            return ObjectKey(self.bucket, self.rest + name)
        return self.key()

    def __str__(self) -> str:
        return f"{self.bucket}/{self.rest}" if self.slash else self.bucket


def with_bucket(store: Store, bucket: str) -> str:
    """The real name of a bucket: "" is the store's default."""
    return bucket or store.settings().bucket


if TYPE_CHECKING:
    _ParamType = click.ParamType[Address]
else:
    _ParamType = click.ParamType  # generic from click 8.3 on only


class AddressType(_ParamType):
    """An Address; the shell completes it from the store, a level at a time."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:  # noqa: ARG002
        return value if isinstance(value, Address) else Address.parse(str(value))

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        try:
            with ctx.ensure_object(Session).store() as store:
                return [CompletionItem(name) for name in _candidates(store, incomplete) if name.isprintable()]
        except (StoreError, OSError):
            return []  # a shell that asks for completions has no place for a message


def _candidates(store: Store, incomplete: str) -> list[str]:
    bucket, slash, prefix = incomplete.partition("/")
    if not slash:
        return [f"{name}/" for name in store.buckets() if name.startswith(incomplete)]
    page = store.list_page(ListQuery(bucket=bucket, prefix=prefix, delimiter="/"))
    names = [version.key.key for version in page.objects]
    return [f"{bucket}/{name}" for name in sorted([*names, *page.common_prefixes])]


ADDRESS = AddressType()
