"""The settings and the state of an open store, each a method of `Store`: what servers and the command ask of it."""

from __future__ import annotations

from collections.abc import Mapping

from gestalt_cas.configuration.config import Limits
from gestalt_cas.errors import SettingsConflict, StoreError
from gestalt_cas.operations.parts import Parts
from gestalt_cas.rows import settings as store_settings
from gestalt_cas.rows.settings import Settings


class Standing:
    """The part of `Store` that is about how it is to be used, and whether it can be."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def settings(self) -> Settings:
        """The store's settings as they were last committed, by whichever process."""
        with self._parts.database.read() as tx:
            return store_settings.load(tx)

    def change_settings(self, changes: Mapping[str, object]) -> Settings:
        """Set settings by their dotted names; they count from the next commit on, in every process.

        The others keep their values; returns all as they are then. Raises InvalidConfig, naming the setting.
        """
        checked = store_settings.validate(changes)
        with self._parts.database.write() as tx:
            store_settings.store(tx, checked)
            return store_settings.load(tx)

    def health(self) -> str:
        """What is wrong with the store, in a sentence; "" when nothing is known to be."""
        return self._parts.database.place.fault() or self._parts.database.fault

    def shortage(self) -> str:
        """What keeps uploads out although the store is sound, in a sentence; "" when nothing does.

        "" as well when nothing can be told of the disk, as of a directory that is gone: `health` says what is wrong.
        """
        try:
            full = self._parts.layout.full()
        except OSError:
            return ""
        if full:
            return f"the disk that holds {self._parts.layout.root} is full: uploads are refused, reads and deletes work"
        return ""

    def claim_server(self) -> bool:
        """Take server.lock unless another process has it, and keep it until `close`; returns whether it is ours.

        Its holder alone runs the background work.
        """
        return self._parts.locks.claim_server()

    def maintain(self) -> None:
        """One round of background work, for the holder of server.lock: mend, remake the reserve, shorten the WAL."""
        self._parts.database.place.require()
        self._parts.reserve.keep()
        self._parts.database.recover()
        self._parts.database.tend_wal()

    def clean_staging(self) -> int:
        """Remove uploads that dead processes left behind; returns how many."""
        return self._parts.blobs.staging.clean()

    def set_limits(self, limits: Limits) -> None:
        """Judge uploads by these limits from now on; those on their way keep what they have taken."""
        self._parts.blobs.staging.budget.limits = limits

    def adopt(self, wanted: Mapping[str, object], *, serving: bool = False) -> None:
        """Write the settings that a configuration holds; the others keep their values.

        With `serving` the store becomes the directory's server, as by `claim_server`, in the same step: of two that
        begin at once with other values each would else find nobody serving. Raises InvalidConfig, or SettingsConflict
        when another process serves the directory with other values.
        """
        checked = store_settings.validate(wanted)
        if not checked:
            return  # without a look: a setting that cannot be read keeps nobody from opening the store
        present = self.settings().by_name()
        same = all(present[name] == value for name, value in checked.items())
        if same and not serving:
            return
        try:
            self._adopt(checked, serving)
        except SettingsConflict:
            raise
        except StoreError:
            if not same:
                raise  # else nothing has to be written: what can be read of the store is served

    def _adopt(self, wanted: Mapping[str, object], serving: bool) -> None:
        # server.lock is taken here within a transaction only, so whoever finds it taken in one has met a real server.
        with self._parts.database.write() as tx, self._parts.locks.server_for_now(keep=serving) as ours:
            present = store_settings.load(tx).by_name()
            if all(present[name] == value for name, value in wanted.items()):
                return
            if not ours:
                store_settings.refuse_conflict(tx, wanted)
            store_settings.store(tx, wanted)

    def recall(self, name: str) -> object:
        """What a process of this store noted down under `name`; None when there is no such note."""
        return self._parts.recall(name)

    def note(self, name: str, value: object) -> None:
        """Note something down for the processes to come, as JSON; it is no setting and decides nothing in the store."""
        self._parts.note(name, value)
