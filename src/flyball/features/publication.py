"""When a pushed row becomes known: at its publication, planned before it is written.

A row is stamped with a moment a little ahead, by when it should be readable; readers leave out what is stamped later
than their T. The surprise: a commit that takes longer than planned does no harm where readers share a gate with the
writer. While the gate is held at a stamp P, their clock does not pass P - 1, so no T at which the row counts as known
is asked before it can be read. Without a gate (another node), an overrun is corrected in the log.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from flyball.clock import Clock
from flyball.features.ports import IngestLog
from flyball.records.types import Published
from flyball.units import to_micros

__all__ = ["Gate", "Lead", "LocalGate", "Publisher", "is_simulated"]

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


class Publisher:
    """Plan when a commit's rows are readable, hold readers to it, and correct the log where it came later.

    Args:
        log: Gets the corrections.
        clock: Domain time, not held back by the gate.
        gate: What holds the readers' clock back.
    """

    def __init__(self, log: IngestLog, clock: Clock, gate: Gate) -> None:
        self._log = log
        self._clock = clock
        self._lead = Lead(0.5 if gate.patience else 0.99)
        self.simulated = is_simulated(clock)
        self.gate = gate

    def now(self) -> int:
        """Return domain time in µs."""
        return to_micros(self._clock.now())

    @contextmanager
    def planned(self, rows: int) -> Iterator[int]:
        """Give the stamp of a commit and hold the gate at it; it is held before the plan is made, so none is late."""
        if self.simulated:
            yield self.now()
            return
        self.gate.hold(self.now())
        try:
            stamp = self.now() + self._lead.of(rows)
            self.gate.hold(stamp)
            began = time.monotonic_ns()
            yield stamp
            self._lead.saw(rows, (time.monotonic_ns() - began) // 1000)
        finally:
            self.gate.release()

    def correct(self, spans: Iterable[tuple[str, int, int]], stamp: int) -> int:
        """Record a publication that came later than any reader waited for; return when rows became readable.

        Args:
            spans: (source, first, last) sequences of the rows that were stamped.
            stamp: What they were stamped with.
        """
        now = self.now()
        if self.simulated or now <= stamp + self.gate.patience:
            return stamp
        self._log.publish([Published(*span, now) for span in spans])
        return now

    def publish_unapplied(self, applied: Mapping[str, int | None]) -> None:
        """Say of logged rows that no view has yet that they are published now.

        A view without a checkpoint is new: that it is filled later changes nothing about when its rows were known.

        Args:
            applied: By source, the highest sequence that any view of it has; None when all its views are new.
        """
        last = self._log.last()
        marks = []
        for source, top in applied.items():
            rows = 0
            if top is not None and top < last:
                rows = sum(table.num_rows for table in self._log.read_batches(source, after=top))
            if rows and top is not None:
                at = self.now() + (0 if self.simulated else self._lead.of(rows))
                marks.append(Published(source, top + 1, last, at))
        if marks and not self.simulated:
            self.gate.hold(min(mark.at for mark in marks))
        self._log.publish(marks)

    def wait(self, at: int) -> None:
        """Return when domain time has come to `at`; at once where time is simulated."""
        while not self.simulated and (left := at - self.now()) > 0:
            time.sleep(left / 1e6)


def is_simulated(clock: Clock) -> bool:
    """Whether domain time stands still between steps, so that nothing happens between a stamp and its publication."""
    return bool(getattr(clock, "simulated", False))
