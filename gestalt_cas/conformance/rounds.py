"""Calls at the same time: what each was answered and when, as operations of a history that can be judged.

Writes of one round carry a value in their metadata, which tells them from every other; a read beside them must have the
bytes of the write whose value it has. Which order explains the answers is for `linearizability` to find.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import grpc

from gestalt_cas.conformance.linearizability.operations import Kind, Operation, Outcome
from gestalt_cas.conformance.reference import Stored
from gestalt_cas.conformance.registry import Place
from gestalt_cas.conformance.steps import Delete, Together, Write

_VALUE = "value"
"""The metadata in which a write carries its value."""


class Round:
    """The calls of one step, each to be made on a thread of its own. `number` is of the round, from 1 on."""

    def __init__(self, place: Place, step: Together, number: int) -> None:
        self._place = place
        self._step = step
        self._number = number

    def call(self, number: int) -> Operation:
        """One call of those at the same time, with what it was answered and when."""
        call = self._step.calls[number]
        value = f"{self._number}-{number}"
        begun = time.monotonic()
        if isinstance(call, Write):
            return self._write(number, call, value, begun)
        if isinstance(call, Delete):
            self._place.delete(self._step.key)
            return Operation(str(number), Kind.DELETE, self._step.key, begun, time.monotonic())
        try:
            meta, parts = self._place.read(self._step.key)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return Operation(str(number), Kind.READ, self._step.key, begun, time.monotonic(), Outcome.ABSENT)
        self.whole(meta, b"".join(parts))
        return replace(seen(meta, self._step.key, begun), client=str(number))

    def _write(self, number: int, call: Write, value: str, begun: float) -> Operation:
        only_new = call.when.if_none_match is not None
        sent = {"if_none_match": "*"} if only_new else {}
        outcome = Outcome.DONE
        try:
            self._place.write(self._step.key, call.body, metadata={_VALUE: value, "body": str(len(call.body))}, **sent)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            outcome = Outcome.REFUSED
        condition = "*" if only_new else ""
        return Operation(
            str(number), Kind.WRITE, self._step.key, begun, time.monotonic(), outcome, value, if_none_match=condition
        )

    def whole(self, meta: Any, body: bytes) -> None:
        """A read beside writes must have the bytes of the write whose metadata it has."""
        self._place.same(meta.size, len(body), "the size beside the bytes that came")
        turn, _, number = meta.metadata.get(_VALUE, "").partition("-")
        if turn == str(self._number):
            call = self._step.calls[int(number)]
            assert isinstance(call, Write)
            self._place.holds(body == call.body, f"the bytes of {call}", f"{len(body)} other bytes")


def placed(before: Stored, key: str) -> Operation:
    """What stood before the calls, as a write that ended before them."""
    return Operation("before", Kind.WRITE, key, 0.0, 0.0, value=before.metadata.get(_VALUE, "before"))


def seen(meta: Any, key: str, begun: float) -> Operation:
    """What a read, answered just now, found: the value of the write whose metadata it has."""
    value = meta.metadata.get(_VALUE, "before")
    return Operation("after", Kind.READ, key, begun, time.monotonic(), Outcome.DONE, value)
