"""Domain time as the shared map tells it, and the gate that holds readers back while rows are published."""

from __future__ import annotations

import time
from datetime import datetime

from flyball.serving.shared.slots import H_GATE, H_TIME, SharedMap
from flyball.units import from_micros

__all__ = ["MapClock", "MapGate"]

_PATIENCE = 1_000_000  # µs that readers wait for rows past their planned publication


class MapGate:
    """Hold back the clocks of the node's readers while ingest publishes rows; see `features/publication.py`.

    After a crash the gate would stay held, so clocks wait for it one second at most.
    """

    patience = _PATIENCE

    def __init__(self, shared: SharedMap) -> None:
        """Write to `shared`; ingest is the only one who does."""
        self._words = shared.words

    def hold(self, at: int) -> None:
        """From now on, no gated clock reaches `at`."""
        self._words[H_GATE] = at

    def release(self) -> None:
        """Let the clocks run."""
        self._words[H_GATE] = 0


class MapClock:
    """Tell the map's domain time, or the machine's when the map has none.

    Args:
        shared: The map.
        gated: Whether to wait for rows that are being published, as readers must; the publisher itself does not.
    """

    def __init__(self, shared: SharedMap, *, gated: bool = True) -> None:
        """Read from `shared`."""
        self._words = shared.words
        self._gated = gated

    @property
    def simulated(self) -> bool:
        """Whether domain time only moves when told."""
        return bool(self._words[H_TIME])

    def now(self) -> datetime:
        """Return domain time."""
        return from_micros(self.micros())

    def micros(self) -> int:
        """Return domain time in µs."""
        at = int(self._words[H_TIME])
        if at:
            return at
        now = time.time_ns() // 1000  # before the gate is looked at: what it then says is no older
        gate = self._words[H_GATE]
        return now if not gate or now < gate or not self._gated or now - gate > _PATIENCE else gate - 1

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()
