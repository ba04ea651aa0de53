"""The command as scripts meet it: quick, one table of exit codes, what is printed where, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import click
import pytest

from command_line import (  # noqa: F401
    PROGRAM,
    ROOT,
    Command,
    bucket_fixture,
    cas_fixture,
    command_in,
    data_dir_fixture,
    environment,
    one_line,
    process,
    store_fixture,
    write,
)
from gestalt_cas import ListQuery, ObjectKey, Store, errors
from gestalt_cas.cli import exits, output
from gestalt_cas.cli.app import VERBS, app, run
from gestalt_cas.cli.progress import Progress
from gestalt_cas.clock import instant

HEAVY = ("grpc", "gestalt", "google.protobuf", "sqlalchemy", "alembic", "rich", "jsonschema", "yaml", "opentelemetry")
STORE_VERBS = {
    "put": ("-", "b/k"),
    "get": ("b/k", "-"),
    "cat": ("b/k",),
    "cp": ("b/k", "b/l"),
    "rm": ("b/k",),
    "ls": (),
    "stat": ("b/k",),
    "versions": ("b/k",),
    "du": (),
    "sync": ("./", "b"),
    "config": (),
    "quota": ("list",),
    "stats": (),
    "doctor": (),
}


# ---- quick, and complete ----


@pytest.mark.parametrize("code", ["import gestalt_cas", "from gestalt_cas.cli.app import run; run(['--help'])"])
def test_what_must_be_quick_imports_nothing_heavy(code: str) -> None:
    check = f"import sys; {code}; print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("verb", [*STORE_VERBS, "init", "completion"])
def test_object_verbs_need_neither_grpc_nor_the_sdk(verb: str, tmp_path: Path) -> None:
    words = [
        "--data-dir",
        str(tmp_path / "none"),
        verb,
        *STORE_VERBS.get(verb, ("bash",) if verb == "completion" else ()),
    ]
    check = (
        "import sys; from gestalt_cas.cli.app import run; run(sys.argv[1:]); "
        "sys.exit(any(name in sys.modules for name in ('grpc', 'gestalt', 'google.protobuf')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check, *words], capture_output=True, env=environment(), cwd=tmp_path, timeout=60
    )
    assert done.returncode == 0


def test_object_verbs_load_no_tool_that_they_do_not_need(data_dir: Path) -> None:
    check = (
        "import sys; from gestalt_cas.cli.app import run; assert run(sys.argv[1:]) == 0; "
        "print(sorted(set(sys.modules) & {'gestalt_cas.backups.backup', 'gestalt_cas.checks.checking', "
        "'gestalt_cas.removal.retention_runs', 'gestalt_cas.statistics'}), file=sys.stderr)"
    )
    command = [sys.executable, "-c", check, "--data-dir", str(data_dir), "ls"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_help_names_every_verb_and_every_exit_code() -> None:
    result = process("--help")
    assert result.code == 0
    for name, verb in VERBS.items():
        assert f"  {name} " in result.text
        assert verb.help in result.text
    for code in exits.MEANINGS:
        assert str(code) in result.text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_table_loads_and_explains_itself(verb: str) -> None:
    command = app.get_command(click.Context(app), verb)
    assert command is not None
    assert command.name == verb
    assert command.help
    verbs = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for one in verbs if VERBS[verb].module != "serving" else ():
        assert one.help
        common = {"--json"} if verb == "conformance" else {"--json", "--data-dir"}  # that judges others' stores
        assert common <= {name for parameter in one.params for name in parameter.opts}


def test_no_words_show_the_help_and_are_a_usage_error() -> None:
    result = process()
    assert (result.code, result.out) == (2, b"")
    assert "Commands:" in result.err


def test_version() -> None:
    from gestalt_cas import __version__

    assert process("--version").out == f"gestalt-cas {__version__}\n".encode()


# ---- exit codes ----


def every_error() -> set[type[errors.StoreError]]:
    found, new = {errors.StoreError}, [errors.StoreError]
    while new:
        below = new.pop().__subclasses__()
        found.update(below)
        new.extend(below)
    return {kind for kind in found if kind.__module__.startswith("gestalt_cas")}


def test_the_table_has_every_error_and_no_other() -> None:
    assert set(exits.TABLE) == every_error()
    assert set(exits.TABLE.values()) <= {*exits.MEANINGS, exits.INTERRUPTED}


def made(kind: type[errors.StoreError]) -> errors.StoreError:
    if issubclass(kind, errors.Damage):
        return kind("why it\nfailed", digest="00" * 32)
    if issubclass(kind, errors.InvalidRange):
        return kind("why it\nfailed", size=1)
    if issubclass(kind, errors.NotModified):
        return kind("why it\nfailed", etag='"00"', modified_ms=0)
    if issubclass(kind, errors.SignatureError):
        return kind("AccessDenied", "why it\nfailed")
    return kind("why it\nfailed")


@pytest.mark.parametrize("kind", sorted(exits.TABLE, key=lambda kind: kind.__name__))
def test_every_error_is_one_line_and_one_json_object(
    cas: Command, monkeypatch: pytest.MonkeyPatch, kind: type[errors.StoreError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise made(kind)

    monkeypatch.setattr(Store, "buckets", fail)
    plain, as_json = cas("ls"), cas("ls", "--json")
    assert plain.code == as_json.code == exits.TABLE[kind]
    assert (plain.out, one_line(plain)) == (b"", "why it\\nfailed")
    assert json.loads(as_json.err) == {
        "error": {"kind": kind.__name__, "message": "why it\nfailed", "exit": exits.TABLE[kind]}
    }


def test_an_error_that_the_table_lacks_has_the_code_of_its_base() -> None:
    class Special(errors.NoSuchVersion):
        pass

    assert exits.code_of(Special("x")) == exits.NOT_FOUND


def test_the_codes_are_those_that_the_readme_promises() -> None:
    table = (
        exits.OK,
        exits.NOT_FOUND,
        exits.USAGE,
        exits.CONFLICT,
        exits.DAMAGE,
        exits.FULL,
        exits.NO_STORE,
        exits.BUSY,
    )
    assert table == (0, 1, 2, 3, 4, 5, 10, 11) == tuple(exits.MEANINGS)


def test_payloads_without_their_database_are_no_place_for_a_new_store(
    capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    with Store.open(tmp_path / "store") as store:
        store.write(ObjectKey("b", "k"), [b"data"])
    (tmp_path / "store/metadata.sqlite3").unlink()
    for verb in (["ls"], ["stats"], ["init"]):
        result = command_in(tmp_path / "store", capsysbinary)(*verb)
        assert result.code == (2 if verb == ["init"] else 10)
        assert "holds payloads but no metadata.sqlite3: put the database back from a backup" in result.err
        assert "make one with" not in result.err


@pytest.mark.parametrize("verb", STORE_VERBS)
def test_without_a_store_every_verb_says_how_to_make_one(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    monkeypatch.setattr(sys, "stdin", (ROOT / "pyproject.toml").open())
    result = command_in(tmp_path / "none", capsysbinary)(verb, *STORE_VERBS[verb])
    sys.stdin.close()
    assert result.code == 10
    line = one_line(result)
    assert f"gestalt-cas init --data-dir {tmp_path}/none" in line
    assert "serve" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("ls", "--nonsense"),
        ("put", "x"),
        ("put", "x", "bucket-only"),
        ("put", "x", ""),
        ("put", "-", "b/"),
        ("put", ".", "b/k"),
        ("put", "absent-file", "b/k"),
        ("put", "-", "b/k", "--metadata", "novalue"),
        ("put", "-", "b/k", "--if-match", ""),
        ("put", "-", "b/k", "--follow-symlinks"),
        ("get", "b"),
        ("get", "b/k", "--range", "5"),
        ("get", "b/k", "--range", "-5"),
        ("get", "b/k", "--range", "a-b"),
        ("get", "b/k", "absent/"),
        ("cat", "b/k", "--version-id", ""),
        ("completion", "tcsh"),
        ("config", "nonsense"),
        ("config", "versioning", "perhaps"),
        ("config", "bucket", "a/b"),
        ("config", "blobs.inlineMaxBytes", "many"),
        ("rm", "b/" + "x" * 2049),
        ("ls", "--data-dir", ""),
    ],
)
def test_wrong_usage_is_one_line_and_changes_nothing(
    cas: Command, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(store, "b", "k")
    before = store.list_versions(ListQuery(bucket="b")).versions
    plain = cas(*words)
    assert (plain.code, plain.out) == (2, b"")
    assert one_line(plain)
    if words[0] != "nonsense":
        error = json.loads(cas(*words, "--json").err)["error"]
        assert error["exit"] == 2
    assert store.list_versions(ListQuery(bucket="b")).versions == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("get", "{b}/absent", "-"), 1),
        (("cat", "{b}/absent"), 1),
        (("stat", "{b}/absent"), 1),
        (("stat", "{b}/k", "--version-id", "absent"), 1),
        (("versions", "{b}/absent"), 1),
        (("versions", "{b}/k-and-more"), 1),
        (("cp", "{b}/absent", "{b}/x"), 1),
        (("rm", "{b}/absent"), 1),
        (("rm", "{b}/k", "--version-id", "absent"), 1),
        (("cat", "{b}/k", "--range", "100-"), 2),
        (("cat", "{b}/k", "--range", "5-2"), 2),
        (("put", "{file}", "{b}/k", "--if-none-match", "*"), 3),
        (("put", "{file}", "{b}/k", "--if-match", "0000"), 3),
        (("cp", "{b}/k", "{b}/x", "--if-match", "0000"), 3),
        (("cp", "{b}/k", "{b}/x", "--if-none-match", "{etag}"), 3),
    ],
)
def test_what_does_not_hold_has_its_code(
    cas: Command, store: Store, bucket: str, words: tuple[str, ...], code: int
) -> None:
    version = write(store, bucket, "k")
    result = cas(*(word.format(b=bucket, file=ROOT / "pyproject.toml", etag=version.etag) for word in words))
    assert (result.code, result.out) == (code, b"")
    assert one_line(result)
    assert [found.key.key for found in store.list_page(ListQuery(bucket=bucket)).objects] == ["k"]


def test_local_errors_name_the_path(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    write(store, bucket, "k")
    assert one_line(cas("put", tmp_path / "absent", f"{bucket}/x")) == f"{tmp_path}/absent: No such file or directory"
    assert one_line(cas("get", f"{bucket}/k", tmp_path / "absent/x")) == f"{tmp_path}/absent: No such file or directory"
    (tmp_path / "file").write_text("")
    assert "Not a directory" in one_line(cas("get", f"{bucket}/k", tmp_path / "file/x"))


def test_a_working_directory_that_was_removed_is_told(
    cas: Command, store: Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, bucket, "k")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = cas("get", f"{bucket}/k", "here")
    assert (result.code, "working directory has been removed" in one_line(result)) == (2, True)


@pytest.mark.parametrize("verb", ["ls", "doctor"])
def test_what_is_no_directory_is_not_said_to_be_missing(
    capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, verb: str
) -> None:
    (tmp_path / "file").write_text("")
    result = command_in(tmp_path / "file", capsysbinary)(verb)
    assert (result.code, one_line(result)) == (10, f"no store at {tmp_path}/file: it is not a directory")


def test_an_unusable_data_directory_is_one_line(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy/of-others").write_text("")
    for name in ("file", "busy"):
        result = command_in(tmp_path / name, capsysbinary)("init")
        assert result.code == 2
        assert name in one_line(result)


# ---- what is printed ----


def in_terminal(words: list[str], *, of: str, data: list[bytes] | None = None) -> tuple[int, bytes, bytes]:
    """Run the command with stdout or stderr on a terminal; returns its code, what the terminal saw, and the other."""
    master, slave = pty.openpty()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, of: slave}
    child = subprocess.Popen([*PROGRAM, *words], stdin=subprocess.PIPE, env=environment() | {"TERM": "xterm"}, **pipes)
    os.close(slave)
    assert child.stdin is not None
    for piece in data or []:
        child.stdin.write(piece)
        child.stdin.flush()
        time.sleep(0.7)
    child.stdin.close()
    seen = b""
    with contextlib.suppress(OSError):  # EIO is how a terminal ends
        while piece := os.read(master, 65536):
            seen += piece
    os.close(master)
    other = child.stderr if of == "stdout" else child.stdout
    assert other is not None
    rest = other.read()
    other.close()
    return child.wait(timeout=60), seen, rest


def test_keys_are_escaped_on_a_terminal_and_raw_elsewhere(data_dir: Path, store: Store, bucket: str) -> None:
    key = "\x1b]0;evil\x07\n\u202eü"
    write(store, bucket, key)
    words = ["--data-dir", str(data_dir), "ls", "-r", bucket]
    code, seen, _ = in_terminal(words, of="stdout")
    assert code == 0
    assert seen.strip() == "\\x1b]0;evil\\x07\\n\\u202eü".encode()
    assert process(*words).out == f"{key}\n".encode()
    assert process(*words, "--json").record["key"] == key
    assert process(*words, "--json").out.isascii()
    failed = process("--data-dir", data_dir, "cat", f"{bucket}/\x1b[31mx")
    assert one_line(failed).startswith(f"{bucket}/\\x1b[31mx")


def test_a_locale_without_unicode_changes_nothing(data_dir: Path, store: Store, bucket: str) -> None:
    write(store, bucket, "日本")
    done = subprocess.run(
        [*PROGRAM, "--data-dir", str(data_dir), "ls", bucket],
        env=environment() | {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "日本\n".encode())


def test_long_transfers_show_progress_on_a_terminal_only(data_dir: Path) -> None:
    words = ["--data-dir", str(data_dir), "put", "-", "progress/k"]
    pieces = [b"x" * (1 << 20)] * 3
    code, seen, out = in_terminal(words, of="stderr", data=pieces)
    assert code == 0
    assert out.startswith(b"put - as progress/k (3145728 bytes")
    assert b"MiB" in seen or b"MB" in seen
    child = subprocess.Popen(
        [*PROGRAM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert child.stdin is not None
    child.stdin.write(pieces[0])
    child.stdin.flush()
    time.sleep(0.7)
    _, err = child.communicate(pieces[0], timeout=60)
    assert (child.returncode, err) == (0, b"")


def test_work_that_tells_where_it_is_shows_when_nothing_more_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step over a large store may take a minute."""
    drawn = threading.Event()

    class Bar:
        def add_task(self, *_: object, **__: object) -> int:
            return 1

        def start(self) -> None:
            return

        stop = start

        def update(self, *_: object, **__: object) -> None:
            drawn.set()

    monkeypatch.setattr("sys.stderr", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(Progress, "_make", lambda _: Bar())
    with Progress("check", counted=True) as progress:
        progress.at("a long step", 0, 0)
        assert drawn.wait(60)
    before = threading.active_count()
    with Progress("check", counted=True) as progress:
        progress.at("a short step", 0, 0)
    assert progress._timer is not None
    progress._timer.join(60)
    assert threading.active_count() <= before
    assert progress._bar is None


def test_short_transfers_show_nothing_at_all(data_dir: Path) -> None:
    code, seen, _ = in_terminal(["--data-dir", str(data_dir), "put", "-", "progress/short"], of="stderr")
    assert (code, seen) == (0, b"")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10189, "10K"), (10239, "10K"), (1048063, "1023K"), (1048575, "1.0M"),
     (5 << 30, "5.0G"), (3 << 40, "3.0T"), (3 << 50, "3.0P"), (3 << 60, "3072P")],
)  # fmt: skip
def test_human_sizes(count: int, text: str) -> None:
    assert output.size(count, human=True) == text
    assert output.size(count) == str(count)


def test_times_are_utc_with_milliseconds() -> None:
    assert instant(0) == "1970-01-01T00:00:00.000Z"
    assert instant(1_763_931_600_007) == "2025-11-23T21:00:00.007Z"


# ---- how it ends ----


@pytest.mark.parametrize("words", [["cat", "broken/big"], ["ls", "-r", "broken", "--json"]])
def test_a_reader_that_goes_away_ends_it_quietly(data_dir: Path, store: Store, words: list[str]) -> None:
    write(store, "broken", "big", os.urandom(4 << 20))
    for number in range(1500):
        store.copy(ObjectKey("broken", "big"), ObjectKey("broken", f"copy/{number}"))
    child = subprocess.Popen(
        [*PROGRAM, "--data-dir", str(data_dir), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.read(10)
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert (child.wait(timeout=60), err) == (141, b"")


def test_a_reader_that_is_gone_from_the_start_ends_it_quietly_too(data_dir: Path) -> None:
    read, written = os.pipe()
    os.close(read)
    child = subprocess.Popen(
        [*PROGRAM, "--data-dir", str(data_dir), "config"], stdout=written, stderr=subprocess.PIPE, env=environment()
    )
    os.close(written)
    assert child.communicate(timeout=60)[1] == b""
    assert child.returncode == 141


@pytest.mark.parametrize(
    ("words", "closing", "name"),
    [
        ("ls", ">&-", "stdout"),
        ("cat closed/k", ">&-", "stdout"),
        ("retention preview", ">&-", "stdout"),
        ("put - closed/x", "<&-", "stdin"),
        ("batch -", "<&-", "stdin"),
        ("ls", "<&- >&-", "stdout"),
        ("serve", ">&-", "stdout"),
    ],
)
def test_closed_streams_are_an_error_of_one_line(
    data_dir: Path, store: Store, words: str, closing: str, name: str
) -> None:
    write(store, "closed", "k")
    command = f'"$0" -m gestalt_cas --data-dir "$1" {words} {closing}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, str(data_dir)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert (done.returncode, lines) == (2, [f"gestalt-cas: {name}: Bad file descriptor"])
    assert [found.key.key for found in store.list_page(ListQuery(bucket="closed")).objects] == ["k"]


def test_a_full_disk_below_stdout_is_exit_5(data_dir: Path, store: Store) -> None:
    write(store, "full", "k")
    for verb in ("ls", "config", "cat"):
        with Path("/dev/full").open("wb") as full:
            words = [*PROGRAM, "--data-dir", str(data_dir), verb, *(["full/k"] if verb == "cat" else [])]
            done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, env=environment(), timeout=60)
        assert (done.returncode, done.stderr) == (5, b"gestalt-cas: stdout: No space left on device\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_uploads_leave_nothing(data_dir: Path, store: Store, number: signal.Signals, code: int) -> None:
    child = subprocess.Popen(
        [*PROGRAM, "--data-dir", str(data_dir), "put", "-", f"stopped/{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert child.stdin is not None
    child.stdin.write(b"x" * (3 << 20))
    child.stdin.flush()
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in (data_dir / "staging").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert list((data_dir / "staging").iterdir()) == []
    with pytest.raises(errors.NoSuchKey):
        store.head(ObjectKey("stopped", str(code)))


def test_ctrl_c_while_the_command_is_loaded_is_exit_130_without_a_traceback(tmp_path: Path) -> None:
    """Loading takes most of a short verb's time, so that is when ctrl-C comes."""
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    found_first = {**environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([*PROGRAM, "ls"], capture_output=True, env=found_first, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_an_interrupted_get_leaves_the_target(
    cas: Command, store: Store, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(store, bucket, "k", os.urandom(2 << 20))
    (tmp_path / "t").write_text("old")

    def interrupt(self: object, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gestalt_cas.cli.progress.Progress.advance", interrupt)
    assert cas("get", f"{bucket}/k", tmp_path / "t").code == 130
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("t", "old")]


def test_no_descriptor_or_lock_outlives_a_verb(cas: Command, store: Store, bucket: str, tmp_path: Path) -> None:
    write(store, bucket, "k")
    cas("ls")
    before = sorted(os.listdir("/proc/self/fd"))
    for words in (("get", f"{bucket}/k", tmp_path / "f"), ("cat", f"{bucket}/absent"), ("sync", bucket, tmp_path)):
        cas(*words)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_the_verbs_work_while_another_process_writes(data_dir: Path, store: Store, bucket: str) -> None:
    assert store.claim_server()
    common = ("--data-dir", data_dir)
    assert process("put", "-", f"{bucket}/k", *common, data=b"1").code == 0
    write(store, bucket, "k", b"2")
    assert process("cat", f"{bucket}/k", *common).out == b"2"
    assert process("rm", f"{bucket}/k", *common).code == 0
    with pytest.raises(errors.NoSuchKey):
        store.head(ObjectKey(bucket, "k"))


# ---- completion ----


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(cas: Command, shell: str) -> None:
    result = cas("completion", shell)
    assert result.code == 0
    assert "_GESTALT_CAS_COMPLETE" in result.text
    assert cas("completion", shell, "--json").record["shell"] == shell


def complete(data_dir: Path, *words: str) -> list[str]:
    line = ["gestalt-cas", *words]
    asked = {"_GESTALT_CAS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
    done = subprocess.run(
        PROGRAM,
        env=environment() | asked | {"GESTALT_CAS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_verbs_options_and_objects_are_completed(data_dir: Path, store: Store, tmp_path: Path) -> None:
    for key in ("docs/a", "docs/b/c", "download"):
        write(store, "complete", key)
    assert complete(data_dir, "ver") == ["versions"]
    assert set(complete(data_dir, "")) == set(VERBS)
    assert "--version-id" in complete(data_dir, "cat", "--")
    assert complete(data_dir, "cat", "comp") == ["complete/"]
    assert complete(data_dir, "cat", "complete/do") == ["complete/docs/", "complete/download"]
    assert complete(data_dir, "rm", "complete/docs/") == ["complete/docs/a", "complete/docs/b/"]
    assert complete(data_dir, "--data-dir", str(tmp_path / "none"), "cat", "comp") == []


def test_run_takes_the_words_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gestalt-cas", "--version"])
    assert run() == 0
    assert capsys.readouterr().out.startswith("gestalt-cas ")
