"""A gRPC server of our own around the handlers, for `gestalt-cas serve` and `gestalt-cas provider`.

Its life: bind (never over somebody who answers), say that it is ready, wait for SIGTERM or ctrl-C, stop within two
seconds whatever is open. Commits are crash-safe, so what cannot be closed in time is left to the end of the process.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

import grpc

from gestalt_cas import request_ids
from gestalt_cas.clock import instant
from gestalt_cas.configuration.config import Config, Limits, Telemetry
from gestalt_cas.configuration.stamps import Stamps
from gestalt_cas.contract.calls import Calls
from gestalt_cas.contract.lifecycle import LifecycleService
from gestalt_cas.contract.rpc import S3Service
from gestalt_cas.errors import AddressUnusable, InvalidArgument, StoreError
from gestalt_cas.http.http_side import HttpSide
from gestalt_cas.observing import otel
from gestalt_cas.observing.calls import Observer
from gestalt_cas.observing.readings import Readings
from gestalt_cas.observing.spans import Spans
from gestalt_cas.rows import version_ids
from gestalt_cas.serving import host, logs, reach, targets
from gestalt_cas.serving.mounts import Mounts
from gestalt_cas.serving.pools import Pools
from gestalt_cas.serving.targets import Target
from gestalt_cas.sql import sqlite
from gestalt_cas.system import cycles, exhaustion, platforms, refusals
from gestalt_cas.system.processors import PROCESSORS

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
"""What newer SDK runtimes take and send in one message."""
LIFECYCLE_THREADS = 4
LEAST_FILES = 64
"""A server without callers has thirty files open."""
LEAST_THREADS = 16
"""Of our own, when a few calls of each kind have come."""
_LEAST_OF_GRPC, _MOST_OF_GRPC = 4, 16
"""grpc's C code begins with as many as there are processors, within these."""
_STOP_SECONDS = 1.5
_TURN_SECONDS = 0.1
_GRACE_SECONDS = 0.3
_FLUSH_SECONDS = 0.5


class Provider:
    """The handlers and their shared state, to be added to any grpc.Server.

    `target` is where that one listens, None when it is not known.
    """

    def __init__(self, target: Target | None = None, *, fixed: bool = False) -> None:
        limits = Limits()
        self.observer = Observer()
        self.http = HttpSide(self.observer)
        self.mounts = Mounts(lambda store, config: self.http.attached(store, config, self.mounts))
        self.calls = Calls(limits.stream_idle_seconds)
        self.pools = Pools(limits.concurrent_reads, limits.concurrent_writes)
        self.readings = self.http.readings = Readings(self.observer, self.mounts, self.pools)
        self._spans: Spans | None = None
        self._target, self._fixed = target, fixed
        self._registered = self._gathers = False
        self._wound_down = threading.Event()

    def configure(self, config: Config) -> None:
        reach.require(config, self._target)
        self.mounts.configure(config)
        _make_ids(config.stamps)
        self.calls.idle_seconds = config.limits.stream_idle_seconds
        self.pools.resize(config.limits.concurrent_reads, config.limits.concurrent_writes)
        self._observe(config.telemetry)
        self._gathers = config.threads.one_processor
        self._place_threads()
        log.info("%s", sqlite.describe())

    def _place_threads(self) -> None:
        """Not before there is a grpc.Server: its own threads start where the one is that makes it, and may be many."""
        if self._registered and self._gathers:
            PROCESSORS.gather()
        else:
            PROCESSORS.scatter()

    def _observe(self, telemetry: Telemetry) -> None:
        if telemetry.log_format:
            logs.set_up(telemetry.log_format)
        logs.name_requests()
        self.observer.configure(telemetry)
        self.observer.exporter = self._exporter(telemetry) if telemetry.open_telemetry else None

    def _exporter(self, telemetry: Telemetry) -> Spans | None:
        """What exports calls; None when nothing does, or when it cannot be made: the configuration is in force."""
        if self._spans is None:
            try:
                self._spans = otel.exporter(self.readings)
            except Exception:
                log.exception("nothing is exported to OpenTelemetry")
        if self._spans is not None:
            self._spans.per_second = telemetry.spans_per_second
        return self._spans

    def flush(self, seconds: float) -> None:
        """Send what waits to be sent to OpenTelemetry, switched off by now or not, within about so many seconds."""
        if self._spans is not None:
            self._spans.settle()
            otel.flush(seconds)

    def register(self, server: grpc.Server) -> None:
        exhaustion.end_process_with_thread()
        platforms.keep_freed_memory()
        service = S3Service(self.mounts, self.calls, self.pools, self.observer)
        warnings: tuple[str, ...] = ()
        if not service.on_own_pools():
            warnings = (
                f"grpcio {grpc.__version__} ignores thread pools per handler: slow streams can block all calls",
            )
            log.warning("%s", warnings[0])
        lifecycle = LifecycleService(self, fixed=self._fixed, warnings=warnings)
        server.add_generic_rpc_handlers((lifecycle, service))
        self._registered = True
        self._place_threads()

    def stop(self) -> None:
        """Begin to stop, without waiting; the process ends in 1.5 s at the latest, with exit code 0.

        Safe in a signal handler: ending the calls and closing the store happen on another thread, which the
        interpreter waits for, so the database is closed under its lock or not at all.
        """
        timer = threading.Timer(_STOP_SECONDS, _leave_at_once)
        timer.daemon = True
        try:
            timer.start()
            threading.Thread(target=self._wind_down, name="gestalt-cas-stop").start()
        except RuntimeError:  # no more threads
            _leave_at_once()

    def wait_until_closed(self, timeout: float) -> bool:
        """After `stop`: wait until the calls have left and the store is closed; returns whether that is so."""
        return self._wound_down.wait(timeout)

    def _wind_down(self) -> None:
        if self._spans is not None:
            self._spans.hurry()
        self.http.stop()
        self.calls.stop()
        if self.mounts.close(timeout=_STOP_SECONDS):
            self._wound_down.set()

    @staticmethod
    def leave(reason: str) -> None:
        """Stop as SIGTERM does, through the handler of whoever runs the process."""
        log.warning("leaving: %s", reason)
        os.kill(os.getpid(), signal.SIGTERM)


def serve(config: Config, target: Target, *, allow_unauthenticated: bool = False) -> int:
    """Serve one configured store until stopped; prints the ready line and returns the exit code."""
    if not (target.loopback or allow_unauthenticated):
        raise InvalidArgument(
            f"{target.url} can be reached from other machines and nothing authenticates callers; "
            "use a loopback address, or --allow-unauthenticated if that is what you want"
        )
    _allow_many_files()
    _require_threads()
    _export()
    provider = Provider(target, fixed=True)
    stopping = _stop_on_signals(provider)
    targets.claim(target)
    provider.configure(config)
    mount = provider.mounts.present
    assert mount is not None
    directory = mount.store.directory
    lock = targets.hold(target)
    try:
        return _run(provider, target, stopping, lambda bound: _announce(bound, directory, provider.http.url))
    finally:
        if lock is not None:
            lock.close()


def serve_host(text: str) -> int:
    """Serve under a host, unconfigured, at the socket that the host named; returns the exit code."""
    target = targets.parse(text)
    _allow_many_files()
    _require_threads()
    _export()
    provider = Provider(target)
    stopping = _stop_on_signals(provider)
    targets.claim(target)
    host.watch(provider.leave)
    return _run(provider, target, stopping, lambda bound: log.info("serving the host at %s", bound.url))


def _make_ids(stamps: Stamps) -> None:
    """Make ids as the configuration has it, and say so when the server is for tests only."""
    version_ids.seed = stamps.seed
    request_ids.unsent = "" if stamps.seed is None else "0" * 16
    if stamps.chosen:
        dates = "the clock" if stamps.fixed_ms is None else instant(stamps.fixed_ms)
        ids = "random" if stamps.seed is None else f"seeded with {stamps.seed}"
        log.warning("FOR TESTS ONLY: answers are dated by %s, version ids are %s", dates, ids)


def _export() -> None:
    """Export to OpenTelemetry if the environment says where, as the SDK's own runtime would."""
    if otel.set_up():
        logs.only_ours()


def _stop_on_signals(provider: Provider) -> SimpleQueue[None]:
    """A queue that gets an item at the first SIGTERM or SIGINT, when the provider also begins to stop.

    Not an Event: a handler runs in the midst of whatever the main thread does, and setting an Event while that thread
    stands inside its wait() deadlocks. SimpleQueue.put is made for this.
    """
    stopping: SimpleQueue[None] = SimpleQueue()
    begun = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal begun
        if not begun:
            begun = True
            provider.stop()
            stopping.put(None)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return stopping


def _run(provider: Provider, target: Target, stopping: SimpleQueue[None], ready: Callable[[Target], None]) -> int:
    server = grpc.server(
        futures.ThreadPoolExecutor(LIFECYCLE_THREADS, thread_name_prefix="gestalt-cas-lifecycle"),
        options=(
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ),
    )
    provider.register(server)
    bound = _bind(server, target)
    server.start()
    cycles.settle()
    ready(bound)
    _wait_for(stopping)
    log.info("stopping")
    _end_calls(server)
    if not provider.wait_until_closed(_STOP_SECONDS):
        log.warning("calls are still open; leaving all the same")
    provider.flush(_FLUSH_SECONDS)
    if bound.path:
        Path(bound.path).unlink(missing_ok=True)
    _leave_at_once()
    return 0


def _allow_many_files() -> None:
    """Raise the soft limit on open files to the hard one: each stream takes two or three.

    Raises StoreError where even that is too low: when grpc's C code gets none, it ends the process by SIGABRT.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # a system may refuse what it named as the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        raise StoreError(
            f"the limit on open files is {soft}, and a server needs at least {LEAST_FILES}: "
            "raise it (ulimit -n, LimitNOFILE=)"
        )


def _require_threads() -> None:
    """Raise RuntimeError where no server can run for want of threads, by starting as many as one needs at once.

    What they count against is told by no single figure: all processes of the user, or of a control group. When grpc's
    C code gets none, it tries for ten seconds and then ends the process by SIGABRT.
    """
    grpcs = max(_LEAST_OF_GRPC, min(os.cpu_count() or 1, _MOST_OF_GRPC))
    if not platforms.starts_threads(LEAST_THREADS + grpcs):
        raise RuntimeError("can't start new thread")


def _end_calls(server: grpc.Server) -> None:
    """Take no more calls and wait for the open ones, which grpcio does on a thread; without one it ends them."""
    try:
        ended = server.stop(_GRACE_SECONDS)
    except RuntimeError as error:
        if not exhaustion.is_exhaustion(error):
            raise
        ended = server.stop(None)
    ended.wait()


def _wait_for(stopping: SimpleQueue[None]) -> None:
    """Wait for the item, in short turns.

    Python runs the handler of a signal on this thread only, and a signal that the system gave to another thread does
    not end a wait without a timeout (seen in one stop of eight).
    """
    while True:
        try:
            return stopping.get(timeout=_TURN_SECONDS)
        except Empty:
            continue


def _bind(server: grpc.Server, target: Target) -> Target:
    """Bind under a umask that makes the socket 0600; returns the target with its real port."""
    if target.path and not Path(target.path).parent.is_dir():
        raise AddressUnusable(f"cannot listen at {target.path}: there is no directory {Path(target.path).parent}")
    before = os.umask(0o177)
    try:
        port = server.add_insecure_port(target.bind)
    except RuntimeError as error:
        raise AddressUnusable(f"cannot listen at {target.url}: {error}") from error
    finally:
        os.umask(before)
    if not port:
        raise AddressUnusable(f"cannot listen at {target.url}: the address cannot be bound")
    return target if target.path else Target(host=target.host, port=port)


def _announce(bound: Target, directory: Path, http: str) -> None:
    ready = {"event": "ready", "grpc": bound.url, "data_dir": str(directory)}
    if http:
        ready["http"] = http
    with refusals.on_stream("stdout"):
        print(json.dumps(ready, separators=(",", ":")), flush=True)
    log.info("serving %s at %s until SIGTERM or ctrl-C", directory, bound.url)
    program = _program()
    log.info(
        "files: %s --data-dir %s put FILE BUCKET/KEY (also ls, get, sync; see %s --help)",
        program,
        shlex.quote(str(directory)),
        program,
    )
    log.info("gRPC: any Gestalt S3 client, dialling %s", bound.bind)


def _program() -> str:
    """How whoever started this calls the verbs: by name where a shell finds it, else by the path that was started."""
    started = Path(sys.argv[0])
    if started.name != "gestalt-cas" or shutil.which("gestalt-cas"):
        return "gestalt-cas"
    return shlex.quote(str(started.absolute()))


def _leave_at_once() -> None:
    """End the process: interpreter shutdown would join pool threads, which may wait for their peers.

    Nothing is flushed: the ready line and the log were as they were written, and a pipe that nobody reads, or whose
    reader has gone, must not keep the process, nor change its exit code.
    """
    os._exit(0)
