"""What an upload, a copy or a read is about to use is never removed by gc in another process: a sample of all orders.

`make interleavings` plays every pair of stops.
"""

from __future__ import annotations

from interleavings.broken import BROKEN
from storage import child

PLAY = """
    from interleavings.__main__ import main
    main(*arguments)
"""


def test_a_sample_of_the_orders_in_which_two_processes_can_run() -> None:
    assert child(PLAY, "sample", 500, 29) == "500 schedules\n"


def test_faults_that_are_put_in_are_caught() -> None:
    told = child(PLAY, "broken", 29)
    for name in BROKEN:
        assert f"{name}: caught by schedule " in told
