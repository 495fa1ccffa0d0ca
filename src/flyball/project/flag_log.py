"""The exposures that `fb.flag` makes in a process of the user's own, written beside the workers' segments.

The surprise: a record that cannot be written does not fail the flag. The answer is right without it; the process says
so once in its log, and the experiment shows fewer exposures.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from flyball.errors import FlyballError
from flyball.records.segment import SegmentWriter
from flyball.records.types import encode
from flyball.serving.routing.exposures import Exposures

if TYPE_CHECKING:
    from flyball.layout import Layout
    from flyball.rollout.routing import RoutingTable
    from flyball.serving.log.personal import PersonalKeys
    from flyball.serving.routing.flags import Decided

__all__ = ["FlagLog"]

log = logging.getLogger("flyball.flags")
_ROTATE = 3600.0  # seconds after which a segment may be shipped


class FlagLog:
    """Write one process's exposures; each append survives the end of the process."""

    def __init__(self, layout: Layout) -> None:
        self.pid = os.getpid()
        self._layout = layout
        self._exposures = Exposures(self._hashed)
        self._segments: SegmentWriter | None = None
        self._keys: PersonalKeys | None = None
        self._warned = False

    def expose(self, table: RoutingTable, flag: str, unit: str, decided: Decided) -> None:
        """Write that a unit was exposed, unless that was written a while ago."""
        try:
            records = self._exposures.of(table, unit, [(flag, decided)], _domain_time(self._layout))
            if records:
                self._writer.append(encode([*records]))
        except (OSError, FlyballError) as error:
            self._exposures.forget(unit)
            self._warn(error)

    @property
    def _writer(self) -> SegmentWriter:
        if self._segments is None:
            self._segments = SegmentWriter(self._layout.log / f"f{self.pid}", rotate_after=_ROTATE)
        return self._segments

    def _hashed(self, unit: str) -> str:
        from flyball.serving.log.personal import PersonalKeys

        if self._keys is None:
            self._keys = PersonalKeys.load(self._layout.personal_key)
        return self._keys.hashed(unit)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning("exposures to a flag's experiment cannot be logged: %s", error)


def _domain_time(layout: Layout) -> int:
    """Return domain time in µs: the node's where it simulates it, else the machine's."""
    from flyball.serving.shared.mapclock import MapClock
    from flyball.serving.shared.slots import SharedMap

    if not layout.map.exists():
        return time.time_ns() // 1000
    shared = SharedMap.open(layout.map)
    try:
        return MapClock(shared, gated=False).micros()
    finally:
        shared.close()
