"""Damage of every kind: found by a read or by a check, never served, recorded, and healed by the same bytes."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from blake3 import blake3

from checks import FILE_DAMAGE, LARGE, check, path_of, put_back
from database_pages import Page, first_free, overwrite_page, pages_of, read_page
from gestalt_cas import ObjectKey, Store
from gestalt_cas.checks.findings import EVERYTHING
from gestalt_cas.checks.inspection import CheckOptions
from gestalt_cas.errors import Damage, DatabaseDamaged, NoSuchKey, StoreError
from gestalt_cas.objects import NO_HEADERS
from gestalt_cas.rows import blob_rows, versions
from gestalt_cas.sql.schema import PAGE_SIZE
from storage import BUCKET, body, damaged, key, payload_path, put
from wire import protos
from wire.client import Client, refused
from wire.process import Server

DATA_LOSS = grpc.StatusCode.DATA_LOSS


@pytest.fixture(name="store", scope="module")
def store_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("damage") / "store") as store:
        put(store, "other", b"another payload")
        yield store


@pytest.fixture(name="server", scope="module")
def server_fixture() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(name="client", scope="module")
def client_fixture(server: Server) -> Iterator[Client]:
    with Client(server.target, protos.BUCKETLESS) as client:
        client.write("other", b"another payload")
        yield client


# ---- payloads ----


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_a_read_meets_damage_records_it_and_serves_again_what_is_put_back(store: Store, name: str) -> None:
    put(store, "object", LARGE)
    path = payload_path(store, LARGE)
    FILE_DAMAGE[name][1](path)
    served = b""
    with pytest.raises(Damage), store.read(key("object")) as reader:  # noqa: PT012 - what was served counts
        for piece in reader:
            served += piece
    assert LARGE.startswith(served)
    assert damaged(store, LARGE)
    assert store.head(key("object")).size == len(LARGE)
    assert body(store, "other") == b"another payload"
    put_back(path, LARGE)
    assert body(store, "object") == LARGE, "a file that was copied back serves at once"
    assert {finding.kind for finding in check(store).findings} == {"mark", "mode"}, "and is put right by a repair"
    assert check(store, repair=True).clean
    assert check(store, read_data=EVERYTHING).findings == ()
    assert path.stat().st_mode & 0o777 == 0o400
    FILE_DAMAGE[name][1](path)
    with pytest.raises(Damage):
        body(store, "object")
    put(store, "object", LARGE)
    assert body(store, "object") == LARGE, "the same bytes written again heal"
    assert not damaged(store, LARGE)


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_a_server_says_data_loss_and_a_check_beside_it_heals(
    server: Server, client: Client, name: str, tmp_path: Path
) -> None:
    client.write("object", LARGE)
    path = path_of(server.data_dir, LARGE)
    backup = path_of(tmp_path, LARGE)
    backup.parent.mkdir(parents=True)
    shutil.copyfile(path, backup)
    FILE_DAMAGE[name][1](path)
    received = b""
    with refused(DATA_LOSS):
        for chunk in client.read_stream("object"):
            received += chunk.data
    assert LARGE.startswith(received)
    assert client.head("object").size == len(LARGE), "damaged, not absent"
    assert client.body("other") == b"another payload"
    with Store.open(server.data_dir, create=False) as store:
        report = check(store, repair=True, backup=tmp_path)
        assert [finding.kind for finding in report.findings] == [FILE_DAMAGE[name][0]]
        assert report.clean
    assert client.body("object") == LARGE


def test_a_range_beside_the_damage_is_served_and_a_copy_shares_it(store: Store) -> None:
    put(store, "object", LARGE)
    store.copy(key("object"), key("copied"))
    path = payload_path(store, LARGE)
    content = bytearray(LARGE)
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with store.read(key("copied")) as reader:
        assert bytes(next(iter(reader))) == LARGE[: 1 << 20]
    (finding,) = check(store, read_data=EVERYTHING).findings
    assert {one.key for one in finding.affected} == {"object", "copied"}
    put(store, "object", LARGE)
    assert body(store, "copied") == LARGE


# ---- pages of the database ----

KEYS = 900
OWNERS = ("versions", "versions_by_digest", "versions_null", "current", "blobs", "counter", "settings", "pins")
OWNERS += ("unreachable", "quotas", "inlined", "alembic_version", "sqlite_schema")


@dataclass(frozen=True)
class Rich:
    """A closed store with enough rows for pages of every kind, and what a read of each of its keys has to give."""

    directory: Path
    expected: dict[str, tuple[str, str]]
    pages: dict[str, list[Page]]

    @property
    def database(self) -> Path:
        return self.directory / "metadata.sqlite3"


@pytest.fixture(name="rich", scope="module")
def rich_fixture(tmp_path_factory: pytest.TempPathFactory) -> Rich:
    directory = tmp_path_factory.mktemp("rich") / "store"
    seed = random.Random(7)
    expected: dict[str, tuple[str, str]] = {}
    with Store.open(directory) as store:
        payload = put(store, "payload", b"x")
        with store._database.write() as tx:
            for number in range(KEYS):
                text = "m" * (seed.randrange(5000, 20000) if number % 40 == 0 else seed.randrange(400))
                version = versions.append(
                    tx,
                    key(f"key {number:05}"),
                    bytes.fromhex(payload.digest),
                    1,
                    headers=NO_HEADERS,
                    metadata={"text": text},
                    suspended=number % 2 == 0,
                    now_ms=number,
                )
                expected[version.key.key] = version.version_id, text
            # Payloads of many chunks, whose rows are longer than a page. Nothing reaches them, so they need no files.
            for number in range(400):
                size = (600 if number % 40 == 0 else 1) << 20
                digest = blake3(b"%d" % number).digest()
                blob_rows.keep(tx, digest, size, seed.randbytes(16 * (size >> 20)))
            tx.executemany("INSERT INTO pins VALUES (?, 'hold', 1, 1, NULL)", [(str(n),) for n in range(300)])
            tx.execute("CREATE TABLE filler (data)")
            tx.executemany("INSERT INTO filler VALUES (zeroblob(8000))", [()] * 10)
        with store._database.write() as tx:
            tx.execute("DROP TABLE filler")
            tx.execute("DELETE FROM pins")
    rich = Rich(directory, expected, {})
    rich.pages.update({owner: pages_of(rich.database, owner) for owner in OWNERS})
    return rich


def _zeroes(_page: bytes) -> bytes:
    return bytes(PAGE_SIZE)


def _noise(_page: bytes) -> bytes:
    return os.urandom(PAGE_SIZE)


def _half_written(page: bytes) -> bytes:
    return page[: PAGE_SIZE // 2] + bytes(PAGE_SIZE // 2)


HOW: dict[str, Callable[[bytes], bytes]] = {"zeroes": _zeroes, "noise": _noise, "half written": _half_written}
PAGES = [
    *((owner, "root") for owner in OWNERS),
    *((owner, "leaf") for owner in ("versions", "versions_by_digest", "versions_null", "current", "blobs")),
    ("versions", "interior"),
    ("versions", "overflow"),
    ("blobs", "overflow"),
]


def damaged_copy(rich: Rich, directory: Path, page: int, how: str) -> Path:
    """A copy of the store with one page damaged."""
    shutil.copytree(rich.directory, directory)
    database = directory / "metadata.sqlite3"
    overwrite_page(database, page, HOW[how](read_page(database, page)))
    return directory


def test_the_rich_store_has_pages_of_every_kind(rich: Rich, tmp_path: Path) -> None:
    kinds = {(page.owner, page.kind) for pages in rich.pages.values() for page in pages}
    assert kinds >= set(PAGES)
    assert first_free(rich.database)
    with Store.open(Path(shutil.copytree(rich.directory, tmp_path / "store"))) as store:
        assert check(store, read_data=EVERYTHING).findings == ()
        assert _reads(store, rich) == 0


def _reads(store: Store, rich: Rich) -> int:
    """Look every key up; returns how many could not be. What is found must be right, and nothing may be absent."""
    lost = 0
    for name, (version_id, text) in rich.expected.items():
        try:
            version = store.head(key(name))
        except NoSuchKey:
            raise AssertionError(f"{name} is damaged, not absent") from None
        except DatabaseDamaged:
            lost += 1
        else:
            assert (version.version_id, version.metadata["text"]) == (version_id, text)
    return lost


@pytest.mark.parametrize("how", ["zeroes", "noise"])
@pytest.mark.parametrize(("owner", "kind"), PAGES)
def test_a_damaged_page_is_found_and_nothing_wrong_is_served(
    rich: Rich, tmp_path: Path, owner: str, kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    from gestalt_cas.checks.unopened import check_unopened, is_damaged

    caplog.set_level(logging.CRITICAL)
    page = [page.number for page in rich.pages[owner] if page.kind == kind][-1]
    directory = damaged_copy(rich, tmp_path / "store", page, how)
    try:
        store = Store.open(directory, create=False)
    except StoreError as error:
        refusal = error
    else:
        with store:
            _judge_damaged(store, rich, owner, silent=(owner, kind, how) == ("blobs", "overflow", "zeroes"))
        return
    assert is_damaged(directory, refusal)
    assert check_unopened(directory, refusal, CheckOptions(), lambda *_: None, lambda _: None).damaged


def _judge_damaged(store: Store, rich: Rich, owner: str, *, silent: bool) -> None:
    """Nothing wrong is served, a check finds the damage (but sums, which show when a payload is read), and mends it."""
    _reads(store, rich)
    report = check(store)
    assert silent or not report.clean
    assert all(finding.message and finding.remedy for finding in report.findings)
    repaired = check(store, repair=True)
    rebuilt = owner in ("versions_by_digest", "versions_null", "current", "unreachable")
    assert repaired.clean == (rebuilt or silent), (report.findings, repaired.findings)
    if rebuilt:
        assert check(store).findings == ()
        assert _reads(store, rich) == 0
        put(store, "afterwards", b"written after the repair")


@pytest.mark.parametrize("owner", ["versions", "versions_by_digest", "current", "blobs"])
def test_a_page_that_was_written_to_the_place_of_another_is_found(rich: Rich, tmp_path: Path, owner: str) -> None:
    first, *_, last = [page.number for page in rich.pages[owner] if page.kind == "leaf"]
    directory = tmp_path / "store"
    shutil.copytree(rich.directory, directory)
    database = directory / "metadata.sqlite3"
    overwrite_page(database, last, read_page(database, first))
    with Store.open(directory, create=False) as store:
        assert not check(store).clean


@pytest.mark.parametrize("owner", ["versions", "current", "blobs"])
def test_a_server_on_damaged_pages_says_data_loss_and_never_not_found(rich: Rich, tmp_path: Path, owner: str) -> None:
    page = [page.number for page in rich.pages[owner] if page.kind == "leaf"][-1]
    directory = damaged_copy(rich, tmp_path / "store", page, "zeroes")
    payload = blake3(b"x").digest()
    with Server(data_dir=directory) as server, Client(server.target, protos.BUCKETED) as client:
        lost = 0
        for name in list(rich.expected)[::25] + list(rich.expected)[-3:]:
            try:
                assert client.body(name, bucket=BUCKET) == b"x"
            except grpc.RpcError as error:
                assert error.code() == DATA_LOSS, error  # noqa: PT017 - most reads succeed
                lost += 1
        # The row of the one payload stands in the last leaf of blobs or it does not.
        assert lost or (owner == "blobs" and payload < bytes.fromhex("f0"))


def test_what_is_cut_off_the_database_is_found(rich: Rich, tmp_path: Path) -> None:
    directory = tmp_path / "store"
    shutil.copytree(rich.directory, directory)
    database = directory / "metadata.sqlite3"
    os.truncate(database, database.stat().st_size // 2)
    try:
        with Store.open(directory, create=False) as store:
            assert check(store).damaged
            with pytest.raises(StoreError):
                store.write(ObjectKey(BUCKET, "new"), [b"x"])
    except DatabaseDamaged:
        pass
