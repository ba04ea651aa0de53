"""The configured store that calls work on, replaced as a whole when the provider is configured again.

A call takes hold of the mount for as long as it runs; a mount that was replaced closes its store when the last call has
left it. Each open store has a caretaker thread, which does the background work whenever this process holds the
directory's server.lock, and takes it over within seconds when another server has gone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self

from gestalt_cas import sizes
from gestalt_cas.backups import served
from gestalt_cas.clock import now_ms
from gestalt_cas.configuration.config import Collection, Config, Retention
from gestalt_cas.errors import Cancelled, ClockSuspect, NotConfigured, ShuttingDown, StoreError
from gestalt_cas.files.keys import SigningKeys
from gestalt_cas.files.layout import Layout
from gestalt_cas.removal import garbage, retention_runs
from gestalt_cas.serving.messages import Namespace
from gestalt_cas.store import Store
from gestalt_cas.system.processors import PROCESSORS

log = logging.getLogger(__name__)

_CARE_SECONDS = 1.0
_COMPLAIN_SECONDS = 60.0
_RETRY_SECONDS = 60.0
_CLOCK_SECONDS = 3600.0
"""How often the clock is looked at, and complained of, whether or not anything is to be removed."""
_HOURLY = Collection()
_BY_RULES = Retention()


class OpenStore:
    """A store in use by some number of calls, closed when it is retired and the last of them has left.

    Two threads look after it: the caretaker, each second, and the collector, which may take longer: it applies the
    retention rules every `retention.every_seconds`, but not to a backup, and collects garbage every
    `collection.every_seconds`.
    """

    def __init__(self, store: Store, collection: Collection = _HOURLY, retention: Retention = _BY_RULES) -> None:
        self.store = store
        self.collection = collection
        self.retention = retention
        self._lock = threading.Lock()
        self._users = 0
        self._closing = False
        self._complaints: dict[str, tuple[str, float]] = {}
        self._retired = threading.Event()
        self.closed = threading.Event()
        self._opened = time.monotonic()
        self._collect_again = self._apply_again = 0.0
        self._look_again = self._opened + _CLOCK_SECONDS
        try:
            for work, name in ((self._care, "gestalt-cas-caretaker"), (self._remove, "gestalt-cas-collector")):
                threading.Thread(target=self._rounds, args=(work, name), name=name, daemon=True).start()
        except RuntimeError:  # no more threads: nobody will have this store, and the one that was started has to end
            self.retire()
            raise

    def enter(self) -> bool:
        """Count a user; False when the store was retired in between."""
        with self._lock:
            if self._retired.is_set():
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired.is_set() and self._users == 0
        if last:
            self._close()

    def retire(self) -> None:
        with self._lock:
            self._retired.set()
            idle = self._users == 0
        if idle:
            self._close()

    def _close(self) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self.store.close()
        self.closed.set()

    def _rounds(self, work: Callable[[], None], name: str) -> None:
        PROCESSORS.leave()
        while not self._retired.wait(_CARE_SECONDS):
            if not self.enter():
                return
            try:
                if self.store.claim_server():
                    work()
            except Cancelled:
                return
            except Exception as error:  # noqa: BLE001 - _explained() raises again what nobody expects
                self._complain(name, str(self._explained(error)))
            finally:
                self.leave()

    def _care(self) -> None:
        self.store.maintain()

    def _remove(self) -> None:
        """What goes by its age: versions by the rules first, then payloads; a failure of one keeps no other back."""
        for work in (self._look_at_clock, self._apply, self._collect):
            try:
                work()
            except Cancelled:
                raise
            except Exception as error:  # noqa: BLE001 - _explained() raises again what nobody expects
                told = str(self._explained(error))
                self._complain(work.__name__, told, _CLOCK_SECONDS if isinstance(error, ClockSuspect) else 0)

    def _explained(self, error: Exception) -> Exception:
        """What ended a round, in words; raises the error itself when there are none for it."""
        explained = self.store.explained(error)
        if not isinstance(explained, StoreError | OSError):
            raise error
        return explained

    def _look_at_clock(self) -> None:
        """See that the clock does not jump while nothing is to be removed for more than a day."""
        if time.monotonic() >= self._look_again:
            self._look_again = time.monotonic() + _CLOCK_SECONDS
            self.store.look_at_clock()

    def _apply(self) -> None:
        """Apply the retention rules when the last run of any process, or our opening, is long enough ago."""
        every = self.retention.every_seconds
        if not every or time.monotonic() < self._apply_again or self._seconds_since(retention_runs.NOTE) < every:
            return
        self._apply_again = time.monotonic() + min(every, _RETRY_SECONDS)  # also when this fails
        if served.is_backup(self.store):
            return
        found = self.store.apply_retention(progress=self.stop_if_retired)
        if found.anything:
            log.info(
                "retention: removed %d versions (%s) and %d delete markers, %d objects expired, %d rows dropped",
                found.versions,
                sizes.told(found.bytes),
                found.markers,
                found.expired,
                found.dropped,
            )

    def _collect(self) -> None:
        """Collect garbage when the last run of any process, or our opening, is long enough ago."""
        every = self.collection.every_seconds
        if not every or time.monotonic() < self._collect_again or self._seconds_since(garbage.NOTE) < every:
            return
        self._collect_again = time.monotonic() + min(every, _RETRY_SECONDS)  # also when this fails
        found = self.store.collect_garbage(grace_seconds=self.collection.grace_seconds, progress=self.stop_if_retired)
        if found.files or found.staging_files:
            log.info(
                "gc: removed %d payloads (%s) and %d cut-off uploads",
                found.files,
                sizes.told(found.bytes),
                found.staging_files,
            )

    def _seconds_since(self, name: str) -> float:
        """How long ago a run noted itself down, or the store was opened when no time at or before now is noted down."""
        note = self.store.recall(name)
        at_ms = note.get("at_ms") if isinstance(note, dict) else None
        if isinstance(at_ms, int) and at_ms <= now_ms():
            return (now_ms() - at_ms) / 1000
        return time.monotonic() - self._opened

    def stop_if_retired(self, *_: object) -> None:
        """Raise Cancelled once the store is to be closed: for work that can stop between two steps."""
        if self._retired.is_set():
            raise Cancelled("the store is being closed")

    def _complain(self, work: str, text: str, every_seconds: float = 0.0) -> None:
        """Log a failure of the background work; the same one, or one of the same kind, seldom, not once a round.

        The same text once a minute. With `every_seconds`, where texts tell the time, whatever the text once in so long.
        """
        before, at = self._complaints.get(work, ("", -_CLOCK_SECONDS))
        now = time.monotonic()
        due = now - at > every_seconds if every_seconds else text != before or now - at > _COMPLAIN_SECONDS
        if due:
            self._complaints[work] = text, now
            log.warning("background work: %s", text)


class Mount:
    """One configuration in force: the open store, how callers' keys map to stored ones, and how URLs are signed.

    `public_url` is what presigned URLs begin with, "" when the HTTP endpoint is switched off. `packing` is how answers
    are made bytes: in tests of other programs in one order, else as protobuf likes, which is faster. `Mounts.use` gives
    one that was entered already, to be left at the end of a block.
    """

    def __init__(self, config: Config, opened: OpenStore, keys: SigningKeys, public_url: str) -> None:
        self.config = config
        self.opened = opened
        self.keys = keys
        self.public_url = public_url
        self.namespace = Namespace(config.key_prefix)
        self.packing = {"deterministic": True} if config.stamps.chosen else {}

    @property
    def store(self) -> Store:
        return self.opened.store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if isinstance(error, Exception):
                explained = self.store.explained(error)
                if explained is not error:
                    raise explained from error
        finally:
            self.opened.leave()


Attach = Callable[[Store, Config], AbstractContextManager[str]]


class Mounts:
    """The mount in force, if any. Thread-safe.

    `attach` makes the HTTP endpoint of a configuration listen for the block that puts it into force, and gives its
    public URL ("" when it is switched off).
    """

    def __init__(self, attach: Attach = lambda _store, _config: nullcontext("")) -> None:
        self._attach = attach
        self._lock = threading.Lock()
        self._mount: Mount | None = None
        self._closed = False

    @property
    def present(self) -> Mount | None:
        return self._mount

    def configure(self, config: Config) -> None:
        """Put `config` in force; when this raises, the mount before stays as it was."""
        with self._lock:
            if self._closed:
                raise ShuttingDown("the provider is stopping")
            before = self._mount
            if before is not None and _same(before.store.directory, config.data_dir):
                with self.use(), self._attach(before.store, config) as public_url:
                    before.store.adopt(config.settings)
                    self._mount = _mounted(config, before.opened, public_url)
                before.opened.collection, before.opened.retention = config.gc, config.retention
                before.store.set_limits(config.limits)
                before.store.stand_at(config.stamps.fixed_ms)
                return
            store = _opened(config)
            store.stand_at(config.stamps.fixed_ms)
            opened = OpenStore(store, config.gc, config.retention)
            try:
                _tidy(store)
                served.warn(store, store.directory)
                with self._attach(store, config) as public_url:
                    self._mount = _mounted(config, opened, public_url)
            except BaseException as error:
                explained = store.explained(error) if isinstance(error, Exception) else error
                opened.retire()
                if explained is error:
                    raise
                raise explained from error
        if before is not None:
            before.opened.retire()

    def use(self) -> AbstractContextManager[Mount]:
        """The mount in force, kept open for the block; raises NotConfigured before the first configuration.

        What nobody expects in the block is raised as the damage that it comes of, if it does (`Store.explained`).
        """
        while True:
            mount = self._mount
            if self._closed:
                raise ShuttingDown("the provider is stopping")
            if mount is None:
                raise NotConfigured("the provider has not been configured yet")
            if mount.opened.enter():
                return mount  # a generator would be a twelfth of a lookup

    def close(self, timeout: float) -> bool:
        """Retire the mount and wait up to `timeout` seconds for its calls; returns whether its store is closed."""
        with self._lock:
            self._closed = True
            mount = self._mount
        if mount is None:
            return True
        deadline = time.monotonic() + timeout
        mount.opened.retire()
        return mount.opened.closed.wait(max(0.0, deadline - time.monotonic()))


def _mounted(config: Config, opened: OpenStore, public_url: str) -> Mount:
    keys = SigningKeys(Layout(opened.store.directory).keys, config.signing)
    return Mount(config, opened, keys, public_url)


def _opened(config: Config) -> Store:
    """The store with the settings of the configuration; SettingsConflict when another server uses others.

    Adopted twice: a new store is made with them, and one that serves by now may have come since.
    """
    store = Store.open(config.data_dir, settings=config.settings, limits=config.limits)
    store.begin_with(config.settings, serving=True)
    return store


def _tidy(store: Store) -> None:
    """Remove what cut-off uploads left, if no other process serves the directory."""
    if store.claim_server():
        removed = store.clean_staging()
        if removed:
            log.info("removed %d uploads that were cut off", removed)


def _same(directory: Path, other: Path) -> bool:
    """Whether both paths name one directory, perhaps through links."""
    named = os.path.abspath(other)  # as the store opens it: `..` is taken out before links are followed
    try:
        return str(directory) == named or os.path.samefile(directory, named)
    except OSError:
        return False
