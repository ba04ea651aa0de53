"""Mutants that no test can tell from the original, each with the reason. A survivor that is not here needs a test."""

from __future__ import annotations

_ONE = "the list has one element, so its first is its last"
_STRETCH = "how many rows are walked at a time shows in nothing but time"
_ORDER = "rows come in the order of the primary key anyway; of any other one only the length of a stretch would depend"
_EMPTY = "every key is greater than that of _BEGINNING, which is empty, so its sequence decides nothing"
_BELOW_ALL = "sequences begin at 1, so any number below it comes before all of them"
_GREAT = "no key is as great as that of _END, so its sequence decides nothing"

EQUIVALENT: dict[str, dict[str, str]] = {
    "conditions": {
        "parse_tags: 0 -> -1": "a position before the beginning is the beginning to a pattern's `match`",
    },
    "versions": {
        "append: 1 -> 2": "the first of the ids made is the same, the other one is not used",
        "_NEXT: < -> <=": "the version itself has been removed by then",
        "_point_past: 0 -> -1": _ONE,
        "_point_past: 0 -> -1 #2": _ONE,
        "_point_past: 0 -> -1 #3": _ONE,
        "_point_past: 0 -> -1 #4": _ONE,
        "current: 0 -> -1": _ONE,
        "current_of: 0 -> -1": _ONE,
        "current_of: 0 -> -1 #2": _ONE,
        "newest: 0 -> -1": _ONE,
        "by_id: 0 -> -1": _ONE,
        "by_id: 0 -> -1 #2": _ONE,
        "pointer: 0 -> -1": _ONE,
        "pointer: 0 -> -1 #2": _ONE,
        "pointer: 0 -> -1 #3": _ONE,
        "pointer: 0 -> -1 #4": _ONE,
        "draw: 0 -> -1": _ONE,
        "append: 0 -> -1": _ONE,
        "step: 0 -> -1 #2": "a row has one column, so its first is its last",
        "everything: 1 -> 2": "to SQLite any negative number is no limit",
    },
    "version_walks": {
        "STRETCH: 4096 -> 4097": _STRETCH,
        "STRETCH: 4096 -> 4095": _STRETCH,
        "NEWEST: 63 -> 62": "sequences are below 2**48, since version ids hold them in six bytes",
        "NEWEST: 1 -> 2 #2": "sequences are below 2**48, since version ids hold them in six bytes",
        "_NEWER: ORDER BY seq -> nothing": "whether there is one does not depend on which comes first",
        "_NEWER: LIMIT 1 -> nothing": "whether there is one does not depend on how many there are",
        "Walk.__init__: b'' -> b'mutant'": "the place of a walk that has not begun has no key: as its `before` is 0, "
        "the first step begins at the lower end, and puts another place there or ends the walk",
        "Place: 0 -> -1": "both are below every sequence that a page can have ended at",
        "Place: 0 -> 1": "both are below every sequence that a page can have ended at",
        "Walk._across: 0 -> -1": _ONE,
        "Walk._across: 0 -> -1 #2": _ONE,
        "Walk._within: 0 -> -1": _ONE,
        "Walk._within: 0 -> -1 #2": _ONE,
    },
    "buckets": {
        "STRETCH: 4096 -> 4097": _STRETCH,
        "STRETCH: 4096 -> 4095": _STRETCH,
        "_STRETCH_END: ORDER BY key, seq -> nothing": _ORDER,
        "_CAME_SINCE: > -> >=": "the version of the last sequence before the walk was there all the time: when it "
        "stands, the walk has met it, and was over then",
        "module: 0 -> 1": _EMPTY,
        "module: 0 -> -1": _EMPTY,
        "module: 0 -> 1 #2": _GREAT,
        "module: 0 -> -1 #2": _GREAT,
        "totals: 1 -> 2": _BELOW_ALL,
        "totals: 1 -> 0": _BELOW_ALL,
        "_Census.__init__: 0 -> 1": "it is set when the walk of a bucket begins, before it is used",
        "_Census.__init__: 0 -> -1": "it is set when the walk of a bucket begins, before it is used",
        "_Census.go_on: time.monotonic() > deadline -> time.monotonic() >= deadline": _STRETCH,
        "_Census._look: 0 -> -1": _ONE,
        "ever: 0 -> -1": _ONE,
        "ever: 0 -> -1 #2": _ONE,
        "ever: 0 -> -1 #3": _ONE,
        "ever: 0 -> -1 #4": _ONE,
        "totals: 0 -> -1": _ONE,
    },
}
"""By module: the mutant's name, and why it does the same."""
