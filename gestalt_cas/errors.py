"""What can go wrong, in the store's own words.

Every failure that a caller can meet derives from `StoreError`. The names follow the S3 API reference where it has one.
Which gRPC status, HTTP status or exit code a caller sees is decided at the edges (`messages.py`, `http_errors.py`,
`exits.py`), one table each, so the classes here know nothing of protocols. An exception that is not a `StoreError` is a
bug.
"""

from __future__ import annotations

from collections.abc import Callable


class StoreError(Exception):
    """Base of every failure the store reports; `str(error)` is a sentence for a person.

    Pickles and copies like any exception, whatever its class is made from: pools of processes hand on what a worker
    raises, and one that cannot be made again would leave the caller of the pool waiting for ever.
    """

    def __reduce__(self) -> tuple[Callable[..., StoreError], tuple[object, ...], dict[str, object]]:
        return _again, (type(self), *self.args), self.__dict__


def _again(kind: type[StoreError], *args: object) -> StoreError:
    """An error as it was made, but for its attributes: those come with its state."""
    return kind.__new__(kind, *args)


class InvalidArgument(StoreError):
    """The request cannot be right whatever the store holds: an empty key, a header with a line break."""


class InvalidToken(InvalidArgument):
    """A continuation token that this store did not make, or made for another listing."""


class InvalidConfig(InvalidArgument):
    """A configuration value that cannot be used; the message names the key."""


class BeforeHorizon(InvalidArgument):
    """A moment of which the history is no longer complete; the message names the first one of which it is."""


class NoSuchKey(StoreError):
    """No current object under this key, or none at the moment that was asked about.

    `delete_marker` tells that the key had one and its newest version is a delete marker.
    """

    def __init__(self, message: str, *, delete_marker: bool = False) -> None:
        super().__init__(message)
        self.delete_marker = delete_marker


class NoSuchVersion(NoSuchKey):
    """The key has no such version, or the version is a delete marker (`delete_marker`)."""


class VersionRemoved(NoSuchVersion):
    """At the moment asked about the key had a version that was removed for good since; nothing keeps its payload."""


class NoSuchSnapshot(StoreError):
    """The store has no snapshot of this name."""


class PreconditionFailed(StoreError):
    """A condition of the caller did not hold; nothing was changed."""


class SnapshotExists(PreconditionFailed):
    """The store has a snapshot of this name already; nothing was changed."""


class Protected(PreconditionFailed):
    """Something keeps what was to be removed for good; the message names it, and nothing was changed."""


class Held(StoreError):
    """A hold keeps what was to be removed for good, or replaced; nothing was changed. `hold` is its name (`Hold.name`).

    No failed precondition, whatever else of its kind is one: a caller who makes its writes conditional takes that for a
    race that it has lost.
    """

    def __init__(self, message: str, *, hold: str = "") -> None:
        super().__init__(message)
        self.hold = hold


class NotModified(PreconditionFailed):
    """A read condition says that the caller's copy is still good.

    The attributes are the object's: its quoted `etag`, its commit time in Unix milliseconds, its stored Cache-Control.
    """

    def __init__(self, message: str, *, etag: str, modified_ms: int, cache_control: str = "") -> None:
        super().__init__(message)
        self.etag = etag
        self.modified_ms = modified_ms
        self.cache_control = cache_control


class InvalidRange(StoreError):
    """No byte of the requested range exists. `size` is the size of the whole object in bytes."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size


class Cancelled(StoreError):
    """The caller went away before the upload was complete; nothing was stored."""


class StoreBusy(StoreError):
    """The writer lock was not had in time; the same call may be repeated."""


class NotConfigured(StoreError):
    """The provider has not been configured yet."""


class NotEnabled(StoreError):
    """The feature is switched off in this configuration; the message says how to switch it on."""


class NotImplementedHere(StoreError):
    """Something that S3 has and this store does not; nothing was done."""


class MethodNotAllowed(StoreError):
    """A request method that the HTTP endpoint does not have."""


class BadDigest(StoreError):
    """An upload's bytes do not have the checksum that came with them; nothing was stored."""


class SignatureError(StoreError):
    """A presigned request that is not let in; `code` is S3's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidSignatureRequest(SignatureError):
    """The parameters of a presigned URL are missing, repeated or malformed."""


class SignatureDoesNotMatch(SignatureError):
    """The request is unsigned, was altered, is signed with another key, or its time has not come or has passed."""


class NoStore(StoreError):
    """The directory holds no store."""


class StoreUnusable(StoreError):
    """The directory cannot serve as a store: not writable, another program's database, an unsafe SQLite.

    Or this process was forked while the store was open, and has to open it itself.
    """


class AddressUnusable(StoreUnusable):
    """An address cannot be listened at: another program has it, or it is none of this machine."""


class SchemaTooNew(StoreUnusable):
    """The store was written by a newer release; nothing in it was changed."""


class SettingsConflict(StoreError):
    """A live server runs on the same directory with other values for the store's settings."""


class ClockSuspect(StoreError):
    """The clock is too far from the last commit or run for anything to be removed by its age; nothing was."""


class Damage(StoreError):
    """Stored bytes are not what was stored. `digest` is the BLAKE3 hex of the payload concerned."""

    def __init__(self, message: str, *, digest: str) -> None:
        super().__init__(message)
        self.digest = digest


class BlobMissing(Damage):
    """The payload of an existing version has no file."""


class DigestMismatch(Damage):
    """The payload's file has other bytes, or another size, than what was stored."""


class DatabaseDamaged(StoreError):
    """SQLite found its file malformed, and the store refuses writes until it is repaired or restored.

    Or a row holds what no write stores; then the message names it, and whatever does not meet it goes on.
    """


class StoreFull(StoreError):
    """No room on the disk, or a configured limit on room is reached; nothing was stored."""


class DiskFull(StoreFull):
    """The disk itself has no room, or less than `limits.minFreeBytes`; collecting garbage may help.

    `directory` is the store's whose database found none, or that of SQLite's temporary files; "" where it was something
    else.
    """

    def __init__(self, message: str, *, directory: str = "") -> None:
        super().__init__(message)
        self.directory = directory


class QuotaExceeded(StoreFull):
    """More bytes than a quota of the store leaves; nothing was stored. `quota` is its name, BUCKET or BUCKET/PREFIX."""

    def __init__(self, message: str, *, quota: str = "") -> None:
        super().__init__(message)
        self.quota = quota


class FileSizeLimit(StoreFull):
    """A file may not grow any further: the process's limit on the size of one, or the file system's, is reached.

    Making room helps nothing; the message says what does. Nothing was stored.
    """


class TooManyStreams(StoreError):
    """More calls at once than the configured limit; refused at once, nothing was done."""


class ObjectTooLarge(StoreError):
    """The upload is larger than `limits.maxObjectBytes`, or than a file may be here; nothing was stored."""


class OutcomeUnknown(StoreError):
    """The disk failed, or memory ran out, around COMMIT: the change is there in whole or not at all."""


class ShuttingDown(StoreError):
    """The process is stopping; nothing was done."""


class PeerStalled(StoreError):
    """The caller made no progress for `limits.streamIdleSeconds`."""


class StorageFault(StoreError):
    """The disk answered with an I/O error; nothing was changed."""
