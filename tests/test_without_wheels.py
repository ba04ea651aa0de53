"""What serves where a dependency has no wheel: tested here, whatever this machine has."""

from __future__ import annotations

import os

import pytest

from storage import child


def test_messages_on_protobuf_in_pure_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    code = """
        from google.protobuf.internal import api_implementation
        assert api_implementation.Type() == "python"
        from gestalt_cas import wire_pb2
        ref = wire_pb2.ObjectRef(bucket="b", key="grüße", version_id="v")
        request = wire_pb2.ReadObjectRequest(ref=ref)
        request.range.start = 0
        again = wire_pb2.ReadObjectRequest.FromString(request.SerializeToString())
        assert again == request
        assert again.range.HasField("start") and not again.range.HasField("end")
        print("ok")
    """
    assert "python" in os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"]
    assert child(code) == "ok\n"
