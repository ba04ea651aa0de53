"""The verb `prove`."""

from __future__ import annotations

from command_line import Command, bucket_fixture, cas_fixture, data_dir_fixture, store_fixture, write  # noqa: F401
from gestalt_cas import Store


def test_the_verb_prints_it(cas: Command, store: Store, bucket: str) -> None:
    seq = write(store, bucket, "k", b"one").seq
    first = store.prove(bucket)
    assert cas("prove", bucket).text == f"{first.digest}  {bucket} at sequence {store.moment().seq}\n"
    write(store, bucket, "k", b"two")
    (record,) = cas("prove", bucket, "--current", "--json").records
    assert record == {
        "digest": store.prove(bucket, current=True).digest,
        "bucket": bucket,
        "seq": store.moment().seq,
        "current": True,
        "lines": 1,
    }
    assert cas("prove", bucket, "--as-of", str(seq)).text.startswith(f"{first.digest}  ")
    assert cas("prove").text == f"{store.prove().digest}  the whole store at sequence {store.moment().seq}\n"
    assert cas("prove", f"{bucket}/k").code == 2
    assert cas("prove", bucket, "--as-of", "").code == 2
