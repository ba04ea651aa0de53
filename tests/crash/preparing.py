"""Stores and backups that workloads begin with. Making one is not recorded: what it leaves counts as durable."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from crash.session import BUCKET, Payload, bytes_of, left_open, pieces_of
from gestalt_cas import ObjectKey, Store
from gestalt_cas.files import keys
from gestalt_cas.formats import tables
from gestalt_cas.sql import sqlite

BACKUP = "backup"
PREPARED: Mapping[str, list[Payload]] = {"old": [("old one", 300), ("old two", 9000)], "kept": [("kept", 1000)]}
"""The payloads of each key, the oldest version first."""


def an_empty_store(directory: Path) -> None:
    Store.open(directory).close()


def a_store_with_objects(directory: Path) -> None:
    """Not marked, so the judgement takes it from here: `PREPARED`."""
    with Store.open(directory) as opened:
        for key, payloads in PREPARED.items():
            for payload in payloads:
                opened.write(ObjectKey(BUCKET, key), pieces_of(payload))


def a_store_without_directories(directory: Path) -> None:
    """As a copy of a running one that leaves out empty directories: with a WAL, for which SQLite syncs no directory."""
    opened = Store.open(directory)
    opened.change_settings({"versioning": "suspended"})
    left_open.append(opened)
    shutil.rmtree(directory / "blobs")
    shutil.rmtree(directory / "staging")


def a_store_with_a_quarantine(directory: Path) -> None:
    """As check leaves one that set a damaged payload aside; the payload was healed since."""
    a_store_with_objects(directory)
    aside = directory / "quarantine"
    aside.mkdir(0o700)
    name = blake3(bytes_of(PREPARED["old"][0])).hexdigest()
    (aside / f"{name}.1700000000000").write_bytes(bytes_of(PREPARED["old"][0])[:100])
    (aside / f"{name}.1700000000000.json").write_text("{}")


def a_backup(directory: Path) -> None:
    """A backup with keys, of a store that is then gone."""
    source = directory.with_name("source")
    a_store_with_objects(source)
    keys.create(source / "keys.json")
    with Store.open(source) as opened:
        opened.back_up(directory.with_name(BACKUP), with_keys=True)
    shutil.rmtree(source)


def a_store_of_the_first_format(directory: Path) -> None:
    """One as the first release left it: what later revisions added is taken away again."""
    a_store_with_objects(directory)
    connection = sqlite.connect(directory / "metadata.sqlite3")
    for table in set(tables.metadata.tables) - {"versions", "current", "blobs", "settings", "counter", "pins"}:
        connection.execute(f"DROP TABLE {table}")
    for index in ("versions_by_seq", "versions_gone", "versions_kept"):
        connection.execute(f"DROP INDEX {index}")
    connection.execute("ALTER TABLE versions DROP COLUMN gone_digest")
    connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.execute("PRAGMA user_version=1")
    connection.close()
