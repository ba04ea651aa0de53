"""Counting calls: nothing is lost or counted twice, however many add and read at once."""

from __future__ import annotations

import threading

from gestalt_cas.figures import SECONDS, Histogram, Tally


def test_a_histogram_counts_a_bound_with_what_is_below_it() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.5, 100):
        histogram.add(value)
    found = histogram.read()
    assert (found.bounds, found.counts, found.total) == ((1, 2, 4), (2, 2, 1, 2), 113)


def test_calls_are_counted_once_beside_readers() -> None:
    tally, each, threads = Tally(), 3_000, 4
    seen = []

    def add(code: str) -> None:
        for _ in range(each):
            tally.add(code, 0.002, 3, 5)

    adders = [threading.Thread(target=add, args=(code,)) for code in ("OK", "OK", "OK", "NOT_FOUND")]
    for thread in adders:
        thread.start()
    while any(thread.is_alive() for thread in adders):
        seen.append(sum(tally.seconds.counts))
    assert seen == sorted(seen)
    assert tally.codes == {"OK": 3 * each, "NOT_FOUND": each}
    assert (tally.received, tally.sent) == (3 * each * threads, 5 * each * threads)
    assert tally.seconds.counts[SECONDS.index(0.0025)] == each * threads
