"""Getting ready to serve looks neither into directories of payloads nor through tables, however large the store is.

`python -m benchmarks start` measures it at 1,000,000 objects.
"""

from __future__ import annotations

import json
from pathlib import Path

from gestalt_cas import Store
from storage import child, put

READY = """
    import json
    from driver_aids import trace_statements
    from gestalt_cas.configuration import config
    from gestalt_cas.sql import sqlite
    from gestalt_cas.serving.mounts import Mounts

    looked, said = [], []
    sys.addaudithook(lambda event, args: event in ("os.listdir", "os.scandir", "open") and looked.append(str(args[0])))
    connect = sqlite.connect

    def traced(*args, **kwargs):
        connection = connect(*args, **kwargs)
        trace_statements(connection, said.append)
        return connection

    sqlite.connect = traced
    mounts = Mounts()
    mounts.configure(config.parse({"dataDir": arguments[0]}))
    mounts.present.store.maintain()
    seen = [list(looked), list(said)]
    assert mounts.close(10)
    print(json.dumps(seen))
"""


def test_no_directory_of_payloads_and_no_table_is_gone_through(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        for number in range(40):
            put(store, f"k{number}", b"%d" % number)
    looked, said = json.loads(child(READY, tmp_path / "store"))
    blobs = tmp_path / "store" / "blobs"
    assert str(blobs) in looked, "the hook saw nothing"
    assert [path for path in looked if blobs in Path(path).parents] == []
    assert any("settings" in statement for statement in said), "the trace saw nothing"
    with Store.open(tmp_path / "store") as store, store._database.read() as tx:
        plans = {
            statement: [
                row[-1]
                for row in tx.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * statement.count("?")).fetchall()
            ]
            for statement in said
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))
        }
    assert plans
    large = ("versions", "current", "blobs", "inlined", "unreachable")
    scans = {
        statement: step
        for statement, plan in plans.items()
        for step in plan
        if step.startswith("SCAN") and any(name in step.split() for name in large)
    }
    assert scans == {}
