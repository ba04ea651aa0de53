"""The wire messages of both generations: those of the conformance kit."""

from __future__ import annotations

from gestalt_cas.conformance.protos import (
    BUCKETED,
    BUCKETLESS,
    GENERATIONS,
    LIFECYCLE,
    LIFECYCLE_METHODS,
    METHODS,
    PACKAGE,
    S3,
)

__all__ = ["BUCKETED", "BUCKETLESS", "GENERATIONS", "LIFECYCLE", "LIFECYCLE_METHODS", "METHODS", "PACKAGE", "S3"]
