"""When an upload is confirmed: what a handler asks of grpcio between the end of the stream and COMMIT."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gestalt_cas import uploads
from gestalt_cas.calls import OpenCall
from gestalt_cas.errors import Cancelled, InvalidArgument
from gestalt_cas.intake import Unsettled
from gestalt_cas.uploads import Upload

TOKEN = "send_initial_metadata"


class Context:
    """As much of grpcio's as an upload asks: operations under way, and whether the caller is still there."""

    def __init__(self, *, told: bool = True) -> None:
        self.active = True
        self.due: set[str] = set()
        if told:
            self._state = SimpleNamespace(due=self.due)

    def is_active(self) -> bool:
        return self.active

    def send_initial_metadata(self, _: tuple[()]) -> None:
        self.due.add(TOKEN)


def ended(context: Context, *frames: bytes) -> Upload:
    """An upload whose stream has come to its end, the opening left out."""
    call = SimpleNamespace(context=context, progress=lambda: None, request=SimpleNamespace(received=0))
    upload = Upload(cast(Iterator[bytes], iter(frames)), cast(OpenCall, cast(Any, call)))
    assert list(upload.data()) == []
    return upload


def test_the_first_call_does_not_wait_the_next_says_so_and_the_one_after_waits() -> None:
    context = Context()
    upload = ended(context)
    assert context.due == {TOKEN}
    upload.confirm()
    with pytest.raises(Unsettled):
        upload.confirm()
    sent = threading.Timer(0.05, lambda: context.due.discard(TOKEN))
    sent.start()
    upload.confirm()
    assert context.due == set(), "it has waited"
    upload.confirm()


def test_a_settled_upload_is_confirmed_at_once() -> None:
    context = Context()
    upload = ended(context)
    upload.confirm()
    context.due.discard(TOKEN)
    upload.confirm()


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_caller_who_has_gone_is_found_out_by_each_call(calls: int) -> None:
    context = Context()
    upload = ended(context)
    for _ in range(calls):
        upload.confirm()
        context.due.discard(TOKEN)
    context.active = False
    with pytest.raises(Cancelled):
        upload.confirm()


def test_a_caller_who_goes_while_it_is_waited_for_is_found_out() -> None:
    context = Context()
    upload = ended(context)
    upload.confirm()
    with pytest.raises(Unsettled):
        upload.confirm()
    gone = threading.Timer(0.05, lambda: setattr(context, "active", False))
    gone.start()
    with pytest.raises(Cancelled):
        upload.confirm()


def test_what_never_settles_counts_as_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_SETTLE_SECONDS", 0.01)
    upload = ended(Context())
    upload.confirm()
    with pytest.raises(Unsettled):
        upload.confirm()
    with pytest.raises(Cancelled):
        upload.confirm()


def test_a_release_of_grpcio_that_does_not_tell_what_is_due_leaves_the_other_checks() -> None:
    context = Context(told=False)
    upload = ended(context)
    upload.confirm()
    upload.confirm()
    context.active = False
    with pytest.raises(Cancelled):
        upload.confirm()


def test_an_upload_without_frames_waits_to_tell_a_cancel_from_a_mistake() -> None:
    context = Context()
    call = SimpleNamespace(context=context, progress=lambda: None)
    upload = Upload(cast(Iterator[bytes], iter(())), cast(OpenCall, cast(Any, call)))
    sent = threading.Timer(0.05, lambda: context.due.discard(TOKEN))
    sent.start()
    with pytest.raises(InvalidArgument, match="has no frames"):
        upload.opening()
    assert context.due == set()
