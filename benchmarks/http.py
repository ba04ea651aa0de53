"""What a verified download costs over HTTP, beside nginx sending the same file; and an upload, beside a plain write.

    python -m benchmarks.http [--dir DIR] [--sizes 64,1024] [--upload 128] [--repetitions 9]

One connection at a time, everything on this machine, the file in the page cache. Three servers answer in turn, the
order reversed each time: nginx (one process, sendfile), `gestalt-cas serve`, and the same with the check of the chunks
switched off, which shows what the check costs. nginx is given the blob file itself. The client takes the body into
one buffer and looks at nothing, so that it is not what is measured. Ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.findings import Finding, at_least
from benchmarks.measuring import by_round, note, place, print_machine, print_table, quotient
from benchmarks.partners import Partner, program
from benchmarks.reads import KEY, blob_of, filled, random_pieces
from benchmarks.runs import Run
from benchmarks.serving import Wanted, cpu_seconds, served, served_together
from benchmarks.syncing import MIB, written
from gestalt_cas import Store, wire_pb2

GOAL = at_least(0.6)
_PIECE = MIB
_CLIENT_BUFFER = 256 * 1024
_START_SECONDS = 10.0
_CONFIGURATION = """
{user}
worker_processes 1;
master_process off;
daemon off;
pid {home}/pid;
error_log {home}/error;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@dataclass
class Candidate:
    """A server of the object at `url`, and its transfers in seconds: by the clock, of its CPU, of the client's."""

    name: str
    pid: int
    url: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    client_cpu: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], object]) -> None:
        cpu, client_cpu, wall = cpu_seconds(self.pid), time.thread_time(), time.perf_counter()
        run()
        self.wall.append(time.perf_counter() - wall)
        self.client_cpu.append(time.thread_time() - client_cpu)
        self.cpu.append(cpu_seconds(self.pid) - cpu)


def compare_downloads(root: Path, sizes: Sequence[int], repetitions: int) -> list[Finding]:
    """GET of a whole object, by each server in turn."""
    lines, findings = [], []
    for size in sizes:
        directory = root / f"reads-{size}"
        digest = filled(directory, size)
        with all_servers(directory, digest) as candidates:
            for candidate in candidates:
                _check_body(candidate, directory, digest)
            note(f"downloading {_shown(size)}, {repetitions} times from each of {len(candidates)} servers")
            for repetition in range(repetitions):
                for candidate in candidates if repetition % 2 else reversed(candidates):
                    candidate.add(partial(download, candidate.url))
        lines += _download_lines(size, candidates)
        findings += _download_findings(size, candidates)
    print_table(
        "GET on one connection",
        ["Object, served by", "MiB/s", "CPU, ms per GiB", "Client's", "Rate, nginx = 1", "Lowest", "Highest", "Goal"],
        lines,
    )
    return findings


def _download_findings(size: int, candidates: Sequence[Candidate]) -> list[Finding]:
    taken = {found.name: found.wall for found in candidates}
    if "nginx" not in taken:
        return []
    rate = by_round(quotient, taken["nginx"], taken["verified"])
    return [Finding(f"HTTP GET {_shown(size)}: rate, nginx = 1", rate, GOAL)]


def _download_lines(size: int, candidates: Sequence[Candidate]) -> list[list[str]]:
    lines = []
    base = next((found for found in candidates if found.name == "nginx"), None)
    for found in candidates:
        ratios = [one / other for one, other in zip(base.wall, found.wall, strict=True)] if base else []
        shown = [f"{pick(ratios):.2f}" if ratios else "-" for pick in (statistics.median, min, max)]
        cpu = [f"{statistics.median(taken) * 1e3 * (1 << 30) / size:.0f}" for taken in (found.cpu, found.client_cpu)]
        goal = f"{GOAL.bound:.2f}" if found.name == "verified" else ""
        lines.append([f"{_shown(size)}, {found.name}", _rate(size, found.wall), *cpu, *shown, goal])
    return lines


def compare_uploads(root: Path, size: int, repetitions: int) -> None:
    """PUT of an object that the store does not have, beside writing the same bytes to a file and syncing it."""
    directory = root / "http-uploads"
    shutil.rmtree(directory, ignore_errors=True)
    Store.open(directory).close()
    body = bytearray(b"".join(random_pieces(size)))
    plain: list[float] = []
    note(f"uploading {_shown(size)} {repetitions} times")
    with served(directory) as server:
        url = presigned(server.call, wire_pb2.PRESIGN_METHOD_PUT, "upload")
        candidate = Candidate("PUT", server.pid, url)
        for repetition in range(repetitions):
            body[:8] = (repetition + 1).to_bytes(8, "big")  # known payloads are not published again
            steps: list[Callable[[], object]] = [
                lambda: candidate.add(lambda: upload(url, body)),
                lambda: plain.append(written(root / "plain", body).wall),
            ]
            for step in steps if repetition % 2 else reversed(steps):
                step()
    ratios = [one / other for one, other in zip(plain, candidate.wall, strict=True)]
    cpu = statistics.median(candidate.cpu) * 1e3 * (1 << 30) / size
    print_table(
        "PUT on one connection",
        ["Object, by", "MiB/s", "CPU, ms per GiB", "Rate, plain = 1", "Lowest", "Highest"],
        [
            [f"{_shown(size)}, write and fsync of a file", _rate(size, plain), "", "1.00", "1.00", "1.00"],
            [
                f"{_shown(size)}, PUT",
                _rate(size, candidate.wall),
                f"{cpu:.0f}",
                *(f"{pick(ratios):.2f}" for pick in (statistics.median, min, max)),
            ],
        ],
    )


def _rate(size: int, seconds: Sequence[float]) -> str:
    return f"{size / MIB / statistics.median(seconds):.0f}"


def download(url: str) -> None:
    """GET `url` on a connection of its own; returns when the whole body has come."""
    buffer = memoryview(bytearray(_CLIENT_BUFFER))
    with _asked("GET", url, "") as connection:
        status, length, taken = _head(connection)
        assert status == 200, f"status {status}"
        while taken < length and (count := connection.recv_into(buffer)):
            taken += count
    assert taken == length, f"{taken} of {length} bytes came"


def upload(url: str, body: bytes | bytearray) -> None:
    """PUT `body` on a connection of its own; returns when the store has answered."""
    with _asked("PUT", url, f"Content-Length: {len(body)}\r\n") as connection:
        connection.sendall(body)
        status, _, _ = _head(connection)
        assert status == 200, f"status {status}"


def presigned(call: Callable[[str, bytes], bytes], method: wire_pb2.PresignMethod, key: str) -> str:
    request = wire_pb2.PresignObjectRequest(ref=wire_pb2.ObjectRef(key=key), method=method, expires_seconds=86_400)
    return wire_pb2.PresignObjectResponse.FromString(call("PresignObject", request.SerializeToString())).url


def _asked(method: str, url: str, fields: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection.sendall(f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{fields}\r\n".encode())
    return connection


def _head(connection: socket.socket) -> tuple[int, int, int]:
    """Status and length of the coming response, and how many bytes of its body came along."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        assert more, "the connection ended before the response"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), int(fields.get("content-length", "0")), len(rest)


def _check_body(candidate: Candidate, directory: Path, digest: str) -> None:
    """Once, and outside the measured time: the server sends exactly the object."""
    hasher = hashlib.sha256()
    with _asked("GET", candidate.url, "Connection: close\r\n") as connection, connection.makefile("rb") as lines:
        while lines.readline().strip():
            pass
        while piece := lines.read(_PIECE):
            hasher.update(piece)
    with blob_of(directory, digest).open("rb") as file:
        wanted = hashlib.file_digest(file, "sha256")
    assert hasher.digest() == wanted.digest(), f"{candidate.name} sends something else"


def _shown(size: int) -> str:
    return f"{size / MIB:.4g} MiB"


def nginx_program() -> str | None:
    """nginx, which distributions keep out of a user's PATH; None when there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def all_servers(directory: Path, digest: str) -> Iterator[list[Candidate]]:
    with ExitStack() as stack:
        found = []
        nginx = nginx_program()
        if nginx:
            found.append(stack.enter_context(_nginx(nginx, directory, digest)))
        else:
            note("nginx is not installed: nothing to compare with")
        wanted = {
            "verified": Wanted(directory),
            "unverified": Wanted(directory, program(Partner.UNVERIFIED)),
        }
        for name, server in stack.enter_context(served_together(wanted)).items():
            url = presigned(server.call, wire_pb2.PRESIGN_METHOD_GET, KEY)
            found.append(Candidate(name, server.pid, url))
        yield found


@contextmanager
def _nginx(executable: str, directory: Path, digest: str) -> Iterator[Candidate]:
    """nginx in one process, on the directory of the blob."""
    blob = blob_of(directory, digest)
    home = directory / "nginx"
    home.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Blobs are their owner's only, and a root's nginx would drop to another user.
    user = "user root;" if os.geteuid() == 0 else ""
    text = _CONFIGURATION.format(user=user, home=home.resolve(), root=blob.parent.resolve(), port=port)
    (home / "conf").write_text(text)
    command = [executable, "-p", str(home.resolve()), "-c", str((home / "conf").resolve())]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process, home / "error")
            yield Candidate("nginx", process.pid, f"http://127.0.0.1:{port}/{blob.name}")
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes], errors: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"nginx did not start:\n{errors.read_text()}") from None
            time.sleep(0.02)


def benchmark(run: Run) -> list[Finding]:
    sizes = [64 * MIB, 1024 * MIB] if not run.quick else [3 * MIB]
    findings = compare_downloads(run.root, sizes, run.repetitions)
    compare_uploads(run.root, run.sized(128 * MIB, 2 * MIB), run.repetitions)
    return findings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="keep the stores here for later runs")
    parser.add_argument("--sizes", default="64,1024", help="objects to download, MiB, separated by commas")
    parser.add_argument("--upload", type=float, default=128, help="object to upload, MiB")
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args(arguments)
    with place(options.dir) as chosen:
        root = Path(chosen)
        root.mkdir(parents=True, exist_ok=True)
        compare_downloads(root, [int(float(size) * MIB) for size in options.sizes.split(",")], options.repetitions)
        compare_uploads(root, int(options.upload * MIB), options.repetitions)
        print_machine(root)


if __name__ == "__main__":
    main()
