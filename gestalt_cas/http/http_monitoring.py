"""The pages `/metrics` and `/healthz` of the HTTP endpoint, for those whom the configuration names.

No object has such a URL, which would need a bucket and a key. Whoever may not see a page is told by which key of the
configuration it is shown, and to whom: the same words to all, which do not say what the key is set to here.

Without credentials, being on this machine has to be proof enough, and the peer's address alone is not: a proxy on this
machine passes on what comes from elsewhere, and a web page may have its own name point here. So a request counts as
local only if it also names this machine as its host and no proxy says that it has passed it on.
"""

from __future__ import annotations

import ipaddress

from aiohttp import web

from gestalt_cas.configuration.config import Telemetry
from gestalt_cas.observing import exposition
from gestalt_cas.observing.readings import Readings
from gestalt_cas.serving.mounts import Mount

METRICS, HEALTHZ = "/metrics", "/healthz"
_PASSED_ON = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")


class Monitoring:
    """Answers for the pages. `answer` takes figures, so it is for threads that may wait."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    @staticmethod
    def named(request: web.BaseRequest) -> bool:
        """Whether a request asks for one of the pages."""
        return request.method in ("GET", "HEAD") and _path(request) in (METRICS, HEALTHZ)

    @staticmethod
    def allowed(request: web.BaseRequest, telemetry: Telemetry) -> bool:
        """Whether its sender may see the page that a request names."""
        readers = telemetry.metrics if _path(request) == METRICS else telemetry.healthz
        return readers == "everyone" or (readers == "loopback" and _local(request))

    @staticmethod
    def refusal(request: web.BaseRequest) -> str:
        """What to tell a sender who may not see the page that a request names."""
        page = _path(request)
        return (
            f"{page} is not shown to this caller: telemetry.{page[1:]} says who may see it. It is off unless set to "
            "loopback (this machine, by a loopback address or as localhost, and no proxy) or everyone"
        )

    def answer(self, request: web.BaseRequest, mount: Mount) -> web.Response:
        if _path(request) == METRICS:
            return _page(200, exposition.text(self._readings.take()), exposition.CONTENT_TYPE)
        fault = mount.store.health()
        return _page(503 if fault else 200, f"{fault or mount.store.shortage() or 'ok'}\n", "text/plain; charset=utf-8")


def _path(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[0]


def _page(status: int, text: str, kind: str) -> web.Response:
    # aiohttp leaves the body of an answer to HEAD out by itself.
    fields = {"Content-Type": kind, "Cache-Control": "no-store", "Server": "gestalt-cas"}
    return web.Response(status=status, body=text.encode(), headers=fields)


def _local(request: web.BaseRequest) -> bool:
    if any(name in request.headers for name in _PASSED_ON):
        return False
    peer: tuple[object, ...] | None = (
        request.transport.get_extra_info("peername") if request.transport is not None else None
    )
    return bool(peer and _loopback(str(peer[0]))) and _names_this_machine(request.headers.get("Host", ""))


def _names_this_machine(host: str) -> bool:
    """Whether a Host field is a loopback address or `localhost`, with any port."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or _loopback(name)


def _loopback(address: str) -> bool:
    """Whether an address is this machine's own; a socket of both families shows IPv4 peers as ::ffff:127.0.0.1."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
