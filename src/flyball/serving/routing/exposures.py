"""Which units a running experiment has exposed through flags, so that each is logged, and not with every question.

The surprise: forgetting is harmless. The first exposure of a unit is the one that counts, and who analyses takes the
earliest; what is remembered here only keeps a page that asks a flag a hundred times from writing a hundred records.
A unit that is personal stands here as its keyed hash, whatever kind of protection is declared: units must be told
apart, and nobody needs them back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from flyball.records.types import Exposure
from flyball.rollout.routing import RoutingTable
from flyball.serving.routing.flags import Decided

__all__ = ["Exposures", "is_personal"]

_AGAIN = 600.0  # seconds after which a unit's exposure is logged again
_MOST = 100_000  # units that are remembered


class Exposures:
    """Make the exposure records of one process.

    Args:
        hashed: Returns what stands for a personal unit.
        again: Seconds for which a unit is not logged a second time.
        most: Units that are remembered; beyond, the oldest are forgotten.
        monotonic: Where seconds come from.
    """

    def __init__(
        self,
        hashed: Callable[[str], str],
        *,
        again: float = _AGAIN,
        most: int = _MOST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hashed = hashed
        self._again, self._most, self._monotonic = again, most, monotonic
        self._seen: dict[tuple[str, str, str], float] = {}

    def of(self, table: RoutingTable, unit: str, decided: Iterable[tuple[str, Decided]], at: int) -> list[Exposure]:
        """Return what is to be logged of flags that were decided for a unit.

        Args:
            table: The table that decided.
            unit: Whose flags.
            decided: (flag, what it is) pairs.
            at: Domain time in µs.
        """
        return [
            self._record(table, unit, flag, found, at)
            for flag, found in decided
            if found.experiment and self._is_new(found, unit)
        ]

    def forget(self, unit: str) -> None:
        """Have a unit logged again: its record could not be written."""
        for key in [key for key in self._seen if key[1] == unit]:
            del self._seen[key]

    def _is_new(self, found: Decided, unit: str) -> bool:
        key, now = (found.experiment, unit, found.variant), self._monotonic()
        seen = self._seen.pop(key, None)
        if seen is not None and now - seen < self._again:
            self._seen[key] = seen
            return False
        self._seen[key] = now
        if len(self._seen) > self._most:
            del self._seen[next(iter(self._seen))]
        return True

    def _record(self, table: RoutingTable, unit: str, flag: str, found: Decided, at: int) -> Exposure:
        personal = is_personal(table, flag)
        kept = self._hashed(unit) if personal else unit
        name, protected = f"{found.experiment}:{kept}:{found.variant}", "unit" if personal else ""
        return Exposure(name, found.experiment, kept, found.variant, at, table.version, "flag", protected)


def is_personal(table: RoutingTable, flag: str) -> bool:
    """Return whether a flag's units are personal: the flag says so, or a model of the project keeps its own so."""
    declared = flag in table.flags and table.flags[flag].personal is not None
    return declared or any("unit" in route.serving.personal for route in table.models.values())
