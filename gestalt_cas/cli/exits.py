"""The exit codes of every verb, and which failure ends in which.

One table for all verbs, so that a script can tell "not there" from "broken" without reading text. Failures of single
keys in a verb over a whole tree are named and do not stop it; the greatest of their codes is the exit code then.
"""

from __future__ import annotations

from gestalt_cas import errors
from gestalt_cas.system.durability import is_full
from gestalt_cas.system.exhaustion import is_exhaustion
from gestalt_cas.system.refusals import is_file_limit, is_want_of_files

OK = 0
NOT_FOUND = 1
"""Not there; also: some names were skipped or warned of, or a check has findings."""
USAGE = 2
"""The command line or what it names cannot be used, or a server cannot start."""
CONFLICT = 3
"""A condition did not hold, or another process uses other settings."""
DAMAGE = 4
"""Stored bytes, or the disk below them, are not to be relied on."""
FULL = 5
"""The disk is full, a limit on room is reached, or there is no more memory (`exhaustion.py`)."""
NO_STORE = 10
BUSY = 11
"""Try again."""
INTERRUPTED = 130
"""Stopped by ctrl-C: 128 + SIGINT, as shells count."""
TERMINATED = 143
"""Stopped by SIGTERM."""
BROKEN_PIPE = 141
"""Whoever read the output went away (as `head` does): 128 + SIGPIPE."""

MEANINGS = {
    OK: "done",
    NOT_FOUND: "not found, or some names were skipped, or a check has findings",
    USAGE: "wrong usage, or it cannot start",
    CONFLICT: "a conflict, or a condition that did not hold",
    DAMAGE: "damage met while reading, or the disk failed",
    FULL: "disk full, or a limit on room reached",
    NO_STORE: "no store in the data directory",
    BUSY: "busy, try again",
}

TABLE: dict[type[errors.StoreError], int] = {
    errors.StoreError: USAGE,
    errors.InvalidArgument: USAGE,
    errors.InvalidToken: USAGE,
    errors.InvalidConfig: USAGE,
    errors.BeforeHorizon: USAGE,
    errors.InvalidRange: USAGE,
    errors.NoSuchKey: NOT_FOUND,
    errors.NoSuchVersion: NOT_FOUND,
    errors.VersionRemoved: NOT_FOUND,
    errors.NoSuchSnapshot: NOT_FOUND,
    errors.PreconditionFailed: CONFLICT,
    errors.NotModified: CONFLICT,
    errors.SnapshotExists: CONFLICT,
    errors.Protected: CONFLICT,
    errors.Held: CONFLICT,
    errors.SettingsConflict: CONFLICT,
    errors.ClockSuspect: CONFLICT,
    errors.Cancelled: INTERRUPTED,
    errors.StoreBusy: BUSY,
    errors.TooManyStreams: BUSY,
    errors.ShuttingDown: BUSY,
    errors.PeerStalled: BUSY,
    errors.NotConfigured: USAGE,
    errors.NotEnabled: USAGE,
    errors.NotImplementedHere: USAGE,
    errors.MethodNotAllowed: USAGE,
    errors.BadDigest: CONFLICT,
    errors.SignatureError: CONFLICT,
    errors.InvalidSignatureRequest: CONFLICT,
    errors.SignatureDoesNotMatch: CONFLICT,
    errors.NoStore: NO_STORE,
    errors.StoreUnusable: USAGE,
    errors.AddressUnusable: USAGE,
    errors.SchemaTooNew: USAGE,
    errors.Damage: DAMAGE,
    errors.BlobMissing: DAMAGE,
    errors.DigestMismatch: DAMAGE,
    errors.DatabaseDamaged: DAMAGE,
    errors.OutcomeUnknown: DAMAGE,
    errors.StorageFault: DAMAGE,
    errors.StoreFull: FULL,
    errors.DiskFull: FULL,
    errors.QuotaExceeded: FULL,
    errors.FileSizeLimit: FULL,
    errors.ObjectTooLarge: USAGE,
}
"""Every class of errors.py; a test compares the two."""


def code_of(error: errors.StoreError | OSError) -> int:
    """The exit code for a failure; a class that the table lacks takes the code of its nearest base.

    An OSError is about a local file that the command line named: usage, unless its disk is full, it may not grow any
    further, or the process gets no more files or memory.
    """
    if isinstance(error, OSError):
        if is_want_of_files(error):
            return TABLE[errors.TooManyStreams]
        return FULL if is_full(error) or is_file_limit(error) or is_exhaustion(error) else USAGE
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)
