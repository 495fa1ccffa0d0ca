"""Local times and UTC, for whole columns at once.

A local hour that does not exist moves forward, one that exists twice is its first. The surprise: both rules are one:
read with the offset that was in force before the change.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from flyball.errors import DefinitionError
from flyball.features.kernel.partials import Ints

__all__ = ["Local", "Zone", "zone"]

_SECOND = 1_000_000
_WEEK = 7 * 86_400
_FIRST, _LAST = -2_208_988_800, 4_102_444_800  # 1900 to 2100; beyond, the nearest known offset holds


@dataclass(frozen=True, slots=True)
class Local:
    """Local times turned into UTC: `utc` in µs, and how many fell into a missing or a doubled hour."""

    utc: Ints
    missing: int
    doubled: int


class Zone:
    """A time zone as two arrays: when its offset changes, and the offsets between, in microseconds."""

    def __init__(self, name: str) -> None:
        changes, offsets = _changes(name)
        self.name = name
        self.offsets = np.array(offsets, dtype=np.int64) * _SECOND
        self.changes = np.array(changes, dtype=np.int64) * _SECOND
        before, after = self.offsets[:-1], self.offsets[1:]
        self.local_changes = self.changes + np.maximum(before, after)
        """Local µs at which the next offset begins to be read."""
        self._seam = np.stack([self.changes + np.minimum(before, after), self.local_changes])
        self._forward = after > before
        self._changes_list: list[int] = self.changes.tolist()
        self._offsets_list: list[int] = self.offsets.tolist()

    def to_utc(self, local: Ints) -> Local:
        """Read local microseconds."""
        place = np.searchsorted(self.local_changes, local, "right")
        utc = local - self.offsets[place]
        if not len(self.changes):
            return Local(utc, 0, 0)
        nearest = np.minimum(place, len(self.changes) - 1)
        inside = (local >= self._seam[0][nearest]) & (local < self._seam[1][nearest])
        forward = self._forward[nearest]
        return Local(utc, int((inside & forward).sum()), int((inside & ~forward).sum()))

    def to_local(self, utc: Ints) -> Ints:
        """Return the local microseconds of UTC microseconds."""
        local: Ints = utc + self.offsets[np.searchsorted(self.changes, utc, "right")]
        return local

    def one_to_local(self, utc: int) -> int:
        """Do the same for one time, in about a microsecond."""
        return utc + self._offsets_list[bisect_right(self._changes_list, utc)]


@lru_cache(maxsize=64)
def zone(name: str) -> Zone:
    """Return a zone by its IANA name.

    Raises:
        DefinitionError: nobody knows the name.
    """
    return Zone(name)


def _changes(name: str) -> tuple[list[int], list[int]]:
    try:
        info = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DefinitionError(f"{name!r} is no time zone; use a name such as UTC or America/New_York") from error

    def offset(at: int) -> int:
        return int(
            (datetime.fromtimestamp(at, UTC).astimezone(info).utcoffset() or UTC.utcoffset(None)).total_seconds()
        )

    changes: list[int] = []
    offsets = [offset(_FIRST)]
    for week in range(_FIRST, _LAST, _WEEK):
        if offset(week + _WEEK) != offsets[-1]:
            low, high = week, week + _WEEK
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            changes.append(high)
            offsets.append(offset(high))
    return changes, offsets
