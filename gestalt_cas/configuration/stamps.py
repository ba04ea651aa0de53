"""The dates of a server's answers and the random parts of its ids, which tests of other programs can fix.

`clock` and `versionIds` of the configuration make two runs of the same calls answer byte for byte alike. Only what is
answered goes by them. What processes tell each other by time (signs of life, since when a payload is unreachable, when
something ran last) keeps the machine's clock: by one that stands still, a server would take another process's pin for
dead and remove what it keeps.

In force they are in three places: the store dates its changes (`Store.stand_at`), the edges date URLs and answers
(`now`), and `version_ids` and `request_ids` make ids. Who may have them at all is the subject of `reach.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gestalt_cas.configuration.config_schema import shown
from gestalt_cas.errors import InvalidConfig

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_DAYS = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH).days
"""A year short of what dates can say, so that URLs may expire later."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """`fixed_ms` is where the clock stands, None for the machine's; `seed` None stands for random ids."""

    fixed_ms: int | None = None
    seed: int | None = None

    @property
    def chosen(self) -> tuple[str, ...]:
        """The keys that are not as they are for everybody."""
        given = {"clock": self.fixed_ms, "versionIds": self.seed}
        return tuple(key for key, value in given.items() if value is not None)

    def now(self) -> datetime:
        """The time of what is answered now, in UTC."""
        return datetime.now(UTC) if self.fixed_ms is None else _EPOCH + timedelta(milliseconds=self.fixed_ms)


SYSTEM = Stamps()
"""As the machine has them."""


def parse(clock: str, version_ids: str) -> Stamps:
    """The values of the two keys; raises InvalidConfig."""
    return Stamps(_fixed_ms(clock), _seed(version_ids))


def _fixed_ms(text: str) -> int | None:
    if text == "system":
        return None
    time = re.fullmatch(r"fixed:(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?)Z", text, re.ASCII)
    try:
        since = datetime.fromisoformat(f"{time[1]}+00:00") - _EPOCH if time else None
    except ValueError:  # a 13th month
        since = None
    if since is None or not 0 <= since.days < _MOST_DAYS:
        raise InvalidConfig(
            f'clock: {shown(text)} is not "system" or "fixed:" and a time of the years 1970 to 9998 in UTC, '
            "as in fixed:2026-01-01T00:00:00Z"
        )
    return since // timedelta(milliseconds=1)


def _seed(text: str) -> int | None:
    if text == "random":
        return None
    number = re.fullmatch(r"seeded:(\d{1,18})", text, re.ASCII)
    if number is None:
        raise InvalidConfig(
            f'versionIds: {shown(text)} is not "random" or "seeded:" and a number of up to 18 digits, as in seeded:1'
        )
    return int(number[1])
