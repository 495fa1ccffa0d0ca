"""Fold log records into closed one-second bins of domain time.

The surprise: a record counts for a rollout by the routing table it was served under, not by the time it arrived, so
every bin knows the allocation of each count. Late records join the next open bin; an outcome joins its prediction by
id, and a row with a pair waits for both answers and the outcome, whatever their order in the log.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

from flyball.records.log import Batch
from flyball.records.repeats import Repeats
from flyball.records.types import Outcome, Prediction, Shadow
from flyball.rollout.evidence.closed import (
    CANDIDATE,
    CONTROL,
    SCORES,
    Allocation,
    Answer,
    Bin,
    Compared,
    Counts,
    Failure,
    Row,
    merge_bins,
    plus,
)
from flyball.rollout.evidence.pace import Pace
from flyball.rollout.evidence.reading import (
    answer_of,
    columns_of,
    delays_of,
    is_late,
    is_number,
    number_of,
    reads_rows,
    unit_hash,
)
from flyball.rollout.evidence.unit_store import UnitStore, UnitTable
from flyball.rollout.types import RolloutSpec
from flyball.units import micros

__all__ = [
    "CANDIDATE", "CONTROL", "SCORES", "Allocation", "Bin", "Binner", "Compared", "Counts", "Failure", "Row",
    "columns_of", "delays_of", "merge_bins", "unit_hash",
]  # fmt: skip

SECOND = 1_000_000
_KEEP_ROWS = 500_000  # rows waiting for an outcome; the oldest go first
_KEEP_EARLY = _KEEP_ROWS // 10  # outcomes waiting for their row
_VETO_LEAST, _VETO_LASTS = 5, 60 * SECOND  # vetoed requests, and the time they span, that make a veto last
_NOT_RANDOM = frozenset({"veto", "kill switch", "version"})  # assignments that nobody drew
_OTHERS = ("segment ", "variant", "header", "outside")  # how the reasons begin of rows that are not compared
_TAKEN_AWAY = frozenset({"veto", "kill switch"})  # drawn for the candidate, but served by the champion


class _Waiting(msgspec.Struct):
    """A prediction that waits for its pair, its outcome or both."""

    allocation: int
    unit: int
    arm: int
    value: Answer
    paired: bool
    at: int
    cohort: bool
    named: list[float | None]
    other: Answer | None = None
    truth: float | None = None


class Binner:
    """Sort the records of one model into bins, and close them.

    Everything is a function of the calls so far, so the same batches at the same times give the same bins.

    Args:
        spec: The rollout.
        model: Its model.
        candidate: The version that wants the champion's place.
        units: Where it keeps what it knows of units.
    """

    def __init__(self, spec: RolloutSpec, *, model: str, candidate: str, units: UnitStore | None = None) -> None:
        self._model, self._candidate = model, candidate
        rails = [*enumerate(spec.guardrails)]
        self._failing = [(i, rail.kind) for i, rail in rails if rail.kind in {"errors", "timeouts", "fallbacks"}]
        self._pace = Pace(rails)
        read = [rail for rail in (*spec.guardrails, *((spec.primary,) if spec.primary else ())) if reads_rows(rail)]
        self._joins = any(rail.metric != "prediction" and rail.kind == "metric" for rail in read)
        self._scores = any(rail.metric == "prediction" or rail.kind == "shift" for rail in read)
        self._columns, self._delays = columns_of(spec), [micros(delay) for delay in delays_of(spec)]
        self._episode = micros(spec.episode)
        self._tables: list[int] = []
        self.allocations: list[Allocation] = []
        self._open: dict[int, Bin] = {}
        self._later: dict[int, list[Row]] = {}  # by the second that makes them old enough
        self._due: dict[tuple[int, int, int], list[int]] = {}  # by second, group and allocation
        self._times: list[int] = []  # a heap of the seconds of both
        self._held = 0
        self._next = -(1 << 62)
        self._units = units or UnitStore()
        self._exposed = [self._units.table(), self._units.table()]
        self._seen: dict[int, UnitTable] = {}
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._scoring: OrderedDict[str, _Waiting] = OrderedDict()
        self._early: OrderedDict[str, float] = OrderedDict()
        self._vetoed = (0, 0, 0)  # first and last time and number of the present run of vetoed requests
        self.dropped = 0
        self._repeats = Repeats()  # a request sent twice may stand in the logs of two workers
        self._mirrored = Repeats()

    def allocate(self, allocation: Allocation) -> None:
        """Count records from `allocation.table` on under a new split."""
        self._tables.append(allocation.table)
        self.allocations.append(allocation)
        self._seen[len(self._tables) - 1] = self._units.table()

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
        self._ripen(latest)
        closed = [self._open.pop(second) for second in sorted(self._open) if second <= latest]
        if given or closed:  # a call that found nothing leaves no frame, so a replay never sees what it changed
            self._next = max(self._next, latest + 1)
            self._pace.advance()
            self._units.settle()
        return closed

    def _ripen(self, latest: int) -> None:
        """Move what is old enough now into the bin of the second that made it so."""
        while self._times and self._times[0] <= latest:
            second = heapq.heappop(self._times)
            rows = self._later.pop(second, [])
            self._held -= len(rows)
            if rows:
                self._bin(second).rows.extend(rows)
            for group in range(len(self._delays)):
                for index in range(len(self.allocations)):
                    due = self._due.pop((second, group, index), None)
                    if due is not None:
                        counts = self._counts(self._bin(second), index)
                        counts.due[group] = plus(counts.due.get(group, [0, 0]), due)

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
        rails = self._failed(p) if failed else ()
        counts = self._count(into, index, arm, unit, p.at, rails, failed=failed)
        if failed:
            return
        if self._pace.rails and (arm == CANDIDATE or p.control):
            counts.timed[arm] += 1
            for rail, slow in self._pace.judge(arm, p.total):
                if rail >= 0 and self._pace.follows(rail):
                    counts.judged.setdefault(rail, [0, 0])[arm] += 1
                if slow:
                    into.failures.append(Failure(index, rail, arm, unit, p.at))
        if self._joins or self._scores:
            self._value(p, index, arm, unit, into)

    def _failed(self, p: Prediction) -> list[int]:
        """Return the guardrails that a failed answer counts against."""
        late = p.error is not None and is_late(p.error)
        return [
            rail
            for rail, kind in self._failing
            if kind == "errors" or (kind == "timeouts" and late) or (kind == "fallbacks" and p.fallback)
        ]

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
            failed = s.error is not None
            late = failed and is_late(s.error or "")
            rails = [r for r, kind in self._failing if kind == "errors" or (kind == "timeouts" and late)]
            self._count(into, index, CANDIDATE, unit, s.at, rails if failed else (), failed=failed)
        if s.agreed is not None and self.allocations[index].kind != "off":
            into = self._bin(s.at // SECOND)
            into.compared = into.compared or Compared()
            into.compared.add(s)
        answer = answer_of(s.value) if s.error is None else None
        if s.error is None and answer is None and self.allocations[index].kind == "shadow" and (
            self._joins or self._scores
        ):  # fmt: skip
            self._unusable(self._bin(s.at // SECOND), index, CANDIDATE)
        scoring = self._scoring.pop(s.id, None)
        if scoring is not None and answer is not None:
            scoring.other = answer
            self._bin(s.at // SECOND).rows.append(_row(scoring, 0.0, SCORES))
        waiting = self._waiting.get(s.id)
        if waiting is None or not waiting.paired:
            return
        if answer is None:
            waiting.paired = False
        else:
            waiting.other = answer
        self._finish(s.id, waiting, s.at // SECOND)

    def _outcome(self, o: Outcome, latest: int) -> None:
        waiting = self._waiting.get(o.id)
        if not is_number(o.value):
            if waiting is not None:
                self._unusable(self._bin(latest), waiting.allocation, waiting.arm)
            return
        if waiting is not None:
            if waiting.truth is None:  # the first outcome counts: a verdict does not change afterwards
                waiting.truth = o.value
                self._finish(o.id, waiting, latest)
        elif self._joins and self._tables:
            self._early.setdefault(o.id, o.value)
            if len(self._early) > _KEEP_EARLY:
                self._early.popitem(last=False)

    def _count(
        self, into: Bin, index: int, arm: int, unit: int, at: int, rails: Sequence[int], *, failed: bool
    ) -> Counts:
        counts = self._counts(into, index)
        exposed = self._is_exposure(arm, unit, at)
        counts.requests[arm] += 1
        counts.exposures[arm] += exposed
        counts.fresh[arm] += self._is_fresh(index, unit)
        if failed:
            counts.errors[arm] += 1
            for rail in rails:
                into.failures.append(Failure(index, rail, arm, unit, at))
                if exposed:
                    counts.first.setdefault(rail, [0, 0])[arm] += 1
        return counts

    def _counts(self, into: Bin, index: int) -> Counts:
        counts = into.counts.get(index)
        if counts is None:
            counts = into.counts[index] = Counts([0, 0], [0, 0], [0, 0], [0, 0], [0, 0])
        return counts

    def _unusable(self, into: Bin, index: int, arm: int) -> None:
        counts = self._counts(into, index)
        counts.unusable = counts.unusable or [0, 0]
        counts.unusable[arm] += 1

    def _crowded(self, into: Bin, gone: _Waiting) -> None:
        """Count a prediction whose outcome will not be waited for any more."""
        self.dropped += 1
        counts = self._counts(into, gone.allocation)
        counts.crowded = counts.crowded or [0, 0]
        counts.crowded[gone.arm] += 1

    def _is_exposure(self, arm: int, unit: int, at: int) -> int:
        if unit == 0:
            return 1
        begun = self._exposed[arm].get(unit)
        if begun is not None and at - begun[0] < self._episode:
            return 0
        self._exposed[arm].set(unit, (at,))
        return 1

    def _is_fresh(self, index: int, unit: int) -> int:
        if unit == 0:
            return 1
        seen = self._seen[index]
        if seen.get(unit) is not None:
            return 0
        seen.set(unit, ())
        return 1

    def _value(self, p: Prediction, index: int, arm: int, unit: int, into: Bin) -> None:
        """Keep an answer until its pair and its outcome are there."""
        value = answer_of(p.value)
        if value is None:
            self._unusable(into, index, arm)
            return
        allocation = self.allocations[index]
        paired = allocation.kind == "shadow" or (allocation.pair and arm == CANDIDATE)
        named = [number_of(p.inputs.get(name)) for name in self._columns]
        if self._scores:
            scored = _Waiting(index, unit, arm, value, paired, p.at, p.control, named)
            if paired:
                _push(self._scoring, p.id, scored, _KEEP_EARLY)
            elif arm == CANDIDATE or not allocation.pair:  # beside pairs the control's own rows add nothing
                into.rows.append(_row(scored, 0.0, SCORES))
        if self._joins:
            self._awaits(index, arm, p.at)
            waiting = _Waiting(index, unit, arm, value, paired, p.at, p.control, named)
            waiting.truth = self._early.pop(p.id, None)
            gone = _push(self._waiting, p.id, waiting, _KEEP_ROWS)
            if gone is not None:
                self._crowded(into, gone)
            self._finish(p.id, waiting, p.at // SECOND)

    def _awaits(self, index: int, arm: int, at: int) -> None:
        for group, delay in enumerate(self._delays):
            second = max(-(-(at + delay) // SECOND), self._next)
            due = self._due.get((second, group, index))
            if due is None:
                due = self._due[second, group, index] = [0, 0]
                heapq.heappush(self._times, second)
            due[arm] += 1

    def _finish(self, id: str, waiting: _Waiting, second: int) -> None:
        if waiting.truth is None or (waiting.paired and waiting.other is None):
            return
        del self._waiting[id]
        for group, delay in enumerate(self._delays):
            row = _row(waiting, waiting.truth, group)
            ripe = -(-(waiting.at + delay) // SECOND) if delay else second
            if ripe <= max(second, self._next):
                self._bin(second).rows.append(row)
            elif self._held < _KEEP_ROWS:
                self._later.setdefault(ripe, []).append(row)
                self._held += 1
                heapq.heappush(self._times, ripe)
            else:
                self._crowded(self._bin(second), waiting)


def _row(w: _Waiting, truth: float, group: int) -> Row:
    mine, other = (w.value, w.other) if w.arm == CANDIDATE else (w.other, w.value)
    return Row(w.allocation, w.unit, truth, mine, other, group, w.cohort, w.named, w.arm)


def _push(queue: OrderedDict[str, _Waiting], id: str, waiting: _Waiting, most: int) -> _Waiting | None:
    """Add to a queue and return what had to go, the oldest; None while there is room."""
    queue[id] = waiting
    return queue.popitem(last=False)[1] if len(queue) > most else None
