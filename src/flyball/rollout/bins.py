"""Fold log records into closed one-second bins of domain time.

The surprise: a record counts for a rollout by the routing table it was served under, not by the time it arrived, so
every bin knows the allocation of each count. Late records join the next open bin; an outcome joins its prediction by
id, and a row with a pair waits for both answers and the outcome, whatever their order in the log.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable

import msgspec
import xxhash

from flyball.records.log import Batch
from flyball.records.repeats import Repeats
from flyball.records.types import Outcome, Prediction, Shadow
from flyball.rollout.types import RolloutSpec
from flyball.units import micros

__all__ = ["CANDIDATE", "CONTROL", "Allocation", "Bin", "Binner", "Counts", "Failure", "Row", "unit_hash"]

CANDIDATE, CONTROL = 0, 1
SECOND = 1_000_000
_KEEP_ROWS = 500_000  # rows waiting for an outcome; the oldest go first
_KEEP_EARLY = _KEEP_ROWS // 10  # outcomes waiting for their row
_KEEP_EXPOSED = 100_000  # units; beyond it those whose episode is over are forgotten
_VETO_LEAST, _VETO_LASTS = 5, 60 * SECOND  # vetoed requests, and the time they span, that make a veto last
_NOT_RANDOM = frozenset({"veto", "kill switch", "version"})  # assignments that nobody drew
_OTHERS = ("segment ", "variant", "header")  # how the reasons begin of assignments that this comparison has no part in
_TAKEN_AWAY = frozenset({"veto", "kill switch"})  # drawn for the candidate, but served by the champion


class Allocation(msgspec.Struct, frozen=True, array_like=True):
    """How traffic is split from routing table `table` on, until the next allocation."""

    table: int
    kind: str  # "shadow", "step" or "off"
    share: float = 0.0  # of the candidate; in a shadow phase the mirrored share
    pair: bool = False
    drawn: float = 0.0  # candidate's share of the units compared, where a split or a holdout makes it another; else 0

    @property
    def odds(self) -> float:
        """Candidate answers per control answer, by design; inf when there is no control."""
        if self.kind == "shadow":
            return self.share
        share = self.drawn or self.share
        return share / (1.0 - share) if share < 1.0 else float("inf")


class Counts(msgspec.Struct, array_like=True):
    """Counts of one allocation within one bin, per arm as (candidate, control); cohort is the control cohort."""

    requests: list[int]
    errors: list[int]
    exposures: list[int]  # a unit counts once per episode
    fresh: list[int]  # units not seen before in this allocation
    timed: list[int]  # answers whose latency counts: (candidate, cohort)


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A failing or slow row of a unit (hash 0: the request is the unit) at time `at`; `rail` indexes the guardrails."""

    allocation: int
    rail: int
    arm: int
    unit: int
    at: int


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An outcome with the answers it judges; None where an arm gave none."""

    allocation: int
    unit: int
    truth: float
    candidate: float | None
    control: float | None


class Compared(msgspec.Struct, array_like=True):
    """Rows that both arms answered: how many agreed, and what mean and deviation of their shift follow from.

    The shift is the candidate's score less the champion's; `micros` is what the discarded answers took in all.
    """

    rows: int = 0
    agreed: int = 0
    shifts: int = 0
    total: float = 0.0
    squares: float = 0.0
    micros: int = 0

    def add(self, s: Shadow) -> None:
        """Take one discarded answer."""
        self.rows += 1
        self.agreed += bool(s.agreed)
        self.micros += s.total
        if s.shift is not None:
            self.shifts += 1
            self.total += s.shift
            self.squares += s.shift * s.shift

    def merge(self, other: Compared) -> None:
        """Take all of another's rows."""
        self.rows += other.rows
        self.agreed += other.agreed
        self.shifts += other.shifts
        self.total += other.total
        self.squares += other.squares
        self.micros += other.micros


class Bin(msgspec.Struct, array_like=True):
    """One closed second of evidence, in the order it was folded."""

    second: int
    counts: dict[int, Counts]
    failures: list[Failure]
    rows: list[Row]
    newest: int = 0
    veto: str = ""
    compared: Compared | None = None


class _Waiting(msgspec.Struct):
    """A prediction that waits for its pair, its outcome or both."""

    allocation: int
    unit: int
    arm: int
    value: float
    paired: bool
    other: float | None = None
    truth: float | None = None


class Binner:
    """Sort the records of one model into bins, and close them.

    Everything is a function of the calls so far, so the same batches at the same times give the same bins.
    """

    def __init__(self, spec: RolloutSpec, *, model: str, candidate: str) -> None:
        self._model, self._candidate = model, candidate
        self._error_rails = [i for i, rail in enumerate(spec.guardrails) if rail.kind == "errors"]
        self._slow_rails = [
            (i, round((rail.limit or 0.0) * SECOND)) for i, rail in enumerate(spec.guardrails) if rail.kind == "latency"
        ]
        self._joins = any(rail.kind == "metric" for rail in spec.guardrails)
        self._episode = micros(spec.episode)
        self._tables: list[int] = []
        self.allocations: list[Allocation] = []
        self._open: dict[int, Bin] = {}
        self._next = -(1 << 62)
        self._exposed: dict[tuple[int, int], int] = {}
        self._seen: dict[int, set[int]] = {}
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._early: OrderedDict[str, float] = OrderedDict()
        self._vetoed = (0, 0, 0)  # first and last time and number of the present run of vetoed requests
        self.dropped = 0
        self._repeats = Repeats()  # a request sent twice may stand in the logs of two workers
        self._mirrored = Repeats()

    def allocate(self, allocation: Allocation) -> None:
        """Count records from `allocation.table` on under a new split."""
        self._tables.append(allocation.table)
        self.allocations.append(allocation)

    def fold(self, batches: Iterable[Batch], now: int) -> list[Bin]:
        """Add records and return the bins that `now` (µs) closes, oldest first."""
        latest = now // SECOND - 1  # the newest second that this call closes
        given = False
        for batch in batches:
            given = True
            for record in batch.records:
                match record:
                    case Prediction():
                        self._prediction(record)
                    case Shadow():
                        self._shadow(record)
                    case Outcome():
                        self._outcome(record, latest)
                    case _:
                        pass
        closed = [self._open.pop(second) for second in sorted(self._open) if second <= latest]
        if given or closed:  # a call that found nothing leaves no frame, so a replay never sees what it changed
            self._advance(latest)
        return closed

    def _advance(self, latest: int) -> None:
        self._next = max(self._next, latest + 1)
        horizon = latest * SECOND - self._episode
        if len(self._exposed) > _KEEP_EXPOSED:
            self._exposed = {key: at for key, at in self._exposed.items() if at > horizon}

    def _bin(self, second: int) -> Bin:
        second = max(second, self._next)
        found = self._open.get(second)
        if found is None:
            found = self._open[second] = Bin(second, {}, [], [])
        return found

    def _allocation(self, table: int) -> int:
        return bisect_right(self._tables, table) - 1

    def _prediction(self, p: Prediction) -> None:
        index = self._allocation(p.table) if p.model == self._model else -1
        if index < 0 or self.allocations[index].kind == "off" or self._again(p):
            return
        into = self._bin(p.at // SECOND)
        into.newest = max(into.newest, p.at)
        unit = 0 if p.unit == p.id or not p.unit else unit_hash(p.unit)
        if p.why.startswith(_OTHERS):
            return
        if p.why in _NOT_RANDOM:
            if p.why in _TAKEN_AWAY:  # the draw was fair: these units are not missing from the split
                self._counts(into, index).fresh[CANDIDATE] += self._is_fresh(index, unit)
            if p.why == "veto" and self._stands(p.at):
                into.veto = (
                    f"workers kept the candidate out of traffic for a minute or more (last at prediction {p.id})"
                )
            return
        arm = CANDIDATE if p.arm == "candidate" else CONTROL
        failed = p.error is not None or p.fallback
        self._count(into, index, arm, unit, p.at, failed=failed)
        if self._slow_rails and not failed and (arm == CANDIDATE or p.control):
            self._latency(into, index, arm, unit, p)
        if self._joins and not failed and _number(p.value):
            self._wait(p, index, arm, unit)

    def _again(self, p: Prediction) -> bool:
        """Tell whether a request that two workers answered was counted before; a failed try counts by itself."""
        return self._repeats.again(p.id if p.error is None else f"{p.id}!")

    def _stands(self, at: int) -> bool:
        """Tell whether a veto lasts: one that ends when a killed host is back is no verdict on the candidate."""
        first, last, n = self._vetoed
        self._vetoed = (at, at, 1) if n == 0 or at - last > self._episode else (first, max(last, at), n + 1)
        first, last, n = self._vetoed
        return n >= _VETO_LEAST and last - first >= _VETO_LASTS

    def _shadow(self, s: Shadow) -> None:
        index = self._allocation(s.table) if s.model == self._model else -1
        if index < 0 or (s.version == self._candidate and self._mirrored.again(s.id)):
            return
        if self.allocations[index].kind == "shadow" and s.version == self._candidate:
            into = self._bin(s.at // SECOND)
            unit = 0 if s.unit == s.id or not s.unit else unit_hash(s.unit)
            self._count(into, index, CANDIDATE, unit, s.at, failed=s.error is not None)
        if s.agreed is not None and self.allocations[index].kind != "off":
            into = self._bin(s.at // SECOND)
            into.compared = into.compared or Compared()
            into.compared.add(s)
        waiting = self._waiting.get(s.id)
        if waiting is None or not waiting.paired:
            return
        if s.error is not None or not _number(s.value):
            waiting.paired = False
        else:
            waiting.other = float(s.value)  # type: ignore[arg-type]  # _number checked it
        self._finish(s.id, waiting, s.at // SECOND)

    def _outcome(self, o: Outcome, latest: int) -> None:
        if not _number(o.value):
            return
        waiting = self._waiting.get(o.id)
        if waiting is not None:
            if waiting.truth is None:  # the first outcome counts: a verdict does not change afterwards
                waiting.truth = o.value
                self._finish(o.id, waiting, latest)
        elif self._joins and self._tables:
            self._early.setdefault(o.id, o.value)
            if len(self._early) > _KEEP_EARLY:
                self._early.popitem(last=False)

    def _count(self, into: Bin, index: int, arm: int, unit: int, at: int, *, failed: bool) -> None:
        counts = self._counts(into, index)
        counts.requests[arm] += 1
        counts.exposures[arm] += self._is_exposure(arm, unit, at)
        counts.fresh[arm] += self._is_fresh(index, unit)
        if failed:
            counts.errors[arm] += 1
            into.failures += [Failure(index, rail, arm, unit, at) for rail in self._error_rails]

    def _counts(self, into: Bin, index: int) -> Counts:
        counts = into.counts.get(index)
        if counts is None:
            counts = into.counts[index] = Counts([0, 0], [0, 0], [0, 0], [0, 0], [0, 0])
        return counts

    def _latency(self, into: Bin, index: int, arm: int, unit: int, p: Prediction) -> None:
        into.counts[index].timed[arm] += 1
        into.failures += [Failure(index, rail, arm, unit, p.at) for rail, limit in self._slow_rails if p.total > limit]

    def _is_exposure(self, arm: int, unit: int, at: int) -> int:
        if unit == 0:
            return 1
        begun = self._exposed.get((arm, unit))
        if begun is not None and at - begun < self._episode:
            return 0
        self._exposed[arm, unit] = at
        return 1

    def _is_fresh(self, index: int, unit: int) -> int:
        if unit == 0:
            return 1
        seen = self._seen.setdefault(index, set())
        before = len(seen)
        seen.add(unit)
        return len(seen) - before

    def _wait(self, p: Prediction, index: int, arm: int, unit: int) -> None:
        allocation = self.allocations[index]
        paired = allocation.kind == "shadow" or (allocation.pair and arm == CANDIDATE)
        value = float(p.value)  # type: ignore[arg-type]  # _number checked it
        waiting = _Waiting(index, unit, arm, value, paired, truth=self._early.pop(p.id, None))
        self._waiting[p.id] = waiting
        if len(self._waiting) > _KEEP_ROWS:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._finish(p.id, waiting, p.at // SECOND)

    def _finish(self, id: str, row: _Waiting, second: int) -> None:
        if row.truth is None or (row.paired and row.other is None):
            return
        del self._waiting[id]
        mine, other = (row.value, row.other) if row.arm == CANDIDATE else (row.other, row.value)
        self._bin(second).rows.append(Row(row.allocation, row.unit, row.truth, mine, other))


def unit_hash(unit: str) -> int:
    """Return a unit's 63-bit hash; never 0, which means that the request is its own unit."""
    return (xxhash.xxh3_64_intdigest(unit.encode()) >> 1) or 1


def _number(value: object) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)
