"""When a pushed row becomes known: at its publication, planned before it is written.

A row is stamped with a moment a little ahead, by when it should be readable; readers leave out what is stamped later
than their T. The surprise: a commit that takes longer than planned does no harm where readers share a gate with the
writer. While the gate is held at a stamp P, their clock does not pass P - 1, so no T at which the row counts as known
is asked before it can be read. Without a gate (another node), an overrun is corrected in the log.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from flyball.clock import Clock

__all__ = ["Gate", "Lead", "LocalGate", "is_simulated"]

_KEPT = 64  # commits remembered per size
_LONGEST = 250_000  # µs


class Gate(Protocol):
    """Hold the readers' clock back while rows are being published."""

    @property
    def patience(self) -> int:
        """µs past the stamp after which readers no longer wait; 0 when not all readers look at the gate."""
        ...

    def hold(self, at: int) -> None:
        """From now on, no reader's T may reach `at`."""
        ...

    def release(self) -> None:
        """Let the readers' clock run."""
        ...


class LocalGate:
    """A gate for the threads of one process; ask `limit` for T with the present time."""

    patience = 1 << 62

    def __init__(self) -> None:
        self._at = 0

    def hold(self, at: int) -> None:
        """From now on, `limit` stays below `at`."""
        self._at = at

    def release(self) -> None:
        """Let `limit` return what it is given."""
        self._at = 0

    def limit(self, now: int) -> int:
        """Return the T to read at, given the time that was read before this call."""
        at = self._at
        return now if not at or now < at else at - 1


class Lead:
    """How far ahead a commit of some rows is stamped: a high quantile of recent ones, by size.

    Args:
        share: The quantile, in (0, 1).
    """

    def __init__(self, share: float = 0.99) -> None:
        self._share = share
        self._spent: dict[int, deque[int]] = {}

    def of(self, rows: int) -> int:
        """Return µs for a commit of so many rows, at most 250,000."""
        size = rows.bit_length()
        near = next((self._spent[s] for s in (size, size + 1, size - 1) if s in self._spent), None)
        if near is None:
            return min(_LONGEST, 3_000 + 20 * rows)
        ordered = sorted(near)
        return min(_LONGEST, ordered[int(self._share * (len(ordered) - 1))] + 200)

    def saw(self, rows: int, micros: int) -> None:
        """Remember how long a commit took."""
        self._spent.setdefault(rows.bit_length(), deque(maxlen=_KEPT)).append(micros)


def is_simulated(clock: Clock) -> bool:
    """Whether domain time stands still between steps, so that nothing happens between a stamp and its publication."""
    return bool(getattr(clock, "simulated", False))
