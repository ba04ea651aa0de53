"""The key pair that signs presigned URLs: from the configuration, or generated once and kept in DIR/keys.json.

The file is owner-only and replaced by a rename, so a reader sees the old pair or the new one. A running server looks at
the file at most twice a second and takes a replaced pair from then on; URLs signed with the old one stop working.
"""

from __future__ import annotations

import json
import os
import secrets
import string
import threading
import time
from pathlib import Path

from gestalt_cas.errors import OutcomeUnknown, StoreUnusable
from gestalt_cas.remedies import command
from gestalt_cas.rules.sigv4 import KeyPair
from gestalt_cas.system import ownership
from gestalt_cas.system.durability import sync_directory, sync_file
from gestalt_cas.system.refusals import translated

_LOOK_SECONDS = 0.5
_ID_LETTERS = string.ascii_uppercase + string.digits


class SigningKeys:
    """The pair in force. Thread-safe. `configured` is the pair of the configuration, if it has one."""

    def __init__(self, path: Path, configured: KeyPair | None = None) -> None:
        self._path = path
        self._configured = configured
        self._lock = threading.Lock()
        self._cached: KeyPair | None = None
        self._stamp: tuple[int, int] | None = None
        self._looked = 0.0

    def get(self) -> KeyPair:
        """The pair to sign and verify with; generated now if there is none yet."""
        if self._configured is not None:
            return self._configured
        with self._lock:
            now = time.monotonic()
            if self._cached is None or now - self._looked > _LOOK_SECONDS:
                self._looked = now
                self._cached = self._read()
            return self._cached

    def _read(self) -> KeyPair:
        with translated(f"looking at {self._path}"):
            try:
                found = self._path.stat()
            except FileNotFoundError:
                create(self._path)
                found = self._path.stat()
        stamp = (found.st_ino, found.st_mtime_ns)
        if self._cached is not None and stamp == self._stamp:
            return self._cached
        pair = read(self._path)
        self._stamp = stamp
        return pair


def read(path: Path) -> KeyPair:
    """The pair kept at `path`; raises StoreUnusable when it cannot be read, or is not one that this module wrote.

    What cannot be read may be sound, so only for the latter is the remedy that ends all URLs.
    """
    try:
        content = json.loads(path.read_text())
        return KeyPair(content["accessKeyId"], content["secretAccessKey"])
    except OSError as error:
        raise StoreUnusable(f"the signing keys in {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnusable(
            f"{path} holds no signing keys ({type(error).__name__}); this makes new ones: "
            f"{command('keys rotate', path.parent)}"
        ) from None


def create(path: Path) -> KeyPair:
    """Generate a pair unless one is there already; of several processes one wins, and all use its pair."""
    with translated(f"writing {path}"):
        part = _written(path, generate())
        try:
            os.link(part, path)
            sync_directory(path.parent)
        except FileExistsError:
            pass  # another process was first: its pair is the one
        finally:
            part.unlink(missing_ok=True)
    return read(path)


def rotate(path: Path) -> KeyPair:
    """Replace the pair; URLs that were signed with the old one stop working.

    Raises OutcomeUnknown when the new pair is in force, but the disk did not confirm that it stays.
    """
    pair = generate()
    with translated(f"writing {path}"):
        # Opened while it changes nothing that this cannot be done, for want of descriptors say.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with translated(f"writing {path}"):
            _replace(path, _written(path, pair))
        sync_directory(directory)
    except OSError as error:
        raise OutcomeUnknown(
            f"the new signing key {pair.access_key_id} is in force, and URLs that were signed before have stopped "
            f"working; but the disk did not confirm it ({error.strerror or error}): after a power cut the old key may "
            "be back. Look at the system's log, then rotate again"
        ) from error
    finally:
        os.close(directory)
    return pair


def _replace(path: Path, part: Path) -> None:
    try:
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def generate() -> KeyPair:
    """A new pair in the shape of AWS's: a 20-character id and a secret of 240 random bits."""
    return KeyPair("GCAS" + "".join(secrets.choice(_ID_LETTERS) for _ in range(16)), secrets.token_urlsafe(30))


def _written(path: Path, pair: KeyPair) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = ownership.make_file(part, os.O_WRONLY, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump({"accessKeyId": pair.access_key_id, "secretAccessKey": pair.secret_access_key}, file)
            file.flush()
            sync_file(fd)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part
