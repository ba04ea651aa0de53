"""Each benchmark at a tiny size: it runs, prints its tables, and measures what it says. No time is judged."""

from __future__ import annotations

import math
import re
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from blake3 import blake3

from benchmarks import (
    __main__,
    building,
    calls,
    driving,
    findings,
    http,
    instructions,
    listing,
    memory,
    processors,
    reads,
    soak,
    start,
    telemetry,
    writes,
)
from benchmarks import format as choices
from benchmarks.findings import LIMIT, Finding, at_least, at_most
from benchmarks.measuring import Samples, Spread, Timing, by_round, in_turn
from benchmarks.partners import Partner, program
from benchmarks.runs import Run
from benchmarks.serving import Server, Wanted, served, served_together
from gestalt_cas import Store
from gestalt_cas.files.layout import Layout
from gestalt_cas.objects import ListQuery, ObjectKey
from gestalt_cas.transactions.connections import connect

TINY = ["--repetitions", "2"]
QUICK = ["reads", "writes", "calls", "listing", "growth", "disk", "threshold", "processors", "telemetry", "--quick"]
BUILD = Path(__file__).resolve().parents[1] / ".build"
SMALL, KEYS = "2,000", "4,000"


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


@pytest.fixture(scope="module")
def quick() -> dict[str, list[list[str]]]:
    """The tables of one quick run of most benchmarks. (capsys is for one test only, hence the handmade capture.)

    It is on a disk, since in memory some of what is measured takes no time at all.
    """
    BUILD.mkdir(exist_ok=True)
    patch = pytest.MonkeyPatch()
    printed: list[str] = []
    patch.setattr("builtins.print", lambda *words, **options: None if "file" in options else printed.extend(words))
    try:
        with TemporaryDirectory(dir=BUILD) as place:
            __main__.main([*QUICK, "--dir", place])
    finally:
        patch.undo()
    text = "\n".join(printed)
    assert "Driven by the raw Python client." in text
    assert "Measured on " in text
    return tables(text)


Tables = dict[str, list[list[str]]]


def column(rows: list[list[str]], at: int = 0) -> list[str]:
    return [row[at] for row in rows]


def test_listing_prints_its_tables(quick: Tables) -> None:
    sizes = quick["Store size (ms per page)"]
    assert [row[:2] for row in sizes] == [
        [name, measure] for name, _, _ in listing.CASES for measure in ("list_page", "with reply", "CPU with reply")
    ]
    assert all(value > 0 for row in sizes for value in numbers(row[2:]))
    served_pages = quick["Server CPU per page over gRPC (ms)"]
    assert column(served_pages) == [name for name, _, _ in listing.CASES]
    assert all(value > 0 for row in served_pages for value in numbers(row[1:]))
    assert len(quick[f"Kind of page ({KEYS} keys, ms with reply)"]) == 3


def test_small_writes_stand_beside_their_partners_and_plain_syncs(quick: Tables) -> None:
    kinds = {writes.STORED, writes.LEAST, writes.UNSTORED, writes.NAIVE, writes.NOOP}
    kinds |= {writes.APPENDED, writes.OVERWRITTEN}
    for title in ("WriteObject 4 KiB, 16 callers", "WriteObject 4 KiB, one caller, median call"):
        rows = quick[f"{title}, raw Python client"]
        assert kinds <= set(column(rows)) <= kinds | {writes.INLINED, writes.LEAST_INLINED}
        # Not those of a second: on a busy disk a sync may take so long that it has none.
        assert all(value > 0 for row in rows for value in numbers([row[1], row[3]]))


def test_the_least_keeps_each_body_once_by_its_digest(tmp_path: Path) -> None:
    with (
        served(tmp_path / "files", program(Partner.LEAST)) as server,
        driving.drivers(compiled=False, sdk=False) as (d,),
    ):
        d.timing(server, driving.uploads([f"k{number}" for number in range(40)], 1000, seed=1, callers=8))
    files = {path.name: path.read_bytes() for path in (tmp_path / "files" / "least").rglob("*") if path.is_file()}
    assert len(files) == 40
    assert all(blake3(data).hexdigest() == name and len(data) == 1000 for name, data in files.items())
    with closing(connect(Layout(tmp_path / "files").database)) as connection:
        rows = connection.execute("SELECT key, hex(digest), data FROM least").fetchall()
    assert {row[0] for row in rows} == {f"k{number}" for number in range(40)}
    assert {row[1].lower() for row in rows} == set(files)
    assert {row[2] for row in rows} == {None}


def test_large_writes_stand_beside_each_step(quick: Tables) -> None:
    for frame in (64, 1024):
        rows = quick[f"WriteObject 2 MiB, frames of {frame} KiB, raw Python client"]
        assert column(rows) == [writes.STORED, writes.UNSTORED, writes.SYNCED, writes.HASHED]
        assert all(float(row[2]) > 0 for row in rows)


def test_reads_have_frames_of_the_same_size_as_the_kept_messages(quick: Tables) -> None:
    rows = {row[0]: row[1:] for row in quick["ReadObject 2 MiB, raw Python client"]}
    assert set(rows) == {reads.VERIFIED, reads.UNVERIFIED, reads.KEPT, reads.OPEN_FILE}
    assert rows[reads.KEPT][3] == rows[reads.VERIFIED][3]
    assert rows[reads.OPEN_FILE][3] == "64", "what the SDK's runtime reads at a time"


def test_the_threshold_compares_writes_and_reads_of_both_places(quick: Tables) -> None:
    rows = quick["Payloads in the database beside payloads in files, raw Python client"]
    assert [row[1] for row in rows] == ["write, one caller", "write, 16 callers", "read, 16 callers"]
    assert all(value > 0 for row in rows for value in numbers(row[2:]))


def test_threads_on_one_processor_stand_beside_threads_anywhere(quick: Tables) -> None:
    for place in ("files", "the database"):
        rows = quick[f"Threads on one processor, small payloads in {place}, raw Python client"]
        assert len(rows) == len(processors.loads(Run(Path(), []), "", ""))
        assert all(float(value) > 0 for row in rows for value in row[1:3])


def test_telemetry_compares_watched_servers_with_unwatched_ones(quick: Tables) -> None:
    servers = [telemetry.WITHOUT, telemetry.QUIET, telemetry.OTLP, telemetry.SCRAPED, telemetry.AGAIN]
    for work in telemetry.works(Run(Path(), [])):
        rows = quick[f"Watched: {work.name}, raw Python client"]
        assert column(rows) == servers
        assert all(value > 0 for row in rows for value in numbers(row[1:2]))


def test_an_unobserved_server_knows_of_no_call_and_answers_all_the_same(tmp_path: Path) -> None:
    settings = {"telemetry.metrics": "loopback"}
    wanted = {
        "bare": Wanted(tmp_path / "bare", program(Partner.UNOBSERVED), settings),
        "real": Wanted(tmp_path / "real", settings=settings),
    }
    with served_together(wanted) as servers, driving.drivers(compiled=False, sdk=False) as (driver,):
        for name, server in servers.items():
            check_client(driver, server, "")
            page = telemetry.scrape(server).decode()
            shown = {line.partition("{")[0] for line in page.splitlines() if not line.startswith("#")}
            assert ("gestalt_cas_grpc_call_duration_seconds_count" in shown) == (name == "real")
            groups = re.search("^gestalt_cas_commit_group_size_count (.+)$", page, re.MULTILINE)
            assert groups
            assert (float(groups[1]) > 0) == (name == "real")


def test_growth_compares_each_call_at_both_sizes(quick: Tables) -> None:
    rows = quick["Growth (µs per call, one caller)"]
    assert column(rows) == ["HeadObject", "WriteObject 4 KiB", "DeleteObject"]
    assert all(value > 0 for row in rows for value in numbers(row[1:]))


def test_findings_hold_every_row_that_was_measured(quick: Tables) -> None:
    found = quick["Measured against the goals"]
    for beginning, count in (
        ("ReadObject", 3),
        ("WriteObject 4 KiB, 16 callers, stored in files", 2),
        ("WriteObject 4 KiB, one caller, stored in files", 1),
        ("WriteObject 2 MiB", 2),
        ("HeadObject, 16 callers", 1),
        ("the statement alone, 16 callers", 1),
        ("CopyObject", 2),
        ("ListObjects", 6),
        (f"DeleteObject, {KEYS} objects", 2),
        ("Disk, metadata", 1),
        ("Watched", 3 * 7),
    ):
        assert len([row for row in found if row[0].startswith(beginning)]) == count, beginning
    slow = {row[5] for row in found if row[5].startswith("fdatasync")}
    assert {row[5] for row in found} <= {"yes", "NO", LIMIT} | slow
    assert {row[0] for row in found if row[5] == LIMIT} == {
        row[0] for row in found if ", the least in" in row[0] or row[0].startswith("the statement alone")
    }


def test_copies_are_told_apart_from_reads_by_what_was_moved(quick: Tables) -> None:
    (moved,) = (row for row in quick["Measured against the goals"] if "bytes read and written" in row[0])
    assert 0 < float(moved[1].removesuffix(" KiB")) < 10 * 1024, "ten MiB were copied; reading them would show"


def test_listing_uses_kept_stores_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = listing.keys_in_insertion_order(300)
    kept = building.ready(tmp_path / "kept", keys)
    before = (kept / "metadata.sqlite3").stat().st_ino
    assert building.ready(tmp_path / "kept", keys) == kept
    assert (kept / "metadata.sqlite3").stat().st_ino == before
    assert capsys.readouterr().err.count("building kept") == 1


def test_a_benchmark_leaves_what_others_use_and_nothing_of_others_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(run: Run) -> list[Finding]:
        (run.root / "own" / "blobs").mkdir(parents=True)
        (run.root / "kept").mkdir()
        (run.root / "kept.json").write_text("{}")
        return []

    monkeypatch.setattr(__main__, "BENCHMARKS", {"made": made})
    (tmp_path / "somebody's" / "photographs").mkdir(parents=True)
    assert __main__.chosen([])(Run(tmp_path, [])) == []
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "kept.json", "somebody's"}
    assert (tmp_path / "somebody's" / "photographs").is_dir()


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
    choices.main([*TINY, "--keys", "400", "--dir", str(tmp_path)])
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
    choices.compare_sums(2)
    captured = capsys.readouterr()
    assert [row[0] for row in tables(captured.out)["The sum of a 1 MiB chunk"]] == ["XXH3-128", "BLAKE3"]
    assert "google-crc32c is not installed" in captured.err


HTTP = [*TINY, "--sizes", "3", "--upload", "2"]


def test_http_prints_its_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    http.main([*HTTP, "--dir", str(tmp_path)])
    found = tables(capsys.readouterr().out)
    servers = ["nginx", "verified", "unverified"] if http.nginx_program() else ["verified", "unverified"]
    downloads = found["GET on one connection"]
    assert [row[0] for row in downloads] == [f"3 MiB, {name}" for name in servers]
    assert all(int(row[1]) > 0 for row in downloads)
    uploads = found["PUT on one connection"]
    assert [row[0] for row in uploads] == ["2 MiB, write and fsync of a file", "2 MiB, PUT"]
    with Store.open(tmp_path / "http-uploads") as store:
        versions = store.list_versions(ListQuery()).versions
        assert len({version.etag for version in versions}) == 2, "every upload brought another payload"


def test_http_does_without_nginx_and_its_unverified_server_checks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "nginx_program", lambda: None)
    digest = http.filled(tmp_path, 3 << 20)
    blob = http.blob_of(tmp_path, digest)
    blob.chmod(0o600)
    with blob.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"damage")
    with http.all_servers(tmp_path, digest) as candidates:
        urls = {candidate.name: candidate.url for candidate in candidates}
        assert list(urls) == ["verified", "unverified"]
        assert "nginx is not installed" in capsys.readouterr().err
        http.download(urls["unverified"])
        with pytest.raises(AssertionError, match=f"2097152 of {3 << 20} bytes came"):
            http.download(urls["verified"])


def test_clients_upload_read_and_look_up_what_they_should(tmp_path: Path) -> None:
    built = driving.PROGRAM.exists()  # building it takes a minute, so that is left to `make bench`
    with served(tmp_path / "store") as server, driving.drivers(compiled=built) as found:
        for driver in found:
            check_client(driver, server, f"{driver.name}/")
    with Store.open(tmp_path / "store") as store:
        for driver in found:
            payloads = [store.read(ObjectKey("", f"{driver.name}/{name}")).read() for name in "abc"]
            assert {len(payload) for payload in payloads} == {100_000}
            assert len(set(payloads)) == 3, "each upload has bytes of its own"
            assert len({payload[16:] for payload in payloads}) == 1


def check_client(driver: driving.Driver, server: Server, prefix: str) -> None:
    keys = [f"{prefix}{name}" for name in "abc"]
    assert len(driver.run(server.target, driving.uploads(keys[:2], 100_000, seed=7, callers=2)).calls) == 2
    driver.run(server.target, driving.uploads(keys[2:], 100_000, seed=8))
    read = driver.run(server.target, driving.downloads(keys[0], times=3, callers=2))
    assert 300_000 <= read.bytes < 303_000
    assert driver.run(server.target, driving.heads(keys)).bytes > 0
    with pytest.raises(SystemExit, match=f"HeadObject by the {driver.name}"):
        driver.run(server.target, driving.heads(["absent"]))


def test_slow_streams_and_mixed_load_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "SETTLED_SECONDS", 0.1)
    reads.filled(tmp_path / "store", 3 << 20)
    with served(tmp_path / "store", settings=soak.SETTINGS) as server:
        _, frame = memory.growth(server, 2, lambda _: memory.slow_read(server))
        assert frame > 1 << 16
        assert memory.growth(server, 2, lambda number: memory.slow_upload(server, number))[1] == (1 << 16) + 4
        times, samples = soak.loaded(server, tmp_path / "store", 1.0, 2)
    assert len(times) == len(samples) > 3
    assert all(len(sample) == len(soak.SERIES) for sample in samples)
    assert sum(int(row[1]) for row in tables(capsys.readouterr().out)["Calls"]) > 0


def test_soak_fails_what_grows() -> None:
    times = [float(second) for second in range(60)]
    for series in soak.SERIES:
        grown = series.allowance * 3 / 60
        assert soak.judged(series, times, [1e3 + second * grown for second in times])[1] is False
        assert soak.judged(series, times, [1e3 + second * grown if second < 20 else 1e3 for second in times])[1]


def test_start_takes_the_imports_off(tmp_path: Path) -> None:
    beyond, imports = start.until_answered(tmp_path / "store")
    assert beyond > 0
    assert imports > 0


def test_killed_store_has_a_long_wal(tmp_path: Path) -> None:
    store = building.ready(tmp_path / "small", listing.keys_in_insertion_order(300))
    start.leave_long_wal(store, tmp_path / "killed", 1 << 20)
    assert Layout(tmp_path / "killed").wal.stat().st_size >= 1 << 20
    with Store.open(tmp_path / "killed") as opened:
        assert opened.usage().objects > 300


def test_copied_objects_are_what_their_rows_say(tmp_path: Path) -> None:
    calls.build_copies(tmp_path / "store", 5 << 20)
    with Store.open(tmp_path / "store") as store:
        assert store.read(ObjectKey("", calls.LARGE)).read() == bytes(5 << 20)
        assert store.read(ObjectKey("", calls.SMALL)).read() == b"s" * 1024


def test_rounds_take_turns_and_ratios_are_of_rounds() -> None:
    order: list[str] = []

    def run(name: str, seconds: float) -> Timing:
        order.append(name)
        return Timing(seconds, seconds)

    found = in_turn({"a": lambda n: run("a", n + 1.0), "b": lambda n: run("b", (n + 1.0) * (n + 1))}, 3, warm_up=1)
    assert order == ["b", "a", "a", "b"] * 2
    assert found == {"a": Samples([2, 3, 4], [2, 3, 4]), "b": Samples([4, 9, 16], [4, 9, 16])}
    assert by_round(lambda one, other: one / other, found["b"].wall, found["a"].wall) == Spread(3, 2, 4)


def test_goals_are_judged_by_the_median() -> None:
    assert Finding("", Spread(0.8, 0.1, 0.9), at_least(0.8)).verdict == "yes"
    assert Finding("", Spread(0.79, 0.1, 0.9), at_least(0.8)).verdict == "NO"
    assert Finding("", 1.3, at_most(1.3)).verdict == "yes"
    assert Finding("", 1.31, at_most(1.3), "the disk was slow").verdict == "the disk was slow"
    assert Finding("", math.nan, at_most(1.3)).verdict == "nothing measured"
    assert [findings.with_unit(value, "ms") for value in (1.234, 12.34, 1234.5)] == ["1.23 ms", "12.3 ms", "1,234 ms"]


def test_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["nosuch", "--quick"])
    assert "no benchmark nosuch" in capsys.readouterr().err


def test_quick_sizes_are_small() -> None:
    run = Run(Path(), [])
    assert (run.sized(5, 1), replace(run, quick=True).sized(5, 1)) == (5, 1)


def test_instructions_are_read_from_whole_dumps_only() -> None:
    dump = "version: 1\ncreator: callgrind\nevents: Ir\n\nfn=(1)\n1 12\n\ntotals: 5610012\n"
    assert instructions.total(dump) == 5610012
    assert instructions.total(dump.partition("totals")[0]) is None
