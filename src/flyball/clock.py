"""Two kinds of time: domain time (events, windows, bake) and monotonic time (deadlines, leases).

The surprise: domain time may be simulated (a demo steps it), monotonic time never is.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from flyball.errors import InputError

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Tell both times."""

    def now(self) -> datetime:
        """Return domain time: aware, UTC, microseconds."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean something."""
        ...


class SystemClock:
    """Tell the machine's time."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()


class ManualClock:
    """Tell a domain time that only moves when told; for tests and simulations."""

    simulated = True

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """Return the time last set."""
        return self._now

    def monotonic(self) -> float:
        """Return the domain time in seconds, so that tests of deadlines need no waiting."""
        return self._now.timestamp()

    def advance(self, by: timedelta) -> None:
        """Move forward by a span."""
        self.set(self._now + by)

    def set(self, to: datetime) -> None:
        """Move to a time not before the present one."""
        if to < self._now:
            raise InputError(f"the clock stands at {self._now} and may not go back to {to}; start a new one instead")
        self._now = to.astimezone(UTC)
