"""Cases 83 to 89: presigned URLs, judged by what PresignObject answers; nobody has to serve them."""

from __future__ import annotations

import time
from urllib.parse import parse_qs, urlsplit

from gestalt_cas.conformance.capabilities import Capability
from gestalt_cas.conformance.registry import Code, Place, check

_GET, _PUT = 1, 2
_WEEK = 7 * 24 * 3600
_EVIDENCE = "S3 and GCS backends; contract 3.9"


@check(83, Capability.PRESIGN, evidence=_EVIDENCE)
def a_url_to_put(place: Place) -> None:
    """A URL for PUT comes with the headers that its user must send, and without host."""
    answer = place.presign(
        "k",
        _PUT,
        content_type="text/plain",
        content_disposition="inline",
        headers={"x-test": "yes", "Host": "elsewhere", "hOsT": "elsewhere"},
    )
    headers = {name.lower(): value for name, value in answer.headers.items()}
    place.same(answer.method, _PUT, "the method")
    place.holds(answer.url, "a URL")
    place.same(headers.get("x-test"), "yes", "the header x-test")
    place.same(headers.get("content-type"), "text/plain", "the header content-type")
    place.same(headers.get("content-disposition"), "inline", "the header content-disposition")
    place.holds("host" not in headers, "no header host", headers.get("host"))


@check(84, Capability.PRESIGN, evidence=_EVIDENCE)
def get_is_the_default(place: Place) -> None:
    """No method means GET, and the answer always names one."""
    place.same(place.presign("k").method, _GET, "the method of an answer to no method")


@check(85, Capability.PRESIGN, evidence=_EVIDENCE)
def a_negative_expiry(place: Place) -> None:
    """A negative expiry is INVALID_ARGUMENT."""
    with place.refused(Code.INVALID_ARGUMENT, why="it would have expired before"):
        place.presign("k", _GET, expires_seconds=-1)


@check(86, Capability.PRESIGN, evidence="GCS backend, SigV4; contract 3.9")
def more_than_seven_days(place: Place) -> None:
    """More than seven days are INVALID_ARGUMENT."""
    with place.refused(Code.INVALID_ARGUMENT, why="URLs live seven days at most"):
        place.presign("k", _GET, expires_seconds=_WEEK + 1)


@check(87, Capability.PRESIGN, evidence="contract 6, expires 0")
def the_expiry_is_told(place: Place) -> None:
    """The answer says when the URL expires: as asked, or in 15 minutes."""
    now = time.time()
    asked, default = place.presign("k", _GET, expires_seconds=60), place.presign("k", _GET)
    for answer, seconds in ((asked, 60), (default, 900)):
        place.holds(answer.HasField("expires_at"), "expires_at to be set")
        left = answer.expires_at.seconds - now
        place.holds(seconds - 60 < left < seconds + 60, f"expires_at about {seconds} s from now", f"{left:.0f} s")


@check(88, Capability.PRESIGN, evidence=_EVIDENCE)
def overrides_are_in_the_query(place: Place) -> None:
    """For GET the content type and disposition are overrides of the response, in the URL and not in headers."""
    answer = place.presign("k", _GET, content_type="text/csv", content_disposition='attachment; filename="a b.csv"')
    query = parse_qs(urlsplit(answer.url).query)
    place.same(query.get("response-content-type"), ["text/csv"], "response-content-type in the query")
    place.same(
        query.get("response-content-disposition"),
        ['attachment; filename="a b.csv"'],
        "response-content-disposition in the query",
    )
    place.same([name for name in answer.headers if name.lower().startswith("content-")], [], "headers of content")


@check(89, Capability.PRESIGN, Capability.VERSIONS, evidence="contract 3.9")
def a_version_id_is_encoded(place: Place) -> None:
    """A version id with blanks and slashes survives the URL's encoding."""
    answer = place.presign("k", _GET, version_id="version id/1")
    place.same(parse_qs(urlsplit(answer.url).query).get("versionId"), ["version id/1"], "versionId in the query")
