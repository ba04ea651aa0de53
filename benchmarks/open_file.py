"""A provider as the SDK's documentation suggests it: `read_object` returns the open file, the SDK's runtime sends it.

The file is named by OBJECT_FILE in the environment, whatever the key is.
"""

from __future__ import annotations

import os
from pathlib import Path

import gestalt
from gestalt.s3 import ReadObjectRequest, S3ObjectMeta

OBJECT_FILE = "BENCHMARK_OBJECT_FILE"


class OpenFile(gestalt.S3Provider):  # type: ignore[misc]  # the SDK loads its names late
    def read_object(self, request: ReadObjectRequest) -> gestalt.ProviderReadResult:
        file = Path(os.environ[OBJECT_FILE]).open("rb")  # noqa: SIM115 - the runtime closes it
        meta = S3ObjectMeta(ref=request.ref, size=os.fstat(file.fileno()).st_size)
        return gestalt.ProviderReadResult(meta=meta, body=file)


provider = OpenFile()
