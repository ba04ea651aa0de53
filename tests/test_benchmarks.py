"""Each benchmark at a tiny size: it runs, prints its tables, and measures what it says. No time is judged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import building, format, http, listing  # noqa: A004 - named after their subjects
from gestalt_cas import Store
from gestalt_cas.objects import ListQuery

TINY = ["--repetitions", "2"]
LISTING = [*TINY, "--small", "2000", "--keys", "4000"]


def tables(printed: str) -> dict[str, list[list[str]]]:
    """Heading to rows of cells, without the head and its rule."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in printed.splitlines():
        if line.startswith("### "):
            heading = line.removeprefix("### ")
            found[heading] = []
        elif line.startswith("|"):
            found[heading].append([cell.strip() for cell in line.strip("|").split("|")])
    for rows in found.values():
        assert len({len(row) for row in rows}) == 1, "every row has as many cells as its head"
        assert set("".join(rows[1])) <= {"-", ":"}
    return {heading: rows[2:] for heading, rows in found.items()}


def numbers(cells: list[str]) -> list[float]:
    return [float(cell) for cell in cells]


def test_listing_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing.main([*LISTING, "--dir", str(tmp_path)])
    printed = capsys.readouterr().out
    found = tables(printed)
    sizes = found["Store size (ms per page)"]
    assert [row[:2] for row in sizes] == [
        [name, measure] for name, _, _ in listing.CASES for measure in ("list_page", "with reply", "CPU with reply")
    ]
    assert all(value > 0 for row in sizes for value in numbers(row[2:]))
    served = found["Server CPU per page over gRPC (ms)"]
    assert [row[0] for row in served] == [name for name, _, _ in listing.CASES]
    assert all(value > 0 for row in served for value in numbers(row[1:]))
    assert [len(rows) for rows in found.values()] == [9, 3, 2, 3]
    assert "Measured on " in printed


def test_listing_uses_kept_stores_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = listing.keys_in_insertion_order(300)
    kept = building.ready(tmp_path / "kept", keys)
    before = (kept / "metadata.sqlite3").stat().st_ino
    assert building.ready(tmp_path / "kept", keys) == kept
    assert (kept / "metadata.sqlite3").stat().st_ino == before
    assert capsys.readouterr().err.count("building kept") == 1


def test_store_whose_building_was_cut_off_is_built_again(tmp_path: Path) -> None:
    keys = listing.keys_in_insertion_order(300)
    building.ready(tmp_path / "kept", keys[:200])
    (tmp_path / "kept.json").unlink()
    building.ready(tmp_path / "kept", keys)
    with Store.open(tmp_path / "kept") as store:
        assert [found.key.key for found in store.list_page(ListQuery()).objects] == sorted(keys)


def test_listed_keys_stand_in_their_halves_and_groups(tmp_path: Path) -> None:
    count = 4000
    keys = listing.keys_in_insertion_order(count)
    in_order = [listing.key_at(index, count) for index in range(count)]
    assert in_order == sorted(set(in_order))
    assert keys[: count // 2] == in_order[: count // 2]
    assert keys[count // 2 :] != in_order[count // 2 :]
    assert sorted(keys) == in_order
    with Store.open(building.ready(tmp_path / "store", keys)) as store:
        filled = listing.Filled(tmp_path / "store", store, count)
        for half, fraction in ((0, 0.0), (0, 0.999), (1, 0.0), (1, 0.999)):
            page = store.list_page(filled.page_in(half, fraction))
            inside = in_order[half * count // 2 : (half + 1) * count // 2]
            assert len(page.objects) == 1000
            assert {found.key.key for found in page.objects} <= set(inside)
        assert len(store.list_page(ListQuery(delimiter="/")).common_prefixes) == listing.PREFIXES
        assert len(store.list_page(ListQuery(delimiter="-")).common_prefixes) == 1000


def test_format_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    format.main([*TINY, "--keys", "400", "--dir", str(tmp_path)])
    found = tables(capsys.readouterr().out)
    pages = {row[0]: numbers(row[1:4]) for row in found["Page size (400 objects)"]}
    assert len(pages) == 6
    usual, other, ratio = pages["WAL per commit of one object, bytes"]
    assert usual > 5 * 8192, "one commit changes at least a page of each table and index"
    assert other > usual
    assert ratio == pytest.approx(other / usual, abs=0.01)
    lookups = [row[0] for row in found["A lookup by key (µs CPU)"]]
    assert lookups == ["random keys", "one key", "one key, a transaction each"]
    assert found["The sum of a 1 MiB chunk"][0][0] == "XXH3-128"
    with Store.open(tmp_path / "pages-16384") as store:
        assert len(store.list_page(ListQuery(prefix="dir00/object")).objects) == 4


def test_format_says_that_crc32c_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    format.compare_sums(2)
    captured = capsys.readouterr()
    assert [row[0] for row in tables(captured.out)["The sum of a 1 MiB chunk"]] == ["XXH3-128", "BLAKE3"]
    assert "google-crc32c is not installed" in captured.err


HTTP = [*TINY, "--sizes", "0.5,3", "--upload", "2"]


def test_http_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    http.main([*HTTP, "--dir", str(tmp_path)])
    found = tables(capsys.readouterr().out)
    servers = ["nginx", "verified", "unverified"] if http.nginx_program() else ["verified", "unverified"]
    downloads = found["GET on one connection"]
    assert [row[0] for row in downloads] == [f"{size} MiB, {name}" for size in ("0.5", "3") for name in servers]
    assert all(int(row[1]) > 0 for row in downloads)
    uploads = found["PUT on one connection"]
    assert [row[0] for row in uploads] == ["2 MiB, write and fsync of a file", "2 MiB, PUT"]
    with Store.open(tmp_path / "http-uploads") as store:
        versions = store.list_versions(ListQuery()).versions
        assert len({version.etag for version in versions}) == 2, "every upload brought another payload"


def test_http_does_without_nginx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "nginx_program", lambda: None)
    http.compare_downloads(tmp_path, [1000], 1)
    captured = capsys.readouterr()
    rows = tables(captured.out)["GET on one connection"]
    assert [row[0].partition(", ")[2] for row in rows] == ["verified", "unverified"]
    assert {cell for row in rows for cell in row[4:7]} == {"-"}
    assert "nginx is not installed" in captured.err


def test_http_unverified_server_really_checks_nothing(tmp_path: Path) -> None:
    digest = http.filled(tmp_path, 3 << 20)
    blob = http.blob_of(tmp_path, digest)
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"damage")
    with http.all_servers(tmp_path, digest) as candidates:
        urls = {candidate.name: candidate.url for candidate in candidates}
        http.download(urls["unverified"])
        with pytest.raises(AssertionError, match=f"2097152 of {3 << 20} bytes came"):
            http.download(urls["verified"])
