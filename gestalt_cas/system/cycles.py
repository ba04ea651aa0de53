"""When Python looks for garbage in cycles: not while a process imports, and not once more when it ends.

Importing what a server needs makes 200,000 objects, of which none is garbage, and the interpreter would look through
them again and again on the way, and three times at its end: a fifth of the processor time of a short command.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_YOUNG_OBJECTS = 10_000
"""So many more are made than freed before a collection of the young ones; Python's own number is 700."""


def begin() -> None:
    """For the start of a process, and for one that runs a single command."""
    gc.set_threshold(_YOUNG_OBJECTS, *_USUAL[1:])


def settle() -> None:
    """For a process that goes on: collect as usual from now on, but never again what lives already."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


def end() -> None:
    """For a process that ends and frees all of its memory by that."""
    gc.freeze()
