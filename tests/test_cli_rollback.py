"""The verb `rollback`."""

from __future__ import annotations

import pytest

from command_line import (  # noqa: F401
    Command,
    bucket_fixture,
    cas_fixture,
    data_dir_fixture,
    one_line,
    store_fixture,
    write,
)
from gestalt_cas import ObjectKey, Store
from gestalt_cas.time_travel import rollback_plans


@pytest.fixture(name="moment")
def moment_fixture(store: Store, bucket: str) -> str:
    """A sequence, after which a key is changed, one deleted and one added."""
    write(store, bucket, "site/a", b"one")
    moment = write(store, bucket, "site/b", b"bee").seq
    write(store, bucket, "site/a", b"two")
    store.delete(ObjectKey(bucket, "site/b"))
    write(store, bucket, "site/c", b"new one")
    write(store, bucket, "elsewhere", b"x")
    return str(moment)


def listed(cas: Command, where: str) -> list[str]:
    return cas("ls", "-r", where).text.splitlines()


def test_what_would_be_done_is_shown_and_not_done(cas: Command, bucket: str, moment: str) -> None:
    done = cas("rollback", f"{bucket}/site/", "--to", moment, "--dry-run")
    assert done.code == 0, done.err
    assert done.text.splitlines() == [
        f"changed             3  {bucket}/site/a",
        f"added               3  {bucket}/site/b",
        f"deleted             7  {bucket}/site/c",
        f"would roll back {bucket}/site/ to sequence {moment}: 1 added, 1 changed, 1 deleted",
    ]
    assert cas("cat", f"{bucket}/site/a").out == b"two"


def test_it_is_done_and_undone_by_the_command_that_it_shows(cas: Command, bucket: str, moment: str) -> None:
    before = listed(cas, f"{bucket}/")
    done = cas("rollback", f"{bucket}/site/", "--to", moment)
    first, second = done.text.splitlines()
    assert first == f"rolled back {bucket}/site/ to sequence {moment}: 1 added, 1 changed, 1 deleted"
    assert listed(cas, f"{bucket}/") == ["elsewhere", "site/a", "site/b"]
    assert cas("cat", f"{bucket}/site/a").out == b"one"
    told, _, command = second.partition(": gestalt-cas ")
    assert told == "to undo it"
    assert cas(*command.split()).code == 0
    assert listed(cas, f"{bucket}/") == before
    assert cas("cat", f"{bucket}/site/a").out == b"two"


def test_nothing_to_do(cas: Command, bucket: str, moment: str) -> None:
    cas("rollback", bucket, "--to", moment)
    done = cas("rollback", bucket, "--to", moment)
    assert (done.code, done.text) == (0, f"rolled back {bucket} to sequence {moment}: 0 added, 0 changed, 0 deleted\n")


def test_as_json(cas: Command, bucket: str, moment: str) -> None:
    *steps, total = cas("rollback", bucket, "--to", moment, "--dry-run", "--json").records
    assert steps[0] == {"change": "deleted", "bucket": bucket, "key": "elsewhere", "size": 1}
    assert [step["change"] for step in steps] == ["deleted", "changed", "added", "deleted"]
    assert total["seq_before"] == total["seq_after"]
    (done,) = cas("rollback", bucket, "--to", moment, "--json").records
    assert done["to"] == {"seq": int(moment), "snapshot": ""}
    assert (done["added"], done["changed"], done["deleted"]) == (1, 1, 2)
    assert (done["bucket"], done["prefix"], done["dry_run"]) == (bucket, "", False)
    assert done["seq_after"] == done["seq_before"] + 4
    assert total["added"] == 1
    assert total["dry_run"]


def test_to_a_snapshot(cas: Command, store: Store, bucket: str) -> None:
    write(store, bucket, "k", b"one")
    name = f"s-{bucket.replace('_', '-')}"[:100]
    cas("snapshot", "create", name, bucket)
    cas("rm", f"{bucket}/k")
    done = cas("rollback", bucket, "--to", name)
    assert done.text.startswith(f"rolled back {bucket} to snapshot {name} (sequence ")
    assert cas("cat", f"{bucket}/k").out == b"one"


def test_what_cannot_be_done_says_why(
    cas: Command, store: Store, bucket: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words, code, problem in (
        (("--to", ""), 2, "--to: the value is empty"),
        ((), 2, "Missing option '--to'"),
        (("--to", "99999999"), 2, "has not been yet"),
        (("--to", "no-such-snapshot"), 1, "there is no snapshot no-such-snapshot"),
    ):
        done = cas("rollback", bucket, *words)
        assert (done.code, problem in one_line(done)) == (code, True), done.err
    monkeypatch.setattr(rollback_plans, "MOST_KEYS", 3)
    refused = cas("rollback", bucket, "--to", moment)
    assert (refused.code, "--stop-writes" in one_line(refused)) == (3, True)
    assert cas("cat", f"{bucket}/site/a").out == b"two"
    assert cas("rollback", bucket, "--to", moment, "--stop-writes").code == 0
    old = write(store, bucket, "gone", b"one")
    write(store, bucket, "gone", b"two")
    store.delete(old.key, version_id=old.version_id)
    gone = cas("rollback", bucket, "--to", str(old.seq))
    assert (gone.code, "what gone had then was removed for good" in one_line(gone)) == (1, True)


def test_a_time_before_the_first_change_is_not_taken_for_the_wish_to_delete_everything(
    cas: Command, bucket: str, moment: str
) -> None:
    before = listed(cas, bucket)
    refused = cas("rollback", bucket, "--to", "5d")
    assert (refused.code, refused.text) == (2, "")
    assert f"--to 5d: nothing had been written by then, so all of {bucket} would be deleted" in one_line(refused)
    assert listed(cas, bucket) == before
    shown = cas("rollback", bucket, "--to", "5d", "--dry-run")
    assert shown.text.splitlines()[-1] == f"would roll back {bucket} to sequence 0: 0 added, 0 changed, 3 deleted"
    assert cas("rollback", bucket, "--to", "0").code == 0
    assert listed(cas, bucket) == []


def test_what_cannot_be_undone_is_said(cas: Command, store: Store, bucket: str) -> None:
    write(store, bucket, "k", b"one")
    moment = str(store.moment().seq)
    assert cas("config", "versioning", "suspended").code == 0
    try:
        write(store, bucket, "k", b"two")
        done = cas("rollback", bucket, "--to", moment)
    finally:
        cas("config", "versioning", "enabled")
    assert done.code == 0
    assert "to undo it" not in done.text
    assert "cannot be undone" in one_line(done)
    assert cas("cat", f"{bucket}/k").out == b"one"
