"""What an upload, a copy or a read is about to use is never removed by gc in another process: a sample of all orders.

`make interleavings` plays every pair of stops.
"""

from __future__ import annotations

import pytest

from interleavings.broken import BROKEN
from storage import child

pytestmark = pytest.mark.timeout(900)
PATIENCE_SECONDS = 840
"""Half a minute would do alone. The processes take turns, and on a busy machine each waits for every turn."""

PLAY = """
    from interleavings.__main__ import main
    main(*arguments)
"""


def test_a_sample_of_the_orders_in_which_two_processes_can_run() -> None:
    assert child(PLAY, "sample", 500, 29, timeout=PATIENCE_SECONDS) == "500 schedules\n"


def test_faults_that_are_put_in_are_caught() -> None:
    told = child(PLAY, "broken", 29, timeout=PATIENCE_SECONDS)
    for name in BROKEN:
        assert f"{name}: caught by schedule " in told
