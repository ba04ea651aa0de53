"""The table of HTTP errors: every error of the store is in it, and its XML is well-formed whatever the key."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gestalt_cas import Limits, ObjectKey, Store, errors
from gestalt_cas.errors import StoreError
from gestalt_cas.rules import http_errors
from gestalt_cas.rules.http_errors import answer

EXPECTED = {
    "InvalidArgument": (400, "InvalidArgument"),
    "BadDigest": (400, "BadDigest"),
    "Cancelled": (400, "IncompleteBody"),
    "NoSuchKey": (404, "NoSuchKey"),
    "NoSuchVersion": (404, "NoSuchVersion"),
    "MethodNotAllowed": (405, "MethodNotAllowed"),
    "PeerStalled": (408, "RequestTimeout"),
    "PreconditionFailed": (412, "PreconditionFailed"),
    "ObjectTooLarge": (413, "EntityTooLarge"),
    "StorageFault": (500, "InternalError"),
    "NotImplementedHere": (501, "NotImplemented"),
    "StoreBusy": (503, "SlowDown"),
    "TooManyStreams": (503, "SlowDown"),
    "ShuttingDown": (503, "ServiceUnavailable"),
    "OutcomeUnknown": (503, "ServiceUnavailable"),
    "NotConfigured": (503, "ServiceUnavailable"),
    "SchemaTooNew": (503, "ServiceUnavailable"),
    "StoreFull": (507, "InsufficientStorage"),
    "QuotaExceeded": (507, "QuotaExceeded"),
}


def parsed(error: StoreError, resource: str = "/b/k") -> tuple[http_errors.Answer, dict[str, str]]:
    found = answer(error, resource=resource, request_id="0123")
    root = ElementTree.fromstring(found.body)
    assert root.tag == "Error"
    return found, {child.tag: child.text or "" for child in root}


@pytest.mark.parametrize("name", EXPECTED)
def test_statuses_and_codes(name: str) -> None:
    found, parts = parsed(getattr(errors, name)("why"))
    assert (found.status, parts["Code"]) == EXPECTED[name]
    assert parts == {"Code": EXPECTED[name][1], "Message": "why", "Resource": "/b/k", "RequestId": "0123"}


@pytest.mark.parametrize("kind", [errors.BlobMissing, errors.DigestMismatch])
def test_damage_is_no_absence(kind: type[errors.Damage]) -> None:
    assert parsed(kind("why", digest="00"))[0].status == 500


def test_delete_markers() -> None:
    current, _ = parsed(errors.NoSuchKey("gone", delete_marker=True))
    assert (current.status, current.fields) == (404, {"x-amz-delete-marker": "true"})
    by_id, parts = parsed(errors.NoSuchVersion("gone", delete_marker=True))
    assert (by_id.status, parts["Code"]) == (405, "MethodNotAllowed")
    assert by_id.fields == {"x-amz-delete-marker": "true", "Allow": "DELETE"}


def test_a_range_that_cannot_be_satisfied_tells_the_size() -> None:
    found, _ = parsed(errors.InvalidRange("why", size=7))
    assert (found.status, found.fields) == (416, {"Content-Range": "bytes */7"})


@pytest.mark.parametrize(
    ("kind", "status"), [(errors.InvalidSignatureRequest, 400), (errors.SignatureDoesNotMatch, 403)]
)
def test_refusals_bring_their_code(kind: type[errors.SignatureError], status: int) -> None:
    found, parts = parsed(kind("SomeCode", "why"))
    assert (found.status, parts["Code"]) == (status, "SomeCode")


def test_an_unknown_method_is_told_the_known_ones() -> None:
    assert parsed(errors.MethodNotAllowed("why"))[0].fields == {"Allow": "GET, HEAD, PUT, DELETE"}


@given(st.text(), st.text())
def test_the_xml_is_well_formed_whatever_is_in_it(message: str, resource: str) -> None:
    _, parts = parsed(errors.InvalidArgument(message + "\udcff\0"), resource)
    assert parts["Message"].endswith("\ufffd\ufffd")


def test_a_sender_does_not_learn_where_the_store_lies(tmp_path: Path) -> None:
    """What a refusal tells whoever runs the store, its commands and their directory, is not for any holder of a URL."""
    with Store.open(tmp_path / "s", limits=Limits(min_free_bytes=0)) as store:
        store.set_quota("b", "", 10)
        store.write(ObjectKey("b", "kept"), [b"12345678"])
        store.hold("b", "kept")
        version = store.head(ObjectKey("b", "kept")).version_id
        with pytest.raises(errors.QuotaExceeded) as beyond:
            store.write(ObjectKey("b", "k"), [b"123"])
        with pytest.raises(errors.Held) as held:
            store.delete(ObjectKey("b", "kept"), version_id=version)
    for error, text in ((beyond.value, "3 more do not fit"), (held.value, "keeps it; release that first")):
        _, parts = parsed(error)
        assert parts["Message"].endswith(text)
        assert str(tmp_path) in str(error)
        assert str(tmp_path) not in parts["Message"]
