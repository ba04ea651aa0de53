"""Who can reach a server: what is for tests on one machine is refused where another machine could be answered by it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from gestalt_cas.configuration.config import Config
from gestalt_cas.errors import InvalidConfig
from gestalt_cas.serving.targets import Target


def require(config: Config, target: Target | None) -> None:
    """Refuse a fixed clock and seeded ids unless only this machine can reach what the configuration listens at.

    `target` is where gRPC listens, None when that is not known. Raises InvalidConfig.
    """
    keys = config.stamps.chosen
    where = next(_reached(config, target), "") if keys else ""
    if where:
        raise InvalidConfig(
            f"{' and '.join(keys)}: a clock that stands still and ids that repeat are for tests on one machine, but "
            f"{where}; use a unix socket or a loopback address, or leave {'it' if len(keys) == 1 else 'them'} out"
        )


def _reached(config: Config, target: Target | None) -> Iterator[str]:
    """Each way from other machines, in words."""
    if target is None:
        yield "where gRPC listens is not known"
    elif not target.loopback:
        yield f"gRPC listens at {target.url}"
    http = config.http
    if (http.enabled or config.telemetry.pages) and not Target(host=http.host, port=http.port).loopback:
        yield f"http.listen is {http.host}:{http.port}"
    # A loopback listener with another public name has a proxy in front of it.
    if http.enabled and http.public_url and not Target(host=urlsplit(http.public_url).hostname or "").loopback:
        yield f"http.publicUrl is {http.public_url}"
