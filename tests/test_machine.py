"""The real store, files included, against the oracle: any sequence of calls, reopening and a second opener between.

`quick` takes half a minute, HYPOTHESIS_PROFILE=thorough a good part of an hour.
"""

from __future__ import annotations

import os

from hypothesis import settings

from past_machine import PastMachine

TestStore = PastMachine.TestCase
if os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
    TestStore.settings = settings(max_examples=1000, stateful_step_count=80)
else:
    TestStore.settings = settings(max_examples=50, stateful_step_count=25)
