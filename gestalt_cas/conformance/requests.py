"""The messages of requests, as one generation of SDKs makes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class Requests:
    """Makes messages of the generation `pb`, one of those in `protos.py`."""

    pb: SimpleNamespace

    def ref(self, key: str, *, bucket: str = "", version_id: str = "") -> Any:
        if self.pb.bucketed:
            return self.pb.S3ObjectRef(bucket=bucket, key=key, version_id=version_id)
        return self.pb.S3ObjectRef(key=key, version_id=version_id)

    def open_frame(self, key: str, *, bucket: str = "", version_id: str = "", **fields: Any) -> Any:
        """The first frame of an upload; `fields` are those of WriteObjectOpen."""
        opened = self.pb.WriteObjectOpen(ref=self.ref(key, bucket=bucket, version_id=version_id), **fields)
        return self.pb.WriteObjectRequest(open=opened)

    def data_frame(self, data: bytes) -> Any:
        return self.pb.WriteObjectRequest(data=data)

    def read_request(
        self,
        key: str,
        *,
        bucket: str = "",
        version_id: str = "",
        start: int | None = None,
        end: int | None = None,
        ranged: bool = False,
        modified_since: float | None = None,
        unmodified_since: float | None = None,
        **conditions: str,
    ) -> Any:
        """A ReadObjectRequest; a range is sent if `start` or `end` is given, or an empty one if `ranged`."""
        request = self.pb.ReadObjectRequest(ref=self.ref(key, bucket=bucket, version_id=version_id), **conditions)
        if ranged or start is not None or end is not None:
            request.range.CopyFrom(self.pb.ByteRange(start=start, end=end))
        if modified_since is not None:
            request.if_modified_since.FromNanoseconds(int(modified_since * 10**9))
        if unmodified_since is not None:
            request.if_unmodified_since.FromNanoseconds(int(unmodified_since * 10**9))
        return request
